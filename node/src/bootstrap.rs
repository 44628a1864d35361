//! The first start: the first nodes find each other, the lowest id gives all groups their voters and writes the cluster's record; every node
//! registers its data directory.
//!
//! An empty folder never votes before all first nodes have said that they know no cluster (`safety.md` 22): an emptied node that came back at once
//! could vote a second time in a term. Then it notes in its log that it takes part: a node that dies while the cluster is being formed finds that note and goes
//! on, for all it ever promised is in that log; an emptied one does not. Groups get their voters only when all nodes run them, so nobody is asking any more by then.

use crate::{
    forward::{self, Answer, Call, Phase},
    node::{Inner, META, Node},
    view::{MetaRefusal, StartError},
};
use baton_coordinator::metadata::{MetaCommand, MetaError};
use baton_raft::NodeId;
use std::{sync::{Arc, atomic::Ordering}, time::Duration};

const AGAIN: Duration = Duration::from_millis(200);
const PING_TIMEOUT: Duration = Duration::from_millis(1_000);

fn others(inner: &Inner) -> Vec<NodeId> { inner.config.peers.keys().copied().filter(|n| *n != inner.config.node).collect() }

/// Asks every peer until all have answered. Refuses if one belongs to a cluster, or was told something else about this one.
pub async fn ask(inner: &Arc<Inner>) -> Result<(), StartError> {
    let (me, mine) = (inner.config.node, inner.hello());
    let mut left = others(inner);
    let mut rounds = 0u32;
    while !left.is_empty() {
        let mut silent = Vec::new();
        for n in left {
            match forward::call(inner, n, &Call::Ping(mine.clone()), PING_TIMEOUT).await {
                Ok(Answer::Pong(h)) if h.phase == Phase::Member => return Err(StartError::ClusterExists { node: me, peer: n }),
                Ok(Answer::Pong(h)) if h.shards != mine.shards || h.peers != mine.peers => {
                    let told = |s: u16, p: &[NodeId]| format!("{s} shards and first nodes {p:?}");
                    let (a, b) = (told(mine.shards, &mine.peers), told(h.shards, &h.peers));
                    return Err(StartError::Config(format!("node {me} was told {a}, node {n} {b}: give all first nodes the same")));
                }
                Ok(Answer::Pong(h)) => inner.heard(n, h),
                _ => silent.push(n),
            }
        }
        left = silent;
        if !left.is_empty() {
            if rounds.is_multiple_of(25) {
                tracing::info!(nodes = ?left, "first start: waiting for these nodes to answer");
            }
            rounds += 1;
            tokio::time::sleep(AGAIN).await;
        }
    }
    Ok(())
}

/// The lowest of the first nodes gives the groups their voters. It also completes what an interrupted first start of its own left undone: its log is the
/// same one, so a group without a trace in it never had voters.
pub async fn form(inner: Arc<Inner>) {
    let lowest = inner.config.peers.keys().next().copied();
    let Some(raft) = inner.raft.get().cloned() else { return };
    if lowest != Some(inner.config.node) {
        return;
    }
    while !raft.is_initialized(META) && !all_forming(&inner).await {
        tokio::time::sleep(AGAIN).await;
    }
    for no in META..=inner.config.shards {
        while !raft.is_initialized(no) {
            match raft.initialize(no, inner.config.peers.clone()).await {
                Ok(()) => break,
                Err(reason) => {
                    tracing::warn!(group = no, %reason, "the group could not be given its voters: trying again");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }
    let node = Node(inner.clone());
    let cluster_id = Node::random_id();
    while inner.meta.image().cluster_id == 0 {
        match node.meta(MetaCommand::CreateCluster { cluster_id, shards: inner.config.shards }).await {
            Ok(_) => tracing::info!(cluster = format!("{cluster_id:032x}"), "a new cluster"),
            Err(MetaRefusal::Meta(MetaError::ClusterExists)) => {}
            Err(e) => tracing::debug!(%e, "the cluster's record is not written yet"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn all_forming(inner: &Arc<Inner>) -> bool {
    for n in others(inner) {
        match forward::call(inner, n, &Call::Ping(inner.hello()), PING_TIMEOUT).await {
            Ok(Answer::Pong(h)) if h.phase == Phase::Asking => return false,
            Ok(Answer::Pong(h)) => inner.heard(n, h),
            _ => return false,
        }
    }
    true
}

/// Every start: the directory of this node is the one that the cluster knows for its id.
pub async fn register(inner: Arc<Inner>) {
    let node = Node(inner.clone());
    let (id, directory) = (inner.config.node, inner.config.directory);
    let image = inner.meta.wait(|m| m.cluster_id != 0).await;
    let told = inner.config.cluster;
    if told != 0 && told != image.cluster_id {
        inner.fail(format!("this data directory belongs to cluster {told:032x}, but its log to {:032x}: it is not whole; start from an empty folder under a new node id", image.cluster_id));
        return;
    }
    if image.shards != inner.config.shards {
        inner.fail(format!("this cluster has {} shards for its life, but node {id} was started with {}: correct its settings", image.shards, inner.config.shards));
        return;
    }
    loop {
        let known = inner.meta.image().directories.get(&id).copied();
        match known {
            Some(d) if d == directory => break,
            Some(_) => return inner.fail(format!("{}", MetaError::OtherDirectory { node: id })),
            None => match node.meta(MetaCommand::RegisterDirectory { node: id, directory }).await {
                Ok(_) => {}
                Err(MetaRefusal::Meta(e)) => return inner.fail(e.to_string()),
                Err(e) => {
                    tracing::debug!(%e, "the data directory is not registered yet");
                    tokio::time::sleep(AGAIN).await;
                }
            },
        }
    }
    inner.registered.store(true, Ordering::Release);
}
