//! One heartbeat of an HTTP member: who is it, did its wish change, is there a new target, one step of reconciliation, the answer.

use super::*;
use crate::config::lease_ms;

const REBALANCE_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
const REBALANCE_TIMEOUT_DEFAULT_MS: u64 = 60_000;

pub fn heartbeat(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<Response, GroupError> {
    validate(draft, group, h)?;
    if let Some(c) = draft.group().and_then(|g| g.classic.as_deref()) {
        if !c.members.is_empty() {
            return Err(GroupError::Classic { code: classic::ClassicCode::InconsistentGroupProtocol, member: None });
        }
        if h.epoch == 0 {
            draft.put(Record::Classic(Box::new(classic::ClassicRecord::Closed)));
        }
    }
    let released = if h.epoch == 0 { join(draft, group, h)? } else { steady(draft, group, h)? };
    subscribe(draft, group, h);
    follow_session(draft, group, h);
    retarget(draft);
    reconcile::reconcile(draft, &h.member, released);
    let g = existing(draft, group)?;
    let m = g.members.get(&h.member).ok_or_else(|| GroupError::UnknownMember { member: h.member.clone() })?;
    Ok(Response::Heartbeat(heartbeat_view(g, m, h)))
}

fn invalid<T>(field: &str, detail: impl Into<String>) -> Result<T, GroupError> { Err(GroupError::Invalid { field: field.into(), detail: detail.into() }) }

fn validate(draft: &Draft, group: &GroupId, h: &Heartbeat) -> Result<(), GroupError> {
    for (field, name) in [("group", group.as_str()), ("member_id", h.member.as_str())] {
        if name.is_empty() || name.len() > crate::metadata::NAME_MAX {
            return invalid(field, format!("1 to {} bytes are allowed, not {}", crate::metadata::NAME_MAX, name.len()));
        }
    }
    if h.epoch < 0 {
        return invalid("member_epoch", format!("{} is negative: 0 joins, above 0 goes on; a member leaves with DELETE", h.epoch));
    }
    if let Some(t) = h.rebalance_timeout_ms
        && !REBALANCE_TIMEOUT_MS.contains(&t)
    {
        return invalid("rebalance_timeout_ms", format!("{t} is not in 1000 to 3600000"));
    }
    if let Some(a) = &h.assignor
        && !assign::ASSIGNORS.contains(&a.as_str())
    {
        return Err(GroupError::UnsupportedAssignor { name: a.clone() });
    }
    let topics = h.subscribed_topics.as_ref().map_or(0, BTreeSet::len);
    if topics > draft.context.limits.subscription_max {
        return Err(GroupError::LimitReached { limit: "subscribed_topics".into(), max: draft.context.limits.subscription_max as u64 });
    }
    if h.epoch == 0 && h.subscribed_topics.is_none() && draft.group().is_none_or(|g| !g.members.contains_key(&h.member)) {
        return invalid("subscribed_topics", "a member that joins says what it subscribes to (an empty list is allowed)");
    }
    Ok(())
}

/// Epoch 0: a first join, a retry of one, a rejoin after a lapse, or a second process under the same id (`safety.md` 6–8).
fn join(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<Vec<Partition>, GroupError> {
    let limits = draft.context.limits;
    let Some(g) = draft.group() else {
        draft.put(Record::Created);
        draft.put(Record::Config { config: draft.context.metadata.config_of(group) });
        admit(draft, group, h, None, Vec::new());
        return Ok(Vec::new());
    };
    if g.is_fenced(&h.member, h.incarnation) {
        return Err(GroupError::FencedIncarnation);
    }
    let Some(m) = g.members.get(&h.member) else {
        if g.members.len() >= limits.members_max {
            return Err(GroupError::LimitReached { limit: "members of the group".into(), max: limits.members_max as u64 });
        }
        // A removed member is refused until it acknowledges what it was granted: a retry of its join does not know of that (`safety.md` 12).
        let unacknowledged = g.holds_of(&h.member, h.incarnation).filter(|(_, x)| x.granted_at > h.assignment_revision);
        if let Some(remaining_ms) = unacknowledged.map(|(p, _)| (draft.context.hold_remaining)(p)).max() {
            return Err(GroupError::FencedRemoved { remaining_ms });
        }
        // A removed member that rejoins says that it has stopped what it names; `predecessor_dead` says it for every earlier process.
        let freed: Vec<(Partition, FencingToken)> = g
            .holds.iter()
            .filter(|(_, x)| x.member == h.member && if x.incarnation == h.incarnation { x.granted_at <= h.assignment_revision } else { h.predecessor_dead })
            .map(|(p, x)| (p.clone(), x.token))
            .collect();
        if !freed.is_empty() {
            release_holds(draft, freed, "the removed member has stopped and joins again");
        }
        admit(draft, group, h, None, Vec::new());
        return Ok(Vec::new());
    };
    if m.incarnation != h.incarnation {
        if !h.predecessor_dead && !seeded::on(22) {
            return Err(GroupError::MemberIdInUse { remaining_ms: (draft.context.session_remaining)(&h.member) });
        }
        let (old, freed) = (m.incarnation, holdings(m));
        admit(draft, group, h, Some(old), freed);
        return Ok(Vec::new());
    }
    if h.assignment_revision > m.assignment_revision {
        return Err(ahead(m.assignment_revision));
    }
    // A join older than the member's own join is a late copy or a retry: answered with the full state, it frees nothing.
    if h.assignment_revision < m.joined_at && !seeded::on(23) {
        return Ok(Vec::new());
    }
    let freed = m.holdings().filter(|(.., granted_at)| *granted_at <= h.assignment_revision || seeded::on(23)).map(|(p, ..)| p.clone()).collect();
    admit(draft, group, h, None, freed);
    Ok(Vec::new())
}

/// Records an accepted join. Always a new grant with new tokens (`safety.md` 7).
fn admit(draft: &mut Draft, group: &GroupId, h: &Heartbeat, replaces: Option<Incarnation>, freed: Vec<Partition>) {
    let Some(g) = draft.group() else { return };
    let before = g.members.get(&h.member);
    let session = draft.context.metadata.config_of(group).session_timeout_ms;
    let subscribed = h.subscribed_topics.clone().or_else(|| before.map(|m| m.subscribed.clone())).unwrap_or_default();
    // A rejoin of the same process keeps a longer session that it was promised; a new process was promised nothing.
    let promised = before.filter(|_| replaces.is_none()).map_or(session, |m| m.session_promised_ms.max(session));
    let known = before.is_some_and(|m| m.subscribed == subscribed) && replaces.is_none();
    let joined = Joined {
        member: h.member.clone(), incarnation: h.incarnation, replaces,
        instance_id: h.instance_id.clone().or_else(|| before.and_then(|m| m.instance_id.clone())),
        rack: h.rack.clone().or_else(|| before.and_then(|m| m.rack.clone())),
        rebalance_timeout_ms: h.rebalance_timeout_ms.or(before.map(|m| m.rebalance_timeout_ms)).unwrap_or(REBALANCE_TIMEOUT_DEFAULT_MS),
        subscribed,
        assignor: h.assignor.clone().or_else(|| before.and_then(|m| m.assignor.clone())),
        session_told_ms: session, session_promised_ms: promised,
        joined_at: AssignmentRevision(draft.draw(0)), freed,
    };
    draft.put(Record::Joined(Box::new(joined)));
    let how = if replaces.is_some() { "took the place of a process that its operator says is dead" } else { "joined" };
    if known {
        draft.note("rejoined", format!("{} rejoined with epoch 0", h.member), Some(&h.member), Vec::new());
    } else {
        draft.bump("joined", format!("{} {how}", h.member), Some(&h.member));
        refresh_metadata(draft, group, Bump::Done);
    }
}

/// A heartbeat of a member that is in. Returns the partitions whose revocation it confirms.
fn steady(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<Vec<Partition>, GroupError> {
    let g = existing(draft, group)?;
    let Some(m) = g.members.get(&h.member) else {
        if g.is_fenced(&h.member, h.incarnation) {
            return Err(GroupError::FencedIncarnation);
        }
        let remaining = g.holds_of(&h.member, h.incarnation).map(|(p, _)| (draft.context.hold_remaining)(p)).max();
        return Err(remaining.map_or(GroupError::UnknownMember { member: h.member.clone() }, |remaining_ms| GroupError::FencedRemoved { remaining_ms }));
    };
    if m.incarnation != h.incarnation {
        return Err(GroupError::FencedIncarnation);
    }
    if h.epoch > m.epoch || (h.epoch < m.epoch && seeded::on(19)) {
        return Err(GroupError::FencedMemberEpoch { received: h.epoch, stored: m.epoch });
    }
    if h.assignment_revision > m.assignment_revision {
        return Err(ahead(m.assignment_revision));
    }
    // An earlier epoch of the same incarnation is answered with the full state, never fenced; what it confirms its revision decides.
    Ok(reconcile::confirmed(m, h))
}

/// A changed subscription is the only wish that bumps the epoch; assignor, rack and timeouts are only remembered (KIP-848).
fn subscribe(draft: &mut Draft, group: &GroupId, h: &Heartbeat) {
    let Some(m) = draft.group().and_then(|g| g.members.get(&h.member)) else { return };
    // A late copy of a join must not undo what the member has said since.
    if h.assignment_revision < m.joined_at {
        return;
    }
    let subscribed = h.subscribed_topics.clone().unwrap_or_else(|| m.subscribed.clone());
    let assignor = h.assignor.clone().or_else(|| m.assignor.clone());
    let rack = h.rack.clone().or_else(|| m.rack.clone());
    let rebalance_timeout_ms = h.rebalance_timeout_ms.unwrap_or(m.rebalance_timeout_ms);
    let changed = subscribed != m.subscribed;
    if !changed && assignor == m.assignor && rack == m.rack && rebalance_timeout_ms == m.rebalance_timeout_ms {
        return;
    }
    draft.put(Record::Subscribed { member: h.member.clone(), subscribed, assignor, rack, rebalance_timeout_ms });
    if changed {
        draft.bump("subscription", format!("{} changed its subscription", h.member), Some(&h.member));
        refresh_metadata(draft, group, Bump::Done);
    }
}

/// Brings the member's session to the configured one: raised at once, lowered in two records (`safety.md` 11).
fn follow_session(draft: &mut Draft, group: &GroupId, h: &Heartbeat) {
    let session = draft.context.metadata.config_of(group).session_timeout_ms;
    let Some(g) = draft.group() else { return };
    if draft.context.metadata.revision < g.metadata_revision {
        return;
    }
    let Some(m) = g.members.get(&h.member) else { return };
    if m.session_told_ms != session {
        let promised_ms = m.session_promised_ms.max(session);
        draft.put(Record::Session { member: h.member.clone(), told_ms: session, promised_ms });
    }
}

/// The bound of `wait_ms`: a third of the lease, at most 10 s.
pub fn wait_max_ms(session_told_ms: u64) -> u64 { (lease_ms(session_told_ms) / 3).min(10_000) }
