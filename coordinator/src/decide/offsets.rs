//! Committed offsets: a member's are fenced by the token of each partition, an administrator's need an empty group (`safety.md` 17).

use super::*;
use crate::metadata::Metadata;

const METADATA_MAX: usize = 4_096;

pub fn commit(draft: &mut Draft, group: &GroupId, c: &Commit) -> Result<Response, GroupError> {
    if c.member.is_none() {
        match draft.group() {
            // Whether the topic exists is asked of the image: an older one than the group has seen does not know (`safety.md` 23).
            Some(g) if draft.context.metadata.revision < g.metadata_revision => {
                return Err(GroupError::Loading { have: draft.context.metadata.revision, need: g.metadata_revision });
            }
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
    let (committed_at_ms, time_ms, known) = (draft.context.wall_us / 1000, draft.context.time_ms, g.metadata_revision);
    let topic_ids: Vec<(u128, u64)> = c.offsets.iter().map(|o| topic_id(draft, g, &o.partition.topic).unwrap_or((0, known))).collect();
    for ((o, (_, result)), (topic_id, metadata_revision)) in c.offsets.iter().zip(&results).zip(topic_ids) {
        if result.is_ok() {
            let (token, seq) = c.member.as_ref().map_or((FencingToken(0), 0), |m| (o.token, m.commit_seq));
            let committed = CommittedOffset { offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms, time_ms, topic_id, token, seq };
            draft.put(Record::Offset(Box::new(OffsetCommitted { partition: o.partition.clone(), committed, metadata_revision })));
        }
    }
    Ok(Response::Committed(results))
}

/// Offsets whose sender has been checked as a whole, as Kafka does: no token, no sequence.
pub fn commit_without_token(draft: &mut Draft, offsets: &[CommitOffset]) -> Vec<(Partition, Result<(), CommitRefusal>)> {
    let Some(g) = draft.group() else { return Vec::new() };
    let results: Vec<(Partition, Result<(), CommitRefusal>)> = offsets.iter().map(|o| (o.partition.clone(), admissible(draft, g, None, o))).collect();
    let (committed_at_ms, time_ms, known) = (draft.context.wall_us / 1000, draft.context.time_ms, g.metadata_revision);
    let topic_ids: Vec<(u128, u64)> = offsets.iter().map(|o| topic_id(draft, g, &o.partition.topic).unwrap_or((0, known))).collect();
    for ((o, (_, result)), (topic_id, metadata_revision)) in offsets.iter().zip(&results).zip(topic_ids) {
        if result.is_ok() {
            let (token, seq) = (FencingToken(0), 0);
            let committed = CommittedOffset { offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms, time_ms, topic_id, token, seq };
            draft.put(Record::Offset(Box::new(OffsetCommitted { partition: o.partition.clone(), committed, metadata_revision })));
        }
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

/// The topic's id and the meta revision it comes from: what the group has recorded, else the image.
fn topic_id(draft: &Draft, g: &Group, topic: &TopicName) -> Option<(u128, u64)> {
    let recorded = g.topics.get(topic).map(|t| (t.id, g.metadata_revision));
    recorded.or_else(|| draft.context.metadata.topics.get(topic).map(|t| (t.id, draft.context.metadata.revision)))
}

/// Whether a sweep would find something to do at this time of the shard.
pub fn to_sweep(g: &Group, image: &Metadata, time_ms: u64) -> bool { is_over(g, time_ms) || expired(g, time_ms).next().is_some() || gone(g, image).next().is_some() }

/// Drops offsets of topics that are gone and offsets past their retention, then the group itself if nothing is left of it.
pub fn sweep(draft: &mut Draft) {
    forget_gone(draft);
    let Some(g) = draft.group() else { return };
    let partitions: Vec<Partition> = expired(g, draft.context.time_ms).cloned().collect();
    if !partitions.is_empty() {
        draft.note("offsets-expired", format!("{} offsets were kept for {} minutes after their commit", partitions.len(), g.config.offsets_retention_minutes), None, Vec::new());
        draft.put(Record::OffsetsExpired { partitions });
    }
    if draft.group().is_some_and(|g| is_over(g, draft.context.time_ms)) {
        draft.put(Record::Deleted);
    }
}

/// Offsets of a topic that was deleted, or made again under its name, are of no use to anybody.
pub fn forget_gone(draft: &mut Draft) {
    let Some(g) = draft.group() else { return };
    let partitions: Vec<Partition> = gone(g, draft.context.metadata).cloned().collect();
    if !partitions.is_empty() {
        draft.put(Record::OffsetsExpired { partitions });
    }
}

fn gone<'a>(g: &'a Group, image: &'a Metadata) -> impl Iterator<Item = &'a Partition> {
    let behind = image.revision < g.metadata_revision;
    g.offsets.iter().filter(move |(p, o)| !behind && image.topics.get(&p.topic).is_none_or(|t| t.id != o.topic_id)).map(|(p, _)| p)
}

/// Offsets older than their retention, on the shard's time. A topic that a member subscribes to keeps its offsets, and so does a held partition.
fn expired(g: &Group, time_ms: u64) -> impl Iterator<Item = &Partition> {
    let keep_ms = g.config.offsets_retention_minutes * 60_000;
    // What classic members read is opaque: a live group keeps everything, and retention begins when the last one has gone.
    let from = g.classic.as_ref().map_or(0, |c| if c.phase == classic::Phase::Empty { c.empty_since_ms } else { u64::MAX });
    let old = g.offsets.iter().filter(move |(_, o)| o.time_ms.max(from).saturating_add(keep_ms) <= time_ms);
    old.filter(|(p, _)| !g.owners.contains_key(*p) && !g.members.values().any(|m| m.subscribed.contains(&p.topic))).map(|(p, _)| p)
}

/// Nobody is in the group, nothing is held, no offset is left, and so it has been for the retention time.
fn is_over(g: &Group, time_ms: u64) -> bool {
    let empty = g.members_count() == 0 && g.holds.is_empty() && g.offsets.is_empty() && g.quarantined.is_none();
    empty && g.changed_at_ms.saturating_add(g.config.offsets_retention_minutes * 60_000) <= time_ms
}
