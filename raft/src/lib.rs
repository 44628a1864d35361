//! Replicated groups: consensus, its log, its snapshots and the peer connections.
//!
//! One process runs many Raft groups (group 0 is the metadata, the others are shards) over one write-ahead log and
//! one connection per peer. The node crate gives each group a [`StateMachine`] and proposes opaque payloads.
//! No type of the consensus library leaves this crate, so that an upgrade of it touches this crate only.

mod api;
#[cfg(not(madsim))]
mod boot_rt;
mod campaign;
mod checkpoint;
mod cut;
mod failpoint;
#[cfg(madsim)]
pub mod faults;
mod group;
mod identity;
mod log;
mod marks;
mod net;
mod node;
mod peer;
mod policy;
mod rt;
#[cfg(madsim)]
mod sim_rt;
mod sm;
mod snapshot;
mod types;
mod writer;

pub use api::{ForwardHandler, GroupNo, GroupStatus, NoLease, NodeId, PeerError, ProposeError, RaftConfig, StartError, StateMachine, FrozenChanges, freeze_whole, load_whole};
pub use checkpoint::Cuts;
pub use cut::{Changes, Stored};
pub use group::GroupHandle;
pub use identity::{Anybody, Claim, Identity};
pub use rt::blocking;
pub use node::RaftNode;

/// Parts for this crate's own conformance tests. Not an interface.
#[doc(hidden)]
pub mod internal {
    pub use crate::checkpoint::Failure;
    pub use crate::log::GroupStore;
    pub use crate::writer::LogWriter;
    pub use crate::cut::{CutBug, GroupCut};
    pub use crate::sm::MachineHost;
    pub use crate::snapshot::SnapshotDir;
    pub use crate::types::TypeConfig;

    /// Bytes as a log entry carries them.
    pub fn payload(bytes: Vec<u8>) -> crate::types::Payload {
        crate::types::Payload(bytes.into())
    }
    /// A group's cut out of the store.
    pub fn cut(cuts: &crate::Cuts, group: u16) -> std::io::Result<GroupCut> {
        cuts.group(group)
    }
}
