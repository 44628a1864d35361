//! SyncGroup, Heartbeat and OffsetCommit of a member of a generation.

use super::{command::*, join, record::ClassicRecord, soft::*, state::*};
use crate::{command::*, decide, ids::*, seeded, shard::Ticket};

pub fn sync(turn: &mut Turn, ticket: Ticket, s: &Sync) {
    let Some(c) = turn.classic().filter(|c| c.phase != Phase::Empty) else { return turn.refuse(ticket, ClassicCode::UnknownMemberId, None) };
    if let Err(code) = in_generation(c, &s.member, s.instance_id.as_ref(), if seeded::on(44) { c.generation } else { s.generation }) {
        return turn.refuse(ticket, code, None);
    }
    let differs = |asked: &Option<String>, have: &Option<String>| asked.is_some() && have.is_some() && asked != have;
    if differs(&s.protocol_type, &c.protocol_type) || differs(&s.protocol, &c.protocol) {
        return turn.refuse(ticket, ClassicCode::InconsistentGroupProtocol, None);
    }
    match c.phase {
        Phase::Empty | Phase::Preparing => turn.refuse(ticket, ClassicCode::RebalanceInProgress, None),
        Phase::Completing => {
            let assigning = c.is_assigning(&s.member);
            synced(turn, &s.member);
            let earlier = turn.soft.syncing.insert(s.member.clone(), ticket);
            turn.superseded(earlier);
            if assigning {
                assign(turn, s);
            }
        }
        Phase::Stable => {
            let answer = assignment(c, &s.member);
            synced(turn, &s.member);
            turn.answer(ticket, answer);
        }
    }
}

/// The assigning member has brought the assignment: everybody who waits gets its part.
fn assign(turn: &mut Turn, s: &Sync) {
    let Some(c) = turn.classic() else { return };
    let assignments = s.assignments.iter().filter(|(id, _)| c.members.contains_key(*id)).map(|(id, a)| (id.clone(), a.clone())).collect();
    turn.put(ClassicRecord::Assigned { generation: s.generation, assignments });
    turn.note("assigned", format!("{} assigned generation {}", s.member, s.generation), Some(&s.member));
    for (id, ticket) in std::mem::take(&mut turn.soft.syncing) {
        let Some(c) = turn.classic() else { return };
        let answer = assignment(c, &id);
        turn.answer(ticket, answer);
        turn.heard(&id);
    }
}

fn assignment(c: &Classic, id: &MemberId) -> ClassicAnswer {
    let assignment = c.members.get(id).map(|m| m.assignment.clone()).unwrap_or_default();
    ClassicAnswer::Synced { protocol_type: c.protocol_type.clone(), protocol: c.protocol.clone(), assignment }
}

fn synced(turn: &mut Turn, id: &MemberId) {
    turn.soft.pending_sync.remove(id);
    if turn.soft.all_synced() {
        turn.cancel(Due::Sync);
    }
}

fn in_generation(c: &Classic, member: &MemberId, instance: Option<&InstanceId>, generation: i32) -> Result<(), ClassicCode> {
    c.validate(member, instance)?;
    if generation == c.generation { Ok(()) } else { Err(ClassicCode::IllegalGeneration) }
}

/// Keeps the member's session, also in a rebalance: that it must join again is another matter.
pub fn heartbeat(turn: &mut Turn, ticket: Ticket, b: &Beat) {
    let Some(c) = turn.classic() else { return turn.refuse(ticket, ClassicCode::UnknownMemberId, None) };
    if let Err(code) = in_generation(c, &b.member, b.instance_id.as_ref(), b.generation) {
        return turn.refuse(ticket, code, None);
    }
    let phase = c.phase;
    turn.heard(&b.member);
    match phase {
        Phase::Empty | Phase::Preparing => turn.refuse(ticket, ClassicCode::RebalanceInProgress, None),
        Phase::Completing | Phase::Stable => turn.answer(ticket, ClassicAnswer::Heartbeat),
    }
}

/// Offsets under a generation, or of nobody's while the group is empty. A member that commits lives.
pub fn commit(turn: &mut Turn, ticket: Ticket, commit: &GenerationCommit) {
    let anonymous = commit.generation < 0 && commit.member.as_str().is_empty() && commit.instance_id.is_none();
    let code = match turn.classic() {
        // A negative generation is accepted in an empty group, whoever sends it.
        _ if commit.generation < 0 && turn.phase() == Phase::Empty && turn.draft.group().is_none_or(|g| g.members.is_empty()) => None,
        None => Some(ClassicCode::IllegalGeneration),
        Some(_) if anonymous => Some(ClassicCode::UnknownMemberId),
        Some(c) if seeded::on(48) && c.members.contains_key(&commit.member) => None,
        Some(c) => match in_generation(c, &commit.member, commit.instance_id.as_ref(), commit.generation) {
            Err(code) => Some(code),
            // It knows the generation and has no assignment in it yet.
            Ok(()) if c.phase == Phase::Completing && !seeded::on(237) => Some(ClassicCode::RebalanceInProgress),
            Ok(()) => None,
        },
    };
    if let Some(code) = code {
        return turn.refuse(ticket, code, None);
    }
    if turn.draft.group().is_none() {
        join::open(turn);
    }
    let results = decide::commit_without_token(turn.draft, &commit.offsets);
    if matches!(turn.phase(), Phase::Stable | Phase::Preparing) {
        turn.heard(&commit.member);
    }
    turn.effects.push(Effect::Answer(ticket, Ok(Response::Committed(results))));
}
