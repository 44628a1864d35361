//! Revoke before assign: moves one member one step towards the target, on its own heartbeat (KIP-848, "reconciliation").
//! A revocation is confirmed in `confirmed`; a partition is granted only in `next`, and only when the owner map says it is free.
//!
//! With T' the member's target among topics it still subscribes to and A its assigned set:
//! keep = A ∩ T', revoke = A − T', want = T' − A, unreleased = those of `want` that anybody else owns.

mod consumer;

pub use consumer::{Owned, reconcile_consumer};

use crate::{command::*, draft::Draft, ids::*, record::*, seeded, state::*};
use std::collections::{BTreeMap, BTreeSet};

/// The pending partitions that this heartbeat confirms as stopped: it is from an assignment revision at or past the one that asked for
/// them, and names what it owns without them. A null owned set confirms nothing; an older message neither (`safety.md` 8).
pub fn confirmed(m: &Member, heartbeat: &Heartbeat) -> Vec<Partition> {
    let nothing = BTreeSet::new();
    let owned = match &heartbeat.owned {
        Some(owned) => owned,
        None if seeded::on(3) => &nothing,
        None => return Vec::new(),
    };
    m.pending.iter().filter(|(p, x)| !owned.contains(*p) && (heartbeat.assignment_revision >= x.revoked_at || seeded::on(4))).map(|(p, _)| p.clone()).collect()
}

/// Takes the member as far as it can go now and records the step, if there is one.
pub fn reconcile(draft: &mut Draft, id: &MemberId, released: Vec<Partition>) {
    let Some(g) = draft.group() else { return };
    let Some(m) = g.members.get(id) else { return };
    let Some(step) = next(g, id, m, released, draft) else { return };
    record(draft, id, step);
}

/// Records a step, and for history what it moved.
fn record(draft: &mut Draft, id: &MemberId, step: Reconciled) {
    let moved: Vec<Moved> = step
        .granted.iter().map(|(p, _)| Moved { partition: p.clone(), from: None, to: Some(id.clone()) })
        .chain(step.released.iter().map(|p| Moved { partition: p.clone(), from: Some(id.clone()), to: None }))
        .collect();
    let asked_back = step.revoked.len();
    draft.put(Record::Reconciled(Box::new(step)));
    if asked_back > 0 {
        draft.note("revoking", format!("{asked_back} partitions are asked back from {id}"), Some(id), Vec::new());
    }
    if !moved.is_empty() {
        draft.note("moved", format!("{id} went on to the target"), Some(id), moved);
    }
}

fn next(g: &Group, id: &MemberId, m: &Member, released: Vec<Partition>, draft: &Draft) -> Option<Reconciled> {
    let target: BTreeSet<&Partition> = g.target.get(id).into_iter().flatten().filter(|p| g.subscribes(m, &p.topic) && exists(g, p)).collect();
    let revision = AssignmentRevision(draft.draw(0));
    let waiting: Vec<&Partition> = m.pending.keys().filter(|p| !released.contains(p)).collect();
    // What is pending and in the target again: a new grant with a new token.
    let given_back = || -> Vec<(Partition, FencingToken)> {
        waiting.iter().filter(|p| target.contains(**p)).enumerate().map(|(i, p)| ((*p).clone(), FencingToken(draft.draw(1 + i as u64)))).collect()
    };
    // UNREVOKED: the same epoch until everything asked back is confirmed. What the target gives back meanwhile becomes the member's own
    // again at once, as a new grant: an acknowledgement of the older revision then frees nothing (KAFKA-16147, `safety.md` 15).
    if waiting.iter().any(|p| !target.contains(*p)) {
        let granted = given_back();
        let revision = if granted.is_empty() { m.assignment_revision } else { revision };
        let step = Reconciled { released, granted, revision, ..unchanged(id, m) };
        return (!step.released.is_empty() || !step.granted.is_empty()).then_some(step);
    }
    let epoch = match m.epoch {
        // A static member's new process, back in its place: it is told an epoch with its first answer, also when something of the place is asked back first.
        0 => g.target_epoch,
        e if m.state == MemberState::UnrevokedPartitions => (e + 1).min(g.target_epoch),
        e => e,
    };
    // A static member that was away when a topic was made again under its name still has the older one.
    let older = |p: &Partition, x: &Grant| g.topics.get(&p.topic).is_some_and(|t| t.id != x.topic_id) && !seeded::on(20);
    let revoked: Vec<Partition> = m.assigned.iter().filter(|(p, x)| !target.contains(p) || older(p, x)).map(|(p, _)| p.clone()).collect();
    if !revoked.is_empty() {
        return Some(Reconciled {
            epoch, previous_epoch: previous(m, epoch), state: MemberState::UnrevokedPartitions, revision, released, revoked, granted: given_back(), ..unchanged(id, m)
        });
    }
    let (mut granted, mut unreleased) = (Vec::new(), false);
    for p in target.into_iter().filter(|p| !m.assigned.contains_key(p)) {
        // one-owner: assigned, pending or held anywhere else means: not yet. What this very step releases is free.
        let free = !g.owners.contains_key(p) || released.contains(p) || m.pending.contains_key(p);
        if free || seeded::on(2) {
            granted.push((p.clone(), FencingToken(draft.draw(1 + granted.len() as u64))));
        } else {
            unreleased = !seeded::on(235);
        }
    }
    let state = if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
    let epoch = g.target_epoch;
    if granted.is_empty() && released.is_empty() && state == m.state && epoch == m.epoch {
        return None;
    }
    let revision = if granted.is_empty() { m.assignment_revision } else { revision };
    Some(Reconciled { epoch, previous_epoch: previous(m, epoch), state, revision, released, granted, ..unchanged(id, m) })
}

/// The step that changes nothing.
fn unchanged(id: &MemberId, m: &Member) -> Reconciled {
    Reconciled {
        member: id.clone(), epoch: m.epoch, previous_epoch: m.previous_epoch, state: m.state, revision: m.assignment_revision,
        released: Vec::new(), revoked: Vec::new(), granted: Vec::new(),
    }
}
fn previous(m: &Member, epoch: Epoch) -> Epoch { if epoch == m.epoch { m.previous_epoch } else { m.epoch } }
/// Whether the topic, as the group last saw it, has the partition, and is the one that the target was computed for.
fn exists(g: &Group, p: &Partition) -> bool {
    let of_the_target = g.target_topics.get(&p.topic).map(|t| t.id);
    g.topics.get(&p.topic).is_some_and(|t| p.partition < t.partitions && of_the_target == Some(t.id))
}
