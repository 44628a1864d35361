//! What has been decided: facts, never requests. Every record carries all that its replay needs, so replay reads no clock, no image and no configuration.

use crate::{command::*, config::GroupConfig, ids::*, metadata::TopicFacts, state::*};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The version of the entry format and of the replay rules behind it (feature level).
pub const FEATURE_LEVEL: u16 = 1;

/// One Raft entry: the batches of one drain.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The node that decided it, and in which term and attempt: how the proposer knows its own.
    pub node: u64,
    pub term: Term,
    /// The number of entries applied when it was decided: on another number the whole entry is a no-op.
    pub base_sequence: u64,
    /// The shard's time when it was decided; see [`State::time_ms`](crate::state::State::time_ms).
    pub time_ms: u64,
    pub batches: Vec<Batch>,
}

/// The records of one group that stand or fall together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    pub group: GroupId,
    /// The group's revision on which it was decided; 0: no such group.
    pub base_revision: u64,
    pub records: Vec<Record>,
}

/// A decided fact about one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// The group exists from now on.
    Created,
    /// An accepted join or rejoin, with everything the member said. `freed` are its earlier partitions that this join gives back;
    /// what it held beyond them stays with it, to be revoked.
    Joined(Box<Joined>),
    /// The member's wish changed.
    Subscribed { member: MemberId, wish: Box<Wish> },
    /// `told` is in the answers from now on; `promised` is what timers and holds go by, never below what was told (`safety.md` 11).
    Session { member: MemberId, told_ms: u64, promised_ms: u64 },
    /// One step of a member's reconciliation (KIP-848). `released` were confirmed as stopped, `revoked` are asked back, `granted` are its own now.
    Reconciled(Box<Reconciled>),
    /// A static member left for a while: it gave back what was asked for, keeps what is assigned to it, and its session goes on.
    Away { member: MemberId },
    /// A static member is back, perhaps under another member id: what the old one had assigned is its, as new grants.
    Replaced(Box<Replaced>),
    /// A member is this static instance from now on.
    Instance { member: MemberId, instance: InstanceId },
    /// New tokens for what a member has: it rejoined with epoch 0 and may be another process (`safety.md` 7).
    Regranted { member: MemberId, revision: AssignmentRevision, tokens: Vec<(Partition, FencingToken)> },
    /// What a regular expression stands for; None: no member says it any more.
    Regex { regex: String, resolved: Option<ResolvedRegex> },
    /// A member is gone. Its partitions are free (`freed`) or held for one promised session (`held`).
    Removed { member: MemberId, freed: Vec<Partition>, held: Vec<Partition>, fence: bool },
    /// A held partition is free.
    HoldReleased { partition: Partition, token: FencingToken },
    /// The group epoch was bumped, at this time of the shard.
    Epoch { epoch: Epoch, time_ms: u64 },
    /// Every member has arrived at the target of the group's epoch.
    Settled,
    /// A target assignment, computed for `epoch`.
    Target { epoch: Epoch, assignment: BTreeMap<MemberId, BTreeSet<Partition>> },
    /// The facts of the subscribed topics changed.
    Topics { revision: u64, topics: BTreeMap<TopicName, TopicFacts> },
    /// The group's settings changed.
    Config { config: GroupConfig },
    /// An offset was committed.
    Offset(Box<OffsetCommitted>),
    /// The offsets of a topic are gone.
    OffsetsRemoved { topic: TopicName },
    /// These offsets were kept for their retention time, or their topic is gone.
    OffsetsExpired { partitions: Vec<Partition> },
    /// Why the group changed; the revision is filled in by replay.
    History(Box<HistoryRecord>),
    /// The group is gone, with its offsets. Its shard's tokens go on from where they are.
    Deleted,
    /// A fact about a classic group.
    Classic(Box<crate::classic::ClassicRecord>),
    /// Checks on the draft failed too often: the group grants nothing until it is repaired.
    Quarantined { reason: String },
    /// Somebody has looked and lifts the quarantine.
    Repaired,
}
/// See [`Record::Joined`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Joined {
    pub member: MemberId,
    pub protocol: Protocol,
    pub incarnation: Incarnation,
    /// An earlier incarnation that was replaced and is fenced from now on.
    pub replaces: Option<Incarnation>,
    pub instance_id: Option<InstanceId>,
    pub wish: Wish,
    pub session_told_ms: u64,
    pub session_promised_ms: u64,
    pub joined_at: AssignmentRevision,
    pub freed: Vec<Partition>,
}
/// What a member wants.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    pub subscribed: BTreeSet<TopicName>,
    pub regex: Option<String>,
    pub assignor: Option<String>,
    pub rack: Option<String>,
    /// How much it can carry beside the others; None: 1.
    pub capacity: Option<u32>,
    pub rebalance_timeout_ms: u64,
    pub client: ClientInfo,
}
impl Wish {
    /// What a member wants now.
    pub fn of(m: &Member) -> Wish {
        let (subscribed, regex, assignor, rack) = (BTreeSet::clone(&m.subscribed), m.regex.clone(), m.assignor.clone(), m.rack.clone());
        Wish { subscribed, regex, assignor, rack, capacity: m.capacity, rebalance_timeout_ms: m.rebalance_timeout_ms, client: m.client.clone() }
    }
}
/// See [`Record::Replaced`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replaced {
    pub old: MemberId,
    pub new: MemberId,
    pub incarnation: Incarnation,
    pub revision: AssignmentRevision,
    /// One new token for each assigned partition, in their order.
    pub tokens: Vec<(Partition, FencingToken)>,
    pub session_ms: u64,
}
/// See [`Record::Reconciled`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reconciled {
    pub member: MemberId,
    pub epoch: Epoch,
    pub previous_epoch: Epoch,
    pub state: MemberState,
    pub revision: AssignmentRevision,
    pub released: Vec<Partition>,
    pub revoked: Vec<Partition>,
    pub granted: Vec<(Partition, FencingToken)>,
}

/// See [`Record::Offset`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OffsetCommitted {
    pub partition: Partition,
    pub committed: CommittedOffset,
    /// The meta revision that the topic's id comes from.
    pub metadata_revision: u64,
}

impl LogEntry {
    /// The entry as bytes: the feature level, then its content.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = FEATURE_LEVEL.to_be_bytes().to_vec();
        bincode::serialize_into(&mut out, self).expect("a Vec takes every write and the types have no unserialisable value");
        out
    }
    /// Reads an entry. An unknown level is an error that says which version is needed: nothing is ever skipped.
    pub fn decode(bytes: &[u8]) -> Result<LogEntry, String> {
        let (level, body) = bytes.split_first_chunk::<2>().ok_or("the entry is shorter than its feature level")?;
        let level = u16::from_be_bytes(*level);
        if level != FEATURE_LEVEL {
            return Err(format!("the entry has feature level {level}, this version knows {FEATURE_LEVEL}: install a version that knows it"));
        }
        bincode::deserialize(body).map_err(|e| format!("the entry cannot be read: {e}"))
    }
}
