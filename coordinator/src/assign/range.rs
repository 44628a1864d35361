//! `range`: each topic by itself is cut into contiguous ranges, one per subscriber, in the order static members by instance id, then dynamic ones by
//! member id. The first `partitions % subscribers` get one more. Members with equal subscriptions so get equal ranges of topics with equal counts
//! (co-partitioning). It looks at no earlier target: static members keep their ranges because they keep their place.

use super::{
    Assignor,
    spec::{NOBODY, Owners, Spec},
};
use std::borrow::Cow;

pub struct Range;

impl Assignor for Range {
    fn name(&self) -> &'static str { "range" }

    fn assign(&self, group: &Spec) -> Owners {
        let mut owners = vec![NOBODY; group.partitions()];
        let members_with = members_with(group);
        let mut cuts = cuts(group, &members_with);
        let mut topics_left = cuts.iter().filter(|c| c.next < c.end).count();
        // What is left to give of each distinct subscription; a topic without rest is dropped, so that the many members behind are quickly done. A
        // subscription that only one member has is looked at once: there it stays as it is.
        let mut open: Vec<Cow<'_, [u32]>> = group.subscriptions().iter().map(|s| Cow::Borrowed(s.as_slice())).collect();
        for &member in group.static_first() {
            if topics_left == 0 {
                break;
            }
            let mut give = |topic: u32| {
                let cut = &mut cuts[topic as usize];
                if cut.next == cut.end {
                    return false;
                }
                let end = cut.next_end();
                owners[cut.next..end].fill(member);
                cut.next = end;
                topics_left -= usize::from(end == cut.end);
                end < cut.end
            };
            let subscription = group.subscription_of(member) as usize;
            if members_with[subscription] > 1 {
                open[subscription].to_mut().retain(|topic| give(*topic));
            } else {
                for &topic in open[subscription].iter() {
                    give(topic);
                }
            }
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

/// Distinct subscription → how many members have it.
fn members_with(group: &Spec) -> Vec<usize> {
    let mut members_with = vec![0usize; group.subscriptions().len()];
    for m in 0..group.members() as u32 {
        members_with[group.subscription_of(m) as usize] += 1;
    }
    members_with
}

fn cuts(group: &Spec, members_with: &[usize]) -> Vec<Cut> {
    let mut subscribers = vec![0usize; group.topics()];
    for (topics, members) in group.subscriptions().iter().zip(members_with) {
        for t in topics {
            subscribers[*t as usize] += *members;
        }
    }
    subscribers
        .into_iter()
        .zip(0u32..)
        .map(|(members, topic)| {
            let partitions = group.of_topic(topic);
            if members == 0 {
                // Never cut.
                return Cut { next: partitions.start, end: partitions.start, quota: 0, extras: 0 };
            }
            Cut { next: partitions.start, end: partitions.end, quota: partitions.len() / members, extras: partitions.len() % members }
        })
        .collect()
}
