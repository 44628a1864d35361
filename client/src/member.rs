//! A member of a group, as a program holds it: built, joined, asked for guards, left. `driver` runs it, `machine` decides.

use crate::{
    Error,
    admin::{json, read},
    clock::Nanos,
    driver::{Driver, Hook, Identity, Leave, Shared, call_listener},
    guard::{Guard, Offset, Table},
    http::{Http, escape},
    machine::{Config, Machine, Reason},
    partition::Partition,
};
use baton_wire::{CommitOffset, CommitRequest, CommitResponse, CommitResult, CommittedOffset, OffsetsResponse, hex128};
use hyper::Method;
use std::{
    future::Future,
    sync::{Arc, Mutex, atomic::{AtomicBool, Ordering::SeqCst}},
    time::Duration,
};
use tokio::{sync::{Notify, mpsc, oneshot}, task::JoinHandle};

/// What a worker does when partitions come and go. Callbacks run one at a time, in order; the lease is kept up while they work.
pub trait Listener: Send + Sync + 'static {
    /// These may be used from now on, each use after `Guard::check`.
    fn on_assigned(&self, granted: &[Guard]) -> impl Future<Output = ()> + Send { let _ = granted; async {} }
    /// Finish with these: their guards hold until this returns (or the lease ends), and only then are they given back. Commit here.
    /// It must end within the rebalance timeout, or the member is removed.
    fn on_revoked(&self, revoked: &[Guard]) -> impl Future<Output = ()> + Send { let _ = revoked; async {} }
    /// These are gone already; their guards say no. Stop what still runs: the member joins again when this returns.
    fn on_lost(&self, lost: &[Partition]) -> impl Future<Output = ()> + Send { let _ = lost; async {} }
}
/// A listener that does nothing, for programs that only ask for guards.
impl Listener for () {}

/// A record of what the member believed, for those who check it. `at` and `deadline` are nanoseconds of CLOCK_BOOTTIME.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Joined { at: Nanos, member_id: String },
    Granted { partition: Partition, token: u64, at: Nanos },
    Stopped { partition: Partition, token: u64, at: Nanos, reason: Reason },
    /// Without another renewal every use ends at `deadline`.
    Lease { at: Nanos, deadline: Nanos },
    /// The cluster refuses the member for good; tried again slowly.
    Refused { at: Nanos, code: String },
}

/// Settings of a member.
pub struct Builder<L> {
    nodes: Vec<String>,
    group: String,
    member_id: Option<String>,
    config: Config,
    leave_timeout: Duration,
    listener: L,
    hook: Option<Hook>,
}

impl<L: Listener> Builder<L> {
    /// What to subscribe to.
    pub fn topics<S: Into<String>>(mut self, topics: impl IntoIterator<Item = S>) -> Self { self.config.topics = topics.into_iter().map(Into::into).collect(); self }
    /// A fixed member id. Without one each start takes a new id, which is what a worker normally wants.
    pub fn member_id(mut self, id: impl Into<String>) -> Self { self.member_id = Some(id.into()); self }
    /// How long `on_revoked` may take; 60 s if not set.
    pub fn rebalance_timeout(mut self, limit: Duration) -> Self { self.config.rebalance_timeout_ms = limit.as_millis() as u64; self }
    pub fn instance_id(mut self, id: impl Into<String>) -> Self { self.config.instance_id = Some(id.into()); self }
    pub fn rack(mut self, rack: impl Into<String>) -> Self { self.config.rack = Some(rack.into()); self }
    pub fn assignor(mut self, name: impl Into<String>) -> Self { self.config.assignor = Some(name.into()); self }
    /// The operator's word that every earlier process under this member id is dead: it is taken over at once.
    pub fn predecessor_dead(mut self, dead: bool) -> Self { self.config.predecessor_dead = dead; self }
    /// Let the server hold answers so long while nothing changes (at most a third of the lease): faster hand-overs. Off if not set.
    pub fn long_poll(mut self, wait: Duration) -> Self { self.config.long_poll_ms = wait.as_millis() as u64; self }
    /// How long one try of a heartbeat may take; 1.5 s if not set.
    pub fn request_timeout(mut self, limit: Duration) -> Self { self.config.request_timeout_ms = (limit.as_millis() as u64).max(1); self }
    /// How long a leave is tried; 5 s if not set.
    pub fn leave_timeout(mut self, limit: Duration) -> Self { self.leave_timeout = limit; self }
    /// Called with every event, at once and from the member's own task: it must not wait.
    pub fn on_event(mut self, hook: impl Fn(&Event) + Send + Sync + 'static) -> Self { self.hook = Some(Arc::new(hook)); self }
    /// Breaks the promise of one owner on purpose: for tests that show what it is for.
    #[doc(hidden)]
    pub fn self_fencing(mut self, on: bool) -> Self { self.config.self_fencing = on; self }
    /// Who is told about partitions.
    pub fn listener<M: Listener>(self, listener: M) -> Builder<M> {
        Builder { nodes: self.nodes, group: self.group, member_id: self.member_id, config: self.config, leave_timeout: self.leave_timeout, listener, hook: self.hook }
    }

    /// Starts the member; it joins in the background and stays until it leaves or is dropped.
    pub async fn spawn(mut self) -> Result<Member, Error> {
        if self.group.is_empty() { return Err(Error::Invalid("a group name is needed".into())); }
        self.config.member_id_is_drawn = self.member_id.is_none();
        self.config.member_id = self.member_id.unwrap_or_else(|| hex128(crate::entropy()));
        if self.config.member_id.is_empty() { return Err(Error::Invalid("the member id is empty".into())); }
        let http = Http::new(self.nodes)?;
        let machine = Machine::new(self.config.clone(), Box::new(crate::entropy));
        let identity = Identity { member_id: self.config.member_id.clone(), incarnation: machine.incarnation(), commit_seq: 0 };
        let shared = Arc::new(Shared {
            group: self.group, http, table: Table::new(self.config.self_fencing), identity: Mutex::new(identity),
            joined: AtomicBool::new(false), joined_now: Notify::new(), hook: self.hook,
            #[cfg(feature = "seeded-bugs")]
            late: Mutex::default(),
        });
        let (jobs, job_queue) = mpsc::unbounded_channel();
        let (done_queue, done) = mpsc::unbounded_channel();
        let (leave, leaves) = mpsc::channel(1);
        let callbacks = tokio::spawn(call_listener(self.listener, job_queue, done_queue));
        let driver = Driver { machine, shared: shared.clone(), jobs, done, leaves, leave_timeout: self.leave_timeout };
        let driver = tokio::spawn(driver.run());
        Ok(Member { shared, leave, driver, callbacks })
    }
}

/// A running member. Dropped without `leave` it ends like a crash: its partitions come free when its session runs out.
pub struct Member { shared: Arc<Shared>, leave: mpsc::Sender<Leave>, driver: JoinHandle<()>, callbacks: JoinHandle<()> }

impl Member {
    /// A member of `group` that talks to these nodes (`host:port`; a few of the cluster are enough).
    pub fn builder<S: Into<String>>(nodes: impl IntoIterator<Item = S>, group: impl Into<String>) -> Builder<()> {
        let config = Config {
            member_id: String::new(), member_id_is_drawn: true, topics: Vec::new(), rebalance_timeout_ms: 60_000, instance_id: None, rack: None, assignor: None,
            predecessor_dead: false, long_poll_ms: 0, request_timeout_ms: 1_500, self_fencing: true,
        };
        Builder {
            nodes: nodes.into_iter().map(Into::into).collect(), group: group.into(), member_id: None, config,
            leave_timeout: Duration::from_secs(5), listener: (), hook: None,
        }
    }
    pub fn member_id(&self) -> String { self.shared.identity(|i| i.member_id.clone()) }
    /// Returns once the group has taken the member in for the first time.
    pub async fn joined(&self) {
        loop {
            let notified = self.shared.joined_now.notified();
            tokio::pin!(notified);
            // Listens from here on, so a join between the look and the wait is not missed.
            notified.as_mut().enable();
            if self.shared.joined.load(SeqCst) { return; }
            notified.await;
        }
    }
    /// The guard of a partition that the member holds now.
    pub fn guard(&self, topic: &str, partition: i32) -> Option<Guard> { self.shared.table.guard(&Partition::new(topic, partition)) }
    /// The guards of everything that the member holds now.
    pub fn assignment(&self) -> Vec<Guard> { self.shared.table.guards() }

    /// Commits offsets, each under the token of its grant; tried until `limit`. One result for each, in order: taken if its code is None.
    /// An error says nothing about the outcome, nor does a refusal for certain: an earlier try may have been carried out without an answer.
    pub async fn commit(&self, offsets: &[Offset], limit: Duration) -> Result<Vec<CommitResult>, Error> {
        // Every try of one commit has one number: a later commit that overtakes it makes it stale, never the other way round.
        let identity = self.shared.identity(|i| {
            if !crate::seeded::on(92) || i.commit_seq == 0 { i.commit_seq += 1; }
            i.clone()
        });
        let offsets = offsets.iter().map(|o| CommitOffset {
            topic: o.partition.topic.clone(), partition: o.partition.partition, token: Some(o.token), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: None,
        });
        let request = CommitRequest {
            member_id: Some(identity.member_id), incarnation: Some(hex128(identity.incarnation)), commit_seq: Some(identity.commit_seq),
            timeout_ms: Some((limit.as_millis() as u64).clamp(1, 1_500)), offsets: offsets.collect(),
        };
        let path = format!("/v1/groups/{}/offsets", escape(&self.shared.group));
        let reply = self.shared.http.call(Method::PUT, &path, Some(json(&request)?), limit).await?;
        Ok(read::<CommitResponse>(&reply)?.results)
    }

    /// Committed offsets of the group: of all topics, of one, or of one partition. No entry: none was committed.
    pub async fn fetch(&self, topic: Option<&str>, partition: Option<i32>, limit: Duration) -> Result<Vec<CommittedOffset>, Error> {
        let mut path = format!("/v1/groups/{}/offsets", escape(&self.shared.group));
        if let Some(t) = topic { path.push_str(&format!("?topic={}", escape(t))); }
        if let (Some(_), Some(p)) = (topic, partition) { path.push_str(&format!("&partition={p}")); }
        let reply = self.shared.http.call(Method::GET, &path, None, limit).await?;
        Ok(read::<OffsetsResponse>(&reply)?.offsets)
    }

    /// Stops everything through `on_revoked`, then leaves, so that others can go on at once. On an error the partitions come free with the session.
    pub async fn leave(self) -> Result<(), Error> {
        let (tell, told) = oneshot::channel();
        self.leave.send(tell).await.map_err(|_| Error::Closed)?;
        told.await.map_err(|_| Error::Closed)?
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.driver.abort();
        self.callbacks.abort();
        self.shared.crash();
    }
}
