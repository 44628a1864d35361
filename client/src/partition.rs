//! Names of what is owned.

use std::fmt;

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition {
    pub topic: String,
    pub partition: i32,
}
impl Partition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<String>, partition: i32) -> Partition { Partition { topic: topic.into(), partition } }
}
impl fmt::Display for Partition { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}:{}", self.topic, self.partition) } }

/// A partition under one grant. Another grant of the same partition has another token.
pub type Granted = (Partition, u64);
