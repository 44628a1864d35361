//! A member that speaks Baton's own protocol: it has an incarnation, names the assignment that it has fully applied, and stops by itself at its deadline, which counts
//! from when it sent the heartbeat that was answered last.

use super::*;

pub struct Http {
    id: MemberId,
    incarnation: Incarnation,
    epoch: Epoch,
    /// The assignment taken, and the last one fully applied.
    taken: u64,
    applied: u64,
    deadline: Option<Ms>,
    leaving: bool,
    /// Something is to be confirmed: the next answer is not to be held.
    unconfirmed: bool,
}

impl Http {
    pub fn new(id: &str, number: u128) -> Http { Http { id: id.into(), incarnation: Incarnation(number), epoch: 0, taken: 0, applied: 0, deadline: None, leaving: false, unconfirmed: false } }
    /// Begins anew: it owns nothing and joins again.
    fn anew(&mut self, b: &mut Body, now: Ms) {
        b.drop_all();
        (self.epoch, self.applied, self.deadline) = (0, self.taken, None);
        b.waiting = None;
        b.next_send = Some(now);
    }
    fn take(&mut self, b: &mut Body, now: Ms, sent: Ms, v: &HeartbeatView) {
        if now >= sent + v.lease_ms {
            b.next_send = Some(now); // past its own deadline an answer grants nothing
            return;
        }
        self.deadline = Some(sent + v.lease_ms);
        self.epoch = v.member_epoch;
        b.next_send = Some((sent + v.heartbeat_interval_ms).max(now));
        self.unconfirmed = false;
        if let Some(a) = &v.assignment
            && v.assignment_revision.0 > self.taken
        {
            self.taken = v.assignment_revision.0;
            let target: BTreeSet<Partition> = a.keys().cloned().collect();
            if !b.turn_to(&target, now) {
                self.gave_up(b, now);
            }
        }
    }
}

impl Speaks for Http {
    fn id(&self) -> Option<&MemberId> { Some(&self.id) }
    fn request(&mut self, b: &mut Body, _now: Ms, _meta: &Metadata) -> Option<(Command, Ms)> {
        let assignment_revision = AssignmentRevision(self.applied);
        let (member, incarnation) = (self.id.clone(), self.incarnation);
        if self.leaving {
            return Some((Command::Leave(Leave { member, incarnation, assignment_revision, is_static: b.spec.instance.is_some() }), 0));
        }
        let said = Heartbeat { member, incarnation, epoch: self.epoch, owned: Some(b.hands.owned()), assignment_revision, ..Heartbeat::default() };
        if self.epoch > 0 {
            let wait_ms = if self.unconfirmed { 0 } else { b.spec.long_poll_ms };
            return Some((Command::Heartbeat(Heartbeat { wait_ms, ..said }), wait_ms));
        }
        Some((
            Command::Heartbeat(Heartbeat {
                rebalance_timeout_ms: Some(b.spec.rebalance_ms), subscribed_topics: Some(b.spec.topics.iter().map(|t| t.as_str().into()).collect()), subscribed_regex: b.spec.regex.clone(),
                assignor: b.spec.assignor.clone(), instance_id: b.spec.instance.as_deref().map(InstanceId::from), owned: Some(BTreeSet::new()), ..said
            }),
            0,
        ))
    }
    fn answer(&mut self, b: &mut Body, now: Ms, sent: Ms, result: &Result<Response, GroupError>, _meta: &Metadata) {
        match result {
            Ok(Response::Heartbeat(v)) => self.take(b, now, sent, v),
            Ok(_) | Err(_) if self.leaving => b.end(),
            Ok(other) => b.say(format!("does not understand the answer {other:?}")),
            Err(e @ (GroupError::Unavailable { .. } | GroupError::Loading { .. } | GroupError::Quarantined { .. })) => {
                b.say(format!("is told to try again: {e}"));
                b.next_send = Some(now + 50);
            }
            Err(e @ GroupError::MemberIdInUse { .. }) => {
                b.say(format!("is refused: {e}"));
                b.next_send = Some(now + 1_000);
            }
            Err(e @ (GroupError::FencedIncarnation | GroupError::FencedInstanceId { .. } | GroupError::UnreleasedInstanceId { .. })) => {
                b.say(format!("ends: {e}"));
                b.end();
            }
            Err(e) => {
                b.say(format!("drops everything and joins again: {e}"));
                self.anew(b, now);
            }
        }
    }
    fn gave_up(&mut self, b: &mut Body, now: Ms) {
        self.applied = self.taken;
        self.unconfirmed = true;
        b.next_send = Some(now);
        if b.waiting.is_some_and(|w| w.sent < now) {
            b.waiting = None; // a held heartbeat is ended by the next one
        }
    }
    fn close(&mut self, b: &mut Body, now: Ms) {
        self.leaving = true;
        b.next_send = b.hands.giving.values().max().copied().or(Some(now));
    }
    fn polls_no_more(&mut self, _b: &mut Body, _now: Ms) {} // it has no such timeout: only a revocation that it does not confirm is noticed
    fn polls_again(&mut self, _b: &mut Body, _now: Ms) {}
    fn deadline(&self) -> Option<Ms> { self.deadline }
    fn lapsed(&mut self, b: &mut Body, now: Ms) {
        b.say("stops by itself: its lease has ended");
        self.anew(b, now);
    }
}
