//! Core values as JSON shapes and back.

use crate::error::Failure;
use baton_coordinator::{
    classic::Classic,
    command as core,
    config::{GroupConfig, Setting},
    embedded::Assigned,
    ids::*,
};
use baton_wire as wire;
use std::collections::{BTreeMap, BTreeSet};

pub fn incarnation(text: &str) -> Result<Incarnation, Failure> {
    wire::parse_hex128(text).map(Incarnation).ok_or_else(|| Failure::field("incarnation", "32 hexadecimal digits are expected"))
}

pub fn owned(topics: Vec<wire::Owned>) -> BTreeSet<Partition> {
    topics.into_iter().flat_map(|t| { let topic = TopicName::from(t.topic); t.partitions.into_iter().map(move |p| Partition::new(topic.clone(), p)) }).collect()
}

/// Groups an ordered set by topic.
pub fn by_topic(set: &BTreeSet<Partition>) -> Vec<wire::TopicPartitions> {
    let mut out: Vec<wire::TopicPartitions> = vec![];
    for p in set {
        match out.last_mut() {
            Some(t) if t.topic == p.topic.as_str() => t.partitions.push(p.partition),
            _ => out.push(wire::TopicPartitions { topic: p.topic.to_string(), partitions: vec![p.partition] }),
        }
    }
    out
}

fn assignment(granted: &BTreeMap<Partition, FencingToken>, ids: &BTreeMap<TopicName, u128>) -> Vec<wire::AssignedTopic> {
    let mut out: Vec<wire::AssignedTopic> = vec![];
    for (p, token) in granted {
        let one = wire::AssignedPartition { partition: p.partition, token: token.0 };
        match out.last_mut() {
            Some(t) if t.topic == p.topic.as_str() => t.partitions.push(one),
            // A topic that was just deleted has no id any more; 0 is never drawn.
            _ => out.push(wire::AssignedTopic { topic: p.topic.to_string(), topic_id: wire::hex128(ids.get(&p.topic).copied().unwrap_or(0)), partitions: vec![one] }),
        }
    }
    out
}

pub fn member_state(s: core::MemberState) -> wire::MemberState {
    match s {
        core::MemberState::Stable => wire::MemberState::Stable,
        core::MemberState::UnrevokedPartitions => wire::MemberState::UnrevokedPartitions,
        core::MemberState::UnreleasedPartitions => wire::MemberState::UnreleasedPartitions,
    }
}

pub fn group_state(s: core::GroupState) -> wire::GroupState {
    match s {
        core::GroupState::Empty => wire::GroupState::Empty,
        core::GroupState::Assigning => wire::GroupState::Assigning,
        core::GroupState::Reconciling => wire::GroupState::Reconciling,
        core::GroupState::Stable => wire::GroupState::Stable,
        core::GroupState::PreparingRebalance => wire::GroupState::PreparingRebalance,
        core::GroupState::CompletingRebalance => wire::GroupState::CompletingRebalance,
        core::GroupState::Dead => wire::GroupState::Dead,
    }
}

pub fn heartbeat(v: core::HeartbeatView) -> wire::HeartbeatResponse {
    wire::HeartbeatResponse {
        member_id: v.member.to_string(),
        member_epoch: v.member_epoch,
        group_epoch: v.group_epoch,
        member_state: member_state(v.member_state),
        heartbeat_interval_ms: v.heartbeat_interval_ms,
        session_timeout_ms: v.session_timeout_ms,
        lease_ms: v.lease_ms,
        assignment_revision: v.assignment_revision.0,
        assignment: v.assignment.as_ref().map(|a| assignment(a, &v.topic_ids)),
        pending_revocation: by_topic(&v.pending_revocation),
        taken: by_topic(&v.taken),
        waited_at_most_ms: v.waited_at_most_ms,
    }
}

pub fn commit_code(r: core::CommitRefusal) -> &'static str {
    use wire::code::*;
    match r {
        core::CommitRefusal::StaleToken => STALE_TOKEN,
        core::CommitRefusal::StaleCommit => STALE_COMMIT,
        core::CommitRefusal::StaleMemberEpoch | core::CommitRefusal::IllegalGeneration => STALE_MEMBER_EPOCH,
        core::CommitRefusal::UnknownPartition => UNKNOWN_TOPIC_OR_PARTITION,
        core::CommitRefusal::MetadataTooLarge => OFFSET_METADATA_TOO_LARGE,
        core::CommitRefusal::InvalidOffset => INVALID_OFFSET,
    }
}

pub fn offset(v: core::OffsetView) -> wire::CommittedOffset {
    wire::CommittedOffset {
        topic: v.partition.topic.to_string(),
        partition: v.partition.partition,
        offset: v.offset,
        metadata: v.metadata,
        leader_epoch: v.leader_epoch,
        committed_at_ms: v.committed_at_ms,
    }
}

pub fn group(v: core::GroupView) -> wire::GroupView {
    let member = |m: core::MemberView| wire::MemberView {
        member_id: m.member.to_string(),
        instance_id: m.instance_id.map(String::from),
        incarnation: m.incarnation.to_string(),
        member_epoch: m.member_epoch,
        member_state: member_state(m.member_state),
        assigned: by_topic(&m.assigned),
        pending_revocation: by_topic(&m.pending_revocation),
        target: by_topic(&m.target),
        session_remaining_ms: m.session_remaining_ms,
    };
    let hold = |h: core::HoldView| {
        wire::HoldView { topic: h.partition.topic.to_string(), partition: h.partition.partition, member_id: h.member.to_string(), remaining_ms: h.remaining_ms }
    };
    let stuck = |s: core::StuckView| wire::StuckView {
        member_id: s.member.to_string(),
        topic: s.partition.topic.to_string(),
        partition: s.partition.partition,
        since_ms: s.since_ms,
        at_most_ms: s.at_most_ms,
    };
    let classic = v.classic.as_deref();
    wire::GroupView {
        generation: classic.map(|c| c.generation),
        protocol_type: classic.and_then(|c| c.protocol_type.clone()),
        protocol: classic.and_then(|c| c.protocol.clone()),
        group: v.group.to_string(),
        kind: if v.classic.is_some() { wire::GroupType::Classic } else { wire::GroupType::Consumer },
        state: group_state(v.state),
        group_epoch: v.group_epoch,
        target_epoch: v.target_epoch,
        assignor: v.assignor,
        members: classic.into_iter().flat_map(classic_members).chain(v.members.into_iter().map(member)).collect(),
        holds: v.holds.into_iter().map(hold).collect(),
        stuck_because: v.stuck_because.into_iter().map(stuck).collect(),
        quarantined: v.quarantined,
    }
}

/// The members of a classic group. What a member was assigned is its own affair, unless it is a consumer; its epoch is the generation.
fn classic_members(c: &Classic) -> impl Iterator<Item = wire::MemberView> + '_ {
    let consumers = c.protocol_type.as_deref() == Some("consumer");
    c.members.iter().map(move |(id, m)| {
        let assigned: BTreeSet<Partition> = if consumers { Assigned::decode(&m.assignment.0).map(|a| a.partitions.into_iter().collect()).unwrap_or_default() } else { BTreeSet::new() };
        wire::MemberView {
            member_id: id.to_string(), instance_id: m.instance_id.clone().map(String::from), incarnation: Incarnation::default().to_string(), member_epoch: c.generation,
            member_state: wire::MemberState::Stable, target: by_topic(&assigned), assigned: by_topic(&assigned), pending_revocation: vec![], session_remaining_ms: 0,
        }
    })
}

pub fn owner(o: core::OwnerView) -> wire::OwnerView {
    wire::OwnerView {
        topic: o.partition.topic.to_string(),
        partition: o.partition.partition,
        owner: o.owner.map(String::from),
        token: o.token.map(|t| t.0),
        state: match o.state {
            core::OwnerState::Assigned => wire::OwnerState::Assigned,
            core::OwnerState::PendingRevocation => wire::OwnerState::PendingRevocation,
            core::OwnerState::Held => wire::OwnerState::Held,
            core::OwnerState::Free => wire::OwnerState::Free,
        },
    }
}

pub fn history(r: core::HistoryRecord) -> wire::HistoryRecord {
    let moved = |m: core::Moved| {
        wire::Moved { topic: m.partition.topic.to_string(), partition: m.partition.partition, from: m.from.map(String::from), to: m.to.map(String::from) }
    };
    wire::HistoryRecord {
        revision: r.revision,
        at_ms: r.at_ms,
        kind: r.kind,
        cause: r.cause,
        member_id: r.member.map(String::from),
        moved: r.moved.into_iter().map(moved).collect(),
        took_ms: r.took_ms,
    }
}

pub fn config(c: &GroupConfig) -> wire::GroupConfig {
    wire::GroupConfig {
        session_timeout_ms: c.session_timeout_ms,
        heartbeat_interval_ms: c.heartbeat_interval_ms,
        pending_interval_ms: c.pending_interval_ms,
        assignment_interval_ms: c.assignment_interval_ms,
        offsets_retention_minutes: c.offsets_retention_minutes,
        moves_max: c.moves_max,
    }
}

/// The settings that a patch names, and no other.
pub fn patch(p: &wire::GroupConfigPatch) -> BTreeMap<Setting, Option<u64>> {
    let named = [
        (Setting::SessionTimeout, p.session_timeout_ms), (Setting::HeartbeatInterval, p.heartbeat_interval_ms), (Setting::PendingInterval, p.pending_interval_ms),
        (Setting::AssignmentInterval, p.assignment_interval_ms), (Setting::OffsetsRetention, p.offsets_retention_minutes), (Setting::MovesMax, p.moves_max),
    ];
    named.into_iter().filter_map(|(s, v)| v.map(|v| (s, v))).collect()
}
