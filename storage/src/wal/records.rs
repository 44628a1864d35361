//! The records of the log and the one fold that applies them, live and at recovery.

use std::collections::{BTreeMap, BTreeSet};

/// What is asked of the log. Indexes start at 1; 0 stands for "none".
#[derive(Clone, Debug, PartialEq)]
pub enum Rec {
    /// The next entry of a group: `index` is one above its last.
    Entry { group: u16, index: u64, body: Vec<u8> },
    /// Entries above `after` are void.
    TruncateAfter { group: u16, after: u64 },
    /// Entries up to `upto` are no longer needed. Beyond the last entry: the log goes on after `upto`.
    Purge { group: u16, upto: u64 },
    /// A small value (vote, committed …): the newest of a slot counts.
    Meta { group: u16, slot: u8, body: Vec<u8> },
}

/// A record as it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stored {
    Whole(Rec),
    /// A piece of an entry that is larger than a frame; it counts when the last piece is there.
    Part { group: u16, index: u64, number: u32, last: bool, body: Vec<u8> },
    /// The state of a group at the start of a segment, so that older segments can go without a rewrite.
    /// `parts` pieces of the next entry came before.
    Base { group: u16, purged: u64, last: u64, parts: u32 },
}

const HEAD: usize = 15;
impl Stored {
    pub fn length(&self) -> usize {
        HEAD + match self {
            Stored::Whole(Rec::Entry { body, .. } | Rec::Meta { body, .. }) => body.len(),
            Stored::Part { body, .. } => body.len() + 5,
            Stored::Base { .. } => 12,
            Stored::Whole(_) => 0,
        }
    }
    pub fn put(&self, out: &mut Vec<u8>) {
        let extra;
        let (kind, group, number, body): (u8, u16, u64, &[u8]) = match self {
            Stored::Whole(Rec::Entry { group, index, body }) => (1, *group, *index, body),
            Stored::Whole(Rec::TruncateAfter { group, after }) => (2, *group, *after, &[]),
            Stored::Whole(Rec::Purge { group, upto }) => (3, *group, *upto, &[]),
            Stored::Whole(Rec::Meta { group, slot, body }) => (4, *group, u64::from(*slot), body),
            Stored::Base { group, purged, last, parts } => {
                extra = [&last.to_le_bytes()[..], &parts.to_le_bytes()].concat();
                (5, *group, *purged, &extra)
            }
            Stored::Part { group, index, number, last, body } => {
                extra = [&number.to_le_bytes()[..], &[u8::from(*last)], body].concat();
                (6, *group, *index, &extra)
            }
        };
        out.push(kind);
        out.extend_from_slice(&group.to_le_bytes());
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&(body.len() as u32).to_le_bytes());
        out.extend_from_slice(body);
    }
    /// Takes one record off the front; None: these are not records.
    pub fn take(bytes: &mut &[u8]) -> Option<Stored> {
        let head = bytes.get(..HEAD)?;
        let (kind, group) = (head[0], u16::from_le_bytes([head[1], head[2]]));
        let number = u64::from_le_bytes(head[3..11].try_into().ok()?);
        let length = u32::from_le_bytes(head[11..15].try_into().ok()?) as usize;
        let body = bytes.get(HEAD..HEAD + length)?.to_vec();
        *bytes = &bytes[HEAD + length..];
        Some(match kind {
            1 => Stored::Whole(Rec::Entry { group, index: number, body }),
            2 => Stored::Whole(Rec::TruncateAfter { group, after: number }),
            3 => Stored::Whole(Rec::Purge { group, upto: number }),
            4 => Stored::Whole(Rec::Meta { group, slot: u8::try_from(number).ok()?, body }),
            5 => Stored::Base { group, purged: number, last: u64::from_le_bytes(body.get(..8)?.try_into().ok()?), parts: u32::from_le_bytes(body.get(8..)?.try_into().ok()?) },
            6 => Stored::Part { group, index: number, number: u32::from_le_bytes(body.get(..4)?.try_into().ok()?), last: *body.get(4)? == 1, body: body[5..].to_vec() },
            _ => return None,
        })
    }
}

/// One group's log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GroupLog {
    /// Everything up to here is gone.
    pub purged: u64,
    /// The last index; `purged` when there are no entries.
    pub last: u64,
    pub entries: BTreeMap<u64, Vec<u8>>,
    pub meta: BTreeMap<u8, Vec<u8>>,
}

/// What the log keeps in memory of a group: where its entries are, not their bodies.
#[derive(Clone, Debug, Default)]
pub(super) struct Position {
    pub purged: u64,
    pub last: u64,
    /// Entry → segment.
    pub at: BTreeMap<u64, u64>,
    pub meta: BTreeMap<u8, Vec<u8>>,
    parts: Vec<u8>,
    pub parts_seen: u32,
    /// The segment of the first part of an entry that is not whole yet: it is needed until the entry is purged.
    pub parts_from: Option<u64>,
    /// The first parts are in a segment that is gone, which is right only if the entry itself goes later in the log.
    parts_missing: bool,
    pub hollow: BTreeSet<u64>,
}

impl Position {
    /// The oldest segment that it needs.
    pub fn oldest(&self) -> Option<u64> { self.at.values().next().copied().into_iter().chain(self.parts_from).min() }
}

/// The fold. With `bodies`, recovered entries are collected there.
pub(super) fn apply(positions: &mut BTreeMap<u16, Position>, segment: u64, record: Stored, mut bodies: Option<&mut BTreeMap<u16, BTreeMap<u64, Vec<u8>>>>) -> Result<(), String> {
    match record {
        Stored::Whole(Rec::Entry { group, index, body }) => {
            let p = positions.entry(group).or_default();
            if index != p.last + 1 {
                return Err(format!("group {group}: entry {index} follows entry {}", p.last));
            }
            p.last = index;
            p.at.insert(index, p.parts_from.take().unwrap_or(segment));
            if let Some(b) = bodies {
                b.entry(group).or_default().insert(index, body);
            }
        }
        Stored::Part { group, index, number, last, body } => {
            let p = positions.entry(group).or_default();
            if number == 0 {
                (p.parts, p.parts_seen, p.parts_from, p.parts_missing) = (Vec::new(), 0, Some(segment), false);
            }
            if number != p.parts_seen {
                return Err(format!("group {group}: part {number} of entry {index} follows part {}", p.parts_seen));
            }
            p.parts_seen += 1;
            if bodies.is_some() {
                p.parts.extend_from_slice(&body);
            }
            if last {
                let body = std::mem::take(&mut p.parts);
                p.parts_seen = 0;
                if std::mem::take(&mut p.parts_missing) {
                    p.hollow.insert(index);
                }
                return apply(positions, segment, Stored::Whole(Rec::Entry { group, index, body }), bodies);
            }
        }
        Stored::Whole(Rec::TruncateAfter { group, after }) => {
            let p = positions.entry(group).or_default();
            p.at.split_off(&(after + 1));
            p.hollow.split_off(&(after + 1));
            p.last = p.last.min(after.max(p.purged));
            if let Some(b) = bodies.as_mut().and_then(|b| b.get_mut(&group)) {
                b.split_off(&(after + 1));
            }
        }
        Stored::Whole(Rec::Purge { group, upto }) => {
            let p = positions.entry(group).or_default();
            p.at = p.at.split_off(&(upto + 1));
            p.hollow = p.hollow.split_off(&(upto + 1));
            p.purged = p.purged.max(upto);
            p.last = p.last.max(p.purged);
            if let Some(b) = bodies.as_mut().and_then(|b| b.get_mut(&group)) {
                *b = b.split_off(&(upto + 1));
            }
        }
        Stored::Whole(Rec::Meta { group, slot, body }) => {
            positions.entry(group).or_default().meta.insert(slot, body);
        }
        Stored::Base { group, purged, last, parts } => match positions.get(&group) {
            None => {
                positions.insert(group, Position { purged, last, parts_seen: parts, parts_missing: parts > 0, ..Position::default() });
            }
            Some(p) if p.purged == purged && p.last == last => {}
            Some(p) => return Err(format!("group {group}: the segment starts with {purged}..{last}, the log before it ends with {}..{}", p.purged, p.last)),
        },
    }
    Ok(())
}
