//! Log storage of all groups over one write-ahead log.
//!
//! Each group keeps its live entries in memory, visible at once; the records go to the one writer of the process.
//!
//! Index `i` of consensus is index `i + 1` in the write-ahead log, where 0 means "none".

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_storage::wal::{GroupLog, Rec};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use tokio::sync::oneshot;

use crate::api::StartError;
use crate::marks::Mark;
use crate::types::{Entry, LogId, TypeConfig, Vote, decode, encode};
use crate::writer::{Done, LogWriter, stopped};

const SLOT_VOTE: u8 = 1;
const SLOT_COMMITTED: u8 = 2;
const SLOT_PURGED: u8 = 3;
/// The snapshot that is about to be installed.
const SLOT_INSTALL: u8 = 4;
/// This log is in use, although no group may have anything in it yet.
const SLOT_USED: u8 = 5;

/// Whether a group's stored log holds a vote, that is: whether this node may have made a promise before a restart.
pub fn has_vote(log: &GroupLog) -> bool {
    log.meta.contains_key(&SLOT_VOTE)
}

/// From now on the log is not an empty one any more.
pub async fn mark_used(writer: &LogWriter) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    writer.submit(0, vec![Rec::Meta { group: 0, slot: SLOT_USED, body: Vec::new() }], Done::Reply(tx))?;
    rx.await.map_err(|_| stopped())?
}

/// A group's mark, from its last index and its small values.
pub fn mark(last: u64, meta: &BTreeMap<u8, Vec<u8>>) -> io::Result<Mark> {
    let vote: Option<Vote> = meta.get(&SLOT_VOTE).map(|b| decode(b)).transpose()?;
    let committed: Option<LogId> = meta.get(&SLOT_COMMITTED).map(|b| decode(b)).transpose()?;
    Ok(Mark { term: vote.map_or(0, |v| v.leader_id.term), last, kept: last.min(committed.map_or(0, |c| c.index + 1)) })
}

#[derive(Default)]
struct Cache {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// Part of `committed` that is in a submitted frame.
    committed_submitted: Option<LogId>,
    announced: Option<LogId>,
    /// Bytes of entries ever put in here.
    appended: u64,
}

/// Log storage of one group. Clones share the same log; consensus uses one clone as the store, others as readers.
#[derive(Clone)]
pub struct GroupStore {
    group: u16,
    cache: Arc<Mutex<Cache>>,
    writer: LogWriter,
}

impl GroupStore {
    /// Takes over what the write-ahead log held for this group.
    pub fn open(group: u16, stored: &GroupLog, writer: LogWriter) -> io::Result<GroupStore> {
        let mut cache = Cache::default();
        for (index, body) in &stored.entries {
            let entry: Entry = decode(body)?;
            if entry.log_id.index + 1 != *index {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("group {group}: entry {} is stored at {index}", entry.log_id.index)));
            }
            cache.appended += body.len() as u64;
            cache.entries.insert(entry.log_id.index, entry);
        }
        let slot = |slot: u8| stored.meta.get(&slot);
        cache.vote = slot(SLOT_VOTE).map(|b| decode(b)).transpose()?;
        if let Some(vote) = cache.vote.as_mut().filter(|v| !v.committed && baton_storage::seeded::on(86)) {
            vote.leader_id.term -= 1;
        }
        cache.committed = slot(SLOT_COMMITTED).map(|b| decode(b)).transpose()?;
        cache.committed_submitted = cache.committed;
        cache.purged = slot(SLOT_PURGED).map(|b| decode(b)).transpose()?;
        cache.announced = slot(SLOT_INSTALL).map(|b| decode(b)).transpose()?;
        Ok(GroupStore { group, cache: Arc::new(Mutex::new(cache)), writer })
    }

    /// The disk is full: no new entries should be brought.
    pub fn is_full(&self) -> bool {
        self.writer.health().is_full()
    }

    /// Waits while the log is larger than it should be.
    pub async fn room(&self) {
        self.writer.health().room().await;
    }

    /// Bytes of entries put in since this process started, and those that it found: only grows.
    pub fn appended(&self) -> u64 {
        self.lock().appended
    }

    /// Whether this node has ever taken part in the group.
    pub fn is_used(&self) -> bool {
        let cache = self.lock();
        cache.vote.is_some() || cache.purged.is_some() || !cache.entries.is_empty()
    }

    /// Everything that was given to the log before this call is durable when it returns. Costs no write of its own.
    pub async fn barrier(&self) -> io::Result<()> {
        self.durable(Vec::new()).await
    }

    /// Notes durably that a snapshot is about to take the place of everything up to `last`.
    pub async fn announce(&self, last: Option<LogId>) -> io::Result<()> {
        let Some(id) = last else { return Ok(()) };
        let rec = self.meta(SLOT_INSTALL, &id)?;
        self.durable(vec![rec]).await?;
        self.lock().announced = last;
        Ok(())
    }

    async fn durable(&self, recs: Vec<Rec>) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        self.writer.submit(self.group, recs, Done::Reply(tx))?;
        rx.await.map_err(|_| stopped())?
    }

    /// At start: whether this log can have led to a state at `state`. A cut or an own snapshot is only written when the log up to
    /// it is durable, so one beyond the log's end is a witness of a loss; only an announced snapshot of the leader may be there.
    pub fn allows(&self, state: Option<LogId>) -> Result<(), StartError> {
        let cache = self.lock();
        let last = cache.entries.last_key_value().map(|(_, e)| e.log_id).or(cache.purged);
        let refuse = |reason: String| Err(StartError::Witness { group: self.group, reason });
        let shown = |id: Option<LogId>| id.map_or("nothing".into(), |id| format!("entry {}", id.index + 1));
        if let Some(at) = state {
            if last.is_none_or(|l| l.index < at.index) && cache.announced != state {
                return refuse(format!("the state on disk is at {}, but the log ends with {}", shown(state), shown(last)));
            }
            if let Some(entry) = cache.entries.get(&at.index).filter(|e| e.log_id != at) {
                return refuse(format!("the state on disk is at {} of term {}, but the log has that of term {}", shown(state), at.leader_id.term, entry.log_id.leader_id.term));
            }
        }
        if cache.purged.map(|p| p.index) > state.map(|s| s.index) {
            return Err(StartError::Snapshot { group: self.group, reason: format!("the log begins after {}, but the newest state on disk is at {}", shown(cache.purged), shown(state)) });
        }
        Ok(())
    }

    // The cache is consistent after every statement, so a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn meta<T: serde::Serialize>(&self, slot: u8, value: &T) -> io::Result<Rec> {
        Ok(Rec::Meta { group: self.group, slot, body: encode(value)? })
    }

    /// Adds the committed position to a frame that is written anyhow: it only shortens the wait after a restart.
    fn with_committed(&self, cache: &mut Cache, recs: &mut Vec<Rec>) -> io::Result<()> {
        if cache.committed != cache.committed_submitted {
            if let Some(committed) = &cache.committed {
                recs.push(self.meta(SLOT_COMMITTED, committed)?);
            }
            cache.committed_submitted = cache.committed;
        }
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for GroupStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(&mut self, range: RB) -> io::Result<Vec<Entry>> {
        let from = match range.start_bound() {
            Bound::Included(i) => *i,
            Bound::Excluded(i) => *i + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(i) => i.saturating_add(1),
            Bound::Excluded(i) => *i,
            Bound::Unbounded => u64::MAX,
        };
        if from >= to {
            return Ok(Vec::new());
        }
        Ok(self.lock().entries.range(from..to).map(|(_, e)| e.clone()).collect())
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.lock().vote)
    }
}

impl RaftLogStorage<TypeConfig> for GroupStore {
    type LogReader = GroupStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let cache = self.lock();
        let last = cache.entries.last_key_value().map(|(_, e)| e.log_id);
        Ok(LogState { last_purged_log_id: cache.purged, last_log_id: last.or(cache.purged) })
    }

    async fn get_log_reader(&mut self) -> GroupStore {
        self.clone()
    }

    /// A vote is a promise: it is durable before this returns.
    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (tx, rx) = oneshot::channel();
        {
            let mut cache = self.lock();
            let mut recs = vec![self.meta(SLOT_VOTE, vote)?];
            self.with_committed(&mut cache, &mut recs)?;
            cache.vote = Some(*vote);
            self.writer.submit(self.group, recs, Done::Reply(tx))?;
        }
        if baton_storage::seeded::on(11) {
            return Ok(());
        }
        rx.await.map_err(|_| stopped())??;
        crate::failpoint!("vote durable, not answered", self.group);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.lock().committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut cache = self.lock();
        let mut recs = Vec::new();
        for entry in entries {
            // A log that begins in the middle: the write-ahead log wants to hear that the front was never there.
            // Consensus itself begins at 0 or purges first; its conformance suite does not.
            if cache.entries.is_empty() && cache.purged.is_none() && entry.log_id.index > 0 {
                recs.push(Rec::Purge { group: self.group, upto: entry.log_id.index });
            }
            let body = encode(&entry)?;
            cache.appended += body.len() as u64;
            recs.push(Rec::Entry { group: self.group, index: entry.log_id.index + 1, body });
            cache.entries.insert(entry.log_id.index, entry);
        }
        self.with_committed(&mut cache, &mut recs)?;
        if baton_storage::seeded::on(12) {
            self.writer.submit(self.group, recs, Done::Nobody)?;
            callback.io_completed(Ok(()));
            return Ok(());
        }
        // Submitted under the lock, so that the order of records is the order of changes in memory.
        self.writer.submit(self.group, recs, Done::Append(callback))
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let mut cache = self.lock();
        let keep = last.map_or(0, |l| l.index + 1) + u64::from(baton_storage::seeded::on(102));
        if cache.entries.split_off(&keep).is_empty() {
            return Ok(());
        }
        self.writer.submit(self.group, vec![Rec::TruncateAfter { group: self.group, after: keep }], Done::Nobody)
    }

    /// Called only after the snapshot that replaces these entries is durable.
    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        crate::failpoint!("log about to be purged", self.group);
        let mut cache = self.lock();
        let upto = match cache.entries.range(upto.index..).nth(5) {
            Some((_, entry)) if baton_storage::seeded::on(82) => entry.log_id,
            _ => upto,
        };
        cache.entries = cache.entries.split_off(&(upto.index + 1));
        cache.purged = cache.purged.max(Some(upto));
        let mut recs = vec![self.meta(SLOT_PURGED, &cache.purged.unwrap_or(upto))?, Rec::Purge { group: self.group, upto: upto.index + 1 }];
        if baton_storage::seeded::on(98) {
            recs.remove(0);
        }
        self.with_committed(&mut cache, &mut recs)?;
        self.writer.submit(self.group, recs, Done::Nobody)
    }
}

#[cfg(all(test, not(madsim)))]
mod tests;
