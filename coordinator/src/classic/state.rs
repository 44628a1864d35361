//! The replicated part of a classic group. Only `record` changes it.

use super::command::{ClassicCode, GenerationMember};
use crate::ids::*;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
};

/// Bytes that clients exchange through the group: passed on, never read.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Vec<u8>", into = "Vec<u8>")]
pub struct Opaque(pub Arc<[u8]>);
impl From<Vec<u8>> for Opaque { fn from(v: Vec<u8>) -> Self { Self(v.into()) } }
impl From<&[u8]> for Opaque { fn from(v: &[u8]) -> Self { Self(v.into()) } }
impl From<Opaque> for Vec<u8> { fn from(o: Opaque) -> Vec<u8> { o.0.to_vec() } }
impl fmt::Debug for Opaque { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{} bytes", self.0.len()) } }

/// Where a classic group is in its rebalance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    #[default]
    Empty,
    /// The join phase: members are asked to join again.
    Preparing,
    /// The sync phase: the generation is there, its assignment is not.
    Completing,
    Stable,
}

/// A classic group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Classic {
    pub phase: Phase,
    /// The shard's time at which the last member had gone: the retention of offsets begins there.
    pub empty_since_ms: u64,
    /// Grows by one with each list of members; the list of one generation never changes (a static member may come back under a new id).
    pub generation: i32,
    /// `consumer`, `connect`, … None before the first member.
    pub protocol_type: Option<String>,
    /// The strategy of this generation.
    pub protocol: Option<String>,
    /// Who makes the assignment of a generation.
    pub assigning_member: Option<MemberId>,
    #[serde(with = "arcs")]
    pub members: BTreeMap<MemberId, Arc<ClassicMember>>,
    /// The static members by the id they keep (KIP-345).
    pub statics: BTreeMap<InstanceId, MemberId>,
    /// Strategy → how many members have it.
    pub offered: BTreeMap<String, usize>,
}

/// `Arc`s are serialised as what they point to.
mod arcs {
    use super::*;
    use serde::{Deserializer, Serializer};
    pub fn serialize<S: Serializer>(m: &BTreeMap<MemberId, Arc<ClassicMember>>, s: S) -> Result<S::Ok, S::Error> { s.collect_map(m.iter().map(|(k, v)| (k, &**v))) }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<BTreeMap<MemberId, Arc<ClassicMember>>, D::Error> {
        Ok(BTreeMap::<MemberId, ClassicMember>::deserialize(d)?.into_iter().map(|(k, v)| (k, Arc::new(v))).collect())
    }
}

/// A member of a classic group: what it said at its last join, and what it was assigned last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassicMember {
    pub instance_id: Option<InstanceId>,
    pub client_id: String,
    pub client_host: String,
    /// In force for its timer. A member names it anew at each join and goes by it from the answer on.
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    /// In order of preference.
    pub protocols: Vec<(String, Opaque)>,
    pub assignment: Opaque,
}
/// What makes a member of a consumer group a classic one: what it says for the classic protocol.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ClassicPart {
    pub session_timeout_ms: u64,
    /// In order of preference.
    pub protocols: Vec<(String, Opaque)>,
}
impl ClassicMember {
    /// What it said for a strategy.
    pub fn metadata(&self, protocol: &str) -> Option<&Opaque> { self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata) }
}

impl Classic {
    /// Whether a member with these strategies fits: the protocol type is the group's, and every member has one of the strategies.
    pub fn supports(&self, protocol_type: &str, protocols: &[(String, Opaque)]) -> bool {
        if self.phase == Phase::Empty {
            return !protocol_type.is_empty() && !protocols.is_empty();
        }
        self.protocol_type.as_deref() == Some(protocol_type) && protocols.iter().any(|(name, _)| self.offered.get(name).copied().unwrap_or(0) == self.members.len())
    }
    /// The strategy of the next generation: each member votes for the first of its own that all have; most votes win, ties go to the smaller name.
    pub fn elect_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for m in self.members.values() {
            let vote = m.protocols.iter().find(|(name, _)| self.offered.get(name).copied() == Some(self.members.len()));
            if let Some((name, _)) = vote {
                *votes.entry(name).or_default() += 1;
            }
        }
        votes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0))).map(|(name, _)| name.to_string())
    }
    /// How long a join or sync phase may take: as long as the most patient member says.
    pub fn rebalance_timeout_ms(&self) -> u64 { self.members.values().map(|m| m.rebalance_timeout_ms).max().unwrap_or(0) }
    pub fn is_assigning(&self, member: &MemberId) -> bool { self.assigning_member.as_ref() == Some(member) }
    /// Whether a request comes from who it says it is.
    pub fn validate(&self, member: &MemberId, instance_id: Option<&InstanceId>) -> Result<(), ClassicCode> {
        if let Some(instance) = instance_id {
            match self.statics.get(instance) {
                None => return Err(ClassicCode::UnknownMemberId),
                Some(holder) if holder != member => return Err(ClassicCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(ClassicCode::UnknownMemberId) }
    }
    /// Everybody with what each said for the generation's strategy: what the assigning member works on.
    pub fn list(&self) -> Vec<GenerationMember> {
        let protocol = self.protocol.as_deref().unwrap_or("");
        let one = |(id, m): (&MemberId, &Arc<ClassicMember>)| GenerationMember {
            member: id.clone(), instance_id: m.instance_id.clone(), metadata: m.metadata(protocol).cloned().unwrap_or_default(),
        };
        self.members.iter().map(one).collect()
    }
}
