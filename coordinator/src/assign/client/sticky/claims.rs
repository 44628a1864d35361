//! What members say they own, and who is believed when two say it.

use crate::{
    assign::{
        client::ClientGroup,
        spec::{NOBODY, Owners, Spec},
    },
    embedded::NO_GENERATION,
    ids::Partition,
};
use std::collections::{BTreeMap, BTreeSet};

/// What one member says.
pub(super) struct Claim {
    pub(super) owned: Vec<Partition>,
    pub(super) generation: Option<i32>,
}

/// What is believed.
pub(super) struct Claims {
    /// Partition → its owner, subscribed or not.
    pub(super) owner: Vec<u32>,
    /// Claimed by several members in one generation: nobody is believed.
    pub(super) disputed: BTreeSet<usize>,
    /// Partition → who claimed it in an older generation than the newest that anybody names, the youngest such claim.
    pub(super) stale: BTreeMap<usize, u32>,
}

impl Claims {
    /// The member with the newer generation owns a partition that two claim.
    pub(super) fn settle(group: &ClientGroup, spec: &Spec, claims: &[Claim]) -> Self {
        let numbers = numbers(group, spec);
        let newest = claims.iter().filter_map(|c| c.generation).max().unwrap_or(NO_GENERATION).max(NO_GENERATION);
        let mut settled = Self { owner: vec![NOBODY; spec.partitions()], disputed: BTreeSet::new(), stale: BTreeMap::new() };
        // Who claimed a partition last, also if nobody is believed.
        let mut claimant: BTreeMap<usize, u32> = BTreeMap::new();
        let mut stale_generation: BTreeMap<usize, i32> = BTreeMap::new();
        let subscription_generation: Vec<i32> = group.members.values().map(|m| m.subscription.generation.max(NO_GENERATION)).collect();
        for (claim, member) in claims.iter().zip(0u32..) {
            let generation = claim.generation.unwrap_or(NO_GENERATION);
            for p in claim.owned.iter().filter_map(&numbers) {
                let other = claimant.get(&p).copied();
                match other.map(|o| generation.cmp(&subscription_generation[o as usize])) {
                    None | Some(std::cmp::Ordering::Greater) => {
                        settled.owner[p] = member;
                        claimant.insert(p, member);
                    }
                    Some(std::cmp::Ordering::Equal) => {
                        settled.disputed.insert(p);
                        settled.owner[p] = NOBODY;
                        claimant.insert(p, member);
                    }
                    Some(std::cmp::Ordering::Less) => {}
                }
                let old = claim.generation.map_or(newest > NO_GENERATION, |g| g < newest);
                if old && stale_generation.get(&p).is_none_or(|g| generation > *g) {
                    stale_generation.insert(p, generation);
                    settled.stale.insert(p, member);
                }
            }
        }
        settled
    }
}

/// Partitions that a member claims and loses while another, that did not claim them, gets them.
pub(super) fn moving(group: &ClientGroup, spec: &Spec, claims: &[Claim], owners: &Owners) -> BTreeSet<usize> {
    let numbers = numbers(group, spec);
    let claimed: BTreeSet<(usize, u32)> = claims.iter().zip(0u32..).flat_map(|(c, m)| c.owned.iter().filter_map(&numbers).map(move |p| (p, m)).collect::<Vec<_>>()).collect();
    claimed.iter().filter(|(p, m)| owners.0[*p] != *m && owners.0[*p] != NOBODY && !claimed.contains(&(*p, owners.0[*p]))).map(|(p, _)| *p).collect()
}

/// Finds the number of a partition of a subscribed topic; nothing for partitions that do not exist.
fn numbers<'a>(group: &'a ClientGroup, spec: &'a Spec) -> impl Fn(&Partition) -> Option<usize> + 'a {
    let topics: BTreeMap<&str, u32> = group.topics.keys().map(|t| t.as_str()).zip(0..).collect();
    let subscribed: BTreeSet<u32> = spec.subscriptions().iter().flatten().copied().collect();
    move |p| {
        let topic = topics.get(p.topic.as_str()).filter(|t| subscribed.contains(t))?;
        let range = spec.of_topic(*topic);
        usize::try_from(p.partition).ok().filter(|n| *n < range.len()).map(|n| range.start + n)
    }
}
