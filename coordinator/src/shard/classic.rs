//! Fits the turns of classic groups to the shard: when one may be taken, where its answers and timers go, and what follows when its batch is lost.
//!
//! A turn moves the leader's own knowledge at once (`classic::soft`). So while any entry is in flight only heartbeats, which write nothing, take theirs; and a
//! batch that is lost takes the group's soft state with it: whoever waited is told to try again, and the leader goes on as one that has just taken over.

use super::*;
use crate::{
    classic::{Classic, ClassicCode, ClassicCommand, Due, Effect, Soft, Turn, join, leave, rebalance, sync},
    decide::TimerCommand,
};

/// Whether this is a turn of a classic group, or of one that may become one. Classic members of a consumer group are served like its other members.
pub(super) fn takes(what: &What, group: Option<&Group>) -> bool {
    match what {
        What::Request(Command::Classic(_)) => group.is_none_or(|g| g.classic.is_some() || g.members.is_empty()),
        What::Timer(TimerCommand::Classic(Due::Session { .. } | Due::Join | Due::Sync)) => true,
        What::Request(_) | What::Timer(_) | What::Done(_) => false,
    }
}

pub(super) fn timer(group: &GroupId, due: &Due) -> Timer { Timer::Command(group.clone(), TimerCommand::Classic(due.clone())) }

/// Takes one turn. False: it may need the log while an entry is in flight; it waits.
#[allow(clippy::too_many_arguments)] // the parts of a Shard that the borrow checker wants to see apart
pub(super) fn decide(
    l: &mut Leading, state: &State, image: &Metadata, limits: &Limits, out: &mut VecDeque<Action>, stats: &mut ShardStats, drain: &mut drain::Drain, w: &Waiting,
) -> bool {
    let heartbeat = matches!(&w.what, What::Request(Command::Classic(ClassicCommand::Heartbeat(_))));
    if l.in_flight.is_some() && !heartbeat {
        return false;
    }
    if let What::Timer(t) = &w.what
        && l.timers.deadline(&Timer::Command(w.group.clone(), t.clone())).is_some()
    {
        return true; // armed again since it fired
    }
    let group = drain.drafts.get(&w.group).cloned().unwrap_or_else(|| state.groups.get(&w.group).cloned());
    if let Some(reason) = group.as_ref().and_then(|g| g.quarantined.clone()) {
        answers::reply(out, w.ticket, Err(GroupError::Quarantined { reason }));
        return true;
    }
    let creates = matches!(&w.what, What::Request(Command::Classic(ClassicCommand::Join(_) | ClassicCommand::Commit(_))));
    if group.is_none() && creates && drain.no_room(state, limits) {
        answers::reply(out, w.ticket, Err(GroupError::LimitReached { limit: "groups".into(), max: limits.groups_max as u64 }));
        return true;
    }
    let context = Context {
        metadata: image, limits, wall_us: drain.now.wall_us, time_ms: drain.time_ms, may_assign: false, facts_seen: true, now_ms: drain.now.mono_ms, regexes_at: None, resolving: false,
        session_remaining: &|_| 0, hold_remaining: &|_| 0,
    };
    let mut draft = Draft::of(group.clone(), drain.last_token, &context);
    // Made earlier in this very drain: taken up as found.
    if let (false, Some(c)) = (l.classic.contains_key(&w.group), group.as_ref().and_then(|g| g.classic.as_deref())) {
        arm_found(l, &w.group, c, limits, drain.now);
    }
    let mut own = l.classic.remove(&w.group).unwrap_or_default();
    let effects = take(&w.group, &mut draft, &mut own, w);
    let Drafted { group: after, records, last_token } = match draft.finish().map_err(|v| v.to_string()).and_then(drain::checked) {
        Ok(done) => done,
        Err(why) => {
            give_up(l, out, stats, drain, w, group.as_ref(), own, effects, limits, why);
            return true;
        }
    };
    if after.as_ref().is_some_and(|g| g.classic.is_some()) {
        l.classic.insert(w.group.clone(), own);
    }
    if !records.is_empty() {
        l.refused.remove(&w.group);
        drain.last_token = last_token;
        drain.records += weight(&records);
        let base_revision = state.groups.get(&w.group).map_or(0, |g| g.revision);
        let batch = drain.batches.entry(w.group.clone()).or_insert_with(|| Batch { group: w.group.clone(), base_revision, records: Vec::new() });
        batch.records.extend(records);
        drain.drafts.insert(w.group.clone(), after);
    }
    carry_out(l, out, drain, &w.group, w.arrived, effects);
    true
}

/// What members say and get can be much larger than an ordinary record of some 200 bytes.
pub(super) fn weight(records: &[Record]) -> usize {
    use crate::classic::ClassicRecord as C;
    let bytes = |r: &Record| match r {
        Record::Classic(c) => match &**c {
            C::Joined { said, .. } => said.protocols.iter().map(|(_, m)| m.0.len()).sum(),
            C::Assigned { assignments, .. } => assignments.values().map(|a| a.0.len() + 64).sum(),
            C::Upgraded { members, .. } => members.iter().map(|m| 256 + m.part.protocols.iter().map(|(_, said)| said.0.len()).sum::<usize>()).sum(),
            C::Downgraded(back) => back.members.values().map(|m| 256 + m.protocols.iter().map(|(_, said)| said.0.len()).sum::<usize>()).sum(),
            C::Opened { .. } | C::Closed | C::Speaks { .. } | C::Replaced { .. } | C::Removed { .. } | C::Preparing | C::Generation { .. } => 0,
        },
        _ => 0,
    };
    records.len() + records.iter().map(bytes).sum::<usize>() / 200
}

fn take(group: &GroupId, draft: &mut Draft, own: &mut Soft, w: &Waiting) -> Vec<Effect> {
    let mut turn = Turn::new(group, draft, own);
    match (&w.what, w.ticket) {
        (What::Request(Command::Classic(command)), Some(ticket)) => match command {
            ClassicCommand::Join(j) => join::join(&mut turn, ticket, j),
            ClassicCommand::Sync(s) => sync::sync(&mut turn, ticket, s),
            ClassicCommand::Heartbeat(b) => sync::heartbeat(&mut turn, ticket, b),
            ClassicCommand::Leave(leavers) => leave::leave(&mut turn, ticket, leavers),
            ClassicCommand::Commit(c) => sync::commit(&mut turn, ticket, c),
        },
        (What::Timer(TimerCommand::Classic(due)), _) => match due {
            Due::Session { member } => rebalance::session_timed_out(&mut turn, member),
            Due::Join => rebalance::join_phase_timed_out(&mut turn),
            Due::Sync => rebalance::sync_phase_timed_out(&mut turn),
            Due::JoinOf { .. } | Due::SyncOf { .. } => {}
        },
        (What::Request(_) | What::Timer(_) | What::Done(_), _) => {}
    }
    turn.effects
}

/// Timers start at once. Answers wait for the group's batch of this drain, if there is one: they tell what it writes.
fn carry_out(l: &mut Leading, out: &mut VecDeque<Action>, drain: &mut drain::Drain, group: &GroupId, arrived: Millis, effects: Vec<Effect>) {
    let behind = drain.batches.contains_key(group);
    for effect in effects {
        match effect {
            Effect::Answer(ticket, result) if behind => drain.replies.push(Answer { ticket, group: group.clone(), command: None, arrived, result }),
            Effect::Answer(ticket, result) => answers::reply(out, Some(ticket), result),
            Effect::Arm(due, after_ms) => {
                let (t, at) = (timer(group, &due), drain.now.mono_ms + after_ms);
                l.timers.arm(t.clone(), at);
                if behind {
                    drain.armed.push((t, at));
                }
            }
            Effect::Cancel(due) => l.timers.cancel(&timer(group, &due)),
            // These are of members of consumer groups.
            Effect::ArmIfAbsent(..) | Effect::Heard(_) => {}
        }
    }
}

/// The timers of classic members of a consumer group. A refusal has them too: who is called to join is refused, and lives.
pub(super) fn carry_out_mixed(l: &mut Leading, drain: &mut drain::Drain, group: &GroupId, after: Option<&Group>, effects: Vec<Effect>) {
    for effect in effects {
        let (t, at) = match effect {
            Effect::Arm(due, after_ms) => (timer(group, &due), drain.now.mono_ms + after_ms),
            Effect::ArmIfAbsent(due, after_ms) if l.timers.deadline(&timer(group, &due)).is_none() => (timer(group, &due), drain.now.mono_ms + after_ms),
            Effect::Heard(member) => {
                let Some(m) = after.and_then(|g| g.members.get(&member)) else { continue };
                (Timer::Command(group.clone(), TimerCommand::ExpireSession { member }), drain.now.mono_ms + m.session_promised_ms)
            }
            Effect::Cancel(due) => {
                l.timers.cancel(&timer(group, &due));
                continue;
            }
            Effect::ArmIfAbsent(..) | Effect::Answer(..) => continue,
        };
        l.timers.arm(t.clone(), at);
        if drain.batches.contains_key(group) {
            drain.armed.push((t, at));
        }
    }
}

/// The draft broke an invariant: our bug. Nothing of the turn has happened; whoever it would have answered or held is told to try again.
#[allow(clippy::too_many_arguments)]
fn give_up(
    l: &mut Leading, out: &mut VecDeque<Action>, stats: &mut ShardStats, drain: &mut drain::Drain, w: &Waiting, group: Option<&Arc<Group>>, own: Soft, effects: Vec<Effect>, limits: &Limits,
    why: String,
) {
    let answered = effects.into_iter().filter_map(|e| if let Effect::Answer(ticket, _) = e { Some(ticket) } else { None });
    let mut waiting: BTreeSet<Ticket> = answered.chain(own.held()).collect();
    if let Some(t) = w.ticket {
        waiting.remove(&t);
    }
    tell_to_retry(out, waiting);
    drain::refuse(l, out, stats, drain, w, group, why);
    if let Some(c) = group.and_then(|g| g.classic.as_deref()) {
        arm_found(l, &w.group, c, limits, drain.now);
    }
}

fn tell_to_retry(out: &mut VecDeque<Action>, tickets: impl IntoIterator<Item = Ticket>) {
    for ticket in tickets {
        answers::reply(out, Some(ticket), Err(GroupError::Unavailable { reason: "the group's leader had to begin its rebalance anew".into() }));
    }
}

/// Goes on as a leader that has just found the group.
fn arm_found(l: &mut Leading, id: &GroupId, c: &Classic, limits: &Limits, now: Now) {
    l.classic.insert(id.clone(), Soft::found(c));
    arm_all(l, id, c, limits, now);
}

fn arm_all(l: &mut Leading, id: &GroupId, c: &Classic, limits: &Limits, now: Now) {
    let Some(own) = l.classic.get(id) else { return };
    for (due, after_ms) in own.timers(c, limits.classic.first_join_timeout_ms) {
        l.timers.arm(timer(id, &due), now.mono_ms + after_ms);
    }
}

/// A new leader, or one whose lease had lapsed: every timer at full length. Who waits at this node goes on waiting.
pub(super) fn take_over(l: &mut Leading, id: &GroupId, g: &Group, limits: &Limits, now: Now) {
    let Some(c) = g.classic.as_deref() else { return };
    if l.classic.contains_key(id) { arm_all(l, id, c, limits, now) } else { arm_found(l, id, c, limits, now) }
}

/// After an entry of this leader was replayed: the timers that its answers start run from now on, and what was decided with a lost batch is forgotten.
pub(super) fn settle(l: &mut Leading, out: &mut VecDeque<Action>, state: &State, limits: &Limits, now: Now) {
    for (t, at, decided_at) in std::mem::take(&mut l.armed) {
        if l.timers.deadline(&t) == Some(at) {
            l.timers.arm(t, at + now.mono_ms.saturating_sub(decided_at));
        }
    }
    for id in std::mem::take(&mut l.lost) {
        let Some(own) = l.classic.remove(&id) else { continue };
        tell_to_retry(out, own.held().collect::<Vec<_>>());
        disarm(l, &id);
        if let Some(c) = state.groups.get(&id).and_then(|g| g.classic.as_deref()) {
            arm_found(l, &id, c, limits, now);
        }
    }
}

fn disarm(l: &mut Leading, id: &GroupId) {
    let mine: Vec<Timer> = l.timers.of_group(id).filter(|t| matches!(t, Timer::Command(_, TimerCommand::Classic(_))) && !goes_on(t)).cloned().collect();
    mine.iter().for_each(|t| l.timers.cancel(t));
}

/// Who was called to join, or has joined and was to sync, is held to it: a conversion and another one back do not put it off (as in Kafka). A classic group takes no notice.
fn goes_on(t: &Timer) -> bool { matches!(t, Timer::Command(_, TimerCommand::Classic(Due::JoinOf { .. } | Due::SyncOf { .. }))) }

/// Follows a batch that was applied: a group that has become a classic one is taken up as found; one that is no longer asks whoever waits to join again.
pub(super) fn follow(l: &mut Leading, out: &mut VecDeque<Action>, id: &GroupId, group: Option<&Group>, limits: &Limits, now: Now) {
    match group.and_then(|g| g.classic.as_deref()) {
        Some(c) if !l.classic.contains_key(id) => {
            // What ran for the members of a consumer group is over.
            let before: Vec<Timer> = l.timers.of_group(id).filter(|t| !goes_on(t)).cloned().collect();
            before.iter().for_each(|t| l.timers.cancel(t));
            arm_found(l, id, c, limits, now);
        }
        Some(_) => {}
        None => {
            let Some(own) = l.classic.remove(id) else { return };
            disarm(l, id);
            let code = if group.is_some() { ClassicCode::RebalanceInProgress } else { ClassicCode::UnknownMemberId };
            for (member, ticket) in own.joining.into_iter().chain(own.syncing) {
                answers::reply(out, Some(ticket), Err(GroupError::Classic { code, member: Some(member) }));
            }
        }
    }
}
