//! The two phases of a rebalance, and what ends them: everybody has come, or time is over.

use super::{command::*, join, record::ClassicRecord, soft::*, state::*};
use crate::{ids::*, seeded};
use std::collections::BTreeMap;

/// Begins a join phase, or ends the one that is under way if nobody is missing.
pub fn advance(turn: &mut Turn, reason: String) {
    match turn.phase() {
        Phase::Preparing => end_if_complete(turn),
        Phase::Empty | Phase::Completing | Phase::Stable => prepare(turn, reason),
    }
}

/// Ends the join phase if nobody is missing; a first one waits for its delay all the same.
pub fn end_if_complete(turn: &mut Turn) {
    if turn.phase() == Phase::Preparing && turn.soft.initial.is_none() && turn.all_joined() {
        end_join_phase(turn);
    }
}

/// Begins a join phase. Whoever waits for an assignment of the generation before is asked to join again.
pub fn prepare(turn: &mut Turn, reason: String) {
    let initial = turn.phase() == Phase::Empty;
    let told = if seeded::on(232) { BTreeMap::new() } else { std::mem::take(&mut turn.soft.syncing) };
    for (id, ticket) in told {
        turn.refuse(ticket, ClassicCode::RebalanceInProgress, None);
        turn.heard(&id);
    }
    turn.soft.pending_sync.clear();
    turn.soft.unsynced_place = false;
    turn.cancel(Due::Sync);
    turn.put(ClassicRecord::Preparing);
    turn.note("rebalance", reason, None);
    let timeout = turn.classic().map_or(0, Classic::rebalance_timeout_ms);
    turn.soft.initial = None;
    if initial {
        // The group is new: the members of one deployment get time to come, so that they share one rebalance.
        let delay_ms = turn.draft.context.limits.classic.initial_rebalance_delay_ms;
        turn.soft.initial = Some(Initial { delay_ms, remaining_ms: timeout.saturating_sub(delay_ms) });
        turn.arm(Due::Join, delay_ms);
    } else if turn.all_joined() {
        end_join_phase(turn);
    } else {
        turn.arm(Due::Join, timeout);
    }
}

/// The join phase has lasted as long as it may. A first one is extended while members come, up to the rebalance timeout.
pub fn join_phase_timed_out(turn: &mut Turn) {
    if turn.phase() != Phase::Preparing {
        return;
    }
    if let Some(i) = turn.soft.initial
        && turn.soft.extend
        && i.remaining_ms > 0
    {
        let delay_ms = turn.draft.context.limits.classic.initial_rebalance_delay_ms.min(i.remaining_ms);
        turn.soft.extend = false;
        turn.soft.initial = Some(Initial { delay_ms, remaining_ms: i.remaining_ms.saturating_sub(i.delay_ms) });
        return turn.arm(Due::Join, delay_ms);
    }
    end_join_phase(turn);
}

/// Ends the join phase: dynamic members that have not come are out, static ones stay; the rest is the next generation.
pub fn end_join_phase(turn: &mut Turn) {
    turn.cancel(Due::Join);
    let Some(c) = turn.classic() else { return };
    let late: Vec<MemberId> = c.members.iter().filter(|(id, m)| m.instance_id.is_none() && !turn.soft.joining.contains_key(*id) && !seeded::on(52)).map(|(id, _)| id.clone()).collect();
    for id in late {
        turn.note("expired", format!("{id} did not join again within the rebalance timeout"), Some(&id));
        remove(turn, &id, ClassicCode::UnknownMemberId);
    }
    let Some(c) = turn.classic() else { return };
    let timeout = c.rebalance_timeout_ms();
    // Who assigns must be here to do it.
    let here = |id: &&MemberId| turn.soft.joining.contains_key(*id) || seeded::on(236);
    let assigning_member = c.assigning_member.as_ref().filter(here).or_else(|| c.members.keys().find(here)).cloned();
    if assigning_member.is_none() && !c.members.is_empty() {
        // Only static members, and none has come: their sessions decide.
        if let Some(i) = &mut turn.soft.initial {
            i.remaining_ms = 0;
        }
        return turn.arm(Due::Join, timeout);
    }
    let generation = c.generation + 1;
    let protocol = c.elect_protocol();
    let members = c.members.len();
    let cause = match &protocol {
        Some(p) => format!("generation {generation} has {members} members and the strategy {p}"),
        None => format!("generation {generation} has no members"),
    };
    let time_ms = turn.draft.context.time_ms;
    turn.put(ClassicRecord::Generation { generation, time_ms, protocol, assigning_member });
    turn.note("generation", cause, None);
    turn.soft.pending_sync.clear();
    turn.soft.unsynced_place = false;
    turn.soft.initial = None;
    begin_sync_phase(turn, timeout);
}

/// Tells everybody who waits about the generation, the assigning member about its members.
fn begin_sync_phase(turn: &mut Turn, timeout: u64) {
    let waiting = std::mem::take(&mut turn.soft.joining);
    let Some(c) = turn.classic().filter(|c| !c.members.is_empty()) else { return };
    let members: Vec<MemberId> = c.members.keys().cloned().collect();
    let answer = |(id, ticket)| (ticket, join::joined(c, &id, if c.is_assigning(&id) { c.list() } else { Vec::new() }));
    for (ticket, answer) in waiting.into_iter().map(answer).collect::<Vec<_>>() {
        turn.answer(ticket, answer);
    }
    for id in members {
        turn.heard(&id);
        turn.soft.pending_sync.insert(id);
    }
    turn.soft.new.clear();
    turn.arm(Due::Sync, timeout);
}

/// The sync phase has lasted as long as it may: whoever has not synced is out.
pub fn sync_phase_timed_out(turn: &mut Turn) {
    if !matches!(turn.phase(), Phase::Completing | Phase::Stable) || turn.soft.all_synced() {
        return;
    }
    let late: Vec<MemberId> = turn.soft.pending_sync.iter().cloned().collect();
    for id in &late {
        turn.note("expired", format!("{id} did not sync within the rebalance timeout"), Some(id));
        remove(turn, id, ClassicCode::UnknownMemberId);
    }
    prepare(turn, format!("{} members did not sync", late.len() + usize::from(turn.soft.unsynced_place)));
}

/// A member, or an id that was told, was not heard of for its session.
pub fn session_timed_out(turn: &mut Turn, member: &MemberId) {
    if turn.soft.pending.remove(member).is_some() {
        if turn.phase() == Phase::Preparing && turn.all_joined() {
            end_join_phase(turn);
        }
        return;
    }
    let Some(m) = turn.classic().and_then(|c| c.members.get(member)) else { return };
    // Who waits for us cannot be heard of; but a client that never had an answer may be gone without a word.
    let waits = turn.soft.joining.contains_key(member) || turn.soft.syncing.contains_key(member);
    if waits && !turn.soft.new.contains(member) {
        return;
    }
    let cause = format!("{member} was not heard of for its session of {} ms", m.session_timeout_ms);
    turn.note("expired", cause.clone(), Some(member));
    remove(turn, member, ClassicCode::UnknownMemberId);
    match turn.phase() {
        Phase::Completing | Phase::Stable => prepare(turn, cause),
        Phase::Preparing if turn.all_joined() => end_join_phase(turn),
        Phase::Preparing | Phase::Empty => {}
    }
}

/// Takes a member out; what it waits for is refused with `code`.
pub fn remove(turn: &mut Turn, id: &MemberId, code: ClassicCode) {
    for held in [turn.soft.joining.remove(id), turn.soft.syncing.remove(id)].into_iter().flatten() {
        turn.refuse(held, code, None);
    }
    turn.soft.new.remove(id);
    turn.soft.pending_sync.remove(id);
    turn.cancel(Due::Session { member: id.clone() });
    let Some(c) = turn.classic() else { return };
    let next = if c.is_assigning(id) { c.members.keys().find(|m| *m != id).cloned() } else { c.assigning_member.clone() };
    turn.put(ClassicRecord::Removed { member: id.clone(), assigning_member: next });
}
