//! Baton's member for Rust programs: joins a group, keeps its lease alive, and hands out partitions with their tokens.
//!
//! `machine` holds every rule and has neither clock nor network; `member` drives it. Nothing here is used by the server.
//! The promise of one owner needs the program's help: ask `Guard::check` before *each* use of a partition, and give the token to the sink.
//! See `examples/worker.rs` for a worker to copy.
pub mod admin;
pub mod clock;
mod driver;
pub mod guard;
pub mod http;
pub mod machine;
pub mod member;
pub mod partition;
#[cfg(madsim)]
#[path = "../../api/src/quiet.rs"]
mod quiet;
#[cfg(madsim)]
pub mod tap;
// One source for the three crates that have switches; each has its own copy of the switch.
#[doc(hidden)]
#[path = "../../coordinator/src/seeded.rs"]
pub mod seeded;

pub use admin::Admin;
pub use baton_wire::{CommitResult, CommittedOffset};
pub use guard::{Guard, Lost, Offset};
pub use machine::Reason;
pub use member::{Builder, Event, Listener, Member};
pub use partition::{Granted, Partition};

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server refused: its problem says why and what to do.
    #[error("{0}")]
    Refused(Box<baton_wire::Problem>),
    /// No node gave an answer in time. The outcome is not known.
    #[error("no node answered in time: {0}")]
    Unreachable(String),
    /// An answer that this client cannot read.
    #[error("unreadable answer: {0}")]
    Unreadable(String),
    /// What the caller gave cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// The member has left or was stopped.
    #[error("the member has left")]
    Closed,
}

/// Random bits for incarnations, member ids and jitter. Never guessable: two processes must not draw one incarnation.
pub(crate) fn entropy() -> u128 {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u128::from_le_bytes(bytes),
        // Without random bytes no incarnation can be told from another: there is nothing safe to go on with.
        Err(e) => panic!("the system gives no random bytes: {e}"),
    }
}
