//! What the log promises at its edges: large entries, figures for the caller, a disk that is full or fails, and damage that only just looks like a torn write.

use baton_storage::{Crash, SimDisk, wal::*};
use std::io::ErrorKind::StorageFull;

const SEGMENT: u64 = 8192;
const SECTOR: usize = 512;

fn options(segment: u64) -> Options { Options::new(segment, *b"test-cluster-and-node-01") }
fn opened(disk: &SimDisk, segment: u64) -> Wal<SimDisk> { Wal::open(disk.mount(), options(segment)).expect("opens").0 }
fn entry(index: u64, length: usize) -> Rec { Rec::Entry { group: 1, index, body: (0..length).map(|i| (i % 251) as u8).collect() } }
fn name(segment: u64) -> String { format!("{segment:016x}.wal") }
fn refusal(disk: &SimDisk) -> String {
    match Wal::open(disk.mount(), options(SEGMENT)) {
        Err(OpenError::Corrupt(why)) => why,
        other => panic!("not refused as damaged: {:?}", other.map(|(_, logs)| logs)),
    }
}

/// The smallest segment, half of which is the state of a group: what is larger than all of it is cut so that each piece fits behind that state.
#[test]
fn an_entry_larger_than_a_segment_is_read_back() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, 4096);
    wal.commit(&[Rec::Meta { group: 1, slot: 0, body: vec![3; 1400] }]).expect("committed");
    wal.commit(&[entry(1, 20_000), entry(2, 10)]).expect("committed");
    disk.crash(Crash::LoseUnsynced, &mut |_| 0);
    let (_, logs) = Wal::open(disk.mount(), options(4096)).expect("opens");
    let Rec::Entry { body, .. } = entry(1, 20_000) else { unreachable!("an entry") };
    assert!(logs[&1].last == 2 && logs[&1].entries[&1] == body && logs[&1].meta[&0] == [3; 1400]);
}

/// Pieces are as large as a frame takes: what two frames can hold fills one segment to the last sector, and no other is begun.
#[test]
fn an_entry_of_two_full_frames_takes_one_segment() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, 65_536);
    // 63 sectors of 500 bytes each time, but for the length (4), the head of a record (15), and the number of the piece (5).
    wal.commit(&[entry(1, 2 * (63 * 500 - 4 - 15 - 5))]).expect("committed");
    assert_eq!((wal.segments(), wal.bytes()), (1, 65_536));
    wal.commit(&[entry(2, 1)]).expect("committed");
    assert_eq!((wal.segments(), wal.bytes()), (2, 2 * 65_536));
}

/// An entry of several segments is refused whole on a full disk: a part of it must not be written before that is noticed.
#[test]
fn a_large_entry_is_refused_on_a_full_disk_before_a_part_of_it_is_written() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    disk.set_full(true);
    assert_eq!(wal.commit(&[entry(1, 9000)]).expect_err("no room").kind(), StorageFull);
    wal.commit(&[Rec::Meta { group: 1, slot: 0, body: b"vote".to_vec() }]).expect("a vote is taken: nothing is poisoned");
    disk.set_full(false);
    wal.commit(&[entry(1, 9000)]).expect("taken now that there is room");
    assert_eq!(wal.last(1), 1);
}

/// A full disk is news only when the room that is left is nearly used.
#[test]
fn a_log_with_room_in_its_segment_is_not_full_although_the_disk_is() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    disk.set_full(true);
    assert!(!wal.is_full());
    (1..=9).for_each(|i| wal.commit(&[entry(i, 400)]).expect("there is room"));
    assert!(wal.is_full());
}

/// A group is told to make a snapshot for the segments before the current one that its oldest entry keeps: more than so many, not just as many.
#[test]
fn a_group_is_pinned_by_more_than_so_many_older_segments() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    (1..=40).for_each(|i| wal.commit(&[entry(i, 400)]).expect("committed"));
    let older = wal.segments() as u64 - 1;
    assert!(older >= 2);
    assert_eq!((wal.pinned(older - 1), wal.pinned(older)), (vec![1], vec![]));
}

/// Only a full disk is borne. When the next segment cannot be synced, or what there is of it cannot be removed, nothing more is promised.
#[test]
fn an_error_in_making_the_next_segment_poisons_the_log() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    disk.fail_syncs(1);
    let e = wal.prepare(usize::MAX).expect_err("its sync failed");
    assert!(e.to_string().contains("fsync"), "{e}");
    assert!(wal.commit(&[entry(1, 1)]).expect_err("poisoned").to_string().contains("restart the node"));
    disk.crash(Crash::LoseUnsynced, &mut |_| 0);

    let mut wal = opened(&disk, SEGMENT);
    disk.set_full(true);
    assert!(!wal.prepare(1).expect("a full disk is no failure"));
    // The file is not made for want of room, and the removal of what there is of it fails.
    disk.crash_at(2);
    assert_ne!(wal.prepare(1).expect_err("the removal failed").kind(), StorageFull);
    assert!(wal.commit(&[entry(1, 1)]).is_err());
}

/// One sync of a whole segment would hold up the commit behind it: each megabyte is synced by itself.
#[test]
fn the_next_segment_is_synced_megabyte_by_megabyte() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, 3 << 20);
    disk.crash_at(0);
    assert!(wal.prepare(usize::MAX).expect("made"));
    // Made; three times written and synced, the header before the last sync.
    assert_eq!(disk.ops(), 1 + 3 * 2 + 1);
}

/// The first part of an entry lies in a segment that was removed: the rest alone is not the entry.
#[test]
fn an_entry_without_its_first_part_is_refused() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    wal.commit(&[entry(1, 20_000)]).expect("committed");
    assert!(wal.segments() > 2);
    drop(wal);
    baton_storage::Disk::remove(&disk.mount(), &name(1)).expect("removed");
    assert!(refusal(&disk).contains("group 1: entries 1 to 1 are not all there"));
}

/// A frame that reads proves that the one before it was durable, so a gap before it is no torn write: also in the last segment.
#[test]
fn a_lost_frame_before_another_is_refused_in_the_last_segment() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    (1..=3).for_each(|i| wal.commit(&[entry(i, 100)]).expect("committed"));
    drop(wal);
    disk.damage(&name(1), |b| b[2 * SECTOR..3 * SECTOR].fill(0));
    let why = refusal(&disk);
    assert!(why.contains("segment 1, sector 3: frame 3 follows the missing frame Some(2)") && why.contains("new node id"), "{why}");
}

/// Only the last segment but one may lack its seal, and only while the last is empty. An empty last segment does not excuse an older one.
#[test]
fn an_older_segment_without_its_seal_is_refused() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    let last = (1..).find(|i| { wal.commit(&[entry(*i, 400)]).expect("committed"); wal.segments() == 3 }).expect("three segments");
    drop(wal);
    disk.damage(&name(3), |b| b[SECTOR..].fill(0));
    disk.damage(&name(2), |b| b[SEGMENT as usize - SECTOR..].fill(0));
    let excused = disk.copy();
    assert_eq!(Wal::open(excused.mount(), options(SEGMENT)).expect("as after a crash in the change of segments").1[&1].last, last - 1);
    disk.damage(&name(1), |b| b[SEGMENT as usize - SECTOR..].fill(0));
    assert!(refusal(&disk).contains("segment 1 is not sealed"));
}

/// What a node states of its disk to its peers.
#[test]
fn the_log_tells_what_is_on_disk_of_each_group() {
    let disk = SimDisk::new();
    let mut wal = opened(&disk, SEGMENT);
    assert_eq!((wal.last(1), wal.last(2), wal.durable().count()), (0, 0, 0));
    wal.commit(&[entry(1, 10), entry(2, 10), Rec::Meta { group: 2, slot: 3, body: b"vote".to_vec() }]).expect("committed");
    assert_eq!((wal.last(1), wal.last(2), wal.last(3)), (2, 0, 0));
    let told: Vec<_> = wal.durable().map(|(group, last, meta)| (group, last, meta.get(&3).cloned())).collect();
    assert_eq!(told, [(1, 2, None), (2, 0, Some(b"vote".to_vec()))]);
    wal.commit(&[Rec::TruncateAfter { group: 1, after: 1 }]).expect("committed");
    assert_eq!(wal.last(1), 1);
    wal.commit(&[Rec::Purge { group: 1, upto: 7 }]).expect("committed");
    assert_eq!(wal.last(1), 7, "the log goes on behind a snapshot");
    let again = opened(&disk, SEGMENT);
    assert_eq!((again.last(1), again.last(2), again.segments()), (7, 0, 1));
}

#[test]
fn a_segment_size_that_cannot_be_is_refused() {
    for size in [0, 512, 3_584, 4_095, 4_097, 8_191] {
        match Wal::open(SimDisk::new(), options(size)) {
            Err(OpenError::Io(e)) => assert!(e.to_string().contains("multiple of 512, at least 4096"), "{e}"),
            other => panic!("{size} bytes: {:?}", other.map(|(w, _)| w.bytes())),
        }
    }
    for size in [4_096, 4_608] {
        assert_eq!(opened(&SimDisk::new(), size).bytes(), size);
    }
}

/// Entries of every length around that of a frame, each in one piece or in several, are what they were.
#[test]
fn entries_of_the_length_of_a_frame_and_a_little_more_or_less_are_read_back() {
    // Half a segment of 8,192 less its two ends is 7 sectors of 500 bytes, less the length of the frame.
    let room = 7 * 500 - 4;
    for length in (room - 40..room + 5).chain(2 * room - 45..2 * room - 35) {
        let disk = SimDisk::new();
        let mut wal = opened(&disk, SEGMENT);
        wal.commit(&[entry(1, 100), entry(2, length), entry(3, 100)]).expect("committed");
        let (_, logs) = Wal::open(disk.mount(), options(SEGMENT)).expect("opens");
        for (i, n) in [(1, 100), (2, length), (3, 100)] {
            let Rec::Entry { body, .. } = entry(i, n) else { unreachable!("an entry") };
            assert_eq!(logs[&1].entries[&i], body, "{length} bytes, entry {i}");
        }
    }
}

/// An entry in pieces that is cut off, purged, or written anew is none: neither at once nor after the next start.
#[test]
fn an_entry_in_pieces_is_cut_and_purged_as_any_other() {
    for purge in [false, true] {
        let disk = SimDisk::new();
        let mut wal = opened(&disk, SEGMENT);
        wal.commit(&[entry(1, 10), entry(2, 9_000), entry(3, 10)]).expect("committed");
        let before = wal.segments();
        wal.commit(&[if purge { Rec::Purge { group: 1, upto: 3 } } else { Rec::TruncateAfter { group: 1, after: 1 } }]).expect("committed");
        if purge {
            assert!(wal.segments() < before, "its pieces keep no segment");
        } else {
            wal.commit(&[entry(2, 20), entry(3, 9_000)]).expect("committed anew");
        }
        let (wal, logs) = Wal::open(disk.mount(), options(SEGMENT)).expect("opens");
        let lengths: Vec<_> = logs[&1].entries.iter().map(|(i, b)| (*i, b.len())).collect();
        if purge {
            assert_eq!((logs[&1].purged, lengths, wal.last(1)), (3, vec![], 3));
        } else {
            assert_eq!((logs[&1].purged, lengths, wal.last(1)), (0, vec![(1, 10), (2, 20), (3, 9_000)], 3));
        }
    }
}
