//! From one protocol to the other while members are in: a classic group becomes a consumer group with its first consumer member, and a classic one again when the last has left.
//! A conversion is one record with everything that replay needs.

use super::{mixed::*, *};
use crate::{
    classic::{Classic, ClassicMember, ClassicPart, ClassicRecord, ConvertedBack, ConvertedMember},
    embedded::{Assigned, Subscription},
};

/// A heartbeat of a consumer member in a classic group. At a join the group is converted if it can be. True: with members in it.
pub fn upgrade(draft: &mut Draft, group: &GroupId, epoch: Epoch) -> Result<bool, GroupError> {
    let Some(c) = draft.group().and_then(|g| g.classic.as_deref()) else { return Ok(false) };
    let refused = |reason: String| Err(GroupError::NotConvertible { group: group.clone(), reason });
    if epoch != 0 {
        return refused("it is a classic group, and this is no join".into());
    }
    if c.members.is_empty() && c.phase == classic::Phase::Empty {
        draft.put(Record::Classic(Box::new(ClassicRecord::Closed)));
        return Ok(false);
    }
    let limits = draft.context.limits;
    if !limits.classic.migration.upgrades() {
        return refused("group.consumer.migration.policy forbids to convert it to a consumer group".into());
    }
    if c.protocol_type.as_deref() != Some(CONSUMER) {
        return refused(format!("its protocol type is {:?}, not consumer", c.protocol_type.as_deref().unwrap_or("")));
    }
    if c.members.len() > limits.members_max {
        return refused(format!("it has more members than the {} that a consumer group may have", limits.members_max));
    }
    if draft.image_is_behind() {
        return Err(GroupError::Loading { have: draft.context.metadata.revision, need: draft.group().map_or(0, |g| g.metadata_revision) });
    }
    let members = match converted(draft, c) {
        Ok(members) => members,
        Err(reason) => return refused(reason),
    };
    let image = draft.context.metadata;
    let wanted: BTreeSet<&TopicName> = members.iter().flat_map(|m| m.wish.subscribed.iter().chain(m.assigned.iter().map(|(p, ..)| &p.topic))).collect();
    let topics = wanted.into_iter().filter_map(|t| image.topics.get(t).map(|f| (t.clone(), *f))).collect();
    let (revision, count) = (AssignmentRevision(draft.draw(0)), members.len());
    draft.put(Record::Classic(Box::new(ClassicRecord::Upgraded { revision, members, topics, metadata_revision: image.revision })));
    // What was committed for a topic before it was made again under its name counts for nothing: the group knows the newer one from here on.
    offsets::forget_gone(draft);
    draft.note("converted", format!("a consumer member joins: the group and its {count} classic members go on as a consumer group"), None, Vec::new());
    Ok(true)
}

/// After a conversion whose join changed nothing else (a static member is back with the wish of its place): the assignment of the classic group is the target then. If that was
/// from before a topic grew, or had not come yet, partitions are nobody's, and no later change would say so: the facts are those of now. `unresolved`: what a regular expression
/// stands for is being found out, and is looked at then.
pub fn leave_nothing_out(draft: &mut Draft, unresolved: bool) {
    let Some(g) = draft.group().filter(|g| g.epoch == g.target_epoch) else { return };
    if g.epoch == 0 {
        return draft.bump("converted", "a group without members and without a generation yet begins".into(), None);
    }
    if unresolved {
        return;
    }
    let given: BTreeSet<&Partition> = g.target.iter().filter_map(|(id, ps)| g.members.get(id).map(|m| (m, ps))).flat_map(|(m, ps)| ps.iter().filter(|p| g.subscribes(m, &p.topic))).collect();
    let wanted = g.topics.iter().filter(|(t, _)| g.members.values().any(|m| g.subscribes(m, t)));
    if wanted.flat_map(|(t, f)| (0..f.partitions).map(|n| Partition::new(t.clone(), n))).any(|p| !given.contains(&p)) {
        draft.bump("converted", "the last assignment of the classic group leaves partitions to nobody".into(), None);
    }
}

/// The topic that is meant by what a classic member was assigned or says to own: by its name only. Of a topic that is not there (any more, or yet again) nobody knows the id, and
/// it may have more partitions than this image knows: the assignor is a client. But its member goes on with it until it is asked, whatever comes under the name.
fn topic_of(image: &crate::metadata::Metadata, p: &Partition) -> Option<u128> { (p.partition >= 0).then(|| image.topics.get(&p.topic).map_or(NO_TOPIC, |t| t.id)) }
const NO_TOPIC: u128 = 0;

/// Its members as the consumer protocol sees them: what they read, and what they were assigned last.
fn converted(draft: &Draft, c: &Classic) -> Result<Vec<ConvertedMember>, String> {
    let mut given: BTreeSet<Partition> = BTreeSet::new();
    let (mut out, mut claims): (Vec<ConvertedMember>, Vec<Vec<Partition>>) = (Vec::new(), Vec::new());
    for (id, m) in &c.members {
        let said = c.protocol.as_deref().and_then(|p| m.metadata(p)).or(m.protocols.first().map(|(_, said)| said)).ok_or_else(|| format!("{id} says nothing that can be read"))?;
        let subscription = Subscription::decode(&said.0).map_err(|e| format!("what {id} subscribes to cannot be read: {e}"))?;
        let forgotten = seeded::on(47) && c.phase != classic::Phase::Stable;
        let assigned = if forgotten { Ok(Assigned::default()) } else { Assigned::decode(&m.assignment.0) }.map_err(|e| format!("what {id} was assigned cannot be read: {e}"))?;
        if assigned.user_data.is_some_and(|d| !d.is_empty()) {
            return Err(format!("the assignment of {id} has user data of a custom assignor, which would be lost"));
        }
        let mut mine = Vec::new();
        for p in assigned.partitions {
            let Some(topic) = topic_of(draft.context.metadata, &p) else { continue };
            // one-owner: two members that were assigned one partition by their own assignor cannot be told apart here.
            if !given.insert(p.clone()) {
                return Err(format!("{p} is assigned to {id} and to another member"));
            }
            mine.push((p, topic, FencingToken::default()));
        }
        let wish = Wish {
            subscribed: subscription.topics.into_iter().collect(), regex: None, assignor: None, rack: subscription.rack, capacity: None, rebalance_timeout_ms: m.rebalance_timeout_ms,
            client: ClientInfo { id: m.client_id.clone(), host: m.client_host.clone() },
        };
        let part = ClassicPart { session_timeout_ms: m.session_timeout_ms, protocols: m.protocols.clone() };
        claims.push(subscription.owned);
        out.push(ConvertedMember { member: id.clone(), instance_id: m.instance_id.clone(), wish, part, assigned: mine });
    }
    // A cooperative member goes on with what it said to own when it joined, until it has heard of an assignment without it. What nobody else was assigned since is
    // counted as its own, so that it is asked back before anybody gets it.
    for (m, owned) in out.iter_mut().zip(claims) {
        for p in owned {
            let topic = topic_of(draft.context.metadata, &p);
            if let (Some(topic), false, false) = (topic, given.contains(&p), seeded::on(55)) {
                given.insert(p.clone());
                m.assigned.push((p, topic, FencingToken::default()));
            }
        }
    }
    // Tokens grow in the order in which the record is replayed.
    for (i, (.., token)) in out.iter_mut().flat_map(|m| &mut m.assigned).enumerate() {
        *token = FencingToken(draft.draw(1 + i as u64));
    }
    Ok(out)
}

/// Converts a consumer group back if only classic members are left. With `because` they are called to a rebalance. True: it is a classic group now.
/// Partitions that are held for a removed member keep it as it is: a classic group cannot hold them (`safety.md` 13).
pub fn downgrade(draft: &mut Draft, because: Option<&str>) -> bool {
    let Some(g) = draft.group().filter(|_| can_downgrade(draft)) else { return false };
    let Some(back) = converted_back(g, draft.context.time_ms) else { return false };
    let settled = g.state() == GroupState::Stable && g.members.iter().all(|(id, m)| m.assigned.keys().eq(g.target.get(id).into_iter().flatten()));
    let because = because.or((!settled).then_some("not every member has got what the consumer group meant for it"));
    draft.put(Record::Classic(Box::new(ClassicRecord::Downgraded(Box::new(back)))));
    draft.note("converted", "the last consumer member has left: the group goes on as a classic one".into(), None, Vec::new());
    if let Some(reason) = because {
        draft.put(Record::Classic(Box::new(ClassicRecord::Preparing)));
        draft.note("rebalance", reason.into(), None, Vec::new());
    }
    true
}

pub fn can_downgrade(draft: &Draft) -> bool {
    let limits = draft.context.limits;
    draft.group().is_some_and(|g| {
        let all_classic = !g.members.is_empty() && g.members.values().all(|m| m.classic.is_some());
        g.classic.is_none() && all_classic && g.holds.is_empty() && limits.classic.migration.downgrades() && g.members.len() <= limits.classic.members_max
    })
}

/// The members as the classic protocol sees them, each with its target as its assignment; but what somebody holds, perhaps beyond its target, stays its own until a
/// rebalance of the classic group says otherwise: it may be using it.
fn converted_back(g: &Group, time_ms: u64) -> Option<ConvertedBack> {
    let mut c = Classic::default();
    for (id, m) in &g.members {
        let part = m.classic.as_deref()?;
        for (name, _) in &part.protocols {
            *c.offered.entry(name.clone()).or_default() += 1;
        }
        let said = ClassicMember {
            instance_id: m.instance_id.clone(), client_id: m.client.id.clone(), client_host: m.client.host.clone(), session_timeout_ms: part.session_timeout_ms,
            rebalance_timeout_ms: m.rebalance_timeout_ms, protocols: part.protocols.clone(), assignment: Default::default(),
        };
        c.members.insert(id.clone(), said.into());
    }
    let protocol = c.elect_protocol()?;
    let members = c.members.iter().map(|(id, m)| {
        let not_others = |p: &&Partition| g.owners.get(*p).is_none_or(|o| o.member == *id);
        let mut partitions: BTreeSet<Partition> = g.target.get(id).into_iter().flatten().filter(not_others).cloned().collect();
        partitions.extend(g.members[id].holdings().map(|(p, ..)| p.clone()));
        let partitions = partitions.into_iter().collect();
        let assignment = assignment(partitions, m.metadata(&protocol).map_or(&[], |said| &said.0));
        (id.clone(), ClassicMember { assignment, ..(**m).clone() })
    });
    Some(ConvertedBack { members: members.collect(), assigning_member: c.members.keys().next()?.clone(), protocol, time_ms })
}
