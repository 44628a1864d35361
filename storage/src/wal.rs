//! The Raft log of a node: one stream of frames for all its Raft groups, one fdatasync for each group commit.
//!
//! It repairs a torn tail and refuses any other damage: a Raft voter that forgets what it acknowledged breaks the cluster's promise. Synchronous: `open`, then
//! `commit` from one thread. Any error of a write or a sync is final: the log is poisoned, the process must stop and recover. A full disk is none:
//! it is noticed before anything is written, and the log goes on when there is room again. Called by `raft` alone.

mod format;
mod records;
mod recovery;
mod spare;

pub use records::{GroupLog, Rec};

use crate::{Disk, DiskFile};
use format::*;
use records::{Position, Stored, apply};
use spare::Spare;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};
use thiserror::Error;

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
    /// The next segment, made ahead of need.
    spare: Spare<D::File>,
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
            let mut spare = Spare::default();
            let file = spare.take(&disk, &options, 1)?;
            let wal = Wal { disk, options, positions: BTreeMap::new(), segments: [1].into(), file, current: 1, offset: SECTOR, frame: 1, spare, poisoned: false };
            return Ok((wal, BTreeMap::new()));
        };
        let file = disk.open(&segment_name(r.current))?;
        let (current, offset, frame, spare) = (r.current, r.offset, r.frame, Spare::default());
        let mut wal = Wal { disk, options, positions: r.positions, segments: r.segments, file, current, offset, frame, spare, poisoned: false };
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
    /// After an error nothing more is taken: the outcome is unknown until the log is opened again. Two errors are none of that kind, because they
    /// come before anything is written: `InvalidInput` for an entry out of order, and `StorageFull` when the next segment is due and cannot be made.
    /// Entries are refused with it while there is still a reserve, so that votes, truncations and purges go on.
    pub fn commit(&mut self, records: &[Rec]) -> io::Result<()> {
        if self.poisoned {
            return Err(io::Error::other("the log is poisoned by an earlier error: restart the node"));
        }
        // Before anything is written: a record that recovery would refuse must never become durable. Nothing is poisoned by it.
        self.check(records)?;
        let frames = self.frames(records);
        let bytes: usize = frames.iter().map(|f| on_disk(f)).sum();
        let entries = records.iter().any(|r| matches!(r, Rec::Entry { .. }));
        if bytes + if entries { self.reserve() } else { 0 } > self.left() {
            self.make_spare()?;
        }
        let result = frames.iter().try_for_each(|f| self.append(f)).and_then(|()| {
            if records.iter().any(|r| matches!(r, Rec::Purge { .. })) { self.trim() } else { Ok(()) }
        });
        self.poisoned = result.is_err();
        result
    }
    /// Works at the next segment, so that it is there before it is needed: at most so many bytes now. False: it is not ready yet, or the disk is full.
    pub fn prepare(&mut self, bytes: usize) -> io::Result<bool> {
        if self.poisoned {
            return Err(io::Error::other("the log is poisoned by an earlier error: restart the node"));
        }
        let result = self.spare.prepare(&self.disk, &self.options, self.current + 1, bytes);
        self.poisoned = matches!(&result, Err(e) if e.kind() != io::ErrorKind::StorageFull);
        match result {
            Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(false),
            other => other,
        }
    }
    /// Whether no more entries should be brought because the disk is full: a little before they are refused, for those on their way. Tries again.
    pub fn is_full(&mut self) -> bool { !self.poisoned && self.left() < 2 * self.reserve() && matches!(self.make_spare(), Err(e) if e.kind() == io::ErrorKind::StorageFull) }
    /// The groups whose oldest entry keeps more than so many segments before the current one.
    pub fn pinned(&self, segments: u64) -> Vec<u16> { self.positions.iter().filter(|(_, p)| p.oldest().is_some_and(|s| s + segments < self.current)).map(|(g, _)| *g).collect() }
    /// The last index of a group that is on disk.
    pub fn last(&self, group: u16) -> u64 { self.positions.get(&group).map_or(0, |p| p.last) }

    /// Every group's last index and a small value of it, as they are on disk.
    pub fn durable(&self) -> impl Iterator<Item = (u16, u64, &BTreeMap<u8, Vec<u8>>)> { self.positions.iter().map(|(g, p)| (*g, p.last, &p.meta)) }

    /// What is left in the current segment, bytes.
    fn left(&self) -> usize { (self.options.segment_bytes as usize - SECTOR).saturating_sub(self.offset) }
    /// Kept for votes, truncations and purges when no new segment can be made.
    fn reserve(&self) -> usize { (self.options.segment_bytes as usize / 4).min(FRAME_MAX) }
    fn make_spare(&mut self) -> io::Result<()> {
        let result = self.spare.prepare(&self.disk, &self.options, self.current + 1, usize::MAX);
        self.poisoned = matches!(&result, Err(e) if e.kind() != io::ErrorKind::StorageFull);
        result.map(|_| ())
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

    /// The records of a commit, cut into frames.
    fn frames(&self, records: &[Rec]) -> Vec<Vec<Stored>> {
        // A frame takes at most half a segment, so that one always fits behind the base of a new segment.
        let room = (FRAME_MAX.min((self.options.segment_bytes as usize - 2 * SECTOR) / 2) / SECTOR) * PAYLOAD - 4;
        let (mut frames, mut used) = (Vec::new(), room);
        for stored in records.iter().flat_map(|r| split(r, room)) {
            if used + stored.length() > room {
                frames.push(Vec::new());
                used = 0;
            }
            used += stored.length();
            if let Some(frame) = frames.last_mut() {
                frame.push(stored);
            }
        }
        frames
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
        let file = self.spare.take(&self.disk, &self.options, next)?;
        seal(&self.file, &self.options, self.current)?;
        (self.file, self.current, self.offset) = (file, next, SECTOR);
        self.segments.insert(next);
        self.base()?;
        self.trim()
    }

    /// Removes the segments that nobody needs any more. Oldest first, so that a gap is always an error.
    fn trim(&mut self) -> io::Result<()> {
        let needed = self.positions.values().filter_map(Position::oldest).min().unwrap_or(self.current).min(self.current);
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

/// Bytes of a frame on disk.
fn on_disk(records: &[Stored]) -> usize { (4 + records.iter().map(Stored::length).sum::<usize>()).div_ceil(PAYLOAD) * SECTOR }

fn seal<F: DiskFile>(f: &F, o: &Options, n: u64) -> io::Result<()> {
    let sector = o.segment_bytes / SECTOR as u64 - 1;
    f.write_at(sector * SECTOR as u64, &wrap(n, sector, SEAL, &[1]))?;
    f.sync_data()
}
