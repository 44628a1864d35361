//! Drives offset commits through one node on real files (log, state machine, checkpoints, snapshots, purges) and watches what it keeps on disk.
//!
//! The bound of the log is `(pin_segments + 6) · segment`: a group that keeps more than `pin_segments` segments is told to snapshot and purged behind it; at four
//! more, new entries are held up until that is done; one more may be written by what was on its way, and one is the spare. See `docs/storage.md`.

use baton_coordinator::{command::*, config::Limits, ids::*, metadata::MetaCommand};
use baton_node::{Node, NodeConfig, Refusal};
use baton_raft::RaftConfig;
use baton_storage::{RealDisk, SledHome};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, atomic::{AtomicBool, Ordering}},
    time::{Duration, Instant},
};

/// sled's own files: a multiple of what lives in it, and what it allocates at the least.
const SLED_FACTOR: u64 = 8;
const SLED_FLOOR: u64 = 16 << 20;
const GROUPS: usize = 64;
const PARTITIONS: i32 = 16;
/// Kept with each offset, as some clients do.
const METADATA: &str = "host=worker-07.example.net;pid=31337;batch=0000000000000042;checksum=deadbeefdeadbeef";

#[derive(Clone)]
pub struct Plan {
    pub folder: PathBuf,
    pub commits: u64,
    pub segment_bytes: u64,
}

/// The most that was seen, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub log: u64,
    pub snapshots: u64,
    pub state: u64,
    pub all: u64,
    pub rss: u64,
}

pub struct Report {
    pub commits: u64,
    pub seconds: f64,
    pub seen: Seen,
    pub log_bound: u64,
    pub all_bound: u64,
    /// What went through the log, nearly.
    pub written: u64,
    pub restart: Duration,
}

impl Report {
    pub fn print(&self) {
        let mib = |b: u64| format!("{:.1} MiB", b as f64 / f64::from(1 << 20));
        println!("{} offset commits in {:.1} s ({:.0}/s), {} of entries through the log", self.commits, self.seconds, self.commits as f64 / self.seconds, mib(self.written));
        println!("log, at most        {:>12}   bound {}", mib(self.seen.log), mib(self.log_bound));
        println!("snapshots, at most  {:>12}", mib(self.seen.snapshots));
        println!("checkpoint, at most {:>12}", mib(self.seen.state));
        println!("disk in all         {:>12}   bound {}", mib(self.seen.all), mib(self.all_bound));
        println!("memory (RSS)        {:>12}", mib(self.seen.rss));
        println!("restart             {:>12.2?}   every group has its last offsets", self.restart);
    }
}

fn size(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    // A file may go between the listing and the look.
    entries.flatten().map(|e| match e.metadata() { Ok(m) if m.is_dir() => size(&e.path()), Ok(m) => m.len(), Err(_) => 0 }).sum()
}
fn rss() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split_whitespace().nth(1).and_then(|p| p.parse::<u64>().ok()).unwrap_or(0) * 4096
}

async fn start(config: &NodeConfig, folder: &Path) -> Node {
    let disk = |name: &str| RealDisk::open(&folder.join(name)).expect("the folder opens");
    let node = Node::start_on(config.clone(), disk("wal"), disk("snapshots"), &SledHome(folder.join("state"))).await.expect("the node starts");
    let began = Instant::now();
    while let Err(e) = node.ready() {
        assert!(began.elapsed() < Duration::from_secs(20), "{e}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    node
}

async fn ask(node: &Node, group: &GroupId, command: Command) -> Response {
    loop {
        let request = Request { group: group.clone(), command: command.clone(), budget_ms: None, min_meta_revision: 0 };
        match node.request(request, Duration::from_secs(10)).await {
            Ok(r) => return r,
            Err(Refusal::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(e) => panic!("{group:?}: {e}"),
        }
    }
}

/// One member with all partitions of its group; commits all of them at once, again and again.
async fn member(node: Node, group: GroupId, rounds: u64) -> i64 {
    let (member, incarnation) = (MemberId::from("m"), Incarnation(Node::random_id()));
    let join = Heartbeat {
        member: member.clone(), incarnation, subscribed_topics: Some(BTreeSet::from(["orders".into()])), rebalance_timeout_ms: Some(60_000), owned: Some(BTreeSet::new()),
        ..Heartbeat::default()
    };
    let Response::Heartbeat(mut view) = ask(&node, &group, Command::Heartbeat(join)).await else { panic!("no heartbeat") };
    let held = view.assignment.clone().expect("alone, it gets all at once");
    assert_eq!(held.len(), PARTITIONS as usize);
    let mut heard = Instant::now();
    for round in 1..=rounds {
        if heard.elapsed() > Duration::from_secs(2) {
            heard = Instant::now();
            let beat = Heartbeat { member: member.clone(), incarnation, epoch: view.member_epoch, assignment_revision: view.assignment_revision, owned: Some(held.keys().cloned().collect()), ..Heartbeat::default() };
            let Response::Heartbeat(v) = ask(&node, &group, Command::Heartbeat(beat)).await else { panic!("no heartbeat") };
            view = v;
        }
        let offsets = held.iter().map(|(p, token)| CommitOffset { partition: p.clone(), token: *token, offset: round as i64, metadata: METADATA.into(), leader_epoch: None }).collect();
        let commit = Commit { member: Some(CommitMember { member: member.clone(), incarnation, commit_seq: round }), offsets };
        let Response::Committed(done) = ask(&node, &group, Command::Commit(commit)).await else { panic!("no commit") };
        assert!(done.iter().all(|(_, r)| r.is_ok()), "{done:?}");
    }
    rounds as i64
}

pub async fn run(plan: Plan) -> Report {
    // No other test's file is at this address when it is bound: it was free a moment ago.
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").to_string();
    let raft = RaftConfig { listen: address.clone(), secret: b"secret".to_vec(), ..RaftConfig::default() };
    let (snapshot_every, pin_segments) = (raft.snapshot_every, raft.pin_segments);
    println!("one node, 8 shards; segments of {} KiB; a snapshot after {snapshot_every} entries or {} MiB, or when a group keeps more than {pin_segments} old segments", plan.segment_bytes >> 10, raft.snapshot_bytes >> 20);
    let config = NodeConfig { node: 1, peers: BTreeMap::from([(1, address)]), shards: 8, directory: 7, segment_bytes: plan.segment_bytes, limits: Limits::default(), raft, ..NodeConfig::default() };
    let node = start(&config, &plan.folder).await;
    node.meta(MetaCommand::DeclareTopic { name: "orders".into(), partitions: PARTITIONS, id_if_new: 1 }).await.expect("a topic");

    let stop = Arc::new(AtomicBool::new(false));
    let (folder, ended) = (plan.folder.clone(), stop.clone());
    let watcher = std::thread::spawn(move || {
        let mut seen = Seen::default();
        while !ended.load(Ordering::Acquire) {
            let (log, snapshots, state) = (size(&folder.join("wal")), size(&folder.join("snapshots")), size(&folder.join("state")));
            seen = Seen { log: seen.log.max(log), snapshots: seen.snapshots.max(snapshots), state: seen.state.max(state), all: seen.all.max(log + snapshots + state), rss: seen.rss.max(rss()) };
            std::thread::sleep(Duration::from_millis(20));
        }
        seen
    });
    let began = Instant::now();
    let rounds = plan.commits.div_ceil(GROUPS as u64 * PARTITIONS as u64);
    let groups: Vec<GroupId> = (0..GROUPS).map(|i| GroupId::from(format!("group-{i}").as_str())).collect();
    let members: Vec<_> = groups.iter().map(|g| tokio::spawn(member(node.clone(), g.clone(), rounds))).collect();
    for m in members {
        assert_eq!(m.await.expect("a member ends well"), rounds as i64);
    }
    let seconds = began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Release);
    let seen = watcher.join().expect("the watcher ends well");
    let written = node.metrics().iter().filter(|m| m.name == "baton_log_written_bytes").map(|m| m.value as u64).sum();
    node.shutdown().await;
    drop(node);

    let began = Instant::now();
    let node = start(&config, &plan.folder).await;
    let restart = began.elapsed();
    for g in &groups {
        let Response::Offsets(offsets) = ask(&node, g, Command::FetchOffsets { topic: None, partition: None }).await else { panic!("no offsets") };
        assert!(offsets.len() == PARTITIONS as usize && offsets.iter().all(|o| o.offset == rounds as i64), "{g:?}: {offsets:?}");
    }
    node.shutdown().await;
    let log_bound = (pin_segments + 6) * plan.segment_bytes;
    // Each snapshot may be there twice, while the next is written.
    let all_bound = log_bound + 2 * seen.snapshots + SLED_FLOOR + SLED_FACTOR * seen.snapshots.max(1 << 20);
    Report { commits: rounds * GROUPS as u64 * PARTITIONS as u64, seconds, seen, log_bound, all_bound, written, restart }
}
