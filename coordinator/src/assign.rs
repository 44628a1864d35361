//! Target assignments: plain data in, plain data out. Deterministic; members and partitions are visited in ascending order.
//! Stickiness is relative to the previous target, not to what is owned just now (KIP-848 §7).

use crate::{ids::*, metadata::TopicFacts, state::Group};
use std::collections::{BTreeMap, BTreeSet};

/// Member → its partitions.
pub type Assignment = BTreeMap<MemberId, BTreeSet<Partition>>;
/// The names of the assignors; the first is the default.
pub const ASSIGNORS: [&str; 2] = ["uniform", "range"];

/// What an assignor sees.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Member → the topics it subscribes to.
    pub subscriptions: BTreeMap<MemberId, BTreeSet<TopicName>>,
    /// Topics that exist → partition count.
    pub topics: BTreeMap<TopicName, i32>,
    /// The target so far.
    pub previous: Assignment,
}
impl Input {
    /// The input that a group gives.
    pub fn of(g: &Group, topics: &BTreeMap<TopicName, TopicFacts>) -> Self {
        Self {
            subscriptions: g.members.iter().map(|(id, m)| (id.clone(), m.subscribed.clone())).collect(),
            topics: topics.iter().map(|(t, f)| (t.clone(), f.partitions)).collect(),
            previous: g.target.clone(),
        }
    }
    fn subscribers(&self, topic: &TopicName) -> Vec<&MemberId> { self.subscriptions.iter().filter(|(_, s)| s.contains(topic)).map(|(m, _)| m).collect() }
}

/// Runs the assignor `name`; unknown names are refused where they enter.
pub fn assign(name: &str, input: &Input) -> Assignment { if name == "range" { range(input) } else { uniform(input) } }

/// Each topic by itself, spread evenly over its subscribers; who had a partition of it keeps it up to its share.
pub fn range(input: &Input) -> Assignment {
    let mut out: Assignment = input.subscriptions.keys().map(|m| (m.clone(), BTreeSet::new())).collect();
    for (topic, count) in &input.topics {
        let partitions: Vec<Partition> = (0..*count).map(|p| Partition::new(topic.clone(), p)).collect();
        for (m, p) in share(&input.subscribers(topic), &partitions, &input.previous) {
            out.entry(m).or_default().insert(p);
        }
    }
    out
}

/// All partitions of all topics together, spread evenly: with equal subscriptions no two members differ by more than one.
pub fn uniform(input: &Input) -> Assignment {
    let mut sets = input.subscriptions.values();
    let first = sets.next();
    if sets.all(|s| Some(s) == first) { homogeneous(input) } else { heterogeneous(input) }
}

fn homogeneous(input: &Input) -> Assignment {
    let mut out: Assignment = input.subscriptions.keys().map(|m| (m.clone(), BTreeSet::new())).collect();
    let Some(topics) = input.subscriptions.values().next() else { return out };
    let partitions: Vec<Partition> =
        topics.iter().filter_map(|t| input.topics.get(t).map(|n| (t, n))).flat_map(|(t, n)| (0..*n).map(|p| Partition::new(t.clone(), p))).collect();
    let members: Vec<&MemberId> = input.subscriptions.keys().collect();
    for (m, p) in share(&members, &partitions, &input.previous) {
        out.entry(m).or_default().insert(p);
    }
    out
}

/// Splits `partitions` over `members` with shares that differ by at most one; members keep what they had up to their share.
fn share(members: &[&MemberId], partitions: &[Partition], previous: &Assignment) -> Vec<(MemberId, Partition)> {
    if members.is_empty() {
        return Vec::new();
    }
    let (floor, mut extras) = (partitions.len() / members.len(), partitions.len() % members.len());
    let all: BTreeSet<&Partition> = partitions.iter().collect();
    let mut free: BTreeSet<&Partition> = all.clone();
    let mut kept: BTreeMap<&MemberId, usize> = BTreeMap::new();
    let mut out = Vec::with_capacity(partitions.len());
    for m in members {
        let mine: Vec<&Partition> = previous.get(*m).into_iter().flatten().filter(|p| free.contains(p)).collect();
        // A member that already has more than the floor takes one of the larger shares, so that nothing moves needlessly.
        let mut quota = floor;
        if mine.len() > floor && extras > 0 {
            quota += 1;
            extras -= 1;
        }
        for p in mine.into_iter().take(quota) {
            free.remove(p);
            out.push(((*m).clone(), p.clone()));
            *kept.entry(*m).or_default() += 1;
        }
    }
    let mut free = free.into_iter();
    for m in members {
        let have = kept.get(m).copied().unwrap_or(0);
        let mut quota = floor;
        if have <= floor && extras > 0 {
            quota += 1;
            extras -= 1;
        }
        out.extend(free.by_ref().take(quota.saturating_sub(have)).map(|p| ((*m).clone(), p.clone())));
    }
    out
}

/// Unequal subscriptions: keep what is valid, give the rest to the least loaded subscriber, then move single partitions while that evens out.
fn heterogeneous(input: &Input) -> Assignment {
    let mut out: Assignment = input.subscriptions.keys().map(|m| (m.clone(), BTreeSet::new())).collect();
    let mut owner: BTreeMap<Partition, MemberId> = BTreeMap::new();
    for (m, topics) in &input.subscriptions {
        for p in input.previous.get(m).into_iter().flatten() {
            let valid = topics.contains(&p.topic) && input.topics.get(&p.topic).is_some_and(|n| p.partition < *n);
            if valid && !owner.contains_key(p) {
                owner.insert(p.clone(), m.clone());
                out.entry(m.clone()).or_default().insert(p.clone());
            }
        }
    }
    let subscribers: BTreeMap<&TopicName, Vec<&MemberId>> = input.topics.keys().map(|t| (t, input.subscribers(t))).collect();
    let lightest = |out: &Assignment, topic: &TopicName| subscribers.get(topic).and_then(|s| s.iter().min_by_key(|m| out.get(**m).map_or(0, BTreeSet::len)).map(|m| (*m).clone()));
    // Topics with few subscribers first: they have the least choice.
    let mut topics: Vec<(&TopicName, &i32)> = input.topics.iter().collect();
    topics.sort_by_key(|(t, _)| subscribers.get(t).map_or(0, Vec::len));
    for (t, n) in topics {
        for p in (0..*n).map(|p| Partition::new(t.clone(), p)) {
            if owner.contains_key(&p) {
                continue;
            }
            if let Some(m) = lightest(&out, t) {
                out.entry(m.clone()).or_default().insert(p.clone());
                owner.insert(p, m);
            }
        }
    }
    // Each move lowers the sum of squares, so this ends.
    loop {
        let mut moved = false;
        for (p, m) in owner.iter_mut() {
            let Some(to) = lightest(&out, &p.topic) else { continue };
            if out.get(&to).map_or(0, BTreeSet::len) + 1 < out.get(m).map_or(0, BTreeSet::len) {
                out.entry(m.clone()).or_default().remove(p);
                out.entry(to.clone()).or_default().insert(p.clone());
                *m = to;
                moved = true;
            }
        }
        if !moved {
            return out;
        }
    }
}
