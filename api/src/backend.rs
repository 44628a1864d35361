//! What the HTTP front needs of a node. The node implements it in `node.rs`; tests use a fake.

use baton_coordinator::{
    command::{GroupError, GroupState, Request, Response},
    ids::GroupId,
    metadata::{MetaCommand, MetaError, Metadata},
};
use baton_node::Metric;
use baton_wire::ClusterView;
use std::{future::Future, sync::Arc, time::Duration};

/// A node, or what stands for one.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Carries out a request to a group, wherever its leader is.
    fn request(&self, request: Request, deadline: Duration) -> impl Future<Output = Result<Response, Refused>> + Send;
    /// Changes topics or settings; answers the revision at which the change holds.
    fn meta(&self, command: MetaCommand) -> impl Future<Output = Result<u64, Refused>> + Send;
    /// The committed topics and settings as this node has applied them.
    fn metadata(&self) -> Arc<Metadata>;
    /// The same, not older than anything that was confirmed before this call.
    fn fresh_metadata(&self) -> impl Future<Output = Result<Arc<Metadata>, Refused>> + Send;
    /// All groups, in any order.
    fn list_groups(&self) -> impl Future<Output = GroupList> + Send;
    /// The cluster as this node sees it.
    fn cluster(&self) -> ClusterView;
    /// `host:port` of the node that answers for a group directly; None: for topics, settings and the cluster.
    fn leader_http(&self, group: Option<&GroupId>) -> Option<String>;
    /// Whether this node can serve, or why not.
    fn ready(&self) -> Result<(), String>;
    /// Everything that is counted.
    fn metrics(&self) -> Vec<Metric>;
}

/// Why nothing was carried out, or not for certain.
#[derive(Clone, Debug, PartialEq)]
pub enum Refused {
    /// The group said no.
    Group(GroupError),
    /// The meta state said no.
    Meta(MetaError),
    /// Nobody could say: no leader, loading, too late.
    Unavailable { reason: String, leader_http: Option<String>, retry_after_ms: u64 },
}

/// The groups of all shards.
#[derive(Clone, Debug, Default)]
pub struct GroupList {
    pub groups: Vec<GroupItem>,
    /// Set when some of it is one node's applied state only.
    pub as_of_index: Option<u64>,
}

/// A group in a list.
#[derive(Clone, Debug)]
pub struct GroupItem {
    pub group: GroupId,
    /// It speaks the classic protocol.
    pub classic: bool,
    pub state: GroupState,
    pub members: u64,
    pub revision: u64,
}
