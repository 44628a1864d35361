//! `range`: each topic by itself is cut into contiguous ranges, one per subscriber, in the order static members by instance id, then dynamic ones by
//! member id. The first `partitions % subscribers` get one more. Members with equal subscriptions so get equal ranges of topics with equal counts
//! (co-partitioning). It looks at no earlier target: static members keep their ranges because they keep their place.

use super::{
    Assignor,
    spec::{NOBODY, Owners, Spec},
};

pub struct Range;

impl Assignor for Range {
    fn name(&self) -> &'static str { "range" }

    fn assign(&self, group: &Spec) -> Owners {
        let mut owners = vec![NOBODY; group.partitions()];
        let mut cuts = cuts(group);
        // What is left to give of each distinct subscription; a topic without rest is dropped, so that the many members behind are quickly done.
        let mut open: Vec<Vec<u32>> = group.subscriptions().to_vec();
        for &member in group.static_first() {
            open[group.subscription_of(member) as usize].retain(|&topic| {
                let cut = &mut cuts[topic as usize];
                let end = cut.next_end();
                owners[cut.next..end].fill(member);
                cut.next = end;
                end < cut.end
            });
        }
        Owners(owners)
    }
}

/// How a topic is cut, and how far it has been given away.
struct Cut {
    next: usize,
    end: usize,
    /// What every subscriber gets.
    quota: usize,
    /// How many subscribers still get one more.
    extras: usize,
}
impl Cut {
    fn next_end(&mut self) -> usize {
        let mut length = self.quota;
        if self.extras > 0 {
            length += 1;
            self.extras -= 1;
        }
        (self.next + length).min(self.end)
    }
}

fn cuts(group: &Spec) -> Vec<Cut> {
    let mut members_with = vec![0usize; group.subscriptions().len()];
    for m in 0..group.members() as u32 {
        members_with[group.subscription_of(m) as usize] += 1;
    }
    let mut subscribers = vec![0usize; group.topics()];
    for (topics, members) in group.subscriptions().iter().zip(members_with) {
        for t in topics {
            subscribers[*t as usize] += members;
        }
    }
    subscribers
        .into_iter()
        .zip(0u32..)
        .map(|(members, topic)| {
            let partitions = group.of_topic(topic);
            // A topic without subscribers is never cut: any divisor will do.
            let members = members.max(1);
            Cut { next: partitions.start, end: partitions.end, quota: partitions.len() / members, extras: partitions.len() % members }
        })
        .collect()
}
