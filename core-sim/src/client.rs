//! A client of Kafka's: one connection, one request at a time, no deadline. It uses what it was told until it is told otherwise, and trusts nothing else.
//! `consumer` speaks KIP-848, `classic` the older protocol (eager and cooperative, KIP-345). Neither looks into the coordinator.
//!
//! What is promised for such a member is less than for an HTTP member, which stops by its own deadline: as long as it has not been *removed*, nobody else is given
//! what it uses. So the judge looks at `life_began`: a removal later than that ends the promise for this life, whether the client has heard of it or not.

pub mod classic;
pub mod consumer;

use crate::{plan::Ms, rng::Rng};
use baton_coordinator::{command::*, ids::*};
use std::collections::{BTreeMap, BTreeSet};

/// Which protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind { Consumer, /** Drops everything before it joins. */ Eager, /** Keeps what it has while it joins. */ Cooperative }

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step { Join, /** Classic: has a generation, wants its assignment. */ Sync, Steady, Leaving, Gone }

/// One client process.
#[derive(Clone, Debug)]
pub struct Client {
    pub name: String,
    pub kind: Kind,
    pub group: GroupId,
    pub id: MemberId,
    pub instance: Option<InstanceId>,
    pub step: Step,
    /// Grows with each rejoin from nothing: answers to requests of an earlier life say nothing.
    pub life: u64,
    /// True time.
    pub life_began: Ms,
    /// Member epoch or generation; of the last assignment it was told.
    pub epoch: Epoch,
    pub told_in: Epoch,
    pub owned: BTreeMap<Partition, u128>,
    pub target: BTreeMap<Partition, u128>,
    pub stop_at: Ms,
    /// It was told something else since what it uses was last found to be just that.
    moving: bool,
    pub subscribed: BTreeSet<TopicName>,
    /// Classic: what it subscribed to when it joined.
    pub said: BTreeSet<TopicName>,
    pub regex: Option<String>,
    /// Consumer: say everything, since an answer was lost or something changed.
    pub full: bool,
    /// Leaves for a while only (static).
    pub away: bool,
    /// It has begun to say so: from here on its place may be another process's.
    pub said_away: bool,
    pub session_ms: u64,
    pub rebalance_ms: u64,
    pub slow_pct: u64,
    pub slow_ms: u64,
    pub interval: Ms,
    pub next_send: Ms,
    pub waiting: Option<(u64, Ms)>,
    pub committing: Option<(u64, Ms)>,
    pub cut_out: Ms,
    pub cut_in: Ms,
    pub paused: Ms,
    /// It was told of a generation after one that it missed, and has not yet given back what that one gave to others.
    pub catching_up: bool,
    /// Static: its join came when the generation that answered it had been made without it.
    pub joined_late: bool,
    /// It leaves then, at the latest; 0: when it wants.
    pub ends_at: Ms,
    /// Classic: the last heartbeat that was answered; who assigns: the list, and the topics it saw.
    pub heard_at: Ms,
    pub list: Vec<(MemberId, Option<InstanceId>, Vec<u8>)>,
    pub topics_seen: Option<BTreeMap<TopicName, i32>>,
    /// Its connection: a request that is older than one that has arrived went down with an earlier connection.
    pub sent: u64,
    pub arrived: u64,
}

/// What a client sees of the topics.
pub type Topics = BTreeMap<TopicName, (u128, i32)>;

impl Client {
    pub fn new(name: String, kind: Kind, group: GroupId, id: MemberId, instance: Option<InstanceId>, subscribed: BTreeSet<TopicName>, now: Ms) -> Client {
        Client {
            name, kind, group, id, instance, step: Step::Join, life: 0, life_began: now, epoch: if kind == Kind::Consumer { 0 } else { -1 }, told_in: -1, owned: BTreeMap::new(), target: BTreeMap::new(), stop_at: 0, moving: false,
            said: subscribed.clone(), subscribed, regex: None, full: true, away: false, said_away: false, session_ms: 6_000, rebalance_ms: 3_000, slow_pct: 0, slow_ms: 0, interval: 300, next_send: now, waiting: None, committing: None,
            cut_out: 0, cut_in: 0, paused: 0, catching_up: false, joined_late: false, ends_at: 0, heard_at: now, list: Vec::new(), topics_seen: None, sent: 0, arrived: 0,
        }
    }
    pub fn alive(&self) -> bool { self.step != Step::Gone }
    pub fn classic(&self) -> bool { self.kind != Kind::Consumer }
    /// Drops everything and begins a new life.
    pub fn begin_anew(&mut self, step: Step, now: Ms) {
        self.owned.clear();
        self.target.clear();
        self.list.clear();
        self.topics_seen = None;
        (self.epoch, self.told_in, self.waiting, self.full) = (if self.classic() { -1 } else { 0 }, -1, None, true);
        (self.life, self.life_began, self.heard_at) = (self.life + 1, now, now);
        self.step = step;
    }
    /// Says good-bye: nothing is used any more.
    pub fn leave(&mut self, away: bool, now: Ms) {
        self.owned.clear();
        self.target.clear();
        (self.step, self.away, self.waiting, self.next_send) = (Step::Leaving, away, None, now);
    }
    /// A new assignment: what is not in it is stopped, which takes its time; what is new is taken up after that.
    fn take(&mut self, target: BTreeMap<Partition, u128>, now: Ms, r: &mut Rng) {
        (self.target, self.moving) = (target, true);
        self.stop_at = now;
        if !self.stopped() {
            self.stop_at += if r.pct(self.slow_pct) { r.below(self.slow_ms) } else { 0 };
        }
    }
    /// Whether it uses something else than it was told. Asked at every tick, so both are compared only after they changed.
    pub fn moving(&mut self) -> bool {
        self.moving = self.moving && self.owned != self.target;
        self.moving
    }
    fn stopped(&self) -> bool { self.owned.iter().all(|(p, id)| self.target.get(p) == Some(id)) }
    /// The next request, if one is due.
    pub fn request(&mut self, now: Ms, r: &mut Rng, call: u64, topics: &Topics) -> Option<Command> {
        if let Some((_, until)) = self.waiting {
            if now < until {
                return None;
            }
            (self.waiting, self.full) = (None, true);
            // A sync without an answer: it finds its coordinator again and joins again.
            if self.step == Step::Sync {
                self.join_again(now, r);
            }
        } else if now < self.next_send {
            return None;
        }
        let (command, patience) = match self.kind {
            Kind::Consumer => (self.consumer_request(r), 1_000),
            Kind::Eager | Kind::Cooperative => self.classic_request(now, r, topics)?,
        };
        self.waiting = Some((call, now + patience));
        self.next_send = now + self.interval;
        if self.step == Step::Leaving {
            // It does not wait for the answer.
            self.step = Step::Gone;
        }
        Some(command)
    }
    /// An answer to a request that it sent in `life`.
    pub fn answer(&mut self, now: Ms, r: &mut Rng, call: u64, life: u64, result: &Result<Response, GroupError>, topics: &Topics) {
        if self.committing.is_some_and(|(c, _)| c == call) {
            self.committing = None;
            return;
        }
        let awaited = self.waiting.is_some_and(|(w, _)| w == call);
        if life != self.life || !self.alive() || !awaited {
            return; // its connection is another by now
        }
        self.waiting = None;
        match (self.kind, result) {
            (_, Err(GroupError::Unavailable { .. } | GroupError::Loading { .. } | GroupError::Quarantined { .. })) => (self.next_send, self.full) = (now + 50 + r.below(100), true),
            (Kind::Consumer, _) => self.consumer_answer(now, r, result, topics),
            (Kind::Eager | Kind::Cooperative, _) => self.classic_answer(now, r, result, topics),
        }
    }
    /// Its own clockwork. True: something happened of itself.
    pub fn tick(&mut self, now: Ms, r: &mut Rng) -> bool {
        if self.committing.is_some_and(|(_, until)| now >= until) {
            self.committing = None;
        }
        match self.kind {
            Kind::Consumer => {
                if self.step == Step::Steady && now >= self.stop_at && self.moving() {
                    self.owned = self.target.clone();
                    (self.full, self.next_send) = (true, self.next_send.min(now));
                }
                false
            }
            Kind::Eager | Kind::Cooperative => self.classic_tick(now, r),
        }
    }
}
