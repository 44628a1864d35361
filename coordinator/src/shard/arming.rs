//! Which timers run: armed in full when a leader takes over, moved on by what batches change, and the sweep that looks groups through.

use super::*;
use crate::{classic::{ClassicRecord, Due}, decide::TimerCommand};

/// The old target stays in force until the assignment interval is over.
pub(super) fn assignor_failed(l: &mut Leading, state: &State, stats: &mut ShardStats, id: &GroupId, now: Now) {
    stats.failed_assignments += 1;
    l.assigned_at.insert(id.clone(), now.mono_ms);
    let g = state.groups.get(id).map(|g| &**g);
    arm_assign(l, id, g, now.mono_ms + g.map_or(0, |g| g.config.assignment_interval_ms.max(FAILED_AGAIN_MS)));
}

/// An assignor that failed is not run again sooner than this.
const FAILED_AGAIN_MS: Millis = 1_000;

pub(super) fn arm_assign(l: &mut Leading, group: &GroupId, g: Option<&Group>, at: Millis) {
    // While a target is being computed, its result decides what comes next; if that is lost, it is asked for again.
    let at = l.working.get(&(group.clone(), Kind::Assign)).map_or(at, |o| at.max(o.lost_at()));
    if g.is_some_and(|g| g.epoch > g.target_epoch && g.has_conforming()) {
        l.timers.arm(Timer::Command(group.clone(), TimerCommand::Refresh), at);
    }
}

/// Looks whether a group of whoever stops by a deadline is to take over newer facts.
pub(super) fn refresh_group(l: &mut Leading, id: &GroupId, g: &Group, image: &Metadata, now: Now) {
    // A group of Kafka members looks at the image at its members' heartbeats: only there can they be told, and several changes are then one.
    let topics_differ = || g.has_conforming() && g.subscribed_topics().iter().any(|t| image.topics.get(t) != g.topics.get(t));
    let to_look = || !g.said.is_empty() && g.has_conforming() && g.regexes.values().any(|r| r.revision < image.topics_made_at);
    if to_look() {
        let at = l.regexes_at.get(id).map_or(now.mono_ms, |at| at + crate::regexes::REFRESH_MIN_MS + 1);
        l.timers.arm(Timer::Command(id.clone(), TimerCommand::Refresh), at.max(now.mono_ms));
    }
    if image.config_of(id) != g.config || topics_differ() {
        l.queue_timer(id, TimerCommand::Refresh, now);
    }
}

/// Arms everything of a group in full, as a new leader does.
pub(super) fn arm_group(l: &mut Leading, id: &GroupId, g: &Group, image: &Metadata, now: Now) {
    for (m, member) in &g.members {
        if seeded::on(5) {
            continue;
        }
        let session = if seeded::on(24) { image.config_of(id).session_timeout_ms } else { member.session_promised_ms };
        let session = if seeded::on(6) { session / 10 } else { session };
        l.timers.arm(Timer::Command(id.clone(), TimerCommand::ExpireSession { member: m.clone() }), now.mono_ms + session);
        arm_member(l, id, m, member, now);
    }
    for (p, h) in &g.holds {
        l.timers.arm(Timer::Command(id.clone(), TimerCommand::ReleaseHold { partition: p.clone(), token: h.token }), now.mono_ms + hold_ms(h));
    }
    arm_assign(l, id, Some(g), now.mono_ms);
}

/// A hold lasts one full promised session.
fn hold_ms(h: &Hold) -> Millis { if seeded::on(62) { h.promised_session_ms / 2 } else { h.promised_session_ms } }

/// Timers of a member besides its session; those that run already go on.
fn arm_member(l: &mut Leading, group: &GroupId, id: &MemberId, m: &Member, now: Now) {
    // A classic member is called to join instead, and has the same time for that.
    if let Some(revoked_at) = m.pending.values().map(|p| p.revoked_at).min().filter(|_| m.classic.is_none()) {
        let t = Timer::Command(group.clone(), TimerCommand::ExpireRebalance { member: id.clone(), revoked_at });
        if l.timers.deadline(&t).is_none() || seeded::on(226) {
            l.timers.arm(t, now.mono_ms + m.rebalance_timeout_ms);
        }
    }
    // One that was armed for another value told says nothing any more: the session was raised since, or lowered further.
    let lower = |told_ms: u64| Timer::Command(group.clone(), TimerCommand::LowerSession { member: id.clone(), told_ms });
    let lowering = m.session_promised_ms > m.session_told_ms;
    if lowering && m.session_told_ms > 0 {
        l.timers.cancel_between(lower(0), lower(m.session_told_ms - 1));
        l.timers.cancel_between(lower(m.session_told_ms + 1), lower(u64::MAX));
    } else {
        l.timers.cancel_between(lower(0), lower(u64::MAX));
    }
    if lowering {
        let t = lower(m.session_told_ms);
        if l.timers.deadline(&t).is_none() {
            l.timers.arm(t, now.mono_ms + m.session_promised_ms);
        }
    }
}

/// How many groups one step of a sweep looks at, and how soon the next step follows.
const SWEEP_STEP: (usize, Millis) = (500, 20);

/// Looks some groups through for what retention is over for. At the end of a round the time is written down, so that it also goes on in an idle shard.
pub(super) fn sweep(l: &mut Leading, state: &State, image: &Metadata, now: Now) {
    let time_ms = l.time(now);
    let from = l.swept.take().map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
    let mut looked_at = 0;
    for (id, g) in state.groups.range((from, std::ops::Bound::Unbounded)) {
        if looked_at == SWEEP_STEP.0 {
            break;
        }
        looked_at += 1;
        l.swept = Some(id.clone());
        if decide::offsets::to_sweep(id, g, image, time_ms) {
            l.queue_timer(id, TimerCommand::Sweep, now);
        }
    }
    if looked_at == SWEEP_STEP.0 {
        l.sweep_at = now.mono_ms + SWEEP_STEP.1;
        return;
    }
    l.swept = None;
    l.sweep_at = now.mono_ms + SWEEP_EVERY_MS;
    l.tick = !state.groups.is_empty() && time_ms >= state.time_ms + SWEEP_EVERY_MS / 2;
}

/// Follows a batch that was applied: `members` are those it names.
pub(super) fn follow_group(l: &mut Leading, id: &GroupId, group: Option<&Group>, members: &BTreeSet<MemberId>, now: Now) {
    let Some(g) = group else {
        let gone: Vec<Timer> = l.timers.of_group(id).cloned().collect();
        gone.iter().for_each(|t| l.timers.cancel(t));
        l.assigned_at.remove(id);
        l.behind.remove(id);
        l.facts_seen.remove(id);
        l.regexes_at.remove(id);
        l.forget_work(id);
        return;
    };
    for m in members {
        match g.members.get(m) {
            Some(member) => {
                let session = Timer::Command(id.clone(), TimerCommand::ExpireSession { member: m.clone() });
                // A new member, or one that has just been heard: the batch was its own heartbeat's, or it learns of the change within its session.
                let at = now.mono_ms + member.session_promised_ms;
                if l.timers.deadline(&session).is_none_or(|old| old < at) {
                    l.timers.arm(session, at);
                }
                arm_member(l, id, m, member, now);
            }
            None => {
                l.timers.cancel(&Timer::Command(id.clone(), TimerCommand::ExpireSession { member: m.clone() }));
                for due in [Due::JoinOf { member: m.clone() }, Due::SyncOf { member: m.clone() }] {
                    l.timers.cancel(&classic::timer(id, &due));
                }
            }
        }
    }
    for (p, h) in &g.holds {
        let t = Timer::Command(id.clone(), TimerCommand::ReleaseHold { partition: p.clone(), token: h.token });
        if l.timers.deadline(&t).is_none() {
            l.timers.arm(t, now.mono_ms + hold_ms(h));
        }
    }
}

/// Whether a batch is about committed positions alone. An administrator's commit may be what made the group, so it must not have done that.
pub(super) fn only_offsets(records: &[Record]) -> bool { records.iter().all(|r| matches!(r, Record::Offset(_) | Record::OffsetsRemoved { .. } | Record::OffsetsExpired { .. })) }

/// The members that a batch names.
pub(super) fn members_of(records: &[Record]) -> BTreeSet<MemberId> {
    let mut out = BTreeSet::new();
    for r in records {
        match r {
            Record::Joined(j) => out.insert(j.member.clone()),
            Record::Reconciled(r) => out.insert(r.member.clone()),
            Record::Removed { member, .. } | Record::Session { member, .. } | Record::Subscribed { member, .. } | Record::Regranted { member, .. } => out.insert(member.clone()),
            Record::Replaced(r) => {
                out.insert(r.old.clone());
                out.insert(r.new.clone())
            }
            Record::Classic(c) => match &**c {
                ClassicRecord::Upgraded { members, .. } => {
                    out.extend(members.iter().map(|m| m.member.clone()));
                    true
                }
                ClassicRecord::Speaks { member, .. } => out.insert(member.clone()),
                _ => false,
            },
            Record::Created | Record::HoldReleased { .. } | Record::Epoch { .. } | Record::Target { .. } | Record::Topics { .. } | Record::Config { .. }
            | Record::Offset(_) | Record::OffsetsRemoved { .. } | Record::OffsetsExpired { .. } | Record::History(_) | Record::Deleted | Record::Quarantined { .. } | Record::Repaired
            | Record::Settled | Record::Instance { .. } | Record::Away { .. } | Record::Regex { .. } => false,
        };
    }
    out
}
