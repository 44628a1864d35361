//! Client-side `range`: each topic is cut into contiguous ranges over its subscribers, static members first. Where racks matter, partitions that can be
//! had near are given first, within the same quotas; topics with equal counts and subscribers stay co-partitioned by moving together.

use super::{ClientAssignor, ClientGroup, racks::Racks, subscribers};
use crate::assign::spec::{NOBODY, Owners, Spec};
use std::collections::BTreeMap;

pub struct ClientRange;

impl ClientAssignor for ClientRange {
    fn name(&self) -> &'static str { "range" }

    fn owners(&self, group: &ClientGroup, spec: &Spec) -> Owners {
        let racks = Racks::of(group, spec);
        let mut place = vec![0; spec.members()];
        for (i, m) in spec.static_first().iter().enumerate() {
            place[*m as usize] = i;
        }
        let mut shares: Vec<Share> = Vec::new();
        for (mut members, topic) in subscribers(spec).into_iter().zip(0..) {
            members.sort_unstable_by_key(|m| place[*m as usize]);
            if !members.is_empty() && !spec.of_topic(topic).is_empty() {
                shares.push(Share::new(spec, topic, members, &racks));
            }
        }
        let mut owners = vec![NOBODY; spec.partitions()];
        if shares.iter().any(|s| s.racks_matter) {
            near_first(&mut shares, &racks, &mut owners);
        }
        for share in &mut shares {
            share.give(&mut owners, |_, _| true);
        }
        Owners(owners)
    }
}

/// One topic, its subscribers, and how much each of them may still get.
struct Share {
    partitions: std::ops::Range<usize>,
    /// In the order of their turns.
    members: Vec<u32>,
    given: Vec<usize>,
    quota: usize,
    /// How many members may still get one more than the quota.
    extras: usize,
    racks_matter: bool,
    /// Whether any subscriber names a rack; the topics of such members alone are held together.
    any_rack: bool,
}
impl Share {
    fn new(spec: &Spec, topic: u32, members: Vec<u32>, racks: &Racks) -> Self {
        let partitions = spec.of_topic(topic);
        Self {
            given: vec![0; members.len()],
            quota: partitions.len() / members.len(),
            extras: partitions.len() % members.len(),
            racks_matter: racks.matter(members.iter().copied(), partitions.clone()),
            any_rack: members.iter().any(|m| racks.of_member(*m).is_some()),
            partitions,
            members,
        }
    }

    fn room(&self, turn: usize) -> usize { (self.quota + usize::from(self.extras > 0)).saturating_sub(self.given[turn]) }

    fn count(&mut self, turn: usize, partitions: usize) {
        self.given[turn] += partitions;
        if self.given[turn] > self.quota {
            self.extras = self.extras.saturating_sub(1);
        }
    }

    /// Gives each member in turn its first free partitions that it may have.
    fn give(&mut self, owners: &mut [u32], may: impl Fn(u32, usize) -> bool) {
        for turn in 0..self.members.len() {
            let member = self.members[turn];
            let mine: Vec<usize> = self.partitions.clone().filter(|p| owners[*p] == NOBODY && may(member, *p)).take(self.room(turn)).collect();
            for p in &mine {
                owners[*p] = member;
            }
            if !mine.is_empty() {
                self.count(turn, mine.len());
            }
        }
    }
}

/// Gives away what can be had near, without exceeding anybody's share.
fn near_first(shares: &mut [Share], racks: &Racks, owners: &mut [u32]) {
    let mut together: BTreeMap<(Vec<u32>, usize), Vec<usize>> = BTreeMap::new();
    for (i, share) in shares.iter().enumerate() {
        // Without any rack among the subscribers nothing can be near: such topics wait for the ranges.
        if share.any_rack {
            together.entry((share.members.clone(), share.partitions.len())).or_default().push(i);
        }
    }
    for ((members, count), topics) in together {
        if let [only] = topics.as_slice() {
            if shares[*only].racks_matter {
                shares[*only].give(owners, |m, p| racks.near(m, p));
            }
        } else {
            near_together(shares, &topics, &members, count, racks, owners);
        }
    }
}

/// Partition p of all these topics goes to the first member that is near to each of them and has room in each.
fn near_together(shares: &mut [Share], topics: &[usize], members: &[u32], count: usize, racks: &Racks, owners: &mut [u32]) {
    let mut turns: Vec<usize> = (0..members.len()).collect();
    for p in 0..count {
        let fits = |turn: &usize| topics.iter().all(|t| racks.near(members[*turn], shares[*t].partitions.start + p) && shares[*t].room(*turn) > 0);
        let Some(turn) = turns.iter().copied().find(fits) else { continue };
        for t in topics {
            owners[shares[*t].partitions.start + p] = members[turn];
            shares[*t].count(turn, 1);
        }
        if topics.iter().all(|t| shares[*t].room(turn) == 0) {
            turns.retain(|other| *other != turn);
        }
    }
}
