//! `sticky` and `cooperative-sticky`: even, and as little as possible moves. They differ in where members say what they own (user data or
//! subscription), and in that the cooperative one gives a partition that moves to nobody until its old owner has let go of it: a second round follows.

mod claims;
mod equal;
mod movements;
mod unequal;

use super::{ClientAssignor, ClientGroup, ClientMember, racks::Racks};
use crate::{
    assign::spec::{NOBODY, Owners, Spec},
    embedded::{CooperativeData, NO_GENERATION, StickyData},
    ids::Partition,
};
use claims::{Claim, Claims};
use std::collections::BTreeSet;

/// All partitions are given up before each rebalance (eager).
pub struct Sticky;
/// Partitions are kept through a rebalance unless they move.
pub struct CooperativeSticky;

impl ClientAssignor for Sticky {
    fn name(&self) -> &'static str { "sticky" }

    fn owners(&self, group: &ClientGroup, spec: &Spec) -> Owners { run(group, spec, &claims(group, claim_of_sticky)).owners }

    fn user_data(&self, owned: &[Partition], generation: i32) -> Option<Vec<u8>> { StickyData { owned: owned.to_vec(), generation: Some(generation) }.encode().ok() }
}

impl ClientAssignor for CooperativeSticky {
    fn name(&self) -> &'static str { "cooperative-sticky" }

    fn owners(&self, group: &ClientGroup, spec: &Spec) -> Owners {
        let claims = claims(group, claim_of_cooperative);
        let Outcome { mut owners, moving } = run(group, spec, &claims);
        let moving = moving.unwrap_or_else(|| claims::moving(group, spec, &claims, &owners));
        for p in moving {
            owners.0[p] = NOBODY;
        }
        owners
    }

    fn user_data(&self, _owned: &[Partition], generation: i32) -> Option<Vec<u8>> { Some(CooperativeData { generation }.encode()) }
}

/// The result, and which partitions must be let go of first, if the algorithm knows.
struct Outcome {
    owners: Owners,
    moving: Option<BTreeSet<usize>>,
}

fn run(group: &ClientGroup, spec: &Spec, claims: &[Claim]) -> Outcome {
    let settled = Claims::settle(group, spec, claims);
    let racks = Racks::of(group, spec);
    if spec.is_homogeneous() {
        let (owners, moving) = equal::assign(spec, &racks, &settled);
        Outcome { owners, moving: Some(moving) }
    } else {
        Outcome { owners: unequal::assign(spec, &racks, &settled), moving: None }
    }
}

fn claims(group: &ClientGroup, of: fn(&ClientMember) -> Claim) -> Vec<Claim> { group.members.values().map(of).collect() }

/// User data that cannot be read counts as none.
fn claim_of_sticky(m: &ClientMember) -> Claim {
    match m.subscription.user_data.as_deref() {
        None | Some([]) => Claim { owned: Vec::new(), generation: None },
        Some(bytes) => match StickyData::decode(bytes) {
            Ok(data) => Claim { owned: data.owned, generation: data.generation },
            Err(_) => Claim { owned: Vec::new(), generation: Some(NO_GENERATION) },
        },
    }
}

/// Since version 2 the subscription itself has the generation; before, the user data had it.
fn claim_of_cooperative(m: &ClientMember) -> Claim {
    let generation = if m.subscription.generation >= 0 {
        Some(m.subscription.generation)
    } else {
        m.subscription.user_data.as_deref().map(|bytes| CooperativeData::decode(bytes).map_or(NO_GENERATION, |d| d.generation))
    };
    Claim { owned: m.subscription.owned.clone(), generation }
}
