//! The handle of a running node, and what its parts share.

use crate::{
    balance, bootstrap,
    config::NodeConfig,
    driver::{Driver, MAILBOX, Mail, Outcome},
    forward::{self, Answer, Call, CallError, Hello, Phase},
    identity::Known,
    local::applied_offsets,
    machine::{MetaMachine, MetaSlot, ShardMachine, ShardSlot, lock},
    metrics,
    view::*,
};
use baton_coordinator::{
    command::{GroupError, HistoryRecord, Request, Response},
    ids::{GroupId, Millis},
    metadata::{MetaCommand, Metadata},
    seeded,
    shard::shard_of,
};
use baton_raft::{RaftConfig, Cuts, ForwardHandler, GroupHandle, NodeId, RaftNode, StateMachine};
use baton_storage::{
    Disk, KvHome, SimKv,
    wal::{Options, Wal},
};
use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Notify, mpsc},
    task::JoinHandle,
};

/// The Raft group of the meta state; shard `s` is group `s + 1`.
pub const META: u16 = 0;
/// How long a request that nobody has taken yet looks for a leader.
const PATIENCE_MS: Millis = 1_500;
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(25);
/// A peer that has not spoken for so long counts as away.
const ALIVE_MS: Millis = 3_000;

/// What another node last said.
#[derive(Clone, Debug)]
pub struct Peer {
    pub hello: Hello,
    pub at: Millis,
}

/// What the parts of a node share.
pub struct Inner {
    pub config: NodeConfig,
    pub raft: OnceLock<RaftNode>,
    pub meta: Arc<MetaSlot>,
    pub shards: Vec<Arc<ShardSlot>>,
    pub mail: OnceLock<Vec<mpsc::Sender<Mail>>>,
    pub peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Its groups run.
    pub formed: AtomicBool,
    pub draining: AtomicBool,
    pub registered: AtomicBool,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    failure: Mutex<Option<String>>,
    failed: Notify,
}

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node(pub(crate) Arc<Inner>);

impl Node {
    /// Opens the log, then joins its cluster, or forms one with its peers at the very first start (waits until all of them answer).
    /// The materialised state is kept in memory only, so a restart reads the snapshots and the whole log: for tests.
    pub async fn start<D: Disk + Clone + Sync>(config: NodeConfig, wal_disk: D, snapshots: D) -> Result<Node, StartError> {
        Node::start_on(config, wal_disk, snapshots, &SimKv::default()).await
    }

    /// The same, with the materialised state in `state`.
    pub async fn start_on<D: Disk + Clone + Sync>(mut config: NodeConfig, wal_disk: D, snapshots: D, state: &dyn KvHome) -> Result<Node, StartError> {
        check(&config)?;
        config.raft.node = config.node;
        let mut ident = [0; 24];
        ident[..16].copy_from_slice(&config.directory.to_be_bytes());
        ident[16..].copy_from_slice(&config.node.to_be_bytes());
        let (wal, logs) = Wal::open(wal_disk, Options::new(config.segment_bytes, ident)).map_err(|e| StartError::Log(e.to_string()))?;
        let cuts = Cuts::open(state, ident, META..=config.shards).map_err(|e| StartError::State(e.to_string()))?;
        let empty = logs.values().all(|g| g.last == 0 && g.purged == 0 && g.meta.is_empty());

        let files = snapshots.list().map_err(|e| StartError::State(e.to_string()))?;
        if empty && (!cuts.is_empty() || files.iter().any(|f| f.starts_with("snapshot-") && !f.ends_with(".tmp"))) {
            return Err(StartError::LogLost);
        }

        let shards: Vec<Arc<ShardSlot>> = (0..config.shards).map(|s| ShardSlot::new(s, config.limits.clone())).collect();
        let inner = Arc::new(Inner {
            raft: OnceLock::new(), meta: MetaSlot::new(shards.clone()), shards, mail: OnceLock::new(), peers: Mutex::default(), formed: AtomicBool::new(false),
            draining: AtomicBool::new(false), registered: AtomicBool::new(false), tasks: Mutex::default(), failure: Mutex::default(), failed: Notify::new(), config,
        });
        let weak = Arc::downgrade(&inner);
        let handler: ForwardHandler = Arc::new(move |from, body| {
            let inner = weak.upgrade();
            Box::pin(async move {
                match inner {
                    Some(inner) => forward::answer(&inner, from, body).await,
                    None => Vec::new(),
                }
            })
        });
        let machines = if empty { BTreeMap::new() } else { inner.machines() };
        let peers = inner.config.peers.clone();
        let settings = RaftConfig { identity: Known::of(&inner), ..inner.config.raft.clone() };
        let raft = RaftNode::start(settings, (wal, logs), snapshots, cuts, machines, peers, handler).await?;
        if inner.raft.set(raft.clone()).is_err() {
            unreachable!("the node was made a few lines above and its Raft is set only here");
        }
        let node = Node(inner.clone());
        let (watched, watcher) = (raft.clone(), Arc::downgrade(&inner));
        inner.spawn(async move {
            let reason = watched.failed().await;
            if let Some(inner) = watcher.upgrade() {
                inner.fail(reason);
            }
        });
        if empty {
            // An empty folder takes part in nothing before every peer has said that there is no cluster (`safety.md` 22).
            let asked = tokio::select! { biased;
                asked = bootstrap::ask(&inner) => asked,
                why = raft.failed() => Err(StartError::Log(why)),
            };
            if let Err(e) = asked {
                node.shutdown().await;
                return Err(e);
            }
            // Before anything can be promised: if this node dies before it has heard of the cluster that is being formed, its next start goes on from here.
            if let Err(e) = raft.mark_used().await {
                node.shutdown().await;
                return Err(StartError::Log(e.to_string()));
            }
            for (no, machine) in inner.machines() {
                if let Err(e) = raft.add_group(no, machine).await {
                    node.shutdown().await;
                    return Err(e.into());
                }
            }
        }
        inner.formed.store(true, Ordering::Release);
        inner.start_drivers()?;
        inner.spawn(bootstrap::form(inner.clone()));
        inner.spawn(bootstrap::register(inner.clone()));
        inner.spawn(balance::ping(inner.clone()));
        inner.spawn(balance::balance(inner.clone()));
        Ok(node)
    }

    /// Carries out a request to a group on whichever node leads it. `deadline` is the time the caller waits, a held heartbeat's wait included.
    pub async fn request(&self, request: Request, deadline: Duration) -> Result<Response, Refusal> {
        let shard = shard_of(&request.group, self.0.config.shards);
        if let Some(decided) = self.0.at_once(shard, &request)
            && let Outcome::Done(Ok(response)) = self.0.let_go(shard, decided).await
        {
            return Ok(response);
        }
        // By far most requests do not come here: what they do not need is not carried about with them.
        Box::pin(self.led(shard, request, deadline)).await
    }
    /// Looks for the node that leads the shard, until it has carried the request out.
    async fn led(&self, shard: u16, mut request: Request, deadline: Duration) -> Result<Response, Refusal> {
        let inner = &self.0;
        let start = inner.now();
        let end = start + deadline.as_millis() as Millis;
        let look_until = end.min(start + PATIENCE_MS);
        let budget = request.budget_ms;
        loop {
            let now = inner.now();
            let left = end.saturating_sub(now);
            request.budget_ms = Some(budget.map_or(left, |b| b.saturating_sub(now - start).min(left)));
            let wait = Duration::from_millis(left);
            let leader = inner.leader(shard + 1);
            if leader != Some(inner.config.node)
                && let Some(found) = inner.shards.get(usize::from(shard)).and_then(|s| applied_offsets(8, s, &request))
            {
                return Ok(found);
            }
            let outcome = match leader {
                _ if left == 0 => Outcome::NotTaken("the time for the request is over".into()),
                Some(n) if n == inner.config.node => inner.in_turn(shard, request.clone(), wait).await,
                Some(n) => match forward::call(inner, n, &Call::Request(Box::new(request.clone())), wait).await {
                    Ok(Answer::Done(result)) => Outcome::Done(result),
                    Ok(_) => Outcome::Done(Err(GroupError::Unavailable { reason: format!("node {n} gave an answer of another kind") })),
                    Err(CallError::Unknown(reason)) if !seeded::on(94) => Outcome::Done(Err(GroupError::Unavailable { reason })),
                    Err(CallError::Unknown(reason)) => Outcome::NotTaken(reason),
                    Err(CallError::NotTaken(reason)) => Outcome::NotTaken(reason),
                },
                None => Outcome::NotTaken(format!("shard {shard} has no leader that this node knows of")),
            };
            match outcome {
                Outcome::Done(Ok(response)) => return Ok(response),
                Outcome::Done(Err(GroupError::Unavailable { reason })) => return Err(inner.unavailable(shard + 1, leader, reason)),
                Outcome::Done(Err(e)) => return Err(Refusal::Group(e)),
                // Surely not carried out, so sending it again is no retry (`safety.md` 5).
                Outcome::NotTaken(_) if inner.now() < look_until => tokio::time::sleep(AGAIN).await,
                Outcome::NotTaken(reason) => return Err(inner.unavailable(shard + 1, leader, reason)),
            }
        }
    }

    /// Changes the meta state; on success this node's image has the revision.
    pub async fn meta(&self, command: MetaCommand) -> Result<u64, MetaRefusal> {
        let inner = &self.0;
        let revision = inner.ask_meta(Call::Meta(command)).await?;
        inner.image_at(revision).await?;
        Ok(revision)
    }
    /// The local committed image: may be a little old.
    pub fn metadata(&self) -> Arc<Metadata> { self.0.meta.image() }
    /// The image, not older than this call (through the meta group's leader).
    pub async fn fresh_metadata(&self) -> Result<Arc<Metadata>, MetaRefusal> {
        let revision = self.0.ask_meta(Call::MetaRevision).await?;
        if seeded::on(168) {
            return Ok(self.0.meta.image());
        }
        self.0.image_at(revision).await
    }
    /// All groups as applied on this node, in order of their ids.
    pub async fn list_groups(&self) -> Vec<GroupSummary> {
        let mut all = Vec::new();
        for slot in &self.0.shards {
            // Read before the groups: they may be newer than said, never older.
            let as_of_index = slot.applied();
            let shard = slot.shard();
            let id = shard.id();
            let classic = |g: &GroupId| shard.group(g).is_some_and(|g| g.classic.is_some());
            all.extend(shard.groups().into_iter().map(|(group, state, members, revision)| GroupSummary { classic: classic(&group), group, state, members, revision, shard: id, as_of_index }));
        }
        all.sort_by(|a, b| a.group.cmp(&b.group));
        all
    }
    /// The cluster as this node sees it.
    pub fn cluster(&self) -> ClusterView { self.0.cluster() }
    /// The HTTP address of the node that leads the group.
    pub fn leader_http(&self, group: &GroupId) -> Option<String> { self.0.leader_http(shard_of(group, self.0.config.shards) + 1) }
    /// Whether it can serve; the error says what is missing.
    pub fn ready(&self) -> Result<(), String> { self.0.ready() }
    /// All numbers of `/metrics`.
    pub fn metrics(&self) -> Vec<Metric> { metrics::all(&self.0) }
    /// Moves the leadership of shard `shard` (0-based) to node `to`. Returns when it has been asked; watch `cluster`.
    pub async fn transfer(&self, shard: u16, to: u64) -> Result<(), String> {
        let inner = &self.0;
        if shard >= inner.config.shards {
            return Err(format!("shard {shard} does not exist: 0 to {}", inner.config.shards - 1));
        }
        match inner.leader(shard + 1) {
            Some(n) if n == inner.config.node => inner.transfer_local(shard, to).await,
            Some(n) => match forward::call(inner, n, &Call::Transfer { shard, to }, Duration::from_secs(2)).await {
                Ok(Answer::Transferred(r)) => r,
                Ok(_) => Err(format!("node {n} gave an answer of another kind")),
                Err(CallError::NotTaken(r) | CallError::Unknown(r)) => Err(r),
            },
            None => Err(format!("shard {shard} has no leader that this node knows of: try again")),
        }
    }
    /// Gives all leaderships away (at most 8 s), so that a stop is hardly seen. Then call `shutdown`.
    pub async fn drain(&self) { balance::drain(&self.0).await }
    /// Stops all tasks and connections.
    pub async fn shutdown(&self) {
        for t in lock(&self.0.tasks).drain(..) {
            t.abort();
        }
        if let Some(raft) = self.0.raft.get() {
            raft.shutdown().await;
        }
    }
    /// Resolves when the node cannot go on; the text says what to do.
    pub async fn failed(&self) -> String {
        loop {
            let failed = self.0.failed.notified();
            tokio::pin!(failed);
            failed.as_mut().enable();
            if let Some(f) = lock(&self.0.failure).clone() {
                return f;
            }
            failed.await;
        }
    }
    /// The id of its cluster, as soon as it is known: for the data directory to remember.
    pub async fn cluster_id(&self) -> u128 { self.0.meta.wait(|m| m.cluster_id != 0).await.cluster_id }
    /// 128 random bits, never 0.
    pub fn random_id() -> u128 {
        let mut b = [0; 16];
        getrandom::fill(&mut b).expect("an operating system without random numbers cannot run a node");
        u128::from_be_bytes(b).max(1)
    }
    /// The applied state of every shard, for checkers of tests: one may look, not change.
    #[doc(hidden)]
    pub fn inspect<T>(&self, shard: u16, look: impl FnOnce(&baton_coordinator::shard::Shard) -> T) -> Option<(u64, T)> {
        let slot = self.0.shards.get(usize::from(shard))?;
        let shard = slot.shard();
        Some((slot.applied(), look(&shard)))
    }
    /// The history of a group as this node has it, and the numbers that its state says there are: for checkers of tests.
    #[doc(hidden)]
    pub fn history(&self, group: &GroupId) -> Option<(std::ops::Range<u64>, std::io::Result<Vec<HistoryRecord>>)> {
        let slot = self.0.shards.get(usize::from(shard_of(group, self.0.config.shards)))?;
        let shard = slot.shard();
        let mark = &shard.group(group)?.history;
        let look = lock(&slot.history).look(group, mark.first, mark.next);
        Some((mark.first..mark.next, look.read(0)))
    }
    /// The Raft group of a shard: for tests that change its voters.
    #[doc(hidden)]
    pub fn raft_group(&self, shard: u16) -> Option<GroupHandle> { self.0.group(shard + 1) }
    /// Who leads a shard and in which term, as this node knows it, and why it has stopped the shard: for checkers of tests.
    #[doc(hidden)]
    pub fn standing(&self, shard: u16) -> Option<(Option<u64>, u64, Option<String>)> {
        let (status, slot) = (self.0.group(shard + 1)?.status(), self.0.shards.get(usize::from(shard))?);
        Some((status.leader, status.term, slot.stopped()))
    }
    /// The term whose lease this node has at a moment after this call, for checkers of tests.
    #[doc(hidden)]
    pub async fn lease(&self, shard: u16) -> Option<u64> { self.0.group(shard + 1)?.lease().await.ok() }
}

fn check(config: &NodeConfig) -> Result<(), StartError> {
    let wrong = |what: String| Err(StartError::Config(what));
    match () {
        () if config.node == 0 => wrong("the node id must be above 0".into()),
        () if config.directory == 0 => wrong("the data directory has no id".into()),
        () if !(1..=256).contains(&config.shards) => wrong(format!("{} shards: 1 to 256 are possible", config.shards)),
        () if !config.peers.contains_key(&config.node) => wrong(format!("the list of peers lacks this node, {}", config.node)),
        () => Ok(()),
    }
}

impl Inner {
    pub fn now(&self) -> Millis { self.config.clock.mono_ms() }

    fn machines(&self) -> BTreeMap<u16, Box<dyn StateMachine>> {
        let mut machines: BTreeMap<u16, Box<dyn StateMachine>> = BTreeMap::new();
        machines.insert(META, Box::new(MetaMachine::new(self.meta.clone())));
        for (no, slot) in (1..).zip(&self.shards) {
            machines.insert(no, Box::new(ShardMachine::new(slot.clone())));
        }
        machines
    }

    fn start_drivers(&self) -> Result<(), StartError> {
        let mut mail = Vec::new();
        for (no, slot) in (1..).zip(&self.shards) {
            let group = self.group(no).ok_or_else(|| StartError::Config(format!("group {no} is not running")))?;
            let (tx, rx) = mpsc::channel(MAILBOX);
            mail.push(tx);
            self.spawn(Driver::new(self.config.node, slot.clone(), self.meta.clone(), group, self.config.clock.clone(), rx).run());
        }
        // Set once, here.
        let _ = self.mail.set(mail);
        Ok(())
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) { lock(&self.tasks).push(tokio::spawn(task)); }

    /// The node cannot go on.
    pub fn fail(&self, reason: String) {
        tracing::error!(%reason, "this node cannot go on");
        *lock(&self.failure) = Some(reason);
        self.failed.notify_waiters();
    }

    pub fn group(&self, no: u16) -> Option<GroupHandle> { self.raft.get()?.group(no) }
    pub fn leader(&self, no: u16) -> Option<NodeId> { self.raft.get()?.leader(no) }
    pub fn leader_http(&self, no: u16) -> Option<String> { self.leader(no).and_then(|n| self.http(n)) }
    fn http(&self, node: NodeId) -> Option<String> {
        if node == self.config.node { Some(self.config.http_advertise.clone()) } else { lock(&self.peers).get(&node).map(|p| p.hello.http.clone()) }
    }
    fn unavailable(&self, no: u16, asked: Option<NodeId>, reason: String) -> Refusal { Refusal::Unavailable { reason, leader_http: self.next_to_ask(no, asked), retry_after_ms: 200 } }
    /// The leader's HTTP address, unless it is another node that has just been asked in vain: it may be gone, and who asks it loses time.
    fn next_to_ask(&self, no: u16, asked: Option<NodeId>) -> Option<String> {
        let leader = self.leader(no).filter(|l| *l == self.config.node || Some(*l) != asked);
        leader.and_then(|n| self.http(n))
    }

    pub fn phase(&self) -> Phase {
        match self.raft.get() {
            Some(raft) if raft.is_initialized(META) => Phase::Member,
            _ if self.formed.load(Ordering::Acquire) => Phase::Forming,
            _ => Phase::Asking,
        }
    }
    pub fn hello(&self) -> Hello {
        // With a full disk it can lead nothing.
        let draining = self.draining.load(Ordering::Acquire) || self.raft.get().is_some_and(RaftNode::disk_full);
        Hello { http: self.config.http_advertise.clone(), phase: self.phase(), draining, shards: self.config.shards, peers: self.config.peers.keys().copied().collect() }
    }
    /// A peer said this about itself.
    pub fn heard(&self, from: NodeId, hello: Hello) {
        let at = self.now();
        lock(&self.peers).insert(from, Peer { hello, at });
    }
    /// Answers now, and does not go away soon.
    pub fn is_well(&self, node: NodeId) -> bool {
        let now = self.now();
        lock(&self.peers).get(&node).is_some_and(|p| now < p.at + ALIVE_MS && !p.hello.draining)
    }

    /// Asks the meta group's leader, which may be this node.
    async fn ask_meta(&self, call: Call) -> Result<u64, MetaRefusal> {
        let end = self.now() + 2 * PATIENCE_MS;
        let unavailable = |asked, reason: String| MetaRefusal::Unavailable { reason, leader_http: self.next_to_ask(META, asked), retry_after_ms: 200 };
        loop {
            let leader = self.leader(META);
            let outcome = match (leader, &call) {
                (Some(n), Call::Meta(command)) if n == self.config.node => self.propose_meta(command).await,
                (Some(n), _) if n == self.config.node => self.meta_revision().await.map(Ok).map_err(CallError::NotTaken),
                (Some(n), call) => match forward::call(self, n, call, Duration::from_secs(5)).await {
                    Ok(Answer::Meta(result)) => Ok(result),
                    Ok(_) => Err(CallError::Unknown(format!("node {n} gave an answer of another kind"))),
                    Err(e) => Err(e),
                },
                (None, _) => Err(CallError::NotTaken("the meta group has no leader that this node knows of".into())),
            };
            match outcome {
                Ok(result) => return Ok(result?),
                Err(CallError::Unknown(_)) if self.now() < end && seeded::on(136) => tokio::time::sleep(AGAIN).await,
                Err(CallError::NotTaken(_)) if self.now() < end => tokio::time::sleep(AGAIN).await,
                Err(CallError::NotTaken(reason) | CallError::Unknown(reason)) => return Err(unavailable(leader, reason)),
            }
        }
    }

    async fn image_at(&self, revision: u64) -> Result<Arc<Metadata>, MetaRefusal> {
        tokio::time::timeout(Duration::from_secs(3), self.meta.wait(|m| m.revision >= revision)).await.map_err(|_| {
            let reason = format!("revision {revision} is committed, but has not reached this node yet");
            MetaRefusal::Unavailable { reason, leader_http: self.leader_http(META), retry_after_ms: 500 }
        })
    }

    fn shard_view(&self, shard: u16, no: u16, serving: bool, stopped: Option<String>) -> ShardView {
        let s = self.group(no).map(|g| g.status()).unwrap_or_default();
        ShardView { shard, leader: s.leader, term: s.term, applied: s.last_applied, last_log: s.last_log, voters: s.voters, serving, stopped }
    }

    fn cluster(&self) -> ClusterView {
        let image = self.meta.image();
        let peers = lock(&self.peers).clone();
        let me = self.config.node;
        let nodes = self.config.peers.iter().map(|(id, peer)| NodeView {
            id: *id, http: self.http(*id), peer: peer.clone(), alive: *id == me || peers.get(id).is_some_and(|p| self.now() < p.at + ALIVE_MS),
            draining: if *id == me { self.draining.load(Ordering::Acquire) } else { peers.get(id).is_some_and(|p| p.hello.draining) },
        });
        let shards = (0..).zip(&self.shards).map(|(s, slot)| {
            let serving = slot.shard().leading().is_some();
            self.shard_view(s, s + 1, serving, slot.stopped())
        });
        ClusterView {
            cluster_id: image.cluster_id, node: me, meta_revision: image.revision, nodes: nodes.collect(), meta: self.shard_view(0, META, false, self.meta.stopped()),
            shards: shards.collect(),
        }
    }

    fn ready(&self) -> Result<(), String> {
        if let Some(f) = lock(&self.failure).clone() {
            return Err(f);
        }
        if self.draining.load(Ordering::Acquire) {
            return Err("this node is being drained".into());
        }
        if self.raft.get().is_some_and(RaftNode::disk_full) {
            return Err("the disk of this node is full: it takes no new entries until there is room".into());
        }
        if self.meta.image().cluster_id == 0 {
            return Err("the cluster is being formed, or the log is being read".into());
        }
        if !self.registered.load(Ordering::Acquire) {
            return Err("this node's data directory is not registered yet".into());
        }
        match (0..self.config.shards).find(|s| self.leader(s + 1).is_none()) {
            Some(s) => Err(format!("shard {s} has no leader that this node knows of")),
            None => Ok(()),
        }
    }

    /// For the metrics.
    pub fn is_ready(&self) -> bool { self.ready().is_ok() }
}
