//! `rack-aware`: `uniform`, then partitions are exchanged until each is with a member in one of its zones as far as exchanges get.
//!
//! Balance goes before nearness and nearness before stickiness. The price of balance is none: a partition is brought near by an exchange, which leaves
//! every member its number of partitions, or by a hand-over to a member that has fewer, after which the two are no less even. The price of stickiness: a
//! partition brought near costs at most two moves. Members without a zone and partitions in no zone have nothing to prefer.

mod pools;

use super::{
    Assignor,
    preferences::{NOWHERE, Zones},
    spec::{NOBODY, Owners, Spec},
    uniform,
};
use pools::Pools;
use std::collections::BTreeSet;

/// Exchanges can let `uniform` find a more even assignment where subscriptions differ; so often the two take turns at most.
const ROUNDS_MAX: usize = 8;
/// With unequal subscriptions not every partition at hand fits: so many are looked at.
const LOOK_MAX: usize = 64;

pub struct RackAware;

impl Assignor for RackAware {
    fn name(&self) -> &'static str { "rack-aware" }

    fn assign(&self, group: &Spec) -> Owners {
        let mut owners = uniform::from(group, group.previous());
        let Some(zones) = group.zones() else { return owners };
        for _ in 0..ROUNDS_MAX {
            if !Exchange::new(group, zones, &mut owners.0).run() || group.is_homogeneous() {
                break;
            }
            let even = uniform::from(group, &owners.0);
            if even == owners {
                break;
            }
            owners = even;
        }
        owners
    }
}

struct Exchange<'a> {
    group: &'a Spec,
    zones: &'a Zones,
    owners: &'a mut [u32],
    topic_of: Vec<u32>,
    sizes: Vec<u32>,
    /// Zone → its members, the least loaded first. Members without a zone come last, in a zone of their own.
    by_load: Vec<BTreeSet<(u32, u32)>>,
    pools: Pools,
}

impl<'a> Exchange<'a> {
    fn new(group: &'a Spec, zones: &'a Zones, owners: &'a mut [u32]) -> Self {
        let highest = zones.sets.iter().flatten().chain(zones.of_member.iter().filter(|z| **z != NOWHERE)).max();
        let count = highest.map_or(0, |z| *z as usize + 1) + 1;
        let mut topic_of = vec![0; group.partitions()];
        for t in 0..group.topics() as u32 {
            topic_of[group.of_topic(t)].fill(t);
        }
        let mut e = Self {
            group,
            zones,
            topic_of,
            sizes: vec![0; group.members()],
            by_load: vec![BTreeSet::new(); count],
            pools: Pools::new(count, zones.sets.len(), group.partitions()),
            owners,
        };
        for p in 0..e.owners.len() {
            if e.owners[p] != NOBODY {
                e.sizes[e.owners[p] as usize] += 1;
                e.pools.put(p, e.pool_of(p));
            }
        }
        for m in 0..group.members() as u32 {
            let zone = e.zone_of(m);
            e.by_load[zone].insert((e.sizes[m as usize], m));
        }
        e
    }

    /// Passes over all partitions until a pass brings none nearer. Each change brings one nearer, so this ends. Returns whether anything changed.
    fn run(&mut self) -> bool {
        let mut changed_ever = false;
        loop {
            let mut changed = false;
            for p in 0..self.owners.len() {
                let owner = self.owners[p];
                if owner == NOBODY || self.zones.near(owner, p) {
                    continue;
                }
                if let Some(to) = self.lighter(p, owner) {
                    self.give(p, to);
                } else if let Some(other) = self.partner(p, owner) {
                    let to = self.owners[other];
                    self.give(other, owner);
                    self.give(p, to);
                } else {
                    continue;
                }
                changed = true;
            }
            changed_ever |= changed;
            if !changed {
                return changed_ever;
            }
        }
    }

    /// A member near to `p` that has fewer partitions than the owner.
    fn lighter(&self, p: usize, owner: u32) -> Option<u32> {
        let limit = self.sizes[owner as usize];
        let in_zone = |zone: usize| self.by_load[zone].iter().take(LOOK_MAX).take_while(|(size, _)| *size < limit).find(|(_, m)| self.may_have(*m, p));
        self.zones_near(p).filter_map(in_zone).min().map(|(_, m)| *m)
    }

    /// A partition of a member near to `p` that `owner` may have instead without making things worse: best one that is brought near by this as well, and
    /// better one that has not been with its member before than one that has.
    fn partner(&self, p: usize, owner: u32) -> Option<usize> {
        let home = self.zones.of_member[owner as usize];
        for gain_both in [true, false] {
            for zone in self.zones_near(p) {
                let there = if zone + 1 == self.by_load.len() { NOWHERE } else { zone as u32 };
                for set in 0..self.zones.sets.len() as u32 {
                    let (here_near, there_near) = (self.zones.zone_near_set(home, set), self.zones.zone_near_set(there, set));
                    if there_near && !here_near || gain_both != (here_near && !there_near) {
                        continue;
                    }
                    let fits = |q: &usize| self.may_have(owner, *q) && self.may_have(self.owners[*q], p);
                    if let Some(q) = self.pools.candidates(zone, set).take(LOOK_MAX).find(fits) {
                        return Some(q);
                    }
                }
            }
        }
        None
    }

    fn give(&mut self, p: usize, to: u32) {
        let from = self.owners[p];
        for (member, change) in [(from, -1), (to, 1)] {
            let zone = self.zone_of(member);
            let size = &mut self.sizes[member as usize];
            self.by_load[zone].remove(&(*size, member));
            *size = size.saturating_add_signed(change);
            self.by_load[zone].insert((*size, member));
        }
        self.pools.take(p);
        self.owners[p] = to;
        self.pools.put(p, self.pool_of(p));
    }

    /// The zone of the owner, the set of the partition, and whether the partition was there before.
    fn pool_of(&self, p: usize) -> (usize, u32, bool) { (self.zone_of(self.owners[p]), self.zones.set_of[p], self.owners[p] == self.group.previous()[p]) }

    fn zone_of(&self, member: u32) -> usize {
        match self.zones.of_member[member as usize] {
            NOWHERE => self.by_load.len() - 1,
            zone => zone as usize,
        }
    }

    /// The zones whose members are near to a partition that is in some zone.
    fn zones_near(&self, p: usize) -> impl Iterator<Item = usize> + '_ {
        self.zones.sets[self.zones.set_of[p] as usize].iter().map(|z| *z as usize).chain([self.by_load.len() - 1])
    }

    fn may_have(&self, member: u32, p: usize) -> bool { self.group.is_homogeneous() || self.group.subscribes(member, self.topic_of[p]) }
}
