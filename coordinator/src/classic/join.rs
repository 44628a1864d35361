//! JoinGroup: who is it, does it fit, and does it call for a new generation.

use super::{command::*, rebalance, record::ClassicRecord, soft::*, state::*};
use crate::{ids::*, record::Record, shard::Ticket};

/// The first version in which a dynamic member learns its id before it is let in (KIP-394).
const MEMBER_ID_FIRST: i16 = 4;
/// The first version whose answer can say that the assigning member must not assign (KIP-814).
const SKIPS_ASSIGNMENT: i16 = 9;

pub fn join(turn: &mut Turn, ticket: Ticket, j: &Join) {
    let config = &turn.draft.context.limits.classic;
    if !(config.session_timeout_min_ms..=config.session_timeout_max_ms).contains(&j.session_timeout_ms) {
        return turn.refuse(ticket, ClassicCode::InvalidSessionTimeout, Some(&j.member));
    }
    let (first, members_max) = (j.member.as_str().is_empty(), config.members_max);
    if turn.classic().is_none() {
        // Only a member that has no id yet may find no group: one with an id was in a group that is gone.
        if !first {
            begin_anew(turn);
            return turn.refuse(ticket, ClassicCode::UnknownMemberId, Some(&j.member));
        }
        if let Some(code) = closed_to(turn, j) {
            return turn.refuse(ticket, code, None);
        }
        open(turn);
    }
    let Some(c) = turn.classic() else { return };
    if !has_room(c, turn.soft, &j.member, members_max) {
        // An existing member that came too late for its place is out.
        if c.members.contains_key(&j.member) {
            rebalance::remove(turn, &j.member, ClassicCode::GroupMaxSizeReached);
        }
        turn.soft.pending.remove(&j.member);
        return turn.refuse(ticket, ClassicCode::GroupMaxSizeReached, None);
    }
    if !c.supports(&j.protocol_type, &j.protocols) {
        return turn.refuse(ticket, ClassicCode::InconsistentGroupProtocol, if first { None } else { Some(&j.member) });
    }
    if first { newcomer(turn, ticket, j) } else { returning(turn, ticket, j) }
}

/// Why a group that is not a classic one cannot become one by this join.
fn closed_to(turn: &Turn, j: &Join) -> Option<ClassicCode> {
    let taken = turn.draft.group().is_some_and(|g| !g.members.is_empty() || !g.holds.is_empty());
    (taken || !Classic::default().supports(&j.protocol_type, &j.protocols)).then_some(ClassicCode::InconsistentGroupProtocol)
}

/// A classic member looks for its group, and a consumer group without members is not it: the group begins anew, so that nobody's epoch of before counts for one of after (Kafka 4.3
/// forgets the group here). Offsets, history and fenced processes stay; a hold keeps the group as it is (`safety.md` 13).
fn begin_anew(turn: &mut Turn) {
    if turn.draft.group().is_some_and(|g| g.members.is_empty() && g.holds.is_empty() && !g.is_blank()) {
        open(turn);
        turn.put(ClassicRecord::Closed);
        turn.note("renewed", "a classic member asked for a group that nobody is in any more: its epochs begin anew".into(), None);
    }
}

/// A group without members becomes a classic one, with generation 0.
pub fn open(turn: &mut Turn) {
    if turn.draft.group().is_none() {
        turn.draft.put(Record::Created);
        let config = turn.draft.context.metadata.config_of(turn.group);
        turn.draft.put(Record::Config { config });
    }
    let time_ms = turn.draft.context.time_ms;
    turn.put(ClassicRecord::Opened { time_ms });
}

/// In the join phase those count that have come: so the last to come are left out when the limit was lowered.
fn has_room(c: &Classic, soft: &Soft, member: &MemberId, max: usize) -> bool {
    match c.phase {
        Phase::Empty => true,
        Phase::Preparing => soft.joining.contains_key(member) || soft.joining.len() < max,
        Phase::Completing | Phase::Stable => c.members.contains_key(member) || c.members.len() < max,
    }
}

/// No id yet: a static member takes its place, or the place of its earlier process; a dynamic one is told its id first.
fn newcomer(turn: &mut Turn, ticket: Ticket, j: &Join) {
    let id = member_id(j.instance_id.as_ref().map_or(&*j.client_id, |i| i.as_str()), j.random);
    if let Some(instance) = &j.instance_id {
        match turn.classic().and_then(|c| c.statics.get(instance)).cloned() {
            Some(old) => replace(turn, ticket, j, old, id),
            None => add(turn, ticket, j, id),
        }
    } else if j.version >= MEMBER_ID_FIRST {
        turn.soft.pending.insert(id.clone(), j.session_timeout_ms);
        turn.arm(Due::Session { member: id.clone() }, j.session_timeout_ms);
        turn.refuse(ticket, ClassicCode::MemberIdRequired, Some(&id));
    } else {
        add(turn, ticket, j, id);
    }
}

fn returning(turn: &mut Turn, ticket: Ticket, j: &Join) {
    // An id that was told belongs to a dynamic member.
    if turn.soft.pending.contains_key(&j.member) && j.instance_id.is_none() {
        return add(turn, ticket, j, j.member.clone());
    }
    let Some(c) = turn.classic() else { return };
    if let Err(code) = c.validate(&j.member, j.instance_id.as_ref()) {
        return turn.refuse(ticket, code, Some(&j.member));
    }
    let same = c.members.get(&j.member).is_some_and(|m| m.protocols == j.protocols);
    let (assigning, id) = (c.is_assigning(&j.member), j.member.clone());
    match c.phase {
        Phase::Empty => turn.refuse(ticket, ClassicCode::UnknownMemberId, Some(&id)),
        Phase::Preparing => update(turn, ticket, j, format!("{id} joins again")),
        // It may have missed the answer.
        Phase::Completing if same => current(turn, ticket, &id),
        // A rejoin of the assigning member may stand for something that only it sees, such as new partitions.
        Phase::Stable if same && !assigning => current(turn, ticket, &id),
        Phase::Stable if assigning => update(turn, ticket, j, format!("{id}, which assigns, joins again")),
        Phase::Completing | Phase::Stable => update(turn, ticket, j, format!("{id} says something else")),
    }
}

/// The generation as it is, without a rebalance.
fn current(turn: &mut Turn, ticket: Ticket, id: &MemberId) {
    let Some(c) = turn.classic() else { return };
    let listed = c.phase == Phase::Completing && c.is_assigning(id);
    let answer = joined(c, id, if listed { c.list() } else { Vec::new() });
    turn.answer(ticket, answer);
}

/// What a member is told of the generation.
pub fn joined(c: &Classic, id: &MemberId, members: Vec<GenerationMember>) -> ClassicAnswer {
    ClassicAnswer::Joined(Box::new(JoinedGeneration {
        member: id.clone(), generation: c.generation, protocol_type: c.protocol_type.clone(), protocol: c.protocol.clone(),
        assigning_member: c.assigning_member.clone().unwrap_or_default(), skip_assignment: false, members,
    }))
}

fn said(j: &Join) -> Box<ClassicMember> {
    Box::new(ClassicMember {
        instance_id: j.instance_id.clone(), client_id: j.client_id.clone(), client_host: j.client_host.clone(),
        session_timeout_ms: j.session_timeout_ms, rebalance_timeout_ms: j.rebalance_timeout_ms, protocols: j.protocols.clone(), assignment: Opaque::default(),
    })
}

/// A new member: it waits for the end of the join phase that it calls for.
fn add(turn: &mut Turn, ticket: Ticket, j: &Join, id: MemberId) {
    turn.put(ClassicRecord::Joined { member: id.clone(), protocol_type: j.protocol_type.clone(), said: said(j) });
    turn.note("joined", with_reason(format!("{id} joined"), j), Some(&id));
    turn.soft.extend |= turn.phase() == Phase::Preparing && turn.soft.initial.is_some();
    turn.soft.pending.remove(&id);
    turn.soft.new.insert(id.clone());
    turn.soft.joining.insert(id.clone(), ticket);
    let first_join = turn.draft.context.limits.classic.first_join_timeout_ms;
    turn.arm(Due::Session { member: id.clone() }, first_join);
    rebalance::advance(turn, format!("{id} joined"));
}

/// A member in the group joins again and waits.
fn update(turn: &mut Turn, ticket: Ticket, j: &Join, reason: String) {
    say(turn, j, &j.member);
    let earlier = turn.soft.joining.insert(j.member.clone(), ticket);
    turn.superseded(earlier);
    rebalance::advance(turn, with_reason(reason, j));
}

/// Records what the member says, if that is news.
fn say(turn: &mut Turn, j: &Join, id: &MemberId) {
    let Some(m) = turn.classic().and_then(|c| c.members.get(id)) else { return };
    let same = m.protocols == j.protocols && m.session_timeout_ms == j.session_timeout_ms && m.rebalance_timeout_ms == j.rebalance_timeout_ms;
    if !same {
        let (client_id, client_host, instance_id) = (m.client_id.clone(), m.client_host.clone(), m.instance_id.clone());
        let said = Box::new(ClassicMember { client_id, client_host, instance_id, ..*said(j) });
        turn.put(ClassicRecord::Joined { member: id.clone(), protocol_type: j.protocol_type.clone(), said });
    }
}

/// A static member is back under a new id: what its earlier process waits for is fenced. In a stable group whose strategy does not change it takes over the assignment
/// without a rebalance (KIP-345).
fn replace(turn: &mut Turn, ticket: Ticket, j: &Join, old: MemberId, new: MemberId) {
    let Some(c) = turn.classic() else { return };
    let (before, session) = (c.assigning_member.clone(), c.members.get(&old).map_or(0, |m| m.session_timeout_ms));
    for held in [turn.soft.joining.remove(&old), turn.soft.syncing.remove(&old)].into_iter().flatten() {
        turn.refuse(held, ClassicCode::FencedInstanceId, Some(&old));
    }
    turn.soft.new.remove(&old);
    turn.soft.unsynced_place |= turn.soft.pending_sync.remove(&old);
    turn.cancel(Due::Session { member: old.clone() });
    turn.put(ClassicRecord::Replaced { old: old.clone(), new: new.clone() });
    turn.note("replaced", with_reason(format!("{new} took the place of {old}, the earlier process of its instance id"), j), Some(&new));
    turn.arm(Due::Session { member: new.clone() }, session);
    say(turn, j, &new);
    let Some(c) = turn.classic() else { return };
    match c.phase {
        Phase::Stable if c.elect_protocol() == c.protocol => {
            let mut answer = JoinedGeneration {
                member: new.clone(), generation: c.generation, protocol_type: c.protocol_type.clone(), protocol: c.protocol.clone(),
                assigning_member: before.unwrap_or_default(), skip_assignment: false, members: Vec::new(),
            };
            // An older client cannot be told to skip the assignment: it is told its old id as the one that assigns, so that it does not.
            if j.version >= SKIPS_ASSIGNMENT {
                answer.assigning_member = c.assigning_member.clone().unwrap_or_default();
                if c.is_assigning(&new) {
                    (answer.skip_assignment, answer.members) = (true, c.list());
                }
            }
            turn.answer(ticket, ClassicAnswer::Joined(Box::new(answer)));
        }
        Phase::Stable | Phase::Preparing => {
            turn.soft.joining.insert(new.clone(), ticket);
            rebalance::advance(turn, format!("{new} changed the strategy of the group"));
        }
        // The assigning member may have been told the old id: what it assigns to that id would be lost.
        Phase::Completing | Phase::Empty => {
            turn.soft.joining.insert(new.clone(), ticket);
            rebalance::prepare(turn, format!("{new} came back while the group waited for its assignment"));
        }
    }
}

fn with_reason(cause: String, j: &Join) -> String {
    match &j.reason {
        Some(reason) if !reason.is_empty() => format!("{cause} ({reason})"),
        _ => cause,
    }
}

/// The id of a new member: who it says it is, and a random part in the usual form of a UUID.
pub fn member_id(prefix: &str, random: u128) -> MemberId {
    let hex = format!("{random:032x}");
    MemberId::from(format!("{prefix}-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}
