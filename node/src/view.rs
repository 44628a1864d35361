//! What the node answers: refusals, lists and pictures of the cluster. Plain data; read by the HTTP front.

use baton_coordinator::{command::{GroupError, GroupState}, ids::GroupId, metadata::MetaError};
use thiserror::Error;

/// Why a request to a group has no success.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Refusal {
    /// The group's leader refused it, under a valid lease. Never `GroupError::Unavailable`: that is the other variant.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Nobody could answer for certain: 503. The outcome is unknown; the same request may be sent again.
    #[error("{reason}")]
    Unavailable { reason: String, leader_http: Option<String>, retry_after_ms: u64 },
}

/// Why a change of the meta state has no success.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum MetaRefusal {
    /// Refused by the rules; nothing changed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// No leader, or the outcome is unknown: 503.
    #[error("{reason}")]
    Unavailable { reason: String, leader_http: Option<String>, retry_after_ms: u64 },
}

/// One group in a list.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSummary {
    pub group: GroupId,
    /// It speaks the classic protocol.
    pub classic: bool,
    pub state: GroupState,
    pub members: usize,
    pub revision: u64,
    /// 0 to shards - 1.
    pub shard: u16,
    /// The log index of the shard up to which this node has applied: a list may be a little old and says so.
    pub as_of_index: u64,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterView {
    /// 0 until the cluster's record is known.
    pub cluster_id: u128,
    /// The node that answers.
    pub node: u64,
    pub meta_revision: u64,
    pub nodes: Vec<NodeView>,
    /// The meta group's Raft state (its `shard` is of no meaning).
    pub meta: ShardView,
    /// In order of the shard number.
    pub shards: Vec<ShardView>,
}
/// One node of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeView {
    pub id: u64,
    /// Its HTTP address, once it has told it.
    pub http: Option<String>,
    pub peer: String,
    /// It answered a ping lately.
    pub alive: bool,
    pub draining: bool,
}
/// One Raft group as this node knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardView {
    /// 0 to shards - 1.
    pub shard: u16,
    pub leader: Option<u64>,
    pub term: u64,
    /// Applied on this node.
    pub applied: u64,
    pub last_log: u64,
    pub voters: Vec<u64>,
    /// This node leads it and its gate is open.
    pub serving: bool,
    /// Why this node has stopped applying, if it has.
    pub stopped: Option<String>,
}

/// What a number is, as Prometheus tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows while the process lives.
    Counter,
    Gauge,
    /// One part of a histogram: its name has a suffix.
    Histogram,
}

/// One number of `/metrics`.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// With prefix `baton_`.
    pub name: &'static str,
    /// `_bucket`, `_sum` or `_count` of a histogram, else nothing.
    pub suffix: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub labels: Vec<(&'static str, String)>,
    pub value: f64,
}

/// Why a node did not start. Every variant says what to do.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("settings: {0}")]
    Config(String),
    #[error("the log on disk: {0}")]
    Log(String),
    #[error("the log is empty, but there are checkpoints or snapshots of it: it was lost or moved. Give the node its log back, or remove it from the cluster and add it again under a new node id with an empty folder")]
    LogLost,
    #[error("the checkpoints or snapshots on disk: {0}")]
    State(String),
    #[error("node {node} has an empty data folder, but {peer} belongs to a cluster already: this cluster exists; join it under a new node id, or give node {node} its old folder back")]
    ClusterExists { node: u64, peer: u64 },
    #[error("random numbers: {0}")]
    Random(String),
    #[error(transparent)]
    Raft(#[from] baton_raft::StartError),
}
