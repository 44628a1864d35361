//! The history records of one shard's groups. Replay hands them out (`safety.md` 29); the state has only their numbers.

use baton_coordinator::{
    command::HistoryRecord,
    ids::GroupId,
    replay::HistoryChange,
};
use std::collections::BTreeMap;

/// Records by group and number.
#[derive(Default)]
pub struct History {
    kept: BTreeMap<(GroupId, u64), HistoryRecord>,
}

impl History {
    /// Follows what an entry did, in order.
    pub fn follow(&mut self, changes: Vec<HistoryChange>) {
        for c in changes {
            match c {
                HistoryChange::Added { group, number, record } => drop(self.kept.insert((group, number), record)),
                HistoryChange::Dropped { group, first, next } => (first..next).for_each(|n| drop(self.kept.remove(&(group.clone(), n)))),
            }
        }
    }
    /// The records of a group from number `first` to below `next` that are still there and are not of an earlier revision than `since`.
    pub fn read(&self, group: &GroupId, first: u64, next: u64, since: u64) -> Vec<HistoryRecord> {
        self.kept.range((group.clone(), first)..(group.clone(), next)).map(|(_, r)| r).filter(|r| r.revision >= since).cloned().collect()
    }
    /// Everything, for a snapshot.
    pub fn all(&self) -> Vec<(&(GroupId, u64), &HistoryRecord)> { self.kept.iter().collect() }
    /// Replaces everything.
    pub fn adopt(&mut self, all: Vec<((GroupId, u64), HistoryRecord)>) { self.kept = all.into_iter().collect(); }
}
