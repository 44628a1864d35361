//! Committed offsets of a group.

use serde::{Deserialize, Serialize};

/// `PUT /v1/groups/{group}/offsets`. Either all of the three member fields (a member's commit) or none (an administrator's, on an empty group).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member_id: Option<String>,
    /// 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Grows with every commit of one incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_seq: Option<u64>,
    /// Absent: 5,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// At most 10,000.
    pub offsets: Vec<CommitOffset>,
}

/// One offset of a commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommitOffset {
    pub topic: String,
    pub partition: i32,
    /// The token under which the member holds the partition. An administrator gives none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<u64>,
    pub offset: i64,
    /// At most 4,096 bytes; absent: empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_epoch: Option<i32>,
}

/// One result for each offset, in the order asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitResponse { pub results: Vec<CommitResult> }

/// What became of one offset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommitResult {
    pub topic: String,
    pub partition: i32,
    /// Null: taken. Else one of `code::COMMIT`.
    pub code: Option<String>,
}

/// The query of `GET /v1/groups/{group}/offsets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsetsQuery {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Only together with `topic`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i32>,
}

/// A partition without an entry has no committed offset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffsetsResponse { pub offsets: Vec<CommittedOffset> }

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommittedOffset {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub metadata: String,
    pub leader_epoch: Option<i32>,
    pub committed_at_ms: u64,
}

/// The query of `DELETE /v1/groups/{group}/offsets`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteOffsetsQuery { pub topic: String }

/// How many offsets were forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteOffsetsResponse { pub count: u64 }
