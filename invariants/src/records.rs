//! A run of real processes, judged from what the workers wrote down and what the cluster has in the end.

use crate::{Broken, belief::{self, Belief, Process, Record}, durable::Commits};
use std::collections::BTreeMap;

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
            Record::Grant { .. } | Record::Stop { .. } | Record::Use { .. } => {}
        }
    }
    j.wrong.extend(commits.lost("", at_the_end).into_iter().map(|what| Broken { invariant: "durable", what }));
    j.committed = commits.places();
    j.acks.sort_unstable();
    j
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_judged_as_a_whole() {
        let lines = ["lease 1 a 100", "grant 2 a t:0 5", "acked 4 a t:0 5 7", "acked 3 a t:1 5 9", "fenced 6 a Removed"];
        let p = Process { records: lines.iter().map(|l| l.parse().unwrap()).collect(), killed_at: None };
        let j = judge(&[p], &BTreeMap::from([("t:0".into(), 6), ("t:1".into(), 9)]));
        assert_eq!((j.beliefs.len(), j.committed, j.answers, j.acks, j.fenced), (1, 2, 1, vec![3, 4], vec!["a Removed".to_string()]));
        assert_eq!(j.wrong, [Broken { invariant: "durable", what: "t:0: 7 was acknowledged, Some(6) is there at the end".into() }]);
    }
}
