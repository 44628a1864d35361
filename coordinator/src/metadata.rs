//! Topics and group settings: the state of the meta group, and the image of it that shards decide on.

use crate::{
    config::{GroupConfig, Overrides, Setting},
    ids::*,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use thiserror::Error;

/// What a group needs to know of a topic. Records carry it, so that replay reads no image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicFacts {
    /// Changes when a topic is deleted and made again.
    pub id: u128,
    /// 1 to 100,000.
    pub partitions: i32,
}

/// What assignors may know of a topic's partitions besides their number. Only the computation of a target reads it, so no record needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// By partition: the zones where it has a replica or is read best. Partitions beyond the end are in none.
    pub zones: Vec<BTreeSet<String>>,
    /// By partition: how heavy it is, 1 and above. Partitions beyond the end weigh 1.
    pub weights: Vec<u32>,
}

/// The committed state of the meta group. Every node reads its own copy; a fold of `MetaCommand`s.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Grows by one with each change.
    pub revision: u64,
    /// Set once by `CreateCluster`.
    pub cluster_id: u128,
    /// The number of shards, fixed for the cluster's life.
    pub shards: u16,
    pub topics: BTreeMap<TopicName, TopicFacts>,
    /// Topics whose partitions have zones or weights; the others are absent.
    pub layouts: BTreeMap<TopicName, Layout>,
    /// The revision at which a topic was last made: what regular expressions stood for before it may have changed.
    pub topics_made_at: u64,
    /// What was set for each group; groups that have all defaults are absent.
    pub group_configs: BTreeMap<GroupId, Overrides>,
    /// Node id → the random id of its data directory (`safety.md` 22).
    pub directories: BTreeMap<u64, u128>,
}

/// A change of the meta state. Carries every random value it needs, so applying it is a pure function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MetaCommand {
    CreateCluster { cluster_id: u128, shards: u16 },
    RegisterDirectory { node: u64, directory: u128 },
    /// Declares or grows; idempotent.
    DeclareTopic { name: TopicName, partitions: i32, id_if_new: u128 },
    DeleteTopic { name: TopicName },
    /// Replaces what is known of a topic's partitions. Groups look at it when they next compute a target.
    SetLayout { name: TopicName, layout: Layout },
    /// Changes the settings it names and no other; None sets one back to its default. All or nothing.
    SetGroupConfig { group: GroupId, settings: BTreeMap<Setting, Option<u64>> },
}

/// Why a meta command was refused. The state is then unchanged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Error)]
pub enum MetaError {
    #[error("topic {name} does not exist")]
    UnknownTopic { name: TopicName },
    #[error("topic {name} has {have} partitions: it can grow, never shrink to {asked}; delete it and declare it again")]
    TopicCannotShrink { name: TopicName, have: i32, asked: i32 },
    #[error("{field}: {detail}")]
    Invalid { field: String, detail: String },
    #[error("{limit} is limited to {max}")]
    LimitReached { limit: String, max: u64 },
    #[error("node {node} is registered with another data directory: a node id is never used again; join with a new id")]
    OtherDirectory { node: u64 },
    #[error("the cluster exists already")]
    ClusterExists,
}

/// Topics in a cluster.
pub const TOPICS_MAX: usize = 10_000;
/// Partitions of a topic.
pub const PARTITIONS_MAX: i32 = 100_000;
/// Groups with settings of their own.
pub const GROUP_CONFIGS_MAX: usize = 100_000;
/// Bytes of a topic's or group's name.
pub const NAME_MAX: usize = 249;

impl Metadata {
    /// Applies one command. Pure: equal on every node. Returns the revision at which it holds.
    pub fn apply(&mut self, command: &MetaCommand) -> Result<u64, MetaError> {
        match command {
            MetaCommand::CreateCluster { cluster_id, shards } => {
                if self.cluster_id != 0 { return Err(MetaError::ClusterExists); }
                (self.cluster_id, self.shards) = (*cluster_id, *shards);
            }
            MetaCommand::RegisterDirectory { node, directory } => match self.directories.get(node) {
                Some(d) if d == directory => return Ok(self.revision),
                Some(_) => return Err(MetaError::OtherDirectory { node: *node }),
                None => { self.directories.insert(*node, *directory); }
            },
            MetaCommand::DeclareTopic { name, partitions, id_if_new } => {
                check_name("topic", name.as_str())?;
                if !(1..=PARTITIONS_MAX).contains(partitions) {
                    return Err(MetaError::Invalid { field: "partitions".into(), detail: format!("{partitions} is not in 1 to {PARTITIONS_MAX}") });
                }
                let full = self.topics.len() >= TOPICS_MAX;
                match self.topics.get_mut(name) {
                    Some(t) if t.partitions == *partitions => return Ok(self.revision),
                    Some(t) if t.partitions > *partitions => {
                        return Err(MetaError::TopicCannotShrink { name: name.clone(), have: t.partitions, asked: *partitions });
                    }
                    Some(t) => t.partitions = *partitions,
                    None if full => return Err(MetaError::LimitReached { limit: "topics".into(), max: TOPICS_MAX as u64 }),
                    None => {
                        self.topics.insert(name.clone(), TopicFacts { id: *id_if_new, partitions: *partitions });
                        self.topics_made_at = self.revision + 1;
                    }
                }
            }
            MetaCommand::DeleteTopic { name } => {
                if self.topics.remove(name).is_none() { return Err(MetaError::UnknownTopic { name: name.clone() }); }
                self.layouts.remove(name);
            }
            MetaCommand::SetLayout { name, layout } => {
                let topic = self.topics.get(name).ok_or_else(|| MetaError::UnknownTopic { name: name.clone() })?;
                layout.check(topic.partitions)?;
                let empty = layout.zones.is_empty() && layout.weights.is_empty();
                match self.layouts.get(name) {
                    Some(had) if had == layout => return Ok(self.revision),
                    None if empty => return Ok(self.revision),
                    _ if empty => { self.layouts.remove(name); }
                    _ => { self.layouts.insert(name.clone(), layout.clone()); }
                }
            }
            MetaCommand::SetGroupConfig { group, settings } => {
                check_name("group", group.as_str())?;
                let mut set = self.group_configs.get(group).cloned().unwrap_or_default();
                for (setting, value) in settings {
                    match value {
                        Some(v) => set.insert(*setting, *v),
                        None => set.remove(setting),
                    };
                }
                GroupConfig::with(&set).validate().map_err(|(field, detail)| MetaError::Invalid { field, detail })?;
                if self.group_configs.get(group).is_some_and(|have| *have == set) {
                    return Ok(self.revision);
                }
                let full = self.group_configs.len() >= GROUP_CONFIGS_MAX && !self.group_configs.contains_key(group);
                match (set.is_empty(), full) {
                    (true, _) => { self.group_configs.remove(group); }
                    (false, true) => return Err(MetaError::LimitReached { limit: "groups with settings of their own".into(), max: GROUP_CONFIGS_MAX as u64 }),
                    (false, false) => { self.group_configs.insert(group.clone(), set); }
                }
            }
        }
        self.revision += 1;
        Ok(self.revision)
    }

    /// The settings of a group, which need not exist yet.
    pub fn config_of(&self, group: &GroupId) -> GroupConfig { self.group_configs.get(group).map(GroupConfig::with).unwrap_or_default() }
}

/// Zones of one partition.
const ZONES_MAX: usize = 16;
/// The weight of one partition.
pub const WEIGHT_MAX: u32 = 1_000_000;
impl Layout {
    /// Checks the bounds against the topic's partitions. The error names the field.
    fn check(&self, partitions: i32) -> Result<(), MetaError> {
        let invalid = |field: &str, detail: String| Err(MetaError::Invalid { field: field.into(), detail });
        let most = usize::try_from(partitions).unwrap_or(0);
        for (field, given) in [("zones", self.zones.len()), ("weights", self.weights.len())] {
            if given > most {
                return invalid(field, format!("{given} are given for {partitions} partitions"));
            }
        }
        if let Some((p, zones)) = self.zones.iter().enumerate().find(|(_, z)| z.len() > ZONES_MAX || z.iter().any(|n| n.is_empty() || n.len() > NAME_MAX)) {
            return invalid("zones", format!("partition {p} has {}: at most {ZONES_MAX} names of 1 to {NAME_MAX} bytes are allowed", zones.len()));
        }
        match self.weights.iter().position(|w| !(1..=WEIGHT_MAX).contains(w)) {
            Some(p) => invalid("weights", format!("{} of partition {p} is not in 1 to {WEIGHT_MAX}", self.weights[p])),
            None => Ok(()),
        }
    }
}

/// Letters, digits, `.`, `_`, `-`; 1 to 249 bytes; not `.` or `..` (Kafka's rule for topics).
pub fn check_name(field: &str, name: &str) -> Result<(), MetaError> {
    let fine = !name.is_empty() && name.len() <= NAME_MAX && name != "." && name != ".." && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fine { Ok(()) } else {
        Err(MetaError::Invalid { field: field.into(), detail: format!("{name:?} is not a name: 1 to {NAME_MAX} letters, digits, '.', '_' or '-'") })
    }
}
