//! Kafka's error code for every refusal: the one table that the Kafka front uses. A client must never get a fatal code for a passing condition
//! (`docs/safety.md` 2): what is only unknown or loading is told as such.

use crate::command::{CommitRefusal, GroupError};

/// An error code of Kafka's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KafkaCode {
    pub code: i16,
    pub name: &'static str,
}
macro_rules! codes {
    ($($name:ident $code:literal)*) => { $(
        #[doc = concat!("Kafka's ", stringify!($name), ".")]
        pub const $name: KafkaCode = KafkaCode { code: $code, name: stringify!($name) };
    )* };
}
codes! {
    NONE 0
    UNKNOWN_SERVER_ERROR -1
    UNKNOWN_TOPIC_OR_PARTITION 3
    OFFSET_METADATA_TOO_LARGE 12
    COORDINATOR_LOAD_IN_PROGRESS 14
    COORDINATOR_NOT_AVAILABLE 15
    ILLEGAL_GENERATION 22
    UNKNOWN_MEMBER_ID 25
    UNSUPPORTED_VERSION 35
    INVALID_REQUEST 42
    NON_EMPTY_GROUP 68
    GROUP_ID_NOT_FOUND 69
    GROUP_MAX_SIZE_REACHED 81
    FENCED_INSTANCE_ID 82
    GROUP_SUBSCRIBED_TO_TOPIC 86
    FENCED_MEMBER_EPOCH 110
    UNRELEASED_INSTANCE_ID 111
    UNSUPPORTED_ASSIGNOR 112
    STALE_MEMBER_EPOCH 113
    INVALID_REGULAR_EXPRESSION 128
}

impl GroupError {
    /// What a Kafka client is told.
    pub fn kafka(&self) -> KafkaCode {
        match self {
            GroupError::Classic { code, .. } => KafkaCode { code: code.number(), name: code.name() },
            GroupError::UnknownGroup { .. } | GroupError::NotConvertible { .. } => GROUP_ID_NOT_FOUND,
            GroupError::UnknownMember { .. } => UNKNOWN_MEMBER_ID,
            // The last two speak of incarnations, which only HTTP members have.
            GroupError::FencedMemberEpoch { .. } | GroupError::FencedIncarnation | GroupError::FencedRemoved { .. } => FENCED_MEMBER_EPOCH,
            GroupError::FencedInstanceId { .. } => FENCED_INSTANCE_ID,
            GroupError::StaleMemberEpoch { .. } => STALE_MEMBER_EPOCH,
            GroupError::UnreleasedInstanceId { .. } => UNRELEASED_INSTANCE_ID,
            GroupError::UnsupportedVersion { .. } => UNSUPPORTED_VERSION,
            GroupError::UnsupportedAssignor { .. } => UNSUPPORTED_ASSIGNOR,
            GroupError::InvalidRegex { .. } => INVALID_REGULAR_EXPRESSION,
            GroupError::GroupFull { .. } => GROUP_MAX_SIZE_REACHED,
            GroupError::NonEmptyGroup { .. } | GroupError::GroupDraining { .. } => NON_EMPTY_GROUP,
            GroupError::SubscribedToTopic { .. } => GROUP_SUBSCRIBED_TO_TOPIC,
            GroupError::Invalid { .. } | GroupError::StaleLeave | GroupError::LimitReached { .. } | GroupError::NotQuarantined => INVALID_REQUEST,
            GroupError::Loading { .. } => COORDINATOR_LOAD_IN_PROGRESS,
            GroupError::MemberIdInUse { .. } | GroupError::Quarantined { .. } | GroupError::Unavailable { .. } => COORDINATOR_NOT_AVAILABLE,
        }
    }
}
impl CommitRefusal {
    /// What a Kafka client is told of the partition.
    pub fn kafka(self) -> KafkaCode {
        match self {
            CommitRefusal::StaleToken | CommitRefusal::StaleCommit | CommitRefusal::StaleMemberEpoch => STALE_MEMBER_EPOCH,
            CommitRefusal::IllegalGeneration => ILLEGAL_GENERATION,
            CommitRefusal::UnknownPartition => UNKNOWN_TOPIC_OR_PARTITION,
            CommitRefusal::MetadataTooLarge => OFFSET_METADATA_TOO_LARGE,
            CommitRefusal::InvalidOffset => INVALID_REQUEST,
        }
    }
}
