//! One ConsumerGroupHeartbeat of Kafka's: who is it, did its wish change, is there a new target, one step of reconciliation, the answer.
//!
//! Such a member has no incarnation and no deadline: an earlier epoch is accepted only as a retry (KIP-848), its partitions are freed at once, and an
//! epoch-0 join of a member that is in is a new grant all the same, since it may be another process (`safety.md` 7).

use super::{subscription::*, *};

/// Joins, leaves, and leaves for a while.
const LEFT: Epoch = -1;

pub fn heartbeat(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat) -> Result<Response, GroupError> {
    validate(draft, h)?;
    if h.epoch != 0 && draft.group().is_some_and(Group::is_blank) {
        return Err(GroupError::UnknownGroup { group: group.clone() });
    }
    if h.epoch < 0 && draft.group().is_some_and(|g| g.classic.is_some()) {
        return Err(GroupError::NotConvertible { group: group.clone(), reason: "it is a classic group, which its members leave by LeaveGroup".into() });
    }
    if h.epoch < 0 {
        return leave(draft, group, h);
    }
    let converted = convert::upgrade(draft, group, h.epoch)?;
    let (looked_at, wanted) = (LookedAt::of(draft), wanted_so_far(draft));
    let Admitted { member: id, before, had, gave_up } = admit(draft, group, h)?;
    let change = take_wish(draft, &id, &before, &wish(&before, h))?;
    if change.bump || gave_up {
        draft.bump(if h.epoch == 0 { "joined" } else { "subscription" }, format!("{id} {}", if h.epoch == 0 { "joined" } else { "changed its subscription" }), Some(&id));
        refresh_metadata(draft, group, Bump::Done);
    } else {
        refresh_metadata(draft, group, Bump::If(&wanted));
    }
    if converted {
        convert::leave_nothing_out(draft, change.unresolved);
    }
    follow_session(draft, group, &id);
    retarget(draft);
    reconcile::reconcile_consumer(draft, &id, h.owned.as_ref(), change.subscription);
    look(draft, &looked_at, change.unresolved);
    let g = existing(draft, group)?;
    let m = g.members.get(&id).ok_or_else(|| unknown(&id))?;
    let has = by_id(m);
    // A request that says everything is the first one after a lost answer: it is answered in full.
    let full = h.rebalance_timeout_ms >= 0 && (h.subscribed_topics.is_some() || h.subscribed_regex.is_some()) && h.owned.is_some();
    let assignment = (h.epoch == 0 || full || has != had).then_some(has);
    Ok(Response::Consumer(ConsumerView { member: id.clone(), epoch: m.epoch, heartbeat_interval_ms: view::interval_ms(g, m), assignment }))
}

fn unknown(member: &MemberId) -> GroupError { GroupError::UnknownMember { member: member.clone() } }
fn by_id(m: &Member) -> PartitionsById {
    let mut out = PartitionsById::new();
    for (p, x) in m.assigned.iter() {
        out.entry(x.topic_id).or_default().insert(p.partition);
    }
    out
}

/// What can be refused without looking at the group (KIP-848, KIP-1082).
fn validate(draft: &Draft, h: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let invalid = |field: &str, detail: &str| Err(GroupError::Invalid { field: field.into(), detail: detail.into() });
    if h.member.as_str().is_empty() && (h.version > 0 || h.epoch != 0) {
        return invalid("member_id", "only a join of version 0 may leave it to the coordinator");
    }
    for (field, empty) in [("instance_id", h.instance_id.as_ref().is_some_and(|i| i.as_str().is_empty())), ("rack_id", h.rack.as_deref() == Some(""))] {
        if empty {
            return invalid(field, "it is empty: leave it out instead");
        }
    }
    match h.epoch {
        0 if h.rebalance_timeout_ms == -1 => return invalid("rebalance_timeout_ms", "a member that joins says it"),
        0 if h.owned.as_ref().is_none_or(|o| !o.is_empty()) => return invalid("topic_partitions", "a member that joins owns nothing and says so"),
        0 if h.subscribed_topics.is_none() && h.subscribed_regex.is_none() => return invalid("subscribed_topic_names", "a member that joins says what it subscribes to"),
        AWAY if h.instance_id.is_none() => return invalid("instance_id", "only a static member leaves for a while"),
        e if e < AWAY => return invalid("member_epoch", "it is below -2"),
        _ => {}
    }
    let limits = draft.context.limits;
    if let Some(name) = h.assignor.as_ref().filter(|a| !limits.assignors.contains(a)) {
        return Err(GroupError::UnsupportedAssignor { name: name.clone() });
    }
    if h.subscribed_topics.as_ref().is_some_and(|t| t.len() > limits.subscription_max) {
        return Err(GroupError::LimitReached { limit: "subscribed topics".into(), max: limits.subscription_max as u64 });
    }
    let name_max = crate::metadata::NAME_MAX;
    match [h.member.as_str(), h.instance_id.as_ref().map_or("", InstanceId::as_str)].iter().any(|n| n.len() > name_max) {
        true => invalid("member_id", &format!("ids of at most {name_max} bytes are allowed")),
        false => Ok(()),
    }
}

/// Who a heartbeat is from.
struct Admitted {
    member: MemberId,
    /// What it wanted before; a new one nothing.
    before: Wish,
    /// What it was told to have.
    had: PartitionsById,
    /// It gave up another place, and what it was to have there is nobody's.
    gave_up: bool,
}
impl Admitted {
    fn known(id: &MemberId, m: &Member) -> Admitted { Admitted { member: id.clone(), before: Wish::of(m), had: by_id(m), gave_up: false } }
}

fn admit(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat) -> Result<Admitted, GroupError> {
    if draft.group().is_none() && h.epoch == 0 {
        draft.put(Record::Created);
        draft.put(Record::Config { config: draft.context.metadata.config_of(group) });
    }
    let g = existing(draft, group)?;
    let max = draft.context.limits.members_max;
    if g.members.len() >= max && !g.members.contains_key(&h.member) {
        return Err(GroupError::GroupFull { max: max as u64 });
    }
    match &h.instance_id {
        None => admit_dynamic(draft, group, h),
        Some(i) => admit_static(draft, group, h, i),
    }
}

fn admit_dynamic(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat) -> Result<Admitted, GroupError> {
    let g = existing(draft, group)?;
    let Some(m) = g.members.get(&h.member) else {
        return if h.epoch == 0 { join(draft, group, h) } else { Err(unknown(&h.member)) };
    };
    check_epoch(m, h)?;
    let admitted = Admitted::known(&h.member, m);
    if h.epoch == 0 {
        rejoin(draft, &h.member);
    }
    speaks_consumer(draft, &h.member);
    Ok(admitted)
}

/// A static member's place is its instance id's. It is given to another process only after the one before has left for a while.
fn admit_static(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat, instance: &InstanceId) -> Result<Admitted, GroupError> {
    let g = existing(draft, group)?;
    let Some(holder) = g.instances.get(instance) else {
        return match h.epoch {
            0 if g.members.contains_key(&h.member) => rename(draft, group, h, instance),
            0 => join(draft, group, h),
            _ => Err(unknown(&h.member)),
        };
    };
    let m = &g.members[holder];
    if h.epoch == 0 {
        // A classic process never says that it leaves for a while: the new one takes its place (KIP-345).
        let other = Some(&h.member).filter(|id| *id != holder).and_then(|id| g.members.get(id));
        if (m.epoch != AWAY && m.classic.is_none() && !seeded::on(16)) || m.conforming() || other.is_some_and(|m| m.conforming()) {
            return Err(GroupError::UnreleasedInstanceId { instance: instance.clone(), holder: holder.clone() });
        }
        let (mut admitted, away) = (Admitted { member: h.member.clone(), ..Admitted::known(holder, m) }, m.epoch == AWAY);
        let (holder, given_up) = (holder.clone(), other.map(|o| (holdings(o), o.regex.clone(), g.target.get(&h.member).is_some_and(|t| !t.is_empty()))));
        if !away {
            draft.put(Record::Away { member: holder.clone() });
        }
        // It is in already, as somebody else: with this join it owns nothing and goes on in the place that it asks for.
        if let Some((freed, regex, had)) = given_up {
            draft.put(Record::Removed { member: h.member.clone(), freed, held: Vec::new(), fence: false });
            forget_regex(draft, regex.as_ref());
            admitted.gave_up = had;
        }
        come_back(draft, group, &holder, &h.member, Incarnation::default());
        speaks_consumer(draft, &h.member);
        return Ok(admitted);
    }
    if holder != &h.member {
        return Err(GroupError::FencedInstanceId { instance: instance.clone() });
    }
    check_epoch(m, h)?;
    Ok(Admitted::known(holder, m))
}

/// A member that is in comes back as another static instance than before, or as one at all: it keeps what it has.
fn rename(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat, instance: &InstanceId) -> Result<Admitted, GroupError> {
    let m = existing(draft, group)?.members.get(&h.member).filter(|m| !m.conforming()).ok_or_else(|| unknown(&h.member))?;
    let admitted = Admitted::known(&h.member, m);
    draft.put(Record::Instance { member: h.member.clone(), instance: instance.clone() });
    rejoin(draft, &h.member);
    Ok(admitted)
}

/// An epoch is the member's own; or 0; or the one before if its answer was lost, which what it owns must bear out (KIP-848).
fn check_epoch(m: &Member, h: &ConsumerHeartbeat) -> Result<(), GroupError> {
    let fenced = Err(GroupError::FencedMemberEpoch { received: h.epoch, stored: m.epoch });
    if m.conforming() {
        return fenced; // its id is an HTTP member's
    }
    let within = || h.owned.as_ref().is_some_and(|o| { let has = by_id(m); o.iter().all(|(t, ps)| has.get(t).is_some_and(|mine| ps.is_subset(mine))) });
    match h.epoch {
        0 if !seeded::on(34) => Ok(()), // KAFKA-19233: whatever the stored epoch
        e if e == m.epoch => Ok(()),
        e if e < m.epoch && e == m.previous_epoch && within() && !seeded::on(42) => Ok(()),
        _ => fenced,
    }
}

/// A member that spoke the classic protocol until now does so no more.
fn speaks_consumer(draft: &mut Draft, id: &MemberId) {
    if draft.group().and_then(|g| g.members.get(id)).is_some_and(|m| m.classic.is_some()) {
        draft.put(Record::Classic(Box::new(classic::ClassicRecord::Speaks { member: id.clone(), part: None })));
        draft.effects.extend([classic::Effect::Cancel(classic::Due::JoinOf { member: id.clone() }), classic::Effect::Cancel(classic::Due::SyncOf { member: id.clone() })]);
    }
}

fn join(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat) -> Result<Admitted, GroupError> {
    let member = if h.member.as_str().is_empty() { h.made_id.clone() } else { h.member.clone() };
    let session = draft.context.metadata.config_of(group).session_timeout_ms;
    let joined = Joined {
        member: member.clone(), protocol: Protocol::Consumer, incarnation: Incarnation::default(), replaces: None, instance_id: h.instance_id.clone(), wish: Wish::default(),
        session_told_ms: session, session_promised_ms: session, joined_at: AssignmentRevision(draft.draw(0)), freed: Vec::new(),
    };
    draft.put(Record::Joined(Box::new(joined)));
    Ok(Admitted { member, before: Wish::default(), had: PartitionsById::new(), gave_up: false })
}

/// New tokens for what it has.
fn rejoin(draft: &mut Draft, id: &MemberId) {
    let Some(m) = draft.group().and_then(|g| g.members.get(id)) else { return };
    if m.assigned.is_empty() {
        return;
    }
    let revision = AssignmentRevision(draft.draw(0));
    let tokens = m.assigned.keys().enumerate().map(|(i, p)| (p.clone(), FencingToken(draft.draw(1 + i as u64)))).collect();
    draft.put(Record::Regranted { member: id.clone(), revision, tokens });
    draft.note("rejoined", format!("{id} rejoined with epoch 0"), Some(id), Vec::new());
}

fn wish(before: &Wish, h: &ConsumerHeartbeat) -> Wish {
    Wish {
        subscribed: h.subscribed_topics.clone().unwrap_or_else(|| before.subscribed.clone()),
        regex: h.subscribed_regex.clone().map_or_else(|| before.regex.clone(), |r| (!r.is_empty()).then_some(r)),
        assignor: h.assignor.clone().or_else(|| before.assignor.clone()),
        rack: h.rack.clone().or_else(|| before.rack.clone()),
        capacity: before.capacity,
        rebalance_timeout_ms: u64::try_from(h.rebalance_timeout_ms).unwrap_or(before.rebalance_timeout_ms),
        client: h.client.clone(),
    }
}

/// It has no deadline, so a shorter session is in force at once.
fn follow_session(draft: &mut Draft, group: &GroupId, id: &MemberId) {
    let session = draft.context.metadata.config_of(group).session_timeout_ms;
    let differs = draft.group().and_then(|g| g.members.get(id)).is_some_and(|m| (m.session_told_ms, m.session_promised_ms) != (session, session));
    if differs && !draft.image_is_behind() {
        draft.put(Record::Session { member: id.clone(), told_ms: session, promised_ms: session });
    }
}

fn leave(draft: &mut Draft, group: &GroupId, h: &ConsumerHeartbeat) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    if let Some(i) = &h.instance_id {
        match g.instances.get(i) {
            None => return Err(unknown(&h.member)),
            Some(holder) if holder != &h.member => return Err(GroupError::FencedInstanceId { instance: i.clone() }),
            Some(_) => {}
        }
    }
    let m = g.members.get(&h.member).filter(|m| !m.conforming()).ok_or_else(|| unknown(&h.member))?;
    if seeded::on(43) && !m.pending.is_empty() {
        return Err(GroupError::Invalid { field: "member_epoch".into(), detail: "a revocation is going on".into() });
    }
    match (h.epoch == LEFT || seeded::on(46), m.epoch == AWAY) {
        // Also while a revocation is going on: whoever leaves has given everything back.
        (true, _) => take_out(draft, group, &h.member, Parting { freed: holdings(m), held: Vec::new(), fence: false }, "left", format!("{} left by its own wish", h.member)),
        (false, true) => {}
        (false, false) => {
            draft.put(Record::Away { member: h.member.clone() });
            draft.note("away", format!("{} left for a while and keeps its place", h.member), Some(&h.member), Vec::new());
        }
    }
    Ok(Response::Consumer(ConsumerView { member: h.member.clone(), epoch: h.epoch, heartbeat_interval_ms: 0, assignment: None }))
}
