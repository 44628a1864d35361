//! The nodes of the cluster, their disks and links, and everything that is seen of the story: events, story lines, what fired, what broke.

use super::{Broken, Plan, Work, judge::Judge, members::Process, plan::Ms};
use baton_core_sim::{plan::Fired, timeline::Timeline};
use baton_node::{Node, NodeConfig};
use baton_raft::RaftConfig;
use baton_storage::{Crash, SimDisk, SimKv};
use madsim::{
    net::NetSim,
    rand::{Rng, thread_rng},
    runtime::Handle,
    task::NodeId,
    time::{Instant, sleep},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::pending,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::{AtomicU64, Ordering}},
    time::Duration,
};

/// What is seen of a story while it runs. The caller keeps it, so that it outlives a panic inside.
#[derive(Default)]
pub struct Seen {
    pub digest: u64,
    pub events: u64,
    pub now_ms: Ms,
    pub story: Vec<String>,
    pub fired: Fired,
    pub broken: Option<(Ms, Broken)>,
    pub judge: Judge,
    pub work: Work,
    pub timeline: Timeline,
    /// Running nodes.
    pub nodes: BTreeMap<u64, Node>,
    /// All worker processes, dead ones too, by their name.
    pub processes: BTreeMap<String, Process>,
}

/// One simulated cluster and its users.
pub struct World {
    pub plan: Plan,
    pub sim: Handle,
    start: Instant,
    seen: Arc<Mutex<Seen>>,
    disks: BTreeMap<u64, (SimDisk, SimDisk, SimKv)>,
    /// The simulator's numbers of our nodes.
    hosts: Mutex<BTreeMap<u64, NodeId>>,
    pub admin: NodeId,
    next_address: AtomicU64,
    /// Nodes whose disk will die in mid-write.
    dying: Mutex<BTreeSet<u64>>,
}

pub const NODES: std::ops::RangeInclusive<u64> = 1..=3;
pub fn http(id: u64) -> String { format!("10.0.0.{id}:7600") }
fn peer(id: u64) -> String { format!("10.0.0.{id}:7700") }

impl World {
    pub fn new(plan: Plan, seen: Arc<Mutex<Seen>>) -> Arc<World> {
        let sim = Handle::current();
        let admin = sim.create_node().name("admin").ip([10, 0, 1, 1].into()).build().id();
        let disks = NODES.map(|id| (id, (SimDisk::new(), SimDisk::new(), SimKv::default()))).collect();
        let world = Arc::new(World { plan, sim, start: Instant::now(), seen, disks, hosts: Mutex::default(), admin, next_address: AtomicU64::new(1), dying: Mutex::default() });
        for id in NODES {
            let w = world.clone();
            let host = world.sim.create_node().name(format!("n{id}")).ip([10, 0, 0, id as u8].into()).init(move || live(id, w.clone())).build().id();
            world.hosts.lock().unwrap_or_else(PoisonError::into_inner).insert(id, host);
        }
        world
    }
    pub fn seen(&self) -> MutexGuard<'_, Seen> { self.seen.lock().unwrap_or_else(PoisonError::into_inner) }
    pub fn now(&self) -> Ms { self.start.elapsed().as_millis() as Ms }
    pub fn host(&self, id: u64) -> NodeId { self.hosts.lock().unwrap_or_else(PoisonError::into_inner)[&id] }
    /// A computer of its own for a process.
    pub fn computer(&self, name: &str) -> madsim::runtime::NodeHandle {
        let n = self.next_address.fetch_add(1, Ordering::Relaxed);
        self.sim.create_node().name(name).ip([10, 0, 2 + (n / 250) as u8, (n % 250) as u8 + 1].into()).build()
    }

    /// Counts into the digest and, as a sentence, into the story.
    pub fn event(&self, what: String) {
        let ns = self.start.elapsed().as_nanos() as u64;
        let mut seen = self.seen();
        seen.digest = what.bytes().chain(ns.to_be_bytes()).fold(seen.digest, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3).rotate_left(1));
        seen.events += 1;
        // What members and offsets do all the time is not marked.
        if ["act:", "node ", "BROKEN", "everything"].iter().any(|w| what.starts_with(w)) || what.ends_with("is killed") || what.contains(" starts in ") {
            seen.timeline.mark(ns / 1_000_000, what.clone());
        }
        seen.story.push(format!("{:>9.3} s  {what}", ns as f64 / 1e9));
    }
    pub fn fired(&self, what: &'static str) { self.seen().fired.hit(what); }
    /// The first broken invariant is the one that counts.
    pub fn broken(&self, invariant: &'static str, what: String) {
        self.event(format!("BROKEN {invariant}: {what}"));
        let now = self.now();
        self.seen().broken.get_or_insert((now, Broken { invariant, what }));
    }
    pub fn verdict(&self, v: Result<(), Broken>) {
        if let Err(b) = v {
            self.broken(b.invariant, b.what);
        }
    }
    pub fn is_over(&self) -> bool { self.seen().broken.is_some() }

    /// The node that leads a shard now, as it says itself; of two, that of the higher term.
    pub fn leader(&self, shard: u16) -> Option<u64> {
        let seen = self.seen();
        let claims = seen.nodes.iter().filter_map(|(id, n)| {
            let cluster = n.cluster();
            let s = &cluster.shards[usize::from(shard)];
            (s.leader == Some(*id)).then_some((s.term, *id))
        });
        claims.max().map(|(_, id)| id)
    }

    /// Power off: what was not synced survives in part. With `gently` only the process dies.
    pub fn kill(&self, id: u64, gently: bool) {
        let died_starting = self.dying().contains(&id);
        if self.seen().nodes.remove(&id).is_none() && self.sim.is_exit(self.host(id)) && !died_starting {
            return;
        }
        self.sim.kill(self.host(id));
        let kinds = [Crash::LoseUnsynced, Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepPrefix, Crash::KeepSuffix, Crash::KeepSome, Crash::KillProcess];
        let kind = if gently { Crash::KillProcess } else { kinds[thread_rng().gen_range(0..kinds.len())] };
        self.dying().remove(&id);
        let (wal, snapshots, state) = &self.disks[&id];
        wal.crash(kind, &mut |n| thread_rng().gen_range(0..n));
        snapshots.crash(kind, &mut |n| thread_rng().gen_range(0..n));
        // Of its unsynced writes a prefix survives; of a process that died alone, all.
        let unsynced = state.unsynced();
        state.crash(if kind == Crash::KillProcess { unsynced } else { thread_rng().gen_range(0..=unsynced) });
        self.event(format!("node {id} dies ({kind:?})"));
    }
    pub fn restart(&self, id: u64) {
        self.event(format!("node {id} starts"));
        self.sim.restart(self.host(id));
    }
    /// Dies in mid-write at its log's `op`-th operation; 0: does not.
    pub fn die_at(&self, id: u64, op: u64) {
        if op > 0 { self.dying().insert(id) } else { self.dying().remove(&id) };
        self.disks[&id].0.crash_at(op);
    }
    fn dying(&self) -> MutexGuard<'_, BTreeSet<u64>> { self.dying.lock().unwrap_or_else(PoisonError::into_inner) }

    /// Both directions between two nodes.
    pub fn link(&self, a: u64, b: u64, up: bool) {
        self.one_way(a, b, up);
        self.one_way(b, a, up);
    }
    pub fn one_way(&self, from: u64, to: u64, up: bool) {
        let net = NetSim::current();
        let (from, to) = (self.host(from), self.host(to));
        if up { net.unclog_link(from, to) } else { net.clog_link(from, to) }
    }
    pub fn cut(&self, id: u64, up: bool) { NODES.filter(|o| *o != id).for_each(|o| self.link(id, o, up)); }
}

/// One life of a node.
async fn live(id: u64, world: Arc<World>) {
    // What the one before left bound is gone by then.
    sleep(Duration::from_millis(5)).await;
    let (wal, snapshots, state) = &world.disks[&id];
    let raft = RaftConfig {
        listen: peer(id), secret: b"secret".to_vec(), snapshot_every: world.plan.snapshot_every, guard_ms: world.plan.guard_ms, ..RaftConfig::default()
    };
    let config = NodeConfig {
        node: id, http_advertise: http(id), peers: NODES.map(|n| (n, peer(n))).collect(), shards: world.plan.shards, raft,
        directory: u128::from(id) << 64 | 0xd1, segment_bytes: 1 << 16, ..NodeConfig::default()
    };
    let node = match Node::start_on(config, wal.mount(), snapshots.mount(), &state.mount()).await {
        Ok(node) => node,
        Err(e) if world.dying().contains(&id) => return world.event(format!("node {id} dies while it starts: {e}")),
        Err(e) => return world.broken("live", format!("node {id} does not start: {e}")),
    };
    world.event(format!("node {id} is up"));
    world.seen().nodes.insert(id, node.clone());
    let failed = { let (node, world) = (node.clone(), world.clone()); async move {
        let why = node.failed().await;
        if world.dying().contains(&id) { world.event(format!("node {id} stops: {why}")) } else { world.broken("live", format!("node {id} cannot go on: {why}")) }
    } };
    tokio::spawn(failed);
    for shard in 0..world.plan.shards { tokio::spawn(probe(id, shard, node.clone(), world.clone())); }
    let listener = match tokio::net::TcpListener::bind(http(id)).await {
        Ok(l) => l,
        Err(e) => return world.broken("live", format!("node {id} cannot listen: {e}")),
    };
    baton_api::serve(listener, baton_api::router(node), pending()).await;
}

/// Asks for the lease again and again: none may be given while a later term has a leader.
async fn probe(id: u64, shard: u16, node: Node, world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(thread_rng().gen_range(5..40))).await;
        let newest = world.seen().judge.newest_term(shard);
        if let Some(term) = node.lease(shard).await {
            let verdict = { let mut s = world.seen(); s.work.leases += 1; s.judge.leased(id, shard, term, newest) };
            world.verdict(verdict);
        }
    }
}
