//! What the Raft log does to the shards and the meta state of this node: the state machines that the raft crate drives.
//!
//! A shard is shared with its driver; this side only replays. An entry that cannot be understood stops the shard on this node: nothing is ever skipped,
//! so what follows is kept (in the cuts, too) until a version that understands it takes over.

use crate::{history::History, times::Times};
use baton_coordinator::{
    config::Limits,
    ids::{GroupId, Millis, Term},
    metadata::{MetaCommand, MetaError, Metadata},
    record::{FEATURE_LEVEL, LogEntry},
    seeded,
    shard::Shard,
    state::{Group, State},
};
use baton_raft::{FrozenChanges, StateMachine, Stored, freeze_whole, load_whole};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::{AtomicU64, Ordering}},
};
use tokio::sync::Notify;

/// A shard of this node, shared by its machine, its driver and whoever lists groups.
pub struct ShardSlot {
    shard: Mutex<Shard>,
    pub history: Mutex<History>,
    applied: AtomicU64,
    stopped: Mutex<Option<String>>,
    /// Wakes the driver.
    pub wake: Notify,
    /// The last lease check of the driver, if it was good and nothing has happened to the lease since.
    pub lease: Mutex<Option<Checked>>,
    pub times: Times,
}

/// A lease check that was good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checked {
    pub term: Term,
    /// When it began.
    pub at: Millis,
    /// How often the leadership had been about to be given away by then.
    pub transfers: u64,
}

/// A lock that a panic cannot make unusable: a panicking replay is caught and stops the shard instead.
pub fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> { m.lock().unwrap_or_else(PoisonError::into_inner) }

impl ShardSlot {
    /// An empty shard; `id` is 0-based.
    pub fn new(id: u16, limits: Limits) -> Arc<Self> {
        let shard = Mutex::new(Shard::new(id, limits));
        Arc::new(Self { shard, history: Mutex::default(), applied: AtomicU64::new(0), stopped: Mutex::new(None), wake: Notify::new(), lease: Mutex::default(), times: Times::default() })
    }
    /// The shard. Held for the time of one call, never over an await.
    pub fn shard(&self) -> MutexGuard<'_, Shard> { lock(&self.shard) }
    /// The log index up to which it is applied.
    pub fn applied(&self) -> u64 { self.applied.load(Ordering::Acquire) }
    /// Why it has stopped applying.
    pub fn stopped(&self) -> Option<String> { lock(&self.stopped).clone() }
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> { bincode::serialize(value).expect("a Vec takes every write and the types have no unserialisable value") }

/// Keys of a shard's pairs: everything beside the groups, and one pair per group. History has its own.
const HEAD: &[u8] = b"a";
const GROUP: &[u8] = b"g";

/// A committed payload that this version cannot apply.
type Kept = (u64, Term, Vec<u8>);

/// The replaying side of a shard.
pub struct ShardMachine {
    slot: Arc<ShardSlot>,
    kept: Vec<Kept>,
}
impl ShardMachine {
    /// The machine of `slot`.
    pub fn new(slot: Arc<ShardSlot>) -> Self { Self { slot, kept: Vec::new() } }

    fn stop(&mut self, index: u64, reason: String) {
        let reason = format!("entry {index}: {reason}");
        let shard = self.slot.shard().id();
        tracing::error!(shard, %reason, "the shard stops on this node: nothing is skipped; the entries are kept");
        *lock(&self.slot.stopped) = Some(reason);
    }

    fn replay(&mut self, index: u64, term: Term, payload: &[u8]) {
        if !self.kept.is_empty() {
            self.kept.push((index, term, payload.to_vec()));
            return;
        }
        let outcome = match LogEntry::decode(payload) {
            // Decided in an earlier term and appended in this one: what the leader of this term answered meanwhile does not know it (`safety.md` 1, 4).
            #[cfg(madsim)]
            Ok(_) if !baton_raft::faults::knows(FEATURE_LEVEL) => Err(format!("the entry has feature level {FEATURE_LEVEL}, and this node is of an earlier version")),
            Ok(entry) if entry.term != term => Ok(()),
            Ok(entry) => {
                let mut shard = self.slot.shard();
                let outcome = catch_unwind(AssertUnwindSafe(|| shard.replay(&entry))).map_err(|_| "replaying it panicked: report this as a bug".to_string());
                // Before an answer of this entry can leave: the driver needs the shard's lock for it.
                lock(&self.slot.history).follow(shard.take_history());
                outcome
            }
            Err(reason) => Err(reason),
        };
        if let Err(reason) = outcome {
            self.kept.push((index, term, payload.to_vec()));
            self.stop(index, reason);
        }
    }
}

impl StateMachine for ShardMachine {
    fn apply(&mut self, index: u64, term: u64, payload: &[u8]) -> Vec<u8> {
        self.replay(index, term, payload);
        Vec::new()
    }
    fn freeze(&mut self) -> FrozenChanges {
        let (head, groups) = self.slot.shard().take_changes();
        let (history, kept) = (lock(&self.slot.history).freeze(), self.kept.clone());
        Box::new(move || {
            let mut changes = if seeded::on(172) { Vec::new() } else { history.changes() };
            changes.push((HEAD.to_vec(), Some([&FEATURE_LEVEL.to_be_bytes()[..], &encode(&(head, kept))].concat())));
            changes.extend(groups.into_iter().filter(|(_, g)| g.is_some() || !seeded::on(130)).map(|(id, g)| ([GROUP, id.as_str().as_bytes()].concat(), g.map(|g| encode(&*g)))));
            changes
        })
    }
    fn written(&mut self) { lock(&self.slot.history).written(); }
    fn attach(&mut self, stored: Stored) { lock(&self.slot.history).attach(stored); }
    fn load(&mut self, stored: &Stored) -> Result<(), String> {
        let head = stored.get(HEAD).map_err(|e| e.to_string())?.ok_or("it has no head")?;
        let (level, body) = head.split_first_chunk::<2>().ok_or("its head is shorter than a feature level")?;
        if u16::from_be_bytes(*level) != FEATURE_LEVEL {
            return Err(format!("it has feature level {}, this version knows {FEATURE_LEVEL}", u16::from_be_bytes(*level)));
        }
        let (mut state, kept): (State, Vec<Kept>) = bincode::deserialize(body).map_err(|e| format!("its head cannot be read: {e}"))?;
        let read = stored.visit(GROUP, GROUP, &mut |key, value| {
            let name = String::from_utf8_lossy(&key[GROUP.len()..]);
            let group: Group = bincode::deserialize(value).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("group {name} cannot be read: {e}")))?;
            state.groups.insert(GroupId::from(&*name), Arc::new(group));
            Ok(())
        });
        read.map_err(|e| e.to_string())?;
        self.slot.shard().adopt(state);
        lock(&self.slot.history).reset();
        *lock(&self.slot.stopped) = None;
        self.kept.clear();
        for (index, term, payload) in kept {
            self.replay(index, term, &payload);
        }
        self.slot.wake.notify_one();
        Ok(())
    }
    fn applied(&mut self, index: u64, _term: u64) {
        self.slot.applied.store(index, Ordering::Release);
        self.slot.wake.notify_one();
    }
}

/// The meta state of this node and those who wait for its changes.
pub struct MetaSlot {
    image: Mutex<Arc<Metadata>>,
    stopped: Mutex<Option<String>>,
    shards: Vec<Arc<ShardSlot>>,
    changed: Notify,
}
impl MetaSlot {
    /// An empty meta state; every change wakes the drivers of `shards`.
    pub fn new(shards: Vec<Arc<ShardSlot>>) -> Arc<Self> { Arc::new(Self { image: Mutex::default(), stopped: Mutex::new(None), shards, changed: Notify::new() }) }
    /// The newest committed image.
    pub fn image(&self) -> Arc<Metadata> { lock(&self.image).clone() }
    /// Why it has stopped applying.
    pub fn stopped(&self) -> Option<String> { lock(&self.stopped).clone() }
    /// Waits until the image satisfies `is`.
    pub async fn wait(&self, is: impl Fn(&Metadata) -> bool) -> Arc<Metadata> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change falls between.
            changed.as_mut().enable();
            let image = self.image();
            if is(&image) {
                return image;
            }
            changed.await;
        }
    }
    fn publish(&self, image: Arc<Metadata>) {
        *lock(&self.image) = image;
        self.changed.notify_waiters();
        for s in &self.shards {
            s.wake.notify_one();
        }
    }
}

/// The version of the meta commands in the log.
const META_LEVEL: u16 = 1;

/// A meta command as a log payload.
pub fn encode_meta(command: &MetaCommand) -> Vec<u8> {
    let mut out = META_LEVEL.to_be_bytes().to_vec();
    bincode::serialize_into(&mut out, command).expect("a Vec takes every write and the types have no unserialisable value");
    out
}
fn decode_meta(payload: &[u8]) -> Result<MetaCommand, String> {
    let (level, body) = payload.split_first_chunk::<2>().ok_or("the entry is shorter than its feature level")?;
    match u16::from_be_bytes(*level) {
        META_LEVEL => bincode::deserialize(body).map_err(|e| format!("the entry cannot be read: {e}")),
        level => Err(format!("the entry has feature level {level}, this version knows {META_LEVEL}: install a version that knows it")),
    }
}
/// What a proposed meta command came to.
pub fn decode_meta_reply(reply: &[u8]) -> Result<Result<u64, MetaError>, String> { bincode::deserialize(reply).map_err(|_| "the meta group has stopped on this node".to_string()) }

/// The replaying side of the meta group.
pub struct MetaMachine {
    slot: Arc<MetaSlot>,
    kept: Vec<Kept>,
}
impl MetaMachine {
    /// The machine of `slot`.
    pub fn new(slot: Arc<MetaSlot>) -> Self { Self { slot, kept: Vec::new() } }
    fn replay(&mut self, index: u64, term: Term, payload: &[u8]) -> Vec<u8> {
        let command = if self.kept.is_empty() { decode_meta(payload) } else { Err("an earlier entry was not understood".into()) };
        match command {
            Ok(command) => {
                let mut image = self.slot.image();
                let result = Arc::make_mut(&mut image).apply(&command);
                if result.is_ok() {
                    self.slot.publish(image);
                }
                bincode::serialize(&result).expect("a Vec takes every write and the types have no unserialisable value")
            }
            Err(reason) => {
                if self.kept.is_empty() {
                    tracing::error!(index, %reason, "the meta group stops on this node: nothing is skipped; the entries are kept");
                    *lock(&self.slot.stopped) = Some(format!("entry {index}: {reason}"));
                }
                self.kept.push((index, term, payload.to_vec()));
                Vec::new()
            }
        }
    }
}
impl StateMachine for MetaMachine {
    fn apply(&mut self, index: u64, term: u64, payload: &[u8]) -> Vec<u8> { self.replay(index, term, payload) }
    fn freeze(&mut self) -> FrozenChanges {
        let (image, kept) = (self.slot.image(), self.kept.clone());
        Box::new(move || freeze_whole(encode(&(&*image, &kept)))())
    }
    fn load(&mut self, stored: &Stored) -> Result<(), String> {
        let (image, kept): (Metadata, Vec<Kept>) = bincode::deserialize(&load_whole(stored)?).map_err(|e| format!("the meta state cannot be read: {e}"))?;
        *lock(&self.slot.stopped) = None;
        self.kept.clear();
        self.slot.publish(Arc::new(image));
        for (index, term, payload) in kept {
            self.replay(index, term, &payload);
        }
        Ok(())
    }
}

#[cfg(all(test, not(madsim)))]
mod tests;
