//! Classic groups: JoinGroup, SyncGroup, Heartbeat, LeaveGroup and commits by generation, as unmodified clients of the older protocol send them.
//!
//! A rebalance has two steps. In the join phase every member says again which strategies it knows; it ends with a new generation and the list of its
//! members. In the sync phase one of them, the assigning member, brings what each gets. What members say and get is opaque here: any protocol type works.
//!
//! Replicated (`state`): generation, protocol, phase, assigning member, and per member what it said, what it was assigned and its session. So an answer
//! never reveals a generation or a list of members that a next leader could contradict, and no generation has two lists.
//! The leader's own (`soft`): who waits for an answer to a join or a sync, who was told an id and has not come back, who has not synced yet, and all
//! timers. A new leader has none of it: it starts from the replicated phase, gives everybody a full session, and whoever waited asks again. A join phase that was
//! under way goes on (heartbeats are answered REBALANCE_IN_PROGRESS); in a sync phase nobody has an assignment yet, so the assigning member
//! makes one anew.
//!
//! The pure decisions are in `join`, `sync`, `leave` and `rebalance`; `shard/classic.rs` fits them to the shard's queue and timers.

pub mod command;
pub mod join;
pub mod leave;
pub mod rebalance;
pub mod record;
pub mod soft;
pub mod state;
pub mod sync;

pub use command::*;
pub use record::{ClassicRecord, ConvertedBack, ConvertedMember};
pub use soft::{Due, Effect, Soft, Turn};
pub use state::{Classic, ClassicMember, ClassicPart, Opaque, Phase};

/// The settings of classic groups, with Kafka's names and defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `group.initial.rebalance.delay.ms`: how long the first join phase of an empty group waits for more members; each newcomer extends it.
    pub initial_rebalance_delay_ms: u64,
    /// `group.max.size`.
    pub members_max: usize,
    /// `group.min.session.timeout.ms`.
    pub session_timeout_min_ms: u64,
    /// `group.max.session.timeout.ms`.
    pub session_timeout_max_ms: u64,
    /// How long a member may wait for the answer to its first join: it cannot heartbeat meanwhile, and a client that gave up comes back under another id.
    pub first_join_timeout_ms: u64,
    /// `group.consumer.migration.policy`.
    pub migration: Migration,
}
/// Which groups with members may be converted. Empty ones always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Migration {
    Bidirectional,
    /// Classic to consumer only.
    Upgrade,
    /// Consumer to classic only.
    Downgrade,
    Disabled,
}
impl Migration {
    pub fn upgrades(self) -> bool { matches!(self, Self::Bidirectional | Self::Upgrade) }
    pub fn downgrades(self) -> bool { matches!(self, Self::Bidirectional | Self::Downgrade) }
}
impl std::str::FromStr for Migration {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "bidirectional" => Ok(Self::Bidirectional),
            "upgrade" => Ok(Self::Upgrade),
            "downgrade" => Ok(Self::Downgrade),
            "disabled" => Ok(Self::Disabled),
            _ => Err(format!("{s:?} is no migration policy: use bidirectional, upgrade, downgrade or disabled")),
        }
    }
}
impl Default for Config {
    fn default() -> Self {
        Self { initial_rebalance_delay_ms: 3_000, members_max: 100_000, session_timeout_min_ms: 6_000, session_timeout_max_ms: 1_800_000, first_join_timeout_ms: 300_000, migration: Migration::Bidirectional }
    }
}
