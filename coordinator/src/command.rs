//! What is asked of a shard and what it answers. Plain data; no rule lives here.

use crate::{classic::{Classic, ClassicAnswer, ClassicCode, ClassicCommand}, ids::*, state::ClientInfo};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// One request to one group.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Request {
    /// The group it is about.
    pub group: GroupId,
    /// What is asked.
    pub command: Command,
    /// How long from its arrival it may still be taken up, ms (`safety.md` 17). None: no limit.
    pub budget_ms: Option<u64>,
    /// Topics and settings as of at least this meta revision: what an administrator's change was acknowledged with (`safety.md` 23). 0: none demanded.
    pub min_meta_revision: u64,
}

/// Everything that can be asked of a group.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub enum Command {
    /// Join (epoch 0) or steady heartbeat of an HTTP member (KIP-848 with Baton's incarnation and assignment revision).
    Heartbeat(Heartbeat),
    /// A member leaves by its own wish.
    Leave(Leave),
    /// Kafka's ConsumerGroupHeartbeat: join, steady heartbeat, leave and leave for a while of a member that speaks KIP-848.
    Consumer(Box<ConsumerHeartbeat>),
    /// Kafka's OffsetCommit.
    KafkaCommit(KafkaCommit),
    /// Kafka's OffsetFetch.
    KafkaFetch(KafkaFetch),
    /// An administrator removes a member: its partitions are held until it acknowledges or one session has passed.
    RemoveMember { member: MemberId },
    /// Offsets of a member (with tokens) or of an administrator (empty group only).
    Commit(Commit),
    /// Committed offsets, all or of some partitions.
    FetchOffsets { topic: Option<TopicName>, partition: Option<i32> },
    /// Forget the offsets of a topic; refused while a live member subscribes to it.
    DeleteOffsets { topic: TopicName },
    /// Delete an empty group; `force` gives up one-believer for held partitions and says so in history.
    DeleteGroup { force: bool },
    /// Lifts a quarantine: the group goes on from its last good state.
    Repair,
    /// The group as a person wants to see it.
    Describe,
    /// A request of the classic protocol.
    Classic(ClassicCommand),
    /// The last history records, from revision `since` on.
    History { since: u64 },
}

/// A heartbeat or join. Absent means unchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct Heartbeat {
    pub member: MemberId,
    pub incarnation: Incarnation,
    /// 0 joins or rejoins; above 0: steady.
    pub epoch: Epoch,
    /// The operator's word that every earlier process under this member id is dead.
    pub predecessor_dead: bool,
    pub instance_id: Option<InstanceId>,
    pub rack: Option<String>,
    /// How much it can carry beside the others, 0 to 1,000,000; never said: 1. The assignor `weighted` looks at it.
    pub capacity: Option<u32>,
    /// 1,000 to 3,600,000 ms; absent at a join: 60,000.
    pub rebalance_timeout_ms: Option<u64>,
    pub subscribed_topics: Option<BTreeSet<TopicName>>,
    /// In the syntax of RE2; matches whole names. Empty: none any more.
    pub subscribed_regex: Option<String>,
    pub assignor: Option<String>,
    /// What the member uses now. None confirms nothing.
    pub owned: Option<BTreeSet<Partition>>,
    /// The last assignment that the member has fully applied. None: none yet.
    pub assignment_revision: AssignmentRevision,
    /// Hold the answer until something changes, at most so long, ms. 0: answer at once.
    pub wait_ms: u64,
}
impl Heartbeat {
    /// Whether it says anything of what the member wants: topics, assignor, rack, capacity or rebalance timeout.
    pub fn says_a_wish(&self) -> bool {
        self.subscribed_topics.is_some() || self.subscribed_regex.is_some() || self.assignor.is_some() || self.rack.is_some() || self.capacity.is_some() || self.rebalance_timeout_ms.is_some()
    }
}
impl Default for MemberId { fn default() -> Self { MemberId("".into()) } }

/// A member's leave.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Leave {
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub assignment_revision: AssignmentRevision,
    /// A static member that will be back: it keeps its place for one session.
    pub is_static: bool,
}

/// Kafka's ConsumerGroupHeartbeat. Absent means unchanged.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
pub struct ConsumerHeartbeat {
    pub version: i16,
    /// Empty only at a join of version 0: the coordinator then takes `made_id`.
    pub member: MemberId,
    /// An id that the front has drawn at random.
    pub made_id: MemberId,
    /// 0 joins, above 0 goes on, -1 leaves, -2 leaves for a while.
    pub epoch: Epoch,
    pub instance_id: Option<InstanceId>,
    pub rack: Option<String>,
    /// -1: unchanged.
    pub rebalance_timeout_ms: i32,
    pub subscribed_topics: Option<BTreeSet<TopicName>>,
    pub subscribed_regex: Option<String>,
    pub assignor: Option<String>,
    /// What the member uses now: topic id → partitions.
    pub owned: Option<PartitionsById>,
    pub client: ClientInfo,
}
/// Partitions by topic id, as Kafka's newer messages name them.
pub type PartitionsById = BTreeMap<u128, BTreeSet<i32>>;

/// Kafka's OffsetCommit of a member (or, with epoch -1 and no member, of a client that is in no group).
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct KafkaCommit {
    pub version: i16,
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    /// Member epoch or generation.
    pub epoch: Epoch,
    /// Their tokens are not looked at.
    pub offsets: Vec<CommitOffset>,
}
/// Kafka's OffsetFetch of one group.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct KafkaFetch {
    /// None with a negative epoch: nobody's in particular.
    pub member: Option<MemberId>,
    pub epoch: Epoch,
    /// None: all.
    pub partitions: Option<BTreeSet<Partition>>,
}

/// A commit of offsets.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Commit {
    /// None: an administrator's, accepted only while the group has no members.
    pub member: Option<CommitMember>,
    pub offsets: Vec<CommitOffset>,
}
/// Who commits.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CommitMember {
    pub member: MemberId,
    pub incarnation: Incarnation,
    /// Grows with every commit of one incarnation.
    pub commit_seq: u64,
}
/// One offset of a commit.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct CommitOffset {
    pub partition: Partition,
    /// The token under which the member holds the partition; ignored for an administrator.
    pub token: FencingToken,
    /// 0 and above.
    pub offset: i64,
    /// At most 4,096 bytes.
    pub metadata: String,
    pub leader_epoch: Option<i32>,
}

/// A member's state in its reconciliation (KIP-848).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemberState { Stable, UnrevokedPartitions, UnreleasedPartitions }
/// A group's state: of KIP-848, and with `PreparingRebalance` and `CompletingRebalance` of a classic group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupState { Empty, Assigning, Reconciling, Stable, PreparingRebalance, CompletingRebalance, Dead }

/// What an accepted request is answered with.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub enum Response {
    Heartbeat(HeartbeatView),
    Consumer(ConsumerView),
    Left,
    Removed,
    /// One result for each offset, in the order asked.
    Committed(Vec<(Partition, Result<(), CommitRefusal>)>),
    Offsets(Vec<OffsetView>),
    OffsetsDeleted { count: u64 },
    Deleted,
    Repaired,
    Group(Box<GroupView>),
    Classic(ClassicAnswer),
    /// The records of a group's history by their numbers, `first` to below `next`. They are on disk: the node that answers fetches them.
    HistoryAt { first: u64, next: u64 },
    /// What `HistoryAt` becomes on its way out.
    History(Vec<HistoryRecord>),
}

/// The answer to a `ConsumerHeartbeat`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct ConsumerView {
    pub member: MemberId,
    pub epoch: Epoch,
    pub heartbeat_interval_ms: u64,
    /// The complete set, by topic id; None: unchanged.
    pub assignment: Option<PartitionsById>,
}

/// Why one offset of a commit was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum CommitRefusal {
    #[error("the member does not hold the partition under this token")]
    StaleToken,
    #[error("a later commit under the same token has been carried out")]
    StaleCommit,
    #[error("no such topic or partition")]
    UnknownPartition,
    #[error("the metadata is longer than 4,096 bytes")]
    MetadataTooLarge,
    #[error("the offset is negative")]
    InvalidOffset,
    #[error("the partition is not the member's at this epoch")]
    StaleMemberEpoch,
    #[error("the partition is not the classic member's in this generation")]
    IllegalGeneration,
}

/// The whole picture that a member needs.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct HeartbeatView {
    pub member: MemberId,
    pub member_epoch: Epoch,
    pub group_epoch: Epoch,
    pub member_state: MemberState,
    pub heartbeat_interval_ms: u64,
    pub session_timeout_ms: u64,
    /// How long the member may use its partitions, counted from when it *sent* this request.
    pub lease_ms: u64,
    pub assignment_revision: AssignmentRevision,
    /// The complete set with tokens; None only if the request's revision is current.
    pub assignment: Option<BTreeMap<Partition, FencingToken>>,
    /// To be stopped and then confirmed by a request with this view's `assignment_revision`.
    pub pending_revocation: BTreeSet<Partition>,
    /// Taken away one by one: not renewed.
    pub taken: BTreeSet<Partition>,
    /// Topic ids of the topics named in `assignment`.
    pub topic_ids: BTreeMap<TopicName, u128>,
    /// The wait that was used, ms.
    pub waited_at_most_ms: u64,
}

/// One committed offset.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct OffsetView {
    pub partition: Partition,
    pub offset: i64,
    pub metadata: String,
    pub leader_epoch: Option<i32>,
    /// Wall-clock ms of the leader that took it.
    pub committed_at_ms: u64,
}

/// A group as it is described.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct GroupView {
    pub group: GroupId,
    pub state: GroupState,
    pub group_epoch: Epoch,
    pub target_epoch: Epoch,
    pub assignor: String,
    pub members: Vec<MemberView>,
    pub holds: Vec<HoldView>,
    pub stuck_because: Vec<StuckView>,
    /// Every partition of every subscribed topic: owner (None: nobody) and token.
    pub partitions: Vec<OwnerView>,
    /// Set when a record broke an invariant: the group grants nothing until it is repaired.
    pub quarantined: Option<String>,
    /// A classic group, with what its members said and got.
    pub classic: Option<Box<Classic>>,
}
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct MemberView {
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub incarnation: Incarnation,
    pub member_epoch: Epoch,
    pub member_state: MemberState,
    pub assigned: BTreeSet<Partition>,
    pub pending_revocation: BTreeSet<Partition>,
    pub target: BTreeSet<Partition>,
    pub session_remaining_ms: u64,
}
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct HoldView { pub partition: Partition, pub member: MemberId, pub remaining_ms: u64 }
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct StuckView { pub member: MemberId, pub partition: Partition, pub since_ms: u64, pub at_most_ms: u64 }
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerState { Assigned, PendingRevocation, Held, Free }
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct OwnerView { pub partition: Partition, pub owner: Option<MemberId>, pub token: Option<FencingToken>, pub state: OwnerState }

/// Why and how a group changed.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct HistoryRecord {
    /// The group's revision after the change.
    pub revision: u64,
    /// Wall-clock ms of the leader that decided it.
    pub at_ms: u64,
    /// joined, left, expired, removed, fenced, subscription, metadata, revoked, granted, hold-released, deleted …
    pub kind: String,
    /// A sentence for a person.
    pub cause: String,
    pub member: Option<MemberId>,
    pub moved: Vec<Moved>,
    pub took_ms: Option<u64>,
}
/// A partition that changed hands, or its owner to be.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Moved { pub partition: Partition, pub from: Option<MemberId>, pub to: Option<MemberId> }

/// Why a request was not carried out. Every variant says what to do; `retriable` tells a client whether to try again unchanged.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Error)]
pub enum GroupError {
    #[error("group {group} does not exist")]
    UnknownGroup { group: GroupId },
    #[error("member {member} is not in the group: join with epoch 0")]
    UnknownMember { member: MemberId },
    #[error("epoch {received} is above the member's epoch {stored}: drop every partition and rejoin with epoch 0")]
    FencedMemberEpoch { received: Epoch, stored: Epoch },
    #[error("this incarnation has left or was replaced: it must not go on; start again with a new incarnation")]
    FencedIncarnation,
    #[error("the member was removed: stop its partitions, then leave or rejoin with epoch 0 (they are held for {remaining_ms} ms more)")]
    FencedRemoved { remaining_ms: u64 },
    #[error("another process runs under this member id; its session ends in {remaining_ms} ms unless it is renewed: wait, take another id, or state predecessor_dead")]
    MemberIdInUse { remaining_ms: u64 },
    #[error("instance id {instance} is in use by member {holder}")]
    UnreleasedInstanceId { instance: InstanceId, holder: MemberId },
    #[error("instance id {instance} is another member's by now: this process must not go on")]
    FencedInstanceId { instance: InstanceId },
    #[error("epoch {received} is not the member's epoch {stored}: heartbeat first")]
    StaleMemberEpoch { received: Epoch, stored: Epoch },
    #[error("a member of the consumer protocol commits with version 9 or newer, not {version}")]
    UnsupportedVersion { version: i16 },
    #[error("the group has {max} members, as many as it may have")]
    GroupFull { max: u64 },
    #[error("the regular expression cannot be used: {detail}")]
    InvalidRegex { detail: String },
    #[error("the leave is older than the member's join: nothing was changed")]
    StaleLeave,
    #[error("the group has {members} members: stop them first")]
    NonEmptyGroup { members: u64 },
    #[error("{holds} partitions of removed members are held for {remaining_ms} ms more: wait, or force")]
    GroupDraining { holds: u64, remaining_ms: u64 },
    #[error("a live member subscribes to topic {topic}: its offsets stay")]
    SubscribedToTopic { topic: TopicName },
    #[error("assignor {name} is not known: use one of those that are configured (uniform, range)")]
    UnsupportedAssignor { name: String },
    /// `field` is the JSON name of what is wrong.
    #[error("{field}: {detail}")]
    Invalid { field: String, detail: String },
    #[error("{limit} is limited to {max}")]
    LimitReached { limit: String, max: u64 },
    /// A refusal of the classic protocol. `member` is the id that the answer names, if any.
    #[error("{code}")]
    Classic { code: ClassicCode, member: Option<MemberId> },
    #[error("group {group} cannot be converted: {reason}")]
    NotConvertible { group: GroupId, reason: String },
    #[error("the group is quarantined: {reason}; run `baton group repair`")]
    Quarantined { reason: String },
    #[error("the group is not quarantined: there is nothing to repair")]
    NotQuarantined,
    #[error("this node knows topics and settings up to meta revision {have}, {need} is needed: it is loading them; try again")]
    Loading { have: u64, need: u64 },
    /// Decided elsewhere or later; the outcome is unknown when a proposal was out.
    #[error("not carried out for certain: {reason}; try again")]
    Unavailable { reason: String },
}
impl GroupError {
    /// Whether the same request may succeed later.
    pub fn retriable(&self) -> bool {
        matches!(self, Self::MemberIdInUse { .. } | Self::GroupDraining { .. } | Self::Quarantined { .. } | Self::Loading { .. } | Self::Unavailable { .. })
    }
}
