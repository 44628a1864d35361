//! One recorded run of one of Kafka's assignors, as it is in the files.

use anyhow::{Context, Result};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Topic and partition.
pub type Tp = (String, i32);
/// Member → its partitions.
pub type Assigned = BTreeMap<String, BTreeSet<Tp>>;

#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    pub id: String,
    pub event: String,
    pub assignor: String,
    pub side: Side,
    pub det: Det,
    pub topics: Vec<Topic>,
    pub homogeneous: bool,
    /// The common subscription of a homogeneous group.
    pub subs: Option<Vec<String>>,
    pub members: Vec<Member>,
    pub out: Option<BTreeMap<String, Ranges>>,
    pub error: Option<String>,
    pub quirk: Option<String>,
    pub stats: Option<Stats>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    Server,
    Client,
}

/// How far Kafka's result is determined by its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Det {
    Any,
    /// Determined for one who visits members, topics and partitions in ascending order. Baton does.
    Sorted,
    /// Hash order decides: only properties can be asked.
    Props,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Topic {
    pub name: String,
    /// -1: there is no such topic.
    pub parts: i32,
    #[serde(default)]
    pub racks: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    pub id: String,
    pub inst: Option<String>,
    pub rack: Option<String>,
    pub subs: Option<Vec<String>>,
    #[serde(default)]
    pub cur: Ranges,
    #[serde(default = "no_generation")]
    pub r#gen: i32,
}
fn no_generation() -> i32 { -1 }

#[derive(Clone, Debug, Deserialize)]
pub struct Stats {
    pub kept: usize,
    pub kept_min: Option<usize>,
    pub sizes_same: Option<bool>,
}

/// Topic → partitions, written as "0-3,5".
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Ranges(BTreeMap<String, String>);
impl Ranges {
    /// In ascending order of topic and partition.
    pub fn partitions(&self) -> Result<BTreeSet<Tp>> {
        let mut out = BTreeSet::new();
        for (topic, text) in &self.0 {
            for range in text.split(',').filter(|r| !r.is_empty()) {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let read = |s: &str| s.parse::<i32>().with_context(|| format!("{range:?} of {topic} is not a range of partitions"));
                out.extend((read(first)?..=read(last)?).map(|p| (topic.clone(), p)));
            }
        }
        Ok(out)
    }
}

impl Case {
    /// The topics that a member subscribes to, whether they exist or not.
    pub fn subscription<'a>(&'a self, member: &'a Member) -> &'a [String] { member.subs.as_deref().or(self.subs.as_deref()).unwrap_or_default() }

    /// The partition count of a topic that exists.
    pub fn partitions(&self, topic: &str) -> Option<i32> { self.topics.iter().find(|t| t.name == topic && t.parts >= 0).map(|t| t.parts) }

    /// What Kafka assigned; nothing if it threw.
    pub fn expected(&self) -> Result<Option<Assigned>> {
        self.out.as_ref().map(|o| o.iter().map(|(m, r)| Ok((m.clone(), r.partitions()?))).collect()).transpose()
    }

    /// What each member had before.
    pub fn current(&self) -> Result<Assigned> { self.members.iter().map(|m| Ok((m.id.clone(), m.cur.partitions()?))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_nonsense_is_refused() {
        let ranges: Ranges = serde_json::from_str(r#"{"t":"0-2,5"}"#).expect("readable");
        assert_eq!(ranges.partitions().expect("ranges").into_iter().map(|(_, p)| p).collect::<Vec<_>>(), [0, 1, 2, 5]);
        let nonsense: Ranges = serde_json::from_str(r#"{"t":"0-x"}"#).expect("readable");
        assert!(nonsense.partitions().is_err());
    }
}
