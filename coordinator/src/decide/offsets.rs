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
            Some(g) if g.members_count() > 0 && !seeded::on(240) => return Err(GroupError::NonEmptyGroup { members: g.members_count() as u64 }),
            Some(g) if !g.holds.is_empty() && !seeded::on(238) => {
                let remaining_ms = g.holds.keys().map(|p| (draft.context.hold_remaining)(p)).max().unwrap_or(0);
                return Err(GroupError::GroupDraining { holds: g.holds.len() as u64, remaining_ms });
            }
            Some(_) => {}
            None => draft.put(Record::Created),
        }
    }
    let g = existing(draft, group)?;
    let results: Vec<(Partition, Result<(), CommitRefusal>)> = c.offsets.iter().map(|o| (o.partition.clone(), admissible(draft, g, c.member.as_ref(), o))).collect();
    let accepted: Vec<CommitOffset> = c.offsets.iter().zip(&results).filter(|(_, (_, r))| r.is_ok()).map(|(o, _)| o.clone()).collect();
    match &c.member {
        Some(m) => put_offsets(draft, &accepted, m.commit_seq),
        None => put_offsets(draft, &accepted.into_iter().map(|o| CommitOffset { token: FencingToken(0), ..o }).collect::<Vec<_>>(), 0),
    }
    Ok(Response::Committed(results))
}

/// Offsets whose sender has been checked as a whole, as Kafka does: no token, no sequence.
pub fn commit_without_token(draft: &mut Draft, offsets: &[CommitOffset]) -> Vec<(Partition, Result<(), CommitRefusal>)> {
    let Some(g) = draft.group() else { return Vec::new() };
    let results: Vec<(Partition, Result<(), CommitRefusal>)> = offsets.iter().map(|o| (o.partition.clone(), admissible(draft, g, None, o))).collect();
    let accepted: Vec<CommitOffset> = offsets.iter().zip(&results).filter(|(_, (_, r))| r.is_ok()).map(|(o, _)| CommitOffset { token: FencingToken(0), ..o.clone() }).collect();
    put_offsets(draft, &accepted, 0);
    results
}

/// Records accepted offsets, each under its token.
fn put_offsets(draft: &mut Draft, offsets: &[CommitOffset], seq: u64) {
    let Some(g) = draft.group() else { return };
    let (committed_at_ms, time_ms, known) = (draft.context.wall_us / 1000, draft.context.time_ms, g.metadata_revision);
    let ids: Vec<(u128, u64)> = offsets.iter().map(|o| topic_id(draft, g, &o.partition.topic).unwrap_or((0, known))).collect();
    for (o, (topic_id, metadata_revision)) in offsets.iter().zip(ids) {
        let committed = CommittedOffset { offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms, time_ms, topic_id, token: o.token, seq };
        draft.put(Record::Offset(Box::new(OffsetCommitted { partition: o.partition.clone(), committed, metadata_revision })));
    }
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
        Some(x) if x.member == member.member && x.incarnation == member.incarnation && (x.token == o.token || seeded::on(9) || (x.token.0 == o.token.0 + 1 && seeded::on(65))) => {
            // Asked back because its topic was deleted: a position in it is of no use, least of all to a topic made again under its name.
            let granted = g.members.get(&x.member).and_then(|m| m.assigned.get(&o.partition).or(m.pending.get(&o.partition).map(|p| &p.grant)));
            if granted.is_some_and(|x| g.topics.get(&o.partition.topic).is_none_or(|t| t.id != x.topic_id)) {
                return Err(CommitRefusal::UnknownPartition);
            }
        }
        Some(_) if seeded::on(10) => {}
        Some(_) => return Err(CommitRefusal::StaleToken),
        None if g.topics.get(&o.partition.topic).is_none_or(|t| o.partition.partition >= t.partitions) => return Err(CommitRefusal::UnknownPartition),
        None => return Err(CommitRefusal::StaleToken),
    }
    match g.offsets.get(&o.partition) {
        Some(have) if (have.token == o.token || seeded::on(178)) && have.seq > member.commit_seq && !seeded::on(179) => Err(CommitRefusal::StaleCommit),
        _ => Ok(()),
    }
}

/// Kafka's OffsetCommit into a group of consumer-protocol members (KIP-848, KIP-1251). Beyond Kafka, at the current epoch too nobody commits for a
/// partition that is another member's (`safety.md` 17).
pub fn kafka_commit(draft: &mut Draft, group: &GroupId, c: &KafkaCommit) -> Result<Response, GroupError> {
    let nobodys = c.epoch < 0 && draft.group().is_none_or(|g| g.members.is_empty());
    if nobodys {
        // A consumer that is in no group keeps its positions in a classic one, as everybody's tools expect.
        if draft.group().is_none() {
            draft.put(Record::Created);
            draft.put(Record::Config { config: draft.context.metadata.config_of(group) });
        }
        if draft.group().is_some_and(Group::is_blank) {
            let time_ms = draft.context.time_ms;
            draft.put(Record::Classic(Box::new(classic::ClassicRecord::Opened { time_ms })));
        }
        return commit(draft, group, &Commit { member: None, offsets: c.offsets.clone() });
    }
    let g = match draft.group().filter(|g| !g.is_blank()) {
        Some(g) => g,
        None if c.version < 9 => return Err(GroupError::Classic { code: classic::ClassicCode::IllegalGeneration, member: None }),
        None => return Err(GroupError::UnknownGroup { group: group.clone() }),
    };
    let m = g.members.get(&c.member).filter(|m| !m.conforming()).ok_or_else(|| GroupError::UnknownMember { member: c.member.clone() })?;
    let illegal = GroupError::Classic { code: classic::ClassicCode::IllegalGeneration, member: None };
    if c.version < 9 && m.classic.is_none() {
        return Err(GroupError::UnsupportedVersion { version: c.version });
    }
    if c.epoch > m.epoch && m.classic.is_some() {
        return Err(illegal);
    }
    if c.epoch > m.epoch {
        return Err(GroupError::StaleMemberEpoch { received: c.epoch, stored: m.epoch });
    }
    let results: Vec<(Partition, Result<(), CommitRefusal>)> = c.offsets.iter().map(|o| (o.partition.clone(), kafka_admissible(draft, g, &c.member, m, c.epoch, o))).collect();
    let tokens: Vec<FencingToken> = c.offsets.iter().map(|o| g.owners.get(&o.partition).filter(|x| x.member == c.member).map_or(FencingToken(0), |x| x.token)).collect();
    let asked = c.offsets.iter().zip(&results).filter(|(_, (_, r))| r.is_ok()).zip(tokens).map(|((o, _), token)| CommitOffset { token, ..o.clone() }).collect::<Vec<_>>();
    put_offsets(draft, &asked, 0);
    Ok(Response::Committed(results))
}

fn kafka_admissible(draft: &Draft, g: &Group, id: &MemberId, m: &Member, epoch: Epoch, o: &CommitOffset) -> Result<(), CommitRefusal> {
    let p = &o.partition;
    let topic = draft.context.metadata.topics.get(&p.topic);
    // Of the topic as it is now: made again under its name, it is another.
    let mine = m.assigned.get(p).or(m.pending.get(p).map(|x| &x.grant)).filter(|x| topic.is_some_and(|t| t.id == x.topic_id));
    let stale = if m.classic.is_some() { CommitRefusal::IllegalGeneration } else { CommitRefusal::StaleMemberEpoch };
    let others = g.owners.get(p).is_some_and(|x| x.member != *id);
    let known = topic.is_some_and(|t| (0..t.partitions).contains(&p.partition));
    match () {
        () if o.metadata.len() > METADATA_MAX => Err(CommitRefusal::MetadataTooLarge),
        // At an earlier epoch of its own: what it held then and still holds (trap 14).
        () if epoch < m.epoch && (seeded::on(40) || mine.is_none_or(|x| x.epoch > epoch)) => Err(stale),
        () if !known => Err(CommitRefusal::UnknownPartition),
        () if others => Err(stale),
        () => Ok(()),
    }
}

/// Kafka's OffsetFetch. A member's earlier epoch is as good: its newer one may be on its way to it, and a refusal would make some clients read on from
/// the end of the partition (trap 13).
pub fn kafka_fetch(draft: &mut Draft, group: &GroupId, f: &KafkaFetch) -> Result<Response, GroupError> {
    let asked = |g: &Group| -> Vec<OffsetView> { g.offsets.iter().filter(|(p, _)| f.partitions.as_ref().is_none_or(|ps| ps.contains(*p))).map(|(p, o)| seen(p, o)).collect() };
    let member = match &f.member {
        None if f.epoch < 0 => return Ok(Response::Offsets(draft.group().map(asked).unwrap_or_default())),
        None => MemberId::default(),
        Some(m) => m.clone(),
    };
    let g = existing(draft, group)?;
    let m = g.members.get(&member).ok_or(GroupError::UnknownMember { member })?;
    if f.epoch > m.epoch || (seeded::on(39) && f.epoch != m.epoch) {
        return Err(GroupError::StaleMemberEpoch { received: f.epoch, stored: m.epoch });
    }
    Ok(Response::Offsets(asked(g)))
}

fn seen(p: &Partition, o: &CommittedOffset) -> OffsetView {
    OffsetView { partition: p.clone(), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms: o.committed_at_ms }
}

pub fn fetch(draft: &mut Draft, group: &GroupId, topic: Option<&TopicName>, partition: Option<i32>) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    let wanted = g.offsets.iter().filter(|(p, _)| topic.is_none_or(|t| p.topic == *t) && partition.is_none_or(|n| p.partition == n));
    Ok(Response::Offsets(wanted.map(|(p, o)| seen(p, o)).collect()))
}

pub fn delete(draft: &mut Draft, group: &GroupId, topic: &TopicName) -> Result<Response, GroupError> {
    let g = existing(draft, group)?;
    // What classic members subscribe to is opaque here: the offsets of a live group stay.
    if let Some(c) = &g.classic
        && !c.members.is_empty()
    {
        return Err(GroupError::NonEmptyGroup { members: c.members.len() as u64 });
    }
    if g.members.values().any(|m| g.subscribes(m, topic)) && !seeded::on(243) {
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

/// How long the group's offsets are kept, ms.
fn keep_ms(group: &GroupId, image: &Metadata) -> u64 { image.config_of(group).offsets_retention_minutes * 60_000 }

/// Whether a sweep would find something to do at this time of the shard.
pub fn to_sweep(group: &GroupId, g: &Group, image: &Metadata, time_ms: u64) -> bool {
    let before = time_ms.checked_sub(keep_ms(group, image));
    is_over(g, before) || expired(g, before).next().is_some() || gone(g, image).next().is_some()
}

/// Drops offsets of topics that are gone and offsets past their retention, then the group itself if nothing is left of it.
pub fn sweep(draft: &mut Draft, group: &GroupId) {
    forget_gone(draft);
    if draft.image_is_behind() {
        return; // its settings may be older than what was promised
    }
    let keep_ms = keep_ms(group, draft.context.metadata);
    let before = draft.context.time_ms.checked_sub(keep_ms);
    let Some(g) = draft.group() else { return };
    let partitions: Vec<Partition> = expired(g, before).cloned().collect();
    if !partitions.is_empty() {
        draft.note("offsets-expired", format!("{} offsets were kept for {} minutes after their commit", partitions.len(), keep_ms / 60_000), None, Vec::new());
        draft.put(Record::OffsetsExpired { partitions });
    }
    if draft.group().is_some_and(|g| is_over(g, before)) {
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
    g.offsets.iter().filter(move |(p, o)| !behind && image.topics.get(&p.topic).is_none_or(|t| t.id != o.topic_id && !seeded::on(20))).map(|(p, _)| p)
}

/// Offsets older than their retention, on the shard's time. A topic that a member subscribes to keeps its offsets, and so does a held partition.
fn expired(g: &Group, before: Option<u64>) -> impl Iterator<Item = &Partition> {
    // What classic members read is opaque: a live group keeps everything, and retention begins when the last one has gone.
    let from = g.classic.as_ref().map_or(0, |c| if c.phase == classic::Phase::Empty { c.empty_since_ms } else { u64::MAX });
    let old = g.offsets.iter().filter(move |(_, o)| before.is_some_and(|b| o.time_ms.max(from) <= b));
    old.filter(|(p, _)| seeded::on(64) || !g.owners.contains_key(*p) && !g.members.values().any(|m| g.subscribes(m, &p.topic))).map(|(p, _)| p)
}

/// Nobody is in the group, nothing is held, no offset is left, and so it has been for the retention time.
fn is_over(g: &Group, before: Option<u64>) -> bool {
    let empty = g.members_count() == 0 && g.holds.is_empty() && g.offsets.is_empty() && g.quarantined.is_none();
    empty && before.is_some_and(|b| g.changed_at_ms <= b)
}
