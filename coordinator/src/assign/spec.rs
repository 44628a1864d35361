//! A group in dense numbers, as assignors see it. Members, topics and partitions are numbered in ascending order of their names, so that "ascending"
//! means the same on both sides of the edge. Partition p of topic t has the number `first[t] + p`.

use super::preferences::{Loads, Zones};
use std::ops::Range;
use thiserror::Error;

/// Stands for "no member" in `Owners`.
pub const NOBODY: u32 = u32::MAX;

/// The members, the topics they share, and who had what.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The number of each topic's first partition, and the number of all partitions at the end.
    first: Vec<u32>,
    /// The distinct subscriptions, each an ascending list of topics. Most groups have one. Subscriptions that differ only by topics that do not exist
    /// are listed twice: to Kafka such a group is heterogeneous, and so it is here.
    subscriptions: Vec<Vec<u32>>,
    /// Member → its subscription's place in `subscriptions`.
    subscription_of: Vec<u32>,
    /// All members, static ones first by instance id, then the others by member id.
    static_first: Vec<u32>,
    /// Partition → the member that had it; who lost its subscription is still written here.
    previous: Vec<u32>,
    zones: Option<Zones>,
    loads: Option<Loads>,
    /// Some members say names and some expressions: no common subscription is looked for, even if what they come to is the same (as in Kafka).
    mixed: bool,
}

/// Why numbers do not make up a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SpecError {
    #[error("there are more than {max} partitions: an assignor counts them in 32 bits", max = u32::MAX - 1)]
    TooManyPartitions,
    #[error("{what} {index} is not below {count}")]
    OutOfRange { what: &'static str, index: u32, count: usize },
    #[error("subscription {0} is not in ascending order")]
    Unordered(usize),
    #[error("the weight of partition {0} is 0: the least weight is 1")]
    NoWeight(usize),
    #[error("{what} has {given} entries, not {needed}")]
    WrongLength { what: &'static str, given: usize, needed: usize },
}

impl Spec {
    /// A group without history or static members. `subscriptions` holds each distinct subscription once.
    pub fn new(partition_counts: &[u32], subscriptions: Vec<Vec<u32>>, subscription_of: Vec<u32>) -> Result<Self, SpecError> {
        let mut first = Vec::with_capacity(partition_counts.len() + 1);
        let mut total = 0u32;
        for count in partition_counts {
            first.push(total);
            total = total.checked_add(*count).filter(|t| *t < NOBODY).ok_or(SpecError::TooManyPartitions)?;
        }
        first.push(total);
        let topics = partition_counts.len();
        for (i, s) in subscriptions.iter().enumerate() {
            if !s.is_sorted_by(|a, b| a < b) {
                return Err(SpecError::Unordered(i));
            }
            below("topic", s.last().into_iter(), topics)?;
        }
        below("subscription", subscription_of.iter(), subscriptions.len())?;
        let members = u32::try_from(subscription_of.len()).map_err(|_| SpecError::OutOfRange { what: "member", index: NOBODY, count: subscription_of.len() })?;
        Ok(Self {
            first,
            subscriptions,
            subscription_of,
            static_first: (0..members).collect(),
            previous: vec![NOBODY; total as usize],
            zones: None,
            loads: None,
            mixed: false,
        })
    }

    /// The same group with a target so far: partition → member or `NOBODY`.
    pub fn with_previous(mut self, previous: Vec<u32>) -> Result<Self, SpecError> {
        length("previous", previous.len(), self.partitions())?;
        below("member", previous.iter().filter(|m| **m != NOBODY), self.members())?;
        self.previous = previous;
        Ok(self)
    }

    /// The same group with static members: all members in the order static by instance id, then dynamic by member id.
    pub fn with_static_first(mut self, order: Vec<u32>) -> Result<Self, SpecError> {
        length("static_first", order.len(), self.members())?;
        below("member", order.iter(), self.members())?;
        self.static_first = order;
        Ok(self)
    }

    /// The same group with zones, for assignors that prefer near partitions.
    pub fn with_zones(mut self, zones: Zones) -> Result<Self, SpecError> {
        zones.check(self.members(), self.partitions())?;
        self.zones = Some(zones);
        Ok(self)
    }

    /// The same group with weights and capacities, for assignors that look at them.
    pub fn with_loads(mut self, loads: Loads) -> Result<Self, SpecError> {
        loads.check(self.members(), self.partitions())?;
        self.loads = Some(loads);
        Ok(self)
    }

    /// The same group, whose members do not say their subscriptions in the same way.
    pub fn with_mixed(mut self, mixed: bool) -> Self {
        self.mixed = mixed;
        self
    }

    pub fn members(&self) -> usize { self.subscription_of.len() }
    pub fn topics(&self) -> usize { self.first.len().saturating_sub(1) }
    pub fn partitions(&self) -> usize { self.first.last().copied().unwrap_or(0) as usize }
    /// The numbers of a topic's partitions.
    pub fn of_topic(&self, topic: u32) -> Range<usize> { self.first[topic as usize] as usize..self.first[topic as usize + 1] as usize }
    /// The topics that a member subscribes to, ascending.
    pub fn subscription(&self, member: u32) -> &[u32] { &self.subscriptions[self.subscription_of[member as usize] as usize] }
    /// The distinct subscriptions.
    pub fn subscriptions(&self) -> &[Vec<u32>] { &self.subscriptions }
    /// Which of the distinct subscriptions a member has.
    pub fn subscription_of(&self, member: u32) -> u32 { self.subscription_of[member as usize] }
    /// Whether all members have the same subscription.
    pub fn is_homogeneous(&self) -> bool { !self.mixed && self.subscriptions.len() <= 1 }
    pub fn subscribes(&self, member: u32, topic: u32) -> bool { self.subscription(member).binary_search(&topic).is_ok() }
    pub fn static_first(&self) -> &[u32] { &self.static_first }
    pub fn previous(&self) -> &[u32] { &self.previous }
    pub fn zones(&self) -> Option<&Zones> { self.zones.as_ref() }
    pub fn loads(&self) -> Option<&Loads> { self.loads.as_ref() }
}

/// Partition → the member that is to have it, or `NOBODY` where no member subscribes to the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owners(pub Vec<u32>);

pub(super) fn length(what: &'static str, given: usize, needed: usize) -> Result<(), SpecError> {
    if given == needed { Ok(()) } else { Err(SpecError::WrongLength { what, given, needed }) }
}

pub(super) fn below<'a>(what: &'static str, mut indexes: impl Iterator<Item = &'a u32>, count: usize) -> Result<(), SpecError> {
    match indexes.find(|i| **i as usize >= count) {
        Some(index) => Err(SpecError::OutOfRange { what, index: *index, count }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_make_no_group_are_refused() {
        assert_eq!(Spec::new(&[u32::MAX - 1, 2], vec![], vec![]).err(), Some(SpecError::TooManyPartitions));
        assert_eq!(Spec::new(&[1], vec![vec![1]], vec![0]).err(), Some(SpecError::OutOfRange { what: "topic", index: 1, count: 1 }));
        assert_eq!(Spec::new(&[1], vec![vec![0, 0]], vec![0]).err(), Some(SpecError::Unordered(0)));
        assert_eq!(Spec::new(&[1], vec![vec![0]], vec![1]).err(), Some(SpecError::OutOfRange { what: "subscription", index: 1, count: 1 }));
        let spec = || Spec::new(&[2], vec![vec![0]], vec![0]).expect("a group");
        assert_eq!(spec().with_previous(vec![0]).err(), Some(SpecError::WrongLength { what: "previous", given: 1, needed: 2 }));
        assert_eq!(spec().with_previous(vec![0, 1]).err(), Some(SpecError::OutOfRange { what: "member", index: 1, count: 1 }));
        assert_eq!(spec().with_static_first(vec![]).err(), Some(SpecError::WrongLength { what: "static_first", given: 0, needed: 1 }));
    }
}
