//! A node comes back from its checkpoint and the log after it, with the same state as from the whole log; and without the checkpoint, too.
#![cfg(not(madsim))]

use baton_coordinator::{command::*, ids::*, metadata::MetaCommand};
use baton_node::{Node, NodeConfig, Refusal, StartError};
use baton_raft::RaftConfig;
use baton_storage::{Disk, KvHome, RealDisk, SimDisk, SimKv, SledHome};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

const WAIT: Duration = Duration::from_secs(3);

fn config(checkpoint_ms: u64, snapshot_every: u64) -> NodeConfig {
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let raft = RaftConfig { listen: address.clone(), secret: b"secret".to_vec(), checkpoint_ms, snapshot_every, ..RaftConfig::default() };
    NodeConfig { node: 1, peers: BTreeMap::from([(1, address)]), shards: 2, directory: 7, segment_bytes: 1 << 20, raft, ..NodeConfig::default() }
}

async fn start<D: Disk + Clone + Sync>(config: &NodeConfig, disks: (&D, &D), state: &dyn KvHome) -> Node {
    let node = Node::start_on(config.clone(), disks.0.clone(), disks.1.clone(), state).await.unwrap();
    let began = Instant::now();
    while let Err(e) = node.ready() {
        assert!(began.elapsed() < Duration::from_secs(10), "{e}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node
}

async fn ask(node: &Node, group: &str, command: Command) -> Response {
    let began = Instant::now();
    loop {
        match node.request(Request { group: group.into(), command: command.clone(), budget_ms: None, min_meta_revision: 0 }, WAIT).await {
            Ok(r) => return r,
            Err(Refusal::Unavailable { reason, .. }) => assert!(began.elapsed() < Duration::from_secs(10), "{reason}"),
            Err(e) => panic!("{group}: {e}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn history(node: &Node, group: &str) -> Vec<HistoryRecord> {
    match ask(node, group, Command::History { since: 0 }).await {
        Response::History(h) => h,
        other => panic!("the history was answered with {other:?}"),
    }
}

/// A member joins and leaves in each of a few groups, `rounds` times: state and history.
async fn work(node: &Node, rounds: u128) {
    node.meta(MetaCommand::DeclareTopic { name: "orders".into(), partitions: 6, id_if_new: 1 }).await.unwrap();
    for round in 0..rounds {
        for g in ["g1", "g2", "g3", "g4"] {
            let incarnation = Incarnation(Node::random_id());
            let member = MemberId::from(format!("m{round}").as_str());
            let join = Heartbeat { member: member.clone(), incarnation, subscribed_topics: Some(BTreeSet::from(["orders".into()])), rebalance_timeout_ms: Some(60_000), owned: Some(BTreeSet::new()), ..Heartbeat::default() };
            let Response::Heartbeat(v) = ask(node, g, Command::Heartbeat(join)).await else { panic!("no heartbeat") };
            let offsets = v.assignment.unwrap_or_default().into_iter().map(|(partition, token)| CommitOffset { partition, token, offset: 5, metadata: String::new(), leader_epoch: None });
            ask(node, g, Command::Commit(Commit { member: Some(CommitMember { member: member.clone(), incarnation, commit_seq: 1 }), offsets: offsets.collect() })).await;
            if round + 1 < rounds {
                ask(node, g, Command::Leave(Leave { member, incarnation, assignment_revision: v.assignment_revision, is_static: false })).await;
            }
        }
    }
}

/// Everything that is replicated: each shard's applied index and digest, and the histories.
async fn picture(node: &Node) -> (Vec<u64>, Vec<Vec<HistoryRecord>>) {
    // What a leader still has to decide by itself (a delayed assignment) comes first.
    tokio::time::sleep(Duration::from_millis(400)).await;
    let digests = (0..2).map(|s| node.inspect(s, |shard| shard.digest()).unwrap().1).collect();
    let mut histories = Vec::new();
    for g in ["g1", "g2", "g3", "g4"] {
        histories.push(history(node, g).await);
    }
    (digests, histories)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_and_replay_give_what_the_whole_log_gives() {
    let (config, wal, snapshots, state) = (config(50, 1_000_000), SimDisk::new(), SimDisk::new(), SimKv::default());
    let node = start(&config, (&wal, &snapshots), &state).await;
    work(&node, 3).await;
    // The cut is now behind the work; the power goes in the middle of more of it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let unwritten = |n: &Node| n.metrics().iter().find(|m| m.name == "baton_history_unwritten_count").map(|m| m.value).unwrap();
    assert_eq!(unwritten(&node), 0.0, "the records are on disk, not in memory");
    assert!(history(&node, "g1").await.len() >= 6, "and are read from there");
    work(&node, 2).await;
    let before = picture(&node).await;
    let mut running = Some(node);
    for keep in [0, 1, usize::MAX] {
        wal.crash(baton_storage::Crash::LoseUnsynced, &mut |_| 0);
        snapshots.crash(baton_storage::Crash::LoseUnsynced, &mut |_| 0);
        state.crash(keep);
        if let Some(dead) = running.take() {
            dead.shutdown().await;
        }
        let (w, s, k) = (wal.mount(), snapshots.mount(), state.mount());
        let from_cut = start(&config, (&w, &s), &k).await;
        assert!(picture(&from_cut).await == before, "from the cut and the log after it, keeping {keep}");
        from_cut.shutdown().await;
        let from_log = start(&config, (&w, &s), &SimKv::default()).await;
        assert!(picture(&from_log).await == before, "from the whole log");
        from_log.shutdown().await;
    }
    assert_eq!(state.set_aside_count(), 0);
    // The cut is of use: with it and a log that has lost its tail, the start is refused (safety.md 28).
    let (lost, k) = (SimDisk::new(), state.mount());
    let refused = Node::start_on(config.clone(), lost, snapshots.mount(), &k).await;
    assert!(matches!(refused, Err(StartError::LogLost)), "{:?}", refused.err());
}

struct Folder(PathBuf);
impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("baton-restart-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Folder(dir)
    }
    fn disk(&self, name: &str) -> RealDisk { RealDisk::open(&self.0.join(name)).unwrap() }
    fn state(&self) -> SledHome { SledHome(self.0.join("state")) }
}
impl Drop for Folder {
    fn drop(&mut self) { let _ = std::fs::remove_dir_all(&self.0); }
}

/// Damages the store: its settings, its snapshot files, the length of its file, or bytes of it at more and more places.
fn corrupt(state: &Path, how: usize) {
    let change = |file: &Path, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = std::fs::read(file).unwrap();
        change(&mut bytes);
        std::fs::write(file, bytes).unwrap();
    };
    match how {
        0 => change(&state.join("db"), &|b| b.truncate(100)),
        // A tail that is gone is an older state, not damage: the log after it is replayed.
        1 => change(&state.join("db"), &|b| b.truncate(b.len() * 9 / 10)),
        2 => change(&state.join("conf"), &|b| b.iter_mut().for_each(|b| *b ^= 0x55)),
        3 => {
            for file in std::fs::read_dir(state).unwrap().map(|f| f.unwrap().path()).filter(|f| f.to_string_lossy().contains("snap.")) {
                change(&file, &|b| b.iter_mut().for_each(|b| *b ^= 0x55));
            }
        }
        _ => change(&state.join("db"), &|b| b.iter_mut().filter(|b| **b != 0).step_by(100_000 >> (2 * how)).for_each(|b| *b ^= 0x55)),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sled_folder_is_set_aside_and_built_anew() {
    let folder = Folder::new("damage");
    let config = config(50, 40);
    let (wal, snapshots) = (folder.disk("wal"), folder.disk("snapshots"));
    let node = start(&config, (&wal, &snapshots), &folder.state()).await;
    work(&node, 12).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = picture(&node).await;
    assert!(std::fs::read_dir(folder.0.join("snapshots")).unwrap().count() >= 1, "snapshots were taken, so the log alone does not do");
    node.shutdown().await;
    drop(node);
    let mut aside = 0;
    for how in 0..8 {
        corrupt(&folder.0.join("state"), how);
        let node = start(&config, (&wal, &snapshots), &folder.state()).await;
        assert!(picture(&node).await == before, "damage {how}");
        node.shutdown().await;
        drop(node);
        println!("damage {how}: {:?}", std::fs::read_dir(&folder.0).unwrap().map(|f| f.unwrap().file_name()).collect::<Vec<_>>());
        aside += u32::from(folder.0.join(format!("state.damaged-{}", aside + 1)).exists());
    }
    println!("{aside} of 8 damages were set aside; sled took the others back to an older or an empty state by itself");
    assert!(aside >= 2, "{aside}");
    // And what was built anew is good.
    let node = start(&config, (&wal, &snapshots), &folder.state()).await;
    assert!(picture(&node).await == before);
    assert!(!folder.0.join(format!("state.damaged-{}", aside + 1)).exists());
    node.shutdown().await;
}
