//! Pings between nodes, an even spread of leaderships, and giving them all away before a stop.
//!
//! Nothing here matters for safety: a leadership moves through Raft or not at all.

use crate::{
    forward::{self, Answer, Call},
    node::Inner,
};
use baton_raft::NodeId;
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

const PING_EVERY: Duration = Duration::from_millis(1_000);
const BALANCE_EVERY: Duration = Duration::from_millis(2_000);
/// After a transfer the others need time to see it.
const SETTLE: Duration = Duration::from_millis(300);
const DRAIN_MS: u64 = 8_000;
/// How long a node may take to say that it is there.
const ANSWER: Duration = Duration::from_millis(300);

/// Tells every peer about this node and hears about it, for ever.
pub async fn ping(inner: Arc<Inner>) {
    loop {
        let round = inner.config.peers.keys().copied().filter(|n| *n != inner.config.node);
        for n in round {
            if let Ok(Answer::Pong(h)) = forward::call(&inner, n, &Call::Ping(inner.hello()), PING_EVERY).await {
                inner.heard(n, h);
            }
        }
        tokio::time::sleep(PING_EVERY).await;
    }
}

/// How many shards each voter leads, as this node knows it.
fn led(inner: &Inner) -> BTreeMap<NodeId, usize> {
    let mut count = BTreeMap::new();
    for s in 1..=inner.config.shards {
        let Some(status) = inner.group(s).map(|g| g.status()) else { continue };
        for v in status.voters {
            count.entry(v).or_insert(0);
        }
        if let Some(l) = status.leader {
            *count.entry(l).or_insert(0) += 1;
        }
    }
    count
}

/// The shards (0-based) that this node leads.
fn mine(inner: &Inner) -> Vec<u16> { (0..inner.config.shards).filter(|s| inner.group(s + 1).is_some_and(|g| g.status().is_leader)).collect() }

/// The healthy voter that leads the fewest.
fn receiver(inner: &Inner) -> Option<(NodeId, usize)> {
    let me = inner.config.node;
    led(inner).into_iter().filter(|(n, _)| *n != me && inner.is_well(*n)).min_by_key(|(n, led)| (*led, *n))
}

/// Whether the node answers at this moment.
async fn answers(inner: &Inner, node: NodeId) -> bool { matches!(forward::call(inner, node, &Call::Ping(inner.hello()), ANSWER).await, Ok(Answer::Pong(h)) if !h.draining) }

/// Gives away leaderships above an even share, one after the other, for ever.
pub async fn balance(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(BALANCE_EVERY).await;
        loop {
            if inner.draining.load(Ordering::Acquire) {
                break;
            }
            let (mine, voters) = (mine(&inner), led(&inner).len().max(1));
            let share = usize::from(inner.config.shards).div_ceil(voters);
            let Some((to, theirs)) = receiver(&inner) else { break };
            if mine.len() <= share || theirs >= share {
                break;
            }
            let Some(shard) = mine.last().copied() else { break };
            // The last ping may be older than its end.
            if !answers(&inner, to).await {
                break;
            }
            if let Err(reason) = inner.transfer_local(shard, to).await {
                tracing::debug!(shard, to, %reason, "the leadership was not given away");
                break;
            }
            tokio::time::sleep(SETTLE).await;
            // Given up on or still under way: looked at again in the next round.
            if inner.group(shard + 1).is_some_and(|g| g.status().is_leader) {
                break;
            }
        }
    }
}

/// Gives away all leaderships, the meta group's too. Held requests are answered as leadership is lost.
pub async fn drain(inner: &Arc<Inner>) {
    inner.draining.store(true, Ordering::Release);
    let end = inner.now() + DRAIN_MS;
    while inner.now() < end {
        // The others hear of it, so that they give nothing back.
        let mut well = Vec::new();
        for n in inner.config.peers.keys().copied().filter(|n| *n != inner.config.node) {
            if answers(inner, n).await {
                well.push(n);
            }
        }
        let held: Vec<u16> = (0..=inner.config.shards).filter(|no| inner.group(*no).is_some_and(|g| g.status().is_leader)).collect();
        if held.is_empty() {
            return;
        }
        if well.is_empty() {
            tracing::warn!("no other node is well: leaderships cannot be given away");
            return;
        }
        for (i, no) in held.into_iter().enumerate() {
            let to = well[i % well.len()];
            if let Some(g) = inner.group(no)
                && let Err(reason) = g.transfer(to).await
            {
                tracing::debug!(group = no, to, %reason, "the leadership was not given away");
            }
        }
        // Gone within milliseconds as a rule; asked again if not.
        for _ in 0..20 {
            tokio::time::sleep(SETTLE / 20).await;
            if !(0..=inner.config.shards).any(|no| inner.group(no).is_some_and(|g| g.status().is_leader)) {
                return;
            }
        }
    }
}
