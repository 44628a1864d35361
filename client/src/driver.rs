//! Runs one member: carries out what `machine` decides, sends its heartbeats, and feeds back answers and ended callbacks.
//!
//! Two tasks. The driver never waits for the listener, so the lease is kept up while a callback works; the caller of the listener runs one
//! callback at a time, in the order of events. Either may be aborted at any time: that is a crash of the member.

use crate::{
    Error,
    clock::{self, MS, Nanos},
    guard::{Guard, Table},
    http::{Answered, Http, escape},
    machine::{Beat, Callback, Effect, Machine, Outcome, Reason, Ticket},
    member::{Event, Listener},
    partition::{Granted, Partition},
};
use baton_wire::{HeartbeatResponse, code, hex128};
use hyper::Method;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    select,
    sync::{Notify, mpsc, oneshot},
    time::sleep,
};

pub(crate) type Hook = Arc<dyn Fn(&Event) + Send + Sync>;

/// What the handle and the driver of a member share.
pub(crate) struct Shared {
    pub group: String,
    pub http: Http,
    pub table: Table,
    pub identity: Mutex<Identity>,
    pub joined: AtomicBool,
    pub joined_now: Notify,
    pub hook: Option<Hook>,
    #[cfg(feature = "seeded-bugs")]
    pub late: Mutex<Vec<(Ticket, Outcome)>>,
}
/// Under which name commits are sent, and the number of the last one.
#[derive(Clone)]
pub(crate) struct Identity { pub member_id: String, pub incarnation: u128, pub commit_seq: u64 }

impl Shared {
    pub fn identity<R>(&self, f: impl FnOnce(&mut Identity) -> R) -> R { f(&mut self.identity.lock().unwrap_or_else(PoisonError::into_inner)) }
    pub fn member_path(&self, member_id: &str) -> String { format!("/v1/groups/{}/members/{}", escape(&self.group), escape(member_id)) }
    pub fn emit(&self, event: Event) {
        if let Some(hook) = &self.hook { hook(&event); }
    }
    pub fn stopped(&self, granted: &[Granted], at: Nanos, reason: Reason) {
        for (partition, token) in granted { self.emit(Event::Stopped { partition: partition.clone(), token: *token, at, reason }); }
    }
    /// Every guard says no from here on.
    pub fn crash(&self) {
        let held = self.table.stop_all();
        self.stopped(&held, clock::now(), Reason::Crashed);
    }
}

/// A callback to be made.
pub(crate) enum Job { Assigned(Vec<Guard>), Revoked(Vec<Granted>, Vec<Guard>), Lost(Vec<Granted>) }
type Done = (Callback, Vec<Granted>);
/// A leave that was asked for, and who waits for its outcome.
pub(crate) type Leave = oneshot::Sender<Result<(), Error>>;

/// Calls the listener until the driver is gone.
pub(crate) async fn call_listener<L: Listener>(listener: L, mut jobs: mpsc::UnboundedReceiver<Job>, done: mpsc::UnboundedSender<Done>) {
    while let Some(job) = jobs.recv().await {
        let ended = match job {
            Job::Assigned(guards) => {
                listener.on_assigned(&guards).await;
                continue;
            }
            Job::Revoked(granted, guards) => {
                listener.on_revoked(&guards).await;
                (Callback::Revoke, granted)
            }
            Job::Lost(granted) => {
                let partitions: Vec<Partition> = granted.iter().map(|(p, _)| p.clone()).collect();
                listener.on_lost(&partitions).await;
                (Callback::Lost, granted)
            }
        };
        if done.send(ended).is_err() { return; }
    }
}

type InFlight = Pin<Box<dyn Future<Output = Outcome> + Send>>;

pub(crate) struct Driver {
    pub machine: Machine,
    pub shared: Arc<Shared>,
    pub jobs: mpsc::UnboundedSender<Job>,
    pub done: mpsc::UnboundedReceiver<Done>,
    pub leaves: mpsc::Receiver<Leave>,
    pub leave_timeout: Duration,
}

impl Driver {
    /// Until the member has left.
    pub async fn run(mut self) {
        let mut in_flight: Option<(Ticket, InFlight)> = None;
        let mut leaving: Option<Leave> = None;
        loop {
            self.machine.tick(clock::now());
            #[cfg(feature = "seeded-bugs")]
            for (ticket, outcome) in std::mem::take(&mut *self.shared.late.lock().unwrap_or_else(PoisonError::into_inner)) { self.machine.answer(ticket, outcome, clock::now()); }
            self.carry_out();
            if let Some(beat) = self.machine.request(clock::now()) {
                // A request that it replaces is dropped here, and its connection with it.
                #[cfg(feature = "seeded-bugs")]
                let send = if crate::seeded::on(27) { late::send } else { send };
                in_flight = Some((beat.ticket, send(self.shared.clone(), beat)));
            }
            self.carry_out();
            if in_flight.as_ref().is_some_and(|(t, _)| self.machine.in_flight() != Some(*t)) { in_flight = None; }
            if leaving.is_some() && self.machine.may_leave() { break; }
            let pause = Duration::from_nanos(self.machine.wake().saturating_sub(clock::now()).min(60_000 * MS));
            select! { biased;
                Some(leave) = self.leaves.recv(), if leaving.is_none() => {
                    leaving = Some(leave);
                    self.machine.leave();
                }
                ended = self.done.recv() => match ended {
                    Some((callback, granted)) => self.machine.finished(callback, &granted, clock::now()),
                    // The listener panicked: nobody is left who could stop when asked.
                    None => {
                        tracing::error!(group = %self.shared.group, "the listener is gone: the member stops as if it had crashed");
                        self.shared.crash();
                        return;
                    }
                },
                (ticket, outcome) = answered(&mut in_flight) => {
                    in_flight = None;
                    self.machine.answer(ticket, outcome, clock::now());
                }
                _ = sleep(pause) => {}
            }
        }
        drop(in_flight);
        let result = self.send_leave().await;
        if let Some(waiting) = leaving { let _ = waiting.send(result); }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.machine.effect() {
            let s = &self.shared;
            match effect {
                Effect::Lease { deadline } => {
                    s.emit(Event::Lease { at: clock::now(), deadline });
                    s.table.renew(deadline);
                }
                Effect::Grant(granted) => {
                    // Written down before it can be used, as stops are after: a record never claims less than what was believed.
                    let at = clock::now();
                    for (partition, token) in &granted { s.emit(Event::Granted { partition: partition.clone(), token: *token, at }); }
                    let guards = s.table.grant(&granted);
                    let _ = self.jobs.send(Job::Assigned(guards));
                }
                Effect::Revoke(granted) => {
                    let guards = granted.iter().filter_map(|(p, token)| s.table.guard(p).filter(|g| g.token() == *token)).collect();
                    let _ = self.jobs.send(Job::Revoked(granted, guards));
                }
                Effect::Stop(granted) => {
                    s.table.stop(&granted);
                    s.stopped(&granted, clock::now(), Reason::Revoked);
                }
                Effect::Lose { granted, reason, at } => {
                    if !crate::seeded::on(113) { s.table.stop(&granted); }
                    // A lapsed guard has said no since its deadline, all others until this moment.
                    s.stopped(&granted, if reason == Reason::Lapsed { at } else { clock::now() }, reason);
                    tracing::warn!(group = %s.group, ?reason, partitions = granted.len(), "partitions lost");
                    let _ = self.jobs.send(Job::Lost(granted));
                }
                Effect::Cap(granted, at) => s.table.cap(&granted, at),
                Effect::Reborn { .. } if crate::seeded::on(144) => {}
                Effect::Reborn { member_id, incarnation } => s.identity(|i| *i = Identity { member_id, incarnation, commit_seq: 0 }),
                Effect::Joined => {
                    s.joined.store(true, SeqCst);
                    s.joined_now.notify_waiters();
                    s.emit(Event::Joined { at: clock::now(), member_id: self.machine.member_id().into() });
                }
                Effect::Refused(problem) => {
                    tracing::warn!(group = %s.group, %problem, "the cluster refuses this member; trying again slowly");
                    s.emit(Event::Refused { at: clock::now(), code: problem.code });
                }
            }
        }
    }

    async fn send_leave(self) -> Result<(), Error> {
        let m = &self.machine;
        let path = format!("{}?incarnation={}&assignment_revision={}", self.shared.member_path(m.member_id()), hex128(m.incarnation()), m.seen());
        match self.shared.http.call(Method::DELETE, &path, None, self.leave_timeout).await {
            Ok(_) => Ok(()),
            // Not in the group, or an earlier try was carried out: what was wanted.
            Err(Error::Refused(p)) if [code::UNKNOWN_GROUP, code::UNKNOWN_MEMBER, code::FENCED_INCARNATION, code::STALE_LEAVE].contains(&p.code.as_str()) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

async fn answered(in_flight: &mut Option<(Ticket, InFlight)>) -> (Ticket, Outcome) {
    match in_flight {
        Some((ticket, answer)) => (*ticket, answer.await),
        None => std::future::pending().await,
    }
}

fn send(shared: Arc<Shared>, beat: Beat) -> InFlight {
    Box::pin(async move {
        let path = format!("{}/heartbeat", shared.member_path(&beat.member_id));
        let Ok(body) = serde_json::to_vec(&beat.body) else { return Outcome::NoAnswer };
        let limit = Duration::from_millis(beat.timeout_ms + beat.body.wait_ms);
        #[cfg(feature = "seeded-bugs")]
        let limit = if crate::seeded::on(27) { limit * 20 } else { limit };
        let answer = if beat.spread {
            shared.http.try_spread(Method::POST, &path, Some(body), limit).await
        } else {
            let answered = if beat.body.wait_ms > 0 { Answered::Held } else { Answered::AtOnce };
            shared.http.try_once(Method::POST, &path, Some(body), limit, answered).await
        };
        match answer {
            Ok(r) if r.is_success() => serde_json::from_slice::<HeartbeatResponse>(&r.body).map_or(Outcome::NoAnswer, |r| Outcome::Accepted(Box::new(r))),
            Ok(r) => Outcome::Refused(r.problem()),
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not answered");
                Outcome::NoAnswer
            }
        }
    })
}

/// Seeded bug 27: a request that was given up stays open, and its answer is applied whenever it comes.
#[cfg(feature = "seeded-bugs")]
mod late {
    use super::*;

    pub fn send(shared: Arc<Shared>, beat: Beat) -> InFlight {
        let (ticket, limit) = (beat.ticket, Duration::from_millis(beat.timeout_ms + beat.body.wait_ms));
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let outcome = super::send(shared.clone(), beat).await;
            if let Err(outcome) = tell.send(outcome) { shared.late.lock().unwrap_or_else(PoisonError::into_inner).push((ticket, outcome)); }
        });
        Box::pin(async move { tokio::time::timeout(limit, told).await.ok().and_then(Result::ok).unwrap_or(Outcome::NoAnswer) })
    }
}
