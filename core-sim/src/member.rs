//! A process that is a member by the client rules: a deadline from its own send time on its own clock, revisions, confirmed revocations,
//! rejoin with epoch 0 after a lapse. A zombie is one that ignores its deadline. It believes, it never looks into the coordinator.

use crate::{plan::Ms, rng::Rng};
use baton_coordinator::{command::*, ids::*, record::Wish, seeded};
use std::collections::{BTreeMap, BTreeSet};

/// A clock that goes wrong by a fixed rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock { pub offset: Ms, pub drift_per_mille: i64 }
impl Clock {
    /// What it shows at a true time.
    pub fn at(&self, now: Ms) -> Ms { self.offset + (now as i64 * (1000 + self.drift_per_mille) / 1000) as Ms }
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase { Joining, Steady, /** Removed by somebody else: says with a leave that it has stopped. */ Acknowledging, Leaving, Gone }

/// One process.
#[derive(Clone, Debug)]
pub struct Process {
    pub id: MemberId,
    pub name: String,
    pub incarnation: Incarnation,
    pub group: GroupId,
    pub clock: Clock,
    pub zombie: bool,
    /// Says the revision it has taken, not the one it has fully applied; its owned set stays the truth. Allowed: only a named set confirms.
    pub hasty: bool,
    pub phase: Phase,
    /// Grows with each lapse and rejoin: answers to requests of an earlier life say nothing.
    pub life: u64,
    pub epoch: Epoch,
    /// The revision of the assignment taken, and the last one fully applied.
    pub taken: u64,
    pub applied: u64,
    pub target: BTreeMap<Partition, u64>,
    pub owned: BTreeMap<Partition, u64>,
    /// Something is owned that is not in the target.
    pub stopping: bool,
    /// On its own clock; it stops there.
    pub deadline: Ms,
    pub stop_at: Ms,
    pub slow_pct: u64,
    pub slow_ms: u64,
    pub rebalance_ms: u64,
    pub subscribed: BTreeSet<TopicName>,
    pub regex: Option<String>,
    /// It wants something else since, and no answer has shown that it was heard.
    say_subscription: bool,
    /// The first request that said what it wants now; None: none yet.
    said_in: Option<u64>,
    /// What a join says is said again until that is answered; what it wants since then it says in a heartbeat.
    joins_for: Option<(BTreeSet<TopicName>, Option<String>)>,
    /// Something that it said before has come again since: nobody can know which is the newer wish.
    pub blurred: bool,
    /// Static: its place, and whether it leaves for a while only.
    pub instance: Option<InstanceId>,
    pub away: bool,
    pub predecessor_dead: bool,
    pub next_send: Ms,
    pub waiting: Option<(u64, Ms)>,
    pub interval: Ms,
    pub wait_ms: u64,
    /// True times.
    pub cut_out: Ms,
    pub cut_in: Ms,
    pub paused: Ms,
    pub commit_seq: u64,
}

impl Process {
    /// A process that is about to join.
    pub fn new(id: &str, name: String, incarnation: u128, group: GroupId, clock: Clock, subscribed: BTreeSet<TopicName>, now: Ms) -> Process {
        Process {
            id: id.into(), name, incarnation: Incarnation(incarnation), group, clock, zombie: false, hasty: false, phase: Phase::Joining, life: 0, epoch: 0, taken: 0, applied: 0,
            target: BTreeMap::new(), owned: BTreeMap::new(), stopping: false, deadline: 0, stop_at: 0, slow_pct: 0, slow_ms: 0, rebalance_ms: 60_000, subscribed, regex: None, say_subscription: false, said_in: None, joins_for: None, blurred: false, instance: None, away: false,
            predecessor_dead: false, next_send: clock.at(now), waiting: None, interval: 300, wait_ms: 0, cut_out: 0, cut_in: 0, paused: 0, commit_seq: 0,
        }
    }
    /// It wants something else from now on.
    pub fn wants(&mut self, subscribed: BTreeSet<TopicName>, regex: Option<String>) {
        (self.subscribed, self.regex, self.say_subscription, self.said_in, self.next_send) = (subscribed, regex, true, None, 0);
    }
    /// A heartbeat of it comes to a leader. An earlier one that says a wish undoes a newer wish; an earlier join does if it lets the process in (again).
    pub fn arrives(&mut self, h: &Heartbeat, id: u64, copy: bool, is_member: bool) {
        let earlier = copy || self.said_in.is_none_or(|first| id < first);
        self.blurred |= earlier && h.subscribed_topics.is_some() && (h.epoch > 0 || !is_member);
    }
    /// It is let in with this wish: by a late copy, if it does not ask for that just now, or for something else. What it says until it hears of that counts for older than its join.
    pub fn let_in(&mut self, wish: &Wish) {
        let (topics, regex) = self.joins_for.as_ref().map_or((&self.subscribed, &self.regex), |(t, r)| (t, r));
        self.blurred |= self.phase != Phase::Joining || wish.subscribed != *topics || wish.regex != *regex;
    }
    pub fn alive(&self) -> bool { self.phase != Phase::Gone }
    /// Whether it goes on at this instant with what it has.
    pub fn believes(&self, now: Ms) -> bool { self.alive() && (self.zombie || self.clock.at(now) < self.deadline) }
    /// What it may use at this instant: `guard.check()` for each.
    pub fn beliefs(&self, now: Ms) -> impl Iterator<Item = (&Partition, u64)> {
        let may = self.believes(now);
        self.owned.iter().filter(move |_| may).map(|(p, t)| (p, *t))
    }
    /// Stops everything and begins a new life.
    pub fn drop_all(&mut self, phase: Phase) {
        self.owned.clear();
        self.target.clear();
        self.stopping = false;
        self.applied = self.taken;
        (self.epoch, self.waiting, self.deadline) = (0, None, 0);
        self.life += 1;
        self.phase = phase;
        self.joins_for = None;
    }
    /// Its own clockwork: the lapse, stops that are done. True: it noticed a lapse.
    pub fn step(&mut self, now: Ms) -> bool {
        let own = self.clock.at(now);
        let lapsed = self.phase == Phase::Steady && own >= self.deadline && !self.zombie;
        if lapsed {
            self.drop_all(Phase::Joining);
            self.next_send = own;
        }
        if self.stopping && own >= self.stop_at {
            let target = &self.target;
            self.owned.retain(|p, _| target.contains_key(p));
            self.stopping = false;
            self.next_send = self.next_send.min(own);
        }
        if !self.stopping {
            self.applied = self.taken;
        }
        lapsed
    }
    /// The request to send now, if one is due.
    pub fn request(&mut self, now: Ms, r: &mut Rng, id: u64) -> Option<Command> {
        let own = self.clock.at(now);
        if let Some((_, until)) = self.waiting {
            if own < until {
                return None;
            }
            self.waiting = None; // no answer in time: the next one, at once; a late answer still counts by its revision
        } else if own < self.next_send {
            return None;
        }
        let revision = AssignmentRevision(if self.hasty { self.taken } else { self.applied });
        let command = match self.phase {
            Phase::Gone => return None,
            Phase::Joining => {
                let (topics, regex) = self.joins_for.get_or_insert_with(|| (self.subscribed.clone(), self.regex.clone())).clone();
                if topics == self.subscribed && regex == self.regex { self.said_in.get_or_insert(id); }
                Command::Heartbeat(Heartbeat {
                    member: self.id.clone(), incarnation: self.incarnation, epoch: 0, predecessor_dead: self.predecessor_dead, rebalance_timeout_ms: Some(self.rebalance_ms),
                    instance_id: self.instance.clone(), subscribed_topics: Some(topics), subscribed_regex: Some(regex.unwrap_or_default()), owned: Some(BTreeSet::new()),
                    assignment_revision: revision, ..Heartbeat::default()
                })
            }
            Phase::Steady => {
                let quiet = self.owned.len() == self.target.len() || self.stopping;
                let owned = (!(quiet && r.pct(30))).then(|| self.owned.keys().cloned().collect());
                // Not at a revision before its own join: that would be taken for a late copy.
                let says = self.say_subscription && self.applied == self.taken;
                if says { self.said_in.get_or_insert(id); }
                let subscribed_topics = says.then(|| self.subscribed.clone());
                let subscribed_regex = says.then(|| self.regex.clone().unwrap_or_default());
                Command::Heartbeat(Heartbeat {
                    member: self.id.clone(), incarnation: self.incarnation, epoch: self.epoch, owned, assignment_revision: revision, subscribed_topics, subscribed_regex, instance_id: self.instance.clone(), wait_ms: self.wait_ms, ..Heartbeat::default()
                })
            }
            Phase::Acknowledging | Phase::Leaving => Command::Leave(Leave { member: self.id.clone(), incarnation: self.incarnation, assignment_revision: revision, is_static: self.away && self.phase == Phase::Leaving }),
        };
        self.waiting = Some((id, own + 1_000 + self.wait_ms));
        self.next_send = own + self.interval;
        Some(command)
    }
    /// An answer to a request that it sent in `life` at `sent` (own clock).
    pub fn answer(&mut self, now: Ms, r: &mut Rng, id: u64, life: u64, sent: Ms, result: &Result<Response, GroupError>) {
        if life != self.life || !self.alive() {
            return;
        }
        let own = self.clock.at(now);
        if self.waiting.is_some_and(|(w, _)| w == id) {
            self.waiting = None;
        }
        match result {
            Ok(Response::Heartbeat(v)) if matches!(self.phase, Phase::Joining | Phase::Steady) => self.take(own, r, id, sent, v),
            Ok(Response::Left) if self.phase == Phase::Leaving => self.phase = Phase::Gone,
            Ok(Response::Left) if self.phase == Phase::Acknowledging => self.drop_all(Phase::Joining),
            Ok(_) => {}
            Err(GroupError::Unavailable { .. } | GroupError::Loading { .. } | GroupError::Quarantined { .. }) => self.next_send = self.next_send.max(own + 50),
            Err(GroupError::MemberIdInUse { .. }) => self.next_send = own + 500,
            // Its place is still somebody else's: it waits for it.
            Err(GroupError::UnreleasedInstanceId { .. }) if self.phase == Phase::Joining => self.next_send = own + 500,
            Err(GroupError::FencedIncarnation | GroupError::FencedInstanceId { .. }) => self.drop_all(Phase::Gone),
            Err(GroupError::FencedRemoved { .. }) => self.drop_all(if r.pct(50) { Phase::Acknowledging } else { Phase::Joining }),
            Err(_) if self.phase == Phase::Leaving => self.phase = Phase::Gone,
            Err(_) => self.drop_all(Phase::Joining),
        }
    }
    fn take(&mut self, own: Ms, r: &mut Rng, id: u64, sent: Ms, v: &HeartbeatView) {
        if own >= sent + v.lease_ms {
            return; // past its own deadline it grants nothing
        }
        self.deadline = self.deadline.max(sent + v.lease_ms);
        if let Some((topics, regex)) = self.joins_for.take() {
            self.say_subscription = topics != self.subscribed || regex != self.regex;
        }
        self.say_subscription &= self.said_in.is_none_or(|first| id < first);
        self.phase = Phase::Steady;
        self.predecessor_dead = false; // it spoke of those before it: said once
        self.epoch = self.epoch.max(v.member_epoch);
        self.interval = v.heartbeat_interval_ms;
        let older = v.assignment_revision.0 < self.taken;
        if (v.assignment_revision.0 > self.taken || (older && v.assignment.is_some() && seeded::on(27)))
            && let Some(a) = &v.assignment {
                self.target = a.iter().map(|(p, t)| (p.clone(), t.0)).collect();
                self.taken = v.assignment_revision.0;
                for (p, t) in &self.target {
                    self.owned.insert(p.clone(), *t);
                }
                self.stopping = self.owned.keys().any(|p| !self.target.contains_key(p));
                let time = if r.pct(self.slow_pct) { r.below(self.slow_ms) } else { 0 };
                self.stop_at = own + time;
            }
        self.next_send = self.next_send.min(own + self.interval);
    }
}
