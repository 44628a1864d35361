//! Handle of one replicated group, for the node crate.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{BasicNode, LinearizerOption, ReadPolicy};
use tokio::time::Instant;

use crate::api::{GroupNo, GroupStatus, NoLease, NodeId, ProposeError};
use crate::campaign::{Heard, Standing};
use crate::log::GroupStore;
use crate::types::{Payload, Raft, TypeConfig};

type Watch<T> = openraft::alias::WatchReceiverOf<TypeConfig, T>;
type ServerMetrics = openraft::metrics::RaftServerMetrics<TypeConfig>;
type ServerWatch = Watch<ServerMetrics>;

struct Shared {
    no: GroupNo,
    node: NodeId,
    raft: Raft,
    store: GroupStore,
    /// What every request looks at. The library would make a receiver for each look.
    server: ServerWatch,
    all: Watch<openraft::RaftMetrics<TypeConfig>>,
    /// How a lease is asked for.
    lease: LinearizerOption,
    kept: Mutex<Kept>,
    heard: Arc<Heard>,
    campaigns: AtomicBool,
    transfers: AtomicU64,
}

/// What is known of the size of the group's log.
#[derive(Default)]
struct Kept {
    /// Position of the newest snapshot, and the bytes appended before it, nearly.
    snapshot: u64,
    before: u64,
    /// Bytes appended when a snapshot was asked for because the log is large or old: all before it is to be purged.
    asked: Option<u64>,
}

/// One group on this node. Clones share the group; each has its own memory for [`changed`](GroupHandle::changed).
pub struct GroupHandle {
    shared: Arc<Shared>,
    seen: tokio::sync::Mutex<Seen>,
}

struct Seen {
    watch: ServerWatch,
    /// The end of the group has been reported.
    ended: bool,
}

impl Seen {
    fn new(raft: &Raft) -> tokio::sync::Mutex<Seen> {
        tokio::sync::Mutex::new(Seen { watch: raft.server_metrics(), ended: false })
    }
}

impl Clone for GroupHandle {
    fn clone(&self) -> GroupHandle {
        GroupHandle { shared: self.shared.clone(), seen: Seen::new(&self.shared.raft) }
    }
}

/// Log positions of this crate start at 1; those of the consensus library at 0.
fn position(index: Option<u64>) -> u64 {
    index.map_or(0, |i| i + 1)
}

impl GroupHandle {
    pub(crate) fn new(no: GroupNo, node: NodeId, raft: Raft, store: GroupStore, lease_age: Duration) -> GroupHandle {
        let age = if baton_storage::seeded::on(91) { lease_age * 4 } else { lease_age };
        let lease = LinearizerOption::new(Some(age), false).with_wait_timeout(Duration::ZERO);
        let (server, all, seen) = (raft.server_metrics(), raft.metrics(), Seen::new(&raft));
        GroupHandle { shared: Arc::new(Shared { no, node, raft, store, server, all, lease, kept: Mutex::default(), heard: Arc::default(), campaigns: AtomicBool::new(true), transfers: AtomicU64::new(0) }), seen }
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.shared.raft
    }

    pub(crate) fn is_used(&self) -> bool {
        self.shared.store.is_used()
    }

    /// Number of the group.
    pub fn number(&self) -> GroupNo {
        self.shared.no
    }

    /// Appends a payload if this node leads. Resolves when it is applied here, with its index and the machine's reply.
    pub async fn propose(&self, payload: Vec<u8>) -> Result<(u64, Vec<u8>), ProposeError> {
        if self.shared.store.is_full() {
            return Err(ProposeError { leader: None, reason: "the disk of the leader is full: no new entries are taken".into(), outcome_unknown: false });
        }
        self.shared.store.room().await;
        match self.shared.raft.client_write(Payload(payload.into())).await {
            Ok(done) => Ok((done.log_id.index + 1, done.data.0.to_vec())),
            Err(e) => Err(ProposeError {
                leader: e.forward_to_leader().and_then(|f| f.leader_id),
                reason: e.to_string(),
                outcome_unknown: !matches!(e, RaftError::APIError(ClientWriteError::ForwardToLeader(_))),
            }),
        }
    }

    /// Who leads, as far as this node knows: what every request asks, without the rest of the status.
    pub fn leader(&self) -> Option<NodeId> { self.shared.server.borrow_watched().current_leader }

    /// The newest term this node knows of, and whether this node leads in it, as far as it knows.
    pub fn standing(&self) -> (u64, bool) {
        let failed = self.shared.all.borrow_watched().running_state.is_err();
        let server = self.shared.server.borrow_watched();
        (server.vote.leader_id.term, !failed && self.leads(&server))
    }
    fn leads(&self, server: &ServerMetrics) -> bool { server.state.is_leader() && server.current_leader == Some(self.shared.node) }

    pub fn status(&self) -> GroupStatus {
        let failed = self.shared.all.borrow_watched().running_state.as_ref().err().map(|e| e.to_string());
        let server = self.shared.server.borrow_watched();
        let data = self.shared.raft.data_metrics();
        let data = data.borrow_watched();
        GroupStatus {
            term: server.vote.leader_id.term,
            leader: server.current_leader,
            is_leader: failed.is_none() && self.leads(&server),
            last_applied: position(data.last_applied.as_ref().map(|l| l.index)),
            last_log: position(data.last_log.as_ref().map(|l| l.index)),
            voters: server.membership_config.membership().voter_ids().collect(),
            failed,
        }
    }

    pub(crate) fn no(&self) -> GroupNo {
        self.shared.no
    }

    /// Asks for a snapshot when more than `limit` bytes were appended since the last one, or when the group keeps old segments; then
    /// purges all before it. True: a snapshot is on its way.
    pub(crate) async fn keep_small(&self, pinning: bool, limit: u64) -> bool {
        let s = &*self.shared;
        let (applied, snapshot, purged) = {
            let data = s.raft.data_metrics();
            let data = data.borrow_watched();
            (position(data.last_applied.as_ref().map(|l| l.index)), position(data.snapshot.as_ref().map(|l| l.index)), position(data.purged.as_ref().map(|l| l.index)))
        };
        let appended = s.store.appended();
        let (ask, purge, waits) = {
            let mut kept = s.kept.lock().unwrap_or_else(PoisonError::into_inner);
            let mut purge = pinning;
            if snapshot != kept.snapshot {
                let asked = kept.asked.take();
                purge |= asked.is_some();
                (kept.snapshot, kept.before) = (snapshot, asked.unwrap_or(appended));
            }
            let ask = kept.asked.is_none() && applied > snapshot && (appended - kept.before > limit || pinning && purged >= snapshot);
            if ask {
                kept.asked = Some(appended);
            }
            (ask, purge && snapshot > purged, kept.asked.is_some())
        };
        // An error of either means that the group has stopped: that is reported elsewhere.
        if purge {
            let _ = s.raft.trigger().purge_log(snapshot - 1).await;
        }
        if ask {
            let _ = s.raft.trigger().snapshot().await;
        }
        waits
    }

    pub(crate) fn appended(&self) -> u64 {
        self.shared.store.appended()
    }

    pub(crate) fn may_campaign(&self, may: bool) {
        self.shared.campaigns.store(may, Ordering::SeqCst);
        self.shared.raft.runtime_config().elect(may);
    }

    /// Who takes messages of this group notes there that the leader was heard.
    pub(crate) fn heard(&self) -> Arc<Heard> {
        self.shared.heard.clone()
    }

    /// Stands for election if the leader has been silent for long enough and it is this node's turn. How long until the next look.
    pub(crate) async fn campaign(&self) -> Duration {
        let s = &*self.shared;
        let (status, config) = (self.status(), s.raft.config());
        if status.is_leader || status.failed.is_some() || !s.campaigns.load(Ordering::SeqCst) {
            s.heard.note(Instant::now());
        }
        let standing = Standing {
            node: s.node, voters: status.voters, leader: status.leader, group: s.no,
            election_min: Duration::from_millis(config.election_timeout_min), promised: Duration::from_millis(config.election_timeout_max),
        };
        let (turn, pause) = s.heard.turn(&standing, Instant::now());
        // An error means that the group has stopped: that is reported elsewhere.
        if turn && s.raft.trigger().elect(true).await.is_ok() {
            tracing::debug!(group = s.no, "the leader is silent: asking for votes");
        }
        pause
    }

    /// This node cannot serve the group, although its log is well: it does not stand for election, and gives the leadership away if it has it.
    pub async fn stand_back(&self) {
        self.may_campaign(false);
        if self.status().is_leader {
            self.give_away().await;
        }
    }

    /// It can serve the group again.
    pub fn come_forward(&self) {
        self.may_campaign(true);
    }

    /// Asks the voter that has answered last to take over.
    pub(crate) async fn give_away(&self) {
        let next = self.status().voters.into_iter().filter(|v| *v != self.shared.node).filter_map(|v| Some((self.silence(v)?, v))).min();
        if let Some((_, to)) = next
            && let Err(e) = self.transfer(to).await
        {
            tracing::debug!(group = self.shared.no, to, error = e, "the leadership was not given away");
        }
    }

    /// A leader that has lost its vote leads until that is committed, because nobody else may know of it yet, and then until another one does.
    pub(crate) async fn give_away_without_vote(&self) {
        let (out, vote, at) = {
            let server = self.shared.server.borrow_watched();
            let (now, committed) = (&server.membership_config, &server.committed_membership_config);
            (self.leads(&server) && now == committed && !now.membership().voter_ids().any(|v| v == self.shared.node), server.vote, *now.log_id())
        };
        if !out || baton_storage::seeded::on(134) {
            return;
        }
        self.give_away().await;
        tokio::time::sleep(Duration::from_millis(self.shared.raft.config().heartbeat_interval)).await;
        // Whoever leads next has nothing to say to a node that is not in the group any more. An error means that the group has stopped: that is reported elsewhere.
        let _ = self.shared.raft.trigger().refresh_server_state(Some(vote), at).await;
    }

    /// How long ago the node answered this one as its leader. None: it has not yet, or this node does not lead.
    fn silence(&self, node: NodeId) -> Option<Duration> {
        let metrics = self.shared.raft.metrics();
        let metrics = metrics.borrow_watched();
        metrics.heartbeat.as_ref()?.get(&node)?.as_ref().map(|at| at.elapsed())
    }

    /// The leader lease: the term in which this node may answer for the group without asking the others, at a moment after this call began.
    ///
    /// It goes through the consensus core, because only the core knows of a leadership transfer under way. An acknowledgement of a quorum
    /// counts up to the lease age; the rest up to the election timeout is for clock drift.
    pub async fn lease(&self) -> Result<u64, NoLease> {
        match self.shared.raft.ensure_linearizable(self.shared.lease.clone()).await {
            // The position belongs to the term that passed the check; the metrics could be of another.
            Ok(position) => Ok(position.log_id().leader_id.term),
            Err(e) => Err(NoLease { leader: e.forward_to_leader().and_then(|f| f.leader_id) }),
        }
    }

    /// How often this node was about to ask a voter to take over. A lease that was checked before the last time says nothing of the time after: the other one is elected
    /// although everybody has promised to wait.
    pub fn transfers(&self) -> u64 { self.shared.transfers.load(Ordering::SeqCst) }

    /// Resolves when leader, term, role or membership changed since the last call on this handle, or since it was made.
    /// Resolves once more when the group has stopped, then never.
    pub async fn changed(&self) {
        let mut seen = self.seen.lock().await;
        if seen.ended {
            std::future::pending::<()>().await;
        }
        seen.ended = seen.watch.changed().await.is_err();
    }

    /// Confirms with a quorum that this node leads, and waits until all that was committed before is applied here.
    /// Returns the term.
    pub async fn barrier(&self) -> Result<u64, NoLease> {
        match self.shared.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(position) => Ok(position.log_id().leader_id.term),
            Err(e) => Err(NoLease { leader: e.forward_to_leader().and_then(|f| f.leader_id) }),
        }
    }

    /// Asks a voter to take over. Returns when the request is on its way; watch [`changed`](GroupHandle::changed).
    ///
    /// Refused if the voter has been silent for three heartbeats: a leader that has asked serves nothing more, and if the other one is dead, nobody does for an election.
    pub async fn transfer(&self, to: NodeId) -> Result<(), String> {
        let recent = Duration::from_millis(3 * self.shared.raft.config().heartbeat_interval);
        match self.silence(to) {
            Some(silent) if silent <= recent => {}
            Some(silent) => return Err(format!("node {to} has not answered for {} ms: while it is away, nobody would lead", silent.as_millis())),
            None => return Err(format!("node {to} has not answered this leader yet: try again")),
        }
        self.shared.transfers.fetch_add(1, Ordering::SeqCst);
        self.shared.raft.trigger().transfer_leader(to).await.map_err(|e| e.to_string())
    }

    /// Leader only: replicates to one more node, without a vote. Returns when it has caught up.
    pub async fn add_learner(&self, node: NodeId, address: String) -> Result<(), String> {
        self.shared.raft.add_learner(node, BasicNode::new(address), true).await.map(|_| ()).map_err(|e| e.to_string())
    }

    /// Leader only: sets the voters, all of which must be members already. Who is not among them leaves the group.
    ///
    /// Never give a vote to a number whose disk was lost: it may have voted before.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), String> {
        self.shared.raft.change_membership(voters, false).await.map_err(|e| e.to_string())?;
        self.give_away_without_vote().await;
        Ok(())
    }
}
