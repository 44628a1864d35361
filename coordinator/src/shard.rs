//! The object that a node drives: the groups of one Raft log. Sans-I/O: requests and committed entries go in, proposals and answers come out.
//!
//! Followers only `replay`. The leader also keeps soft state (timers, the queue, held heartbeats), which is rebuilt by `lead`.
//! One entry of a shard is in flight at a time, and it carries the sequence it was decided on; a command of a group that is in it waits.
//! Without such an entry, or for other groups, a command without records (a steady heartbeat) is answered without the log.

mod answers;
mod arming;
mod classic;
mod drain;
mod leading;
mod steady;

use crate::{command::*, config::Limits, decide, draft::*, ids::*, invariants, metadata::Metadata, record::*, replay, replay::{HistoryChange, Outcome}, seeded, state::*, timers::*, work::*};
use leading::*;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// Names one waiting caller; chosen by the shell, unique while it waits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// The two clocks of the deciding node. Timers use `mono_ms` (a clock that goes on while the machine sleeps); `wall_us` is only a
/// floor for tokens and a stamp for history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    pub mono_ms: Millis,
    pub wall_us: u64,
}

/// What the shell must do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Append this entry to the shard's log. Its outcome is known when it is replayed here, never from the proposal's own result.
    Propose(LogEntry),
    /// Run this anywhere and hand the result to `done`; the group waits for it, as long as this shard leads.
    Work(Work),
    /// Answer, after a lease check that began after the request arrived and in the term that `leading` names.
    Reply { ticket: Ticket, result: Result<Response, GroupError> },
}

/// Counters of one shard since the process started.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShardStats {
    /// Accepted heartbeats.
    pub heartbeats: u64,
    /// Offsets committed (replayed here).
    pub commits: u64,
    /// Group epoch bumps (replayed here).
    pub rebalances: u64,
    pub proposals: u64,
    /// Sessions that ran out, by this leader.
    pub expired: u64,
    /// Batches refused because the draft broke an invariant: our bugs.
    pub refused_batches: u64,
    /// Assignors that failed: the old target stayed in force.
    pub failed_assignments: u64,
    /// Entries that were no-ops because they had been decided on another state.
    pub skipped: u64,
}

/// A group as it is now; None: it is gone.
pub type ChangedGroup = (GroupId, Option<Arc<Group>>);

/// The groups of one shard. A clone goes its own way: the walks of a model need that.
#[derive(Clone)]
pub struct Shard {
    id: u16,
    limits: Limits,
    state: State,
    image: Arc<Metadata>,
    leading: Option<Leading>,
    out: VecDeque<Action>,
    stats: ShardStats,
    /// Groups that changed, and what became of histories, since `take_changes` and `take_history`.
    changed: BTreeSet<GroupId>,
    history: Vec<HistoryChange>,
}

/// Groups are looked through this often for what retention is over for.
const SWEEP_EVERY_MS: Millis = 600_000;
/// A new leader looks soon: topics may have gone while nobody led.
const FIRST_SWEEP_MS: Millis = 1_000;

/// The shard of a group: crc32c of the id, modulo the cluster's shards.
pub fn shard_of(group: &GroupId, shards: u16) -> u16 { (crc32c::crc32c(group.as_str().as_bytes()) % u32::from(shards.max(1))) as u16 }

impl Shard {
    /// An empty shard.
    pub fn new(id: u16, limits: Limits) -> Shard {
        Shard { id, limits, state: State::default(), image: Arc::<Metadata>::default(), leading: None, out: VecDeque::new(), stats: ShardStats::default(), changed: BTreeSet::new(), history: Vec::new() }
    }
    /// A shard from a snapshot of any replica.
    pub fn restore(id: u16, limits: Limits, snapshot: &[u8]) -> Result<Shard, String> {
        let mut s = Shard::new(id, limits);
        s.install(snapshot)?;
        Ok(s)
    }
    /// Which shard it is.
    pub fn id(&self) -> u16 { self.id }
    /// The whole replicated state as bytes.
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = FEATURE_LEVEL.to_be_bytes().to_vec();
        #[cfg(feature = "seeded-bugs")]
        if seeded::on(13) {
            bincode::serialize_into(&mut out, &without_pending(&self.state)).expect("as below");
            return out;
        }
        bincode::serialize_into(&mut out, &self.state).expect("a Vec takes every write and the types have no unserialisable value");
        out
    }
    /// Replaces the state by a snapshot. Drops leadership.
    pub fn install(&mut self, snapshot: &[u8]) -> Result<(), String> {
        let (level, body) = snapshot.split_first_chunk::<2>().ok_or("the snapshot is shorter than its feature level")?;
        let level = u16::from_be_bytes(*level);
        if level != FEATURE_LEVEL {
            return Err(format!("the snapshot has feature level {level}, this version knows {FEATURE_LEVEL}: install a version that knows it"));
        }
        let state = bincode::deserialize(body).map_err(|e| format!("the snapshot cannot be read: {e}"))?;
        self.adopt(state);
        Ok(())
    }
    /// Replaces the state, as read from a checkpoint. Drops leadership.
    pub fn adopt(&mut self, state: State) {
        self.step_down();
        (self.state, self.changed, self.history) = (state, BTreeSet::new(), Vec::new());
    }
    /// What changed since the last call, frozen: everything beside the groups, and each changed group (None: gone). Cheap: groups are shared, not copied.
    pub fn take_changes(&mut self) -> (State, Vec<ChangedGroup>) {
        let groups = std::mem::take(&mut self.changed).into_iter().map(|id| (id.clone(), self.state.groups.get(&id).cloned())).collect();
        (self.state.head(), groups)
    }
    /// What replay did to histories since the last call, in order. The caller keeps the records.
    pub fn take_history(&mut self) -> Vec<HistoryChange> { std::mem::take(&mut self.history) }
    /// Equal on replicas that have applied the same entries.
    pub fn digest(&self) -> u64 {
        let bytes = self.snapshot();
        u64::from(crc32c::crc32c(&bytes)) << 32 | (bytes.len() as u64 & 0xffff_ffff)
    }
    /// The applied state of one group, for checks.
    pub fn group(&self, group: &GroupId) -> Option<&Group> { self.state.groups.get(group).map(|g| &**g) }
    /// Who waits in a classic group and for what, while this node leads it; for checks.
    pub fn classic_soft(&self, group: &GroupId) -> Option<&crate::classic::Soft> { self.leading.as_ref().and_then(|l| l.classic.get(group)) }
    /// The timers that are due at `at`, in the order in which they fire, while this node leads; for checks.
    pub fn due(&self, at: Millis) -> Vec<(Millis, Timer)> { self.leading.as_ref().map(|l| l.timers.due(at).map(|(at, t)| (at, t.clone())).collect()).unwrap_or_default() }
    /// The whole applied state, for checks.
    pub fn state(&self) -> &State { &self.state }
    /// Id, state, member count and revision of every group, as applied here.
    pub fn groups(&self) -> Vec<(GroupId, GroupState, usize, u64)> { self.state.groups.iter().map(|(id, g)| (id.clone(), g.state(), g.members_count(), g.revision)).collect() }
    /// Counters since the process started.
    pub fn stats(&self) -> ShardStats { self.stats }
    /// The term it leads in.
    pub fn leading(&self) -> Option<Term> { self.leading.as_ref().map(|l| l.term) }

    /// Applies a committed entry. Every node, in log order; the only writer of the state. Then `poll`.
    pub fn replay(&mut self, entry: &LogEntry) {
        let outcomes = replay::entry(&mut self.state, entry, self.limits.history_max, &mut self.history);
        for (b, outcome) in entry.batches.iter().zip(&outcomes) {
            if *outcome != Outcome::Skipped {
                self.changed.insert(b.group.clone());
            }
            match outcome {
                Outcome::Applied => {
                    self.stats.commits += b.records.iter().filter(|r| matches!(r, Record::Offset { .. })).count() as u64;
                    self.stats.rebalances += b.records.iter().filter(|r| matches!(r, Record::Epoch { .. })).count() as u64;
                }
                Outcome::Skipped => self.stats.skipped += 1,
                Outcome::Quarantined(_) => self.stats.refused_batches += 1,
            }
        }
        let Some(l) = &mut self.leading else { return };
        for (b, _) in entry.batches.iter().zip(&outcomes).filter(|(_, o)| **o != Outcome::Applied) {
            // Work may be out for the draft that is lost with it: its epoch may come again and mean something else.
            l.forget_work(&b.group);
        }
        // Offsets change nothing that a member could be told, and commits are many.
        for b in entry.batches.iter().filter(|b| !arming::only_offsets(&b.records)) {
            let all = || self.state.groups.get(&b.group).map(|g| g.members.keys().cloned().collect()).unwrap_or_default();
            let repaired = b.records.contains(&Record::Repaired);
            l.touched.push((b.group.clone(), if repaired { all() } else { arming::members_of(&b.records) }));
        }
        // A batch in flight ends only here, or when its leader's time is over (`safety.md` 4).
        if entry.node != l.node || entry.term != l.term || l.in_flight.as_ref().is_none_or(|f| f.base_sequence != entry.base_sequence) {
            return;
        }
        let Some(f) = l.in_flight.take() else { return };
        l.armed.extend(f.armed.into_iter().map(|(t, at)| (t, at, f.decided_at)));
        l.lost.extend(entry.batches.iter().zip(&outcomes).filter(|(_, o)| **o != Outcome::Applied).map(|(b, _)| b.group.clone()));
        for a in f.replies {
            let applied = entry.batches.iter().zip(&outcomes).find(|(b, _)| b.group == a.group).is_none_or(|(_, o)| *o == Outcome::Applied);
            if applied {
                answers::answer(l, &mut self.out, a);
            } else {
                let result = Err(GroupError::Unavailable { reason: "the group changed before the command was carried out".into() });
                self.out.push_back(Action::Reply { ticket: a.ticket, result });
            }
        }
    }

    /// Takes the newest local image of the meta state. Groups that depend on what changed get work: then `poll`.
    pub fn metadata(&mut self, image: Arc<Metadata>, now: Now) {
        if image.revision < self.image.revision && !seeded::on(247) {
            return;
        }
        let before = std::mem::replace(&mut self.image, image);
        self.refresh_groups(now);
        let gone: BTreeSet<TopicName> = before.topics.iter().filter(|(t, f)| self.image.topics.get(*t).is_none_or(|n| n.id != f.id)).map(|(t, _)| t.clone()).collect();
        if !gone.is_empty() {
            self.forget_offsets(&gone, now);
        }
    }

    fn refresh_groups(&mut self, now: Now) {
        let Some(l) = &mut self.leading else { return };
        // What is in flight was decided on the image before, for members that the applied state may not have yet: it is looked at once more when it is applied.
        l.unlooked.extend(l.in_flight.iter().flat_map(|f| f.groups.iter().cloned()));
        for (id, g) in &self.state.groups {
            arming::refresh_group(l, id, g, &self.image, now);
        }
    }
    /// Offsets of topics that are gone are gone too, also in groups that nobody is in.
    fn forget_offsets(&mut self, gone: &BTreeSet<TopicName>, now: Now) {
        let Some(l) = &mut self.leading else { return };
        let has = |g: &Group, t: &TopicName| g.offsets.range(Partition::new(t.clone(), i32::MIN)..).next().is_some_and(|(p, _)| p.topic == *t);
        for (id, g) in &self.state.groups {
            if gone.iter().any(|t| has(g, t)) {
                l.queue_timer(id, decide::TimerCommand::Sweep, now);
            }
        }
    }

    /// Leads from now on. To be called once everything of the term is applied, and again after a lapsed lease: arms every timer in full (`safety.md` 19).
    pub fn lead(&mut self, node: u64, term: Term, now: Now) {
        let again = self.leading.as_ref().is_some_and(|l| l.term == term && l.node == node);
        if !again {
            self.step_down();
            self.leading = Some(Leading {
                node, term, timers: Timers::default(), rearmed_at: now.mono_ms, looked_at: now.mono_ms, time_from: (self.state.time_ms, now.mono_ms), sweep_at: now.mono_ms + FIRST_SWEEP_MS, swept: None, tick: false, facts_seen: BTreeMap::new(), unlooked: BTreeSet::new(), working: BTreeMap::new(), runs: term << 32, regexes_at: BTreeMap::new(), queue: VecDeque::new(), in_flight: None, held: BTreeMap::new(), assigned_at: BTreeMap::new(), behind: BTreeMap::new(),
                refused: BTreeMap::new(), touched: Vec::new(), classic: BTreeMap::new(), armed: Vec::new(), lost: BTreeSet::new(),
            });
        }
        let Some(l) = &mut self.leading else { return };
        // Seeded bug 66: at a second lapse in one term the deadlines of the first go on.
        if again && l.rearmed_at > l.time_from.1 && seeded::on(66) {
            return;
        }
        let waits: Vec<((GroupId, MemberId), Millis)> = l.held.iter().map(|(k, h)| (k.clone(), h.until)).collect();
        (l.rearmed_at, l.looked_at) = (now.mono_ms, now.mono_ms);
        // What had fired and waits behind an entry in flight has not happened: it starts again in full like every timer (`safety.md` 19).
        let mut fired = Vec::new();
        l.queue.retain(|w| if let What::Timer(t) = &w.what { fired.push(Timer::Command(w.group.clone(), t.clone())); false } else { true });
        // What was armed with an entry that is still in flight, and perhaps has fired since, belongs to members and phases that the state does not have yet: it starts again too.
        let mut in_flight = Vec::new();
        if let Some(f) = &mut l.in_flight {
            let decided_at = std::mem::replace(&mut f.decided_at, now.mono_ms);
            f.armed.retain_mut(|(t, at)| {
                let still = l.timers.deadline(t) == Some(*at) || (fired.contains(t) && !seeded::on(224));
                *at = now.mono_ms + at.saturating_sub(decided_at);
                if still && !seeded::on(229) { in_flight.push((t.clone(), *at)); }
                still
            });
        }
        l.timers.clear();
        for ((g, m), until) in waits {
            // What was over during the lapse is over now: an older deadline would pass for a late loop, and put everything off (`safety.md` 19).
            l.timers.arm(Timer::Wait(g, m), if seeded::on(225) { until } else { until.max(now.mono_ms) });
        }
        for (id, g) in &self.state.groups {
            arming::arm_group(l, id, g, &self.image, now);
            classic::take_over(l, id, g, &self.limits, now);
        }
        for (t, at) in in_flight {
            l.timers.arm(t, at);
        }
        self.refresh_groups(now);
    }

    /// Not leader any more: every caller is told to try again; what was in flight may still happen.
    pub fn step_down(&mut self) {
        let Some(l) = self.leading.take() else { return };
        // Answers that were ready but not fetched are lost with the term they belong to.
        let ready = std::mem::take(&mut self.out).into_iter().filter_map(|a| if let Action::Reply { ticket, .. } = a { Some(ticket) } else { None });
        let waiting = l.queue.into_iter().filter_map(|w| w.ticket).chain(l.held.into_values().map(|h| h.ticket)).chain(l.classic.values().flat_map(crate::classic::Soft::held).collect::<Vec<_>>());
        let in_flight = l.in_flight.into_iter().flat_map(|f| f.replies).map(|a| a.ticket);
        for ticket in ready.chain(waiting).chain(in_flight).collect::<Vec<_>>() {
            let result = Err(GroupError::Unavailable { reason: "this node stopped leading the group's shard".into() });
            self.out.push_back(Action::Reply { ticket, result });
        }
    }

    /// Takes a request. Its answer comes out of `poll`.
    pub fn handle(&mut self, ticket: Ticket, request: Request, now: Now) {
        let Some(l) = &mut self.leading else {
            let result = Err(GroupError::Unavailable { reason: "this node does not lead the group's shard".into() });
            self.out.push_back(Action::Reply { ticket, result });
            return;
        };
        if let Command::Heartbeat(h) = &request.command {
            // A later heartbeat of the same process ends its held one at once.
            answers::end_wait(l, &mut self.out, &request.group, &h.member, Some(h.incarnation), now);
        }
        let Request { group, command, budget_ms, min_meta_revision } = request;
        l.enqueue(Waiting { ticket: Some(ticket), group, what: What::Request(command), arrived: now.mono_ms, budget_ms, min_meta_revision });
    }

    /// Takes the result of a piece of work. Then `poll`.
    pub fn done(&mut self, done: Done, now: Now) {
        let Some(l) = &mut self.leading else { return };
        let Done { group, run, kind, result } = done;
        if l.working.get(&(group.clone(), kind)).map(|o| o.run) != Some(run) {
            return; // of an earlier life of the group, of an earlier leader, or given up for lost and asked for again
        }
        l.working.remove(&(group.clone(), kind));
        if kind == Kind::Resolve {
            l.regexes_at.insert(group.clone(), now.mono_ms);
        }
        match result {
            Ok(found) => l.enqueue(Waiting { ticket: None, group, what: What::Done(found), arrived: now.mono_ms, budget_ms: None, min_meta_revision: 0 }),
            // The old target stays in force; it is tried again when the assignment interval is over.
            Err(_) => arming::assignor_failed(l, &self.state, &mut self.stats, &group, now),
        }
    }

    /// The caller went away: its held heartbeat is forgotten. A join or sync of a classic group stays: its client may come back for the answer of its member, and
    /// if it does not, the session that begins with the answer says so.
    pub fn abandon(&mut self, ticket: Ticket) {
        let Some(l) = &mut self.leading else { return };
        if let Some((g, m)) = l.held.iter().find(|(_, h)| h.ticket == ticket).map(|(k, _)| k.clone()) {
            l.timers.cancel(&Timer::Wait(g.clone(), m.clone()));
            l.held.remove(&(g, m));
        }
    }

    /// When `handle_timeout` is due, in `mono_ms`.
    pub fn poll_timeout(&self) -> Option<Millis> { self.leading.as_ref().map(|l| l.timers.next().map_or(l.sweep_at, |t| t.min(l.sweep_at))) }

    /// Carries out what is due. Only under a valid lease.
    pub fn handle_timeout(&mut self, now: Now) {
        let Some(l) = &mut self.leading else { return };
        // A loop that was late must not expire anybody for it: heartbeats may wait in sockets. It extends by its lateness, no more (`safety.md` 19).
        const LATE_MS: u64 = 200;
        if let Some(due) = l.timers.next()
            && now.mono_ms > due + LATE_MS
            && !seeded::on(201)
        {
            l.timers.postpone(now.mono_ms - due);
            // What waits in sockets and mailboxes goes first: the earliest deadline is this very moment now.
            return;
        }
        if now.mono_ms >= l.sweep_at {
            arming::sweep(l, &self.state, &self.image, now);
        }
        while let Some(timer) = l.timers.pop_due(now.mono_ms) {
            match timer {
                Timer::Wait(group, member) => answers::end_wait(l, &mut self.out, &group, &member, None, now),
                Timer::Command(group, command) => l.queue_timer(&group, command, now),
            }
        }
    }

    /// The next thing the shell must do; until None.
    pub fn poll(&mut self, now: Now) -> Option<Action> {
        // What is ready goes first: with many answers and many that wait, looking at all of these for each of those would take long.
        if self.out.is_empty() {
            self.pump(now);
        }
        self.out.pop_front()
    }

    /// Decides what waits: on drafts of the applied groups, all into one entry.
    fn pump(&mut self, now: Now) {
        self.follow(now);
        let Some(l) = &mut self.leading else { return };
        l.looked_at = now.mono_ms;
        if l.queue.is_empty() && !(l.tick && l.in_flight.is_none()) {
            return;
        }
        let mut drain = drain::Drain::new(&self.state, l.time(now), now);
        // A timer that has to wait is decided behind the requests that came meanwhile: a member whose heartbeat is here is not expired for an entry that took long
        // (`safety.md` 19). Not for ever: where requests come faster than they are decided, nobody would expire.
        const STEPS_BACK_MS: u64 = 5_000;
        let (mut later, mut timers) = (VecDeque::new(), VecDeque::new());
        let steps_back = |w: &Waiting| matches!(w.what, What::Timer(_)) && now.mono_ms < w.arrived + STEPS_BACK_MS && !seeded::on(213);
        let mut wait = |w: Arc<Waiting>| if steps_back(&w) { timers.push_back(w) } else { later.push_back(w) };
        while let Some(mut w) = l.queue.pop_front() {
            if w.ticket.is_some() && w.budget_ms.is_some_and(|b| now.mono_ms > w.arrived + b) {
                let result = Err(GroupError::Unavailable { reason: "the request was taken up later than its timeout_ms: nothing was done".into() });
                answers::reply(&mut self.out, w.ticket, result);
                if !seeded::on(68) {
                    continue;
                }
                Arc::make_mut(&mut w).ticket = None;
            }
            if self.image.revision < w.min_meta_revision {
                // What was acknowledged elsewhere is on its way here: worth waiting for, within the request's own time.
                if w.budget_ms.is_some() {
                    wait(w);
                } else {
                    let result = Err(GroupError::Loading { have: self.image.revision, need: w.min_meta_revision });
                    answers::reply(&mut self.out, w.ticket, result);
                }
                continue;
            }
            // One batch in flight per group: every command of that group waits for it, steady heartbeats too (`safety.md` 1).
            let blocked = drain.blocked.contains(&w.group) || l.in_flight.as_ref().is_some_and(|f| f.groups.contains(&w.group));
            if (blocked && !seeded::on(21)) || drain.full(&self.limits) {
                drain.blocked.insert(w.group.clone());
                wait(w);
                continue;
            }
            if !drain::decide_one(l, &self.state, &self.image, &self.limits, &mut self.out, &mut self.stats, &mut drain, &w) {
                drain.blocked.insert(w.group.clone());
                wait(w);
            }
        }
        let mut again = drain::check_drafts(l, &self.state, &self.image, &self.limits, &mut self.out, &mut self.stats, &mut drain);
        again.append(&mut later);
        again.append(&mut timers);
        l.queue = again;
        let tick = l.tick && l.in_flight.is_none();
        if let Some((entry, mut in_flight)) = drain.close(l.node, l.term, self.state.sequence, tick) {
            l.tick = false;
            answers::answer_too_early(&mut self.out, &mut in_flight.replies);
            self.stats.proposals += 1;
            l.in_flight = Some(in_flight);
            self.out.push_back(Action::Propose(entry));
        }
    }

    /// Brings the soft state up to what was replayed since: timers of new and gone members, and held heartbeats that may go on.
    fn follow(&mut self, now: Now) {
        let Some(l) = &mut self.leading else { return };
        classic::settle(l, &mut self.out, &self.state, &self.limits, now);
        for (id, members) in std::mem::take(&mut l.touched) {
            let group = self.state.groups.get(&id).map(|g| &**g);
            arming::follow_group(l, &id, group, &members, now);
            if let (true, Some(g)) = (l.unlooked.remove(&id), group) {
                arming::refresh_group(l, &id, g, &self.image, now);
            }
            classic::follow(l, &mut self.out, &id, group, &self.limits, now);
            // A held heartbeat of a group that changed is decided again: its member may have something to take or to give.
            let held: Vec<MemberId> = l.held.range((id.clone(), MemberId::from(""))..).take_while(|((g, _), _)| *g == id).map(|((_, m), _)| m.clone()).collect();
            for m in held {
                l.timers.cancel(&Timer::Wait(id.clone(), m.clone()));
                if let Some(h) = l.held.remove(&(id.clone(), m)) {
                    let left = h.until.saturating_sub(now.mono_ms);
                    l.queue_held(&id, h, left, now);
                }
            }
        }
    }
}

/// Seeded bug 13: what a snapshot that forgets pending partitions would hold.
#[cfg(feature = "seeded-bugs")]
fn without_pending(state: &State) -> State {
    let mut state = state.clone();
    for g in state.groups.values_mut().map(Arc::make_mut) {
        let pending: Vec<Partition> = g.members.values_mut().flat_map(|m| std::mem::take(&mut m.pending)).map(|(p, _)| p).collect();
        pending.iter().for_each(|p| { g.owners.remove(p); });
    }
    state
}
