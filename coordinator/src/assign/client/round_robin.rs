//! `roundrobin`: all partitions in ascending order are dealt out one by one to the members in a circle, static members first; who does not subscribe to
//! the topic is passed over.

use super::{ClientAssignor, ClientGroup, subscribers};
use crate::assign::spec::{NOBODY, Owners, Spec};

pub struct RoundRobin;

impl ClientAssignor for RoundRobin {
    fn name(&self) -> &'static str { "roundrobin" }

    fn owners(&self, _group: &ClientGroup, spec: &Spec) -> Owners {
        let mut owners = vec![NOBODY; spec.partitions()];
        let mut circle = spec.static_first().iter().copied().cycle();
        for (members, topic) in subscribers(spec).iter().zip(0..) {
            if members.is_empty() {
                continue;
            }
            for p in spec.of_topic(topic) {
                owners[p] = circle.by_ref().find(|m| members.binary_search(m).is_ok()).unwrap_or(NOBODY);
            }
        }
        Owners(owners)
    }
}
