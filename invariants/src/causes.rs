//! Why a partition is asked back. A member that gives something back stops for a moment: that is paid for a reason only.

use crate::{Verdict, broken};
use baton_coordinator::{ids::*, record::*, shared::PartitionSet, state::Group};
use std::collections::BTreeMap;

/// What is remembered from batch to batch.
#[derive(Default)]
pub struct Causes {
    /// The target of each group, as of its last batch.
    targets: BTreeMap<GroupId, BTreeMap<MemberId, PartitionSet>>,
}

impl Causes {
    /// A batch that was applied, and the group after it.
    pub fn batch(&mut self, b: &Batch, after: Option<&Group>) -> Verdict {
        let Some(g) = after.filter(|g| g.classic.is_none()) else {
            self.targets.remove(&b.group);
            return Ok(());
        };
        let before = self.targets.insert(b.group.clone(), g.target.clone());
        // Several commands may share a batch, and what was wanted in between is not seen: then nothing is said of who said something new.
        let news = b.records.iter().any(|r| matches!(r, Record::Replaced(_) | Record::Regex { .. } | Record::Classic(_)));
        let Some(before) = before.filter(|_| !news) else { return Ok(()) };
        for r in &b.records {
            let Record::Reconciled(r) = r else { continue };
            let Some(m) = g.members.get(&r.member).filter(|_| !r.revoked.is_empty()) else { continue };
            let said = b.records.iter().any(|x| matches!(x, Record::Subscribed { member, .. } if *member == r.member) || matches!(x, Record::Joined(j) if j.member == r.member));
            for p in r.revoked.iter().filter(|_| !said) {
                let Some(pending) = m.pending.get(p) else { continue };
                let has = |t: &BTreeMap<MemberId, PartitionSet>| t.get(&r.member).is_some_and(|ps| ps.contains(p));
                let between = b.records.iter().all(|x| if let Record::Target { assignment, .. } = x { assignment.get(&r.member).is_some_and(|ps| ps.contains(p)) } else { true });
                let same = g.topics.get(&p.topic).is_some_and(|t| t.id == pending.grant.topic_id) && g.target_topics.get(&p.topic).is_some_and(|t| t.id == pending.grant.topic_id);
                if has(&before) && between && has(&g.target) && same && g.subscribes(m, &p.topic) {
                    return broken("with-cause", format!("{}: {} is asked for {p}, which it was to have all the time", b.group, r.member));
                }
            }
        }
        Ok(())
    }
}
