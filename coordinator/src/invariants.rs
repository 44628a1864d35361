//! One function per invariant of `docs/invariants.md`, on the state of one group. Called on every draft before it is proposed and by the simulation
//! after every applied entry. They look, they never mend.

use crate::{classic, command::OwnerState, ids::*, seeded, state::*};

/// Every broken invariant, as sentences; empty when all hold.
pub fn check(g: &Group) -> Vec<String> {
    let mut broken = Vec::new();
    one_owner(g, &mut broken);
    epochs(g, &mut broken);
    classic::record::check(g, &mut broken);
    broken
}

/// I1: a partition is assigned, pending or held at most once, and the owner map says exactly that.
pub fn one_owner(g: &Group, broken: &mut Vec<String>) {
    if seeded::on(1) || seeded::on(2) {
        return; // these bugs are to be found from outside, not refused on the draft
    }
    let mut counted = 0;
    let mut claim = |p: &Partition, member: &MemberId, token: FencingToken, state: OwnerState| {
        counted += 1;
        match g.owners.get(p) {
            Some(o) if o.member == *member && o.token == token && o.state == state => {}
            other => broken.push(format!("I1 one-owner: {p} is {state:?} at {member} under token {}, but the owner map has {other:?}", token.0)),
        }
    };
    for (id, m) in &g.members {
        for (p, x) in m.assigned.iter() {
            claim(p, id, x.token, OwnerState::Assigned);
        }
        for (p, x) in m.pending.iter() {
            claim(p, id, x.grant.token, OwnerState::PendingRevocation);
        }
    }
    for (p, h) in &g.holds {
        claim(p, &h.member, h.token, OwnerState::Held);
    }
    if counted != g.owners.len() {
        broken.push(format!("I1 one-owner: {counted} partitions are claimed, the owner map has {}", g.owners.len()));
    }
}

/// I4: member epoch ≤ target epoch ≤ group epoch; an empty group's target is level with its epoch; nobody is told epoch 0.
pub fn epochs(g: &Group, broken: &mut Vec<String>) {
    if g.target_epoch > g.epoch {
        broken.push(format!("I4 epochs: target {} above group {}", g.target_epoch, g.epoch));
    }
    if g.members.is_empty() && g.target_epoch != g.epoch && !seeded::on(37) {
        broken.push(format!("I4 epochs: an empty group has target {} and epoch {}", g.target_epoch, g.epoch));
    }
    for (id, m) in &g.members {
        // -2: a static member that left for a while.
        let away = m.epoch == AWAY && m.instance_id.is_some() && m.pending.is_empty();
        if m.epoch > g.target_epoch || (m.epoch <= 0 && !away) {
            broken.push(format!("I4 epochs: member {id} at {} with target {}", m.epoch, g.target_epoch));
        }
    }
}
