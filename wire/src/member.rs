//! A member's heartbeat and leave.

use crate::{TopicPartitions, null_as_default};
use serde::{Deserialize, Serialize};

/// `POST /v1/groups/{group}/members/{member}/heartbeat`: join (epoch 0), steady heartbeat, confirmation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// 0 joins or rejoins.
    pub member_epoch: i32,
    /// 32 hexadecimal digits, drawn at every process start.
    pub incarnation: String,
    /// The operator's word that every earlier process under this member id is dead.
    #[serde(default, deserialize_with = "null_as_default")]
    pub predecessor_dead: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// How much it can carry beside the others, 0 to 1,000,000; never said: 1. The assignor `weighted` looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebalance_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribed_topics: Option<Vec<String>>,
    /// Topics whose whole name it matches, in the syntax of RE2; an empty string takes it back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribed_regex: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignor: Option<String>,
    /// What the member uses now. Absent confirms nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owned: Option<Vec<Owned>>,
    /// The last assignment that the member has fully applied. Absent or 0: none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_revision: Option<u64>,
    /// Hold the answer until something changes for this member, at most so long.
    #[serde(default, deserialize_with = "null_as_default")]
    pub wait_ms: u64,
    /// How long the sender waits for the answer, besides `wait_ms`. Absent: 5,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The query of a request that reads topics or settings: it is answered by a leader that knows at least this meta revision, which `x-baton-meta-revision` told
/// whoever changed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetaQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_meta_revision: Option<u64>,
}

/// Partitions of one topic, in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owned {
    pub topic: String,
    pub partitions: Vec<i32>,
}

/// The whole picture that a member needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatResponse {
    pub member_id: String,
    pub member_epoch: i32,
    pub group_epoch: i32,
    pub member_state: MemberState,
    pub heartbeat_interval_ms: u64,
    pub session_timeout_ms: u64,
    /// How long the member may use its partitions, counted from when it *sent* the request.
    pub lease_ms: u64,
    pub assignment_revision: u64,
    /// The complete set; null only if the request's `assignment_revision` is current.
    pub assignment: Option<Vec<AssignedTopic>>,
    /// Stop these, then confirm with this answer's `assignment_revision`.
    pub pending_revocation: Vec<TopicPartitions>,
    /// Taken away one by one: not renewed.
    pub taken: Vec<TopicPartitions>,
    /// The wait that was used.
    pub waited_at_most_ms: u64,
}

/// A member's state in its reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState { Stable, UnrevokedPartitions, UnreleasedPartitions }

/// Granted partitions of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedTopic {
    pub topic: String,
    /// 32 hexadecimal digits; changes when the topic is deleted and made again.
    pub topic_id: String,
    pub partitions: Vec<AssignedPartition>,
}

/// One granted partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedPartition {
    pub partition: i32,
    /// Grows with every grant; below 2^53.
    pub token: u64,
}

/// The query of `DELETE /v1/groups/{group}/members/{member}`: a member's leave (the first two) or an administrator's removal (`force`). Answer: 204.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assignment_revision: Option<u64>,
    /// Reserved: refused unless false.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "static")]
    pub static_member: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}
