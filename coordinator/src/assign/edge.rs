//! The edge between names and numbers: `Input` to `Spec`, `Owners` to `Assignment`. The only place where assignors meet maps.

use super::{
    Assignment, Input,
    preferences::{Loads, NOWHERE, Zones},
    spec::{NOBODY, Owners, Spec},
};
use crate::ids::*;
use std::collections::{BTreeMap, BTreeSet};

/// The group in numbers. Topics that do not exist are left out, and so is what the target says of members, topics and partitions that are gone.
pub(super) fn spec(input: &Input) -> Spec {
    let topics = in_order(input);
    let counts: Vec<u32> = topics.iter().map(|(_, n)| u32::try_from(*n).unwrap_or(0)).collect();
    let topic_numbers: BTreeMap<&TopicName, u32> = topics.iter().map(|(t, _)| *t).zip(0..).collect();
    let mut distinct: BTreeMap<&BTreeSet<TopicName>, u32> = BTreeMap::new();
    let mut subscriptions: Vec<Vec<u32>> = Vec::new();
    let mut subscription_of: Vec<u32> = Vec::with_capacity(input.subscriptions.len());
    let mut before: Option<&BTreeSet<TopicName>> = None;
    for wanted in input.subscriptions.values() {
        // Neighbours mostly have the same subscription: one comparison instead of a search.
        let number = match before {
            Some(b) if b == wanted => subscription_of.last().copied().unwrap_or(0),
            _ => *distinct.entry(wanted).or_insert_with(|| {
                let mut numbers: Vec<u32> = wanted.iter().filter_map(|t| topic_numbers.get(t).copied()).collect();
                numbers.sort_unstable();
                subscriptions.push(numbers);
                (subscriptions.len() - 1) as u32
            }),
        };
        subscription_of.push(number);
        before = Some(wanted);
    }
    Spec::new(&counts, subscriptions, subscription_of)
        .and_then(|s| s.with_previous(previous(input, &topics, &topic_numbers)))
        .and_then(|s| s.with_static_first(static_first(input)))
        .and_then(|s| if input.zones.is_empty() { Ok(s) } else { s.with_zones(zones(input)) })
        .and_then(|s| if input.weights.is_empty() && input.capacities.is_empty() && input.moves_max.is_none() { Ok(s) } else { s.with_loads(loads(input)) })
        .map(|s| s.with_mixed(input.mixed))
        .expect("limits keep partitions below 2^32, and every number was drawn from the list that it points into")
}

/// The topics as they are numbered.
fn in_order(input: &Input) -> Vec<(&TopicName, i32)> {
    let mut topics: Vec<(Option<u128>, &TopicName, i32)> = input.topics.iter().map(|(t, n)| (input.ids.get(t).copied(), t, *n)).collect();
    topics.sort_unstable();
    topics.into_iter().map(|(_, t, n)| (t, n)).collect()
}

fn previous(input: &Input, topics: &[(&TopicName, i32)], topic_numbers: &BTreeMap<&TopicName, u32>) -> Vec<u32> {
    let mut total = 0;
    let mut ranges: Vec<(usize, i32)> = Vec::with_capacity(input.topics.len());
    for (_, count) in topics {
        ranges.push((total, *count));
        total += usize::try_from(*count).unwrap_or(0);
    }
    let mut previous = vec![NOBODY; total];
    for (member, number) in input.subscriptions.keys().zip(0u32..) {
        let mut last: Option<(&TopicName, Option<u32>)> = None;
        for p in input.previous.get(member).into_iter().flatten() {
            // A member's partitions come topic by topic: one search per topic.
            let topic = match last {
                Some((t, n)) if *t == p.topic => n,
                _ => topic_numbers.get(&p.topic).copied(),
            };
            last = Some((&p.topic, topic));
            if let Some((start, count)) = topic.map(|t| ranges[t as usize])
                && (0..count).contains(&p.partition)
            {
                let owner = &mut previous[start + p.partition as usize];
                // Should the target name two members, the first keeps it.
                if *owner == NOBODY {
                    *owner = number;
                }
            }
        }
    }
    previous
}

/// Static members by instance id, then dynamic ones by member id.
fn static_first(input: &Input) -> Vec<u32> {
    let mut order: Vec<(bool, Option<&InstanceId>, u32)> = input
        .subscriptions
        .keys()
        .zip(0u32..)
        .map(|(m, number)| {
            let instance = input.instances.get(m);
            (instance.is_none(), instance, number)
        })
        .collect();
    order.sort_unstable();
    order.into_iter().map(|(_, _, number)| number).collect()
}

/// Zones are numbered in the order of their names.
fn zones(input: &Input) -> Zones {
    let names: BTreeSet<&String> = input.racks.values().chain(input.zones.values().flatten()).collect();
    let numbers: BTreeMap<&String, u32> = names.into_iter().zip(0..).collect();
    let nowhere = BTreeSet::new();
    let set_of = |p: &Partition| input.zones.get(p).unwrap_or(&nowhere);
    let distinct: BTreeMap<&BTreeSet<String>, u32> = partitions(input).map(|p| set_of(&p)).collect::<BTreeSet<_>>().into_iter().zip(0..).collect();
    Zones {
        of_member: input.subscriptions.keys().map(|m| input.racks.get(m).map_or(NOWHERE, |r| numbers[r])).collect(),
        sets: distinct.keys().map(|set| set.iter().map(|z| numbers[z]).collect()).collect(),
        set_of: partitions(input).map(|p| distinct[set_of(&p)]).collect(),
    }
}

/// A weight of 0 counts as 1.
fn loads(input: &Input) -> Loads {
    Loads {
        weights: partitions(input).map(|p| input.weights.get(&p).map_or(1, |w| (*w).max(1))).collect(),
        capacities: input.subscriptions.keys().map(|m| input.capacities.get(m).copied().unwrap_or(1)).collect(),
        moves_max: input.moves_max.unwrap_or(usize::MAX),
    }
}

fn partitions(input: &Input) -> impl Iterator<Item = Partition> + '_ { in_order(input).into_iter().flat_map(|(t, n)| (0..n).map(|p| Partition::new(t.clone(), p))) }

/// The assignment by name; members without partitions are listed.
pub(super) fn named(input: &Input, owners: &Owners) -> Assignment {
    let mut lists: Vec<Vec<Partition>> = vec![Vec::new(); input.subscriptions.len()];
    let mut number = 0;
    for (topic, count) in in_order(input) {
        for p in 0..count {
            let owner = owners.0[number];
            if owner != NOBODY {
                lists[owner as usize].push(Partition::new(topic.clone(), p));
            }
            number += 1;
        }
    }
    input.subscriptions.keys().cloned().zip(lists.into_iter().map(|l| l.into_iter().collect())).collect()
}
