//! `weighted`: partitions have weights, members capacities, and a rebalance a bound on moves. What counts is a member's load, the sum of its weights,
//! relative to its capacity.
//!
//! Members keep what they have. Free partitions, the heaviest first, go where the load will be least. Then, as long as the bound allows, partitions move
//! from the most loaded members wherever the receiver ends up less loaded than the giver was. Without a bound, no such move is left at the end, up to
//! `PASSES_MAX`; with equal weights, capacities and subscriptions members so differ by at most one. Free partitions are given whatever the bound.

mod ranking;

use super::{
    Assignor,
    preferences::Loads,
    spec::{NOBODY, Owners, Spec},
    subscribers::Subscribers,
};
use ranking::Ranking;
use std::cmp::Reverse;

/// Passes over all members. Every move lowers the greater of two loads, so they end by themselves; this bounds the time.
const PASSES_MAX: usize = 64;
/// A topic with no more subscribers than this has them compared one by one; with more, the least loaded members are asked first.
const FEW: usize = 64;

pub struct Weighted;

impl Assignor for Weighted {
    fn name(&self) -> &'static str { "weighted" }

    fn assign(&self, group: &Spec) -> Owners {
        let equal;
        let loads = match group.loads() {
            Some(loads) => loads,
            None => {
                equal = Loads::equal(group.members(), group.partitions());
                &equal
            }
        };
        let mut run = Run::new(group, loads);
        run.give_free();
        run.even_out();
        Owners(run.owners)
    }
}

struct Run<'a> {
    group: &'a Spec,
    loads: &'a Loads,
    owners: Vec<u32>,
    /// Partition → its owner before, if that one may keep it.
    before: Vec<u32>,
    topic_of: Vec<u32>,
    subscribers: Subscribers,
    ranking: Ranking,
    moves: usize,
}

impl<'a> Run<'a> {
    fn new(group: &'a Spec, loads: &'a Loads) -> Self {
        let mut before = vec![NOBODY; group.partitions()];
        let mut topic_of = vec![0; group.partitions()];
        for t in 0..group.topics() as u32 {
            for p in group.of_topic(t) {
                topic_of[p] = t;
                let owner = group.previous()[p];
                if owner != NOBODY && group.subscribes(owner, t) {
                    before[p] = owner;
                }
            }
        }
        let mut run = Self {
            owners: vec![NOBODY; group.partitions()],
            subscribers: Subscribers::of(group),
            ranking: Ranking::new(&loads.capacities),
            moves: 0,
            group,
            loads,
            before,
            topic_of,
        };
        for p in 0..run.before.len() {
            if run.before[p] != NOBODY {
                run.put(p, run.before[p]);
            }
        }
        run
    }

    fn give_free(&mut self) {
        let mut free: Vec<usize> = (0..self.owners.len()).filter(|p| self.owners[*p] == NOBODY).collect();
        free.sort_by_key(|p| (Reverse(self.loads.weights[*p]), *p));
        for p in free {
            // Nobody: no member subscribes.
            if let Some(to) = self.best(p) {
                self.put(p, to);
            }
        }
    }

    /// Visits the members from the most to the least loaded, again and again until none can give.
    fn even_out(&mut self) {
        // Member → its partitions, the heaviest last.
        let mut held: Vec<Vec<(u32, u32)>> = vec![Vec::new(); self.group.members()];
        for (p, owner) in (0u32..).zip(&self.owners).filter(|(_, o)| **o != NOBODY) {
            held[*owner as usize].push((self.loads.weights[p as usize], p));
        }
        held.iter_mut().for_each(|h| h.sort_unstable());
        for _ in 0..PASSES_MAX {
            let mut moved = false;
            for from in self.ranking.most_loaded_first() {
                while let Some((at, to)) = self.relief(from, &held[from as usize]) {
                    let item = held[from as usize].remove(at);
                    let place = held[to as usize].partition_point(|other| *other < item);
                    held[to as usize].insert(place, item);
                    self.count_move(item.1 as usize, from, to);
                    self.ranking.add(from, -i64::from(item.0));
                    self.put(item.1 as usize, to);
                    moved = true;
                }
            }
            if !moved {
                return;
            }
        }
    }

    /// The heaviest of the partitions that `from` holds that is better off elsewhere: its place, and where.
    fn relief(&self, from: u32, held: &[(u32, u32)]) -> Option<(usize, u32)> {
        let better = |(at, (weight, p)): (usize, &(u32, u32))| {
            let to = self.best(*p as usize)?;
            (to != from && self.ranking.less_loaded(to, *weight, from) && self.allowed(*p as usize, from, to)).then_some((at, to))
        };
        held.iter().enumerate().rev().find_map(better)
    }

    /// The subscriber that would be least loaded with `p`. If that is the owner, nobody is better off with it.
    fn best(&self, p: usize) -> Option<u32> {
        let topic = self.topic_of[p];
        let subscribers = self.subscribers.of_topic(topic);
        if subscribers.len() <= FEW {
            self.ranking.least_loaded_of(subscribers, self.loads.weights[p])
        } else {
            self.ranking.least_loaded_with(self.loads.weights[p], |m| self.group.is_homogeneous() || self.group.subscribes(m, topic))
        }
    }

    fn allowed(&self, p: usize, from: u32, to: u32) -> bool { self.before[p] != from || self.before[p] == to || self.moves < self.loads.moves_max }

    /// A partition that leaves its old owner is a move; one that comes back to it is none any more.
    fn count_move(&mut self, p: usize, from: u32, to: u32) {
        if from == self.before[p] {
            self.moves += 1;
        } else if to == self.before[p] {
            self.moves -= 1;
        }
    }

    fn put(&mut self, p: usize, to: u32) {
        self.owners[p] = to;
        self.ranking.add(to, i64::from(self.loads.weights[p]));
    }
}
