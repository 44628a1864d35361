//! State machine side of a group: applies committed entries, keeps a cut of the state in the store and the newest snapshot as a file.
//!
//! The apply path only freezes what changed (shared, not copied); a cut is written behind it, never ahead of the durable log
//! (`safety.md` 28). A snapshot is such a cut, dumped to a file. After a restart the state is the newest of the two, and
//! consensus replays the log after it.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use baton_storage::Pair;
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder};

use crate::api::{FrozenChanges, GroupNo, StartError, StateMachine};
use crate::cut::{CutBug, GroupCut, Standing, undump};
use crate::log::GroupStore;
use crate::rt::Rt;
use crate::snapshot::SnapshotFile;
use crate::types::{LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

struct Hosted {
    machine: Box<dyn StateMachine>,
    last: Option<LogId>,
    membership: StoredMembership,
    /// Frozen, but not in the store yet; oldest first.
    frozen: VecDeque<(Standing, FrozenChanges)>,
    frozen_at: Option<LogId>,
    /// Snapshots that are being built: the store must stand still for them.
    snapshots: usize,
}

impl Hosted {
    fn freeze(&mut self) {
        if self.last > self.frozen_at {
            self.frozen.push_back((Standing { last: self.last, membership: self.membership.clone() }, self.machine.freeze()));
            self.frozen_at = self.last;
        }
    }
}

/// Feeds one group's [`StateMachine`]. Clones share it.
#[derive(Clone)]
pub struct MachineHost {
    group: GroupNo,
    hosted: Arc<Mutex<Hosted>>,
    /// Held for the whole of a cut, a snapshot or an installation: one at a time.
    cut: Arc<tokio::sync::Mutex<Option<GroupCut>>>,
    file: Arc<dyn SnapshotFile>,
    log: GroupStore,
}

/// Less free space than that, and no cut is written: the store does not survive a full disk. The log has the rest of it.
const ROOM: u64 = 64 << 20;
/// Between two looks for room.
const AGAIN: Duration = Duration::from_secs(1);

fn broken() -> io::Error {
    io::Error::other("the store of checkpoints failed before: restart the node")
}

impl MachineHost {
    /// Restores the machine from the cut or from the snapshot file, whichever is newer; the log after it is replayed by consensus.
    pub fn open(group: GroupNo, mut machine: Box<dyn StateMachine>, mut cut: GroupCut, file: Arc<dyn SnapshotFile>, log: GroupStore) -> Result<MachineHost, StartError> {
        let bad = |reason: String| StartError::Snapshot { group, reason };
        let snapshot = file.load().map_err(|e| bad(e.to_string()))?;
        let newest = cut.standing().last.max(snapshot.as_ref().and_then(|(meta, _)| meta.last_log_id));
        log.allows(newest)?;
        if let Some((meta, data)) = snapshot
            && meta.last_log_id > cut.standing().last
        {
            let pairs = undump(&data).ok_or_else(|| bad("its content cannot be read".into()))?;
            if log.is_used() {
                tracing::info!(group, checkpoint = cut.standing().last.map_or(0, |id| id.index + 1), snapshot = meta.last_log_id.map_or(0, |id| id.index + 1), "the snapshot is newer than the checkpoint: starting from it");
            }
            cut.replace(Standing { last: meta.last_log_id, membership: meta.last_membership }, pairs)?;
        }
        if cut.standing().last.is_none() && log.is_used() {
            tracing::warn!(group, "no checkpoint: the whole log is replayed");
        }
        machine.attach(cut.stored());
        let Standing { last, membership } = cut.standing();
        if let Some(id) = &last {
            machine.load(&cut.stored()).map_err(|reason| StartError::State { group, reason })?;
            machine.applied(id.index + 1, id.leader_id.term);
        }
        let hosted = Hosted { machine, last, membership, frozen: VecDeque::new(), frozen_at: last, snapshots: 0 };
        Ok(MachineHost { group, hosted: Arc::new(Mutex::new(hosted)), cut: Arc::new(tokio::sync::Mutex::new(Some(cut))), file, log })
    }

    // A panic in the machine poisons the lock; consensus then fails this group instead of going on with half a step.
    fn lock(&self) -> io::Result<MutexGuard<'_, Hosted>> {
        self.hosted.lock().map_err(|_| io::Error::other("the state machine panicked"))
    }

    /// Brings the cut in the store up to what is applied now. Does nothing while a snapshot is built: that is a cut, too; and nothing while the
    /// disk is nearly full: a restart then replays more.
    pub async fn checkpoint(&self) -> io::Result<()> {
        let mut cut = self.cut.lock().await;
        {
            let mut hosted = self.lock()?;
            if hosted.snapshots > 0 || cut.as_ref().ok_or_else(broken)?.free()? < ROOM {
                return Ok(());
            }
            hosted.freeze();
        }
        self.write(&mut cut).await
    }

    /// Writes what is frozen. Only one with the lock on the cut may call it.
    async fn write(&self, cut: &mut Option<GroupCut>) -> io::Result<()> {
        let frozen: Vec<_> = self.lock()?.frozen.drain(..).collect();
        if frozen.is_empty() {
            return Ok(());
        }
        let count = frozen.len();
        // Consensus applies entries that are not flushed here yet. A cut of them would outlive them: ask the log before the first write (`safety.md` 28).
        if cut.as_ref().is_some_and(|c| c.bug != CutBug::AheadOfLog) {
            self.log.barrier().await?;
        }
        // The disk may have filled up since the caller looked.
        self.room(cut).await?;
        crate::failpoint!("checkpoint about to be written", self.group);
        let mut writer = cut.take().ok_or_else(broken)?;
        let written = Rt::spawn_blocking(move || {
            for (at, changes) in frozen {
                writer.advance(at, changes())?;
            }
            writer.flush()?;
            Ok::<GroupCut, io::Error>(writer)
        });
        // Lost on an error: what was frozen is in no store, so no later cut would be whole.
        *cut = Some(written.await??);
        crate::failpoint!("checkpoint written", self.group);
        let mut hosted = self.lock()?;
        (0..count).for_each(|_| hosted.machine.written());
        Ok(())
    }

    /// Waits until there is room for a write to the store, which does not survive a full disk.
    async fn room(&self, cut: &Option<GroupCut>) -> io::Result<()> {
        while cut.as_ref().ok_or_else(broken)?.free()? < ROOM {
            Rt::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Saves a snapshot as its file; on a full disk as soon as there is room: an error would end the group, and there may be room again soon.
    async fn save(&self, mut snapshot: Snapshot) -> io::Result<Snapshot> {
        loop {
            let (back, saved) = save(&self.file, snapshot).await?;
            match saved {
                Err(e) if e.kind() == io::ErrorKind::StorageFull => Rt::sleep(AGAIN).await,
                other => return other.map(|()| back),
            }
            snapshot = back;
        }
    }

    /// For tests: puts a bug back.
    #[doc(hidden)]
    pub async fn seed(&self, bug: CutBug) {
        if let Some(cut) = self.cut.lock().await.as_mut() {
            cut.bug = bug;
        }
    }
}

/// A snapshot in the making. The store stands still until it is dropped.
pub struct Builder {
    host: MachineHost,
    frozen: io::Result<()>,
}

impl Drop for Builder {
    fn drop(&mut self) {
        if self.frozen.is_ok()
            && let Ok(mut hosted) = self.host.lock()
        {
            hosted.snapshots -= 1;
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        if let Err(e) = &self.frozen {
            return Err(io::Error::new(e.kind(), e.to_string()));
        }
        let host = &self.host;
        let mut cut = host.cut.lock().await;
        host.room(&cut).await?;
        host.write(&mut cut).await?;
        let writer = cut.take().ok_or_else(broken)?;
        let (writer, dumped) = Rt::spawn_blocking(move || {
            let dumped = writer.dump();
            (writer, dumped)
        })
        .await?;
        // What the store says, not what was asked for: a snapshot of the leader may have been installed meanwhile.
        let Standing { mut last, membership } = writer.standing();
        if baton_storage::seeded::on(145) {
            last = host.lock()?.last;
        }
        *cut = Some(writer);
        drop(cut);
        let snapshot = Snapshot { meta: SnapshotMeta { last_log_id: last, last_membership: membership }, snapshot: dumped? };
        crate::failpoint!("snapshot about to be saved", host.group);
        let snapshot = host.save(snapshot).await?;
        crate::failpoint!("snapshot saved", host.group);
        Ok(snapshot)
    }
}

/// Writes off the async threads: it syncs. The snapshot comes back with what became of it.
async fn save(file: &Arc<dyn SnapshotFile>, snapshot: Snapshot) -> io::Result<(Snapshot, io::Result<()>)> {
    let file = file.clone();
    Rt::spawn_blocking(move || {
        let saved = file.save(&snapshot.meta, &snapshot.snapshot);
        (snapshot, saved)
    })
    .await
}

impl RaftStateMachine<TypeConfig> for MachineHost {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let hosted = self.lock()?;
        Ok((hosted.last, hosted.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            #[cfg(madsim)]
            crate::faults::hold_back(self.group).await;
            crate::failpoint!("entry about to be applied", self.group);
            let reply = {
                let mut hosted = self.lock()?;
                let (index, term) = (entry.log_id.index + 1, entry.log_id.leader_id.term);
                let reply = match entry.payload {
                    EntryPayload::Blank => Vec::new(),
                    EntryPayload::Normal(payload) => hosted.machine.apply(index, term, &payload.0),
                    EntryPayload::Membership(m) => {
                        hosted.membership = StoredMembership::new(Some(entry.log_id), m);
                        Vec::new()
                    }
                };
                hosted.last = Some(entry.log_id);
                hosted.machine.applied(index, term);
                reply
            };
            crate::failpoint!("entry applied, nobody told", self.group);
            if let Some(responder) = responder {
                responder.send(Payload(reply.into()));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let frozen = self.lock().map(|mut hosted| {
            hosted.freeze();
            hosted.snapshots += 1;
        });
        Builder { host: self.clone(), frozen }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Vec<u8>) -> io::Result<()> {
        let mut cut = self.cut.lock().await;
        let pairs: Vec<Pair> = undump(&data).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("group {}: the snapshot cannot be read", self.group)))?;
        // Durable before the file has its name: with it a start accepts a snapshot beyond the log's end (`safety.md` 28).
        if !baton_storage::seeded::on(95) {
            self.log.announce(meta.last_log_id).await?;
        }
        crate::failpoint!("installation announced", self.group);
        self.save(Snapshot { meta: meta.clone(), snapshot: data }).await?;
        crate::failpoint!("installation saved", self.group);
        self.room(&cut).await?;
        let mut writer = cut.take().ok_or_else(broken)?;
        let at = Standing { last: meta.last_log_id, membership: meta.last_membership.clone() };
        let written = Rt::spawn_blocking(move || {
            writer.replace(at, pairs)?;
            writer.flush()?;
            Ok::<GroupCut, io::Error>(writer)
        });
        let writer = written.await??;
        crate::failpoint!("installation in the store", self.group);
        let mut hosted = self.lock()?;
        hosted.machine.load(&writer.stored()).map_err(io::Error::other)?;
        hosted.last = meta.last_log_id;
        hosted.membership = meta.last_membership.clone();
        // What was frozen before is of no use any more.
        hosted.frozen.clear();
        hosted.frozen_at = hosted.last;
        if let Some(id) = &meta.last_log_id {
            hosted.machine.applied(id.index + 1, id.leader_id.term);
        }
        drop(hosted);
        *cut = Some(writer);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.file.load()?.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
