//! What a batch must not do, and what a group must not be left with, by rules that harm nobody at once when they are broken.

use crate::{Verdict, broken};
use baton_coordinator::{ids::{GroupId, Partition}, record::*, state::*};
use std::collections::BTreeSet;

/// What is remembered from batch to batch.
#[derive(Default)]
pub struct Rules {
    /// Groups that hold partitions of members that were removed.
    holding: BTreeSet<GroupId>,
    /// The newest applied index that was looked at, and the shard's time there.
    time: (usize, u64),
}

impl Rules {
    /// A batch and the group after it. `force`: an administrator may give up what is held.
    pub fn batch(&mut self, b: &Batch, after: Option<&Group>, force: bool) -> Verdict {
        let has = |is: fn(&Record) -> bool| b.records.iter().any(is);
        if let Some(g) = after {
            let same_members = !has(|r| matches!(r, Record::Created | Record::Joined(_) | Record::Removed { .. } | Record::Replaced(_) | Record::Away { .. } | Record::HoldReleased { .. } | Record::Classic(_) | Record::Deleted));
            let of_nobody = b.records.iter().find_map(|r| if let Record::Offset(o) = r { (o.committed.token.0 == 0).then_some(&o.partition) } else { None });
            // Kafka's members commit without a token for what they do not hold.
            let http = g.classic.is_none() && g.members.values().all(|m| m.conforming()) && (!g.members.is_empty() || !g.holds.is_empty());
            if let (true, true, Some(p)) = (same_members, http, of_nobody) {
                return broken("fencing", format!("{}: a position of {p} was set without a token, with {} members in the group and {} partitions held (`safety.md` 17)", b.group, g.members.len(), g.holds.len()));
            }
            let same_wishes = same_members && !has(|r| matches!(r, Record::Subscribed { .. } | Record::Regex { .. }));
            let removed = b.records.iter().find_map(|r| if let Record::OffsetsRemoved { topic } = r { Some(topic) } else { None });
            if let Some(topic) = removed.filter(|t| same_wishes && g.members.values().any(|m| g.subscribes(m, t))) {
                return broken("durable", format!("{}: the positions of {topic} were deleted while a member subscribes to it", b.group));
            }
        }
        if has(|r| matches!(r, Record::Deleted)) && !has(|r| matches!(r, Record::HoldReleased { .. })) && !force && self.holding.contains(&b.group) {
            return broken("one-believer", format!("{} was deleted while it held partitions of a removed member, which may still work", b.group));
        }
        if after.is_some_and(|g| !g.holds.is_empty()) { self.holding.insert(b.group.clone()); } else { self.holding.remove(&b.group); }
        Ok(())
    }

    /// The shard's time never goes back: what was kept for a time is kept for all of it.
    pub fn time(&mut self, index: usize, time_ms: u64) -> Verdict {
        let (newest, then) = self.time;
        if index <= newest { return Ok(()) }
        self.time = (index, time_ms);
        if time_ms < then { broken("durable", format!("the shard's time goes back from {then} to {time_ms} at entry {index}")) } else { Ok(()) }
    }
}

/// Whoever stops by a deadline is asked at once for what is of a topic that is gone, or was made again under its name (`safety.md` 13).
pub fn of_topics_that_are(id: &GroupId, g: &Group) -> Verdict {
    // Of a topic that nobody subscribes to any more the group knows nothing.
    let gone = |p: &Partition, id: u128| g.topics.get(&p.topic).map_or_else(|| g.members.values().any(|m| g.subscribes(m, &p.topic)), |t| t.id != id);
    for (m, x) in g.members.iter().filter(|(_, x)| x.conforming() && x.epoch != AWAY) {
        if let Some(p) = x.assigned.iter().find(|(p, grant)| gone(p, grant.topic_id)).map(|(p, _)| p) {
            return broken("complete", format!("{id}: {m} has {p} and is not asked for it, although that topic is gone"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_only_goes_on() {
        let mut r = Rules::default();
        assert!(r.time(1, 10).is_ok() && r.time(2, 10).is_ok() && r.time(3, 12).is_ok());
        assert!(r.time(2, 9).is_ok(), "another replica, which is behind");
        assert!(r.time(4, 11).is_err_and(|b| b.invariant == "durable"));
    }
}
