//! The numbers of a node, under Kafka's names where Kafka has the thing. Group counts are those of the shards it leads, so that a sum over nodes is right.

use crate::{machine::lock, node::Inner, times, view::{Kind, Metric}};
use baton_coordinator::{command::GroupState, shard::ShardStats};
use std::collections::BTreeMap;

type Labels = Vec<(&'static str, String)>;

/// All of them, in a fixed order.
pub fn all(inner: &Inner) -> Vec<Metric> {
    let mut out = Vec::new();
    let mut push = |name, help, counter: bool, labels: Labels, value: f64| {
        out.push(Metric { name, suffix: "", help, kind: if counter { Kind::Counter } else { Kind::Gauge }, labels, value })
    };
    let states = [
        ("empty", GroupState::Empty), ("assigning", GroupState::Assigning), ("reconciling", GroupState::Reconciling), ("stable", GroupState::Stable), ("preparing_rebalance", GroupState::PreparingRebalance),
        ("completing_rebalance", GroupState::CompletingRebalance), ("dead", GroupState::Dead),
    ];
    let mut by_state: BTreeMap<&str, usize> = states.iter().map(|(n, _)| (*n, 0)).collect();
    let (mut groups, mut members, mut offsets, mut quarantined, mut history) = (0, 0, 0, 0, 0);
    let mut total = ShardStats::default();
    let mut partitions: BTreeMap<&str, usize> = ["active", "failed", "loading"].into_iter().map(|n| (n, 0)).collect();
    for (no, slot) in (1..).zip(&inner.shards) {
        let leads = inner.group(no).is_some_and(|g| g.status().is_leader);
        let failed = slot.stopped().is_some();
        history += lock(&slot.history).in_memory();
        let shard = slot.shard();
        add(&mut total, shard.stats());
        let state = if failed { Some("failed") } else if shard.leading().is_some() { Some("active") } else if leads { Some("loading") } else { None };
        if let Some(s) = state {
            *partitions.entry(s).or_default() += 1;
        }
        if shard.leading().is_none() {
            continue;
        }
        for (_, state, n, _) in shard.groups() {
            groups += 1;
            members += n;
            if let Some((name, _)) = states.iter().find(|(_, s)| *s == state) {
                *by_state.entry(name).or_default() += 1;
            }
        }
        for g in shard.state().groups.values() {
            offsets += g.offsets.len();
            quarantined += usize::from(g.quarantined.is_some());
        }
    }
    push("baton_group_count", "Groups in the shards that this node leads.", false, vec![("protocol", "consumer".into())], groups as f64);
    for (state, n) in by_state {
        push("baton_consumer_group_count", "Groups by state, in the shards that this node leads.", false, vec![("state", state.into())], n as f64);
    }
    push("baton_member_count", "Members of those groups.", false, vec![], f64::from(u32::try_from(members).unwrap_or(u32::MAX)));
    push("baton_offset_count", "Committed offsets of those groups.", false, vec![], offsets as f64);
    push("baton_quarantined_group_count", "Groups that grant nothing until they are repaired.", false, vec![], quarantined as f64);
    for (state, n) in partitions {
        push("baton_num_partitions", "Shards of this node: served, stopped on an entry, or not ready to be served.", false, vec![("state", state.into())], n as f64);
    }
    push("baton_history_unwritten_count", "History records that no checkpoint has yet.", false, vec![], history as f64);
    if let Some(raft) = inner.raft.get() {
        push("baton_log_bytes", "Size of the log on disk.", false, vec![], raft.log_bytes() as f64);
        push("baton_log_written_bytes", "Bytes of entries put into the log.", true, vec![], raft.log_written() as f64);
        push("baton_disk_full", "1 while no new entries are taken because the disk is full.", false, vec![], f64::from(u8::from(raft.disk_full())));
    }
    push("baton_heartbeat_count", "Accepted heartbeats.", true, vec![], total.heartbeats as f64);
    push("baton_offset_commit_count", "Offsets committed, as applied here.", true, vec![], total.commits as f64);
    push("baton_consumer_group_rebalance_count", "Group epoch bumps, as applied here.", true, vec![], total.rebalances as f64);
    push("baton_batch_flush_count", "Entries proposed.", true, vec![], total.proposals as f64);
    push("baton_member_expired_count", "Sessions that ran out.", true, vec![], total.expired as f64);
    push("baton_batch_refused_count", "Batches refused because they broke an invariant: bugs.", true, vec![], total.refused_batches as f64);
    push("baton_batch_skipped_count", "Batches that were no-ops because they had been decided on another state.", true, vec![], total.skipped as f64);
    for no in 0..=inner.config.shards {
        let Some(s) = inner.group(no).map(|g| g.status()) else { continue };
        let labels: Labels = vec![("group", if no == 0 { "meta".into() } else { format!("shard-{}", no - 1) })];
        push("baton_raft_term", "The Raft term.", false, labels.clone(), s.term as f64);
        push("baton_raft_is_leader", "1 on the leader.", false, labels.clone(), f64::from(u8::from(s.is_leader)));
        push("baton_raft_has_leader", "1 if this node knows a leader.", false, labels.clone(), f64::from(u8::from(s.leader.is_some())));
        push("baton_raft_applied_index", "The last log index applied here.", false, labels.clone(), s.last_applied as f64);
        push("baton_raft_last_index", "The last log index here.", false, labels, s.last_log as f64);
    }
    push("baton_metadata_revision", "The revision of the local image of the meta state.", false, vec![], inner.meta.image().revision as f64);
    let alive = inner.config.peers.keys().filter(|n| **n == inner.config.node || inner.is_well(**n)).count();
    push("baton_nodes_alive", "Nodes that answer, this one included.", false, vec![], alive as f64);
    push("baton_ready", "1 if this node can serve.", false, vec![], f64::from(u8::from(inner.is_ready())));
    let waiting: usize = inner.mail.get().into_iter().flatten().map(|m| m.max_capacity() - m.capacity()).sum();
    push("baton_event_queue_size", "Requests that wait for a shard.", false, vec![], waiting as f64);
    out.extend(times::metrics(inner.shards.iter().map(|s| &s.times)));
    out.sort_by_key(|m| m.name);
    out
}

fn add(total: &mut ShardStats, s: ShardStats) {
    total.heartbeats += s.heartbeats;
    total.commits += s.commits;
    total.rebalances += s.rebalances;
    total.proposals += s.proposals;
    total.expired += s.expired;
    total.refused_batches += s.refused_batches;
    total.skipped += s.skipped;
}
