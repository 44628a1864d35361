//! Sticky assignment for equal subscriptions. Each member is due `least` partitions, and `extras` members one more (`most`). Members first keep what they
//! own up to that, and then the rest is dealt out in a circle, first to those below `least`, then to those at `least`. Where racks matter, only near
//! partitions are kept, and a first circle deals out what is near.

use super::{super::racks::Racks, claims::Claims};
use crate::assign::spec::{NOBODY, Owners, Spec};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The owners, and the partitions that change owner.
pub(super) fn assign(spec: &Spec, racks: &Racks, claims: &Claims) -> (Owners, BTreeSet<usize>) {
    let partitions: Vec<usize> = spec.subscription(0).iter().flat_map(|t| spec.of_topic(*t)).collect();
    let racks_matter = racks.matter(0..spec.members() as u32, partitions.iter().copied());
    let mut deal = Deal {
        least: partitions.len() / spec.members(),
        most: partitions.len().div_ceil(spec.members()),
        extras: partitions.len() % spec.members(),
        owners: vec![NOBODY; spec.partitions()],
        sizes: vec![0; spec.members()],
        below: Vec::new(),
        at_least: VecDeque::new(),
        given_up: BTreeMap::new(),
        moving: BTreeSet::new(),
        claims,
    };
    deal.keep(spec, |m, p| !racks_matter || racks.near(m, p));
    let mut free: Vec<usize> = partitions.into_iter().filter(|p| deal.owners[*p] == NOBODY).collect();
    if (0..spec.members() as u32).any(|m| racks.of_member(m).is_some()) {
        // Those with the least choice first.
        let near = racks.members_near();
        free.sort_by_cached_key(|p| near(*p));
    }
    if racks_matter {
        deal.near(&mut free, racks);
    }
    deal.rest(&free);
    (Owners(deal.owners), deal.moving)
}

struct Deal<'a> {
    least: usize,
    most: usize,
    /// How many members may still get more than `least`.
    extras: usize,
    owners: Vec<u32>,
    sizes: Vec<usize>,
    /// Members with fewer than `least`.
    below: Vec<u32>,
    /// Members with `least` that may get one more.
    at_least: VecDeque<u32>,
    /// Partitions whose owner does not keep them.
    given_up: BTreeMap<usize, u32>,
    moving: BTreeSet<usize>,
    claims: &'a Claims,
}

impl Deal<'_> {
    /// Members keep what they own, the low partition numbers of all topics first, up to their due.
    fn keep(&mut self, spec: &Spec, near: impl Fn(u32, usize) -> bool) {
        let mut owned: Vec<Vec<(usize, usize)>> = vec![Vec::new(); spec.members()];
        for topic in spec.subscription(0) {
            for (p, within) in spec.of_topic(*topic).zip(0..) {
                let Some(mine) = owned.get_mut(self.claims.owner[p] as usize) else { continue };
                if near(self.claims.owner[p], p) {
                    mine.push((within, p));
                } else {
                    self.given_up.insert(p, self.claims.owner[p]);
                }
            }
        }
        for (mut mine, member) in owned.into_iter().zip(0u32..) {
            mine.sort_unstable();
            mine.retain(|(_, p)| !self.claims.disputed.contains(p));
            let due = if mine.len() < self.least {
                self.below.push(member);
                mine.len()
            } else if mine.len() >= self.most && self.extras > 0 {
                self.take_extra();
                self.most
            } else {
                if self.extras > 0 {
                    self.at_least.push_back(member);
                }
                self.least
            };
            for (i, (_, p)) in mine.into_iter().enumerate() {
                if i < due {
                    self.owners[p] = member;
                    self.sizes[member as usize] += 1;
                } else {
                    self.given_up.insert(p, member);
                }
            }
        }
    }

    fn take_extra(&mut self) {
        self.extras -= 1;
        if self.extras == 0 {
            self.at_least.clear();
        }
    }

    /// Deals out in a circle what a member below `least`, or else one at `least`, has near; takes it off `free`.
    fn near(&mut self, free: &mut Vec<usize>, racks: &Racks) {
        let mut turn = 0;
        free.retain(|&p| {
            let around = (0..self.below.len()).map(|i| (turn + i) % self.below.len()).find(|i| racks.on_rack(self.below[*i], p));
            let member = if let Some(mut i) = around {
                let member = self.below[i];
                let size = self.sizes[member as usize] + 1;
                if size >= self.least {
                    self.below.remove(i);
                    if size < self.most && self.extras > 0 {
                        self.at_least.push_back(member);
                    }
                } else {
                    i += 1;
                }
                turn = if self.below.is_empty() { 0 } else { i % self.below.len() };
                member
            } else {
                let Some(i) = self.at_least.iter().position(|m| racks.on_rack(*m, p)) else { return true };
                let member = self.at_least[i];
                if self.sizes[member as usize] + 1 == self.most {
                    self.at_least.remove(i);
                    self.take_extra();
                }
                member
            };
            self.give(p, member);
            false
        });
    }

    /// Deals out the rest in a circle.
    fn rest(&mut self, free: &[usize]) {
        let mut turn = 0;
        for &p in free {
            if self.below.is_empty() {
                // The quotas add up to the number of partitions, so somebody is left.
                let Some(member) = self.at_least.pop_front() else { return };
                self.give(p, member);
                continue;
            }
            turn %= self.below.len();
            let member = self.below[turn];
            self.give(p, member);
            if self.sizes[member as usize] == self.least {
                self.below.remove(turn);
                self.at_least.push_back(member);
            } else {
                turn += 1;
            }
        }
    }

    fn give(&mut self, p: usize, member: u32) {
        self.owners[p] = member;
        self.sizes[member as usize] += 1;
        if self.given_up.get(&p).is_some_and(|from| *from != member) || self.claims.disputed.contains(&p) {
            self.moving.insert(p);
        }
    }
}
