//! Opening a log: replay, then decide whether what does not read is a torn last write (dropped) or damage (refused).
//!
//! A frame n + 1 on disk proves that n was durable, because one frame is in flight at a time. So the first frame n that is not whole was never
//! acknowledged only if from there to the end of the log there are just zero sectors and valid sectors of n itself. Anything else is damage.

use super::{Bug, OpenError, Options, format::*, records::*};
use crate::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet};

/// What a log holds and where it ends.
pub(super) struct Recovered {
    pub positions: BTreeMap<u16, Position>,
    pub bodies: BTreeMap<u16, BTreeMap<u64, Vec<u8>>>,
    pub segments: BTreeSet<u64>,
    /// The segment that is written, the offset of the next frame in it, and its number.
    pub current: u64,
    pub offset: usize,
    pub frame: u64,
}

/// The last whole frame: segment, offset, bytes.
type Tail = (u64, usize, Vec<u8>);

struct Reader {
    positions: BTreeMap<u16, Position>,
    bodies: BTreeMap<u16, BTreeMap<u64, Vec<u8>>>,
    next_frame: Option<u64>,
    tail: Option<Tail>,
}

fn corrupt<T>(what: impl std::fmt::Display) -> Result<T, OpenError> {
    Err(OpenError::Corrupt(format!(
        "{what}. The log is damaged and must not be cut: remove this node from the cluster and let it come back under a new node id with an empty folder"
    )))
}

pub(super) fn recover<D: Disk>(disk: &D, o: &Options) -> Result<Option<Recovered>, OpenError> {
    let size = o.segment_bytes as usize;
    let segments = segments_of(disk)?;
    let (Some(&first), Some(&last)) = (segments.first(), segments.last()) else { return Ok(None) };
    if segments.len() as u64 != last - first + 1 {
        return corrupt(format!("a segment between {first} and {last} is missing"));
    }
    let mut r = Reader { positions: BTreeMap::new(), bodies: BTreeMap::new(), next_frame: None, tail: None };
    let (mut end, mut unsealed) = (None, false);
    for &n in &segments {
        let bytes = read_segment(disk, n, size, o)?;
        let mut sectors: Vec<Sector> = bytes.chunks(SECTOR).enumerate().map(|(i, s)| classify(n, i as u64, s)).collect();
        let written_after = sectors[1..sectors.len() - 1].iter().any(|s| *s != Sector::Zero);
        match (sectors.pop().unwrap_or(Sector::Damaged), n == last) {
            (Sector::Frame(SEAL), false) | (Sector::Zero, true) => {}
            (Sector::Frame(SEAL), true) => return corrupt(format!("segment {} is missing: segment {n} says that it exists", n + 1)),
            // The next segment was made, but its name came before the seal was durable: then it is still empty.
            (Sector::Zero, false) if n + 1 == last => unsealed = true,
            (s, _) => return corrupt(format!("segment {n} is not sealed ({s:?})")),
        }
        if unsealed && n == last && written_after {
            return corrupt(format!("segment {n} has data, but segment {} is not sealed", n - 1));
        }
        end = r.segment(n, &bytes, &sectors, n == last)?;
        // The rest of a full segment stays unused when a frame did not fit; a torn frame can be in the last one only.
        if n != last && end.take().is_some_and(|(.., used)| used > 0) {
            return corrupt(format!("segment {n} ends in a torn frame, but segment {} exists", n + 1));
        }
    }
    for (g, p) in &r.positions {
        if r.bodies.get(g).map_or(0, BTreeMap::len) as u64 != p.last - p.purged || !p.hollow.is_empty() {
            return corrupt(format!("group {g}: entries {} to {} are not all there", p.purged + 1, p.last));
        }
    }
    let (current, offset, used) = end.unwrap_or((last, size - SECTOR, 0));
    trust(disk, o, current, offset, used, r.tail.take())?;
    Ok(Some(Recovered { positions: r.positions, bodies: r.bodies, segments, current, offset, frame: r.next_frame.unwrap_or(1) }))
}

fn segments_of<D: Disk>(disk: &D) -> Result<BTreeSet<u64>, OpenError> {
    let mut segments = BTreeSet::new();
    for name in disk.list()? {
        if name == super::spare::NAME {
            disk.remove(super::spare::NAME)?;
        } else if let Some(n) = name.strip_suffix(".wal") {
            segments.insert(u64::from_str_radix(n, 16).map_err(|_| OpenError::Corrupt(format!("{name} is not the name of a segment: move it away")))?);
        }
    }
    Ok(segments)
}

fn read_segment<D: Disk>(disk: &D, n: u64, size: usize, o: &Options) -> Result<Vec<u8>, OpenError> {
    let f = disk.open(&segment_name(n))?;
    let length = f.len()?;
    if length != size as u64 {
        return corrupt(format!("segment {n} is {length} bytes long, not {size}"));
    }
    let mut bytes = vec![0; size];
    f.read_at(0, &mut bytes)?;
    if classify(n, 0, &bytes[..SECTOR]) != Sector::Frame(0) {
        return corrupt(format!("the header of segment {n} does not read"));
    }
    let want = header(n, size as u64, &o.ident);
    let have = &bytes[..want.len()];
    if have[..want.len() - 24] != want[..want.len() - 24] {
        return corrupt(format!("the header of segment {n} is of another version, segment or size"));
    }
    if have != want {
        return Err(OpenError::WrongIdent);
    }
    Ok(bytes)
}

impl Reader {
    /// Reads the frames of one segment. Returns where the log ends, if it ends here: segment, offset, bytes of the torn frame.
    fn segment(&mut self, n: u64, bytes: &[u8], sectors: &[Sector], is_last: bool) -> Result<Option<(u64, usize, usize)>, OpenError> {
        let mut at = 1;
        while at < sectors.len() {
            let length = match sectors[at] {
                Sector::Frame(f) if self.next_frame.is_some_and(|want| want != f) => {
                    return corrupt(format!("segment {n}, sector {at}: frame {f} where frame {:?} is due", self.next_frame));
                }
                Sector::Frame(_) => (u32::from_le_bytes([bytes[at * SECTOR], bytes[at * SECTOR + 1], bytes[at * SECTOR + 2], bytes[at * SECTOR + 3]]) as usize + 4).div_ceil(PAYLOAD),
                Sector::Zero | Sector::Damaged => 1,
            };
            let whole = matches!(sectors[at], Sector::Frame(_)) && at + length <= sectors.len() && sectors[at..at + length].iter().all(|s| *s == sectors[at]);
            if let (true, Sector::Frame(f)) = (whole, sectors[at]) {
                let raw = &bytes[at * SECTOR..(at + length) * SECTOR];
                self.frame(n, at, &unwrap(raw))?;
                self.tail = Some((n, at * SECTOR, raw.to_vec()));
                self.next_frame = Some(f + 1);
                at += length;
                continue;
            }
            for (i, s) in sectors[at..].iter().enumerate() {
                match s {
                    Sector::Damaged => return corrupt(format!("segment {n}, sector {}, is damaged", at + i)),
                    Sector::Frame(f) if self.next_frame.is_some_and(|want| want != *f) => {
                        return corrupt(format!("segment {n}, sector {}: frame {f} follows the missing frame {:?}", at + i, self.next_frame));
                    }
                    _ => {}
                }
            }
            let used = sectors[at..].iter().rposition(|s| *s != Sector::Zero).map_or(0, |i| i + 1);
            return Ok(Some((n, at * SECTOR, used * SECTOR)));
        }
        Ok(is_last.then_some((n, sectors.len() * SECTOR, 0)))
    }
    fn frame(&mut self, n: u64, at: usize, body: &[u8]) -> Result<(), OpenError> {
        let length = u32::from_le_bytes([body[0], body[1], body[2], body[3]]) as usize;
        let mut rest = &body[4..4 + length];
        while !rest.is_empty() {
            let Some(record) = Stored::take(&mut rest) else { return corrupt(format!("segment {n}, sector {at}: not a record")) };
            if let Err(why) = apply(&mut self.positions, n, record, Some(&mut self.bodies)) {
                return corrupt(format!("segment {n}, sector {at}: {why}"));
            }
        }
        Ok(())
    }
}

/// Sync before trust: what was read may be only in the page cache, or marked clean after a failed fsync. The last whole frame is written
/// again, what follows is wiped always (what reads as zero may be an earlier wipe that never reached the disk), and all of it is synced.
fn trust<D: Disk>(disk: &D, o: &Options, current: u64, offset: usize, used: usize, tail: Option<Tail>) -> Result<(), OpenError> {
    let size = o.segment_bytes as usize;
    let f = disk.open(&segment_name(current))?;
    let wipe = used.max((size - SECTOR - offset).min(FRAME_MAX));
    let wipe = if o.bug == Bug::WipeOnlyWhenNeeded { used } else { wipe };
    if wipe > 0 && o.bug != Bug::NoWipe {
        f.write_at(offset as u64, &vec![0; wipe])?;
    }
    if let Some((n, at, bytes)) = tail.filter(|_| o.bug != Bug::TailNotRewritten) {
        let tail_file = disk.open(&segment_name(n))?;
        tail_file.write_at(at as u64, &bytes)?;
        if n != current {
            tail_file.sync_data()?;
        }
    }
    if o.bug != Bug::NoSyncAtOpen {
        f.sync_data()?;
        disk.sync_dir()?;
    }
    Ok(())
}
