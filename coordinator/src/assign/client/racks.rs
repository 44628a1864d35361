//! Which members and partitions are on which racks, in numbers.

use super::ClientGroup;
use crate::assign::spec::Spec;
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Racks {
    of_member: Vec<Option<u32>>,
    of_partition: Vec<BTreeSet<u32>>,
}
impl Racks {
    pub(super) fn of(group: &ClientGroup, spec: &Spec) -> Self {
        let of_members = group.members.values().filter_map(|m| m.subscription.rack.as_deref());
        let of_replicas = group.topics.values().flat_map(|t| t.racks.iter().flatten().map(String::as_str));
        let names: BTreeSet<&str> = of_members.chain(of_replicas).collect();
        let numbers: BTreeMap<&str, u32> = names.into_iter().zip(0..).collect();
        let mut of_partition = vec![BTreeSet::new(); spec.partitions()];
        for (topic, number) in group.topics.values().zip(0u32..) {
            for (p, racks) in spec.of_topic(number).zip(&topic.racks) {
                of_partition[p] = racks.iter().map(|r| numbers[r.as_str()]).collect();
            }
        }
        Self { of_member: group.members.values().map(|m| m.subscription.rack.as_deref().map(|r| numbers[r])).collect(), of_partition }
    }

    /// Whether some of these members are on some rack of these partitions, and racks make a difference at all.
    pub(super) fn matter(&self, members: impl Iterator<Item = u32>, partitions: impl Iterator<Item = usize> + Clone) -> bool {
        let wanted: BTreeSet<u32> = members.filter_map(|m| self.of_member[m as usize]).collect();
        let offered: BTreeSet<u32> = partitions.clone().flat_map(|p| &self.of_partition[p]).copied().collect();
        !wanted.is_disjoint(&offered) && partitions.into_iter().any(|p| self.of_partition[p] != offered)
    }

    pub(super) fn of_member(&self, member: u32) -> Option<u32> { self.of_member[member as usize] }

    /// A member without a rack is near to everything.
    pub(super) fn near(&self, member: u32, partition: usize) -> bool { self.of_member[member as usize].is_none_or(|rack| self.of_partition[partition].contains(&rack)) }

    /// As `near`, but a member without a rack is near to nothing.
    pub(super) fn on_rack(&self, member: u32, partition: usize) -> bool { self.of_member[member as usize].is_some_and(|rack| self.of_partition[partition].contains(&rack)) }

    /// Partition → how many members are on one of its racks.
    pub(super) fn members_near(&self) -> impl Fn(usize) -> usize + '_ {
        let mut on: BTreeMap<u32, usize> = BTreeMap::new();
        for rack in self.of_member.iter().flatten() {
            *on.entry(*rack).or_default() += 1;
        }
        move |partition| self.of_partition[partition].iter().filter_map(|rack| on.get(rack)).sum()
    }
}
