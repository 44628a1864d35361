//! The public vocabulary of the crate: settings, the state machine trait and the errors.
//!
//! Called by the node crate. Nothing here does I/O.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

/// Number of a replicated group. 0 is the metadata group, the shards follow from 1.
pub type GroupNo = u16;
/// Number of a node, unique in the cluster and never used again for another machine.
pub type NodeId = u64;

/// Deterministic state of one group, driven only by the committed log.
///
/// The same calls are made on every node in the same order. After a restart the state comes back through `restore`
/// with the newest local snapshot, then `apply` for the entries after it.
pub trait StateMachine: Send + 'static {
    /// Applies one committed payload. Indexes start at 1. The returned bytes go to the proposer if it is this node.
    fn apply(&mut self, index: u64, term: u64, payload: &[u8]) -> Vec<u8>;
    /// The whole state, as `restore` takes it.
    fn snapshot(&self) -> Vec<u8>;
    /// Replaces the whole state.
    fn restore(&mut self, bytes: &[u8]) -> Result<(), String>;
    /// Called after every entry of any kind, also after those that carry no payload.
    fn applied(&mut self, _index: u64, _term: u64) {}
}

/// Settings of the consensus layer. The times must be equal on all nodes: the lease depends on them.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    pub node: NodeId,
    /// `host:port` for connections of peers.
    pub listen: String,
    /// Shared secret of the cluster; a peer without it is refused.
    pub secret: Vec<u8>,
    pub heartbeat_ms: u64,
    pub election_min_ms: u64,
    pub election_max_ms: u64,
    /// How old a quorum's acknowledgement may be to answer under the lease. Must stay well below `election_max_ms`.
    pub lease_age_ms: u64,
    /// Silence after a restart, so that a forgotten promise to the old leader has run out. 0 only in tests.
    pub guard_ms: u64,
    /// A snapshot is taken after so many log entries.
    pub snapshot_every: u64,
}

impl Default for RaftConfig {
    fn default() -> Self {
        RaftConfig {
            node: 0,
            listen: "127.0.0.1:7400".into(),
            secret: Vec::new(),
            heartbeat_ms: 100,
            election_min_ms: 300,
            election_max_ms: 600,
            lease_age_ms: 480,
            guard_ms: 660,
            snapshot_every: 10_000,
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
