//! One node alone, pushed to its edges: a late or crowded queue, a full and a dead disk, work beside the shard; and what a node says of those that are away.
#![cfg(not(madsim))]

mod common;

use baton_coordinator::{command::*, config::Setting, ids::*, metadata::MetaCommand, timers::Timer};
use baton_node::{Node, NodeConfig, Refusal};
use common::*;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// One node that is ready, and how it was started.
async fn alone(change: impl FnOnce(&mut NodeConfig)) -> (World, Node) {
    let mut w = unstarted(1);
    let mut config = w.config(1);
    change(&mut config);
    // In a runtime of its own: a shard that stands still keeps a thread, and perhaps the one that looks after the runtime's timers. It is not waited for at the end.
    let apart = Box::leak(Box::new(Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()));
    let start = Node::start(config, w.disks[&1].wal.clone(), w.disks[&1].snapshots.clone());
    let node = apart.spawn(start).await.unwrap().unwrap();
    eventually("the node is ready", async || node.ready()).await;
    w.nodes.insert(1, node.clone());
    declare(&node).await;
    (w, node)
}
fn fetch() -> Command { Command::FetchOffsets { topic: None, partition: None } }
fn reset(group: &str, offset: i64) -> Request {
    let offsets = vec![CommitOffset { partition: Partition::new("orders", 0), token: FencingToken(0), offset, metadata: String::new(), leader_epoch: None }];
    Request { group: group.into(), command: Command::Commit(Commit { member: None, offsets }), budget_ms: None, min_meta_revision: 0 }
}
fn unavailable(result: Result<Response, Refusal>, says: &str) {
    match result {
        Err(Refusal::Unavailable { reason, .. }) => assert!(reason.contains(says), "{reason}"),
        other => panic!("{other:?}"),
    }
}
/// The shard of the group "g" stands still for so long, and its driver waits for it when this returns.
async fn hold(node: &Node, ms: u64) -> std::thread::JoinHandle<()> {
    let (node, (begun, has_begun)) = (node.clone(), std::sync::mpsc::channel());
    let shard = baton_coordinator::shard::shard_of(&"g".into(), 4);
    let held = std::thread::spawn(move || {
        node.inspect(shard, |_| {
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(ms));
        });
    });
    has_begun.recv().unwrap();
    // It looks at its shard ten times a second.
    tokio::time::sleep(Duration::from_millis(200)).await;
    held
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn targets_that_are_computed_beside_the_shard_come_back_to_it() {
    let (mut w, _) = alone(|c| c.limits.offload_from = 1).await;
    let mut members = vec![Member::new("m1")];
    settle(&w, &mut members).await;
    members.push(Member::new("m2"));
    settle(&w, &mut members).await;
    w.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_request_that_waited_longer_than_it_said_is_not_carried_out() {
    let (mut w, node) = alone(|_| {}).await;
    node.request(reset("g", 1), WAIT).await.unwrap();
    let held = hold(&node, 800).await;
    let late = node.request(Request { budget_ms: Some(100), ..reset("g", 2) }, WAIT);
    let patient = node.request(Request { budget_ms: Some(2_500), ..reset("g", 3) }, WAIT);
    let (late, patient) = tokio::join!(late, patient);
    unavailable(late, "nothing was done");
    assert!(patient.is_ok(), "{patient:?}");
    held.join().unwrap();
    assert!(matches!(ask(&node, fetch()).await, Ok(Response::Offsets(o)) if o[0].offset == 3));
    // Whoever gives up earlier than it is carried out is told that nobody knows.
    let held = hold(&node, 800).await;
    unavailable(node.request(reset("g", 4), Duration::from_millis(200)).await, "not decided in its time");
    held.join().unwrap();
    w.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_queue_that_is_full_refuses_and_carries_out_the_rest() {
    let (mut w, node) = alone(|_| {}).await;
    node.request(reset("g", 1), WAIT).await.unwrap();
    // Longer than a request looks for somebody to take it.
    let held = hold(&node, 2_700).await;
    let requests: Vec<_> = (0..5_000).map(|i| { let node = node.clone(); tokio::spawn(async move { node.request(reset("g", i), Duration::from_secs(10)).await }) }).collect();
    let (mut done, mut refused) = (0, 0);
    for r in requests {
        match r.await.unwrap() {
            Ok(_) => done += 1,
            Err(Refusal::Unavailable { reason, leader_http, retry_after_ms }) => {
                assert!(reason.contains("too many requests waiting") && leader_http == Some("http-1".into()) && retry_after_ms > 0, "{reason}");
                refused += 1;
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(done > 4_000 && refused > 500, "{done} done, {refused} refused");
    held.join().unwrap();
    w.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_full_disk_is_told_and_passes() {
    let (mut w, node) = alone(|_| {}).await;
    w.disks[&1].wal.set_full(true);
    let began = Instant::now();
    while node.ready().is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "nobody says that the disk is full");
        let _ = tokio::time::timeout(Duration::from_millis(200), node.request(Request { command: Command::Commit(Commit { member: None, offsets: many(0) }), ..reset("g", 1) }, Duration::from_millis(150))).await;
    }
    assert!(node.ready().unwrap_err().contains("disk of this node is full"));
    w.disks[&1].wal.set_full(false);
    eventually("there is room again", async || node.ready()).await;
    eventually("requests are served again", async || ask(&node, fetch()).await).await;
    w.stop(1).await;
}
fn many(offset: i64) -> Vec<CommitOffset> {
    (0..6).map(|p| CommitOffset { partition: Partition::new("orders", p), token: FencingToken(0), offset, metadata: "x".repeat(4_000), leader_epoch: None }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dead_disk_is_told_once_and_for_all() {
    let (w, node) = alone(|_| {}).await;
    w.disks[&1].wal.fail_syncs(1);
    let refused = node.request(reset("g", 1), WAIT).await;
    assert!(matches!(refused, Err(Refusal::Unavailable { .. })), "{refused:?}");
    let why = tokio::time::timeout(Duration::from_secs(10), node.failed()).await.expect("it says that it cannot go on");
    assert!(why.contains("the log cannot be written"), "{why}");
    assert_eq!(node.ready(), Err(why.clone()));
    assert_eq!(tokio::time::timeout(Duration::from_secs(1), node.failed()).await, Ok(why), "whoever asks later hears it too");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn groups_are_listed_in_order_with_where_they_are() {
    let (mut w, node) = alone(|_| {}).await;
    for g in ["b", "a", "d", "c"] {
        node.request(reset(g, 1), WAIT).await.unwrap();
    }
    let mut members = vec![Member::new("m1"), Member::new("m2")];
    settle(&w, &mut members).await;
    let list = node.list_groups().await;
    let said: Vec<_> = list.iter().map(|g| (g.group.to_string(), g.members, g.state, g.classic)).collect();
    let empty = |g: &str| (g.to_string(), 0, GroupState::Empty, false);
    assert_eq!(said, [empty("a"), empty("b"), empty("c"), empty("d"), ("g".into(), 2, GroupState::Stable, false)]);
    let view = node.cluster();
    for g in &list {
        assert_eq!(g.shard, baton_coordinator::shard::shard_of(&g.group, 4));
        let shard = &view.shards[usize::from(g.shard)];
        assert!(g.as_of_index > 0 && g.as_of_index <= shard.applied && shard.applied <= shard.last_log, "{g:?} {shard:?}");
        assert!(shard.serving && shard.leader == Some(1) && shard.voters == [1] && shard.stopped.is_none());
    }
    assert_eq!((view.node, view.meta.leader, view.nodes.len(), view.nodes[0].alive, view.nodes[0].draining), (1, Some(1), 1, true, false));
    assert_eq!((view.nodes[0].http.clone(), node.leader_http(&"g".into())), (Some("http-1".into()), Some("http-1".into())));
    assert!(view.cluster_id != 0 && view.cluster_id == node.cluster_id().await);
    for (shard, to, says) in [(4, 1, "shard 4 does not exist: 0 to 3"), (9, 1, "does not exist"), (0, 2, "no voter")] {
        let e = node.transfer(shard, to).await.unwrap_err();
        assert!(e.contains(says), "{e}");
    }
    assert_eq!(node.transfer(3, 1).await, Ok(()), "it has it");
    w.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_member_that_is_silent_expires_and_is_counted_and_commits_have_the_time_of_day() {
    let (mut w, node) = alone(|_| {}).await;
    let settings = [(Setting::SessionTimeout, Some(3_000)), (Setting::HeartbeatInterval, Some(300))].into();
    node.meta(MetaCommand::SetGroupConfig { group: "g".into(), settings }).await.unwrap();
    let count = |name: &str| node.metrics().into_iter().find(|m| m.name == name).unwrap().value;
    let mut members = vec![Member::new("m1"), Member::new("m2")];
    settle(&w, &mut members).await;
    assert_eq!(count("baton_member_expired_count"), 0.0);
    // Counted when it is decided: they are gone a moment later.
    let both = || (count("baton_member_expired_count"), count("baton_member_count"));
    eventually("both have expired", async || if both() == (2.0, 0.0) { Ok(()) } else { Err(both()) }).await;
    assert_eq!(count("baton_batch_refused_count"), 0.0);
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let before = now();
    eventually("nothing is held", async || node.request(reset("g", 1), WAIT).await).await;
    match ask(&node, fetch()).await {
        Ok(Response::Offsets(o)) => assert!((before..=now()).contains(&o[0].committed_at_ms), "{o:?}"),
        other => panic!("{other:?}"),
    }
    w.stop(1).await;
}

/// A folder of another cluster under a known id: no majority takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_of_another_cluster_is_refused() {
    let mut w = World::start(3).await;
    w.stop(3).await;
    let mut other = World { peers: [(3, w.peers[&3].clone())].into(), disks: [(3, Disks::new())].into(), nodes: Default::default() };
    let alone = Node::start(other.config(3), other.disks[&3].wal.clone(), other.disks[&3].snapshots.clone()).await.unwrap();
    eventually("it has a cluster of its own", async || alone.ready()).await;
    alone.shutdown().await;
    w.disks.insert(3, other.disks.remove(&3).unwrap());
    w.restart(3).await.unwrap();
    let why = tokio::time::timeout(Duration::from_secs(20), w.nodes[&3].failed()).await.expect("it is refused");
    assert!(why.contains("refuse it") && why.contains("belongs to cluster"), "{why}");
    for n in w.nodes.values() {
        n.shutdown().await;
    }
}

/// A heartbeat with nothing new in it is answered on the spot, under the driver's last lease check: the queue of its shard is not touched. Anything else goes through it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn heartbeats_with_nothing_new_do_not_queue() {
    let (mut w, node) = alone(|_| {}).await;
    let mut members = vec![Member::new("m1")];
    settle(&w, &mut members).await;
    let count = |name: &str| node.metrics().into_iter().find(|m| m.name == name && m.suffix == "_count").unwrap().value as i64;
    let both = || (count("baton_event_queue_time_ms"), count("baton_event_purgatory_time_ms"));
    let (queued, answered) = both();
    for _ in 0..300 {
        members[0].beat(&node).await.unwrap();
    }
    let (by_queue, all) = (both().0 - queued, both().1 - answered);
    assert_eq!(all, 300, "each is answered once");
    // A check lasts 62 ms: the next one after that takes the long way, and on a busy machine that is many of them.
    assert!(by_queue < 280, "{by_queue} of 300 went through the queue");
    let (queued, answered) = both();
    for i in 0..20 {
        node.request(reset("other", i), WAIT).await.unwrap();
    }
    assert_eq!((both().0 - queued, both().1 - answered), (20, 20));
    w.stop(1).await;
}

/// A held heartbeat whose caller has gone is forgotten within a second or two.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_went_away_are_forgotten() {
    let (mut w, node) = alone(|_| {}).await;
    let mut members = vec![Member::new("m1")];
    settle(&w, &mut members).await;
    let m = &members[0];
    let h = Heartbeat { member: m.id.as_str().into(), incarnation: m.incarnation, epoch: m.epoch, assignment_revision: m.revision, owned: Some(m.held.keys().cloned().collect()), wait_ms: 60_000, ..Heartbeat::default() };
    let waits = tokio::spawn({
        let node = node.clone();
        async move { node.request(Request { group: "g".into(), command: Command::Heartbeat(h), budget_ms: None, min_meta_revision: 0 }, Duration::from_secs(70)).await }
    });
    let shard = baton_coordinator::shard::shard_of(&"g".into(), 4);
    let held = || node.inspect(shard, |s| s.due(u64::MAX).iter().filter(|(_, t)| matches!(t, Timer::Wait(..))).count()).unwrap().1;
    eventually("it is held", async || if held() == 1 { Ok(()) } else { Err(held()) }).await;
    waits.abort();
    eventually("it is forgotten", async || if held() == 0 { Ok(()) } else { Err(held()) }).await;
    w.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_say_who_is_away_and_move_leaderships_for_whoever_asks() {
    let mut w = World::start(3).await;
    let alive = |w: &World, n: u64| w.nodes[&n].cluster().nodes.iter().map(|x| (x.alive, x.draining)).collect::<Vec<_>>();
    eventually("all are there", async || if alive(&w, 1) == [(true, false); 3] && alive(&w, 2) == [(true, false); 3] { Ok(()) } else { Err(alive(&w, 1)) }).await;
    // Whichever node is asked, shard 2 goes where it is told.
    for (asked, to) in [(1, 3), (2, 1), (3, 2), (1, 2)] {
        eventually("it has moved", async || {
            let r = w.nodes[&asked].transfer(2, to).await;
            if (1..=3).all(|n| w.nodes[&n].cluster().shards[2].leader == Some(to)) { Ok(()) } else { Err(r) }
        })
        .await;
    }
    assert!(w.nodes[&1].transfer(2, 9).await.unwrap_err().contains("no voter"));
    // All HTTP addresses are known by now, and a request to a follower names the leader's only if that answers.
    assert!(w.nodes[&1].cluster().nodes.iter().all(|n| n.http == Some(format!("http-{}", n.id))));
    let drains = w.nodes[&2].clone();
    drains.drain().await;
    eventually("the others know that it is being drained", async || if alive(&w, 1)[1] == (true, true) { Ok(()) } else { Err(alive(&w, 1)) }).await;
    assert!(drains.ready().unwrap_err().contains("drained") && drains.cluster().nodes[1].draining);
    let before = Instant::now();
    w.stop(3).await;
    eventually("it is missed", async || if !alive(&w, 1)[2].0 { Ok(()) } else { Err(alive(&w, 1)) }).await;
    assert!(before.elapsed() >= Duration::from_millis(1_500), "not at the first word that is late: {:?}", before.elapsed());
    assert!(alive(&w, 1)[0].0 && alive(&w, 1)[1].0);
    let alive_count = w.nodes[&1].metrics().into_iter().find(|m| m.name == "baton_nodes_alive").unwrap().value;
    assert_eq!(alive_count, 1.0, "one is away and one is being drained");
    for n in w.nodes.values() {
        n.shutdown().await;
    }
}
