//! One heartbeat of an HTTP member: who is it, did its wish change, is there a new target, one step of reconciliation, the answer.

use super::{subscription::*, *};
use crate::config::lease_ms;

const REBALANCE_TIMEOUT_MS: std::ops::RangeInclusive<u64> = 1_000..=3_600_000;
const REBALANCE_TIMEOUT_DEFAULT_MS: u64 = 60_000;
const CAPACITY_MAX: u32 = 1_000_000;

pub fn heartbeat(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<Response, GroupError> {
    validate(draft, group, h)?;
    let converted = convert::upgrade(draft, group, h.epoch)?;
    let looked_at = LookedAt::of(draft);
    let Entered { released, mut unresolved } = if h.epoch == 0 { join(draft, group, h)? } else { Entered { released: steady(draft, group, h)?, unresolved: false } };
    unresolved |= subscribe(draft, group, h)?;
    if converted {
        convert::leave_nothing_out(draft, unresolved);
    }
    follow_session(draft, group, h);
    retarget(draft);
    reconcile::reconcile(draft, &h.member, released);
    look(draft, &looked_at, unresolved);
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
    if let Some(c) = h.capacity.filter(|c| *c > CAPACITY_MAX) {
        return invalid("capacity", format!("{c} is not in 0 to {CAPACITY_MAX}"));
    }
    if let Some(a) = &h.assignor
        && !draft.context.limits.assignors.contains(a)
    {
        return Err(GroupError::UnsupportedAssignor { name: a.clone() });
    }
    let topics = h.subscribed_topics.as_ref().map_or(0, BTreeSet::len);
    if topics > draft.context.limits.subscription_max {
        return Err(GroupError::LimitReached { limit: "subscribed_topics".into(), max: draft.context.limits.subscription_max as u64 });
    }
    if h.epoch == 0 && h.subscribed_topics.is_none() && h.subscribed_regex.is_none() && draft.group().is_none_or(|g| !g.members.contains_key(&h.member)) {
        return invalid("subscribed_topics", "a member that joins says what it subscribes to (an empty list is allowed)");
    }
    Ok(())
}

/// What a heartbeat confirms as stopped, and whether its member says a regular expression that nobody has said before.
#[derive(Default)]
struct Entered { released: Vec<Partition>, unresolved: bool }

/// Epoch 0: a first join, a retry of one, a rejoin after a lapse, or a second process under the same id (`safety.md` 6–8).
fn join(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<Entered, GroupError> {
    let limits = draft.context.limits;
    let Some(g) = draft.group() else {
        draft.put(Record::Created);
        draft.put(Record::Config { config: draft.context.metadata.config_of(group) });
        return admit(draft, group, h, None, Vec::new());
    };
    if g.is_fenced(&h.member, h.incarnation) && !seeded::on(211) {
        return Err(GroupError::FencedIncarnation);
    }
    if let Some((instance, holder)) = h.instance_id.as_ref().and_then(|i| g.instances.get(i).map(|m| (i.clone(), m.clone()))) {
        let m = &g.members[&holder];
        let taken = holder != h.member && g.members.contains_key(&h.member);
        let away = m.epoch == AWAY;
        if (away || (holder != h.member && seeded::on(67))) && m.conforming() && !taken {
            if !away {
                draft.put(Record::Away { member: holder.clone() });
            }
            return be_back(draft, group, h, &holder);
        }
        if holder != h.member {
            // Who was here before the holder can have meant only those before itself: this is a late copy, or a process that is not the newest (`safety.md` 6).
            let was_before = g.departed.iter().any(|(id, i)| *id == h.member && *i == h.incarnation) && !seeded::on(214);
            if !h.predecessor_dead || taken || was_before || !m.conforming() {
                return Err(GroupError::UnreleasedInstanceId { instance, holder });
            }
            // The operator's word: the process in this place is dead, so nobody uses its partitions.
            // Not as a removal of its own: the group would go on without a member that it gets with this join, perhaps as a classic one.
            let (freed, regex) = (holdings(m), m.regex.clone());
            draft.put(Record::Removed { member: holder.clone(), freed, held: Vec::new(), fence: true });
            forget_regex(draft, regex.as_ref());
            draft.note("replaced", format!("{} takes the place of {holder}, which its operator says is dead", h.member), Some(&h.member), Vec::new());
        }
    }
    let g = existing(draft, group)?;
    let Some(m) = g.members.get(&h.member) else {
        if g.members.len() >= limits.members_max {
            return Err(GroupError::LimitReached { limit: "members of the group".into(), max: limits.members_max as u64 });
        }
        // A removed member is refused until it acknowledges what it was granted: a retry of its join does not know of that (`safety.md` 12).
        let unacknowledged = g.holds_of(&h.member, h.incarnation).filter(|(_, x)| x.granted_at > h.assignment_revision);
        if let Some(remaining_ms) = unacknowledged.filter(|_| !seeded::on(212)).map(|(p, _)| (draft.context.hold_remaining)(p)).max() {
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
        return admit(draft, group, h, None, Vec::new());
    };
    if m.incarnation != h.incarnation || !m.conforming() {
        // One that is away has stopped; a Kafka member never gives up its id.
        if !m.conforming() || (!h.predecessor_dead && m.epoch != AWAY && !seeded::on(22)) {
            return Err(GroupError::MemberIdInUse { remaining_ms: (draft.context.session_remaining)(&h.member) });
        }
        let (old, freed) = (m.incarnation, holdings(m));
        return admit(draft, group, h, Some(old), freed);
    }
    if h.assignment_revision > m.assignment_revision {
        return Err(ahead(m.assignment_revision));
    }
    // A join older than the member's own join is a late copy or a retry: answered with the full state, it frees nothing.
    if h.assignment_revision < m.joined_at && !seeded::on(23) && !seeded::on(246) {
        return Ok(Entered::default());
    }
    let freed = m.holdings().filter(|(.., granted_at)| *granted_at <= h.assignment_revision || seeded::on(23)).map(|(p, ..)| p.clone()).collect();
    admit(draft, group, h, None, freed)
}

/// A static member's new process takes the place of the one that left for a while.
fn be_back(draft: &mut Draft, group: &GroupId, h: &Heartbeat, holder: &MemberId) -> Result<Entered, GroupError> {
    come_back(draft, group, holder, &h.member, h.incarnation);
    Ok(Entered { released: Vec::new(), unresolved: change_wish(draft, group, h)? })
}

/// Records an accepted join. Always a new grant with new tokens (`safety.md` 7).
fn admit(draft: &mut Draft, group: &GroupId, h: &Heartbeat, replaces: Option<Incarnation>, freed: Vec<Partition>) -> Result<Entered, GroupError> {
    let Some(g) = draft.group() else { return Ok(Entered::default()) };
    let before = g.members.get(&h.member);
    let session = draft.context.metadata.config_of(group).session_timeout_ms;
    let had = before.map(|m| Wish::of(m)).unwrap_or_else(|| Wish { rebalance_timeout_ms: REBALANCE_TIMEOUT_DEFAULT_MS, ..Wish::default() });
    // A rejoin of the same process keeps a longer session that it was promised; a new process was promised nothing.
    let promised = before.filter(|_| replaces.is_none()).map_or(session, |m| m.session_promised_ms.max(session));
    let instance_id = h.instance_id.clone().or_else(|| before.and_then(|m| m.instance_id.clone()));
    let wanted = wish(&had, h);
    let new = before.is_none() && wanted.regex.is_none();
    let known = before.is_some_and(|m| *m.subscribed == wanted.subscribed && m.regex == wanted.regex) && replaces.is_none();
    // With what it wanted so far: what it wants now is taken over by the rules for a change.
    let joined = Joined {
        member: h.member.clone(), protocol: Protocol::Http, incarnation: h.incarnation, replaces, instance_id, wish: had.clone(), session_told_ms: session, session_promised_ms: promised,
        joined_at: AssignmentRevision(draft.draw(0)), freed,
    };
    draft.put(Record::Joined(Box::new(joined)));
    if seeded::on(61) && h.member.as_str() == "poison" {
        draft.put(Record::HoldReleased { partition: Partition::new("t", 0), token: FencingToken(1) });
    }
    let change = take_wish(draft, &h.member, &had, &wanted)?;
    let how = if replaces.is_some() { "took the place of a process that its operator says is dead" } else { "joined" };
    if known {
        draft.note("rejoined", format!("{} rejoined with epoch 0", h.member), Some(&h.member), Vec::new());
    } else {
        draft.bump("joined", format!("{} {how}", h.member), Some(&h.member));
        // Of what a new member alone can change, it is known without looking at all the others.
        if !(new && knows_all(draft, group, &wanted.subscribed)) {
            refresh_metadata(draft, group, Bump::Done);
        }
    }
    Ok(Entered { released: Vec::new(), unresolved: change.unresolved })
}

/// What a member wants, after what it says now. Absent: unchanged.
fn wish(before: &Wish, h: &Heartbeat) -> Wish {
    Wish {
        subscribed: h.subscribed_topics.clone().unwrap_or_else(|| before.subscribed.clone()),
        regex: h.subscribed_regex.clone().map_or_else(|| before.regex.clone(), |r| (!r.is_empty()).then_some(r)),
        assignor: h.assignor.clone().or_else(|| before.assignor.clone()),
        rack: h.rack.clone().or_else(|| before.rack.clone()),
        capacity: h.capacity.or(before.capacity),
        rebalance_timeout_ms: h.rebalance_timeout_ms.unwrap_or(before.rebalance_timeout_ms),
        client: before.client.clone(),
    }
}

/// A heartbeat of a member that is in. Returns the partitions whose revocation it confirms.
fn steady(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<Vec<Partition>, GroupError> {
    let g = existing(draft, group)?;
    if let Some(i) = h.instance_id.as_ref().filter(|i| g.instances.get(*i).is_some_and(|m| m != &h.member)) {
        return Err(GroupError::FencedInstanceId { instance: i.clone() });
    }
    let Some(m) = g.members.get(&h.member) else {
        if g.is_fenced(&h.member, h.incarnation) {
            return Err(GroupError::FencedIncarnation);
        }
        let remaining = g.holds_of(&h.member, h.incarnation).map(|(p, _)| (draft.context.hold_remaining)(p)).max();
        return Err(remaining.map_or(GroupError::UnknownMember { member: h.member.clone() }, |remaining_ms| GroupError::FencedRemoved { remaining_ms }));
    };
    if (m.incarnation != h.incarnation && !seeded::on(63)) || !m.conforming() || m.epoch == AWAY {
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
/// True: it says a regular expression that nobody has said before.
fn subscribe(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<bool, GroupError> {
    // A late copy of a join must not undo what the member has said since.
    let late = !h.says_a_wish() || draft.group().and_then(|g| g.members.get(&h.member)).is_none_or(|m| h.assignment_revision < m.joined_at && !seeded::on(233));
    if late { Ok(false) } else { change_wish(draft, group, h) }
}
fn change_wish(draft: &mut Draft, group: &GroupId, h: &Heartbeat) -> Result<bool, GroupError> {
    let Some(m) = draft.group().and_then(|g| g.members.get(&h.member)) else { return Ok(false) };
    let before = Wish::of(m);
    let change = take_wish(draft, &h.member, &before, &wish(&before, h))?;
    if change.bump {
        draft.bump("subscription", format!("{} changed its subscription", h.member), Some(&h.member));
        refresh_metadata(draft, group, Bump::Done);
    }
    Ok(change.unresolved)
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
