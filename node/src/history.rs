//! The history records of one shard's groups. Replay hands them out (`safety.md` 29); the state has only their numbers.
//!
//! They are on disk, in the store of checkpoints. What the last cut does not have yet is in memory, in layers: the newest, which replay
//! writes, and those that are on their way into the store. A layer goes only when the store has it, so a reader that looks at the layers
//! first and at the store after misses nothing.

use baton_coordinator::{
    command::HistoryRecord,
    ids::GroupId,
    replay::HistoryChange,
};
use baton_raft::{Changes, Stored};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
};

/// By group and number; None: it is gone.
type Layer = BTreeMap<(GroupId, u64), Option<HistoryRecord>>;

/// The records of a shard.
#[derive(Default)]
pub struct History {
    newest: Layer,
    /// Oldest first.
    frozen: VecDeque<Arc<Layer>>,
    stored: Option<Stored>,
}

/// A layer that goes into the store.
pub struct Frozen(Arc<Layer>);
impl Frozen {
    /// The pairs to write.
    pub fn changes(&self) -> Changes {
        self.0.iter().map(|((g, n), r)| (key(g, *n), r.as_ref().map(|r| bincode::serialize(r).expect("a Vec takes every write and the types have no unserialisable value")))).collect()
    }
}

/// A read that has looked at the layers and has yet to look at the store, which may block.
pub struct Look {
    group: GroupId,
    numbers: std::ops::Range<u64>,
    found: BTreeMap<u64, Option<HistoryRecord>>,
    stored: Option<Stored>,
}

fn prefix(group: &GroupId) -> Vec<u8> {
    let name = group.as_str().as_bytes();
    // The length keeps a group apart from one whose name goes on.
    [&b"h"[..], &(name.len() as u16).to_be_bytes(), name].concat()
}
fn key(group: &GroupId, number: u64) -> Vec<u8> { [&prefix(group)[..], &number.to_be_bytes()].concat() }

impl History {
    /// Follows what an entry did, in order.
    pub fn follow(&mut self, changes: Vec<HistoryChange>) {
        for c in changes {
            match c {
                HistoryChange::Added { group, number, record } => drop(self.newest.insert((group, number), Some(record))),
                HistoryChange::Dropped { group, first, next } => (first..next).for_each(|n| drop(self.newest.insert((group.clone(), n), None))),
            }
        }
    }
    /// From here on new records go into a new layer.
    pub fn freeze(&mut self) -> Frozen {
        let layer = Arc::new(std::mem::take(&mut self.newest));
        self.frozen.push_back(layer.clone());
        Frozen(layer)
    }
    /// The store has the oldest layer.
    pub fn written(&mut self) { self.frozen.pop_front(); }
    /// The store has everything there is.
    pub fn reset(&mut self) { (self.newest, self.frozen) = (Layer::new(), VecDeque::new()); }
    /// Where the older records are.
    pub fn attach(&mut self, stored: Stored) { self.stored = Some(stored); }
    /// Records in memory, for the metrics and tests.
    pub fn in_memory(&self) -> usize { self.newest.len() + self.frozen.iter().map(|l| l.len()).sum::<usize>() }

    /// Begins to read a group's records from `first` to below `next`.
    pub fn look(&self, group: &GroupId, first: u64, next: u64) -> Look {
        let mut found = BTreeMap::new();
        for layer in self.frozen.iter().map(|l| &**l).chain([&self.newest]) {
            found.extend(layer.range((group.clone(), first)..(group.clone(), next.max(first))).map(|((_, n), r)| (*n, r.clone())));
        }
        Look { group: group.clone(), numbers: first..next, found, stored: self.stored.clone() }
    }
}

impl Look {
    /// The records that are still there and are not of an earlier revision than `since`. Reads the disk.
    pub fn read(mut self, since: u64) -> io::Result<Vec<HistoryRecord>> {
        if let Some(stored) = &self.stored {
            stored.visit(&prefix(&self.group), &key(&self.group, self.numbers.start), &mut |k, v| {
                let number = k.last_chunk::<8>().map_or(u64::MAX, |n| u64::from_be_bytes(*n));
                if self.numbers.contains(&number) && !self.found.contains_key(&number) {
                    let record = bincode::deserialize(v).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("a history record cannot be read: {e}")))?;
                    self.found.insert(number, Some(record));
                }
                Ok(())
            })?;
        }
        Ok(self.found.into_values().flatten().filter(|r| r.revision >= since).collect())
    }
}
