//! The public vocabulary of the crate: settings, the state machine trait and the errors.
//!
//! Called by the node crate. Nothing here does I/O.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use crate::cut::{Changes, Stored};
use crate::identity::{Anybody, Identity};

/// Number of a replicated group. 0 is the metadata group, the shards follow from 1.
pub type GroupNo = u16;
/// Number of a node, unique in the cluster and never used again for another machine.
pub type NodeId = u64;

/// Deterministic state of one group, driven only by the committed log.
///
/// The same calls are made on every node in the same order. After a restart the state comes back through `load`
/// from the newest local cut, then `apply` for the entries after it.
pub trait StateMachine: Send + 'static {
    /// Applies one committed payload. Indexes start at 1. The returned bytes go to the proposer if it is this node.
    fn apply(&mut self, index: u64, term: u64, payload: &[u8]) -> Vec<u8>;
    /// What changed since the last call, frozen: cheap, because it is on the way of every entry. It is encoded later, on another thread.
    fn freeze(&mut self) -> FrozenChanges;
    /// The oldest changes that were frozen and not yet reported here are in the store now.
    fn written(&mut self) {}
    /// Replaces the whole state by what is stored. What was frozen before will not be written.
    fn load(&mut self, stored: &Stored) -> Result<(), String>;
    /// Called once before all else: where this machine's pairs are, for reads beside the state.
    fn attach(&mut self, _stored: Stored) {}
    /// Called after every entry of any kind, also after those that carry no payload.
    fn applied(&mut self, _index: u64, _term: u64) {}
}

/// Changes of a machine that are encoded when they are written.
pub type FrozenChanges = Box<dyn FnOnce() -> Changes + Send>;

/// For a machine whose state is one value: all of it as one pair.
pub fn freeze_whole(state: Vec<u8>) -> FrozenChanges {
    Box::new(move || vec![(WHOLE.to_vec(), Some(state))])
}

/// What [`freeze_whole`] stored.
pub fn load_whole(stored: &Stored) -> Result<Vec<u8>, String> {
    stored.get(WHOLE).map_err(|e| e.to_string())?.ok_or_else(|| "the state is missing".into())
}

const WHOLE: &[u8] = b"whole";

/// Settings of the consensus layer. The times must be equal on all nodes: the lease depends on them.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    pub node: NodeId,
    /// `host:port` for connections of peers.
    pub listen: String,
    /// Shared secret of the cluster; a peer without it is refused.
    pub secret: Vec<u8>,
    /// Which peers are who they say they are.
    pub identity: Arc<dyn Identity>,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How old a quorum's acknowledgement may be to answer under the lease. Must stay well below `election_max_ms`.
    pub lease_age_ms: u64,
    /// Silence after a restart, so that a forgotten promise to the old leader has run out. 0 only in tests.
    pub guard_ms: u64,
    /// A snapshot is taken after so many log entries.
    pub snapshot_every: u64,
    /// And when a group appended so many bytes since its last one.
    pub snapshot_bytes: u64,
    /// A group whose oldest entry lies more than so many log segments back is told to snapshot.
    pub pin_segments: u64,
    /// Time between two checkpoints: what a restart has to replay at most, beside what large states take.
    pub checkpoint_ms: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        RaftConfig {
            node: 0,
            listen: "127.0.0.1:7400".into(),
            secret: Vec::new(),
            identity: Arc::new(Anybody),
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 600,
            lease_age_ms: 480,
            guard_ms: 660,
            snapshot_every: 10_000,
            snapshot_bytes: 64 << 20,
            pin_segments: 2,
            checkpoint_ms: 2_000,
        }
    }
}

/// Answers an opaque call of a peer. The bytes returned go back to it.
pub type ForwardHandler = Arc<dyn Fn(NodeId, Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> + Send + Sync>;

/// Why a node or a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("settings: {0}")]
    Config(String),
    #[error("listen on {0}: {1}")]
    Listen(String, io::Error),
    #[error("storage: {0}")]
    Io(#[from] io::Error),
    #[error("snapshot of group {group}: {reason}; restore the file from a backup, or remove this node and add it again under a new number")]
    Snapshot { group: GroupNo, reason: String },
    #[error("group {group}: the checkpoint cannot be read: {reason}; start a version that can, or move the folder `state` away: it is built anew from the snapshots and the log")]
    State { group: GroupNo, reason: String },
    #[error("group {group}: {reason}. The log has lost what this node once acknowledged (a file is missing, or an old copy was put back), so it must not vote: remove this node from the cluster and add it again under a new node id with an empty folder")]
    Witness { group: GroupNo, reason: String },
    #[error("group {group}: {reason}")]
    Group { group: GroupNo, reason: String },
}

/// Why a call to a peer has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// The peer cannot have seen the call: safe to send again.
    #[error("not sent: {0}")]
    NotSent(String),
    /// The peer may have seen the call and acted on it.
    #[error("outcome unknown: {0}")]
    Unknown(String),
}

/// Why a proposal has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("proposal failed: {reason}")]
pub struct ProposeError {
    pub leader: Option<NodeId>,
    pub reason: String,
    /// The entry is in a log and may still be committed.
    pub outcome_unknown: bool,
}

/// This node holds no valid lease for the group.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no lease, leader is {leader:?}")]
pub struct NoLease {
    pub leader: Option<NodeId>,
}

/// What this node knows of a group. May lag behind the consensus core by a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    pub term: u64,
    pub leader: Option<NodeId>,
    pub is_leader: bool,
    pub last_applied: u64,
    pub last_log: u64,
    pub voters: Vec<NodeId>,
    /// Why this node takes no more part in the group, for example a failed disk. Only a restart helps.
    pub failed: Option<String>,
}
