//! Classic members inside a consumer group: their requests in the words of the consumer protocol. A member's epoch is its generation; a join is a heartbeat that says
//! everything; a sync brings what is assigned; and a heartbeat calls for a join where a consumer member would be answered with its next assignment.
//!
//! They are held to time twice: who is called to join has its rebalance timeout to come, and who has joined has it to sync.

use super::{subscription::*, *};
use crate::{
    classic::{ClassicAnswer, ClassicCode, ClassicCommand, ClassicPart, ClassicRecord, Due, Effect, JoinedGeneration, Join, Leaver, Migration, join::member_id},
    embedded::{Assigned, Subscription},
};

/// What a classic member's strategies are about, whatever they are.
pub const CONSUMER: &str = "consumer";

pub fn request(draft: &mut Draft, group: &GroupId, command: &ClassicCommand) -> Result<Response, GroupError> {
    match command {
        ClassicCommand::Join(j) => join(draft, group, j),
        ClassicCommand::Sync(s) => sync(draft, group, s),
        ClassicCommand::Heartbeat(b) => heartbeat(draft, group, b),
        ClassicCommand::Leave(leavers) => leave(draft, group, leavers),
        ClassicCommand::Commit(c) => {
            let (member, instance_id, offsets) = (c.member.clone(), c.instance_id.clone(), c.offsets.clone());
            offsets::kafka_commit(draft, group, &KafkaCommit { version: 0, member, instance_id, epoch: c.generation, offsets })
        }
    }
}

fn refused<T>(code: ClassicCode, member: Option<&MemberId>) -> Result<T, GroupError> { Err(GroupError::Classic { code, member: member.cloned() }) }

fn join(draft: &mut Draft, group: &GroupId, j: &Join) -> Result<Response, GroupError> {
    let (limits, g) = (draft.context.limits, existing(draft, group)?);
    let first = j.member.as_str().is_empty();
    let named = if first { None } else { Some(&j.member) };
    if !(limits.classic.session_timeout_min_ms..=limits.classic.session_timeout_max_ms).contains(&j.session_timeout_ms) {
        return refused(ClassicCode::InvalidSessionTimeout, named);
    }
    if limits.classic.migration == Migration::Disabled {
        return refused(ClassicCode::InconsistentGroupProtocol, None);
    }
    if g.members.len() >= limits.members_max && !g.members.contains_key(&j.member) {
        return refused(ClassicCode::GroupMaxSizeReached, None);
    }
    let Some((protocol, subscription)) = fits(g, j) else { return refused(ClassicCode::InconsistentGroupProtocol, None) };
    let id = if first { member_id(&j.client_id, j.random) } else { j.member.clone() };
    if first && j.instance_id.is_none() && j.version >= 4 {
        return refused(ClassicCode::MemberIdRequired, Some(&id));
    }
    let (looked_at, wanted) = (LookedAt::of(draft), wanted_so_far(draft));
    let (before, replaces_consumer) = admit(draft, group, j, &id)?;
    speaks(draft, &id, j);
    let change = take_wish(draft, &id, &before, &wish(j, &before, &subscription))?;
    if replaces_consumer && convert::can_downgrade(draft) {
        return Ok(joins_as_the_last(draft, group, &id, protocol, &subscription, change));
    }
    if change.bump {
        draft.bump("joined", format!("{id} joined by the classic protocol or changed its subscription"), Some(&id));
        refresh_metadata(draft, group, Bump::Done);
    } else {
        refresh_metadata(draft, group, Bump::If(&wanted));
    }
    retarget(draft);
    let owned = by_id(draft, group, &id, &subscription.owned);
    reconcile::reconcile_consumer(draft, &id, Some(&owned), change.subscription);
    look(draft, &looked_at, change.unresolved);
    draft.effects.extend([Effect::Cancel(Due::JoinOf { member: id.clone() }), Effect::Heard(id.clone()), Effect::Arm(Due::SyncOf { member: id.clone() }, j.rebalance_timeout_ms)]);
    Ok(joined(draft, id, protocol))
}

fn joined(draft: &Draft, id: MemberId, protocol: String) -> Response {
    let generation = draft.group().and_then(|g| g.members.get(&id)).map_or(0, |m| m.epoch);
    let answer = JoinedGeneration {
        member: id, generation, protocol_type: Some(CONSUMER.into()), protocol: Some(protocol), assigning_member: MemberId::default(), skip_assignment: false, members: Vec::new(),
    };
    Response::Classic(ClassicAnswer::Joined(Box::new(answer)))
}

/// It takes the place of the last consumer member, and so the group is a classic one again. If its target is out of date by now, nothing is computed any more: a rebalance of the
/// classic group decides, and the one who joined, whose generation is none of that group's, is told so when it syncs.
fn joins_as_the_last(draft: &mut Draft, group: &GroupId, id: &MemberId, protocol: String, said: &Subscription, change: Change) -> Response {
    let newer = |g: &Group| g.epoch > g.target_epoch || (!draft.context.facts_seen && !knows_all(draft, group, &g.subscribed_topics()));
    let stale = change.bump || draft.group().is_some_and(newer);
    if !stale {
        let owned = by_id(draft, group, id, &said.owned);
        reconcile::reconcile_consumer(draft, id, Some(&owned), change.subscription);
    }
    let answer = joined(draft, id.clone(), protocol);
    convert::downgrade(draft, stale.then_some("the last consumer member was replaced by a classic one, and the target is out of date"));
    answer
}

/// Its first strategy with what it says for it, if it fits: it is a consumer, and shares a strategy with all classic members, so that the group can be
/// a classic one again. (Whether it may become one is asked when it would.)
fn fits(g: &Group, j: &Join) -> Option<(String, Subscription)> {
    let classic: Vec<&ClassicPart> = g.members.values().filter_map(|m| m.classic.as_deref()).collect();
    let shared = |name: &String| classic.iter().all(|c| c.protocols.iter().any(|(n, _)| n == name));
    if j.protocol_type != CONSUMER || !j.protocols.iter().any(|(name, _)| shared(name)) {
        return None;
    }
    let (name, bytes) = j.protocols.first()?;
    Some((name.clone(), Subscription::decode(&bytes.0).ok()?))
}

/// What the member wanted before, and whether it takes the place of a member of the consumer protocol.
fn admit(draft: &mut Draft, group: &GroupId, j: &Join, id: &MemberId) -> Result<(Wish, bool), GroupError> {
    let g = existing(draft, group)?;
    let holder = j.instance_id.as_ref().and_then(|i| g.instances.get(i));
    match (&j.instance_id, holder, j.member.as_str().is_empty()) {
        (Some(_), None, false) => return refused(ClassicCode::UnknownMemberId, None),
        (Some(_), Some(holder), false) if holder != id => return refused(ClassicCode::FencedInstanceId, None),
        (Some(instance), Some(holder), true) => {
            let (old, m) = (holder.clone(), &g.members[holder]);
            if m.conforming() {
                return Err(GroupError::UnreleasedInstanceId { instance: instance.clone(), holder: old }); // it stops by a deadline only
            }
            let (before, consumer) = (Wish::of(m), m.classic.is_none());
            if m.epoch != AWAY {
                draft.put(Record::Away { member: old.clone() });
            }
            come_back(draft, group, &old, id, Incarnation::default());
            return Ok((before, consumer));
        }
        (None, ..) | (Some(_), ..) => {}
    }
    if let Some(m) = g.members.get(id) {
        return if m.conforming() { refused(ClassicCode::UnknownMemberId, None) } else { Ok((Wish::of(m), false)) };
    }
    let joined = Joined {
        member: id.clone(), protocol: Protocol::Consumer, incarnation: Incarnation::default(), replaces: None, instance_id: j.instance_id.clone(), wish: Wish::default(),
        session_told_ms: j.session_timeout_ms, session_promised_ms: j.session_timeout_ms, joined_at: AssignmentRevision(draft.draw(0)), freed: Vec::new(),
    };
    draft.put(Record::Joined(Box::new(joined)));
    Ok((Wish::default(), false))
}

/// Records what it says as a classic member, if that is news.
fn speaks(draft: &mut Draft, id: &MemberId, j: &Join) {
    let part = ClassicPart { session_timeout_ms: j.session_timeout_ms, protocols: j.protocols.clone() };
    let Some(m) = draft.group().and_then(|g| g.members.get(id)) else { return };
    let session = (m.session_told_ms, m.session_promised_ms) != (j.session_timeout_ms, j.session_timeout_ms);
    if m.classic.as_deref() != Some(&part) {
        draft.put(Record::Classic(Box::new(ClassicRecord::Speaks { member: id.clone(), part: Some(part) })));
    }
    if session {
        draft.put(Record::Session { member: id.clone(), told_ms: j.session_timeout_ms, promised_ms: j.session_timeout_ms });
    }
}

fn wish(j: &Join, before: &Wish, s: &Subscription) -> Wish {
    Wish {
        subscribed: s.topics.iter().cloned().collect(), regex: None, assignor: before.assignor.clone(), rack: s.rack.clone().or_else(|| before.rack.clone()), capacity: before.capacity,
        rebalance_timeout_ms: j.rebalance_timeout_ms, client: ClientInfo { id: j.client_id.clone(), host: j.client_host.clone() },
    }
}

/// What it says to own. It names topics, not their ids: what it was granted is meant, also when its topic is gone or was made again under its name, else the topics of now.
fn by_id(draft: &Draft, group: &GroupId, id: &MemberId, owned: &[Partition]) -> PartitionsById {
    let m = existing(draft, group).ok().and_then(|g| g.members.get(id));
    let granted = |p: &Partition| m.filter(|_| !seeded::on(54)).and_then(|m| m.assigned.get(p).or(m.pending.get(p).map(|x| &x.grant))).map(|x| x.topic_id);
    let mut out = PartitionsById::new();
    for p in owned {
        if let Some(topic_id) = granted(p).or_else(|| draft.context.metadata.topics.get(&p.topic).map(|t| t.id)) {
            out.entry(topic_id).or_default().insert(p.partition);
        }
    }
    out
}

/// The classic member that a request is from.
fn member<'a>(draft: &'a Draft, group: &GroupId, id: &MemberId, instance: Option<&InstanceId>) -> Result<(&'a Group, &'a Member, &'a ClassicPart), GroupError> {
    let g = existing(draft, group)?;
    if let Some(i) = instance {
        match g.instances.get(i) {
            None => return refused(ClassicCode::UnknownMemberId, None),
            Some(holder) if holder != id => return refused(ClassicCode::FencedInstanceId, None),
            Some(_) => {}
        }
    }
    let found = g.members.get(id).and_then(|m| m.classic.as_deref().map(|c| (g, &**m, c)));
    found.map_or_else(|| refused(ClassicCode::UnknownMemberId, None), Ok)
}

fn sync(draft: &mut Draft, group: &GroupId, s: &classic::Sync) -> Result<Response, GroupError> {
    let (g, m, part) = member(draft, group, &s.member, s.instance_id.as_ref())?;
    if s.generation != m.epoch {
        return refused(ClassicCode::IllegalGeneration, None);
    }
    let Some((protocol, said)) = part.protocols.first() else { return refused(ClassicCode::InconsistentGroupProtocol, None) };
    if s.protocol_type.as_deref().is_some_and(|t| t != CONSUMER) || s.protocol.as_ref().is_some_and(|p| p != protocol) {
        return refused(ClassicCode::InconsistentGroupProtocol, None);
    }
    // One that is giving back has joined for this epoch already: it is called when that is done.
    if called_for(g) > m.epoch && m.state != MemberState::UnrevokedPartitions {
        draft.effects.push(Effect::ArmIfAbsent(Due::JoinOf { member: s.member.clone() }, m.rebalance_timeout_ms));
        return refused(ClassicCode::RebalanceInProgress, None);
    }
    // Of a topic that is gone, or was made again under its name, it is not told: by the name it would take the new one's partition for its own.
    let there = |(p, x): &(&Partition, &Grant)| draft.image_is_behind() || draft.context.metadata.topics.get(&p.topic).is_some_and(|t| t.id == x.topic_id);
    let assignment = assignment(m.assigned.iter().filter(there).map(|(p, _)| p.clone()).collect(), &said.0);
    let answer = ClassicAnswer::Synced { protocol_type: s.protocol_type.clone(), protocol: s.protocol.clone(), assignment };
    draft.effects.extend([Effect::Cancel(Due::SyncOf { member: s.member.clone() }), Effect::Heard(s.member.clone())]);
    Ok(Response::Classic(answer))
}

/// The epoch that classic members are called to join for: that of the target, since there is nothing new to join for before (Kafka 4.3). Where no consumer member is left,
/// whose heartbeat computes the next target, the one who joins does: they are called for the group's.
fn called_for(g: &Group) -> Epoch { if g.members.values().any(|m| m.classic.is_none()) { g.target_epoch } else { g.epoch } }

/// Partitions as the member reads them: in the version that it writes itself.
pub fn assignment(partitions: Vec<Partition>, said: &[u8]) -> classic::Opaque {
    let version = said.first_chunk::<2>().map_or(0, |v| i16::from_be_bytes(*v));
    // Names are at most 249 bytes long, and there are not 2^31 partitions: nothing is too long to be written.
    Assigned { partitions, user_data: None }.encode(version).map(classic::Opaque::from).unwrap_or_default()
}

fn heartbeat(draft: &mut Draft, group: &GroupId, b: &classic::Beat) -> Result<Response, GroupError> {
    let (g, m, _) = member(draft, group, &b.member, b.instance_id.as_ref())?;
    if b.generation != m.epoch {
        return refused(ClassicCode::IllegalGeneration, None);
    }
    let waits = || g.target.get(&b.member).into_iter().flatten().any(|p| !m.assigned.contains_key(p) && g.owners.contains_key(p));
    let called = m.epoch < called_for(g) || match m.state {
        MemberState::UnrevokedPartitions => true,
        MemberState::UnreleasedPartitions => !waits(),
        MemberState::Stable => false,
    };
    let to_come = Effect::ArmIfAbsent(Due::JoinOf { member: b.member.clone() }, m.rebalance_timeout_ms);
    draft.effects.push(Effect::Heard(b.member.clone()));
    if called && !seeded::on(53) {
        draft.effects.push(to_come);
        return refused(ClassicCode::RebalanceInProgress, None);
    }
    Ok(Response::Classic(ClassicAnswer::Heartbeat))
}

/// Who is to leave, and whether an administrator says so: without a member id whoever has the static place is meant, by whatever protocol. By its own id a member leaves that speaks this one.
fn leaver<'a>(draft: &'a Draft, group: &GroupId, l: &Leaver) -> Result<(MemberId, &'a Member, bool), GroupError> {
    let g = existing(draft, group)?;
    let placed = l.instance_id.as_ref().filter(|_| l.member.as_str().is_empty()).and_then(|i| g.instances.get(i)).and_then(|id| Some((id, g.members.get(id)?)));
    match placed {
        Some((id, m)) => Ok((id.clone(), m, true)),
        None => member(draft, group, &l.member, l.instance_id.as_ref()).map(|(_, m, _)| (l.member.clone(), m, false)),
    }
}

fn leave(draft: &mut Draft, group: &GroupId, leavers: &[Leaver]) -> Result<Response, GroupError> {
    let (mut results, mut gone, mut consumers, mut by_themselves) = (Vec::new(), Vec::new(), false, false);
    for l in leavers {
        let result = match leaver(draft, group, l) {
            Ok((id, m, removed)) => {
                let (freed, held) = if removed { freed_or_held(m) } else { (holdings(m), Vec::new()) };
                by_themselves |= !removed;
                consumers |= put_out(draft, &id, Parting { freed, held, fence: false });
                gone.push(id);
                Ok(())
            }
            Err(GroupError::Classic { code, .. }) => Err(code),
            Err(e) => return Err(e),
        };
        results.push((l.clone(), result));
    }
    if let Some(first) = gone.first() {
        let names: Vec<&str> = gone.iter().map(MemberId::as_str).collect();
        let (kind, cause) = if by_themselves { ("left", format!("{} left", names.join(", "))) } else { ("removed", format!("an administrator emptied the static places of {}", names.join(", "))) };
        go_on_without(draft, group, first, consumers, kind, cause);
    }
    Ok(Response::Classic(ClassicAnswer::Left(results)))
}

/// A classic member that was called to join, or has joined and was to sync, has not come in time.
pub fn timed_out(draft: &mut Draft, group: &GroupId, due: &Due) {
    let (member, what) = match due {
        Due::JoinOf { member } => (member, "join"),
        Due::SyncOf { member } => (member, "sync"),
        Due::Session { .. } | Due::Join | Due::Sync => return,
    };
    let Some(m) = draft.group().and_then(|g| g.members.get(member)).filter(|m| m.classic.is_some()) else { return };
    let (freed, cause) = (holdings(m), format!("{member} did not {what} within its rebalance timeout of {} ms", m.rebalance_timeout_ms));
    take_out(draft, group, member, Parting { freed, held: Vec::new(), fence: false }, "fenced", cause);
}
