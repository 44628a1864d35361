//! One task per shard: hands requests to it, carries out what it wants, and lets an answer go only under a lease of the term it was decided in.
//!
//! It never waits for a proposal: the outcome comes back through the machine. It decides nothing about groups. `Node` sends it mail.

use crate::{
    clock::Clock,
    local::applied_offsets,
    machine::{Checked, MetaSlot, ShardSlot, lock},
};
use baton_coordinator::{
    command::{GroupError, Request, Response},
    ids::{Millis, Term},
    seeded,
    shard::{Action, Now, Ticket},
    work::{Done, Work},
};
use baton_raft::{GroupHandle, GroupStatus};
use std::{
    collections::BTreeMap,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

/// Requests that may wait for a driver.
pub const MAILBOX: usize = 4_096;
/// The loop looks at everything at least this often.
const TICK_MS: Millis = 100;
/// An idle leader checks its lease this often, so that it learns of a lapse (`safety.md` 19).
const CHECK_EVERY_MS: Millis = 250;
/// A gap between two good checks above this counts as a lapse although nobody saw one: this process, or the machine, did not run.
const GAP_MS: Millis = 1_500;
/// A barrier that takes longer is tried again.
const GATE_TIMEOUT: Duration = Duration::from_millis(2_000);
/// A lease check that takes longer has failed.
const CHECK_TIMEOUT: Duration = Duration::from_millis(1_000);
/// A shard that is stopped here is given away this often, until somebody takes it.
const STAND_BACK_EVERY_MS: Millis = 500;
/// Callers that went away are looked for this often.
const SWEEP_EVERY_MS: Millis = 1_000;

/// What became of a request.
#[derive(Debug)]
pub enum Outcome {
    /// The shard took it. `GroupError::Unavailable` means: unknown.
    Done(Result<Response, GroupError>),
    /// Nothing was done and nothing will be: it may be sent again.
    NotTaken(String),
}

/// An outcome, and for what was decided under a lease: the term, and when the check of that lease began.
pub struct Decided {
    pub outcome: Outcome,
    pub under: Option<(Term, Millis)>,
}
impl From<Outcome> for Decided { fn from(outcome: Outcome) -> Self { Self { outcome, under: None } } }

/// A request on its way to a shard.
pub struct Mail {
    pub request: Request,
    pub arrived: Millis,
    pub reply: oneshot::Sender<Decided>,
}

/// Who waits for an answer, and since when.
struct Caller {
    reply: oneshot::Sender<Decided>,
    arrived: Millis,
}

type Pending<T> = Option<Pin<Box<dyn Future<Output = T> + Send>>>;

/// Waits for `slot`'s future and empties it; for ever if there is none.
async fn finish<T>(slot: &mut Pending<T>) -> T {
    match slot {
        Some(f) => {
            let r = f.as_mut().await;
            *slot = None;
            r
        }
        None => std::future::pending().await,
    }
}

/// An answer that has been decided and waits for its lease check.
struct Ready {
    ticket: Ticket,
    term: Term,
    result: Result<Response, GroupError>,
}

pub struct Driver {
    node: u64,
    slot: Arc<ShardSlot>,
    meta: Arc<MetaSlot>,
    group: GroupHandle,
    clock: Clock,
    mail: mpsc::Receiver<Mail>,
    callers: BTreeMap<Ticket, Caller>,
    last_ticket: u64,
    ready: Vec<Ready>,
    /// The lease check that is out, the answers it is for, and whether a due timer waits for it.
    check: Pending<Result<Term, String>>,
    checking: Vec<Ready>,
    check_timers: bool,
    check_transfers: u64,
    last_check: Millis,
    last_good: Millis,
    /// The lease was lost in this term: all timers must be armed anew before anything else.
    lapsed: bool,
    gate: Pending<Result<(), String>>,
    gate_term: Term,
    gate_retry: Millis,
    /// When the gate of this term was first asked for.
    gate_began: Millis,
    last_led: Term,
    proposals: Arc<Proposals>,
    swept: Millis,
    image_revision: u64,
    /// Since when, or when it was last seen to, that others lead while the shard is stopped here.
    stood_back: Option<Millis>,
}

#[derive(Default)]
struct Proposals {
    out: AtomicU64,
    /// The newest term in which one failed.
    failed: AtomicU64,
}

impl Driver {
    /// Starts the driver of a shard; it runs until `mail` is closed or its task ends.
    pub fn new(node: u64, slot: Arc<ShardSlot>, meta: Arc<MetaSlot>, group: GroupHandle, clock: Clock, mail: mpsc::Receiver<Mail>) -> Driver {
        let now = clock.now().mono_ms;
        Driver {
            node, slot, meta, group, clock, mail, callers: BTreeMap::new(), last_ticket: 0, ready: Vec::new(), check: None, checking: Vec::new(), check_timers: false, check_transfers: 0,
            last_check: now, last_good: now, lapsed: false, gate: None, gate_term: 0, gate_retry: 0, gate_began: 0, last_led: 0, proposals: Arc::default(), swept: now, image_revision: 0, stood_back: None,
        }
    }

    pub async fn run(mut self) {
        let mut now = self.clock.now();
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        let mut rings_at = now.mono_ms;
        loop {
            self.follow_leadership(now);
            self.work(now);
            // Most turns want to sleep longer than the alarm that is set: it is moved only to ring earlier, or once it has rung.
            let wait = self.nap(now.mono_ms);
            if now.mono_ms >= rings_at || now.mono_ms + wait < rings_at {
                alarm.as_mut().reset(Instant::now() + Duration::from_millis(wait));
                rings_at = now.mono_ms + wait;
            }
            tokio::select! {
                biased;
                r = finish(&mut self.check) => {
                    now = self.clock.now();
                    self.checked(r, now);
                }
                r = finish(&mut self.gate) => {
                    now = self.clock.now();
                    self.gate_done(r, now);
                }
                m = self.mail.recv() => {
                    let Some(m) = m else { return };
                    now = self.clock.now();
                    self.take(m, now);
                    // Requests that are being read at this moment share the turn and its lease check: these cost more than a request does.
                    tokio::task::yield_now().await;
                    while let Ok(m) = self.mail.try_recv() {
                        self.take(m, now);
                    }
                }
                () = self.slot.wake.notified() => now = self.clock.now(),
                () = self.group.changed() => now = self.clock.now(),
                () = alarm.as_mut() => {
                    now = self.clock.now();
                    rings_at = now.mono_ms;
                }
            }
        }
    }

    /// How long the loop may sleep, ms.
    fn nap(&self, now: Millis) -> Millis {
        let due = self.slot.shard().poll_timeout().map_or(TICK_MS, |d| d.saturating_sub(now));
        // A due timer whose check is out, or that waits for a lapsed lease, must not make the loop spin.
        due.clamp(if self.check.is_some() || self.lapsed { 20 } else { 1 }, TICK_MS)
    }

    /// Leadership gained, lost, or of another term.
    fn follow_leadership(&mut self, now: Now) {
        let (newest, is_leader) = self.group.standing();
        let leading = self.slot.shard().leading();
        let may = is_leader && self.slot.stopped().is_none();
        if let Some(term) = leading
            && (!may || newest != term || self.proposals.failed.load(Ordering::Acquire) == term)
        {
            self.step_down(now);
        }
        self.stand_back(now.mono_ms);
        if !may {
            self.gate = None;
            return;
        }
        let open = self.slot.shard().leading() == Some(newest);
        if !open && (self.gate.is_none() || self.gate_term != newest) && now.mono_ms >= self.gate_retry {
            let status = self.group.status();
            if self.gate_term != status.term {
                self.gate_began = now.mono_ms;
            }
            self.gate_term = status.term;
            self.gate = Some(Box::pin(gate(self.group.clone(), self.slot.clone(), self.proposals.clone(), status, self.last_led)));
        }
    }

    /// A node that has stopped a shard does not lead it: nobody would serve the shard (`safety.md` 27).
    fn stand_back(&mut self, now: Millis) {
        let stopped = self.slot.stopped().is_some() && !seeded::on(88);
        match self.stood_back {
            None if !stopped => {}
            Some(_) if !stopped => {
                self.stood_back = None;
                self.group.come_forward();
            }
            Some(at) if now < at + STAND_BACK_EVERY_MS => {}
            _ => {
                self.stood_back = Some(now);
                let group = self.group.clone();
                tokio::spawn(async move { group.stand_back().await });
            }
        }
    }

    fn step_down(&mut self, now: Now) {
        self.slot.shard().step_down();
        *lock(&self.slot.lease) = None;
        self.collect(now);
        self.check = None;
        self.lapsed = false;
        for r in self.checking.drain(..).chain(self.ready.drain(..)).collect::<Vec<_>>() {
            self.answer(r.ticket, Err(lost()), now.mono_ms);
        }
    }

    /// Everything of the term is applied: the shard may lead.
    fn gate_done(&mut self, result: Result<(), String>, now: Now) {
        let (term, is_leader) = self.group.standing();
        if result.is_err() || !is_leader || term != self.gate_term || self.slot.stopped().is_some() {
            self.gate_retry = now.mono_ms + 50;
            return;
        }
        self.proposals.failed.store(0, Ordering::Release);
        self.slot.times.load.record(now.mono_ms.saturating_sub(self.gate_began));
        self.last_led = term;
        (self.lapsed, self.last_good, self.last_check) = (false, now.mono_ms, now.mono_ms);
        let image = self.meta.image();
        self.image_revision = image.revision;
        let mut shard = self.slot.shard();
        shard.metadata(image, now);
        shard.lead(self.node, term, now);
        tracing::debug!(shard = shard.id(), term, "leads");
        baton_raft::failpoint_sync!("shard about to be served", shard.id() + 1);
    }

    fn take(&mut self, mail: Mail, turn: Now) {
        let Mail { mut request, arrived, reply } = mail;
        // It may have come after the turn began: its deadlines count from its arrival.
        let now = Now { mono_ms: turn.mono_ms.max(arrived), ..turn };
        let refuse = |reason: &str| Outcome::NotTaken(reason.into());
        let waited = now.mono_ms.saturating_sub(arrived);
        if seeded::on(160) {
            request.budget_ms = None;
        }
        let refusal = if request.budget_ms.is_some_and(|b| b < waited) {
            Some(Outcome::Done(Err(GroupError::Unavailable { reason: "the request was taken up later than its timeout_ms: nothing was done".into() })))
        } else if self.lapsed {
            Some(refuse("the leader of the group's shard cannot reach a majority of its nodes"))
        } else if self.slot.shard().leading().is_none() && self.group.standing().1 && let Some(found) = applied_offsets(50, &self.slot, &request) {
            Some(Outcome::Done(Ok(found)))
        } else if self.slot.shard().leading().is_none() {
            Some(refuse("the group's shard has no leader that is ready here"))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            // The caller may have gone away: nobody misses it then.
            let _ = reply.send(refusal.into());
            return;
        }
        request.budget_ms = request.budget_ms.map(|b| b - waited);
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.slot.times.queue.record(waited);
        self.callers.insert(ticket, Caller { reply, arrived });
        self.slot.shard().handle(ticket, request, now);
    }

    /// Carries out everything the shard wants, and starts a lease check if something waits for one.
    fn work(&mut self, now: Now) {
        let image = self.meta.image();
        if image.revision > self.image_revision && !seeded::on(107) {
            self.image_revision = image.revision;
            self.slot.shard().metadata(image, now);
        }
        self.collect(now);
        if now.mono_ms >= self.swept + SWEEP_EVERY_MS {
            self.swept = now.mono_ms;
            self.sweep();
        }
        let (leading, due) = {
            let shard = self.slot.shard();
            (shard.leading().is_some(), shard.poll_timeout().is_some_and(|d| d <= now.mono_ms))
        };
        if self.check.is_some() && seeded::on(96) {
            self.checking.append(&mut self.ready);
        }
        let every = if self.lapsed { 50 } else { CHECK_EVERY_MS };
        let wanted = !self.ready.is_empty() || (due && !self.lapsed) || now.mono_ms >= self.last_check + every;
        if leading && self.check.is_none() && wanted {
            self.last_check = now.mono_ms;
            self.checking = std::mem::take(&mut self.ready);
            self.check_timers = due;
            self.check_transfers = self.group.transfers();
            let group = self.group.clone();
            self.check = Some(Box::pin(async move {
                match tokio::time::timeout(CHECK_TIMEOUT, group.lease()).await {
                    Ok(Ok(term)) => Ok(term),
                    Ok(Err(e)) => Err(e.to_string()),
                    Err(_) => Err("the lease check took too long".into()),
                }
            }));
        }
    }

    /// A lease check ended: its answers go out, or are replaced.
    fn checked(&mut self, result: Result<Term, String>, now: Now) {
        let leading = self.slot.shard().leading();
        let term = result.ok().filter(|t| leading == Some(*t)).or_else(|| leading.filter(|_| seeded::on(7)));
        for r in std::mem::take(&mut self.checking) {
            match term {
                Some(t) if t == r.term => self.answer_under(r.ticket, r.result, Some((t, self.last_check)), now.mono_ms),
                _ => self.answer(r.ticket, Err(lost()), now.mono_ms),
            }
        }
        *lock(&self.slot.lease) = term.map(|term| Checked { term, at: self.last_check, transfers: self.check_transfers });
        let Some(term) = term else {
            self.lapsed = leading.is_some();
            if self.lapsed && self.check_timers && seeded::on(163) {
                self.lapsed = false;
                self.slot.shard().handle_timeout(now);
            }
            return;
        };
        let broken = (self.lapsed || now.mono_ms.saturating_sub(self.last_good) > GAP_MS) && !seeded::on(28);
        (self.lapsed, self.last_good) = (false, now.mono_ms);
        let mut shard = self.slot.shard();
        if broken {
            tracing::info!(shard = shard.id(), term, "the lease was interrupted: all timers start again");
            shard.lead(self.node, term, now);
        } else if self.check_timers {
            shard.handle_timeout(now);
        }
    }

    /// Fetches the shard's actions.
    fn collect(&mut self, now: Now) {
        self.fetch(now);
        self.slot.times.processing.record(self.clock.mono_ms().saturating_sub(now.mono_ms));
    }

    fn fetch(&mut self, now: Now) {
        loop {
            let (action, term) = {
                let mut shard = self.slot.shard();
                (shard.poll(now), shard.leading())
            };
            match (action, term) {
                (None, _) => return,
                #[cfg(madsim)]
                (Some(Action::Propose(entry)), _) if let Some(group) = baton_raft::faults::poisons() => self.propose(entry.term, poisoned(entry, group).encode()),
                (Some(Action::Propose(entry)), _) => self.propose(entry.term, entry.encode()),
                (Some(Action::Work(work)), _) => self.compute(work),
                // "Unknown" reveals nothing and needs no lease.
                (Some(Action::Reply { ticket, result: result @ Err(GroupError::Unavailable { .. }) }), _) => self.answer(ticket, result, now.mono_ms),
                (Some(Action::Reply { ticket, result }), Some(term)) => self.ready.push(Ready { ticket, term, result }),
                (Some(Action::Reply { ticket, .. }), None) => self.answer(ticket, Err(lost()), now.mono_ms),
            }
        }
    }

    /// Its outcome is learned by replay; only a proposal that surely failed, in a term that goes on, must be noticed here.
    fn propose(&self, term: Term, payload: Vec<u8>) {
        self.proposals.out.fetch_add(1, Ordering::AcqRel);
        let (group, proposals, slot, clock, began) = (self.group.clone(), self.proposals.clone(), self.slot.clone(), self.clock.clone(), self.clock.mono_ms());
        tokio::spawn(async move {
            baton_raft::failpoint!("entry about to be proposed", group.number());
            let r = group.propose(payload).await;
            slot.times.flush.record(clock.mono_ms().saturating_sub(began));
            if let Err(e) = r {
                tracing::debug!(%e, "proposal");
                proposals.failed.fetch_max(term, Ordering::AcqRel);
            }
            proposals.out.fetch_sub(1, Ordering::AcqRel);
            slot.wake.notify_one();
        });
    }

    /// Long work runs beside the shard, on a thread that may be blocked: no heartbeat waits for it. Its result comes back as a command would.
    fn compute(&self, work: Work) {
        let (slot, clock) = (self.slot.clone(), self.clock.clone());
        tokio::spawn(async move {
            let failed = Done { group: work.group.clone(), run: work.run, kind: work.task.kind(), result: Err("the work ended without a result".into()) };
            let done = baton_raft::blocking(move || work.run()).await.unwrap_or(failed);
            slot.shard().done(done, clock.now());
            slot.wake.notify_one();
        });
    }

    fn answer(&mut self, ticket: Ticket, result: Result<Response, GroupError>, now: Millis) { self.answer_under(ticket, result, None, now) }

    fn answer_under(&mut self, ticket: Ticket, result: Result<Response, GroupError>, under: Option<(Term, Millis)>, now: Millis) {
        if let Some(caller) = self.callers.remove(&ticket) {
            self.slot.times.purgatory.record(now.saturating_sub(caller.arrived));
            // The caller may have gone away: nobody misses it then.
            let _ = caller.reply.send(Decided { outcome: Outcome::Done(result), under });
        }
    }

    /// Forgets callers that went away.
    fn sweep(&mut self) {
        let gone: Vec<Ticket> = self.callers.iter().filter(|(_, c)| c.reply.is_closed()).map(|(t, _)| *t).collect();
        for t in gone {
            self.callers.remove(&t);
            self.slot.shard().abandon(t);
        }
    }
}

/// What a leader with a bug would propose for a group: its batch ends with a record that does not fit.
#[cfg(madsim)]
fn poisoned(mut entry: baton_coordinator::record::LogEntry, group: &str) -> baton_coordinator::record::LogEntry {
    use baton_coordinator::{ids::{FencingToken, Partition}, record::Record};
    for b in entry.batches.iter_mut().filter(|b| b.group.as_str() == group) {
        baton_raft::faults::count("poison record proposed");
        b.records.push(Record::HoldReleased { partition: Partition::new("nobody's", 0), token: FencingToken(1) });
    }
    entry
}

fn lost() -> GroupError { GroupError::Unavailable { reason: "the node that answers lost the leadership of the group's shard, or its lease".into() } }

/// Waits until everything of this term is applied here. A second gate in one term also waits for every own proposal of the first: an entry of it that
/// is replayed later could be taken for one of the second.
async fn gate(group: GroupHandle, slot: Arc<ShardSlot>, proposals: Arc<Proposals>, status: GroupStatus, last_led: Term) -> Result<(), String> {
    if seeded::on(87) {
        return Ok(());
    }
    if last_led == status.term {
        while proposals.out.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let last_log = group.status().last_log.max(status.last_log);
    let term = tokio::time::timeout(GATE_TIMEOUT, group.barrier()).await.map_err(|_| "the barrier took too long".to_string())?.map_err(|e| e.to_string())?;
    while last_led == status.term && slot.applied() < last_log {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if term == status.term { Ok(()) } else { Err(format!("the term is {term} by now")) }
}
