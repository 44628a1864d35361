//! Answers and who waits for them: a heartbeat that has nothing new to learn may be held, and every accepted one re-arms its session.

use super::*;
use crate::decide::TimerCommand;

/// What an answer needs to know of its request: of a heartbeat that may be held, all.
pub(super) fn may_be_held(c: &Command) -> Option<Command> { if matches!(c, Command::Heartbeat(h) if h.wait_ms > 0) { Some(c.clone()) } else { None } }

pub(super) fn reply(out: &mut VecDeque<Action>, ticket: Option<Ticket>, result: Result<Response, GroupError>) {
    if let Some(ticket) = ticket {
        out.push_back(Action::Reply { ticket, result });
    }
}

pub(super) fn count(stats: &mut ShardStats, c: &Command) {
    if matches!(c, Command::Heartbeat(_) | Command::Consumer(_)) {
        stats.heartbeats += 1;
    }
}

/// Seeded bug 51: commits are acknowledged when they are proposed.
pub(super) fn answer_too_early(out: &mut VecDeque<Action>, replies: &mut Vec<Answer>) {
    let early = |a: &Answer| matches!(a.result, Ok(Response::Committed(_))) && seeded::on(51);
    for a in replies.extract_if(.., |a| early(a)) { out.push_back(Action::Reply { ticket: a.ticket, result: a.result }); }
}

/// Gives an answer, or holds a heartbeat that has nothing new to learn and said it would wait.
pub(super) fn answer(l: &mut Leading, out: &mut VecDeque<Action>, a: Answer) {
    let Answer { ticket, group, command, arrived, result } = a;
    if let (Some(Command::Heartbeat(h)), Ok(Response::Heartbeat(v))) = (&command, &result) {
        let knows_all = h.epoch == v.member_epoch && h.assignment_revision == v.assignment_revision && v.assignment.is_none();
        if v.waited_at_most_ms > 0 && knows_all {
            let until = arrived + v.waited_at_most_ms;
            // Its time may be over, because an entry took long: a deadline before the loop's last look would pass for a late loop, and put everything off (`safety.md` 19).
            let rings_at = if seeded::on(225) { until } else { until.max(l.looked_at) };
            l.timers.arm(Timer::Wait(group.clone(), h.member.clone()), rings_at);
            let key = (group, h.member.clone());
            let held = Held { ticket, heartbeat: h.clone(), until, response: Response::Heartbeat(v.clone()) };
            if let Some(earlier) = l.held.insert(key, held) {
                out.push_back(Action::Reply { ticket: earlier.ticket, result: Ok(earlier.response) });
            }
            return;
        }
    }
    out.push_back(Action::Reply { ticket, result });
}

/// Ends a held heartbeat: answered as of now; behind a batch of its group that is in flight (`safety.md` 1). With `incarnation`, only one of that process.
pub(super) fn end_wait(l: &mut Leading, out: &mut VecDeque<Action>, group: &GroupId, member: &MemberId, incarnation: Option<Incarnation>, now: Now) {
    let key = (group.clone(), member.clone());
    if l.held.get(&key).is_none_or(|h| incarnation.is_some_and(|i| i != h.heartbeat.incarnation)) {
        return;
    }
    l.timers.cancel(&Timer::Wait(group.clone(), member.clone()));
    let Some(h) = l.held.remove(&key) else { return };
    if l.in_flight.as_ref().is_some_and(|f| f.groups.contains(group)) && !seeded::on(227) {
        l.queue_held(group, h, 0, now);
    } else {
        out.push_back(Action::Reply { ticket: h.ticket, result: Ok(h.response) });
    }
}

/// An accepted heartbeat re-arms its member's session in full from its arrival: by the promise, never by the shorter value told (`safety.md` 11).
/// A full re-arming, at taking over or after a lapse, is not undone by a heartbeat that had waited through it.
pub(super) fn heard(l: &mut Leading, group: &GroupId, arrived: Millis, g: Option<&Group>, result: Option<&Result<Response, GroupError>>) {
    let member = match result {
        Some(Ok(Response::Heartbeat(v))) => &v.member,
        // Who leaves for a while goes on with the session that it has.
        Some(Ok(Response::Consumer(v))) if v.epoch >= 0 => &v.member,
        _ => return,
    };
    let Some(m) = g.and_then(|g| g.members.get(member)) else { return };
    let timer = Timer::Command(group.clone(), TimerCommand::ExpireSession { member: member.clone() });
    let from = if seeded::on(183) { arrived } else { arrived.max(l.rearmed_at) };
    l.timers.arm(timer, from + if seeded::on(182) { m.session_told_ms } else { m.session_promised_ms });
}
