//! The member's half of the group protocol as a pure state machine: no clock, no I/O; time and random bytes are arguments.
//! `member.rs` drives it: `tick`, then carry out every `effect`, then send what `request` gives, one request at a time.
//!
//! What it promises: a partition is used only from its grant to the first of its stop and the deadline; the deadline
//! counts from when the renewing request was *sent*; nothing is confirmed or rejoined before the listener is done with what it must stop.
//!
//! Never here: waiting, callbacks, HTTP.

use crate::{
    clock::{MS, Nanos},
    partition::{Granted, Partition},
    seeded,
};
use baton_wire::{HeartbeatRequest, HeartbeatResponse, Owned, Problem, code};
use std::collections::{BTreeMap, VecDeque};

/// What a member says of itself.
#[derive(Clone, Debug)]
pub struct Config {
    pub member_id: String,
    /// The id was drawn, not chosen: a fenced incarnation draws another.
    pub member_id_is_drawn: bool,
    pub topics: Vec<String>,
    pub rebalance_timeout_ms: u64,
    pub instance_id: Option<String>,
    pub rack: Option<String>,
    pub assignor: Option<String>,
    pub predecessor_dead: bool,
    /// Ask the server to hold answers so long while nothing changes; 0: do not.
    pub long_poll_ms: u64,
    /// How long one try may take, besides the wait.
    pub request_timeout_ms: u64,
    /// False only in tests that must show what self-fencing is for.
    pub self_fencing: bool,
}

/// Why the use of a partition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason { Revoked, Lapsed, Fenced, Removed, UnknownMember, Replaced, Taken, Refused, Crashed }

/// To be carried out by the shell, in order and at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Use may go on until `deadline`.
    Lease { deadline: Nanos },
    /// May be used from now on; tell the listener.
    Grant(Vec<Granted>),
    /// Let the listener stop; use is allowed until it has. Then call `finished(Callback::Revoke, ..)`. With a cap: it ends there at the latest.
    Revoke(Vec<Granted>),
    /// The listener has stopped: use ends now.
    Stop(Vec<Granted>),
    /// Use ended at `at`; tell the listener, then call `finished(Callback::Lost, ..)`.
    Lose { granted: Vec<Granted>, reason: Reason, at: Nanos },
    /// A partition keeps the deadline it has, whatever the lease does.
    Cap(Granted, Nanos),
    /// A new incarnation began: commits are numbered from 1 again.
    Reborn { member_id: String, incarnation: u128 },
    /// The member is in the group.
    Joined,
    /// The server refuses this member; it is tried again, slowly.
    Refused(Problem),
}

/// Which callback of the listener ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callback { Revoke, Lost }

/// A heartbeat to be sent now.
#[derive(Clone, Debug)]
pub struct Beat {
    pub ticket: Ticket,
    pub member_id: String,
    pub timeout_ms: u64,
    /// The lease is in danger: other nodes are asked beside one that says nothing. A heartbeat may arrive more than once.
    pub spread: bool,
    pub body: HeartbeatRequest,
}
/// Tells which heartbeat an answer belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket { pub number: u64, life: u64, sent_at: Nanos, revision: u64, wait_ms: u64 }
impl Ticket {
    /// The server was asked to hold the answer.
    fn waits(&self) -> bool { self.wait_ms > 0 }
}

/// What became of a heartbeat.
#[derive(Clone, Debug)]
pub enum Outcome { Accepted(Box<HeartbeatResponse>), Refused(Problem), NoAnswer }

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase { Joining, In, Dropping, Leaving }
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use { Using, Revoking, Losing }
#[derive(Clone, Debug)]
struct Held { token: u64, state: Use, cap: Option<Nanos> }

/// The member.
pub struct Machine {
    config: Config,
    entropy: Box<dyn FnMut() -> u128 + Send>,
    incarnation: u128,
    phase: Phase,
    epoch: i32,
    /// Grows with everything that makes answers under way worthless.
    life: u64,
    /// Revision of the newest assignment taken, and of the newest fully applied.
    seen: u64,
    applied: u64,
    wanted: BTreeMap<Partition, u64>,
    held: BTreeMap<Partition, Held>,
    deadline: Option<Nanos>,
    interval_ms: u64,
    lease_ms: u64,
    in_flight: Option<Ticket>,
    tickets: u64,
    due: Nanos,
    failures: u32,
    /// How far held heartbeats have shown that they do not work: see `SPOILED`.
    spoiled: u32,
    /// A revocation is done and the server has not been told.
    unconfirmed: bool,
    /// How long to wait before the join that follows a drop.
    rejoin_after_ms: u64,
    effects: VecDeque<Effect>,
}

const BACKOFF_MS: (u64, u64) = (50, 1_000);
const REFUSED_RETRY_MS: u64 = 5_000;
const INTERVAL_BEFORE_TOLD_MS: u64 = 1_000;
/// A held heartbeat to a node that died or was cut off is noticed after the wait and one try's time. Several such nodes in a row, and the time a new leader
/// needs, have to fit into a lease: a wait is at most this part of it …
const WAIT_OF_LEASE: u64 = 5;
/// … and a try this part.
const TRY_OF_LEASE: u64 = 8;
/// A pause between two tries is at most this part of what is left of the lease.
const PAUSE_OF_REST: u64 = 8;
/// What lets answers pass at once may still break every wait: a held heartbeat that got no answer counts for `SPOILED`, one that a leader refused (it was giving
/// its shard away, say) for 1, and from `SPOILED` on the next wait does not follow at once, but at the interval.
const SPOILED: u32 = 2;
/// A shorter wait is not followed by the next one at once, but at the interval.
const HELD_MIN_MS: u64 = 50;

impl Machine {
    /// A member that will join at once.
    pub fn new(config: Config, mut entropy: Box<dyn FnMut() -> u128 + Send>) -> Machine {
        let incarnation = entropy();
        Machine {
            config, entropy, incarnation, phase: Phase::Joining, epoch: 0, life: 0, seen: 0, applied: 0, wanted: BTreeMap::new(), held: BTreeMap::new(),
            deadline: None, interval_ms: INTERVAL_BEFORE_TOLD_MS, lease_ms: 0, in_flight: None, tickets: 0, due: 0, failures: 0, spoiled: 0, unconfirmed: false,
            rejoin_after_ms: 0, effects: VecDeque::new(),
        }
    }
    pub fn member_id(&self) -> &str { &self.config.member_id }
    pub fn incarnation(&self) -> u128 { self.incarnation }
    /// The revision a leave may carry: everything granted up to it has been stopped once nothing is held.
    pub fn seen(&self) -> u64 { self.seen }
    /// The shell drops a request whose ticket is not in flight any more.
    pub fn in_flight(&self) -> Option<Ticket> { self.in_flight }
    /// Leaving, and everything has been stopped: the leave may be sent.
    pub fn may_leave(&self) -> bool { self.phase == Phase::Leaving && self.held.is_empty() }
    pub fn effect(&mut self) -> Option<Effect> { self.effects.pop_front() }

    /// When `tick` or `request` has something to do without anything else happening.
    pub fn wake(&self) -> Nanos {
        let beat = if self.in_flight.is_none() && self.beats() { self.due } else { Nanos::MAX };
        let caps = self.held.values().filter(|h| h.state != Use::Losing).filter_map(|h| h.cap);
        let lapse = if self.config.self_fencing { self.deadline.into_iter().chain(caps).min().unwrap_or(Nanos::MAX) } else { Nanos::MAX };
        beat.min(lapse)
    }

    /// Takes note of the time: a lease that has run out takes everything with it.
    pub fn tick(&mut self, now: Nanos) {
        if !self.config.self_fencing { return; }
        if let Some(deadline) = self.deadline
            && now >= deadline
        {
            self.drop_all(Reason::Lapsed, deadline, now, 0);
        }
        let over: Vec<(Granted, Nanos)> = self.held.iter().filter(|(_, h)| h.state != Use::Losing).filter_map(|(p, h)| h.cap.filter(|c| now >= *c).map(|c| ((p.clone(), h.token), c))).collect();
        for (granted, at) in over { self.lose(vec![granted], Reason::Taken, at); }
    }

    /// The heartbeat to send now, if one is due. A confirmation does not wait for an answer that the server is holding back.
    pub fn request(&mut self, now: Nanos) -> Option<Beat> {
        self.tick(now);
        let blocked = self.in_flight.is_some_and(|t| !(t.waits() && self.unconfirmed && t.revision != self.applied));
        if blocked || !self.beats() || now < self.due { return None; }
        let joins = self.epoch == 0;
        // Up to a tenth shorter, so that members whose waits began with one change do not come back in step.
        let wait_ms = self.may_wait_ms().saturating_sub(self.random(self.may_wait_ms() / 10 + 1));
        self.tickets += 1;
        let revision = if joins || seeded::on(93) { self.seen } else { self.applied };
        let ticket = Ticket { number: self.tickets, life: self.life, sent_at: now, revision, wait_ms };
        self.in_flight = Some(ticket);
        let c = &self.config;
        // A short lease leaves time for several tries only if each of them is short.
        let timeout_ms = if self.lease_ms == 0 { c.request_timeout_ms } else { c.request_timeout_ms.min((self.lease_ms / TRY_OF_LEASE).max(100)) };
        let body = HeartbeatRequest {
            member_epoch: self.epoch,
            incarnation: baton_wire::hex128(self.incarnation),
            predecessor_dead: joins && c.predecessor_dead,
            instance_id: c.instance_id.clone().filter(|_| joins),
            rack: c.rack.clone().filter(|_| joins),
            rebalance_timeout_ms: joins.then_some(c.rebalance_timeout_ms),
            subscribed_topics: joins.then(|| c.topics.clone()),
            assignor: c.assignor.clone().filter(|_| joins),
            owned: Some(by_topic(self.held.iter().filter(|(_, h)| h.state != Use::Revoking || !seeded::on(93)).map(|(p, _)| p))),
            assignment_revision: Some(revision),
            wait_ms,
            timeout_ms: Some(timeout_ms),
            ..HeartbeatRequest::default()
        };
        let spread = wait_ms == 0 && (self.failures > 0 || self.left_ms(now).is_some_and(|left| left < self.lease_ms / 2));
        Some(Beat { ticket, member_id: c.member_id.clone(), timeout_ms, spread, body })
    }

    /// What is left of the lease, if there is one.
    fn left_ms(&self, now: Nanos) -> Option<u64> { self.deadline.map(|d| d.saturating_sub(now) / MS) }

    /// How long the next heartbeat lets the server hold its answer. 0: something is to be said or learned at once.
    fn may_wait_ms(&self) -> u64 {
        let at_once = self.epoch == 0 || self.unconfirmed || self.phase != Phase::In || self.failures > 0;
        if at_once { 0 } else { self.config.long_poll_ms.min(self.lease_ms / WAIT_OF_LEASE) }
    }

    /// What became of a heartbeat. Answers to requests of an earlier life, or replaced by a later one, say nothing.
    pub fn answer(&mut self, ticket: Ticket, outcome: Outcome, now: Nanos) {
        self.tick(now);
        if (self.in_flight != Some(ticket) || ticket.life != self.life) && !seeded::on(27) { return; }
        self.in_flight = None;
        let spoils = match outcome { Outcome::NoAnswer => SPOILED, Outcome::Refused(_) => 1, Outcome::Accepted(_) => 0 };
        if ticket.waits() { self.spoiled = if spoils == 0 { 0 } else { self.spoiled.saturating_add(spoils) }; }
        match outcome {
            Outcome::NoAnswer => self.again(now, None),
            Outcome::Refused(problem) => self.refused(problem, now),
            Outcome::Accepted(r) => self.accepted(ticket, *r, now),
        }
    }

    /// A callback of the listener ended.
    pub fn finished(&mut self, callback: Callback, granted: &[Granted], now: Nanos) {
        self.tick(now);
        let state = match callback { Callback::Revoke => Use::Revoking, Callback::Lost => Use::Losing };
        let mut stopped = Vec::new();
        for (p, token) in granted {
            if self.held.get(p).is_some_and(|h| h.token == *token && h.state == state) {
                self.held.remove(p);
                stopped.push((p.clone(), *token));
            }
        }
        if callback == Callback::Revoke && !stopped.is_empty() { self.effects.push_back(Effect::Stop(stopped)); }
        match self.phase {
            Phase::Dropping if self.held.is_empty() => self.join(now),
            Phase::In => self.follow(now),
            _ => {}
        }
    }

    /// Begins a leave: what is held is stopped as for a revocation, meanwhile the lease is kept up.
    pub fn leave(&mut self) {
        // What a drop still has to stop is stopped before the leave too: `may_leave` waits for it.
        self.phase = Phase::Leaving;
        self.wanted.clear();
        self.revoke_where(|_, h| h.state == Use::Using);
    }

    fn beats(&self) -> bool {
        match self.phase {
            Phase::Joining | Phase::In => true,
            Phase::Dropping => false,
            // A member that has lapsed while it leaves does not come back.
            Phase::Leaving => self.epoch > 0 && !self.held.is_empty(),
        }
    }

    fn accepted(&mut self, ticket: Ticket, r: HeartbeatResponse, now: Nanos) {
        let own_deadline = if seeded::on(85) { now } else { ticket.sent_at }.saturating_add(r.lease_ms.saturating_mul(MS));
        let late = self.config.self_fencing && now >= own_deadline;
        // Without the assignment that its revision names, an answer is not to be trusted in anything.
        if late || (r.assignment_revision > self.seen && r.assignment.is_none()) { return self.again(now, None); }
        self.failures = 0;
        self.interval_ms = r.heartbeat_interval_ms.max(1);
        self.lease_ms = r.lease_ms;
        if self.phase == Phase::Joining {
            self.phase = Phase::In;
            // The operator's word was about the processes before this join.
            self.config.predecessor_dead = false;
            self.effects.push_back(Effect::Joined);
        }
        let news = r.member_epoch > self.epoch;
        self.epoch = self.epoch.max(r.member_epoch);
        if ticket.revision == self.applied { self.unconfirmed = false; }
        let before = self.deadline;
        if before.is_none_or(|d| own_deadline > d) {
            self.deadline = Some(own_deadline);
            // Taken partitions do not share the renewal: their cap goes out before the lease does.
            self.cap(&r, before.unwrap_or(now));
            self.effects.push_back(Effect::Lease { deadline: own_deadline });
        } else {
            self.cap(&r, before.unwrap_or(now));
        }
        // Counted from the sending; up to a tenth earlier, so that members do not beat in step.
        self.due = (ticket.sent_at + (self.interval_ms - self.random(self.interval_ms / 10 + 1)) * MS).max(now);
        let newer = r.assignment_revision > self.seen || (r.assignment_revision < self.seen && r.assignment.is_some() && seeded::on(27));
        if self.phase == Phase::In && newer { self.take(r, now); } else if self.phase == Phase::In { self.follow(now); }
        if self.unconfirmed || (self.spoiled < SPOILED && self.listens_on(ticket, news, now)) { self.due = now; }
    }

    /// Whether the next heartbeat follows at once, to be held: whoever has done everything listens all the time, so that it hears of a change when it happens.
    /// Not after an answer that should have been held and came back early with nothing new: from a server that does not hold, that would be a busy loop.
    /// Nor (the caller looks) while waits do not seem to work.
    fn listens_on(&self, ticket: Ticket, news: bool, now: Nanos) -> bool {
        // Nearly: the server counts whole milliseconds, on a clock of its own.
        let held_in_full = ticket.wait_ms >= HELD_MIN_MS && now >= ticket.sent_at.saturating_add(ticket.wait_ms * MS / 10 * 9);
        self.may_wait_ms() > 0 && self.applied == self.seen && self.settled() && (!ticket.waits() || news || held_in_full)
    }

    /// Everything held is what the newest assignment says.
    fn settled(&self) -> bool { self.held.iter().all(|(p, h)| h.state == Use::Using && self.wanted.get(p) == Some(&h.token)) }

    fn cap(&mut self, r: &HeartbeatResponse, at: Nanos) {
        let taken: Vec<Partition> = r.taken.iter().flat_map(|t| t.partitions.iter().map(|p| Partition::new(t.topic.clone(), *p))).collect();
        for p in taken {
            let Some(h) = self.held.get_mut(&p) else { continue };
            if h.cap.is_some() || h.state == Use::Losing { continue; }
            h.cap = Some(at);
            self.effects.push_back(Effect::Cap((p, h.token), at));
        }
    }

    /// Takes a newer assignment: grants what is new, asks the listener to stop what is asked back, loses what is not named at all.
    fn take(&mut self, r: HeartbeatResponse, now: Nanos) {
        self.seen = r.assignment_revision;
        self.wanted = r.assignment.into_iter().flatten().flat_map(|t| t.partitions.into_iter().map(move |p| (Partition::new(t.topic.clone(), p.partition), p.token))).collect();
        let named: std::collections::BTreeSet<Partition> =
            r.pending_revocation.iter().chain(&r.taken).flat_map(|t| t.partitions.iter().map(|p| Partition::new(t.topic.clone(), *p))).collect();
        let gone: Vec<Granted> = self.held.iter()
            .filter(|(p, h)| h.state != Use::Losing && !self.wanted.contains_key(*p) && !named.contains(*p))
            .map(|(p, h)| (p.clone(), h.token)).collect();
        if !gone.is_empty() { self.lose(gone, Reason::Taken, now); }
        self.follow(now);
    }

    /// One step towards the assignment. Applied is a revision whose revocations and losses the listener is done with.
    fn follow(&mut self, now: Nanos) {
        let wanted = std::mem::take(&mut self.wanted);
        self.revoke_where(|p, h| h.state == Use::Using && wanted.get(p) != Some(&h.token));
        let new: Vec<Granted> = wanted.iter().filter(|(p, _)| !self.held.contains_key(*p)).map(|(p, t)| (p.clone(), *t)).collect();
        for (p, token) in &new { self.held.insert(p.clone(), Held { token: *token, state: Use::Using, cap: None }); }
        if !new.is_empty() { self.effects.push_back(Effect::Grant(new)); }
        self.wanted = wanted;
        if self.settled() && self.applied != self.seen {
            self.applied = self.seen;
            // Told at once: others may be waiting for what was stopped.
            self.unconfirmed = true;
            self.due = now;
        }
    }

    fn revoke_where(&mut self, which: impl Fn(&Partition, &Held) -> bool) {
        let mut granted = Vec::new();
        for (p, h) in &mut self.held {
            if which(p, h) {
                h.state = Use::Revoking;
                granted.push((p.clone(), h.token));
            }
        }
        if !granted.is_empty() { self.effects.push_back(Effect::Revoke(granted)); }
    }

    fn lose(&mut self, granted: Vec<Granted>, reason: Reason, at: Nanos) {
        for (p, token) in &granted {
            if let Some(h) = self.held.get_mut(p).filter(|h| h.token == *token) { h.state = Use::Losing; }
        }
        self.effects.push_back(Effect::Lose { granted, reason, at });
    }

    fn refused(&mut self, problem: Problem, now: Nanos) {
        let pause = problem.retry_after_ms;
        match problem.code.as_str() {
            code::FENCED_MEMBER_EPOCH => self.drop_all(Reason::Fenced, now, now, 0),
            code::FENCED_REMOVED => self.drop_all(Reason::Removed, now, now, 0),
            code::UNKNOWN_MEMBER | code::UNKNOWN_GROUP => self.drop_all(Reason::UnknownMember, now, now, 0),
            code::FENCED_INCARNATION => {
                self.drop_all(Reason::Replaced, now, now, BACKOFF_MS.1);
                if !seeded::on(117) { self.reborn(); }
            }
            // While it is in, a member's id cannot be in use by another: it was replaced.
            code::MEMBER_ID_IN_USE if self.epoch == 0 => self.again(now, pause),
            code::MEMBER_ID_IN_USE => self.drop_all(Reason::Replaced, now, now, BACKOFF_MS.1),
            _ if problem.retriable => self.again(now, pause),
            _ => {
                self.effects.push_back(Effect::Refused(problem));
                // A server that refuses what we claim to have seen gets no claim: a new incarnation has none.
                let claims = self.seen > 0;
                self.drop_all(Reason::Refused, now, now, REFUSED_RETRY_MS);
                if claims { self.reborn(); }
            }
        }
    }

    /// Ends every use at `at`; joins with epoch 0 once the listener is done with it.
    fn drop_all(&mut self, reason: Reason, at: Nanos, now: Nanos, rejoin_after_ms: u64) {
        self.life += 1;
        self.in_flight = None;
        self.epoch = 0;
        self.deadline = None;
        self.unconfirmed = false;
        self.wanted.clear();
        self.rejoin_after_ms = rejoin_after_ms;
        let granted: Vec<Granted> = self.held.iter().filter(|(_, h)| h.state != Use::Losing).map(|(p, h)| (p.clone(), h.token)).collect();
        if !granted.is_empty() { self.lose(granted, reason, at); }
        if self.phase != Phase::Leaving { self.phase = Phase::Dropping; }
        if self.phase == Phase::Dropping && self.held.is_empty() { self.join(now); }
    }

    fn join(&mut self, now: Nanos) {
        self.phase = Phase::Joining;
        self.applied = self.seen;
        let ms = self.rejoin_after_ms + self.random(self.rejoin_after_ms / 4 + 20);
        self.due = now + ms * MS;
    }

    /// A new process, as far as the group can tell: no claims, no revision.
    fn reborn(&mut self) {
        self.incarnation = (self.entropy)();
        if self.config.member_id_is_drawn { self.config.member_id = baton_wire::hex128((self.entropy)()); }
        // It must not be said by a process that was itself replaced.
        self.config.predecessor_dead = false;
        self.seen = 0;
        self.applied = 0;
        self.effects.push_back(Effect::Reborn { member_id: self.config.member_id.clone(), incarnation: self.incarnation });
    }

    fn again(&mut self, now: Nanos, after_ms: Option<u64>) {
        self.failures = self.failures.saturating_add(1);
        // The less is left of the lease, the shorter the pauses: a cluster that is back is noticed before the lease ends.
        let ceiling = self.left_ms(now).map_or(BACKOFF_MS.1, |left| BACKOFF_MS.1.min((left / PAUSE_OF_REST).max(BACKOFF_MS.0)));
        let backoff = (BACKOFF_MS.0 << self.failures.min(6)).min(ceiling).max(after_ms.unwrap_or(0).min(ceiling));
        let ms = backoff / 2 + self.random(backoff / 2 + 1);
        self.due = now + ms * MS;
    }

    /// 0 to below − 1.
    fn random(&mut self, below: u64) -> u64 { ((self.entropy)() % u128::from(below.max(1))) as u64 }
}

/// Partitions as a request names them.
pub fn by_topic<'a>(partitions: impl Iterator<Item = &'a Partition>) -> Vec<Owned> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for p in partitions { topics.entry(&p.topic).or_default().push(p.partition); }
    topics.into_iter().map(|(topic, partitions)| Owned { topic: topic.into(), partitions }).collect()
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
