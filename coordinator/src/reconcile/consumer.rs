//! One step of a member that speaks Kafka's consumer protocol. As for everybody, revoke comes before assign; but the member names no assignment
//! revision, so what it reports to own is believed, all or nothing: until it reports none of what it is to give back, nothing changes.
//!
//! A partition of a topic that was made again under its name is another partition: the one assigned is asked back first.

use super::*;

/// What a heartbeat says to own; None says nothing, and so confirms nothing.
pub type Owned<'a> = Option<&'a PartitionsById>;

/// Takes the member as far as it can go now and records the step, if there is one.
pub fn reconcile_consumer(draft: &mut Draft, id: &MemberId, owned: Owned, subscription_changed: bool) {
    let Some(g) = draft.group() else { return };
    let Some(m) = g.members.get(id) else { return };
    let view = View { g, id, m, owned, draft };
    let step = match m.state {
        MemberState::Stable if m.epoch != g.target_epoch => view.next(m.epoch, false),
        MemberState::Stable if subscription_changed && !seeded::on(38) => view.unsubscribe(),
        MemberState::Stable => return,
        // KAFKA-16147: what is pending stays pending, also if the target gives it back meanwhile.
        MemberState::UnrevokedPartitions if view.owns(m.pending.iter().map(|(p, x)| (p, &x.grant))) => {
            if !subscription_changed {
                return;
            }
            view.unsubscribe()
        }
        MemberState::UnrevokedPartitions => view.next(m.epoch, true),
        MemberState::UnreleasedPartitions => view.next(m.epoch, false),
    };
    let same = step.released.is_empty() && step.revoked.is_empty() && step.granted.is_empty();
    if !(same && (step.epoch, step.previous_epoch, step.state) == (m.epoch, m.previous_epoch, m.state)) {
        record(draft, id, step);
    }
}

struct View<'a, 'b> {
    g: &'a Group,
    id: &'a MemberId,
    m: &'a Member,
    owned: Owned<'a>,
    draft: &'a Draft<'b>,
}

impl View<'_, '_> {
    /// Whether the member says (or does not deny) that it still has one of these.
    fn owns<'x>(&self, mut of: impl Iterator<Item = (&'x Partition, &'x Grant)>) -> bool {
        of.any(|(p, x)| self.owned.map_or(!seeded::on(57), |o| o.get(&x.topic_id).is_some_and(|ps| ps.contains(&p.partition))))
    }
    /// Its target, among the partitions that exist of topics that it still subscribes to.
    fn target(&self) -> BTreeSet<&Partition> {
        let (g, m) = (self.g, self.m);
        g.target.get(self.id).into_iter().flatten().filter(|p| g.subscribes(m, &p.topic) && exists(g, p)).collect()
    }
    fn current(&self, p: &Partition, x: &Grant) -> bool { self.g.topics.get(&p.topic).is_some_and(|t| t.id == x.topic_id) }
    fn step(&self, epoch: Epoch, state: MemberState) -> Reconciled {
        let revision = AssignmentRevision(self.draft.draw(0));
        Reconciled { epoch, previous_epoch: self.m.epoch, state, revision, ..unchanged(self.id, self.m) }
    }

    /// The next assignment, from `epoch`. `gave_back`: what was pending is not the member's any more.
    fn next(&self, epoch: Epoch, gave_back: bool) -> Reconciled {
        let (g, m, target) = (self.g, self.m, self.target());
        let released: Vec<Partition> = if gave_back { m.pending.keys().cloned().collect() } else { Vec::new() };
        let revoke: BTreeMap<&Partition, &Grant> = m.assigned.iter().filter(|(p, x)| !target.contains(p) || !self.current(p, x)).collect();
        if !revoke.is_empty() && self.owns(revoke.iter().map(|(p, x)| (*p, *x))) {
            let revoked = revoke.into_keys().cloned().collect();
            return Reconciled { released, revoked, ..self.step(epoch, MemberState::UnrevokedPartitions) };
        }
        let released: Vec<Partition> = released.into_iter().chain(revoke.into_keys().cloned()).collect();
        let (mut granted, mut unreleased) = (Vec::new(), false);
        for p in target {
            let kept = m.assigned.contains_key(p) && !released.contains(p);
            // one-owner: assigned, pending or held anywhere else means: not yet. What this very step releases is free.
            let free = !g.owners.contains_key(p) || released.contains(p);
            if !kept && (free || seeded::on(2)) {
                granted.push((p.clone(), FencingToken(self.draft.draw(1 + granted.len() as u64))));
            }
            unreleased |= !kept && !free;
        }
        let state = if unreleased { MemberState::UnreleasedPartitions } else { MemberState::Stable };
        let step = Reconciled { released, granted, ..self.step(g.target_epoch, state) };
        if step.granted.is_empty() && step.released.is_empty() { Reconciled { revision: m.assignment_revision, ..step } } else { step }
    }

    /// Its subscription changed while an older target is in force: what it no longer wants goes at once (KAFKA-19431).
    fn unsubscribe(&self) -> Reconciled {
        let (g, m) = (self.g, self.m);
        let unwanted = |(p, x): &(&Partition, &Grant)| !g.subscribes(m, &p.topic) || !self.current(p, x);
        let gone: BTreeMap<&Partition, &Grant> = m.assigned.iter().filter(unwanted).collect();
        let pending = m.pending.iter().map(|(p, x)| (p, &x.grant));
        let revoked: Vec<Partition> = gone.keys().map(|p| (*p).clone()).collect();
        // Who subscribes to nothing that is known is told that it has nothing, even if it had nothing (as Kafka does).
        let nothing = m.pending.is_empty() && g.subscription_of(m).is_empty();
        match (revoked.is_empty(), self.owns(gone.iter().map(|(p, x)| (*p, *x)).chain(pending))) {
            (true, _) if nothing => Reconciled { revision: m.assignment_revision, ..self.step(m.epoch, m.state) },
            (true, _) => unchanged(self.id, m),
            (false, true) => Reconciled { revoked, ..self.step(m.epoch, MemberState::UnrevokedPartitions) },
            (false, false) => Reconciled { released: revoked, ..self.step(m.epoch, m.state) },
        }
    }
}
