//! Who leads, and who holds a lease.

use crate::{Verdict, broken};
use std::collections::BTreeMap;

/// Who has led each term of each shard.
#[derive(Default)]
pub struct Leaders(BTreeMap<(u16, u64), u64>);

impl Leaders {
    /// A node says that it leads. True: nobody had said so of this term.
    pub fn leads(&mut self, node: u64, shard: u16, term: u64) -> Result<bool, crate::Broken> {
        let new = !self.0.contains_key(&(shard, term));
        let first = *self.0.entry((shard, term)).or_insert(node);
        if first == node { Ok(new) } else { broken("one-leader", format!("shard {shard}: nodes {first} and {node} both lead term {term}")) }
    }
    /// The latest term that has been led; 0 before the first.
    pub fn newest_term(&self, shard: u16) -> u64 { self.0.range((shard, 0)..=(shard, u64::MAX)).next_back().map_or(0, |((_, t), _)| *t) }
    /// A node that was asked when `newest` was led already says that it holds the lease of `term`.
    pub fn leased(&mut self, node: u64, shard: u16, term: u64, newest: u64) -> Verdict {
        self.leads(node, shard, term)?;
        if term < newest { broken("lease", format!("shard {shard}: node {node} holds the lease of term {term} after another began to lead term {newest}")) } else { Ok(()) }
    }
    /// A node was given the lease of a term, or let an answer go under it, and had asked at `asked_ns`: the last promise of another voter that it rests on must not have ended
    /// before. Three voters: the leader and one other are a majority. All times are of the clock without drift.
    pub fn backed(&self, node: u64, shard: u16, term: u64, asked_ns: u64, promised_until_ns: Option<u64>) -> Verdict {
        match promised_until_ns {
            Some(until) if until >= asked_ns => Ok(()),
            Some(until) => broken("lease", format!("shard {shard}: node {node} holds the lease of term {term} {} ms after the last promise of another voter has ended", (asked_ns - until).div_ceil(1_000_000))),
            None => broken("lease", format!("shard {shard}: node {node} holds the lease of term {term}, and no other voter has promised anything")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_leader_and_a_late_lease_fire() {
        let mut l = Leaders::default();
        assert_eq!(l.leads(1, 0, 3), Ok(true));
        assert_eq!(l.leads(1, 0, 3), Ok(false));
        assert_eq!(l.leads(2, 0, 4), Ok(true));
        assert_eq!(l.newest_term(0), 4);
        assert_eq!(l.newest_term(1), 0);
        assert_eq!(l.leased(1, 0, 3, 3), Ok(()));
        assert!(l.leased(1, 0, 3, 4).is_err_and(|b| b.invariant == "lease"));
        assert_eq!(l.backed(1, 0, 4, 5, Some(5)), Ok(()));
        for until in [Some(4), None] { assert!(l.backed(1, 0, 4, 5, until).is_err_and(|b| b.invariant == "lease"), "{until:?}"); }
        assert!(l.leads(2, 0, 3).is_err_and(|b| b.invariant == "one-leader"));
    }
}
