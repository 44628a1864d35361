//! Topics, groups, settings and the cluster: what operators and tools ask.

use crate::{TopicPartitions, member::MemberState, null_as_default, null_is_a_value};
use serde::{Deserialize, Serialize};

/// `PUT /v1/topics/{topic}`: declares or grows; idempotent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicRequest { pub partitions: i32 }

/// `GET|PUT /v1/topics/{topic}/layout`: what the assignors `rack-aware` and `weighted` may know of its partitions. A list ends where the rest is as if never said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopicLayout {
    /// By partition: the zones where it is near.
    #[serde(default, deserialize_with = "null_as_default")]
    pub zones: Vec<Vec<String>>,
    /// By partition: its weight, 1 and above.
    #[serde(default, deserialize_with = "null_as_default")]
    pub weights: Vec<u32>,
}

/// A topic as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicView {
    pub topic: String,
    /// 32 hexadecimal digits.
    pub topic_id: String,
    pub partitions: i32,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// To be given as `page` to get what follows; null at the end.
    pub next: Option<String>,
    /// Set when the answer shows one node's applied state: its revision or log index there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_index: Option<u64>,
}

/// The query of `GET /v1/groups` and, without `state` and `type`, of `GET /v1/topics`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<GroupState>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "type")]
    pub kind: Option<GroupType>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<String>,
}

/// A group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupState { Empty, Assigning, Reconciling, Stable, PreparingRebalance, CompletingRebalance, Dead }

/// The protocol a group runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupType { Consumer, Classic }

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary {
    pub group: String,
    #[serde(rename = "type")]
    pub kind: GroupType,
    pub state: GroupState,
    pub members: u64,
    pub revision: u64,
}

/// `GET /v1/groups/{group}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupView {
    pub group: String,
    #[serde(rename = "type")]
    pub kind: GroupType,
    pub state: GroupState,
    pub group_epoch: i32,
    pub target_epoch: i32,
    pub assignor: String,
    pub members: Vec<MemberView>,
    pub holds: Vec<HoldView>,
    pub stuck_because: Vec<StuckView>,
    /// Why the group grants nothing until it is repaired; null: it is well.
    #[serde(default)]
    pub quarantined: Option<String>,
    /// Of a classic group: its generation, what its members are, and the strategy that they share. Null in a consumer group.
    #[serde(default)]
    pub generation: Option<i32>,
    #[serde(default)]
    pub protocol_type: Option<String>,
    #[serde(default)]
    pub protocol: Option<String>,
}

/// A member of a described group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberView {
    pub member_id: String,
    pub instance_id: Option<String>,
    /// 32 hexadecimal digits.
    pub incarnation: String,
    pub member_epoch: i32,
    pub member_state: MemberState,
    pub assigned: Vec<TopicPartitions>,
    pub pending_revocation: Vec<TopicPartitions>,
    pub target: Vec<TopicPartitions>,
    pub session_remaining_ms: u64,
}

/// A partition that a removed or lost member may still use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    pub topic: String,
    pub partition: i32,
    pub member_id: String,
    pub remaining_ms: u64,
}

/// Who keeps the group from being stable, since when and how much longer at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckView {
    pub member_id: String,
    pub topic: String,
    pub partition: i32,
    pub since_ms: u64,
    pub at_most_ms: u64,
}

/// The query of `DELETE /v1/groups/{group}`. `force` gives up the promise of one owner for partitions that are still held. Answer: 204.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteGroupQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// `GET /v1/groups/{group}/assignment`: every partition of every subscribed topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AssignmentResponse { pub partitions: Vec<OwnerView> }

/// Who owns a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnerView {
    pub topic: String,
    pub partition: i32,
    /// Null: nobody.
    pub owner: Option<String>,
    pub token: Option<u64>,
    pub state: OwnerState,
}

/// How a partition is owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OwnerState { Assigned, PendingRevocation, Held, Free }

/// The query of `GET /v1/groups/{group}/history`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// From this revision of the group on; the `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// Only records about this member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// Only records that move this partition, as `topic:number`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<String>,
}

/// Why and how a group changed, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryResponse {
    pub records: Vec<HistoryRecord>,
    /// To be given as `since` to get only what is newer.
    pub next: u64,
}

/// One change of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HistoryRecord {
    pub revision: u64,
    pub at_ms: u64,
    pub kind: String,
    pub cause: String,
    pub member_id: Option<String>,
    pub moved: Vec<Moved>,
    pub took_ms: Option<u64>,
}

/// A partition that changed hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    pub topic: String,
    pub partition: i32,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// `GET /v1/groups/{group}/config`, which holds before the group exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    #[serde(rename = "consumer.session.timeout.ms")]
    pub session_timeout_ms: u64,
    #[serde(rename = "consumer.heartbeat.interval.ms")]
    pub heartbeat_interval_ms: u64,
    #[serde(rename = "consumer.heartbeat.interval.pending.ms")]
    pub pending_interval_ms: u64,
    #[serde(rename = "consumer.assignment.interval.ms")]
    pub assignment_interval_ms: u64,
    #[serde(rename = "offsets.retention.minutes")]
    pub offsets_retention_minutes: u64,
    /// 0: any number.
    #[serde(rename = "consumer.assignment.moves.max", default)]
    pub moves_max: u64,
}

/// `PATCH /v1/groups/{group}/config`: absent (None) leaves a setting, null (Some(None)) sets it back to the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupConfigPatch {
    #[serde(rename = "consumer.session.timeout.ms", default, deserialize_with = "null_is_a_value", skip_serializing_if = "Option::is_none")]
    pub session_timeout_ms: Option<Option<u64>>,
    #[serde(rename = "consumer.heartbeat.interval.ms", default, deserialize_with = "null_is_a_value", skip_serializing_if = "Option::is_none")]
    pub heartbeat_interval_ms: Option<Option<u64>>,
    #[serde(rename = "consumer.heartbeat.interval.pending.ms", default, deserialize_with = "null_is_a_value", skip_serializing_if = "Option::is_none")]
    pub pending_interval_ms: Option<Option<u64>>,
    #[serde(rename = "consumer.assignment.interval.ms", default, deserialize_with = "null_is_a_value", skip_serializing_if = "Option::is_none")]
    pub assignment_interval_ms: Option<Option<u64>>,
    #[serde(rename = "offsets.retention.minutes", default, deserialize_with = "null_is_a_value", skip_serializing_if = "Option::is_none")]
    pub offsets_retention_minutes: Option<Option<u64>>,
    #[serde(rename = "consumer.assignment.moves.max", default, deserialize_with = "null_is_a_value", skip_serializing_if = "Option::is_none")]
    pub moves_max: Option<Option<u64>>,
}

/// `GET /v1/cluster`, as the answering node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// 32 hexadecimal digits; null until the cluster is formed.
    pub cluster_id: Option<String>,
    /// The node that answers.
    pub node_id: u64,
    /// Of topics and settings, as applied on this node.
    pub meta_revision: u64,
    pub nodes: Vec<NodeView>,
    /// The Raft group that keeps topics and settings; its `shard` means nothing.
    pub meta: ShardView,
    /// In the order of their numbers.
    pub shards: Vec<ShardView>,
}

/// A node of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    pub node_id: u64,
    /// `host:port`; null while it is not known here.
    pub http: Option<String>,
    pub peer: String,
    /// It answered this node lately.
    pub alive: bool,
    pub draining: bool,
}

/// One Raft group of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardView {
    pub shard: u16,
    /// Node id; null while there is none.
    pub leader: Option<u64>,
    pub term: u64,
    /// The last log index applied on the answering node.
    pub applied: u64,
    /// The last log index on the answering node.
    pub last_log: u64,
    pub voters: Vec<u64>,
    /// The answering node leads it and answers for it.
    pub serving: bool,
    /// Why the answering node has stopped applying; null: it has not.
    pub stopped: Option<String>,
}
