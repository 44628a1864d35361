//! Group settings and limits. Ranges are checked where a value enters the system; the core trusts them.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, ops::RangeInclusive};

/// The dynamic settings of a group. Defaults are Baton's (`docs/ARCHITECTURE.md`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// `consumer.session.timeout.ms`, 3,000–1,800,000.
    pub session_timeout_ms: u64,
    /// `consumer.heartbeat.interval.ms`, 100–15,000.
    pub heartbeat_interval_ms: u64,
    /// `consumer.heartbeat.interval.pending.ms`: asked of members with pending work. 0: off.
    pub pending_interval_ms: u64,
    /// `consumer.assignment.interval.ms`: between two computations of a target.
    pub assignment_interval_ms: u64,
    /// `offsets.retention.minutes`: how long an offset outlives its commit once nobody subscribes to its topic, and an empty group its last change.
    pub offsets_retention_minutes: u64,
    /// `consumer.assignment.moves.max`: how many partitions one computation of the assignor `weighted` may take from an owner that could keep them. 0: any number.
    pub moves_max: u64,
}
impl Default for GroupConfig {
    fn default() -> Self {
        Self { session_timeout_ms: 15_000, heartbeat_interval_ms: 1_000, pending_interval_ms: 100, assignment_interval_ms: 100, offsets_retention_minutes: 10_080, moves_max: 0 }
    }
}

/// One setting of a group, by its name. What is set is kept setting by setting, so two changes at one moment do not undo each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Setting {
    SessionTimeout,
    HeartbeatInterval,
    PendingInterval,
    AssignmentInterval,
    OffsetsRetention,
    MovesMax,
}
/// The settings of a group that differ from the defaults because somebody said so.
pub type Overrides = BTreeMap<Setting, u64>;

impl Setting {
    /// All of them.
    pub const ALL: [Setting; 6] =
        [Setting::SessionTimeout, Setting::HeartbeatInterval, Setting::PendingInterval, Setting::AssignmentInterval, Setting::OffsetsRetention, Setting::MovesMax];
    /// The name that people and clients use.
    pub fn name(self) -> &'static str {
        match self {
            Setting::SessionTimeout => "consumer.session.timeout.ms",
            Setting::HeartbeatInterval => "consumer.heartbeat.interval.ms",
            Setting::PendingInterval => "consumer.heartbeat.interval.pending.ms",
            Setting::AssignmentInterval => "consumer.assignment.interval.ms",
            Setting::OffsetsRetention => "offsets.retention.minutes",
            Setting::MovesMax => "consumer.assignment.moves.max",
        }
    }
    /// The setting of that name.
    pub fn named(name: &str) -> Option<Setting> { Setting::ALL.into_iter().find(|s| s.name() == name) }
    /// What it may be.
    pub fn range(self) -> RangeInclusive<u64> {
        match self {
            Setting::SessionTimeout => 3_000..=1_800_000,
            Setting::HeartbeatInterval => 100..=15_000,
            Setting::PendingInterval | Setting::AssignmentInterval => 0..=15_000,
            Setting::OffsetsRetention => 1..=5_256_000,
            Setting::MovesMax => 0..=1_000_000_000,
        }
    }
    fn of(self, c: &mut GroupConfig) -> &mut u64 {
        match self {
            Setting::SessionTimeout => &mut c.session_timeout_ms,
            Setting::HeartbeatInterval => &mut c.heartbeat_interval_ms,
            Setting::PendingInterval => &mut c.pending_interval_ms,
            Setting::AssignmentInterval => &mut c.assignment_interval_ms,
            Setting::OffsetsRetention => &mut c.offsets_retention_minutes,
            Setting::MovesMax => &mut c.moves_max,
        }
    }
}

impl GroupConfig {
    /// The defaults with what was set.
    pub fn with(overrides: &Overrides) -> GroupConfig {
        let mut c = GroupConfig::default();
        for (s, v) in overrides {
            *s.of(&mut c) = *v;
        }
        c
    }
    /// Checks the ranges. The error names the setting and says what is allowed.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let mut c = self.clone();
        for s in Setting::ALL {
            let (v, range) = (*s.of(&mut c), s.range());
            if !range.contains(&v) {
                return Err((s.name().into(), format!("{v} is not in {} to {}", range.start(), range.end())));
            }
        }
        if self.session_timeout_ms < 3 * self.heartbeat_interval_ms {
            let detail = format!("{} is less than three heartbeat intervals of {} ms", self.session_timeout_ms, self.heartbeat_interval_ms);
            return Err((Setting::SessionTimeout.name().into(), detail));
        }
        Ok(())
    }
}

/// What a shard refuses to go beyond.
#[derive(Clone, Debug)]
pub struct Limits {
    pub members_max: usize,
    pub groups_max: usize,
    pub subscription_max: usize,
    pub history_max: usize,
    /// The assignors that members may ask for; the first is the default.
    pub assignors: Vec<String>,
    /// Targets of groups with at least so many members and partitions together are computed beside the shard, not in it.
    pub offload_from: usize,
    /// A drain is proposed when its records reach about this size, bytes.
    pub entry_bytes: usize,
    pub classic: crate::classic::Config,
}
impl Default for Limits {
    fn default() -> Self {
        Self {
            members_max: 100_000, groups_max: 100_000, subscription_max: 1_000, history_max: 1_000, assignors: crate::assign::ASSIGNORS.map(String::from).to_vec(), offload_from: 5_000,
            entry_bytes: 256 << 10, classic: crate::classic::Config::default(),
        }
    }
}

impl Limits {
    /// The assignor of groups whose members name none.
    pub fn default_assignor(&self) -> &str { self.assignors.first().map_or(crate::assign::ASSIGNORS[0], String::as_str) }
}

/// The clock drift bound ρ, in percent, and what follows from it (`safety.md` 10).
pub const DRIFT_PERCENT: u64 = 5;
/// The lease told to a member: 0.85 of its session; (1−ρ)/(1+ρ) is 0.904, the rest is the member's time to stop.
pub fn lease_ms(session_ms: u64) -> u64 { if crate::seeded::on(181) { session_ms } else { session_ms * 85 / 100 } }
