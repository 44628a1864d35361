//! State machine side of a group: applies committed entries, keeps the newest snapshot as a file.
//!
//! A snapshot file is written under a temporary name, synced, renamed, and the directory synced, before consensus
//! hears of it; the log is purged only up to such a file. An older snapshot never replaces a newer one.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_storage::{Disk, DiskFile};
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{AsyncRuntime, EntryPayload, OptionalSend, RaftSnapshotBuilder};

use crate::api::{GroupNo, StartError, StateMachine};
use crate::rt::Rt;
use crate::types::{LogId, Payload, Snapshot, SnapshotMeta, StoredMembership, TypeConfig, decode, encode};

const MAGIC: &[u8; 8] = b"BATSNAP1";
const HEADER: usize = 8 + 4 + 8;

/// The newest snapshot of one group on its disk.
pub trait SnapshotFile: Send + Sync + 'static {
    fn save(&self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()>;
    fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>>;
}

/// [`SnapshotFile`] on a [`Disk`].
pub struct SnapshotDir<D> {
    disk: D,
    group: GroupNo,
    /// Last log id of the file. The lock also keeps two writers of the temporary file apart.
    newest: Mutex<Option<LogId>>,
}

impl<D: Disk + Sync> SnapshotDir<D> {
    pub fn new(disk: D, group: GroupNo) -> SnapshotDir<D> {
        SnapshotDir { disk, group, newest: Mutex::new(None) }
    }

    fn name(&self) -> String {
        format!("snapshot-{:05}", self.group)
    }
}

impl<D: Disk + Sync> SnapshotFile for SnapshotDir<D> {
    fn save(&self, meta: &SnapshotMeta, data: &[u8]) -> io::Result<()> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if *newest > meta.last_log_id {
            return Ok(());
        }
        let body = encode(&(meta, serde_bytes_ref(data)))?;
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes.extend_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&body);
        let temporary = format!("{}.tmp", self.name());
        let file = self.disk.create(&temporary)?;
        file.write_at(0, &bytes)?;
        file.sync_data()?;
        drop(file);
        self.disk.rename(&temporary, &self.name())?;
        self.disk.sync_dir()?;
        *newest = meta.last_log_id;
        Ok(())
    }

    fn load(&self) -> io::Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.disk.list()?.contains(&self.name()) {
            return Ok(None);
        }
        let file = self.disk.open(&self.name())?;
        let length = file.len()? as usize;
        let mut bytes = vec![0; length];
        file.read_at(0, &mut bytes)?;
        let (meta, data): (SnapshotMeta, Payload) = decode(checked(&bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{}: the checksum does not match", self.name()))
        })?)?;
        *newest = meta.last_log_id;
        Ok(Some((meta, data.0.to_vec())))
    }
}

/// The same encoding as [`Payload`], without a copy.
fn serde_bytes_ref(data: &[u8]) -> impl serde::Serialize + '_ {
    struct Bytes<'a>(&'a [u8]);
    impl serde::Serialize for Bytes<'_> {
        fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
            s.serialize_bytes(self.0)
        }
    }
    Bytes(data)
}

/// The body, if the file is whole.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let crc = u32::from_le_bytes(header[8..12].try_into().ok()?);
    let length = usize::try_from(u64::from_le_bytes(header[12..20].try_into().ok()?)).ok()?;
    let body = rest.get(..length)?;
    (&header[..8] == MAGIC && crc32c::crc32c(body) == crc).then_some(body)
}

struct Hosted {
    machine: Box<dyn StateMachine>,
    last: Option<LogId>,
    membership: StoredMembership,
}

/// Feeds one group's [`StateMachine`]. Clones share it.
#[derive(Clone)]
pub struct MachineHost {
    hosted: Arc<Mutex<Hosted>>,
    file: Arc<dyn SnapshotFile>,
}

impl MachineHost {
    /// Restores the machine from the newest snapshot file; the log after it is replayed by consensus.
    pub fn open(group: GroupNo, mut machine: Box<dyn StateMachine>, file: Arc<dyn SnapshotFile>) -> Result<MachineHost, StartError> {
        let bad = |reason: String| StartError::Snapshot { group, reason };
        let (mut last, mut membership) = (None, StoredMembership::default());
        if let Some((meta, data)) = file.load().map_err(|e| bad(e.to_string()))? {
            machine.restore(&data).map_err(bad)?;
            (last, membership) = (meta.last_log_id, meta.last_membership);
            if let Some(id) = &last {
                machine.applied(id.index + 1, id.leader_id.term);
            }
        }
        Ok(MachineHost { hosted: Arc::new(Mutex::new(Hosted { machine, last, membership })), file })
    }

    // A panic in the machine poisons the lock; consensus then fails this group instead of going on with half a step.
    fn lock(&self) -> io::Result<MutexGuard<'_, Hosted>> {
        self.hosted.lock().map_err(|_| io::Error::other("the state machine panicked"))
    }
}

/// A frozen view of the state, to be written while the machine goes on.
pub struct Builder {
    view: io::Result<(SnapshotMeta, Vec<u8>)>,
    file: Arc<dyn SnapshotFile>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let taken = std::mem::replace(&mut self.view, Err(io::Error::other("snapshot built twice")));
        let (meta, data) = taken?;
        save(&self.file, meta, data).await
    }
}

/// Writes off the async threads: it syncs.
async fn save(file: &Arc<dyn SnapshotFile>, meta: SnapshotMeta, snapshot: Vec<u8>) -> io::Result<Snapshot> {
    let file = file.clone();
    Rt::spawn_blocking(move || {
        file.save(&meta, &snapshot)?;
        Ok(Snapshot { meta, snapshot })
    })
    .await?
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
            if let Some(responder) = responder {
                responder.send(Payload(reply.into()));
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let view = self.lock().map(|hosted| {
            let meta = SnapshotMeta { last_log_id: hosted.last, last_membership: hosted.membership.clone() };
            (meta, hosted.machine.snapshot())
        });
        Builder { view, file: self.file.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Vec<u8>) -> io::Result<()> {
        let saved = save(&self.file, meta.clone(), data).await?;
        let mut hosted = self.lock()?;
        hosted.machine.restore(&saved.snapshot).map_err(io::Error::other)?;
        hosted.last = meta.last_log_id;
        hosted.membership = meta.last_membership.clone();
        if let Some(id) = &meta.last_log_id {
            hosted.machine.applied(id.index + 1, id.leader_id.term);
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.file.load()?.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}
