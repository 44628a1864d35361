//! All groups of one process: starts them, routes messages of peers to them, stops them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_storage::Disk;
use baton_storage::wal::{GroupLog, Wal};
use openraft::{BasicNode, Config, SnapshotPolicy, StepDownPolicy};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::api::{ForwardHandler, GroupNo, NodeId, PeerError, RaftConfig, StartError, StateMachine};
use crate::campaign;
use crate::checkpoint::{self, Cuts, Failure};
use crate::group::GroupHandle;
use crate::marks::Marks;
use crate::log::{GroupStore, has_vote, mark_used};
use crate::net::{self, Factory};
use crate::peer::{self, Handler, Own, Peers};
use crate::policy;
use crate::sm::MachineHost;
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::types::Raft;
use crate::writer::LogWriter;

struct Shared {
    config: RaftConfig,
    consensus: Arc<Config>,
    writer: LogWriter,
    snapshots: Box<dyn Fn(GroupNo) -> Arc<dyn SnapshotFile> + Send + Sync>,
    cuts: Cuts,
    marks: Marks,
    peers: Peers,
    forward: ForwardHandler,
    /// Stored logs of groups that have not been started.
    logs: Mutex<BTreeMap<GroupNo, GroupLog>>,
    groups: Mutex<BTreeMap<GroupNo, GroupHandle>>,
    hosts: Mutex<BTreeMap<GroupNo, MachineHost>>,
    failure: Arc<Failure>,
    checkpointer: Mutex<Option<(Arc<Notify>, JoinHandle<()>)>>,
    /// One `add_group` at a time, so that none starts twice.
    adding: tokio::sync::Mutex<()>,
    closing: Arc<AtomicBool>,
    listener: Mutex<Option<JoinHandle<()>>>,
}

/// The replicated groups of this process. Clones share them.
#[derive(Clone)]
pub struct RaftNode {
    shared: Arc<Shared>,
}

// Maps are consistent after every statement, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn consensus_config(c: &RaftConfig) -> Result<Config, StartError> {
    if c.lease_age_ms >= c.election_max_ms {
        return Err(StartError::Config("lease_age_ms must be below election_max_ms".into()));
    }
    if c.guard_ms != 0 && c.guard_ms < c.election_max_ms {
        return Err(StartError::Config("guard_ms must not be below election_max_ms".into()));
    }
    let every = c.snapshot_every.max(10);
    let config = Config {
        cluster_name: "baton".into(),
        heartbeat_interval: c.heartbeat_ms,
        election_timeout_min: c.election_min_ms,
        election_timeout_max: c.election_max_ms,
        // A restarted leader has forgotten what it promised under its lease.
        enable_leader_restore: Some(false),
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(every),
        max_in_snapshot_log_to_keep: every / 5,
        replication_lag_threshold: every + every / 2,
        install_snapshot_timeout: 30_000,
        // It would ask another voter to take over without a word to us: a lease that had been checked just before would go on (`GroupHandle::transfers`).
        removed_leader_step_down: if baton_storage::seeded::on(134) { StepDownPolicy::After(150) } else { StepDownPolicy::Never },
        ..Config::default()
    };
    config.validate().map_err(|e| StartError::Config(e.to_string()))
}

impl RaftNode {
    /// Starts the given groups and then listens.
    ///
    /// If the log holds a vote, nothing is created before the guard time has passed: consensus keeps its promise to the
    /// old leader in memory only, and a restarted node that votes at once could elect a second leader inside a lease.
    pub async fn start<D: Disk + Clone + Sync>(
        config: RaftConfig,
        wal: (Wal<D>, BTreeMap<GroupNo, GroupLog>),
        snapshots: D,
        cuts: Cuts,
        machines: BTreeMap<GroupNo, Box<dyn StateMachine>>,
        peers: BTreeMap<NodeId, String>,
        forward: ForwardHandler,
    ) -> Result<RaftNode, StartError> {
        let consensus = Arc::new(consensus_config(&config)?);
        let (wal, logs) = wal;
        if logs.values().any(has_vote) && config.guard_ms > 0 {
            tokio::time::sleep(Duration::from_millis(config.guard_ms)).await;
        }
        let listener = TcpListener::bind(config.listen.as_str()).await.map_err(|e| StartError::Listen(config.listen.clone(), e))?;
        let failure = Arc::<Failure>::default();
        let writer = LogWriter::start(wal, config.pin_segments, failure.clone())?;
        let marks = Marks::new(cuts.ident(), writer.clone(), failure.clone());
        let node = RaftNode {
            shared: Arc::new(Shared {
                consensus,
                writer,
                snapshots: Box::new(move |group| Arc::new(SnapshotDir::new(snapshots.clone(), group))),
                cuts,
                peers: Peers::new(Own::of(&config, marks.clone()), peers),
                marks,
                forward,
                logs: Mutex::new(logs),
                groups: Mutex::new(BTreeMap::new()),
                hosts: Mutex::new(BTreeMap::new()),
                failure,
                checkpointer: Mutex::new(None),
                adding: tokio::sync::Mutex::new(()),
                closing: Arc::new(AtomicBool::new(false)),
                listener: Mutex::new(None),
                config,
            }),
        };
        for (no, machine) in machines {
            if let Err(e) = node.add_group(no, machine).await {
                node.shutdown().await;
                return Err(e);
            }
        }
        node.listen(listener);
        node.start_keeping();
        Ok(node)
    }

    fn listen(&self, listener: TcpListener) {
        let shared = Arc::downgrade(&self.shared);
        let handler: Handler = Arc::new(move |from, group, kind, body| {
            let shared = shared.upgrade();
            Box::pin(async move {
                let Some(shared) = shared else { return net::refuse("stopped") };
                if kind == net::FORWARD {
                    return (shared.forward)(from, body).await;
                }
                if kind == net::MARKS {
                    shared.marks.hear(from, &body);
                    return Vec::new();
                }
                // Not the whole handle: a clone of that has a watch of its own, and this is done for every message.
                let parts = lock(&shared.groups).get(&group).map(|g| (g.raft().clone(), g.heard()));
                match parts {
                    Some((raft, heard)) => net::handle(&raft, &heard, group, kind, &body, shared.writer.health()).await,
                    None => net::refuse("no such group here"),
                }
            })
        });
        let s = &self.shared;
        let task = tokio::spawn(peer::serve(listener, Own::of(&s.config, s.marks.clone()), handler, s.closing.clone()));
        *lock(&s.listener) = Some(task);
    }

    /// Checkpoints, and what keeps the log small.
    fn start_keeping(&self) {
        let (shared, stop) = (Arc::downgrade(&self.shared), Arc::new(Notify::new()));
        let hosts = move || shared.upgrade().map(|s| lock(&s.hosts).iter().map(|(no, h)| (*no, h.clone())).collect());
        let every = Duration::from_millis(self.shared.config.checkpoint_ms.max(10));
        let task = tokio::spawn(checkpoint::run(hosts, every, stop.clone(), self.shared.failure.clone()));
        *lock(&self.shared.checkpointer) = Some((stop, task));
        let shared = Arc::downgrade(&self.shared);
        let groups = move || {
            let s = shared.upgrade().filter(|s| !s.closing.load(Ordering::SeqCst))?;
            let groups = lock(&s.groups).values().cloned().collect();
            Some(groups)
        };
        let longest = Duration::from_millis(self.shared.config.election_max_ms);
        tokio::spawn(campaign::run(groups.clone(), longest));
        tokio::spawn(net::tell_marks(self.shared.marks.clone(), self.shared.peers.clone(), self.shared.closing.clone()));
        tokio::spawn(policy::run(groups, self.shared.writer.health().clone(), self.shared.config.snapshot_bytes, self.shared.failure.clone()));
    }

    /// Writes a cut of every group now.
    pub async fn checkpoint(&self) -> std::io::Result<()> {
        let hosts: Vec<MachineHost> = lock(&self.shared.hosts).values().cloned().collect();
        for host in hosts {
            host.checkpoint().await?;
        }
        Ok(())
    }

    /// Resolves when this node's disk does not let it go on; the text says what to do.
    pub async fn failed(&self) -> String {
        self.shared.failure.wait().await
    }

    /// This node's disk is full: it takes no new entries and leads nothing, if others can.
    pub fn disk_full(&self) -> bool {
        self.shared.writer.health().is_full()
    }

    /// Bytes of the log on disk.
    pub fn log_bytes(&self) -> u64 {
        self.shared.writer.health().bytes()
    }

    /// Bytes of entries put into the log since the start, with those that it held then.
    pub fn log_written(&self) -> u64 {
        lock(&self.shared.groups).values().map(|g| g.appended()).sum()
    }

    /// For tests: the host of a group.
    #[doc(hidden)]
    pub fn host(&self, no: GroupNo) -> Option<MachineHost> {
        lock(&self.shared.hosts).get(&no).cloned()
    }

    /// Notes durably that this log takes part from now on. A start that finds the note knows that every promise of this node is in the log, even if
    /// there is none; one that does not find it has an empty folder, and cannot know what a lost log had promised.
    pub async fn mark_used(&self) -> std::io::Result<()> {
        mark_used(&self.shared.writer).await
    }

    /// Starts one more group, with its log and snapshot if this node has them. Does nothing if it runs.
    pub async fn add_group(&self, no: GroupNo, machine: Box<dyn StateMachine>) -> Result<(), StartError> {
        let s = &self.shared;
        let _adding = s.adding.lock().await;
        if s.closing.load(Ordering::SeqCst) {
            return Err(StartError::Group { group: no, reason: "this node is stopping".into() });
        }
        if lock(&s.groups).contains_key(&no) {
            return Ok(());
        }
        let file = (s.snapshots)(no);
        let log = lock(&s.logs).get(&no).cloned().unwrap_or_default();
        let store = GroupStore::open(no, &log, s.writer.clone())?;
        let host = MachineHost::open(no, machine, s.cuts.group(no)?, file, store.clone())?;
        let network = Factory { peers: s.peers.clone(), group: no };
        let raft = Raft::new(s.config.node, s.consensus.clone(), network, store.clone(), host.clone())
            .await
            .map_err(|e| StartError::Group { group: no, reason: e.to_string() })?;
        let handle = GroupHandle::new(no, s.config.node, raft, store, Duration::from_millis(s.config.lease_age_ms));
        lock(&s.logs).remove(&no);
        lock(&s.groups).insert(no, handle);
        lock(&s.hosts).insert(no, host);
        Ok(())
    }

    /// Gives a new group its first voters. Call it on one node; it is well if that was done before.
    pub async fn initialize(&self, no: GroupNo, voters: BTreeMap<NodeId, String>) -> Result<(), String> {
        let group = self.group(no).ok_or_else(|| format!("group {no} is not running here"))?;
        if group.is_used() {
            return Ok(());
        }
        let voters: BTreeMap<NodeId, BasicNode> = voters.into_iter().map(|(id, address)| (id, BasicNode::new(address))).collect();
        match group.raft().initialize(voters).await {
            Ok(()) => Ok(()),
            // Somebody was faster: a peer's vote or log has arrived.
            Err(_) if group.is_used() => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Whether this node has ever taken part in the group, running or not.
    pub fn is_initialized(&self, no: GroupNo) -> bool {
        if let Some(group) = lock(&self.shared.groups).get(&no) {
            return group.is_used();
        }
        lock(&self.shared.logs).get(&no).is_some_and(|log| has_vote(log) || log.last > 0)
    }

    pub fn group(&self, no: GroupNo) -> Option<GroupHandle> {
        lock(&self.shared.groups).get(&no).cloned()
    }

    /// See [`GroupHandle::transfers`].
    pub fn transfers(&self, no: GroupNo) -> Option<u64> {
        Some(lock(&self.shared.groups).get(&no)?.transfers())
    }

    /// Who leads a group, as far as this node knows.
    pub fn leader(&self, no: GroupNo) -> Option<NodeId> {
        lock(&self.shared.groups).get(&no)?.leader()
    }

    /// Sends opaque bytes to the handler of another node, once, and returns its answer.
    pub async fn call(&self, to: NodeId, body: Vec<u8>, timeout: Duration) -> Result<Vec<u8>, PeerError> {
        if to == self.shared.config.node {
            let answer = (self.shared.forward)(to, body);
            return tokio::time::timeout(timeout, answer).await.map_err(|_| PeerError::Unknown("no reply in time".into()));
        }
        self.shared.peers.call(to, 0, net::FORWARD, body, false, timeout).await
    }

    /// Stops listening, all groups and the log writer. When it returns, the disks may be opened again.
    pub async fn shutdown(&self) {
        let s = &self.shared;
        s.closing.store(true, Ordering::SeqCst);
        let listener = lock(&s.listener).take();
        if let Some(listener) = listener {
            listener.abort();
            // The port is free when this returns. An error says that it was aborted.
            let _ = listener.await;
        }
        let _adding = s.adding.lock().await;
        let groups = std::mem::take(&mut *lock(&s.groups));
        for (no, group) in groups {
            if let Err(e) = group.raft().shutdown().await {
                tracing::warn!(group = no, error = %e, "group did not stop cleanly");
            }
        }
        // Not cut off: a cut in the making would be lost half way.
        let checkpointer = lock(&s.checkpointer).take();
        if let Some((stop, task)) = checkpointer {
            stop.notify_one();
            // An error means that it is gone already.
            let _ = task.await;
        }
        if let Err(e) = self.checkpoint().await {
            tracing::warn!(error = %e, "no checkpoint at the stop: the next start replays more of the log");
        }
        lock(&s.hosts).clear();
        s.peers.close();
        s.writer.stop().await;
    }
}
