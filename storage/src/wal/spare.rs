//! The next segment, made ahead of need. The whole file is written with zeros and synced before it gets its name, and the name is durable
//! before its first use; so the log never waits for a new file, and a full disk is known before it is in the way.

use super::{Bug, Options, format::*};
use crate::{Disk, DiskFile};
use std::io;

/// Its name until it is needed.
pub const NAME: &str = "spare.tmp";
/// It is synced piece by piece: one sync of a whole segment would hold up a commit behind it.
const PIECE: u64 = 1 << 20;

/// A segment in the making.
#[derive(Debug)]
pub struct Spare<F> {
    file: Option<F>,
    written: u64,
    ready: bool,
}
impl<F> Default for Spare<F> {
    fn default() -> Self { Self { file: None, written: 0, ready: false } }
}

impl<F: DiskFile> Spare<F> {
    /// Writes at most about `bytes` more of segment `n`. True: it is ready. When the disk is full, what there is of it is given back.
    pub fn prepare<D: Disk<File = F>>(&mut self, disk: &D, o: &Options, n: u64, bytes: usize) -> io::Result<bool> {
        let result = self.write(disk, o, n, bytes as u64);
        match result {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                *self = Spare::default();
                match disk.remove(NAME) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                    _ => {}
                }
                Err(io::Error::new(e.kind(), "the disk is full: no new log segment can be made, so new entries are refused; they are taken again once there is room"))
            }
            other => other,
        }
    }

    fn write<D: Disk<File = F>>(&mut self, disk: &D, o: &Options, n: u64, bytes: u64) -> io::Result<bool> {
        if self.ready {
            return Ok(true);
        }
        let file = match self.file.take() {
            Some(f) => f,
            None => disk.create(NAME)?,
        };
        let end = o.segment_bytes.min(self.written.saturating_add(bytes.max(1)));
        let zeros = vec![0; PIECE.min(o.segment_bytes) as usize];
        while self.written < end {
            let piece = PIECE.min(o.segment_bytes - self.written);
            file.write_at(self.written, &zeros[..piece as usize])?;
            self.written += piece;
            if self.written < o.segment_bytes {
                file.sync_data()?;
            }
        }
        if self.written == o.segment_bytes {
            file.write_at(0, &wrap(n, 0, 0, &header(n, o.segment_bytes, &o.ident)))?;
            if o.bug != Bug::NoSegmentSync {
                file.sync_data()?;
            }
            self.ready = true;
        }
        self.file = Some(file);
        Ok(self.ready)
    }

    /// The segment `n` under its name; made now if it is not ready.
    pub fn take<D: Disk<File = F>>(&mut self, disk: &D, o: &Options, n: u64) -> io::Result<F> {
        self.prepare(disk, o, n, usize::MAX)?;
        let spare = std::mem::take(self);
        disk.rename(NAME, &segment_name(n))?;
        if o.bug != Bug::NoDirSync {
            disk.sync_dir()?;
        }
        spare.file.ok_or_else(|| io::Error::other("the next segment is not ready"))
    }
}
