//! Members by load relative to capacity. Loads are compared as fractions without division: exact, and the same on every machine.

use crate::assign::subscribers::Members;
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

pub(super) struct Ranking {
    capacities: Vec<u32>,
    loads: Vec<u64>,
    /// Capacity → its members, the least loaded first. Members of one capacity stand in the order of their loads, whatever is added to them.
    by_capacity: BTreeMap<u32, BTreeSet<(u64, u32)>>,
}
impl Ranking {
    pub(super) fn new(capacities: &[u32]) -> Self {
        let mut by_capacity: BTreeMap<u32, BTreeSet<(u64, u32)>> = BTreeMap::new();
        for (c, m) in capacities.iter().zip(0u32..) {
            by_capacity.entry(*c).or_default().insert((0, m));
        }
        Self { capacities: capacities.to_vec(), loads: vec![0; capacities.len()], by_capacity }
    }

    pub(super) fn add(&mut self, member: u32, weight: i64) {
        let load = &mut self.loads[member as usize];
        if let Some(members) = self.by_capacity.get_mut(&self.capacities[member as usize]) {
            members.remove(&(*load, member));
            *load = load.saturating_add_signed(weight);
            members.insert((*load, member));
        }
    }

    /// Of the members that `may`, the one that is least loaded with `weight` more; of equals, the one with the lower number.
    pub(super) fn least_loaded_with(&self, weight: u32, may: impl Fn(u32) -> bool) -> Option<u32> {
        let of_each = self.by_capacity.iter().filter_map(|(c, members)| members.iter().find(|(_, m)| may(*m)).map(|(load, m)| (load + u64::from(weight), *c, *m)));
        of_each.min_by(|a, b| relative((a.0, a.1), (b.0, b.1)).then(a.2.cmp(&b.2))).map(|(_, _, m)| m)
    }

    /// The same of a short list.
    pub(super) fn least_loaded_of(&self, members: Members<'_>, weight: u32) -> Option<u32> {
        let with = |m: u32| (self.loads[m as usize] + u64::from(weight), self.capacities[m as usize]);
        let mut best = None;
        members.for_each(|m| {
            if best.is_none_or(|b| relative(with(m), with(b)) == Ordering::Less) {
                best = Some(m);
            }
        });
        best
    }

    /// Whether `to` with `weight` more is less loaded than `from` is now.
    pub(super) fn less_loaded(&self, to: u32, weight: u32, from: u32) -> bool {
        relative((self.loads[to as usize] + u64::from(weight), self.capacities[to as usize]), (self.loads[from as usize], self.capacities[from as usize])) == Ordering::Less
    }

    pub(super) fn most_loaded_first(&self) -> Vec<u32> {
        let mut members: Vec<u32> = (0..self.loads.len() as u32).collect();
        let of = |m: u32| (self.loads[m as usize], self.capacities[m as usize]);
        members.sort_by(|a, b| relative(of(*b), of(*a)).then(a.cmp(b)));
        members
    }
}

/// Compares load / capacity. A load on capacity 0 is above every other; no load is nothing, whatever the capacity.
fn relative(a: (u64, u32), b: (u64, u32)) -> Ordering {
    match (a.1, b.1) {
        (0, 0) => a.0.cmp(&b.0),
        (0, _) if a.0 > 0 => Ordering::Greater,
        (_, 0) if b.0 > 0 => Ordering::Less,
        _ => (u128::from(a.0) * u128::from(b.1.max(1))).cmp(&(u128::from(b.0) * u128::from(a.1.max(1)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sort may panic otherwise.
    #[test]
    fn relative_loads_are_in_one_order_whatever_the_capacities() {
        let all: Vec<(u64, u32)> = (0..4).flat_map(|load| (0..4).map(move |capacity| (load, capacity))).collect();
        for &a in &all {
            for &b in &all {
                assert_eq!(relative(a, b), relative(b, a).reverse(), "{a:?} {b:?}");
                for &c in &all {
                    assert!(relative(a, b).is_gt() || relative(b, c).is_gt() || relative(a, c).is_le(), "{a:?} {b:?} {c:?}");
                }
            }
        }
    }
}
