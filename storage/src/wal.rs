//! The Raft log of a node: one stream of frames for all its Raft groups, one fdatasync for each group commit.
//!
//! It repairs a torn tail and refuses any other damage: a Raft voter that forgets what it acknowledged breaks the cluster's promise. Synchronous: `open`, then
//! `commit` from one thread. Any error of a write or a sync is final: the log is poisoned, the process must stop and recover. Called by `raft` alone.

mod format;
mod records;
mod recovery;

pub use records::{GroupLog, Rec};

use crate::{Disk, DiskFile};
use format::*;
use records::{Position, Stored, apply};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};
use thiserror::Error;

const SPARE: &str = "spare.tmp";

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Length of a segment, bytes; a multiple of 512, at least 4,096. Fixed for the folder's life.
    pub segment_bytes: u64,
    /// Cluster and node: a log of another node is refused.
    pub ident: [u8; 24],
    /// A bug put back on purpose; only the crash tests set it.
    #[doc(hidden)]
    pub bug: Bug,
}
impl Options {
    /// A log of `segment_bytes` segments for the node `ident`.
    pub fn new(segment_bytes: u64, ident: [u8; 24]) -> Self { Self { segment_bytes, ident, bug: Bug::None } }
}

/// The seeded bugs of the log.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    None,
    NoWipe,
    WipeOnlyWhenNeeded,
    NoSyncAtOpen,
    NoBase,
    NoDirSync,
    NoSegmentSync,
    NoFrameSync,
    TailNotRewritten,
}

/// Why a log does not open.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("the log cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Corrupt(String),
    #[error("this log belongs to another node or cluster: start the node with its own folder, or with an empty one and a new node id")]
    WrongIdent,
}

/// An open log.
#[derive(Debug)]
pub struct Wal<D: Disk> {
    disk: D,
    options: Options,
    positions: BTreeMap<u16, Position>,
    segments: BTreeSet<u64>,
    file: D::File,
    current: u64,
    offset: usize,
    frame: u64,
    poisoned: bool,
}

impl<D: Disk> Wal<D> {
    /// Opens the log, or makes an empty one. With it comes what each Raft group had.
    pub fn open(disk: D, options: Options) -> Result<(Wal<D>, BTreeMap<u16, GroupLog>), OpenError> {
        let size = options.segment_bytes;
        if !size.is_multiple_of(SECTOR as u64) || size < 8 * SECTOR as u64 {
            return Err(OpenError::Io(io::Error::new(io::ErrorKind::InvalidInput, format!("a segment of {size} bytes: it must be a multiple of 512, at least 4096"))));
        }
        let Some(r) = recovery::recover(&disk, &options)? else {
            let file = make_segment(&disk, &options, 1)?;
            let wal = Wal { disk, options, positions: BTreeMap::new(), segments: [1].into(), file, current: 1, offset: SECTOR, frame: 1, poisoned: false };
            return Ok((wal, BTreeMap::new()));
        };
        let file = disk.open(&segment_name(r.current))?;
        let mut wal =
            Wal { disk, options, positions: r.positions, segments: r.segments, file, current: r.current, offset: r.offset, frame: r.frame, poisoned: false };
        if wal.offset == SECTOR {
            // Again even when the seal is there: it may be in the cache only.
            if wal.segments.contains(&(wal.current - 1)) {
                seal(&wal.disk.open(&segment_name(wal.current - 1))?, &wal.options, wal.current - 1)?;
            }
            if !wal.positions.is_empty() {
                wal.base()?;
            }
        }
        let mut bodies = r.bodies;
        let logs = wal.positions.iter().map(|(g, p)| (*g, GroupLog { purged: p.purged, last: p.last, entries: bodies.remove(g).unwrap_or_default(), meta: p.meta.clone() })).collect();
        Ok((wal, logs))
    }

    /// Appends the records of all groups that wait, in order, and makes them durable: one frame and one fdatasync, several when they do not fit into one.
    /// After an error nothing more is taken: the outcome is unknown until the log is opened again.
    pub fn commit(&mut self, records: &[Rec]) -> io::Result<()> {
        if self.poisoned {
            return Err(io::Error::other("the log is poisoned by an earlier error: restart the node"));
        }
        // Before anything is written: a record that recovery would refuse must never become durable. Nothing is poisoned by it.
        self.check(records)?;
        let result = self.commit_all(records);
        self.poisoned = result.is_err();
        result
    }
    /// Segments on disk.
    pub fn segments(&self) -> usize { self.segments.len() }
    /// Bytes on disk.
    pub fn bytes(&self) -> u64 { self.segments.len() as u64 * self.options.segment_bytes }

    /// Entries must follow one another without a gap, also within this commit.
    fn check(&self, records: &[Rec]) -> io::Result<()> {
        let mut ends: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for r in records {
            let (Rec::Entry { group, .. } | Rec::TruncateAfter { group, .. } | Rec::Purge { group, .. } | Rec::Meta { group, .. }) = r;
            let (purged, last) = ends.entry(*group).or_insert_with(|| self.positions.get(group).map_or((0, 0), |p| (p.purged, p.last)));
            match r {
                Rec::Entry { index, .. } if *index != *last + 1 => {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("group {group}: entry {index} was given where entry {} is due; nothing was written", *last + 1)));
                }
                Rec::Entry { index, .. } => *last = *index,
                Rec::TruncateAfter { after, .. } => *last = (*last).min((*after).max(*purged)),
                Rec::Purge { upto, .. } => {
                    *purged = (*purged).max(*upto);
                    *last = (*last).max(*purged);
                }
                Rec::Meta { .. } => {}
            }
        }
        Ok(())
    }

    fn commit_all(&mut self, records: &[Rec]) -> io::Result<()> {
        // A frame takes at most half a segment, so that one always fits behind the base of a new segment.
        let room = (FRAME_MAX.min((self.options.segment_bytes as usize - 2 * SECTOR) / 2) / SECTOR) * PAYLOAD - 4;
        let (mut batch, mut used) = (Vec::new(), 0);
        for stored in records.iter().flat_map(|r| split(r, room)) {
            if used + stored.length() > room {
                self.append(&std::mem::take(&mut batch))?;
                used = 0;
            }
            used += stored.length();
            batch.push(stored);
        }
        if batch.is_empty() { Ok(()) } else { self.append(&batch) }
    }

    fn append(&mut self, records: &[Stored]) -> io::Result<()> {
        if self.write_frame(records)? {
            return Ok(());
        }
        self.rotate()?;
        if self.write_frame(records)? { Ok(()) } else { Err(io::Error::other("the state of the groups leaves no room in a segment: use larger segments")) }
    }

    /// Writes one frame; false: it does not fit into this segment.
    fn write_frame(&mut self, records: &[Stored]) -> io::Result<bool> {
        let mut body = vec![0; 4];
        records.iter().for_each(|r| r.put(&mut body));
        let length = (body.len() - 4) as u32;
        body[..4].copy_from_slice(&length.to_le_bytes());
        let bytes = body.len().div_ceil(PAYLOAD) * SECTOR;
        if self.offset + bytes > self.options.segment_bytes as usize - SECTOR {
            return Ok(false);
        }
        self.file.write_at(self.offset as u64, &wrap(self.current, (self.offset / SECTOR) as u64, self.frame, &body))?;
        if self.options.bug != Bug::NoFrameSync {
            self.file.sync_data()?;
        }
        self.offset += bytes;
        self.frame += 1;
        for r in records {
            apply(&mut self.positions, self.current, r.clone(), None).map_err(io::Error::other)?;
        }
        Ok(true)
    }

    /// Goes on in a new segment. The old one is sealed only when the new one is durable under its name.
    fn rotate(&mut self) -> io::Result<()> {
        let next = self.current + 1;
        let file = make_segment(&self.disk, &self.options, next)?;
        seal(&self.file, &self.options, self.current)?;
        (self.file, self.current, self.offset) = (file, next, SECTOR);
        self.segments.insert(next);
        self.base()?;
        // Oldest first, so that a gap is always an error.
        let needed = self.positions.values().flat_map(|p| p.at.values().next().copied().into_iter().chain(p.parts_from)).min().unwrap_or(self.current).min(self.current);
        while let Some(&oldest) = self.segments.first().filter(|n| **n < needed) {
            self.disk.remove(&segment_name(oldest))?;
            self.disk.sync_dir()?;
            self.segments.pop_first();
        }
        Ok(())
    }

    /// Every segment starts with the state of every group.
    fn base(&mut self) -> io::Result<()> {
        if self.options.bug == Bug::NoBase {
            return Ok(());
        }
        let mut records = Vec::new();
        for (g, p) in &self.positions {
            records.push(Stored::Base { group: *g, purged: p.purged, last: p.last, parts: p.parts_seen });
            records.extend(p.meta.iter().map(|(slot, body)| Stored::Whole(Rec::Meta { group: *g, slot: *slot, body: body.clone() })));
        }
        if records.is_empty() || self.write_frame(&records)? { Ok(()) } else { Err(io::Error::other("the state of the groups does not fit into a segment: use larger segments")) }
    }
}

/// An entry larger than a frame goes into consecutive frames and counts only when its last part is durable.
fn split(r: &Rec, room: usize) -> Vec<Stored> {
    const PART_HEAD: usize = 20;
    match r {
        Rec::Entry { group, index, body } if body.len() + PART_HEAD > room => {
            let pieces: Vec<&[u8]> = body.chunks(room - PART_HEAD).collect();
            let count = pieces.len();
            pieces.into_iter().enumerate().map(|(i, b)| Stored::Part { group: *group, index: *index, number: i as u32, last: i + 1 == count, body: b.to_vec() }).collect()
        }
        r => vec![Stored::Whole(r.clone())],
    }
}

/// The whole file is written and synced before it gets its name, and the name is durable before its first use.
fn make_segment<D: Disk>(disk: &D, o: &Options, n: u64) -> io::Result<D::File> {
    let full = |e: io::Error| if e.kind() == io::ErrorKind::StorageFull { io::Error::new(e.kind(), "the disk is full: no new log segment can be made; free space and restart the node") } else { e };
    let f = disk.create(SPARE).map_err(full)?;
    f.write_at(0, &vec![0; o.segment_bytes as usize]).map_err(full)?;
    f.write_at(0, &wrap(n, 0, 0, &header(n, o.segment_bytes, &o.ident)))?;
    if o.bug != Bug::NoSegmentSync {
        f.sync_data()?;
    }
    disk.rename(SPARE, &segment_name(n))?;
    if o.bug != Bug::NoDirSync {
        disk.sync_dir()?;
    }
    Ok(f)
}

fn seal<F: DiskFile>(f: &F, o: &Options, n: u64) -> io::Result<()> {
    let sector = o.segment_bytes / SECTOR as u64 - 1;
    f.write_at(sector * SECTOR as u64, &wrap(n, sector, SEAL, &[1]))?;
    f.sync_data()
}
