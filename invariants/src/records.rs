//! A run of real processes, judged from what the workers wrote down and what the cluster has in the end.

use crate::{Broken, belief::{self, Belief, Process, Record, Told}, durable::Commits, linear::{Report, history::{CallId, History}, offsets::{Offsets, Op, Value}}};
use std::collections::{BTreeMap, BTreeSet};

/// What became of a run.
#[derive(Clone, Debug, Default)]
pub struct Judged {
    pub beliefs: Vec<Belief>,
    pub wrong: Vec<Broken>,
    /// When commits were acknowledged, ns, sorted.
    pub acks: Vec<u64>,
    /// Partitions with an acknowledged commit.
    pub committed: usize,
    /// Answered heartbeats.
    pub answers: u64,
    /// Members that lost something without being asked first.
    pub fenced: Vec<String>,
    /// What the judge of order looked at: commits and fetches.
    pub order: Report,
}

/// `at_the_end`: the committed offsets that the cluster gives, by partition.
pub fn judge(processes: &[Process], at_the_end: &BTreeMap<String, i64>) -> Judged {
    let (beliefs, violations) = belief::judged(processes);
    let mut j = Judged { beliefs, wrong: violations.iter().map(|v| Broken { invariant: v.invariant(), what: v.to_string() }).collect(), ..Judged::default() };
    let mut commits = Commits::default();
    for r in processes.iter().flat_map(|p| &p.records) {
        match r {
            Record::Acked { at, partition, offset, .. } => {
                j.acks.push(*at);
                commits.acked(partition, *offset);
            }
            Record::Fenced { member, why, .. } => j.fenced.push(format!("{member} {why}")),
            Record::Lease { .. } => j.answers += 1,
            Record::Grant { .. } | Record::Stop { .. } | Record::Use { .. } | Record::Commits { .. } | Record::Fetches { .. } | Record::Told { .. } => {}
        }
    }
    j.wrong.extend(commits.lost("", at_the_end).into_iter().map(|what| Broken { invariant: "durable", what }));
    let (order, verdict) = in_order(processes, at_the_end).check();
    j.order = order;
    j.wrong.extend(verdict.err());
    j.committed = commits.places();
    j.acks.sort_unstable();
    j
}

/// The commits and fetches of all members, and the look at the end. Records of one process are in the order in which it wrote them.
fn in_order(processes: &[Process], at_the_end: &BTreeMap<String, i64>) -> History<String, Offsets> {
    let mut order: History<String, Offsets> = History::default();
    let mut open: BTreeMap<(&str, u64, &str), CallId> = BTreeMap::new();
    let mut places: BTreeSet<&str> = BTreeSet::new();
    for r in processes.iter().flat_map(|p| &p.records) {
        match r {
            Record::Commits { at, member, call, partition, token, seq, offset } => {
                places.insert(partition);
                let op = Op::Commit { token: *token, seq: *seq, value: Value::of(*offset) };
                open.insert((member, *call, partition), order.called(*at, partition.clone(), op));
            }
            Record::Fetches { at, member, call, partition } => {
                open.insert((member, *call, partition), order.called(*at, partition.clone(), Op::Fetch { found: None }));
            }
            Record::Told { at, member, call, partition, told } => {
                let Some(call) = open.remove(&(member.as_str(), *call, partition.as_str())) else { continue };
                match told {
                    Told::Taken => order.returned(call, *at),
                    Told::Refused => order.refused(call),
                    Told::Found(offset) => order.answered(call, *at, Op::Fetch { found: Some(Value::of(*offset)) }),
                    Told::None => order.answered(call, *at, Op::Fetch { found: None }),
                }
            }
            Record::Grant { .. } | Record::Stop { .. } | Record::Lease { .. } | Record::Use { .. } | Record::Fenced { .. } | Record::Acked { .. } => {}
        }
    }
    for place in places {
        let call = order.called(u64::MAX - 1, place.to_string(), Op::Fetch { found: None });
        order.answered(call, u64::MAX, Op::Fetch { found: at_the_end.get(place).map(|o| Value::of(*o)) });
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_and_fetches_of_several_processes_have_one_order() {
        let process = |lines: &[&str]| Process { records: lines.iter().map(|l| l.parse().unwrap()).collect(), killed_at: None };
        let a = process(&["commits 10 a 1 t:0 5 1 7", "told 12 a 1 t:0 taken", "commits 20 a 2 t:0 5 2 8"]);
        let look = |found: &str| judge(&[a.clone(), process(&["fetches 14 b 1 t:0", &format!("told 16 b 1 t:0 {found}")])], &BTreeMap::from([("t:0".into(), 8)]));
        // The second commit was never answered, and it is there at the end.
        assert_eq!((look("found 7").wrong, look("found 7").order.calls), (Vec::new(), 4));
        for stale in ["none", "found 6", "found 8"] { assert!(look(stale).wrong.iter().any(|b| b.invariant == "linearizable"), "{stale}"); }
        let refused = process(&["commits 10 a 1 t:0 5 1 7", "told 12 a 1 t:0 refused"]);
        assert!(judge(&[refused], &BTreeMap::from([("t:0".into(), 7)])).wrong.iter().any(|b| b.invariant == "linearizable"));
    }

    #[test]
    fn a_run_is_judged_as_a_whole() {
        let lines = ["lease 1 a 100", "grant 2 a t:0 5", "acked 4 a t:0 5 7", "acked 3 a t:1 5 9", "fenced 6 a Removed"];
        let p = Process { records: lines.iter().map(|l| l.parse().unwrap()).collect(), killed_at: None };
        let j = judge(&[p], &BTreeMap::from([("t:0".into(), 6), ("t:1".into(), 9)]));
        assert_eq!((j.beliefs.len(), j.committed, j.answers, j.acks, j.fenced), (1, 2, 1, vec![3, 4], vec!["a Removed".to_string()]));
        assert_eq!(j.wrong, [Broken { invariant: "durable", what: "t:0: 7 was acknowledged, Some(6) is there at the end".into() }]);
    }
}
