//! What a group may tell besides subscriptions: where members and partitions are, how heavy partitions are and how much members can take.

use super::spec::{SpecError, below, length};

/// Stands for "in no zone": such a member is near to everything.
pub const NOWHERE: u32 = u32::MAX;

/// Racks and zones are the same thing: a place where a member is, and where a partition has a replica or is declared to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zones {
    /// Member → its zone, or `NOWHERE`.
    pub of_member: Vec<u32>,
    /// The distinct sets of zones that partitions are in, each ascending. A partition in no zone is near to everybody.
    pub sets: Vec<Vec<u32>>,
    /// Partition → the place of its set in `sets`.
    pub set_of: Vec<u32>,
}
impl Zones {
    pub(super) fn check(&self, members: usize, partitions: usize) -> Result<(), SpecError> {
        length("zones of members", self.of_member.len(), members)?;
        length("zones of partitions", self.set_of.len(), partitions)?;
        below("zone set", self.set_of.iter(), self.sets.len())?;
        match self.sets.iter().position(|s| !s.is_sorted_by(|a, b| a < b)) {
            Some(set) => Err(SpecError::Unordered(set)),
            None => Ok(()),
        }
    }

    /// Whether a member has a partition in its zone, or has nothing to prefer.
    pub fn near(&self, member: u32, partition: usize) -> bool { self.zone_near_set(self.of_member[member as usize], self.set_of[partition]) }

    pub(super) fn zone_near_set(&self, zone: u32, set: u32) -> bool {
        let set = &self.sets[set as usize];
        zone == NOWHERE || set.is_empty() || set.binary_search(&zone).is_ok()
    }
}

/// How heavy partitions are, how much members can take, and how many partitions may change their owner at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loads {
    /// Partition → its weight, at least 1.
    pub weights: Vec<u32>,
    /// Member → its capacity. A load is judged relative to it; a member of capacity 0 gets only what nobody else may have.
    pub capacities: Vec<u32>,
    /// How many partitions that have an owner, subscribed and still a member, may go to another one.
    pub moves_max: usize,
}
impl Loads {
    /// Everything weighs the same, everybody can take the same, everything may move.
    pub fn equal(members: usize, partitions: usize) -> Self { Self { weights: vec![1; partitions], capacities: vec![1; members], moves_max: usize::MAX } }

    pub(super) fn check(&self, members: usize, partitions: usize) -> Result<(), SpecError> {
        length("capacities", self.capacities.len(), members)?;
        length("weights", self.weights.len(), partitions)?;
        match self.weights.iter().position(|w| *w == 0) {
            Some(partition) => Err(SpecError::NoWeight(partition)),
            None => Ok(()),
        }
    }
}
