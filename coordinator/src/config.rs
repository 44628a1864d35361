//! Group settings and limits. Ranges are checked where a value enters the system; the core trusts them.

use serde::{Deserialize, Serialize};

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
}
impl Default for GroupConfig {
    fn default() -> Self { Self { session_timeout_ms: 15_000, heartbeat_interval_ms: 1_000, pending_interval_ms: 100, assignment_interval_ms: 100 } }
}

impl GroupConfig {
    /// Checks the ranges. The error names the setting and says what is allowed.
    pub fn validate(&self) -> Result<(), (String, String)> {
        let range = |name: &str, v: u64, lo: u64, hi: u64| if (lo..=hi).contains(&v) { Ok(()) } else { Err((name.to_string(), format!("{v} is not in {lo} to {hi} ms"))) };
        range("consumer.session.timeout.ms", self.session_timeout_ms, 3_000, 1_800_000)?;
        range("consumer.heartbeat.interval.ms", self.heartbeat_interval_ms, 100, 15_000)?;
        range("consumer.heartbeat.interval.pending.ms", self.pending_interval_ms, 0, 15_000)?;
        range("consumer.assignment.interval.ms", self.assignment_interval_ms, 0, 15_000)?;
        if self.session_timeout_ms < 3 * self.heartbeat_interval_ms {
            return Err(("consumer.session.timeout.ms".into(), format!("{} is less than three heartbeat intervals of {} ms", self.session_timeout_ms, self.heartbeat_interval_ms)));
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
    /// A drain is proposed when its records reach about this size, bytes.
    pub entry_bytes: usize,
}
impl Default for Limits {
    fn default() -> Self { Self { members_max: 100_000, groups_max: 100_000, subscription_max: 1_000, history_max: 1_000, entry_bytes: 256 << 10 } }
}

/// The clock drift bound ρ, in percent, and what follows from it (`safety.md` 10).
pub const DRIFT_PERCENT: u64 = 5;
/// The lease told to a member: 0.85 of its session; (1−ρ)/(1+ρ) is 0.904, the rest is the member's time to stop.
pub fn lease_ms(session_ms: u64) -> u64 { session_ms * 85 / 100 }
