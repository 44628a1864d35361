//! Which partitions have moved from whom to whom while an assignment is evened out. Within a topic, no partition should move from A to B while another
//! moves from B to A: then the other may as well stay, and is taken back instead.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub(super) struct Movements {
    /// (topic, from, to) → the partitions that moved so.
    by_pair: BTreeMap<(u32, u32, u32), BTreeSet<usize>>,
    /// Partition → from, to.
    of: BTreeMap<usize, (u32, u32)>,
}
impl Movements {
    /// The partition to move in place of `partition`, which is to go from `from` to `to`.
    pub(super) fn better(&self, topic: u32, partition: usize, from: u32, to: u32) -> usize {
        let origin = self.of.get(&partition).map_or(from, |(first, _)| *first);
        self.by_pair.get(&(topic, to, origin)).and_then(|moved| moved.first().copied()).unwrap_or(partition)
    }

    /// Remembers a move; one that brings a partition back to where it came from is forgotten.
    pub(super) fn record(&mut self, topic: u32, partition: usize, from: u32, to: u32) {
        let origin = match self.of.remove(&partition) {
            Some((first, last)) => {
                if let Some(moved) = self.by_pair.get_mut(&(topic, first, last)) {
                    moved.remove(&partition);
                }
                first
            }
            None => from,
        };
        if origin != to {
            self.of.insert(partition, (origin, to));
            self.by_pair.entry((topic, origin, to)).or_default().insert(partition);
        }
    }
}
