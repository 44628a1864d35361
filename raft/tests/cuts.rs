//! The cut of a group's state: a crash at every step of it, of the log and of a snapshot; and the bugs that this must find.
#![cfg(not(madsim))]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_raft::internal::{CutBug, GroupStore, LogWriter, MachineHost, SnapshotDir, TypeConfig, cut, payload};
use baton_raft::{Cuts, StartError, freeze_whole, load_whole};
use baton_storage::{Crash, SimDisk, SimKv};
use common::{Machine, open};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::vote::RaftLeaderId;
use openraft::{EntryPayload, RaftSnapshotBuilder};

type Entry = openraft::alias::EntryOf<TypeConfig>;
type LogId = openraft::alias::LogIdOf<TypeConfig>;

const IDENT: [u8; 24] = [7; 24];

struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n.max(1)
    }
}

fn log_id(index: u64) -> LogId {
    LogId::new(openraft::impls::leader_id_std::LeaderId::new(1, 1).to_committed(), index)
}

fn entry(index: u64) -> Entry {
    Entry { log_id: log_id(index), payload: EntryPayload::Normal(payload(format!("entry {index}").into_bytes())) }
}

/// What a machine must hold after so many entries, found by a full replay.
fn chain(entries: u64) -> u64 {
    use baton_raft::StateMachine;
    let mut m = Machine::default();
    for i in 0..entries {
        m.apply(i + 1, 1, format!("entry {i}").as_bytes());
        m.applied(i + 1, 1);
    }
    m.state.lock().unwrap().chain
}

/// Log, snapshot and cuts of one node.
#[derive(Clone, Default)]
struct Disks {
    log: SimDisk,
    snapshots: SimDisk,
    state: SimKv,
}

struct Life {
    store: GroupStore,
    host: MachineHost,
    machine: Machine,
}

impl Disks {
    /// A process starts: the state from the cut or the snapshot, then the log after it.
    async fn start(&self, bug: CutBug) -> Result<Life, StartError> {
        let (wal, logs) = open(self.log.mount());
        let store = GroupStore::open(0, &logs.get(&0).cloned().unwrap_or_default(), LogWriter::start(wal, 4, Arc::default()).unwrap()).unwrap();
        let machine = Machine::default();
        let cuts = Cuts::open(&self.state.mount(), IDENT, 0..1).unwrap();
        let file = Arc::new(SnapshotDir::new(self.snapshots.mount(), 0));
        let host = MachineHost::open(0, Box::new(machine.clone()), cut(&cuts, 0).unwrap(), file, store.clone())?;
        host.seed(bug).await;
        let mut life = Life { store, host, machine };
        let (applied, _) = life.host.applied_state().await.unwrap();
        let from = applied.map_or(0, |id| id.index + 1);
        {
            let state = life.machine.state.lock().unwrap();
            assert_eq!((state.index, state.chain), (from, chain(from)), "the state is not that of entry {from}");
        }
        let last = life.last().await;
        if last < from {
            // As consensus does: the log goes on after the snapshot.
            life.store.purge(log_id(from - 1)).await.unwrap();
        } else {
            life.apply(from, last).await;
        }
        Ok(life)
    }

    fn crash(&self, r: &mut Rng) {
        let kinds = [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepPrefix, Crash::KeepSome, Crash::KillProcess];
        self.log.crash(kinds[r.below(5) as usize], &mut |n| r.below(n));
        self.snapshots.crash(kinds[r.below(5) as usize], &mut |n| r.below(n));
        self.state.crash(r.below(self.state.unsynced() as u64 + 1) as usize);
    }
}

impl Life {
    /// So many entries are in the log.
    async fn last(&mut self) -> u64 {
        self.store.get_log_state().await.unwrap().last_log_id.map_or(0, |id| id.index + 1)
    }

    async fn apply(&mut self, from: u64, to: u64) {
        let entries = self.store.try_get_log_entries(from..to).await.unwrap();
        assert_eq!(entries.len() as u64, to - from, "the log lacks some of {from}..{to}");
        let entries = futures_util::stream::iter(entries.into_iter().map(|e| Ok((e, None))));
        self.host.apply(Box::pin(entries)).await.unwrap();
    }

    /// Appends, applies, cuts, snapshots and purges until something fails. Entries are applied whether or not the local log has them on
    /// disk, as when the other nodes were faster.
    async fn work(&mut self, entries: u64, r: &mut Rng) -> std::io::Result<()> {
        let from = self.last().await;
        let mut applied = from;
        for i in from..from + entries {
            self.store.append([entry(i)], IOFlushed::noop()).await?;
            if r.below(3) > 0 {
                // An error is a dead disk; what was appended may be applied all the same.
                let _ = self.store.barrier().await;
            }
            if i % 3 == 2 {
                self.apply(applied, i + 1).await;
                applied = i + 1;
            }
            if i % 7 == 6 {
                self.host.checkpoint().await?;
            }
            if i % 20 == 19 {
                let snapshot = self.host.get_snapshot_builder().await.build_snapshot().await?;
                self.store.purge(snapshot.meta.last_log_id.unwrap()).await?;
            }
        }
        Ok(())
    }
}

enum Where {
    Log,
    Snapshots,
    State,
}

/// One life, a crash at operation `at` of one of the disks, and what must hold after. Err: what does not.
async fn crash_once(at: u64, place: &Where, seed: u64, bug: CutBug) -> Result<(), String> {
    let (disks, mut r) = (Disks::default(), Rng(seed * 1_000 + at));
    let mut life = disks.start(bug).await.map_err(|e| e.to_string())?;
    match place {
        Where::Log => disks.log.crash_at(at),
        Where::Snapshots => disks.snapshots.crash_at(at),
        Where::State => disks.state.crash_at(at),
    }
    // An error is the crash, or the end of the run.
    let _ = life.work(60, &mut r).await;
    drop(life);
    disks.crash(&mut r);
    for round in 0..2 {
        let mut life = disks.start(bug).await.map_err(|e| format!("refused: {e}"))?;
        if disks.state.set_aside_count() > 0 {
            return Err("the cut was damaged".into());
        }
        let last = life.last().await;
        if life.machine.state.lock().unwrap().chain != chain(last) {
            return Err(format!("round {round}: another state after the replay up to {last}"));
        }
        life.work(10, &mut r).await.map_err(|e| e.to_string())?;
        drop(life);
        disks.crash(&mut r);
    }
    Ok(())
}

async fn crash_everywhere(seed: u64, bug: CutBug) -> Result<u64, String> {
    let mut crashes = 0;
    for (place, name, most) in [(Where::State, "state", 30), (Where::Log, "log", 70), (Where::Snapshots, "snapshots", 20)] {
        for at in 1..=most {
            crash_once(at, &place, seed, bug).await.map_err(|why| format!("seed {seed}, {name}, operation {at}: {why}"))?;
            crashes += 1;
        }
    }
    Ok(crashes)
}

#[tokio::test]
async fn a_crash_at_every_step_leaves_a_whole_cut_within_the_durable_log() {
    let mut crashes = 0;
    for seed in 1..=3 {
        crashes += crash_everywhere(seed, CutBug::None).await.unwrap();
    }
    println!("{crashes} crashes");
    assert_eq!(crashes, 360);
}

#[tokio::test]
async fn a_cut_without_its_index_in_the_batch_is_found() {
    let mut found = None;
    for seed in 1..=5 {
        found = found.or(crash_everywhere(seed, CutBug::IndexApart).await.err());
    }
    println!("{found:?}");
    assert!(found.expect("the bug is found").contains("damaged"));
}

#[tokio::test]
async fn a_cut_ahead_of_the_durable_log_is_found() {
    let mut found = None;
    for seed in 1..=5 {
        found = found.or(crash_everywhere(seed, CutBug::AheadOfLog).await.err());
    }
    println!("{found:?}");
    assert!(found.expect("the bug is found").contains("lost what this node once acknowledged"));
}

/// Runs one life with snapshots, ends it well, and returns its disks.
async fn lived() -> Disks {
    let disks = Disks::default();
    let mut life = disks.start(CutBug::None).await.unwrap();
    life.work(50, &mut Rng(1)).await.unwrap();
    life.host.checkpoint().await.unwrap();
    life.store.barrier().await.unwrap();
    disks
}

/// Whatever is damaged in the store: it is set aside, and the state comes back from snapshot and log.
#[tokio::test]
async fn a_damaged_cut_is_set_aside_and_built_anew() {
    type Damage = fn(&mut BTreeMap<Vec<u8>, Vec<u8>>);
    let damages: [(&str, Damage); 5] = [
        ("a pair is missing", |m| drop(m.remove(&m.keys().nth(3).unwrap().clone()))),
        ("a value has changed", |m| m.values_mut().nth(5).unwrap()[0] ^= 1),
        ("a pair too much", |m| drop(m.insert(vec![0, 0, 1, 9], vec![1]))),
        ("the header is missing", |m| drop(m.remove(&[0u8, 0, 0][..]))),
        ("the header does not read", |m| m.get_mut(&[0u8, 0, 0][..]).unwrap().truncate(9)),
    ];
    for (what, damage) in damages {
        let disks = lived().await;
        disks.state.damage(damage);
        let mut life = disks.start(CutBug::None).await.unwrap();
        assert_eq!(disks.state.set_aside_count(), 1, "{what}");
        assert_eq!(life.last().await, 50);
        assert_eq!(life.machine.state.lock().unwrap().chain, chain(50), "{what}");
        life.host.checkpoint().await.unwrap();
        drop(life);
        disks.start(CutBug::None).await.unwrap();
        assert_eq!(disks.state.set_aside_count(), 1, "the new one is whole");
    }
    let disks = lived().await;
    disks.state.break_it();
    let life = disks.start(CutBug::None).await.unwrap();
    assert_eq!((disks.state.set_aside_count(), life.machine.state.lock().unwrap().chain), (1, chain(50)));
}

/// A log that ends before the state is a log that lost something: its node must not vote.
#[tokio::test]
async fn a_log_older_than_the_state_is_refused() {
    let disks = Disks::default();
    let mut life = disks.start(CutBug::None).await.unwrap();
    life.work(10, &mut Rng(1)).await.unwrap();
    life.store.barrier().await.unwrap();
    let old = disks.log.copy();
    life.work(30, &mut Rng(1)).await.unwrap();
    life.host.checkpoint().await.unwrap();
    drop(life);
    let restored = Disks { log: old, ..disks.clone() };
    let refused = restored.start(CutBug::None).await.err().expect("refused");
    assert!(matches!(&refused, StartError::Witness { .. }) && refused.to_string().contains("the log ends with entry 10"), "{refused}");
    let lost = Disks { log: SimDisk::new(), ..disks };
    let refused = lost.start(CutBug::None).await.err().expect("refused");
    assert!(matches!(&refused, StartError::Witness { .. }) && refused.to_string().contains("the log ends with nothing"), "{refused}");
}

/// The snapshot of a leader lies beyond the log's end: allowed only if the log announced it. A crash at every step of its installation.
#[tokio::test]
async fn an_installed_snapshot_may_be_beyond_the_log() {
    let source = lived().await;
    let mut life = source.start(CutBug::None).await.unwrap();
    let snapshot = life.host.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let well = Disks::default();
    let mut follower = well.start(CutBug::None).await.unwrap();
    follower.host.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await.unwrap();
    assert_eq!(follower.machine.state.lock().unwrap().index, 50);
    let mut installed = 0;
    for at in 0..40 {
        let disks = Disks::default();
        let mut follower = disks.start(CutBug::None).await.unwrap();
        follower.work(5, &mut Rng(at)).await.unwrap();
        follower.store.barrier().await.unwrap();
        let disk = match at % 3 {
            0 => &disks.log,
            1 => &disks.snapshots,
            _ => {
                disks.state.crash_at(at / 3);
                &SimDisk::new()
            }
        };
        disk.crash_at(at / 3);
        let _ = follower.host.install_snapshot(&snapshot.meta, snapshot.snapshot.clone()).await;
        drop(follower);
        disks.crash(&mut Rng(at));
        let follower = disks.start(CutBug::None).await;
        let mut follower = follower.unwrap_or_else(|e| panic!("at {at}: {e}"));
        let (applied, _) = follower.host.applied_state().await.unwrap();
        let applied = applied.map_or(0, |id| id.index + 1);
        assert!(applied == 50 || applied == 5, "{applied}");
        installed += u64::from(applied == 50);
        assert_eq!(follower.machine.state.lock().unwrap().chain, chain(applied));
    }
    assert!(installed > 5 && installed < 40, "{installed}");
    // Without the announcement the same file is a witness against the log.
    let disks = Disks { snapshots: source.snapshots.clone(), ..Disks::default() };
    assert!(matches!(disks.start(CutBug::None).await, Err(StartError::Witness { .. })));
}

#[test]
fn a_state_that_is_one_value_is_stored_and_loaded_whole() {
    let cuts = Cuts::open(&SimKv::default(), IDENT, 0..1).unwrap();
    let mut cut = cut(&cuts, 0).unwrap();
    assert!(load_whole(&cut.stored()).unwrap_err().contains("missing"));
    cut.advance(cut.standing(), freeze_whole(vec![1, 2, 3])()).unwrap();
    assert_eq!(load_whole(&cut.stored()), Ok(vec![1, 2, 3]));
}

/// The last entry of the cut that is in the store.
fn stored(disks: &Disks) -> Option<u64> { cut(&Cuts::open(&disks.state.mount(), IDENT, 0..1).unwrap(), 0).unwrap().standing().last.map(|id| id.index) }

/// A snapshot is of the moment at which it was begun: the store stands still until it is done, and goes on after it.
#[tokio::test]
async fn checkpoints_stand_still_for_a_snapshot_and_go_on_after_it() {
    let disks = Disks::default();
    let mut life = disks.start(CutBug::None).await.unwrap();
    life.work(6, &mut Rng(1)).await.unwrap();
    for round in 0..3u64 {
        let begun = 5 + 6 * round;
        let (mut one, mut two) = (life.host.get_snapshot_builder().await, life.host.get_snapshot_builder().await);
        life.work(6, &mut Rng(1)).await.unwrap();
        life.host.checkpoint().await.unwrap();
        assert_eq!(stored(&disks), if round == 0 { None } else { Some(begun) });
        assert_eq!(one.build_snapshot().await.unwrap().meta.last_log_id.map(|id| id.index), Some(begun));
        drop(one);
        life.host.checkpoint().await.unwrap();
        assert_eq!(stored(&disks), Some(begun), "there is another one");
        two.build_snapshot().await.unwrap();
        drop(two);
        life.host.checkpoint().await.unwrap();
        assert_eq!(stored(&disks), Some(begun + 6));
    }
    life.store.barrier().await.unwrap();
    drop(life);
    disks.start(CutBug::None).await.unwrap();
}

/// The store does not survive a full disk: it is left alone then, and the log has the rest.
#[tokio::test]
async fn a_checkpoint_is_written_only_while_there_is_room() {
    let disks = Disks::default();
    let stored = || stored(&disks);
    let mut life = disks.start(CutBug::None).await.unwrap();
    life.work(6, &mut Rng(1)).await.unwrap();
    life.host.checkpoint().await.unwrap();
    assert_eq!(stored(), Some(5));
    life.work(6, &mut Rng(1)).await.unwrap();
    disks.state.set_full(true);
    life.host.checkpoint().await.unwrap();
    assert_eq!(stored(), Some(5));
    disks.state.set_full(false);
    life.host.checkpoint().await.unwrap();
    assert_eq!(stored(), Some(11));
    assert_eq!(life.machine.state.lock().unwrap().chain, chain(12));
}
