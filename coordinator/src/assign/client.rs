//! The assignors that Kafka's classic clients run themselves: the assigning member of a classic group divides the partitions, the coordinator only passes
//! the result on. Baton has them as library functions, for its own tools and for groups in which the coordinator assigns for classic members.
//!
//! Same shape as the coordinator's: one file each, one trait, dense numbers inside. What members own travels in their subscriptions and user data.

mod racks;
pub mod range;
pub mod round_robin;
pub mod sticky;

use super::{
    Assignment, Input, edge,
    spec::{Owners, Spec},
};
use crate::{embedded::Subscription, ids::*};
use std::collections::{BTreeMap, BTreeSet};

/// A member as the one that assigns sees it.
#[derive(Clone, Debug, Default)]
pub struct ClientMember {
    pub instance: Option<InstanceId>,
    pub subscription: Subscription,
}

/// A topic that exists.
#[derive(Clone, Debug, Default)]
pub struct ClientTopic {
    pub partitions: i32,
    /// Partition → the racks of its replicas. Partitions beyond the end of the list have none.
    pub racks: Vec<BTreeSet<String>>,
}

/// Everything that a client-side assignor looks at.
#[derive(Clone, Debug, Default)]
pub struct ClientGroup {
    pub members: BTreeMap<MemberId, ClientMember>,
    pub topics: BTreeMap<TopicName, ClientTopic>,
}

/// A client-side assignor. The promises are those of `assign::Assignor`, but for `cooperative-sticky`: a partition that changes its owner has none in the
/// first of its two rounds.
pub trait ClientAssignor: Sync {
    /// The name under which clients offer it.
    fn name(&self) -> &'static str;
    /// The owners, for a group with at least one member.
    fn owners(&self, group: &ClientGroup, spec: &Spec) -> Owners;
    /// What a member puts into the user data of its subscription, having got `owned` in `generation`.
    fn user_data(&self, _owned: &[Partition], _generation: i32) -> Option<Vec<u8>> { None }
}

/// All of them.
pub const CLIENT: [&dyn ClientAssignor; 4] = [&range::ClientRange, &round_robin::RoundRobin, &sticky::Sticky, &sticky::CooperativeSticky];

/// Runs the assignor of that name; nothing if there is none. A group without members gets an empty assignment.
pub fn assign(name: &str, group: &ClientGroup) -> Option<Assignment> {
    let assignor = CLIENT.iter().find(|a| a.name() == name)?;
    if group.members.is_empty() {
        return Some(Assignment::new());
    }
    let input = Input {
        subscriptions: group.members.iter().map(|(id, m)| (id.clone(), m.subscription.topics.iter().cloned().collect())).collect(),
        topics: group.topics.iter().map(|(name, t)| (name.clone(), t.partitions)).collect(),
        instances: group.members.iter().filter_map(|(id, m)| Some((id.clone(), m.instance.clone()?))).collect(),
        ..Input::default()
    };
    Some(edge::named(&input, &assignor.owners(group, &edge::spec(&input))))
}

/// The subscribed topics, each with its subscribers in ascending order.
fn subscribers(spec: &Spec) -> Vec<Vec<u32>> {
    let mut subscribers = vec![Vec::new(); spec.topics()];
    for m in 0..spec.members() as u32 {
        for t in spec.subscription(m) {
            subscribers[*t as usize].push(m);
        }
    }
    subscribers
}
