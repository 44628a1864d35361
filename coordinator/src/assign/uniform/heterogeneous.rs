//! `uniform` for unequal subscriptions, in three steps: keep what is still subscribed; give each free partition to its least loaded subscriber, the
//! topics with the least choice first; then, topic by topic, move partitions from the most to the least loaded subscriber until no topic
//! gets more even, or the passes are used up. Balance is best effort here: overlapping subscriptions can need moves through a third member.

use super::levels::Levels;
use crate::assign::spec::{NOBODY, Owners, Spec};

/// Passes over all topics before an assignment counts as even enough. With disjoint groups of equal subscriptions two are needed.
const PASSES_MAX: usize = 16;

pub(super) fn assign(group: &Spec) -> Owners {
    let mut owners = kept(group);
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
fn kept(group: &Spec) -> Vec<u32> {
    let mut owners = vec![NOBODY; group.partitions()];
    for topic in 0..group.topics() as u32 {
        let mut last = (NOBODY, false);
        for p in group.of_topic(topic) {
            let before = group.previous()[p];
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

/// Who subscribes to which topic. Topics with the same subscribers share one list.
struct Subscribers {
    /// Topic → its class.
    class_of: Vec<u32>,
    /// Class → the place of its list in `members`; one more at the end.
    start: Vec<u32>,
    members: Vec<u32>,
}
impl Subscribers {
    fn of(group: &Spec) -> Self {
        let (class_of, classes) = classes(group);
        // A subscription holds a class or nothing of it, so that one topic stands for all of its class.
        let mut first_of_class = vec![u32::MAX; classes];
        for (topic, class) in (0u32..).zip(&class_of) {
            first_of_class[*class as usize] = first_of_class[*class as usize].min(topic);
        }
        let stands = |topic: &&u32| first_of_class[class_of[**topic as usize] as usize] == **topic;
        let held: Vec<Vec<u32>> = if classes == group.topics() {
            Vec::new()
        } else {
            group.subscriptions().iter().map(|topics| topics.iter().filter(stands).copied().collect()).collect()
        };
        let topics_of = |m: u32| held.get(group.subscription_of(m) as usize).map_or_else(|| group.subscription(m), Vec::as_slice);

        let mut start = vec![0u32; classes + 1];
        for m in 0..group.members() as u32 {
            for t in topics_of(m) {
                start[class_of[*t as usize] as usize + 1] += 1;
            }
        }
        for c in 0..classes {
            start[c + 1] += start[c];
        }
        let mut next = start.clone();
        let mut members = vec![0; start[classes] as usize];
        for m in 0..group.members() as u32 {
            for t in topics_of(m) {
                let place = &mut next[class_of[*t as usize] as usize];
                members[*place as usize] = m;
                *place += 1;
            }
        }
        Self { class_of, start, members }
    }

    /// Ascending.
    fn of_topic(&self, topic: u32) -> &[u32] {
        let class = self.class_of[topic as usize] as usize;
        &self.members[self.start[class] as usize..self.start[class + 1] as usize]
    }
}

/// Topic → its class, and how many there are. Two topics are of one class if every subscription holds both or neither: starting from one class, each
/// subscription splits those that it holds in part.
fn classes(group: &Spec) -> (Vec<u32>, usize) {
    let mut class_of = vec![0u32; group.topics()];
    let mut sizes = vec![group.topics() as u32];
    // Per class: how many of its topics the subscription holds, and into which class they go.
    let (mut held, mut split_to) = (vec![0u32], vec![u32::MAX]);
    let mut seen: Vec<u32> = Vec::new();
    for topics in group.subscriptions() {
        if sizes.len() == group.topics() {
            break;
        }
        for t in topics {
            let class = class_of[*t as usize];
            if held[class as usize] == 0 {
                seen.push(class);
            }
            held[class as usize] += 1;
        }
        for &class in &seen {
            if held[class as usize] < sizes[class as usize] {
                split_to[class as usize] = sizes.len() as u32;
                sizes[class as usize] -= held[class as usize];
                sizes.push(held[class as usize]);
                held.push(0);
                split_to.push(u32::MAX);
            }
        }
        for t in topics {
            let class = &mut class_of[*t as usize];
            if split_to[*class as usize] != u32::MAX {
                *class = split_to[*class as usize];
            }
        }
        for class in seen.drain(..) {
            (held[class as usize], split_to[class as usize]) = (0, u32::MAX);
        }
    }
    (class_of, sizes.len())
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
