//! Three replicas and a toy consensus: one committed log, terms, one leader with a lease, proposals that commit late, are carried over or lost.
//! Keeps the promise of a real one (what is committed stays; no two leases at once) and nothing more.

use crate::{member::Clock, plan::*, rng::Rng};
use baton_invariants::{Verdict, broken, state::Judge};
use baton_coordinator::{config::Limits, ids::Term, metadata::Metadata, record::LogEntry, seeded, shard::*, state::State};
use std::{collections::VecDeque, sync::Arc};

/// One replica.
pub struct Node {
    pub shard: Shard,
    pub clock: Clock,
    pub up: bool,
    pub restart_at: Ms,
    pub applied: usize,
    /// As of an entry. It becomes bytes when somebody wants them: most are replaced before.
    snapshot: (usize, State),
    pub image: Arc<Metadata>,
    /// Its wall clock is so far ahead. Only a floor for tokens: it must not matter.
    wall_ahead_us: u64,
    /// Nothing runs until then (true time): requests queue.
    pub paused: Ms,
    slow_pct: u64,
    /// True time of its last `lead`.
    pub led_at: Ms,
}

impl Node {
    /// Its snapshot as another node would get it.
    fn saved(&self) -> (usize, Vec<u8>) {
        let mut shard = Shard::new(1, limits());
        shard.adopt(self.snapshot.1.clone());
        (self.snapshot.0, shard.snapshot())
    }
}

/// A leader that was replaced and does not know it yet.
#[derive(Clone, Copy, Debug)]
pub struct Deposed { pub node: usize, pub term: Term, pub lease_until: Ms, pub heal_at: Ms, late_step: bool }

/// The replicas and their log.
pub struct Replicas {
    pub nodes: Vec<Node>,
    /// None: a new leader's own entry.
    pub log: Vec<Option<LogEntry>>,
    pub term: Term,
    /// Elected; it serves once `gate` is open.
    pub leader: Option<usize>,
    pub gate: bool,
    elect_at: Ms,
    pub deposed: Option<Deposed>,
    pending: VecDeque<(Ms, LogEntry)>,
    /// No contact with a majority, but no election either: from, until.
    lapse: Option<(Ms, Ms)>,
    /// What is proposed is not committed before.
    pub slow_until: Ms,
    pub force_deleted: bool,
    pub image: Arc<Metadata>,
    slow_work: bool,
}

pub fn limits() -> Limits { Limits { history_max: 20, ..Limits::default() } }
/// With `slow_work` every target is computed beside the shard.
fn limits_of(slow_work: bool) -> Limits { Limits { offload_from: if slow_work { 1 } else { Limits::default().offload_from }, ..limits() } }
const DAY_US: u64 = 86_400_000_000;
fn wall(now: Ms) -> u64 { 1_000_000 + now * 1000 }

impl Replicas {
    pub fn new(r: &mut Rng, plan: &Plan) -> Replicas {
        let nodes = (0..3).map(|_| Node {
            shard: Shard::new(1, limits_of(plan.slow_work)), clock: Clock { offset: r.below(1_000_000), drift_per_mille: if plan.drift { r.range(0, 100) as i64 - 50 } else { 0 } },
            up: true, restart_at: 0, applied: 0, snapshot: (0, State::default()), image: Arc::default(), paused: 0, wall_ahead_us: *r.pick(&[0, 0, 250_000, 60_000_000, 30 * DAY_US]).unwrap_or(&0), slow_pct: r.range(5, 60), led_at: 0,
        });
        Replicas { nodes: nodes.collect(), log: Vec::new(), term: 0, leader: None, gate: false, elect_at: 0, deposed: None, pending: VecDeque::new(), lapse: None, slow_until: 0, force_deleted: false, image: Arc::default(), slow_work: plan.slow_work }
    }
    /// The two clocks of a node.
    pub fn clocks(&self, n: usize, now: Ms) -> Now { Now { mono_ms: self.nodes[n].clock.at(now), wall_us: wall(now) + self.nodes[n].wall_ahead_us } }
    /// Whether a lease check of this node in this term passes now.
    pub fn lease(&self, n: usize, term: Term, now: Ms) -> bool {
        if !self.nodes[n].up {
            return false;
        }
        if let Some(d) = self.deposed
            && d.node == n
        {
            return d.term == term && now < d.lease_until;
        }
        self.leader == Some(n) && self.term == term && self.lapse.is_none_or(|(from, _)| now < from + LEASE_AGE)
    }
    pub fn healthy(&self) -> bool { self.leader.is_some() && self.gate && self.deposed.is_none() && self.lapse.is_none() && self.nodes.iter().all(|n| n.up) }
    /// The leader serves, and has applied all that it has proposed.
    pub fn nothing_in_flight(&self) -> bool { self.gate && self.lapse.is_none() && self.pending.is_empty() && self.leader.is_some_and(|n| self.nodes[n].up && self.nodes[n].applied == self.log.len()) }
    /// The replica that has applied most.
    pub fn newest(&self) -> &Node { self.nodes.iter().filter(|n| n.up).max_by_key(|n| n.applied).unwrap_or(&self.nodes[0]) }
    /// Takes a proposal of a leader of `term`.
    pub fn propose(&mut self, n: usize, entry: LogEntry, now: Ms, delay: Ms) {
        let current = self.leader == Some(n) && self.gate && entry.term == self.term && self.deposed.is_none_or(|d| d.node != n);
        if current {
            let at = self.pending.back().map_or(0, |(at, _)| *at).max(now + delay).max(self.slow_until);
            self.pending.push_back((at, entry));
        }
    }
    /// The leader loses its place: it crashes, is cut off, or hands over.
    pub fn change_leader(&mut self, r: &mut Rng, now: Ms, how: u64) {
        let Some(n) = self.leader.take() else { return };
        self.gate = false;
        match how {
            0 => self.crash(n, now + r.range(500, 8_000)),
            1 => {
                let heal_at = now + r.range(500, 10_000);
                self.deposed = Some(Deposed { node: n, term: self.term, lease_until: now + LEASE_AGE, heal_at, late_step: r.pct(50) });
            }
            _ => self.nodes[n].shard.step_down(),
        }
        self.elect_at = now + 600 + r.below(2_000);
        // A prefix of what was out is in the next leader's log, the rest is lost.
        let keep = r.below(self.pending.len() as u64 + 1) as usize;
        self.pending.truncate(keep);
    }
    pub fn crash(&mut self, n: usize, restart_at: Ms) {
        let node = &mut self.nodes[n];
        (node.up, node.restart_at) = (false, restart_at);
        node.shard = Shard::new(1, limits_of(self.slow_work));
    }
    pub fn lapse(&mut self, now: Ms, until: Ms) { self.lapse = Some((now, until)); }

    /// Elections, commits, applying. The answers and proposals that come of it are polled by the world.
    pub fn step(&mut self, now: Ms, r: &mut Rng, calm: bool, judge: &mut Judge, fired: &mut Fired) -> Verdict {
        for n in 0..self.nodes.len() {
            if !self.nodes[n].up && (now >= self.nodes[n].restart_at || calm) {
                let (applied, bytes) = self.nodes[n].saved();
                let shard = Shard::restore(1, limits_of(self.slow_work), &bytes);
                let Ok(shard) = shard else { return broken("replicas-agree", "a snapshot cannot be restored") };
                let (image, clocks) = (self.nodes[n].image.clone(), self.clocks(n, now));
                let node = &mut self.nodes[n];
                (node.shard, node.applied, node.up) = (shard, applied, true);
                node.shard.metadata(image, clocks);
            }
        }
        if let Some(d) = self.deposed
            && (now >= d.heal_at || calm)
        {
            self.deposed = None;
            if d.late_step {
                self.apply(d.node, now, usize::MAX, judge)?;
            }
            self.nodes[d.node].shard.step_down();
        }
        if let Some((_, until)) = self.lapse
            && (now >= until || calm)
        {
            self.lapse = None;
            if let (Some(n), true) = (self.leader, self.gate) {
                let (clocks, term) = (self.clocks(n, now), self.term);
                if !seeded::on(28) { self.nodes[n].shard.lead(n as u64, term, clocks); }
                self.nodes[n].led_at = now;
            }
        }
        if self.leader.is_none() && now >= self.elect_at {
            let able: Vec<usize> = (0..self.nodes.len()).filter(|n| self.nodes[*n].up && self.deposed.is_none_or(|d| d.node != *n)).collect();
            if able.len() >= 2
                && let Some(n) = r.pick(&able)
            {
                self.term += 1;
                fired.hit("elections");
                self.log.extend(self.pending.drain(..).map(|(_, e)| Some(e)));
                self.log.push(None);
                self.leader = Some(*n);
            }
        }
        if self.lapse.is_none() && self.gate {
            while self.pending.front().is_some_and(|(at, _)| *at <= now) {
                self.log.extend(self.pending.pop_front().map(|(_, e)| Some(e)));
            }
        }
        for n in 0..self.nodes.len() {
            if !self.nodes[n].up || now < self.nodes[n].paused || self.deposed.is_some_and(|d| d.node == n) {
                continue;
            }
            let mine = self.leader == Some(n);
            if r.pct(if mine { 60 } else { self.nodes[n].slow_pct }) || calm {
                let most = if calm { usize::MAX } else { r.range(1, 4) as usize };
                self.apply(n, now, most, judge)?;
            }
            if mine && !self.gate && self.nodes[n].applied == self.log.len() {
                let (clocks, term) = (self.clocks(n, now), self.term);
                self.nodes[n].shard.lead(n as u64, term, clocks);
                self.nodes[n].led_at = now;
                self.gate = true;
                if self.nodes[n].wall_ahead_us >= DAY_US { fired.hit("leader whose wall clock is a month ahead"); }
            }
            // A follower takes over another node's snapshot, if that is newer than what it has.
            if r.ppm(5_000) {
                let from = r.below(3) as usize;
                let at = self.nodes[from].snapshot.0;
                let newer = at > self.nodes[n].applied;
                if !mine && from != n && (newer || (at > 0 && seeded::on(14))) {
                    let (_, bytes) = self.nodes[from].saved();
                    fired.hit("snapshot of another node installed");
                    let (image, clocks) = (self.nodes[n].image.clone(), self.clocks(n, now));
                    let node = &mut self.nodes[n];
                    if node.shard.install(&bytes).is_err() { return broken("replicas-agree", "a snapshot cannot be installed") }
                    if newer { node.applied = at; }
                    node.shard.metadata(image, clocks);
                }
            }
            if r.ppm(8_000) {
                self.nodes[n].snapshot = (self.nodes[n].applied, self.nodes[n].shard.state().clone());
            }
        }
        Ok(())
    }

    fn apply(&mut self, n: usize, _now: Ms, most: usize, judge: &mut Judge) -> Verdict {
        let node = &mut self.nodes[n];
        let end = self.log.len().min(node.applied.saturating_add(most));
        while node.applied < end {
            let entry = &self.log[node.applied];
            let before = node.shard.state().sequence;
            if let Some(e) = entry {
                node.shard.replay(e);
            }
            let history = node.shard.take_history();
            let took_effect = node.shard.state().sequence != before;
            node.applied += 1;
            judge.history(node.applied, history)?;
            judge.applied(node.applied, entry.as_ref(), took_effect, self.force_deleted, &node.shard)?;
        }
        Ok(())
    }
}
