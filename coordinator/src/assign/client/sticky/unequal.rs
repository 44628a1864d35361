//! Sticky assignment for unequal subscriptions: keep what is owned, subscribed and, where racks matter, near; give each free partition to the
//! least loaded subscriber; then move single partitions while that makes the assignment more even. If the result is not more even after all, it is undone.

use super::{super::racks::Racks, super::subscribers, claims::Claims, movements::Movements};
use crate::assign::spec::{NOBODY, Owners, Spec};
use std::collections::BTreeSet;

/// Who may get a partition back that it had in an older generation.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GoesBackTo {
    /// As in Kafka: also one that does not subscribe any more. Mostly the partition moves on from there.
    Anybody,
    Subscribers,
}

/// Agrees with Kafka wherever Kafka's result is valid; where it leaves a partition with a member that does not subscribe, ours does not.
pub(super) fn assign(spec: &Spec, racks: &Racks, claims: &Claims) -> Owners {
    let owners = balanced(spec, racks, claims, GoesBackTo::Anybody);
    let valid = (0..spec.topics() as u32).all(|t| owners.0[spec.of_topic(t)].iter().all(|o| *o == NOBODY || spec.subscribes(*o, t)));
    if valid { owners } else { balanced(spec, racks, claims, GoesBackTo::Subscribers) }
}

fn balanced(spec: &Spec, racks: &Racks, claims: &Claims, goes_back_to: GoesBackTo) -> Owners {
    let subscribers = subscribers(spec);
    let topics: Vec<u32> = (0..spec.topics() as u32).filter(|t| !subscribers[*t as usize].is_empty()).collect();
    let racks_matter = racks.matter(0..spec.members() as u32, topics.iter().flat_map(|t| spec.of_topic(*t)));
    let mut topic_of = vec![0; spec.partitions()];
    for t in &topics {
        topic_of[spec.of_topic(*t)].fill(*t);
    }
    let mut balancer = Balancer {
        spec,
        topics: topics.clone(),
        subscribers,
        topic_of,
        owners: vec![NOBODY; spec.partitions()],
        sizes: vec![0; spec.members()],
        by_load: BTreeSet::new(),
        movements: Movements::default(),
        claims,
        goes_back_to,
        suspect: 0,
    };
    balancer.run(racks, racks_matter);
    Owners(balancer.owners)
}

struct Balancer<'a> {
    spec: &'a Spec,
    /// The subscribed ones.
    topics: Vec<u32>,
    /// Topic → its subscribers.
    subscribers: Vec<Vec<u32>>,
    topic_of: Vec<u32>,
    owners: Vec<u32>,
    sizes: Vec<usize>,
    /// The members that can take part in moves, the least loaded first.
    by_load: BTreeSet<(usize, u32)>,
    movements: Movements,
    claims: &'a Claims,
    goes_back_to: GoesBackTo,
    /// Where in `topics` the last uneven topic was found.
    suspect: usize,
}

impl Balancer<'_> {
    fn run(&mut self, racks: &Racks, racks_matter: bool) {
        let lost = self.keep(|m, p| !racks_matter || racks.near(m, p));
        self.by_load = self.sizes.iter().copied().zip(0u32..).collect();
        let was_empty = self.sizes.iter().all(|s| *s == 0);

        let mut all = self.topics.clone();
        all.sort_by_key(|t| (self.subscribers[*t as usize].len(), *t));
        let mut all: Vec<usize> = all.into_iter().flat_map(|t| self.spec.of_topic(t)).collect();
        let mut free: Vec<usize> = all.iter().copied().filter(|p| self.owners[*p] == NOBODY).collect();
        if racks_matter {
            self.give(&free, |m, p| racks.near(m, p));
        }
        self.give(&free, |_, _| true);

        // Only what has two takers can move, and only who shares some of it takes part.
        let movable = |p: &usize| self.subscribers[self.topic_of[*p] as usize].len() >= 2;
        all.retain(movable);
        free.retain(movable);
        let fixed: Vec<u32> = (0..self.spec.members() as u32).filter(|m| self.is_fixed(*m)).collect();
        for m in &fixed {
            self.by_load.remove(&(self.sizes[*m as usize], *m));
        }

        let before = (self.owners.clone(), self.sizes.clone());
        if !lost {
            self.even_out(&free);
        }
        let moved = self.even_out(&all);
        if !was_empty && moved && score(&self.sizes, &fixed) >= score(&before.1, &fixed) {
            (self.owners, self.sizes) = before;
        }
    }

    /// Keeps what its owner may keep. Returns whether somebody lost a partition that still exists.
    fn keep(&mut self, near: impl Fn(u32, usize) -> bool) -> bool {
        let mut lost = false;
        for t in &self.topics {
            for p in self.spec.of_topic(*t) {
                let owner = self.claims.owner[p];
                if owner == NOBODY {
                    continue;
                }
                if self.spec.subscribes(owner, *t) && near(owner, p) {
                    self.owners[p] = owner;
                    self.sizes[owner as usize] += 1;
                } else {
                    lost = true;
                }
            }
        }
        lost
    }

    /// Gives free partitions to their least loaded subscribers, of those that may have them.
    fn give(&mut self, free: &[usize], may: impl Fn(u32, usize) -> bool) {
        for &p in free.iter() {
            if self.owners[p] != NOBODY {
                continue;
            }
            if let Some((size, member)) = self.by_load.iter().copied().find(|(_, m)| self.spec.subscribes(*m, self.topic_of[p]) && may(*m, p)) {
                self.by_load.remove(&(size, member));
                self.by_load.insert((size + 1, member));
                self.sizes[member as usize] += 1;
                self.owners[p] = member;
            }
        }
    }

    /// Has all that it can have, and nobody else could have any of it.
    fn is_fixed(&self, member: u32) -> bool {
        let topics = self.spec.subscription(member);
        let possible: usize = topics.iter().map(|t| self.spec.of_topic(*t).len()).sum();
        self.sizes[member as usize] >= possible && topics.iter().all(|t| self.spec.of_topic(*t).is_empty() || self.subscribers[*t as usize].len() < 2)
    }

    /// Passes over the partitions until a pass moves nothing or all is even. Returns whether anything moved.
    fn even_out(&mut self, partitions: &[usize]) -> bool {
        let mut moved_ever = false;
        loop {
            let mut moved = false;
            let mut even = self.is_even();
            for &p in partitions {
                if even {
                    break;
                }
                if let Some(to) = self.better_owner(p) {
                    self.relocate(p, to);
                    moved = true;
                    even = self.is_even();
                }
            }
            moved_ever |= moved;
            if !moved {
                return moved_ever;
            }
        }
    }

    /// Who would be better off with a partition: an owner of old, or else the least loaded subscriber.
    fn better_owner(&self, p: usize) -> Option<u32> {
        let topic = self.topic_of[p];
        let load = self.sizes[self.owners[p] as usize];
        let lighter = |m: u32| load > self.sizes[m as usize] + 1;
        if let Some(&old) = self.claims.stale.get(&p)
            && (self.goes_back_to == GoesBackTo::Anybody || self.spec.subscribes(old, topic))
            && self.by_load.contains(&(self.sizes[old as usize], old))
            && lighter(old)
        {
            return Some(old);
        }
        if !self.subscribers[topic as usize].iter().any(|m| lighter(*m)) {
            return None;
        }
        self.by_load.iter().map(|(_, m)| *m).find(|m| self.spec.subscribes(*m, topic))
    }

    /// Moves the partition, or another of its topic whose move makes up for an earlier one.
    fn relocate(&mut self, partition: usize, to: u32) {
        let topic = self.topic_of[partition];
        let p = self.movements.better(topic, partition, self.owners[partition], to);
        let from = self.owners[p];
        self.movements.record(topic, p, from, to);
        for (member, change) in [(from, -1), (to, 1)] {
            let size = &mut self.sizes[member as usize];
            self.by_load.remove(&(*size, member));
            *size = size.saturating_add_signed(change);
            self.by_load.insert((*size, member));
        }
        self.owners[p] = to;
    }

    /// Whether no single move makes it more even: no topic has an owner with two more than one of its subscribers.
    fn is_even(&mut self) -> bool {
        if let (Some((least, _)), Some((most, _))) = (self.by_load.first(), self.by_load.last())
            && most - least <= 1
        {
            return true;
        }
        // Mostly the topic that was uneven before still is.
        let n = self.topics.len();
        for i in (0..n).map(|i| (self.suspect + i) % n) {
            let topic = self.topics[i];
            let most = self.spec.of_topic(topic).map(|p| self.sizes[self.owners[p] as usize]).max().unwrap_or(0);
            let least = self.subscribers[topic as usize].iter().map(|m| self.sizes[*m as usize]).min().unwrap_or(0);
            if most > least + 1 {
                self.suspect = i;
                return false;
            }
        }
        true
    }
}

/// The sum of the differences of all pairs of members that take part: less is more even.
fn score(sizes: &[usize], fixed: &[u32]) -> usize {
    let mut sizes: Vec<usize> = (0u32..).zip(sizes).filter(|(m, _)| fixed.binary_search(m).is_err()).map(|(_, s)| *s).collect();
    sizes.sort_unstable();
    // In ascending order each size is added once per smaller one and taken away once per greater one.
    let (mut sum, mut score) = (0, 0);
    for (i, s) in sizes.into_iter().enumerate() {
        score += s * i - sum;
        sum += s;
    }
    score
}
