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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64) -> Stored { Stored::Whole(Rec::Entry { group: 1, index, body: vec![index as u8] }) }
    fn part(index: u64, number: u32, last: bool) -> Stored { Stored::Part { group: 1, index, number, last, body: vec![number as u8; 3] } }
    fn base(purged: u64, last: u64, parts: u32) -> Stored { Stored::Base { group: 1, purged, last, parts } }
    /// All records, each in the segment beside it; what is left, or why not.
    fn fold(records: &[(u64, Stored)]) -> Result<(Position, BTreeMap<u64, Vec<u8>>), String> {
        let (mut positions, mut bodies) = (BTreeMap::new(), BTreeMap::new());
        for (segment, r) in records {
            apply(&mut positions, *segment, r.clone(), Some(&mut bodies))?;
        }
        Ok((positions.remove(&1).unwrap_or_default(), bodies.remove(&1).unwrap_or_default()))
    }

    #[test]
    fn what_is_written_is_read_again_and_half_of_it_is_not() {
        let all = [
            entry(7), part(8, 3, true), part(8, 2, false), base(5, 9, 4), Stored::Whole(Rec::TruncateAfter { group: 2, after: 3 }), Stored::Whole(Rec::Purge { group: 65_535, upto: u64::MAX }),
            Stored::Whole(Rec::Meta { group: 0, slot: 255, body: vec![] }),
        ];
        for r in &all {
            let mut bytes = Vec::new();
            r.put(&mut bytes);
            assert_eq!(bytes.len(), r.length(), "{r:?}");
            let mut rest = &bytes[..];
            assert_eq!((Stored::take(&mut rest).as_ref(), rest.len()), (Some(r), 0));
            for end in 0..bytes.len() {
                assert_eq!(Stored::take(&mut &bytes[..end]), None, "{end} bytes of {r:?}");
            }
            bytes[0] = 7;
            assert_eq!(Stored::take(&mut &bytes[..]), None, "a kind that nobody knows");
        }
    }

    /// A segment begins with the state that the one before it ended with. One that says otherwise, in either number, is from another log.
    #[test]
    fn a_segment_that_begins_with_another_state_is_refused() {
        let before = [(1, entry(1)), (1, entry(2)), (1, entry(3)), (1, Stored::Whole(Rec::Purge { group: 1, upto: 1 }))];
        let then = |b: Stored| fold(&before.iter().cloned().chain([(2, b)]).collect::<Vec<_>>());
        assert_eq!(then(base(1, 3, 0)).map(|(p, b)| (p.purged, p.last, b.len())), Ok((1, 3, 2)));
        for (purged, last) in [(0, 3), (2, 3), (1, 2), (1, 4), (0, 4)] {
            assert!(then(base(purged, last, 0)).is_err_and(|why| why.contains("the log before it ends with 1..3")), "{purged}..{last}");
        }
    }

    #[test]
    fn pieces_make_an_entry_in_their_order_only() {
        let (p, bodies) = fold(&[(1, entry(1)), (1, part(2, 0, false)), (2, part(2, 1, false)), (3, part(2, 2, true))]).unwrap();
        assert_eq!((p.last, p.parts_seen, p.oldest(), &bodies[&2][..]), (2, 0, Some(1), &[0, 0, 0, 1, 1, 1, 2, 2, 2][..]));
        assert_eq!(p.at[&2], 1, "it needs the segment of its first piece");
        for wrong in [vec![(1, part(1, 1, false))], vec![(1, part(1, 0, false)), (1, part(1, 2, true))], vec![(1, part(1, 0, false)), (1, part(1, 1, false)), (1, part(1, 1, true))], vec![(1, part(2, 0, true))]] {
            assert!(fold(&wrong).is_err(), "{wrong:?}");
        }
        // Begun anew: what there was of the first try does not count.
        let (_, bodies) = fold(&[(1, part(1, 0, false)), (1, part(1, 1, false)), (2, part(1, 0, false)), (2, part(1, 1, true))]).unwrap();
        assert_eq!(bodies[&1], [0, 0, 0, 1, 1, 1]);
    }

    /// Whose first pieces were in a segment that is gone is right only if it goes later in the log.
    #[test]
    fn an_entry_without_its_first_pieces_is_hollow_until_it_goes() {
        let cut = [(5, base(3, 3, 2)), (5, part(4, 2, true)), (5, entry(5))];
        let with = |r: Rec| fold(&cut.iter().cloned().chain([(5, Stored::Whole(r))]).collect::<Vec<_>>()).unwrap().0;
        let (p, _) = fold(&cut).unwrap();
        assert_eq!((p.last, p.hollow), (5, BTreeSet::from([4])));
        assert!(with(Rec::Purge { group: 1, upto: 4 }).hollow.is_empty() && with(Rec::TruncateAfter { group: 1, after: 3 }).hollow.is_empty());
        assert_eq!(with(Rec::TruncateAfter { group: 1, after: 4 }).hollow, BTreeSet::from([4]));
        assert!(fold(&[(5, base(3, 3, 2)), (5, part(4, 1, true))]).is_err(), "a piece twice");
        // One that begins in this segment is whole.
        let (p, bodies) = fold(&[(5, base(3, 3, 2)), (5, part(4, 0, false)), (5, part(4, 1, true))]).unwrap();
        assert_eq!((p.hollow.len(), bodies[&4].len()), (0, 6));
    }

    #[test]
    fn what_is_void_or_not_needed_goes() {
        let some: Vec<_> = (1..=5).map(|i| (i, entry(i))).collect();
        let then = |r: Rec| fold(&some.iter().cloned().chain([(6, Stored::Whole(r))]).collect::<Vec<_>>()).unwrap();
        let left = |(p, b): (Position, BTreeMap<u64, Vec<u8>>)| (p.purged, p.last, p.at.into_keys().collect::<Vec<_>>(), b.into_keys().collect::<Vec<_>>());
        assert_eq!(left(then(Rec::TruncateAfter { group: 1, after: 3 })), (0, 3, vec![1, 2, 3], vec![1, 2, 3]));
        assert_eq!(left(then(Rec::TruncateAfter { group: 1, after: 9 })), (0, 5, vec![1, 2, 3, 4, 5], vec![1, 2, 3, 4, 5]));
        assert_eq!(left(then(Rec::Purge { group: 1, upto: 3 })), (3, 5, vec![4, 5], vec![4, 5]));
        assert_eq!(left(then(Rec::Purge { group: 1, upto: 9 })), (9, 9, vec![], vec![]));
        let both = [(6, Stored::Whole(Rec::Purge { group: 1, upto: 4 })), (6, Stored::Whole(Rec::TruncateAfter { group: 1, after: 2 })), (6, Stored::Whole(Rec::Purge { group: 1, upto: 1 }))];
        assert_eq!(left(fold(&some.iter().cloned().chain(both).collect::<Vec<_>>()).unwrap()), (4, 4, vec![], vec![]), "never below what is gone");
    }
}
