//! One drain: commands are decided on drafts of their groups, the drafts are checked, and what they say becomes one entry. What calls it is in `shard.rs`.

use super::{answers::{answer, count, heard, may_be_held, reply}, arming::{arm_assign, only_offsets}, *};
use crate::{
    assign,
    classic::{ClassicCommand, ClassicRecord, GenerationCommit},
    decide::TimerCommand,
};

/// One drain: the drafts of the groups it touches.
pub(super) struct Drain {
    pub(super) now: Now,
    pub(super) time_ms: u64,
    pub(super) last_token: u64,
    pub(super) drafts: BTreeMap<GroupId, Option<Arc<Group>>>,
    pub(super) batches: BTreeMap<GroupId, Batch>,
    pub(super) replies: Vec<Answer>,
    pub(super) armed: Vec<(Timer, Millis)>,
    pub(super) blocked: BTreeSet<GroupId>,
    pub(super) records: usize,
    /// Groups whose draft is checked once, when the drain closes, with what was decided on it since the last check.
    unchecked: BTreeMap<GroupId, Unchecked>,
    /// Every command's draft is checked by itself: something in this drain broke an invariant.
    careful: bool,
}

/// What is decided again, one command after the other, should the draft break an invariant.
struct Unchecked {
    /// Those whose answers wait for the batch, in order.
    commands: Vec<Arc<Waiting>>,
    /// A record did not fit.
    broken: bool,
    before: Before,
}

/// The soft state of a group before its first command of a drain.
#[derive(Clone, Copy)]
struct Before { assigned_at: Option<Millis>, facts_seen: Option<u64> }

impl Drain {
    pub(super) fn new(state: &State, time_ms: u64, now: Now) -> Self {
        Self { now, time_ms, last_token: state.last_token, drafts: BTreeMap::new(), batches: BTreeMap::new(), replies: Vec::new(), armed: Vec::new(), blocked: BTreeSet::new(), records: 0, unchecked: BTreeMap::new(), careful: false }
    }
    /// Whether a command may change the group's draft in place, to be checked when the drain closes. Not on top of a turn of a classic group, which cannot be taken again.
    fn in_place(&self, id: &GroupId) -> bool { !self.careful && (self.unchecked.contains_key(id) || !self.batches.contains_key(id)) }
    /// Remembers a command whose answer waits for the batch of its group.
    fn keep(&mut self, w: &Arc<Waiting>, before: Before) -> Option<&mut Unchecked> {
        if !self.in_place(&w.group) {
            return None;
        }
        let u = self.unchecked.entry(w.group.clone()).or_insert_with(|| Unchecked { commands: Vec::new(), broken: false, before });
        u.commands.push(Arc::clone(w));
        Some(u)
    }
    /// The draft again, from the applied group and what this drain has decided for it so far: a command that is refused leaves nothing of what it had written.
    fn redraft(&mut self, state: &State, id: &GroupId) {
        let (mut slot, mut last_token) = (state.groups.get(id).cloned(), state.last_token);
        let records = self.batches.get(id).map_or(&[][..], |b| &b.records);
        let fits = records.iter().all(|r| replay::record(&mut slot, r, &mut last_token).is_ok());
        if let Some(u) = self.unchecked.get_mut(id) {
            u.broken |= !fits;
        }
        self.drafts.insert(id.clone(), slot);
    }
    /// Whether there are as many groups as there may be, with those that this drain makes. Counted one by one only near the bound: most drafts are of groups that exist.
    pub(super) fn no_room(&self, state: &State, limits: &Limits) -> bool {
        let made = || self.drafts.iter().filter(|(id, g)| g.is_some() && !state.groups.contains_key(*id)).count();
        state.groups.len() + self.drafts.len() >= limits.groups_max && state.groups.len() + made() >= limits.groups_max
    }
    /// A drain closes at about the entry's size; a record is about 200 bytes.
    pub(super) fn full(&self, limits: &Limits) -> bool { self.records * 200 >= limits.entry_bytes }
    /// The entry, if there is something to say; `tick`: the time alone is.
    pub(super) fn close(self, node: u64, term: Term, base_sequence: u64, tick: bool) -> Option<(LogEntry, InFlight)> {
        if self.batches.is_empty() && !tick {
            return None;
        }
        let groups = self.batches.keys().cloned().collect();
        let entry = LogEntry { node, term, base_sequence, time_ms: self.time_ms, batches: self.batches.into_values().collect() };
        Some((entry, InFlight { base_sequence, groups, replies: self.replies, decided_at: self.now.mono_ms, armed: self.armed }))
    }
}

/// Decides one command. False: it needs the log while an entry is in flight; it waits.
#[allow(clippy::too_many_arguments)] // the parts of a Shard that the borrow checker wants to see apart
pub(super) fn decide_one(
    l: &mut Leading, state: &State, image: &Arc<Metadata>, limits: &Limits, out: &mut VecDeque<Action>, stats: &mut ShardStats, drain: &mut Drain, w: &Arc<Waiting>,
) -> bool {
    let now = drain.now;
    let group = drain.drafts.get(&w.group).map_or_else(|| state.groups.get(&w.group).map(|g| &**g), |d| d.as_deref());
    let commit = match &w.what {
        // Only the group knows whether the number in an OffsetCommit is an epoch or a generation.
        What::Request(Command::KafkaCommit(c)) if group.is_some_and(|g| g.classic.is_some()) => {
            let commit = GenerationCommit { member: c.member.clone(), instance_id: c.instance_id.clone(), generation: c.epoch, offsets: c.offsets.clone() };
            Some(Waiting { what: What::Request(Command::Classic(ClassicCommand::Commit(commit))), ..Waiting::clone(w) })
        }
        _ => None,
    };
    if commit.is_some() || classic::takes(&w.what, group) {
        // A turn moves the leader's own knowledge at once, so nothing before it may have to be decided again: it waits for the next drain.
        return !drain.unchecked.contains_key(&w.group) && classic::decide(l, state, image, limits, out, stats, drain, commit.as_ref().unwrap_or(w));
    }
    // Heard since the timer fired: its session runs again.
    if let What::Timer(t @ (TimerCommand::ExpireSession { .. } | TimerCommand::Classic(_))) = &w.what
        && l.timers.deadline(&Timer::Command(w.group.clone(), t.clone())).is_some()
    {
        return true;
    }
    let creates = matches!(&w.what, What::Request(Command::Heartbeat(_) | Command::Consumer(_) | Command::Commit(_) | Command::KafkaCommit(_)));
    if group.is_none() && creates && drain.no_room(state, limits) {
        reply(out, w.ticket, Err(GroupError::LimitReached { limit: "groups".into(), max: limits.groups_max as u64 }));
        return true;
    }
    let (interval, need) = (group.map_or(0, |g| g.config.assignment_interval_ms), group.map_or(0, |g| g.metadata_revision));
    let before = Before { assigned_at: l.assigned_at.get(&w.group).copied(), facts_seen: l.facts_seen.get(&w.group).copied() };
    let next_assign = before.assigned_at.map_or(0, |at| at + interval);
    let remaining = |t: TimerCommand| l.timers.deadline(&Timer::Command(w.group.clone(), t)).map_or(0, |at| at.saturating_sub(now.mono_ms));
    let session_remaining = |m: &MemberId| remaining(TimerCommand::ExpireSession { member: m.clone() });
    // Of the newest hold of the partition: earlier ones may be over before their timers are.
    let of_hold = |p: &Partition, token: u64| Timer::Command(w.group.clone(), TimerCommand::ReleaseHold { partition: p.clone(), token: FencingToken(token) });
    let hold_remaining = |p: &Partition| l.timers.last_between(&of_hold(p, 0), &of_hold(p, u64::MAX)).map_or(0, |at| at.saturating_sub(now.mono_ms));
    let context = Context {
        facts_seen: before.facts_seen == Some(image.revision), now_ms: now.mono_ms, regexes_at: l.regexes_at.get(&w.group).copied(),
        resolving: l.working.get(&(w.group.clone(), Kind::Resolve)).is_some_and(|o| now.mono_ms < o.lost_at()), metadata: image, limits, wall_us: now.wall_us, time_ms: drain.time_ms, may_assign: now.mono_ms >= next_assign, session_remaining: &session_remaining, hold_remaining: &hold_remaining,
    };
    // Taken out: a draft that nobody else holds is changed without being copied.
    let in_place = drain.in_place(&w.group);
    let taken = if in_place { drain.drafts.remove(&w.group) } else { None };
    let was_taken = taken.is_some();
    let group = taken.unwrap_or_else(|| drain.drafts.get(&w.group).cloned().unwrap_or_else(|| state.groups.get(&w.group).cloned()));
    let mut draft = Draft::of(group, drain.last_token, &context);
    let result = match &w.what {
        What::Request(command) => {
            // A leader whose image is older than what the group recorded decides nothing that needs metadata (`safety.md` 23).
            let have = image.revision;
            match decide::request(&mut draft, &w.group, command) {
                Ok(_) if have < need && !seeded::on(202) && draft.records.iter().any(needs_metadata) => {
                    if was_taken {
                        drain.redraft(state, &w.group);
                    }
                    reply(out, w.ticket, Err(GroupError::Loading { have, need }));
                    return true;
                }
                r => Some(r),
            }
        }
        What::Timer(command) => {
            decide::timer(&mut draft, &w.group, command);
            None
        }
        What::Done(found) => {
            decide::done(&mut draft, &w.group, found);
            None
        }
    };
    let effects = std::mem::take(&mut draft.effects);
    // A refusal decides nothing, whatever the draft went through before it.
    if let Some(Err(e)) = result {
        let wrote = !draft.records.is_empty();
        let slot = draft.finish().ok().and_then(|d| d.group);
        if was_taken && wrote {
            drain.redraft(state, &w.group);
        } else if was_taken {
            drain.drafts.insert(w.group.clone(), slot);
        }
        let group = drain.drafts.get(&w.group).cloned().unwrap_or_else(|| state.groups.get(&w.group).cloned());
        classic::carry_out_mixed(l, drain, &w.group, group.as_deref(), effects);
        reply_after(out, drain, w, before, Err(e));
        return true;
    }
    if !draft.records.is_empty() && l.in_flight.is_some() {
        return false; // nothing of this drain can have been drafted: what writes waits
    }
    // Work is for the group as drafted: should the batch be lost, its result finds another epoch and is not taken.
    let idle = l.working.get(&(w.group.clone(), Kind::Assign)).is_none_or(|o| now.mono_ms >= o.lost_at());
    let task = draft.group().filter(|_| draft.compute && idle).map(|g| Task::Assign { assignor: g.assignor(limits.default_assignor()).into(), epoch: g.epoch, input: Box::new(assign::Input::of(g, &g.topics, image)) });
    let resolve = draft.resolve.take().map(|expressions| Task::Resolve { expressions, image: image.clone() });
    let (empty, assignor_failed) = (draft.records.is_empty(), draft.assignor_failed);
    if !empty && draft.group().is_some_and(|g| nobody_is_behind(&mut l.behind, &w.group, g)) {
        draft.settle();
    }
    let drafted = draft.finish();
    for task in task.into_iter().chain(resolve) {
        start(l, out, &w.group, task, now);
    }
    if assignor_failed {
        stats.failed_assignments += 1;
        l.assigned_at.insert(w.group.clone(), now.mono_ms);
    }
    let looked = matches!(&w.what, What::Request(Command::Consumer(h)) if h.epoch >= 0) || matches!(&w.what, What::Request(Command::Classic(ClassicCommand::Join(_))));
    if looked {
        l.facts_seen.insert(w.group.clone(), image.revision);
    }
    if empty {
        let slot = drafted.ok().and_then(|d| d.group);
        classic::carry_out_mixed(l, drain, &w.group, slot.as_deref(), effects);
        finish_without_records(l, out, stats, drain, w, before, slot.as_deref(), result);
        // Never in the past: a timer that is long due is taken for a loop that was late, and every deadline is moved by its lateness.
        arm_assign(l, &w.group, slot.as_deref(), next_assign.max(now.mono_ms));
        if was_taken {
            drain.drafts.insert(w.group.clone(), slot);
        }
        return true;
    }
    if let What::Timer(TimerCommand::ExpireSession { .. }) = w.what {
        stats.expired += 1;
    }
    let drafted = drafted.map_err(|v| v.to_string());
    let Drafted { group: after, records, last_token } = match if in_place { drafted } else { drafted.and_then(checked) } {
        Ok(done) => done,
        // This command, or one before it that broke something unseen: found out when the drain closes.
        Err(_) if in_place => {
            drain.keep(w, before).into_iter().for_each(|u| u.broken = true);
            drain.blocked.insert(w.group.clone());
            return true;
        }
        Err(why) => {
            refuse(l, out, stats, drain, w, state.groups.get(&w.group), why);
            return true;
        }
    };
    if !in_place {
        l.refused.remove(&w.group);
    }
    drain.keep(w, before);
    if records.iter().any(|r| matches!(r, Record::Target { .. })) {
        l.assigned_at.insert(w.group.clone(), now.mono_ms);
    }
    drain.last_token = last_token;
    drain.records += classic::weight(&records);
    // The base is the applied revision: the draft of an earlier command of this drain is part of the same batch.
    let base_revision = state.groups.get(&w.group).map_or(0, |g| g.revision);
    let batch = drain.batches.entry(w.group.clone()).or_insert_with(|| Batch { group: w.group.clone(), base_revision, records: Vec::new() });
    // A conversion takes away what the leader itself knows of a classic group, or brings it, when it is applied. Whatever comes next waits for that: back in the same batch, the group
    // would go on with what was known of it before.
    if records.iter().any(converts) && !seeded::on(215) {
        drain.blocked.insert(w.group.clone());
    }
    batch.records.extend(records);
    arm_assign(l, &w.group, after.as_deref(), now.mono_ms + interval);
    heard(l, &w.group, w.arrived, after.as_deref(), result.as_ref());
    classic::carry_out_mixed(l, drain, &w.group, after.as_deref(), effects);
    drain.drafts.insert(w.group.clone(), after);
    if let (Some(ticket), What::Request(command), Some(result)) = (w.ticket, &w.what, result) {
        count(stats, command);
        drain.replies.push(Answer { ticket, group: w.group.clone(), command: may_be_held(command), arrived: w.arrived, result });
    }
    true
}

/// Checks the drafts that were changed in place, each once for all its commands. Where an invariant is broken, everything that was decided on the draft is forgotten and
/// decided again, command by command with a check after each: so the one that breaks it is refused alone. Gives what has to wait.
#[allow(clippy::too_many_arguments)] // as above
pub(super) fn check_drafts(
    l: &mut Leading, state: &State, image: &Arc<Metadata>, limits: &Limits, out: &mut VecDeque<Action>, stats: &mut ShardStats, drain: &mut Drain,
) -> VecDeque<Arc<Waiting>> {
    let mut later = VecDeque::new();
    for (id, u) in std::mem::take(&mut drain.unchecked) {
        // Positions are looked at by no invariant.
        let sound = || drain.batches.get(&id).is_some_and(|b| only_offsets(&b.records)) || drain.drafts.get(&id).and_then(Option::as_deref).is_none_or(|g| invariants::check(g).is_empty());
        if !u.broken && sound() {
            l.refused.remove(&id);
            continue;
        }
        drain.careful = true;
        drain.batches.remove(&id);
        drain.drafts.remove(&id);
        drain.blocked.remove(&id);
        drain.replies.retain(|a| a.group != id);
        put_back(&mut l.assigned_at, &id, u.before.assigned_at);
        put_back(&mut l.facts_seen, &id, u.before.facts_seen);
        l.working.retain(|(g, _), _| *g != id);
        for w in u.commands {
            if drain.blocked.contains(&id) || !decide_one(l, state, image, limits, out, stats, drain, &w) {
                later.push_back(w);
            }
        }
    }
    later
}

fn converts(r: &Record) -> bool { matches!(r, Record::Classic(c) if matches!(**c, ClassicRecord::Upgraded { .. } | ClassicRecord::Downgraded(_))) }

fn put_back<T>(map: &mut BTreeMap<GroupId, T>, id: &GroupId, before: Option<T>) {
    match before {
        Some(b) => map.insert(id.clone(), b),
        None => map.remove(id),
    };
}

/// Whether every member has arrived at the target. Who was found behind is asked first, so that a large group is not looked through at each of its changes.
fn nobody_is_behind(known: &mut BTreeMap<GroupId, MemberId>, id: &GroupId, g: &Group) -> bool {
    if g.unsettled_since.is_none() || g.epoch != g.target_epoch {
        return false;
    }
    let behind = |m: &Member| m.state != MemberState::Stable || m.epoch != g.target_epoch;
    // From there on and around: those before it had arrived when it was found, and mostly still have.
    let from = known.get(id).cloned().unwrap_or_else(|| MemberId::from(""));
    match g.members.range(from.clone()..).chain(g.members.range(..from)).find(|(_, m)| behind(m)) {
        Some((m, _)) if known.get(id) == Some(m) => return false,
        Some((m, _)) => known.insert(id.clone(), m.clone()),
        None => known.remove(id),
    };
    !known.contains_key(id)
}

/// Sends work out. Who asks for it has seen that none of its kind is out that may still come back.
fn start(l: &mut Leading, out: &mut VecDeque<Action>, group: &GroupId, task: Task, now: Now) {
    l.runs += 1;
    l.working.insert((group.clone(), task.kind()), Out { run: l.runs, since: now.mono_ms });
    out.push_back(Action::Work(Work { group: group.clone(), run: l.runs, task }));
}

/// Whether a record says something that only topics and settings can tell.
fn needs_metadata(r: &Record) -> bool { matches!(r, Record::Joined(_) | Record::Replaced(_) | Record::Regex { resolved: Some(_), .. } | Record::Subscribed { .. } | Record::Session { .. } | Record::Topics { .. } | Record::Config { .. }) }

/// Nothing enters the log that breaks an invariant on the draft.
pub(super) fn checked(d: Drafted) -> Result<Drafted, String> {
    match d.group.as_deref().map(invariants::check).unwrap_or_default().first() {
        None => Ok(d),
        Some(broken) => Err(broken.clone()),
    }
}

/// How often in a row a group's batch may be refused before the group is quarantined.
const REFUSED_MAX: u32 = 3;

/// The draft broke an invariant: our bug. Refused and counted; after some in a row the group is quarantined by a record.
pub(super) fn refuse(l: &mut Leading, out: &mut VecDeque<Action>, stats: &mut ShardStats, drain: &mut Drain, w: &Waiting, group: Option<&Arc<Group>>, why: String) {
    stats.refused_batches += 1;
    let times = l.refused.entry(w.group.clone()).or_default();
    *times += 1;
    if let (true, Some(g)) = (*times >= REFUSED_MAX && !drain.batches.contains_key(&w.group), group) {
        let record = Record::Quarantined { reason: why.clone() };
        drain.batches.insert(w.group.clone(), Batch { group: w.group.clone(), base_revision: g.revision, records: vec![record] });
        drain.blocked.insert(w.group.clone());
    } else if let What::Timer(t) = &w.what {
        l.timers.arm(Timer::Command(w.group.clone(), t.clone()), drain.now.mono_ms + 1_000); // its timer backs off
    }
    reply(out, w.ticket, Err(GroupError::Unavailable { reason: format!("the change was refused because it would break an invariant ({why})") }));
}

/// No records: answered from applied state, or together with the batch of this drain that it depends on.
#[allow(clippy::too_many_arguments)] // as above
fn finish_without_records(l: &mut Leading, out: &mut VecDeque<Action>, stats: &mut ShardStats, drain: &mut Drain, w: &Arc<Waiting>, before: Before, group: Option<&Group>, result: Option<Result<Response, GroupError>>) {
    let (Some(result), Some(ticket), What::Request(command)) = (result, w.ticket, &w.what) else { return };
    count(stats, command);
    heard(l, &w.group, w.arrived, group, Some(&result));
    let a = Answer { ticket, group: w.group.clone(), command: may_be_held(command), arrived: w.arrived, result };
    if drain.batches.contains_key(&w.group) {
        drain.keep(w, before);
        drain.replies.push(a);
        return;
    }
    answer(l, out, a);
}

fn reply_after(out: &mut VecDeque<Action>, drain: &mut Drain, w: &Arc<Waiting>, before: Before, result: Result<Response, GroupError>) {
    // A refusal that looked at a draft of this drain must not be heard before that draft is committed.
    match (w.ticket, &w.what, drain.batches.contains_key(&w.group)) {
        (Some(ticket), What::Request(command), true) => {
            drain.keep(w, before);
            drain.replies.push(Answer { ticket, group: w.group.clone(), command: may_be_held(command), arrived: w.arrived, result })
        }
        _ => reply(out, w.ticket, result),
    }
}
