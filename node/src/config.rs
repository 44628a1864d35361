//! The settings of a node.

use crate::clock::Clock;
use baton_coordinator::config::Limits;
use baton_raft::RaftConfig;
use std::collections::BTreeMap;

/// How a node is started. `peers`, `shards` and the Raft times must be equal on all first nodes.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This node's id, above 0, never used again for another data directory.
    pub node: u64,
    /// The HTTP address that other nodes tell their callers (`host:port`).
    pub http_advertise: String,
    /// The first nodes: id → peer address, this node included.
    pub peers: BTreeMap<u64, String>,
    /// 1 to 256; fixed for the cluster's life.
    pub shards: u16,
    pub limits: Limits,
    /// Its `node` is overwritten by the one above.
    pub raft: RaftConfig,
    /// The random id of this data directory, kept in its `node.json`; never 0.
    pub directory: u128,
    /// The cluster that this directory is known to belong to; 0: not known yet. A directory never changes its cluster.
    pub cluster: u128,
    /// Size of a log segment.
    pub segment_bytes: u64,
    pub clock: Clock,
}
impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            node: 0, http_advertise: String::new(), peers: BTreeMap::new(), shards: 8, limits: Limits::default(), raft: RaftConfig::default(), directory: 0, cluster: 0,
            segment_bytes: 64 << 20, clock: Clock::system(),
        }
    }
}
