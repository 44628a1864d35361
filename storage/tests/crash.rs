//! The log against crashes at every disk operation and against damage at every byte, and the bugs that these tests must find.

use baton_storage::{Crash, Kv, KvOp, SimDisk, SimKv, SledKv, wal::*};
use std::collections::BTreeMap;

const SEGMENT: u64 = 8192;
type Logs = BTreeMap<u16, GroupLog>;

struct Rng(u64);
impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 { if n == 0 { 0 } else { self.next() % n } }
}
fn options(bug: Bug) -> Options { Options { bug, ..Options::new(SEGMENT, *b"test-cluster-and-node-01") } }

/// What the log must hold, kept apart from its own fold.
fn expect(logs: &mut Logs, r: &Rec) {
    match r {
        Rec::Entry { group, index, body } => {
            let g = logs.entry(*group).or_default();
            g.entries.insert(*index, body.clone());
            g.last = *index;
        }
        Rec::TruncateAfter { group, after } => {
            let g = logs.entry(*group).or_default();
            g.entries.retain(|i, _| i <= after);
            g.last = g.last.min(*after).max(g.purged);
        }
        Rec::Purge { group, upto } => {
            let g = logs.entry(*group).or_default();
            g.entries.retain(|i, _| i > upto);
            g.purged = g.purged.max(*upto);
            g.last = g.last.max(g.purged);
        }
        Rec::Meta { group, slot, body } => drop(logs.entry(*group).or_default().meta.insert(*slot, body.clone())),
    }
}
fn batch(logs: &Logs, r: &mut Rng, n: u64) -> Vec<Rec> {
    let mut logs = logs.clone();
    (0..1 + r.below(4))
        .map(|_| {
            let group = 1 + r.below(3) as u16;
            let g = logs.get(&group).cloned().unwrap_or_default();
            let (has, size) = (g.last > g.purged, r.below(if n.is_multiple_of(7) { 5000 } else { 150 }) as usize);
            let rec = match r.below(12) {
                0 if has => Rec::TruncateAfter { group, after: g.purged + r.below(g.last - g.purged) },
                1 | 2 if has => Rec::Purge { group, upto: g.purged + 1 + r.below(g.last - g.purged) },
                3 => Rec::Purge { group, upto: g.last + 5 },
                4 | 5 => Rec::Meta { group, slot: r.below(2) as u8, body: n.to_le_bytes().to_vec() },
                _ => Rec::Entry { group, index: g.last + 1, body: vec![(n % 251) as u8; size] },
            };
            expect(&mut logs, &rec);
            rec
        })
        .collect()
}

struct Run {
    acknowledged: Logs,
    /// The state if the commit in flight counts.
    in_flight: Logs,
    /// The states between, when that commit took several frames.
    between: Vec<Logs>,
    wal: Option<Wal<SimDisk>>,
}
fn work(disk: &SimDisk, seed: u64, commits: u64, bug: Bug, start: Option<(Wal<SimDisk>, Logs)>) -> Run {
    let mut r = Rng(seed);
    let none = |l: Logs| Run { acknowledged: l.clone(), in_flight: l, between: vec![], wal: None };
    let (mut wal, mut logs) = match start {
        Some(s) => s,
        None => match Wal::open(disk.mount(), options(bug)) {
            Ok(s) => s,
            Err(_) => return none(Logs::new()),
        },
    };
    for i in 0..commits {
        let records = batch(&logs, &mut r, i);
        let before = logs.clone();
        let mut between = vec![];
        for rec in &records {
            expect(&mut logs, rec);
            between.push(logs.clone());
        }
        if r.below(3) == 0 && wal.prepare(1).is_err() {
            return Run { acknowledged: before.clone(), in_flight: before, between: vec![], wal: None };
        }
        if wal.commit(&records).is_err() {
            assert!(wal.commit(&records).is_err(), "a poisoned log takes nothing");
            return Run { acknowledged: before, in_flight: logs, between, wal: None };
        }
    }
    Run { acknowledged: logs.clone(), in_flight: logs, between: vec![], wal: Some(wal) }
}

/// One crash, perhaps a second one inside recovery, then what must hold. Err: what was lost.
fn crash_once(seed: u64, at: u64, kind: Crash, bug: Bug) -> Result<(), String> {
    let disk = SimDisk::new();
    disk.crash_at(at);
    let run = work(&disk, seed, 40, bug, None);
    let mut r = Rng(seed * 1_000_003 + at * 31 + kind as u64);
    disk.crash(kind, &mut |n| r.below(n));
    if matches!(kind, Crash::KeepSome | Crash::KillProcess | Crash::CleanPages) {
        if r.below(3) == 0 { disk.fail_syncs(1) } else { disk.crash_at(1 + r.below(6)) }
        let _ = Wal::open(disk.mount(), options(bug));
        let second = [Crash::KeepSome, Crash::KillProcess, Crash::CleanPages][r.below(3) as usize];
        disk.crash(second, &mut |n| r.below(n));
    }
    let open = |what: &str| Wal::open(disk.mount(), options(bug)).map_err(|e| format!("{what}: refused: {e}"));
    let (wal, logs) = open("after the crash")?;
    // An empty log of a group is none: the first part of a large entry makes its group known before anything of it counts.
    let known = |l: &Logs| l.iter().filter(|(_, l)| **l != GroupLog::default()).map(|(g, l)| (*g, l.clone())).collect::<Logs>();
    let possible = [&run.acknowledged, &run.in_flight].into_iter().chain(&run.between);
    if !possible.into_iter().any(|p| known(p) == known(&logs)) {
        return Err("what was acknowledged is not what was recovered".into());
    }
    drop(wal);
    disk.crash(Crash::LoseUnsynced, &mut |n| r.below(n));
    let (wal, again) = open("after a further power loss")?;
    if again != logs {
        return Err("what recovery showed was not durable".into());
    }
    // A short or a longer run, then again.
    let commits = if r.below(2) == 0 { r.below(4) } else { 20 };
    let run = work(&disk, at, commits, bug, Some((wal, again)));
    if run.wal.is_none() {
        return Err("the log takes no commit after recovery".into());
    }
    disk.crash(if r.below(2) == 0 { Crash::LoseUnsynced } else { Crash::KeepSome }, &mut |n| r.below(n));
    let (_, last) = open("after a later run")?;
    if last == run.acknowledged { Ok(()) } else { Err("a later run's commits are lost".into()) }
}
fn crash_everywhere(seed: u64, bug: Bug) -> Result<u64, String> {
    let disk = SimDisk::new();
    disk.crash_at(0);
    work(&disk, seed, 40, bug, None);
    let operations = disk.ops();
    let mut crashes = 0;
    for at in 1..=operations {
        for kind in Crash::ALL {
            crash_once(seed, at, kind, bug).map_err(|why| format!("seed {seed}, operation {at}, {kind:?}: {why}"))?;
            crashes += 1;
        }
    }
    Ok(crashes)
}

#[test]
fn a_crash_at_every_disk_operation_loses_nothing_acknowledged() {
    let mut crashes = 0;
    for seed in 1..=6 {
        crashes += crash_everywhere(seed, Bug::None).expect("nothing is lost");
    }
    println!("{crashes} crashes, each with reopening, power loss, a later run and another crash");
    assert!(crashes > 3_000);
}

#[test]
fn every_seeded_bug_is_found() {
    for bug in [
        Bug::NoWipe, Bug::NoSyncAtOpen, Bug::NoBase, Bug::NoDirSync, Bug::NoSegmentSync, Bug::NoFrameSync, Bug::TailNotRewritten,
    ] {
        let found = (1..=10).find_map(|seed| crash_everywhere(seed, bug).err().map(|why| (seed, why)));
        println!("{bug:?}: {found:?}");
        let (seed, _) = found.unwrap_or_else(|| panic!("{bug:?} was not found"));
        crash_everywhere(seed, Bug::None).expect("the same seed is clean without the bug");
    }
}

/// The fsync of recovery's wipe fails: the cache reads zero, the disk still has the torn frame. The next start goes on from there.
fn failed_wipe(seed: u64, at: u64, kind: Crash, bug: Bug) -> Result<(), String> {
    let disk = SimDisk::new();
    disk.crash_at(at);
    work(&disk, seed, 40, bug, None);
    let mut r = Rng(seed * 7919 + at);
    disk.crash(kind, &mut |n| r.below(n));
    disk.fail_syncs(1);
    let _ = Wal::open(disk.mount(), options(bug));
    disk.crash(Crash::CleanPages, &mut |n| r.below(n));
    let (mut wal, mut logs) = Wal::open(disk.mount(), options(bug)).map_err(|e| format!("after the failed wipe: refused: {e}"))?;
    let next = logs.get(&1).map_or(0, |g| g.last) + 1;
    let small = Rec::Entry { group: 1, index: next, body: vec![1] };
    wal.commit(std::slice::from_ref(&small)).map_err(|e| e.to_string())?;
    expect(&mut logs, &small);
    disk.crash(Crash::LoseUnsynced, &mut |n| r.below(n));
    let (_, last) = Wal::open(disk.mount(), options(bug)).map_err(|e| format!("after one more commit: refused: {e}"))?;
    if last == logs { Ok(()) } else { Err("the commit after the failed wipe is lost".into()) }
}

#[test]
fn a_wipe_whose_sync_failed_is_wiped_again_and_the_bug_that_does_not_is_found() {
    let all = |bug| {
        (1..=3u64).find_map(|seed| (1..=200).flat_map(|at| [Crash::KeepAll, Crash::KeepPrefix, Crash::KeepSuffix, Crash::KeepSome].map(|k| (at, k))).find_map(|(at, k)| failed_wipe(seed, at, k, bug).err().map(|why| format!("seed {seed}, operation {at}, {k:?}: {why}"))))
    };
    assert_eq!(all(Bug::None), None);
    let found = all(Bug::WipeOnlyWhenNeeded);
    println!("WipeOnlyWhenNeeded: {found:?}");
    assert!(found.is_some());
}

/// A full log of a few segments.
fn full_log() -> (SimDisk, Logs, Vec<String>) {
    let disk = SimDisk::new();
    let run = work(&disk, 77, 60, Bug::None, None);
    // The spare is no part of the log yet: what happens to it does not matter.
    let names = baton_storage::Disk::list(&disk.mount()).expect("listed").into_iter().filter(|n| n.ends_with(".wal")).collect();
    (disk, run.acknowledged, names)
}
enum Verdict {
    Refused,
    Complete,
    Lost,
}
fn verdict(disk: &SimDisk, logs: &Logs) -> Verdict {
    match Wal::open(disk.mount(), options(Bug::None)) {
        Err(OpenError::Corrupt(_) | OpenError::WrongIdent) => Verdict::Refused,
        Err(OpenError::Io(e)) => panic!("an I/O error where damage was expected: {e}"),
        Ok((_, l)) if l == *logs => Verdict::Complete,
        Ok(_) => Verdict::Lost,
    }
}

#[test]
fn one_flipped_bit_at_every_byte_is_refused() {
    let (disk, logs, names) = full_log();
    let mut refused = 0;
    for name in &names {
        for at in 0..SEGMENT as usize {
            let copy = disk.copy();
            copy.damage(name, |b| b[at] ^= 1 << (at % 8));
            match verdict(&copy, &logs) {
                Verdict::Refused => refused += 1,
                Verdict::Complete => {}
                Verdict::Lost => panic!("{name}, byte {at}: opened with loss"),
            }
        }
    }
    println!("{refused} of {} refused", names.len() * SEGMENT as usize);
    assert_eq!(refused, names.len() * SEGMENT as usize);
}

/// The limit by nature: the very last frame, acknowledged and then zeroed by a lying disk, looks torn. Everything else is refused.
#[test]
fn a_zeroed_sector_a_cut_and_a_missing_file_are_refused() {
    let (disk, logs, names) = full_log();
    let mut lost = 0;
    for name in &names {
        for sector in 0..SEGMENT as usize / 512 {
            let copy = disk.copy();
            let mut was_zero = false;
            copy.damage(name, |b| {
                let s = &mut b[sector * 512..(sector + 1) * 512];
                was_zero = s.iter().all(|x| *x == 0);
                s.fill(0);
            });
            match verdict(&copy, &logs) {
                Verdict::Lost if name == names.last().expect("a segment") => lost += 1,
                Verdict::Lost => panic!("{name}, sector {sector}: opened with loss"),
                Verdict::Complete => assert!(was_zero, "{name}, sector {sector}"),
                Verdict::Refused => {}
            }
        }
        for length in [0, 512, 4000, SEGMENT as usize - 1] {
            let copy = disk.copy();
            copy.damage(name, |b| b.truncate(length));
            assert!(matches!(verdict(&copy, &logs), Verdict::Refused), "{name} cut to {length}");
        }
        let copy = disk.copy();
        baton_storage::Disk::remove(&copy.mount(), name).expect("removed");
        assert!(names.len() == 1 || matches!(verdict(&copy, &logs), Verdict::Refused), "{name} removed");
    }
    assert!(lost <= 12, "{lost} sectors of the last frame");
}

#[test]
fn a_log_of_another_node_is_refused() {
    let (disk, ..) = full_log();
    let other = Options::new(SEGMENT, *b"test-cluster-and-node-02");
    assert!(matches!(Wal::open(disk.mount(), other), Err(OpenError::WrongIdent)));
}

#[test]
fn the_log_stays_small_over_many_commits() {
    let disk = SimDisk::new();
    let (mut wal, _) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    for i in 1..=20_000u64 {
        let mut records = vec![Rec::Entry { group: 1, index: i, body: vec![7; 40] }];
        if i % 20 == 0 {
            records.push(Rec::Purge { group: 1, upto: i - 10 });
        }
        wal.commit(&records).expect("committed");
        assert!(wal.segments() <= 4, "{} segments at entry {i}", wal.segments());
    }
}

/// A caller's mistake must not become durable: recovery would refuse the log for it.
#[test]
fn an_entry_out_of_order_is_refused_before_it_is_written() {
    let disk = SimDisk::new();
    let (mut wal, _) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    let entry = |index| Rec::Entry { group: 1, index, body: vec![1] };
    wal.commit(&[entry(1), entry(2)]).expect("committed");
    let e = wal.commit(&[entry(3), entry(5)]).expect_err("a gap");
    assert!(e.kind() == std::io::ErrorKind::InvalidInput && e.to_string().contains("entry 5"), "{e}");
    wal.commit(&[entry(3), Rec::TruncateAfter { group: 1, after: 1 }, entry(2)]).expect("the log goes on");
    drop(wal);
    let (_, logs) = Wal::open(disk.mount(), options(Bug::None)).expect("opens again");
    assert_eq!(logs[&1].last, 2);
}

/// Rule 7 of the log: on a full disk entries are refused and nothing is poisoned; votes, truncations and purges go on; when there is room again, so do entries.
#[test]
fn a_full_disk_refuses_entries_and_the_log_goes_on_when_there_is_room() {
    let disk = SimDisk::new();
    let (mut wal, _) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    let entry = |index| Rec::Entry { group: 1, index, body: vec![1; 400] };
    let full = |r: std::io::Result<()>| r.expect_err("the disk is full").kind() == std::io::ErrorKind::StorageFull;
    wal.commit(&[Rec::Entry { group: 2, index: 1, body: vec![9] }]).expect("committed");
    disk.set_full(true);
    // The rest of the segment is used, but for the reserve.
    let refused = (1..1000).find(|i| wal.commit(&[entry(*i)]).is_err()).expect("the segment fills up");
    assert!(full(wal.commit(&[entry(refused)])) && wal.is_full());
    wal.commit(&[Rec::Meta { group: 1, slot: 1, body: b"vote".to_vec() }]).expect("a vote is taken");
    wal.commit(&[Rec::TruncateAfter { group: 1, after: refused - 2 }]).expect("a truncation is taken");
    wal.commit(&[Rec::Purge { group: 1, upto: 2 }]).expect("a purge is taken");
    assert!(full(wal.commit(&[entry(refused - 1)])), "nothing was given back by it");
    disk.set_full(false);
    assert!(!wal.is_full());
    for i in refused - 1..refused + 40 {
        wal.commit(&[entry(i)]).expect("entries are taken again, without a restart");
    }
    drop(wal);
    disk.crash(Crash::LoseUnsynced, &mut |_| 0);
    let (_, logs) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    assert_eq!((logs[&1].purged, logs[&1].last, logs[&1].meta[&1].as_slice()), (2, refused + 39, &b"vote"[..]));
    assert_eq!(logs[&2].last, 1);
}

/// A purge removes the segments that it makes useless, at once: on a full disk that is the room that lets the log go on.
#[test]
fn a_purge_gives_room_back_on_a_full_disk() {
    let disk = SimDisk::new();
    let (mut wal, _) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    let entry = |index| Rec::Entry { group: 1, index, body: vec![1; 400] };
    (1..=40).for_each(|i| wal.commit(&[entry(i)]).expect("committed"));
    let before = wal.segments();
    assert!(before >= 3 && wal.pinned(1) == [1]);
    disk.set_full(true);
    let refused = (41..1000).find(|i| wal.commit(&[entry(*i)]).is_err()).expect("the segment fills up");
    wal.commit(&[Rec::Purge { group: 1, upto: refused - 1 }]).expect("a purge is taken");
    assert_eq!((wal.segments(), wal.pinned(0)), (1, vec![]));
    // What the purge gave back.
    disk.set_full(false);
    wal.commit(&[entry(refused)]).expect("the log goes on");
    drop(wal);
    let (_, logs) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    assert_eq!((logs[&1].purged, logs[&1].entries.len()), (refused - 1, 1));
}

/// The next segment is there before it is needed, so that a commit makes no file.
#[test]
fn a_spare_is_made_ahead_of_need() {
    let disk = SimDisk::new();
    let (mut wal, _) = Wal::open(disk.mount(), options(Bug::None)).expect("opens");
    assert!(wal.prepare(1).expect("made"));
    disk.set_full(true);
    let body = vec![1; 400];
    let refused = (1..1000).find(|i| wal.commit(&[Rec::Entry { group: 1, index: *i, body: body.clone() }]).is_err()).expect("both segments fill up");
    assert!(wal.segments() == 2 && refused > 20, "{} segments, {refused} entries", wal.segments());
}

fn kv_conforms<K: Kv>(kv: K) {
    let put = |k: &str, v: &str| KvOp::Put(k.into(), v.into());
    kv.write(vec![put("a1", "x"), put("a2", "y"), put("b1", "z")]).expect("written");
    assert_eq!(kv.get(b"a1").expect("read"), Some(b"x".to_vec()));
    kv.write(vec![KvOp::Delete(b"a1".to_vec()), put("a3", "w")]).expect("written");
    kv.flush().expect("flushed");
    assert_eq!(kv.scan(b"a").expect("read"), vec![(b"a2".to_vec(), b"y".to_vec()), (b"a3".to_vec(), b"w".to_vec())]);
    assert_eq!(kv.get(b"none").expect("read"), None);
    let mut seen = vec![];
    kv.visit(b"a", b"a3", &mut |k, _| {
        seen.push(k.to_vec());
        Ok(())
    })
    .expect("visited");
    assert_eq!(seen, [b"a3".to_vec()]);
    assert!(kv.visit(b"", b"", &mut |_, _| Err(std::io::Error::other("enough"))).is_err());
}
#[test]
fn both_key_value_stores_conform() {
    kv_conforms(SimKv::default());
    let dir = std::env::temp_dir().join(format!("baton-kv-{}", std::process::id()));
    kv_conforms(SledKv::open(&dir).expect("opens"));
    let _ = std::fs::remove_dir_all(&dir);
    let sim = SimKv::default();
    sim.write(vec![KvOp::Put(b"k".to_vec(), b"1".to_vec())]).expect("written");
    sim.crash(0);
    assert!(sim.get(b"k").is_err(), "a handle of the dead process");
    let sim = sim.mount();
    assert_eq!(sim.get(b"k").expect("read"), None, "an unsynced write is lost");
}
