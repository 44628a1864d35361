//! The names and numbers of the protocol. One type for one meaning, so that a reader never has to ask which number this is.

use serde::{Deserialize, Serialize};
use std::{cmp::Ordering, fmt, sync::Arc};

/// Milliseconds on some monotonic clock of the caller's. The core never reads a clock.
pub type Millis = u64;
/// A group's, target's or member's epoch (KIP-848). Members: 0 joins, -1 has left, -2 left for a while (static).
pub type Epoch = i32;

macro_rules! name {
    ($(#[$doc:meta])* $t:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, Deserialize)]
        #[serde(from = "String")]
        pub struct $t(pub Arc<str>);
        // Not by way of a `String`: a snapshot has many names.
        impl Serialize for $t { fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> { s.serialize_str(&self.0) } }
        // Mostly it is the very same text that is looked for: `Arc` knows that for `==` only.
        impl Ord for $t { fn cmp(&self, other: &Self) -> Ordering { if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) } } }
        impl PartialOrd for $t { fn partial_cmp(&self, other: &Self) -> Option<Ordering> { Some(self.cmp(other)) } }
        impl From<String> for $t { fn from(s: String) -> Self { Self(s.into()) } }
        impl From<&str> for $t { fn from(s: &str) -> Self { Self(s.into()) } }
        impl From<$t> for String { fn from(n: $t) -> String { n.0.to_string() } }
        impl fmt::Display for $t { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl fmt::Debug for $t { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) } }
        impl $t {
            /// The name as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
    };
}
name!(/// A consumer group's id.
    GroupId);
name!(/// A member's id, unique in its group.
    MemberId);
name!(/// The id a static member keeps across restarts (KIP-345).
    InstanceId);
name!(/// A topic's name. Ownership is keyed by it, never by the topic id.
    TopicName);

/// 128 random bits drawn at every process start of a member: two processes under one member id are told apart by it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Incarnation(pub u128);
impl fmt::Display for Incarnation { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:032x}", self.0) } }
impl fmt::Debug for Incarnation { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{:08x}…", self.0 >> 96) } }
impl std::str::FromStr for Incarnation {
    type Err = std::num::ParseIntError;
    /// 1 to 32 hexadecimal digits.
    fn from_str(s: &str) -> Result<Self, Self::Err> { u128::from_str_radix(s, 16).map(Incarnation) }
}

/// The proof of a grant: greater than every earlier token of its shard, below 2^53 until the year 2255.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default)]
pub struct FencingToken(pub u64);

/// Numbers the states of a member's assignment; drawn from the token counter, so never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Debug, Default)]
pub struct AssignmentRevision(pub u64);

/// The term of the Raft leader that decides.
pub type Term = u64;

/// One partition of one topic, by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Partition {
    /// The topic's name.
    pub topic: TopicName,
    /// 0 to the topic's partition count - 1.
    pub partition: i32,
}
impl Partition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<TopicName>, partition: i32) -> Self { Self { topic: topic.into(), partition } }
}
impl fmt::Display for Partition { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}:{}", self.topic, self.partition) } }
impl fmt::Debug for Partition { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}:{}", self.topic, self.partition) } }
