//! The nodes of the cluster, their hosts and links, and everything that is seen of the story: events, story lines, what fired, what broke.
//! Their disks are in `disks`.

use super::{Broken, DRIFT_PPM, Plan, Report, Work, disks::Disks, judge::Judge, members::Process, order::Order, plan::Ms, timers::Timers};
use baton_core_sim::{plan::Fired, timeline::Timeline};
use baton_invariants::Verdict;
use baton_node::{Node, NodeConfig};
use baton_raft::{RaftConfig, faults};
use baton_storage::Crash;
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
    rc::Rc,
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
    pub timers: Timers,
    pub work: Work,
    /// What was asked and answered over the wire.
    pub order: Order,
    /// What its judge looked at.
    pub ordered: Report,
    pub timeline: Timeline,
    /// Running nodes.
    pub nodes: BTreeMap<u64, Node>,
    /// All worker processes, dead ones too, by their name.
    pub processes: BTreeMap<String, Process>,
    /// How often something was deleted: what was acknowledged before is not owed after.
    pub deletions: u64,
    /// Deletions under way: nothing that is acknowledged meanwhile is owed, and nothing that is found says anything.
    pub deleting: u64,
}
impl Seen {
    /// Nothing was deleted since there were so many deletions.
    pub fn owes(&self, deletions: u64) -> bool { self.deleting == 0 && self.deletions == deletions }
    /// A deletion of all places with this prefix begins (1) or has ended (-1).
    pub fn deletion(&mut self, prefix: &str, step: i64) {
        self.deletions += 1;
        self.deleting = self.deleting.saturating_add_signed(step);
        self.judge.commits.forget(prefix);
    }
}

/// How a node is started, and what may become of it.
#[derive(Default)]
pub struct Care {
    /// It was done something to that may end it.
    pub may_end: bool,
    /// Why its process ended by itself, or did not start.
    pub ended: Option<String>,
    /// It is out of the cluster for the rest of the story.
    pub out: bool,
    /// It runs an earlier version: it may stop a shard.
    pub old_version: bool,
    /// Somebody does something to it that suffers no other act.
    pub busy: bool,
    /// Starts so far.
    pub lives: u64,
    pub snapshot_every: Option<u64>,
    pub checkpoint_ms: Option<Ms>,
    /// Another data directory than its own.
    pub directory: Option<u128>,
    /// What happens at its trap.
    pub spring: super::acts::Spring,
}

/// One simulated cluster and its users.
pub struct World {
    pub plan: Plan,
    pub sim: Handle,
    start: Instant,
    seen: Arc<Mutex<Seen>>,
    pub disks: Mutex<BTreeMap<u64, Disks>>,
    /// The simulator's numbers of our nodes.
    hosts: Mutex<BTreeMap<u64, NodeId>>,
    pub admin: NodeId,
    next_address: AtomicU64,
    /// Acts under way that have to come to their end.
    pub acts_out: AtomicU64,
    care: Mutex<BTreeMap<u64, Care>>,
    /// Hosts whose heartbeats are answered so much later, until then.
    pub late: Mutex<BTreeMap<NodeId, (Ms, Ms)>>,
    /// One change of topics at a time.
    pub topics_change: tokio::sync::Mutex<()>,
    /// The end has come: copies that are still out need not come any more.
    pub over: std::sync::atomic::AtomicBool,
    /// Since when all is well.
    pub well: AtomicU64,
}

pub const NODES: std::ops::RangeInclusive<u64> = 1..=3;
pub fn http(id: u64) -> String { format!("10.0.0.{id}:7600") }
pub fn peer(id: u64) -> String { format!("10.0.0.{id}:7700") }
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> { m.lock().unwrap_or_else(PoisonError::into_inner) }

impl World {
    pub fn new(plan: Plan, seen: Arc<Mutex<Seen>>) -> Arc<World> {
        let sim = Handle::current();
        let admin = sim.create_node().name("admin").ip([10, 0, 1, 1].into()).build().id();
        let disks = NODES.map(|id| (id, Disks::default())).collect();
        let world = Arc::new(World {
            plan, sim, start: Instant::now(), seen, disks: Mutex::new(disks), hosts: Mutex::default(), admin, next_address: AtomicU64::new(1), acts_out: AtomicU64::new(0),
            care: Mutex::default(), late: Mutex::default(), topics_change: tokio::sync::Mutex::default(), over: false.into(), well: AtomicU64::new(0),
        });
        for id in NODES {
            let w = world.clone();
            let host = world.sim.create_node().name(format!("n{id}")).ip([10, 0, 0, id as u8].into()).init(move || live(id, w.clone())).build().id();
            lock(&world.hosts).insert(id, host);
            world.drift(host, DRIFT_PPM);
            faults::change(host, |h| (h.late, h.copies) = (world.plan.late_timers, world.plan.peer_copies));
        }
        world
    }
    pub fn seen(&self) -> MutexGuard<'_, Seen> { lock(&self.seen) }
    pub fn now_ns(&self) -> u64 { self.start.elapsed().as_nanos() as u64 }
    pub fn now(&self) -> Ms { self.start.elapsed().as_millis() as Ms }
    pub fn host(&self, id: u64) -> NodeId { lock(&self.hosts)[&id] }
    pub fn node_at(&self, host: NodeId) -> Option<u64> { lock(&self.hosts).iter().find(|(_, h)| **h == host).map(|(id, _)| *id) }
    pub fn care<T>(&self, id: u64, f: impl FnOnce(&mut Care) -> T) -> T { f(lock(&self.care).entry(id).or_default()) }
    /// Nodes that are part of the cluster to the end.
    pub fn members(&self) -> BTreeSet<u64> { NODES.filter(|n| !self.care(*n, |c| c.out)).collect() }
    /// Takes nodes for one act alone; false: another has one of them.
    pub fn take(&self, nodes: &[u64]) -> bool {
        let free = nodes.iter().all(|n| self.care(*n, |c| !c.busy && !c.out));
        if free { nodes.iter().for_each(|n| self.care(*n, |c| c.busy = true)); }
        free
    }
    /// All nodes, if each of them is up.
    pub fn take_all(&self) -> Option<Vec<u64>> {
        let all: Vec<u64> = NODES.collect();
        (all.iter().all(|n| self.is_up(*n)) && self.take(&all)).then_some(all)
    }
    pub fn give_back(&self, nodes: &[u64]) { nodes.iter().for_each(|n| self.care(*n, |c| c.busy = false)); }
    /// May be killed and restarted by anybody.
    pub fn is_free(&self, id: u64) -> bool { self.care(id, |c| !c.busy && !c.out) }
    /// A computer of its own for a process. Its clock drifts as the plan has it.
    pub fn computer(&self, name: &str) -> madsim::runtime::NodeHandle {
        let n = self.next_address.fetch_add(1, Ordering::Relaxed);
        let computer = self.sim.create_node().name(name).ip([10, 0, 2 + (n / 250) as u8, (n % 250) as u8 + 1].into()).build();
        self.drift(computer.id(), -DRIFT_PPM);
        computer
    }
    /// Its clock drifts as the plan has it.
    fn drift(&self, host: NodeId, at_bound: i64) {
        let most = self.plan.drift_ppm;
        if self.plan.at_bound {
            faults::drift(host, at_bound);
        } else if most > 0 {
            faults::drift(host, thread_rng().gen_range(-most..=most));
        }
        if most > 0 { self.fired("clocks drift"); }
    }
    pub fn late(&self) -> MutexGuard<'_, BTreeMap<NodeId, (Ms, Ms)>> { lock(&self.late) }
    /// Runs beside everything, on a computer that nothing is done to.
    pub fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(h) = self.sim.get_node(self.admin) { h.spawn(work); }
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
    pub fn broken(&self, invariant: &'static str, what: String) { self.broken_at(self.now(), invariant, what) }
    /// One that is found out later than it broke.
    pub fn broken_at(&self, at: Ms, invariant: &'static str, what: String) {
        self.event(format!("BROKEN {invariant}: {what}"));
        self.seen().broken.get_or_insert((at, Broken { invariant, what }));
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
            let (leader, term, _) = n.standing(shard)?;
            (leader == Some(*id)).then_some((term, *id))
        });
        claims.max().map(|(_, id)| id)
    }
    /// Whether a node runs.
    pub fn is_up(&self, id: u64) -> bool { self.seen().nodes.contains_key(&id) }

    /// Power off: what was not synced survives in part. With `gently` only the process dies.
    pub fn kill(&self, id: u64, gently: bool) {
        let kinds = [Crash::LoseUnsynced, Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepPrefix, Crash::KeepSuffix, Crash::KeepSome, Crash::KillProcess];
        self.kill_as(id, if gently { Crash::KillProcess } else { kinds[thread_rng().gen_range(0..kinds.len())] });
    }
    pub fn kill_as(&self, id: u64, kind: Crash) {
        let may_end = self.care(id, |c| std::mem::take(&mut c.may_end));
        if self.seen().nodes.remove(&id).is_none() && self.sim.is_exit(self.host(id)) && !may_end {
            return;
        }
        self.sim.kill(self.host(id));
        lock(&self.disks)[&id].crash(kind);
        self.event(format!("node {id} dies ({kind:?})"));
    }
    pub fn restart(&self, id: u64) {
        if self.care(id, |c| c.out) { return; }
        self.event(format!("node {id} starts"));
        self.care(id, |c| { c.ended = None; c.lives += 1; });
        faults::set_trap(self.host(id), None);
        self.sim.restart(self.host(id));
    }
    /// A node that ended by itself, or did not start: why.
    pub fn ended(&self, id: u64) -> Option<String> { self.care(id, |c| c.ended.clone()) }

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
    let (wal, snapshots, state) = { let disks = lock(&world.disks); let d = &disks[&id]; (d.wal.mount(), d.snapshots.mount(), d.state.mount()) };
    let (snapshot_every, checkpoint_ms, directory) = world.care(id, |c| (c.snapshot_every, c.checkpoint_ms, c.directory));
    let usual = RaftConfig::default();
    let raft = RaftConfig {
        listen: peer(id), secret: b"secret".to_vec(), snapshot_every: snapshot_every.unwrap_or(world.plan.snapshot_every), guard_ms: world.plan.guard_ms,
        checkpoint_ms: checkpoint_ms.unwrap_or(usual.checkpoint_ms), ..usual
    };
    let config = NodeConfig {
        node: id, http_advertise: http(id), peers: NODES.map(|n| (n, peer(n))).collect(), shards: world.plan.shards, raft,
        directory: directory.unwrap_or(u128::from(id) << 64 | 0xd1), segment_bytes: 1 << 16, ..NodeConfig::default()
    };
    let node = match Node::start_on(config, wal, snapshots, &state).await {
        Ok(node) => node,
        Err(e) => return end(&world, id, format!("does not start: {e}")),
    };
    world.event(format!("node {id} is up"));
    world.seen().nodes.insert(id, node.clone());
    let failed = { let (node, world) = (node.clone(), world.clone()); async move {
        let why = node.failed().await;
        end(&world, id, format!("cannot go on: {why}"));
    } };
    tokio::spawn(failed);
    for shard in 0..world.plan.shards { tokio::spawn(probe(id, shard, node.clone(), world.clone())); }
    let listener = match tokio::net::TcpListener::bind(http(id)).await {
        Ok(l) => l,
        Err(e) => return world.broken("live", format!("node {id} cannot listen: {e}")),
    };
    baton_api::serve(listener, baton_api::router(node), pending()).await;
}

/// A process that cannot go on ends at once.
fn end(world: &Arc<World>, id: u64, why: String) {
    if !world.care(id, |c| c.may_end) { return world.broken("live", format!("node {id} {why}")); }
    world.event(format!("node {id} {why}"));
    world.seen().nodes.remove(&id);
    world.care(id, |c| c.ended = Some(why));
    let w = world.clone();
    world.beside(async move { w.sim.kill(w.host(id)); });
}

/// Asks for the lease again and again: none may be given while a later term has a leader.
async fn probe(id: u64, shard: u16, node: Node, world: Arc<World>) {
    loop {
        let most = if world.plan.aimed { 50 } else { 150 };
        sleep(Duration::from_millis(thread_rng().gen_range(5..most))).await;
        let known = faults::known(shard + 1);
        if let Some(term) = node.lease(shard).await {
            let now = world.now();
            { let mut s = world.seen(); s.work.leases += 1; s.timers.leased(shard, now); }
            world.verdict(leased(&world, id, shard, term, known));
        }
    }
}

/// A node was given the lease of a term, or let an answer go under it, and it had asked when this was known.
fn leased(world: &World, id: u64, shard: u16, term: u64, known: faults::Known) -> Verdict {
    let until = faults::promised_until(shard + 1, term);
    let mut s = world.seen();
    s.judge.leased(id, shard, term, known.newest)?;
    s.judge.backed(id, shard, term, known.at_ns, until)
}

/// Looks at every lease that an answer leaves under.
pub fn judge_answers(world: &Arc<World>) {
    let (asks, sees) = (Arc::downgrade(world), Arc::downgrade(world));
    faults::judge_answers(faults::AnswerJudge {
        newest: Rc::new(move |group| asks.upgrade().map_or(0, |w| w.seen().judge.newest_term(group - 1))),
        leaves: Rc::new(move |host, group, term, known| {
            let Some(world) = sees.upgrade() else { return };
            let Some(id) = world.node_at(host) else { return };
            world.seen().work.answers += 1;
            world.verdict(leased(&world, id, group - 1, term, known));
        }),
    });
}
