//! Target assignments: plain data in, plain data out. Called by `decide` when the group epoch has gone past the target's.
//!
//! An assignor is one file with one implementation of `Assignor`, listed in `SERVER`. It sees a group as dense numbers (`Spec`) and answers with one
//! owner per partition (`Owners`), so no assignor can give a partition twice. Names become numbers, and numbers names, only here at the edge.
//! Everything is deterministic: members and partitions are visited in ascending order, topics in that of their ids (without ids: of their names), nothing in the
//! order of a hash.
//! Stickiness is relative to the previous target, not to what is owned just now (KIP-848 §7).

pub mod client;
mod edge;
pub mod preferences;
pub mod rack_aware;
pub mod range;
pub mod spec;
mod subscribers;
pub mod uniform;
pub mod weighted;

use crate::{ids::*, metadata::{Metadata, TopicFacts}, state::Group};
use spec::{Owners, Spec};
use std::collections::{BTreeMap, BTreeSet};

/// Member → its partitions.
pub type Assignment = BTreeMap<MemberId, BTreeSet<Partition>>;

/// A way to divide the partitions of a group over its members.
///
/// What an implementation promises, and what the properties in `tests/assignors.rs` ask of each: every partition of every topic with a subscriber has
/// an owner; the owner subscribes to the topic; nothing else has one; the same `Spec` gives the same `Owners`.
pub trait Assignor: Sync {
    /// The name that members ask for.
    fn name(&self) -> &'static str;
    /// The new target. Total: any `Spec` has an answer.
    fn assign(&self, group: &Spec) -> Owners;
}

/// The assignors that members can ask for; the first is the default. The first two are Kafka's.
pub const SERVER: [&dyn Assignor; 4] = [&uniform::Uniform, &range::Range, &rack_aware::RackAware, &weighted::Weighted];
/// Their names.
pub const ASSIGNORS: [&str; 4] = ["uniform", "range", "rack-aware", "weighted"];

/// What an assignor sees, by name.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// Member → the topics it subscribes to, whether they exist or not.
    pub subscriptions: BTreeMap<MemberId, BTreeSet<TopicName>>,
    /// Topics that exist → partition count.
    pub topics: BTreeMap<TopicName, i32>,
    /// Topic → its id. Topics are visited in the order of their ids, as Kafka does; those without one come first, by name.
    pub ids: BTreeMap<TopicName, u128>,
    /// The target so far.
    pub previous: Assignment,
    /// The instance ids of static members.
    pub instances: BTreeMap<MemberId, InstanceId>,
    /// The racks of members that name one.
    pub racks: BTreeMap<MemberId, String>,
    /// Partition → the zones where it has a replica or is declared to be.
    pub zones: BTreeMap<Partition, BTreeSet<String>>,
    /// Partition → its weight, if it is not 1.
    pub weights: BTreeMap<Partition, u32>,
    /// Member → its capacity, if it is not 1.
    pub capacities: BTreeMap<MemberId, u32>,
    /// How many partitions may change their owner at once; nothing: any number.
    pub moves_max: Option<usize>,
    /// Subscriptions are said by name and by regular expression, or by several expressions.
    pub mixed: bool,
}
impl Input {
    /// The input that a group gives, with what the image tells of the partitions beyond their number.
    pub fn of(g: &Group, topics: &BTreeMap<TopicName, TopicFacts>, image: &Metadata) -> Self {
        let layouts = || image.layouts.iter().filter_map(|(t, l)| Some((t, l, usize::try_from(topics.get(t)?.partitions).unwrap_or(0))));
        let partition = |t: &TopicName, p: usize| Partition::new(t.clone(), p as i32);
        Self {
            zones: layouts().flat_map(|(t, l, n)| l.zones.iter().take(n).enumerate().map(move |(p, z)| (partition(t, p), z.clone()))).collect(),
            weights: layouts().flat_map(|(t, l, n)| l.weights.iter().take(n).enumerate().map(move |(p, w)| (partition(t, p), *w))).collect(),
            capacities: g.members.iter().filter_map(|(id, m)| Some((id.clone(), m.capacity?))).collect(),
            moves_max: usize::try_from(g.config.moves_max).ok().filter(|n| *n > 0),
            subscriptions: g.members.iter().map(|(id, m)| (id.clone(), g.subscription_of(m))).collect(),
            topics: topics.iter().map(|(t, f)| (t.clone(), f.partitions)).collect(),
            ids: topics.iter().map(|(t, f)| (t.clone(), f.id)).collect(),
            previous: sticky(g),
            mixed: !g.said.is_empty() && (g.members.values().any(|m| !m.subscribed.is_empty()) || g.said.values().next() != Some(&(g.members.len() as u64))),
            instances: g.members.iter().filter_map(|(id, m)| Some((id.clone(), m.instance_id.clone()?))).collect(),
            racks: g.members.iter().filter_map(|(id, m)| Some((id.clone(), m.rack.clone()?))).collect(),
        }
    }
}

/// The target so far, without topics that have been made again since: nobody has worked on those.
fn sticky(g: &Group) -> Assignment {
    let same = |p: &&Partition| g.target_topics.get(&p.topic).map(|t| t.id) == g.topics.get(&p.topic).map(|t| t.id);
    g.target.iter().map(|(m, ps)| (m.clone(), ps.iter().filter(same).cloned().collect())).collect()
}

/// Runs the assignor `name`. Unknown names are refused where they enter; should one get here, it means the default.
pub fn assign(name: &str, input: &Input) -> Assignment {
    let assignor = SERVER.iter().find(|a| a.name() == name).unwrap_or(&SERVER[0]);
    edge::named(input, &assignor.assign(&edge::spec(input)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_assignors() { assert_eq!(SERVER.map(Assignor::name), ASSIGNORS); }

    /// `b` was made before `a`: so it is dealt out first.
    #[test]
    fn topics_are_visited_in_the_order_of_their_ids() {
        let names: BTreeSet<TopicName> = ["a".into(), "b".into()].into();
        let by_name = Input { subscriptions: [("m".into(), names.clone()), ("n".into(), names)].into(), topics: [("a".into(), 1), ("b".into(), 1)].into(), ..Input::default() };
        let by_id = Input { ids: [("a".into(), 2), ("b".into(), 1)].into(), ..by_name.clone() };
        let first = |input: &Input| assign("uniform", input)[&MemberId::from("m")].iter().map(|p| p.topic.to_string()).collect::<Vec<_>>();
        assert_eq!((first(&by_name), first(&by_id)), (vec!["a".to_string()], vec!["b".to_string()]));
    }
}
