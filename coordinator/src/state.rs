//! What is replicated: the fold of the shard's log. Only `replay` changes it.

use crate::{classic::{Classic, ClassicPart, Phase}, command::*, config::GroupConfig, ids::*, metadata::TopicFacts, partition_map::PartitionMap, shared::{PartitionSet, Shared}};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

/// The replicated state of one shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Entries applied; an entry decided on another number is a no-op (compare-and-append).
    pub sequence: u64,
    /// The source of group revisions; never reused, 0 stands for "no group".
    pub revision: u64,
    /// The highest token or assignment revision ever given by this shard. Never reset.
    pub last_token: u64,
    /// The time that leaders have served, added up, ms: the clock of retention. It never runs faster than the clock of one leader since its gate
    /// opened, so a wall clock that is wrong expires nothing (`safety.md` 18).
    pub time_ms: u64,
    #[serde(with = "groups")]
    pub groups: BTreeMap<GroupId, Arc<Group>>,
}

impl State {
    /// Everything but the groups: what a checkpoint writes beside the groups that changed.
    pub fn head(&self) -> State { State { sequence: self.sequence, revision: self.revision, last_token: self.last_token, time_ms: self.time_ms, groups: BTreeMap::new() } }
}

/// `Arc`s are serialised as what they point to.
mod groups {
    use super::*;
    use serde::{Deserializer, Serializer};
    pub fn serialize<S: Serializer>(m: &BTreeMap<GroupId, Arc<Group>>, s: S) -> Result<S::Ok, S::Error> { s.collect_map(m.iter().map(|(k, v)| (k, &**v))) }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<GroupId, Arc<Group>>, D::Error> {
        Ok(BTreeMap::<GroupId, Group>::deserialize(d)?.into_iter().map(|(k, v)| (k, Arc::new(v))).collect())
    }
}

/// Members as they are read from a snapshot: neighbours with the same subscription share it again.
fn members<'de, D: serde::Deserializer<'de>>(d: D) -> Result<BTreeMap<MemberId, Shared<Member>>, D::Error> {
    let mut before = Shared::<BTreeSet<TopicName>>::default();
    let all = BTreeMap::<MemberId, Member>::deserialize(d)?;
    Ok(all.into_iter().map(|(id, mut m)| {
        if m.subscribed == before { m.subscribed = before.clone(); } else { before = m.subscribed.clone(); }
        (id, m.into())
    }).collect())
}

/// One consumer group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// The shard's revision at the group's last change.
    pub revision: u64,
    /// The shard's time at the group's last change.
    pub changed_at_ms: u64,
    pub epoch: Epoch,
    /// The shard's time at the first bump since the group was last stable. None: it is stable or empty.
    pub unsettled_since: Option<u64>,
    /// The group epoch for which `target` was computed.
    pub target_epoch: Epoch,
    #[serde(deserialize_with = "members")]
    pub members: BTreeMap<MemberId, Shared<Member>>,
    /// Regular expression → how many members say it.
    pub said: BTreeMap<String, u64>,
    /// Which member a static instance is.
    pub instances: BTreeMap<InstanceId, MemberId>,
    /// The topics that each regular expression of a member stood for when it was last looked at. Shared by all who say the same one.
    pub regexes: BTreeMap<String, ResolvedRegex>,
    /// The target assignment; members without partitions may be absent.
    pub target: BTreeMap<MemberId, PartitionSet>,
    /// The facts of the topics on which `target` was computed.
    pub target_topics: BTreeMap<TopicName, TopicFacts>,
    /// Who has a partition assigned, pending revocation or held. This map, not the target, decides what may be granted (one-owner).
    pub owners: BTreeMap<Partition, Owner>,
    pub holds: BTreeMap<Partition, Hold>,
    pub offsets: BTreeMap<Partition, CommittedOffset>,
    /// The facts of the subscribed topics as the group knows them.
    pub topics: BTreeMap<TopicName, TopicFacts>,
    /// The meta revision those facts come from. A leader whose image is older decides nothing that needs metadata.
    pub metadata_revision: u64,
    pub config: GroupConfig,
    /// Incarnations that left or were replaced: never accepted again. Bounded, oldest forgotten first.
    pub fenced: VecDeque<(MemberId, Incarnation)>,
    /// Incarnations that expired or were removed: they may join again until another incarnation of their id does. Bounded like `fenced`.
    pub departed: VecDeque<(MemberId, Incarnation)>,
    /// Which history records the group has; the records themselves are on disk, handed out by replay (`safety.md` 29).
    pub history: HistoryMark,
    /// Set when a record broke an invariant: grants nothing until it is repaired.
    pub quarantined: Option<String>,
    /// Set while the group speaks the classic protocol: then nothing above has members.
    pub classic: Option<Box<Classic>>,
}

/// What is left in memory of a group's history: the numbers of its records, from `first` to below `next`, and who was named when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryMark {
    pub first: u64,
    pub next: u64,
    /// When a record last named each member or holder (`at_ms`): the start of what a group is stuck on.
    pub named: BTreeMap<MemberId, u64>,
}

/// Whose a partition is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Owner {
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub token: FencingToken,
    pub state: OwnerState,
}

/// A partition of a removed member that may still be working (`safety.md` 12).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    pub member: MemberId,
    pub incarnation: Incarnation,
    pub token: FencingToken,
    /// The assignment revision at which it was granted: an older message does not free it.
    pub granted_at: AssignmentRevision,
    /// The session promised to the member; the hold ends one such session after the decision.
    pub promised_session_ms: u64,
}

/// What a regular expression stood for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResolvedRegex {
    pub topics: BTreeSet<TopicName>,
    /// The meta revision it was resolved on.
    pub revision: u64,
}

/// Which protocol a member speaks, and so what it promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// Baton's own: conforming, it stops using its partitions at its deadline.
    Http,
    /// Kafka's consumer protocol (KIP-848): no incarnation, no deadline; its partitions are freed at once.
    Consumer,
}

/// The epoch of a static member that left for a while.
pub const AWAY: Epoch = -2;

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    pub protocol: Protocol,
    pub incarnation: Incarnation,
    pub instance_id: Option<InstanceId>,
    pub rack: Option<String>,
    /// How much it can carry beside the others; None: 1.
    pub capacity: Option<u32>,
    pub rebalance_timeout_ms: u64,
    /// Members that subscribe to the same topics share the set.
    pub subscribed: Shared<BTreeSet<TopicName>>,
    /// Topics whose whole name it matches are subscribed to as well.
    pub regex: Option<String>,
    pub assignor: Option<String>,
    /// Who it says it is: Kafka's client id and host; empty for HTTP members.
    pub client: ClientInfo,
    /// The session the answers tell.
    pub session_told_ms: u64,
    /// The session in force for timers and holds: never below what was told (`safety.md` 11).
    pub session_promised_ms: u64,
    pub epoch: Epoch,
    pub previous_epoch: Epoch,
    pub state: MemberState,
    pub assigned: PartitionMap<Grant>,
    pub pending: PartitionMap<Pending>,
    pub assignment_revision: AssignmentRevision,
    /// The revision of its last accepted join: a join with an older one is a retry.
    pub joined_at: AssignmentRevision,
    /// Set while it speaks the classic protocol: its epoch is its generation then.
    pub classic: Option<Box<ClassicPart>>,
}
/// What a Kafka client says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientInfo {
    pub id: String,
    pub host: String,
}
/// A granted partition.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    pub token: FencingToken,
    pub granted_at: AssignmentRevision,
    /// Of the topic as it was then: made again under its name, it is another.
    pub topic_id: u128,
    /// The member epoch of the grant: a commit with this epoch or a later one of its own is the member's (KIP-1251).
    pub epoch: Epoch,
}
/// A partition to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    pub grant: Grant,
    /// Only a request of this incarnation at or past this revision confirms the revocation.
    pub revoked_at: AssignmentRevision,
}

/// A consumer's position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommittedOffset {
    pub offset: i64,
    pub metadata: String,
    pub leader_epoch: Option<i32>,
    /// Wall-clock ms of the leader that took it: for people.
    pub committed_at_ms: u64,
    /// The shard's time of the commit: for retention.
    pub time_ms: u64,
    /// Of the topic as it was then: a topic made again under its name inherits no offsets.
    pub topic_id: u128,
    /// Under which token it was committed; 0: by an administrator.
    pub token: FencingToken,
    /// The member's `commit_seq`: a lower one under the same token is stale.
    pub seq: u64,
}

impl Group {
    /// A group before its first member: epoch 1 with an empty target at epoch 1 (KAFKA-20268).
    pub fn new() -> Self {
        Self {
            revision: 0, changed_at_ms: 0, epoch: 1, unsettled_since: None, target_epoch: 1, members: BTreeMap::new(), said: BTreeMap::new(), instances: BTreeMap::new(), regexes: BTreeMap::new(), target: BTreeMap::new(), target_topics: BTreeMap::new(), owners: BTreeMap::new(), holds: BTreeMap::new(),
            offsets: BTreeMap::new(), topics: BTreeMap::new(), metadata_revision: 0, config: GroupConfig::default(), fenced: VecDeque::new(), departed: VecDeque::new(),
            history: HistoryMark::default(), quarantined: None, classic: None,
        }
    }
    /// The group's state as its protocol names it.
    pub fn state(&self) -> GroupState {
        if let Some(c) = &self.classic {
            return match c.phase {
                Phase::Empty => GroupState::Empty,
                Phase::Preparing => GroupState::PreparingRebalance,
                Phase::Completing => GroupState::CompletingRebalance,
                Phase::Stable => GroupState::Stable,
            };
        }
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.target_epoch {
            GroupState::Assigning
        } else if self.members.values().all(|m| m.state == MemberState::Stable && m.epoch == self.target_epoch) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }
    /// Whether nobody has been in it since it began: to the consumer protocol there is no such group yet, whatever offsets it keeps.
    pub fn is_blank(&self) -> bool { self.classic.is_none() && self.members.is_empty() && self.holds.is_empty() && self.epoch == 1 }
    /// Members of either protocol.
    pub fn members_count(&self) -> usize { self.members.len() + self.classic.as_ref().map_or(0, |c| c.members.len()) }
    /// Whether this incarnation left or was replaced.
    pub fn is_fenced(&self, member: &MemberId, incarnation: Incarnation) -> bool { self.fenced.iter().any(|(m, i)| m == member && *i == incarnation) }
    /// All topics that some member subscribes to.
    pub fn subscribed_topics(&self) -> BTreeSet<TopicName> {
        let mut topics: BTreeSet<TopicName> = self.regexes.values().flat_map(|r| r.topics.iter()).cloned().collect();
        let mut before: Option<&Shared<BTreeSet<TopicName>>> = None;
        for m in self.members.values() {
            // Neighbours mostly have the same subscription: one comparison instead of many searches.
            if before != Some(&m.subscribed) {
                topics.extend(m.subscribed.iter().cloned());
                before = Some(&m.subscribed);
            }
        }
        topics
    }
    /// The topics that a member subscribes to: by name, and by what its regular expression stood for.
    pub fn subscription_of(&self, m: &Member) -> BTreeSet<TopicName> {
        let matched = m.regex.as_ref().and_then(|r| self.regexes.get(r)).into_iter().flat_map(|r| r.topics.iter());
        m.subscribed.iter().chain(matched).cloned().collect()
    }
    /// Whether a member subscribes to a topic.
    pub fn subscribes(&self, m: &Member, topic: &TopicName) -> bool {
        m.subscribed.contains(topic) || m.regex.as_ref().and_then(|r| self.regexes.get(r)).is_some_and(|r| r.topics.contains(topic))
    }
    /// How many members say this regular expression.
    pub fn members_with_regex(&self, regex: &str) -> u64 { self.said.get(regex).copied().unwrap_or(0) }
    /// Whether somebody in it stops by a deadline, and hears of a change at once. A group without such a member changes at its members' heartbeats only.
    pub fn has_conforming(&self) -> bool { self.members.values().any(|m| m.conforming()) }
    /// The assignor that most members name (ties: the smaller name), else the default.
    pub fn assignor<'a>(&'a self, default: &'a str) -> &'a str {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for m in self.members.values() {
            if let Some(a) = &m.assignor {
                *votes.entry(a).or_default() += 1;
            }
        }
        votes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0))).map_or(default, |(name, _)| name)
    }
    /// The holds of one process.
    pub fn holds_of<'a>(&'a self, member: &'a MemberId, incarnation: Incarnation) -> impl Iterator<Item = (&'a Partition, &'a Hold)> {
        self.holds.iter().filter(move |(_, h)| h.member == *member && h.incarnation == incarnation)
    }
}
impl Default for Group { fn default() -> Self { Self::new() } }

impl Member {
    /// Whether it stops using a partition at its deadline.
    pub fn conforming(&self) -> bool { self.protocol == Protocol::Http }
    /// Everything it may be using: assigned and pending, with the revision of the grant.
    pub fn holdings(&self) -> impl Iterator<Item = (&Partition, FencingToken, AssignmentRevision)> {
        self.assigned.iter().map(|(p, g)| (p, g.token, g.granted_at)).chain(self.pending.iter().map(|(p, x)| (p, x.grant.token, x.grant.granted_at)))
    }
}
