//! Acknowledged commits, by place, where offsets only grow: what was said to be kept is found again by whoever asks later. How commits and fetches
//! order among each other in every detail is `linear`'s to judge; this sees the loss itself, at the end of a run too.

use crate::{Verdict, broken};
use std::collections::BTreeMap;

/// What was sent and what was acknowledged. A place is a partition of a group, as text.
#[derive(Clone, Debug, Default)]
pub struct Commits { sent: BTreeMap<String, i64>, acked: BTreeMap<String, i64> }

/// What was acknowledged when a question was asked.
pub struct Asked(Option<i64>);

impl Commits {
    /// A new offset to be committed.
    pub fn next_offset(&mut self, place: &str) -> i64 {
        let n = self.sent.entry(place.into()).or_default();
        *n += 1;
        *n
    }
    /// A commit was acknowledged.
    pub fn acked(&mut self, place: &str, offset: i64) {
        let a = self.acked.entry(place.into()).or_insert(offset);
        *a = (*a).max(offset);
    }
    /// A question is about to be asked.
    pub fn ask(&self, place: &str) -> Asked { Asked(self.acked.get(place).copied()) }
    /// An answer is not older than what was acknowledged before its question, and was sent by somebody.
    pub fn fetched(&self, place: &str, asked: &Asked, found: Option<i64>) -> Verdict {
        if found < asked.0 {
            return broken("durable", format!("{place}: {:?} was acknowledged before the fetch, which found {found:?}", asked.0));
        }
        if found > self.sent.get(place).copied() {
            return broken("durable", format!("{place}: the fetch found {found:?}, which nobody committed"));
        }
        Ok(())
    }
    /// The offsets of places whose name begins so are deleted: nothing that was acknowledged before is owed any more.
    pub fn forget(&mut self, within: &str) { self.acked.retain(|place, _| !place.starts_with(within)); }
    /// The n-th place that has an acknowledged commit.
    pub fn place(&self, n: usize) -> Option<&str> { self.acked.keys().nth(n).map(String::as_str) }
    /// How many places have an acknowledged commit.
    pub fn places(&self) -> usize { self.acked.len() }
    /// What was acknowledged and is not there at the end, in places whose name begins so.
    pub fn lost(&self, within: &str, committed: &BTreeMap<String, i64>) -> Vec<String> {
        let all = self.acked.iter().filter(|(p, offset)| p.starts_with(within) && committed.get(*p) < Some(offset));
        all.map(|(p, offset)| format!("{p}: {offset} was acknowledged, {:?} is there at the end", committed.get(p))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_commit_and_an_older_answer_fire() {
        let mut c = Commits::default();
        for _ in 0..3 { c.next_offset("g/t:0"); }
        c.acked("g/t:0", 2);
        c.acked("g/t:0", 1);
        let asked = c.ask("g/t:0");
        assert_eq!((c.fetched("g/t:0", &asked, Some(2)), c.fetched("g/t:0", &asked, Some(3))), (Ok(()), Ok(())));
        for wrong in [None, Some(1), Some(4)] { assert!(c.fetched("g/t:0", &asked, wrong).is_err_and(|b| b.invariant == "durable"), "{wrong:?}"); }
        assert_eq!((c.place(0), c.place(1)), (Some("g/t:0"), None));
        let there = |offset| BTreeMap::from([("g/t:0".to_string(), offset)]);
        assert_eq!((c.lost("g/", &there(2)).len(), c.lost("g/", &there(1)).len(), c.lost("g/", &BTreeMap::new()).len(), c.lost("h/", &BTreeMap::new()).len()), (0, 1, 1, 0));
        c.forget("g/t:");
        assert_eq!((c.fetched("g/t:0", &c.ask("g/t:0"), None), c.lost("g/", &BTreeMap::new()).len()), (Ok(()), 0));
    }
}
