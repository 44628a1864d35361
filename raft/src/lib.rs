//! Replicated groups: consensus, its log, its snapshots and the peer connections.
//!
//! One process runs many Raft groups (group 0 is the metadata, the others are shards) over one write-ahead log and
//! one connection per peer. The node crate gives each group a [`StateMachine`] and proposes opaque payloads.
//! No type of the consensus library leaves this crate, so that an upgrade of it touches this crate only.

mod api;
mod group;
mod lease;
mod log;
mod net;
mod node;
mod peer;
mod rt;
#[cfg(madsim)]
mod sim_rt;
mod sm;
mod types;

pub use api::{ForwardHandler, GroupNo, GroupStatus, NoLease, NodeId, PeerError, ProposeError, RaftConfig, StartError, StateMachine};
pub use group::GroupHandle;
pub use node::RaftNode;

/// Parts for this crate's own conformance tests. Not an interface.
#[doc(hidden)]
pub mod internal {
    pub use crate::log::{GroupStore, LogWriter};
    pub use crate::sm::{MachineHost, SnapshotDir};
    pub use crate::types::TypeConfig;
}
