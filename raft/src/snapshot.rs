//! The newest snapshot of one group, as a file.
//!
//! It is written under a temporary name, synced, renamed, and the directory synced, before consensus hears of it; the log
//! is purged only up to such a file. An older snapshot never replaces a newer one.

use std::io;
use std::sync::{Mutex, PoisonError};

use baton_storage::{Disk, DiskFile};

use crate::api::GroupNo;
use crate::types::{LogId, Payload, SnapshotMeta, decode, encode};

const MAGIC: &[u8; 8] = b"BATSNAP2";
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
        let written = self.disk.create(&temporary).and_then(|file| file.write_at(0, &bytes).and_then(|()| if baton_storage::seeded::on(81) { Ok(()) } else { file.sync_data() }));
        if let Err(e) = written {
            // On a full disk the part that was written is in the way of others. The error that counts is the first.
            let _ = self.disk.remove(&temporary);
            return Err(e);
        }
        crate::failpoint_sync!("snapshot file written", self.group);
        self.disk.rename(&temporary, &self.name())?;
        crate::failpoint_sync!("snapshot file named", self.group);
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
