//! Committed offsets: a member's are fenced by the token of each partition, an administrator's need an empty group (`safety.md` 17).

use super::*;

const METADATA_MAX: usize = 4_096;

pub fn commit(draft: &mut Draft, group: &GroupId, c: &Commit) -> Result<Response, GroupError> {
    if c.member.is_none() {
        match draft.group() {
            Some(g) if g.members_count() > 0 => return Err(GroupError::NonEmptyGroup { members: g.members_count() as u64 }),
            Some(g) if !g.holds.is_empty() => {
                let remaining_ms = g.holds.keys().map(|p| (draft.context.hold_remaining)(p)).max().unwrap_or(0);
                return Err(GroupError::GroupDraining { holds: g.holds.len() as u64, remaining_ms });
            }
            Some(_) => {}
            None => draft.put(Record::Created),
        }
    }
    let g = existing(draft, group)?;
    let results: Vec<(Partition, Result<(), CommitRefusal>)> = c.offsets.iter().map(|o| (o.partition.clone(), admissible(draft, g, c.member.as_ref(), o))).collect();
    let at_ms = draft.context.wall_us / 1000;
    for (o, (_, result)) in c.offsets.iter().zip(&results) {
        if result.is_ok() {
            let (token, seq) = c.member.as_ref().map_or((FencingToken(0), 0), |m| (o.token, m.commit_seq));
            draft.put(Record::Offset { partition: o.partition.clone(), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, at_ms, token, seq });
        }
    }
    Ok(Response::Committed(results))
}

/// Offsets whose sender has been checked as a whole, as Kafka does: no token, no sequence.
pub fn commit_without_token(draft: &mut Draft, offsets: &[CommitOffset]) -> Vec<(Partition, Result<(), CommitRefusal>)> {
    let Some(g) = draft.group() else { return Vec::new() };
    let results: Vec<(Partition, Result<(), CommitRefusal>)> = offsets.iter().map(|o| (o.partition.clone(), admissible(draft, g, None, o))).collect();
    let at_ms = draft.context.wall_us / 1000;
    for (o, _) in offsets.iter().zip(&results).filter(|(_, (_, r))| r.is_ok()) {
        draft.put(Record::Offset {
            partition: o.partition.clone(), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, at_ms, token: FencingToken(0), seq: 0,
        });
    }
    results
}

fn admissible(draft: &Draft, g: &Group, member: Option<&CommitMember>, o: &CommitOffset) -> Result<(), CommitRefusal> {
    if o.offset < 0 {
        return Err(CommitRefusal::InvalidOffset);
    }
    if o.metadata.len() > METADATA_MAX {
        return Err(CommitRefusal::MetadataTooLarge);
    }
    let Some(member) = member else {
        let known = draft.context.metadata.topics.get(&o.partition.topic).is_some_and(|t| (0..t.partitions).contains(&o.partition.partition));
        return if known { Ok(()) } else { Err(CommitRefusal::UnknownPartition) };
    };
    match g.owners.get(&o.partition) {
        Some(x) if x.member == member.member && x.incarnation == member.incarnation && x.token == o.token => {}
        Some(_) => return Err(CommitRefusal::StaleToken),
        None if g.topics.get(&o.partition.topic).is_none_or(|t| o.partition.partition >= t.partitions) => return Err(CommitRefusal::UnknownPartition),
        None => return Err(CommitRefusal::StaleToken),
    }
    match g.offsets.get(&o.partition) {
        Some(have) if have.token == o.token && have.seq > member.commit_seq => Err(CommitRefusal::StaleCommit),
        _ => Ok(()),
    }
}

pub fn fetch(draft: &mut Draft, group: &GroupId, topic: Option<&TopicName>, partition: Option<i32>) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    let wanted = g.offsets.iter().filter(|(p, _)| topic.is_none_or(|t| p.topic == *t) && partition.is_none_or(|n| p.partition == n));
    Ok(Response::Offsets(wanted.map(|(p, o)| OffsetView { partition: p.clone(), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms: o.committed_at_ms }).collect()))
}

pub fn delete(draft: &mut Draft, group: &GroupId, topic: &TopicName) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    // What classic members subscribe to is opaque here: the offsets of a live group stay.
    if let Some(c) = &g.classic
        && !c.members.is_empty()
    {
        return Err(GroupError::NonEmptyGroup { members: c.members.len() as u64 });
    }
    if g.members.values().any(|m| m.subscribed.contains(topic)) {
        return Err(GroupError::SubscribedToTopic { topic: topic.clone() });
    }
    let count = g.offsets.keys().filter(|p| p.topic == *topic).count() as u64;
    if count > 0 {
        draft.put(Record::OffsetsRemoved { topic: topic.clone() });
    }
    Ok(Response::OffsetsDeleted { count })
}
