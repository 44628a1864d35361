//! `uniform` for unequal subscriptions, in three steps: keep what is still subscribed; give each free partition to its least loaded subscriber, the
//! topics with the least choice first; then, topic by topic, move partitions from the most to the least loaded subscriber until no topic
//! gets more even, or the passes are used up. Balance is best effort here: overlapping subscriptions can need moves through a third member.

use super::levels::Levels;
use crate::assign::{
    spec::{NOBODY, Owners, Spec},
    subscribers::Subscribers,
};

/// Passes over all topics before an assignment counts as even enough. With disjoint groups of equal subscriptions two are needed.
const PASSES_MAX: usize = 16;

pub(super) fn assign(group: &Spec, previous: &[u32]) -> Owners {
    let mut owners = kept(group, previous);
    let mut sizes = vec![0u32; group.members()];
    for owner in owners.iter().filter(|o| **o != NOBODY) {
        sizes[*owner as usize] += 1;
    }
    let subscribers = Subscribers::of(group);
    let order = order(group, &subscribers);
    let mut levels = Levels::new(sizes);
    for &topic in &order {
        levels.fill(subscribers.of_topic(topic), group.of_topic(topic), &mut owners);
    }
    balance(group, &subscribers, &order, &mut levels, &mut owners);
    Owners(owners)
}

/// The previous owners that still subscribe.
fn kept(group: &Spec, previous: &[u32]) -> Vec<u32> {
    let mut owners = vec![NOBODY; group.partitions()];
    for topic in 0..group.topics() as u32 {
        let mut last = (NOBODY, false);
        for p in group.of_topic(topic) {
            let before = previous[p];
            if before == NOBODY {
                continue;
            }
            // Neighbouring partitions often have the same owner.
            if before != last.0 {
                last = (before, group.subscribes(before, topic));
            }
            if last.1 {
                owners[p] = before;
            }
        }
    }
    owners
}

/// The subscribed topics, those first that have many partitions for few subscribers.
fn order(group: &Spec, subscribers: &Subscribers) -> Vec<u32> {
    let mut topics: Vec<(f64, usize, u32)> = (0..group.topics() as u32)
        .map(|t| (group.of_topic(t).len() as f64, subscribers.of_topic(t).len(), t))
        .filter(|(_, members, _)| *members > 0)
        .map(|(partitions, members, t)| (partitions / members as f64, members, t))
        .collect();
    topics.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
    topics.into_iter().map(|(_, _, t)| t).collect()
}

/// Passes over the topics until one whole round has moved nothing.
fn balance(group: &Spec, subscribers: &Subscribers, order: &[u32], levels: &mut Levels, owners: &mut [u32]) {
    let topics: Vec<u32> = order.iter().copied().filter(|t| subscribers.of_topic(*t).len() >= 2).collect();
    // The topic at which a round without moves will be complete.
    let mut stop_at: Option<usize> = None;
    for _ in 0..PASSES_MAX {
        for (i, &topic) in topics.iter().enumerate() {
            if stop_at == Some(i) {
                return;
            }
            let moved = levels.even_out(subscribers.of_topic(topic), group.of_topic(topic), owners);
            if moved > 0 || stop_at.is_none() {
                stop_at = Some(i);
            }
        }
    }
}
