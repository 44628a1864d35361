//! A node as the backend of the API: its own answers in the API's words.

use crate::backend::{Backend, GroupItem, GroupList, Refused};
use baton_coordinator::{
    command::{Request, Response},
    ids::GroupId,
    metadata::{MetaCommand, Metadata},
};
use baton_node::{MetaRefusal, Metric, Node, Refusal, ShardView};
use baton_wire as wire;
use std::{sync::Arc, time::Duration};

impl From<Refusal> for Refused {
    fn from(r: Refusal) -> Refused {
        match r {
            Refusal::Group(e) => Refused::Group(e),
            Refusal::Unavailable { reason, leader_http, retry_after_ms } => Refused::Unavailable { reason, leader_http, retry_after_ms },
        }
    }
}
impl From<MetaRefusal> for Refused {
    fn from(r: MetaRefusal) -> Refused {
        match r {
            MetaRefusal::Meta(e) => Refused::Meta(e),
            MetaRefusal::Unavailable { reason, leader_http, retry_after_ms } => Refused::Unavailable { reason, leader_http, retry_after_ms },
        }
    }
}

impl Backend for Node {
    async fn request(&self, request: Request, deadline: Duration) -> Result<Response, Refused> { Ok(Node::request(self, request, deadline).await?) }
    async fn meta(&self, command: MetaCommand) -> Result<u64, Refused> { Ok(Node::meta(self, command).await?) }
    fn metadata(&self) -> Arc<Metadata> { Node::metadata(self) }
    async fn fresh_metadata(&self) -> Result<Arc<Metadata>, Refused> { Ok(Node::fresh_metadata(self).await?) }

    async fn list_groups(&self) -> GroupList {
        let all = Node::list_groups(self).await;
        // Each shard has its own log: the lowest index is the one that holds for all of the list.
        let as_of_index = all.iter().map(|g| g.as_of_index).min();
        let item = |g: baton_node::GroupSummary| GroupItem { group: g.group, classic: g.classic, state: g.state, members: g.members as u64, revision: g.revision };
        GroupList { groups: all.into_iter().map(item).collect(), as_of_index }
    }

    fn cluster(&self) -> wire::ClusterView {
        let v = Node::cluster(self);
        let node = |n: baton_node::NodeView| wire::NodeView { node_id: n.id, http: n.http, peer: n.peer, alive: n.alive, draining: n.draining };
        wire::ClusterView {
            cluster_id: if v.cluster_id == 0 { None } else { Some(wire::hex128(v.cluster_id)) },
            node_id: v.node,
            meta_revision: v.meta_revision,
            nodes: v.nodes.into_iter().map(node).collect(),
            meta: shard(v.meta),
            shards: v.shards.into_iter().map(shard).collect(),
        }
    }

    fn leader_http(&self, group: Option<&GroupId>) -> Option<String> {
        match group {
            Some(group) => Node::leader_http(self, group),
            None => {
                let v = Node::cluster(self);
                v.nodes.into_iter().find(|n| Some(n.id) == v.meta.leader)?.http
            }
        }
    }

    fn ready(&self) -> Result<(), String> { Node::ready(self) }

    fn metrics(&self) -> Vec<Metric> { Node::metrics(self) }
}

fn shard(s: ShardView) -> wire::ShardView {
    wire::ShardView {
        shard: s.shard,
        leader: s.leader,
        term: s.term,
        applied: s.applied,
        last_log: s.last_log,
        voters: s.voters,
        serving: s.serving,
        stopped: s.stopped,
    }
}
