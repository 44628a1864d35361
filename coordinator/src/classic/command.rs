//! What classic clients ask and are answered. Plain data; no rule lives here.

use super::state::Opaque;
use crate::ids::*;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use thiserror::Error;

/// A request of the classic protocol.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClassicCommand {
    Join(Box<Join>),
    Sync(Sync),
    Heartbeat(Beat),
    /// One result for each leaver; a batch stands for one rebalance.
    Leave(Vec<Leaver>),
    Commit(GenerationCommit),
}

/// JoinGroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// Empty: the member has no id yet.
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    pub protocol_type: String,
    /// Strategy and what the member says for it, in the member's order of preference.
    pub protocols: Vec<(String, Opaque)>,
    /// The request's version: from 4 on a dynamic member first learns its id, from 9 on the answer can say that no assignment is wanted.
    pub version: i16,
    /// Drawn by the caller for this request: the random part of a new member's id.
    pub random: u128,
    pub reason: Option<String>,
}

/// SyncGroup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sync {
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub generation: i32,
    /// Checked when present.
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// From the assigning member: what each member gets.
    pub assignments: BTreeMap<MemberId, Opaque>,
}

/// Heartbeat.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Beat {
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub generation: i32,
}

/// One member of a LeaveGroup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaver {
    /// Empty: whoever has the instance id (an administrator's removal).
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub reason: Option<String>,
}

/// OffsetCommit under a generation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationCommit {
    /// Empty, with a negative generation: an administrator or a consumer that is in no group; accepted while the group is empty.
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub generation: i32,
    pub offsets: Vec<crate::command::CommitOffset>,
}

/// The answer to a classic request that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClassicAnswer {
    Joined(Box<JoinedGeneration>),
    Synced { protocol_type: Option<String>, protocol: Option<String>, assignment: Opaque },
    Heartbeat,
    /// In the order asked.
    Left(Vec<(Leaver, Result<(), ClassicCode>)>),
}

/// What a member learns when the join phase has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JoinedGeneration {
    pub member: MemberId,
    pub generation: i32,
    pub protocol_type: Option<String>,
    pub protocol: Option<String>,
    /// Who assigns.
    pub assigning_member: MemberId,
    /// The assigning member came back in a generation that has its assignment: it must not make another.
    pub skip_assignment: bool,
    /// For the assigning member only: everybody, with what each said for `protocol`.
    pub members: Vec<GenerationMember>,
}
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerationMember {
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub metadata: Opaque,
}

/// Why a classic request was not carried out, named as Kafka names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Error)]
pub enum ClassicCode {
    #[error("the member is not in the group: join again without a member id")]
    UnknownMemberId,
    #[error("join again with the member id of this answer")]
    MemberIdRequired,
    #[error("another process has taken over this group.instance.id: this one must stop")]
    FencedInstanceId,
    #[error("the generation is not the group's: join again")]
    IllegalGeneration,
    #[error("a rebalance is in progress: join again")]
    RebalanceInProgress,
    #[error("the protocol type, or every strategy, is unknown to some member of the group: use one that all members have")]
    InconsistentGroupProtocol,
    #[error("session.timeout.ms is out of the bounds that the group allows")]
    InvalidSessionTimeout,
    #[error("the group has as many members as group.max.size allows")]
    GroupMaxSizeReached,
    #[error("the group does not exist")]
    GroupIdNotFound,
}
impl ClassicCode {
    /// Kafka's number for it.
    pub fn number(self) -> i16 {
        match self {
            Self::IllegalGeneration => 22,
            Self::InconsistentGroupProtocol => 23,
            Self::UnknownMemberId => 25,
            Self::InvalidSessionTimeout => 26,
            Self::RebalanceInProgress => 27,
            Self::GroupIdNotFound => 69,
            Self::MemberIdRequired => 79,
            Self::GroupMaxSizeReached => 81,
            Self::FencedInstanceId => 82,
        }
    }
    /// Kafka's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::IllegalGeneration => "ILLEGAL_GENERATION",
            Self::InconsistentGroupProtocol => "INCONSISTENT_GROUP_PROTOCOL",
            Self::UnknownMemberId => "UNKNOWN_MEMBER_ID",
            Self::InvalidSessionTimeout => "INVALID_SESSION_TIMEOUT",
            Self::RebalanceInProgress => "REBALANCE_IN_PROGRESS",
            Self::GroupIdNotFound => "GROUP_ID_NOT_FOUND",
            Self::MemberIdRequired => "MEMBER_ID_REQUIRED",
            Self::GroupMaxSizeReached => "GROUP_MAX_SIZE_REACHED",
            Self::FencedInstanceId => "FENCED_INSTANCE_ID",
        }
    }
}
