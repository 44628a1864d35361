//! Nodes in one process over loopback, on simulated disks, and members of a group on them.
#![allow(dead_code)]

use baton_coordinator::{command::*, ids::*, metadata::MetaCommand, shard::shard_of};
use baton_node::{Node, NodeConfig, Refusal, StartError};
use baton_raft::RaftConfig;
use baton_storage::SimDisk;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::TcpListener,
    sync::atomic::{AtomicU16, Ordering::Relaxed},
    time::{Duration, Instant},
};
use tokio::runtime::Handle;

pub const WAIT: Duration = Duration::from_secs(3);

pub struct Disks {
    pub wal: SimDisk,
    pub snapshots: SimDisk,
    pub directory: u128,
}
impl Disks {
    pub fn new() -> Disks { Disks { wal: SimDisk::new(), snapshots: SimDisk::new(), directory: Node::random_id() } }
}

pub struct World {
    pub peers: BTreeMap<u64, String>,
    pub disks: BTreeMap<u64, Disks>,
    pub nodes: BTreeMap<u64, Node>,
}

impl World {
    pub async fn start(n: usize) -> World { World::start_on(&vec![Handle::current(); n]).await }
    /// One node on each runtime.
    pub async fn start_on(runtimes: &[Handle]) -> World {
        let n = runtimes.len() as u64;
        let peers = free_addresses(n);
        let mut w = World { peers, disks: (1..=n).map(|id| (id, Disks::new())).collect(), nodes: BTreeMap::new() };
        // One after the other would wait for ever: each waits for all.
        let starts: Vec<_> = (1..).zip(runtimes).map(|(id, r)| r.spawn(Node::start(w.config(id), w.disks[&id].wal.clone(), w.disks[&id].snapshots.clone()))).collect();
        for (id, s) in (1..).zip(starts) {
            w.nodes.insert(id, s.await.unwrap().unwrap());
        }
        for node in w.nodes.values() {
            eventually("every node is ready", async || node.ready()).await;
        }
        w
    }
    pub fn config(&self, id: u64) -> NodeConfig {
        NodeConfig {
            node: id, http_advertise: format!("http-{id}"), peers: self.peers.clone(), shards: 4, directory: self.disks[&id].directory, segment_bytes: 1 << 20,
            raft: RaftConfig { listen: self.peers[&id].clone(), secret: b"secret".to_vec(), ..RaftConfig::default() }, ..NodeConfig::default()
        }
    }
    pub async fn stop(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().shutdown().await;
    }
    pub async fn restart(&mut self, id: u64) -> Result<(), StartError> {
        let d = self.disks.get_mut(&id).unwrap();
        (d.wal, d.snapshots) = (d.wal.mount(), d.snapshots.mount());
        let node = Node::start(self.config(id), self.disks[&id].wal.clone(), self.disks[&id].snapshots.clone()).await?;
        self.nodes.insert(id, node);
        Ok(())
    }
    /// The `i`th running node, round and round.
    pub fn any(&self, i: usize) -> &Node { self.nodes.values().nth(i % self.nodes.len()).unwrap() }
    pub fn leader_of(&self, group: &str) -> Option<u64> {
        let s = usize::from(shard_of(&group.into(), 4));
        self.any(0).cluster().shards[s].leader.filter(|l| self.nodes.contains_key(l))
    }
}

/// Addresses of nodes 1 to `n`, below the range of outgoing connections: a node that comes back must find its port free again.
pub fn free_addresses(n: u64) -> BTreeMap<u64, String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = std::process::id() as u16 % 997 * 4;
    let free = std::iter::repeat_with(|| 12_000 + (first + NEXT.fetch_add(1, Relaxed)) % 4_000).map(|port| format!("127.0.0.1:{port}")).filter(|a| TcpListener::bind(a).is_ok());
    (1..=n).zip(free).collect()
}

pub async fn eventually<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(what: &str, mut f: impl FnMut() -> F) -> T {
    let start = Instant::now();
    loop {
        match f().await {
            Ok(t) => return t,
            Err(e) if start.elapsed() > Duration::from_secs(20) => panic!("{what}: not within 20 s: {e:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

pub struct Member {
    pub id: String,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub revision: AssignmentRevision,
    pub held: BTreeMap<Partition, FencingToken>,
}
impl Member {
    pub fn new(id: &str) -> Member { Member { id: id.into(), incarnation: Incarnation(Node::random_id()), epoch: 0, revision: AssignmentRevision(0), held: BTreeMap::new() } }
    pub async fn beat(&mut self, node: &Node) -> Result<HeartbeatView, Refusal> {
        let joins = self.epoch == 0;
        let h = Heartbeat {
            member: self.id.as_str().into(), incarnation: self.incarnation, epoch: self.epoch, assignment_revision: self.revision,
            subscribed_topics: joins.then(|| BTreeSet::from(["orders".into()])), rebalance_timeout_ms: joins.then_some(60_000),
            owned: Some(self.held.keys().cloned().collect()), ..Heartbeat::default()
        };
        match node.request(Request { group: "g".into(), command: Command::Heartbeat(h), budget_ms: None, min_meta_revision: 0 }, WAIT).await? {
            Response::Heartbeat(v) => {
                self.epoch = v.member_epoch;
                self.revision = v.assignment_revision;
                if let Some(a) = &v.assignment {
                    self.held = a.clone();
                }
                Ok(v)
            }
            other => panic!("a heartbeat was answered with {other:?}"),
        }
    }
}

/// Heartbeats of all members through changing nodes until they share 6 partitions fairly. A refusal by rule is a failure; "unavailable" is not.
pub async fn settle(w: &World, members: &mut [Member]) {
    let start = Instant::now();
    for i in 0.. {
        for (k, m) in members.iter_mut().enumerate() {
            match m.beat(w.any(i + k)).await {
                Ok(_) | Err(Refusal::Unavailable { .. }) => {}
                Err(e) => panic!("{}: {e}", m.id),
            }
        }
        let all: Vec<&Partition> = members.iter().flat_map(|m| m.held.keys()).collect();
        let distinct: BTreeSet<&&Partition> = all.iter().collect();
        assert_eq!(all.len(), distinct.len(), "two members believe in one partition: {all:?}");
        let fair = members.iter().all(|m| m.held.len() == 6 / members.len());
        if all.len() == 6 && fair {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "no agreement: {all:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn ask(node: &Node, command: Command) -> Result<Response, Refusal> { node.request(Request { group: "g".into(), command, budget_ms: None, min_meta_revision: 0 }, WAIT).await }

pub async fn declare(node: &Node) {
    let declare = MetaCommand::DeclareTopic { name: "orders".into(), partitions: 6, id_if_new: Node::random_id() };
    let revision = node.meta(declare).await.unwrap();
    assert!(node.metadata().revision >= revision);
}

/// A world of `n` nodes that nobody has started.
pub fn unstarted(n: u64) -> World { World { peers: free_addresses(n), disks: (1..=n).map(|id| (id, Disks::new())).collect(), nodes: BTreeMap::new() } }
pub async fn starts(config: NodeConfig) -> Result<Node, StartError> {
    let start = Node::start(config, SimDisk::new(), SimDisk::new());
    tokio::time::timeout(Duration::from_secs(20), start).await.expect("it is refused, or starts, within 20 s")
}
