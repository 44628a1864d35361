//! The consumer protocol that classic clients embed in JoinGroup and SyncGroup: what a member subscribes to, and what it was assigned. Versions 0 to 3.
//!
//! The coordinator passes these bytes on without a look; it reads them only where classic and consumer members share a group, and where it is asked to
//! describe one. The bytes come from clients: whatever they hold, decoding ends in a value or a `Malformed`, never in a panic, and reserves no
//! more memory than the bytes justify. A newer version is read as the newest known one, as its fields may only be added at the end.

mod reader;
mod writer;

use crate::ids::*;
pub use reader::Malformed;
use reader::Reader;
pub use writer::TooLong;
use writer::Writer;

/// The newest version written and fully understood.
pub const VERSION_MAX: i16 = 3;
/// "No generation": a member that was never assigned anything.
pub const NO_GENERATION: i32 = -1;

/// What a member brings to JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    pub topics: Vec<TopicName>,
    /// Belongs to the assignor.
    pub user_data: Option<Vec<u8>>,
    /// What it holds on to while it joins (cooperative rebalancing). From version 1.
    pub owned: Vec<Partition>,
    /// The generation in which `owned` was assigned, or `NO_GENERATION`. From version 2.
    pub generation: i32,
    /// From version 3.
    pub rack: Option<String>,
}
impl Default for Subscription {
    fn default() -> Self { Self { topics: Vec::new(), user_data: None, owned: Vec::new(), generation: NO_GENERATION, rack: None } }
}
impl Subscription {
    /// Fields that the version does not have keep their defaults. An empty rack is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("subscription", bytes);
        let version = version(&mut r)?;
        let mut s = Self { topics: r.array("topics", 2, |r| r.string("topic").map(TopicName::from))?, user_data: r.bytes("user data")?, ..Self::default() };
        if version >= 1 {
            s.owned = partitions(&mut r, "owned partitions")?;
        }
        if version >= 2 {
            s.generation = r.i32("generation")?;
        }
        if version >= 3 {
            s.rack = r.nullable_string("rack")?.filter(|rack| !rack.is_empty());
        }
        Ok(s)
    }

    /// Fields that the version does not have are left out. Topics and partitions are written in ascending order, as Kafka's client does.
    pub fn encode(&self, version: i16) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::default();
        let version = version.clamp(0, VERSION_MAX);
        w.i16(version);
        let mut topics: Vec<&TopicName> = self.topics.iter().collect();
        topics.sort_unstable();
        w.array("topics", &topics, |w, t| w.string("topic", t.as_str()))?;
        w.bytes("user data", self.user_data.as_deref())?;
        if version >= 1 {
            write_partitions(&mut w, &self.owned)?;
        }
        if version >= 2 {
            w.i32(self.generation);
        }
        if version >= 3 {
            w.nullable_string("rack", self.rack.as_deref())?;
        }
        Ok(w.done())
    }
}

/// What a member gets from SyncGroup. All versions are alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assigned {
    pub partitions: Vec<Partition>,
    /// Belongs to the assignor.
    pub user_data: Option<Vec<u8>>,
}
impl Assigned {
    /// No bytes at all mean an empty assignment: so a member is told that it has nothing.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let mut r = Reader::new("assignment", bytes);
        version(&mut r)?;
        Ok(Self { partitions: partitions(&mut r, "assigned partitions")?, user_data: r.bytes("user data")? })
    }

    pub fn encode(&self, version: i16) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::default();
        w.i16(version.clamp(0, VERSION_MAX));
        write_partitions(&mut w, &self.partitions)?;
        w.bytes("user data", self.user_data.as_deref())?;
        Ok(w.done())
    }
}

/// The user data of the `sticky` assignor: what the member had, and since its second version in which generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StickyData {
    pub owned: Vec<Partition>,
    pub generation: Option<i32>,
}
impl StickyData {
    /// The two versions are told apart by whether there is a generation behind the partitions.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new("sticky user data", bytes);
        let owned = partitions(&mut r, "previous assignment")?;
        Ok(Self { owned, generation: r.i32("generation").ok() })
    }

    pub fn encode(&self) -> Result<Vec<u8>, TooLong> {
        let mut w = Writer::default();
        write_partitions(&mut w, &self.owned)?;
        if let Some(g) = self.generation {
            w.i32(g);
        }
        Ok(w.done())
    }
}

/// The user data of the `cooperative-sticky` assignor: the generation of the owned partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CooperativeData {
    pub generation: i32,
}
impl CooperativeData {
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> { Reader::new("cooperative-sticky user data", bytes).i32("generation").map(|generation| Self { generation }) }

    pub fn encode(&self) -> Vec<u8> { self.generation.to_be_bytes().to_vec() }
}

fn version(r: &mut Reader<'_>) -> Result<i16, Malformed> {
    let version = r.i16("version")?;
    if version < 0 { Err(r.refuse("version", "is negative")) } else { Ok(version) }
}

/// A list of topics, each with a list of partitions. Order and repetitions are kept.
fn partitions(r: &mut Reader<'_>, field: &'static str) -> Result<Vec<Partition>, Malformed> {
    let by_topic = r.array(field, 6, |r| {
        let topic = TopicName::from(r.string("topic")?);
        Ok((topic, r.array("partitions", 4, |r| r.i32("partition"))?))
    })?;
    Ok(by_topic.into_iter().flat_map(|(topic, ps)| ps.into_iter().map(move |partition| Partition { topic: topic.clone(), partition })).collect())
}

/// In ascending order, each topic once.
fn write_partitions(w: &mut Writer, partitions: &[Partition]) -> Result<(), TooLong> {
    let mut sorted: Vec<&Partition> = partitions.iter().collect();
    sorted.sort_unstable();
    let by_topic: Vec<&[&Partition]> = sorted.chunk_by(|a, b| a.topic == b.topic).collect();
    w.array("topics with partitions", &by_topic, |w, ps| {
        w.string("topic", ps[0].topic.as_str())?;
        w.array("partitions", ps, |w, p| {
            w.i32(p.partition);
            Ok(())
        })
    })
}
