//! Subscriptions turned round: which members subscribe to a topic.

use super::spec::Spec;

/// Who subscribes to which topic. Topics with the same subscribers share one list.
pub(super) struct Subscribers {
    /// Topic → its class.
    class_of: Vec<u32>,
    /// Class → the place of its list in `members`; one more at the end.
    start: Vec<u32>,
    members: Vec<u32>,
}
impl Subscribers {
    pub(super) fn of(group: &Spec) -> Self {
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
    pub(super) fn of_topic(&self, topic: u32) -> &[u32] {
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
