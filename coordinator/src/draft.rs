//! A scratch copy of one group on which a batch is decided. Dropping it undoes everything.

use crate::{command::*, config::Limits, ids::*, metadata::Metadata, record::*, replay, replay::Violation, state::*};
use std::{collections::BTreeSet, sync::Arc};

/// What a decision may look at besides the group. No clock: `wall_us` is only a floor for tokens and a stamp for history.
pub struct Context<'a> {
    pub metadata: &'a Metadata,
    pub limits: &'a Limits,
    pub wall_us: u64,
    /// The shard's time, for retention and for how long things took.
    pub time_ms: u64,
    /// False while the last target is younger than the assignment interval: members then stay on the old one.
    pub may_assign: bool,
    /// The group has been compared with this image already.
    pub facts_seen: bool,
    /// The leader's clock, and when the regular expressions were last looked at by it. None: not by this leader.
    pub now_ms: Millis,
    pub regexes_at: Option<Millis>,
    /// They are being looked at.
    pub resolving: bool,
    /// Remaining session of a member, ms (the leader's timer).
    pub session_remaining: &'a dyn Fn(&MemberId) -> u64,
    /// Remaining time of a hold, ms (the leader's timer).
    pub hold_remaining: &'a dyn Fn(&Partition) -> u64,
}

/// A finished draft.
pub struct Drafted {
    /// The group as it will be; None: deleted.
    pub group: Option<Arc<Group>>,
    pub records: Vec<Record>,
    /// The counter of tokens after it.
    pub last_token: u64,
}

/// The draft of one group, and the records that lead to it.
pub struct Draft<'a> {
    pub context: &'a Context<'a>,
    slot: Option<Arc<Group>>,
    pub records: Vec<Record>,
    last_token: u64,
    /// The target is to be computed beside the shard.
    pub compute: bool,
    /// The assignor failed: not again before the assignment interval is over.
    pub assignor_failed: bool,
    /// Regular expressions to be resolved beside the shard.
    pub resolve: Option<BTreeSet<String>>,
    /// Timers of classic members that the decision starts or ends, also if it is a refusal.
    pub effects: Vec<crate::classic::Effect>,
    /// A record that did not fit the draft: our bug; the batch is refused.
    violation: Option<Violation>,
}

impl<'a> Draft<'a> {
    /// A draft of `group`; tokens are drawn above `last_token` and above the wall clock.
    pub fn of(group: Option<Arc<Group>>, last_token: u64, context: &'a Context<'a>) -> Self {
        Self { context, slot: group, records: Vec::new(), last_token, compute: false, assignor_failed: false, resolve: None, effects: Vec::new(), violation: None }
    }
    /// Whether this node's image is older than what the group has seen: it decides nothing then that needs metadata (`safety.md` 23).
    pub fn image_is_behind(&self) -> bool { self.group().is_some_and(|g| self.context.metadata.revision < g.metadata_revision) }
    /// The group as drafted.
    pub fn group(&self) -> Option<&Group> { self.slot.as_deref() }
    /// Decides one fact and applies it to the draft.
    pub fn put(&mut self, record: Record) {
        if self.violation.is_none() {
            self.violation = replay::record(&mut self.slot, &record, &mut self.last_token).err();
        }
        self.records.push(record);
    }
    /// The next number for a token or an assignment revision: one counter for both, floored by the wall clock (`safety.md` 16).
    pub fn draw(&self, drawn: u64) -> u64 { if crate::seeded::on(206) { self.context.wall_us + drawn } else { (self.last_token + 1).max(self.context.wall_us) + drawn } }
    /// Bumps the group epoch and says why.
    pub fn bump(&mut self, kind: &str, cause: String, member: Option<&MemberId>) {
        let epoch = self.group().map_or(1, |g| g.epoch) + 1;
        self.put(Record::Epoch { epoch, time_ms: self.context.time_ms });
        self.note(kind, cause, member, Vec::new());
    }
    /// Says how long it took, once every member has arrived at the target of the group's epoch.
    pub fn settle(&mut self) {
        let Some(g) = self.group().filter(|g| g.unsettled_since.is_some() && g.state() == GroupState::Stable) else { return };
        let took_ms = self.context.time_ms.saturating_sub(g.unsettled_since.unwrap_or(self.context.time_ms));
        let cause = format!("every member has arrived at the target of epoch {}", g.epoch);
        self.put(Record::Settled);
        self.write(HistoryRecord { kind: "stable".into(), cause, took_ms: Some(took_ms), ..self.history_record() });
    }
    /// Writes a history record.
    pub fn note(&mut self, kind: &str, cause: String, member: Option<&MemberId>, moved: Vec<Moved>) {
        self.write(HistoryRecord { kind: kind.into(), cause, member: member.cloned(), moved, ..self.history_record() });
    }
    fn history_record(&self) -> HistoryRecord {
        HistoryRecord { revision: 0, at_ms: self.context.wall_us / 1000, kind: String::new(), cause: String::new(), member: None, moved: Vec::new(), took_ms: None }
    }
    fn write(&mut self, h: HistoryRecord) {
        self.put(Record::History(Box::new(h)));
    }
    /// The drafted group, its records and the counter; or the violation that makes the batch unfit.
    pub fn finish(self) -> Result<Drafted, Violation> {
        match self.violation {
            Some(v) => Err(v),
            None => Ok(Drafted { group: self.slot, records: self.records, last_token: self.last_token }),
        }
    }
}
