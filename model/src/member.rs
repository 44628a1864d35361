//! A member by the client rules: a deadline from its own send time, revisions, confirmed revocations, a new life after a lapse. It believes what it was told, and never looks
//! into the coordinator.

use baton_coordinator::{command::*, ids::*};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Joining,
    Steady,
    /// Removed by somebody else: says with a leave that it has stopped.
    Acknowledging,
    Leaving,
}

#[derive(Clone, Debug)]
pub struct Member {
    pub id: MemberId,
    /// Grows with each new process of the member.
    pub incarnation: u8,
    pub phase: Phase,
    /// Answers to requests of an earlier life say nothing.
    pub life: u8,
    pub epoch: Epoch,
    /// The revision of the assignment taken, and the last one fully applied.
    pub taken: u64,
    pub applied: u64,
    pub target: BTreeMap<Partition, u64>,
    /// What it uses, with tokens.
    pub owned: BTreeMap<Partition, u64>,
    /// In ms; it stops there.
    pub deadline: u64,
    /// The number of its last request, and the last of them that was delivered.
    pub sent: u8,
    pub delivered: u8,
}

impl Member {
    pub fn new(i: usize) -> Member {
        Member {
            id: format!("m{i}").as_str().into(), incarnation: 0, phase: Phase::Joining, life: 0, epoch: 0, taken: 0, applied: 0, target: BTreeMap::new(), owned: BTreeMap::new(),
            deadline: 0, sent: 0, delivered: 0,
        }
    }
    pub fn process(&self) -> Incarnation { Incarnation(u128::from(self.incarnation) + 1) }
    /// What it may use at `now`.
    pub fn beliefs(&self, now: u64) -> impl Iterator<Item = (&Partition, u64)> { self.owned.iter().filter(move |_| now < self.deadline).map(|(p, t)| (p, *t)) }
    /// Whether it has stopped everything that it was asked to.
    pub fn settled(&self) -> bool { self.owned.keys().all(|p| self.target.contains_key(p)) }
    pub fn settle(&mut self) {
        let target = &self.target;
        self.owned.retain(|p, _| target.contains_key(p));
        self.applied = self.taken;
    }
    /// Stops everything and begins a new life.
    pub fn drop_all(&mut self, phase: Phase) {
        self.owned.clear();
        self.target.clear();
        (self.applied, self.epoch, self.deadline, self.phase) = (self.taken, 0, 0, phase);
        self.life += 1;
    }
    /// A new process under the same id, that knows nothing.
    pub fn restart(&mut self) {
        self.drop_all(Phase::Joining);
        (self.incarnation, self.taken, self.applied) = (self.incarnation + 1, 0, 0);
    }
    /// What it would send now. While it has something to stop it names no owned set, and may already say the revision it has taken: only a named set confirms.
    pub fn request(&self) -> Command {
        let heartbeat = Heartbeat { member: self.id.clone(), incarnation: self.process(), epoch: self.epoch, assignment_revision: AssignmentRevision(self.taken), ..Heartbeat::default() };
        match self.phase {
            Phase::Joining => Command::Heartbeat(Heartbeat {
                epoch: 0, rebalance_timeout_ms: Some(60_000), subscribed_topics: Some(BTreeSet::from(["t".into()])), owned: Some(BTreeSet::new()),
                assignment_revision: AssignmentRevision(self.applied), ..heartbeat
            }),
            Phase::Steady => Command::Heartbeat(Heartbeat { owned: self.settled().then(|| self.owned.keys().cloned().collect()), ..heartbeat }),
            Phase::Acknowledging | Phase::Leaving => {
                Command::Leave(Leave { member: self.id.clone(), incarnation: self.process(), assignment_revision: AssignmentRevision(self.applied), is_static: false })
            }
        }
    }
    /// An answer to a request that it sent at `sent` (ms) in `life`.
    pub fn answer(&mut self, now: u64, life: u8, sent: u64, result: &Result<Response, GroupError>) {
        if life != self.life {
            return;
        }
        match result {
            Ok(Response::Heartbeat(v)) if matches!(self.phase, Phase::Joining | Phase::Steady) => self.take(now, sent, v),
            Ok(Response::Left) if self.phase == Phase::Leaving => self.restart(),
            Ok(Response::Left) if self.phase == Phase::Acknowledging => self.drop_all(Phase::Joining),
            Ok(_) | Err(GroupError::Unavailable { .. } | GroupError::Loading { .. } | GroupError::MemberIdInUse { .. }) => {}
            Err(GroupError::FencedRemoved { .. }) => self.drop_all(Phase::Acknowledging),
            Err(GroupError::FencedIncarnation) => self.restart(),
            Err(_) if self.phase == Phase::Leaving => self.restart(),
            Err(_) => self.drop_all(Phase::Joining),
        }
    }
    fn take(&mut self, now: u64, sent: u64, v: &HeartbeatView) {
        if now >= sent + v.lease_ms {
            return; // past its own deadline it grants nothing
        }
        self.deadline = self.deadline.max(sent + v.lease_ms);
        self.phase = Phase::Steady;
        self.epoch = self.epoch.max(v.member_epoch);
        if v.assignment_revision.0 > self.taken
            && let Some(a) = &v.assignment
        {
            self.target = a.iter().map(|(p, t)| (p.clone(), t.0)).collect();
            self.taken = v.assignment_revision.0;
            self.owned.extend(self.target.clone());
        }
        if self.settled() {
            self.applied = self.taken;
        }
    }
}
