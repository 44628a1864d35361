//! What only the leader knows of a classic group, and one turn at it: a command in; records on the draft, answers and timers out.
//!
//! A turn moves the soft state at once, so it must not be undone: the shard takes a turn only when its records can be proposed at once, and
//! starts the soft state anew, as a new leader does, when a batch is lost.

use super::{command::*, state::*};
use crate::{command::*, draft::Draft, ids::*, record::Record, shard::Ticket};
use std::collections::{BTreeMap, BTreeSet};

/// The leader's own knowledge of one classic group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Soft {
    /// Members whose join waits for the end of the join phase.
    pub joining: BTreeMap<MemberId, Ticket>,
    /// Members whose sync waits for the assignment.
    pub syncing: BTreeMap<MemberId, Ticket>,
    /// Members that have never had an answer to a join: they cannot heartbeat yet.
    pub new: BTreeSet<MemberId>,
    /// Ids that were told and have not come back → the session in which they must.
    pub pending: BTreeMap<MemberId, u64>,
    /// Members of this generation that have not synced yet.
    pub pending_sync: BTreeSet<MemberId>,
    /// A static member was replaced before it had synced. Its place counts as missing whoever has it now: there is a rebalance when the time to sync is over (as in Kafka).
    pub unsynced_place: bool,
    /// Set while the join phase is the first after the group was empty.
    pub initial: Option<Initial>,
    /// A member joined during the delay of a first join phase: it is extended. What came too late to extend one is counted for the next (as in Kafka).
    pub extend: bool,
}
/// The delay of a first join phase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Initial {
    pub delay_ms: u64,
    /// What is left to extend it by.
    pub remaining_ms: u64,
}

/// What the leader's timers ask for. Each exists once per group (and member), so arming it again moves it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// The member, or the id that was told, was not heard of for its session.
    Session { member: MemberId },
    /// The join phase has lasted as long as it may.
    Join,
    /// The sync phase has.
    Sync,
    /// A classic member of a consumer group was called to join, and has its rebalance timeout to do so.
    JoinOf { member: MemberId },
    /// It has joined, and has its rebalance timeout to sync.
    SyncOf { member: MemberId },
}

/// What a turn asks the shard to do, besides its records.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Answer, once the records of this turn and of those before it are committed.
    Answer(Ticket, Result<Response, GroupError>),
    /// Fire after so many ms.
    Arm(Due, u64),
    /// The same, unless it runs already.
    ArmIfAbsent(Due, u64),
    /// The session of a member of a consumer group begins anew.
    Heard(MemberId),
    Cancel(Due),
}

/// One command at one group.
pub struct Turn<'t, 'd> {
    pub group: &'t GroupId,
    pub draft: &'t mut Draft<'d>,
    pub soft: &'t mut Soft,
    pub effects: Vec<Effect>,
}

impl<'t, 'd> Turn<'t, 'd> {
    pub fn new(group: &'t GroupId, draft: &'t mut Draft<'d>, soft: &'t mut Soft) -> Self { Self { group, draft, soft, effects: Vec::new() } }
    /// The classic group as drafted.
    pub fn classic(&self) -> Option<&Classic> { self.draft.group().and_then(|g| g.classic.as_deref()) }
    pub fn phase(&self) -> Phase { self.classic().map_or(Phase::Empty, |c| c.phase) }
    pub fn put(&mut self, record: super::ClassicRecord) { self.draft.put(Record::Classic(Box::new(record))); }
    pub fn note(&mut self, kind: &str, cause: String, member: Option<&MemberId>) { self.draft.note(kind, cause, member, Vec::new()); }
    pub fn arm(&mut self, due: Due, after_ms: u64) { self.effects.push(Effect::Arm(due, after_ms)); }
    pub fn cancel(&mut self, due: Due) { self.effects.push(Effect::Cancel(due)); }
    pub fn answer(&mut self, ticket: Ticket, answer: ClassicAnswer) { self.effects.push(Effect::Answer(ticket, Ok(Response::Classic(answer)))); }
    /// Refuses; `member` is the id that the refusal names, if any.
    pub fn refuse(&mut self, ticket: Ticket, code: ClassicCode, member: Option<&MemberId>) {
        self.effects.push(Effect::Answer(ticket, Err(GroupError::Classic { code, member: member.cloned() })));
    }
    /// Holds a join or sync; an earlier one of the same member was given up by its client.
    pub fn superseded(&mut self, ticket: Option<Ticket>) {
        if let Some(ticket) = ticket {
            self.effects.push(Effect::Answer(ticket, Err(GroupError::Unavailable { reason: "a later request of the same member took the place of this one".into() })));
        }
    }
    /// Whether nobody is missing: every member waits in the join phase, and every id that was told has come back.
    pub fn all_joined(&self) -> bool { self.classic().is_some_and(|c| c.members.len() == self.soft.joining.len()) && self.soft.pending.is_empty() }
    /// The member's session starts again.
    pub fn heard(&mut self, member: &MemberId) {
        if let Some(session) = self.classic().and_then(|c| c.members.get(member)).map(|m| m.session_timeout_ms) {
            self.arm(Due::Session { member: member.clone() }, session);
        }
    }
}

impl Soft {
    /// The soft state of a leader that finds the group as it is: nobody waits, and in a sync phase everybody must sync again.
    pub fn found(c: &Classic) -> Soft {
        let pending_sync = if c.phase == Phase::Completing { c.members.keys().cloned().collect() } else { BTreeSet::new() };
        Soft { pending_sync, ..Soft::default() }
    }
    /// Whether nobody is waited for in the sync phase.
    pub fn all_synced(&self) -> bool { self.pending_sync.is_empty() && !self.unsynced_place }
    /// Every request that is held.
    pub fn held(&self) -> impl Iterator<Item = Ticket> { self.joining.values().chain(self.syncing.values()).copied() }
    /// The timers of a leader that takes over, or begins anew after a lapse of its lease: all at full length.
    pub fn timers(&self, c: &Classic, first_join_timeout_ms: u64) -> Vec<(Due, u64)> {
        let session = |(id, m): (&MemberId, &std::sync::Arc<ClassicMember>)| {
            let after = if self.new.contains(id) { first_join_timeout_ms } else { m.session_timeout_ms };
            (Due::Session { member: id.clone() }, after)
        };
        let mut out: Vec<(Due, u64)> = c.members.iter().map(session).collect();
        out.extend(self.pending.iter().map(|(id, session)| (Due::Session { member: id.clone() }, *session)));
        match c.phase {
            Phase::Preparing => out.push((Due::Join, self.initial.map_or(c.rebalance_timeout_ms(), |i| i.delay_ms))),
            Phase::Completing | Phase::Stable if !self.all_synced() => out.push((Due::Sync, c.rebalance_timeout_ms())),
            Phase::Empty | Phase::Completing | Phase::Stable => {}
        }
        out
    }
}
