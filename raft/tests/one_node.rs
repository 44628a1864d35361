//! One node alone, or one that asks another: what it counts, keeps, promises and refuses.
#![cfg(not(madsim))]

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use baton_raft::{GroupHandle, RaftConfig, RaftNode, StartError};
use baton_storage::{Disk, SimDisk, SimKv, wal::{Options, Wal}};
use common::Machine;

#[derive(Clone, Default)]
struct Disks(SimDisk, SimDisk, SimKv);

fn address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
fn config(listen: &str) -> RaftConfig {
    RaftConfig { node: 1, listen: listen.into(), secret: b"s".to_vec(), guard_ms: 0, snapshot_every: 1_000_000, checkpoint_ms: 60_000, ..RaftConfig::default() }
}
async fn start(config: RaftConfig, disks: &Disks, machine: &Machine) -> RaftNode {
    let peers = BTreeMap::from([(1, config.listen.clone())]);
    common::start(config, (disks.0.mount(), disks.1.mount(), disks.2.mount()), &peers, [Machine::default(), machine.clone()]).await
}
/// A node that runs no group yet.
async fn without_groups(config: RaftConfig, disks: &Disks) -> Result<RaftNode, StartError> {
    let cuts = baton_raft::Cuts::open(&disks.2.mount(), [7; 24], 0..2).unwrap();
    let forward: baton_raft::ForwardHandler = std::sync::Arc::new(|_, body| Box::pin(async { body }));
    RaftNode::start(config, common::open(disks.0.mount()), disks.1.mount(), cuts, BTreeMap::new(), BTreeMap::new(), forward).await
}
/// A node that leads group 1 alone.
async fn alone(config: RaftConfig, disks: &Disks, machine: &Machine) -> (RaftNode, GroupHandle) {
    let voters = BTreeMap::from([(1, config.listen.clone())]);
    let node = start(config, disks, machine).await;
    node.initialize(1, voters).await.unwrap();
    let group = node.group(1).unwrap();
    until("it leads", async || group.barrier().await.is_ok()).await;
    (node, group)
}
async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is().await {
        assert!(began.elapsed() < Duration::from_secs(20), "{what} within 20 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
fn snapshot(disks: &Disks) -> bool { disks.1.list().unwrap().iter().any(|n| n == "snapshot-00001") }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn positions_count_from_one_and_answers_name_them() {
    let (disks, machine) = (Disks::default(), Machine::default());
    let (node, group) = alone(config(&address()), &disks, &machine).await;
    assert_eq!((group.number(), group.leader(), node.leader(1), node.leader(7)), (1, Some(1), Some(1), None));
    let (written, mut last) = (node.log_written(), 0);
    assert_eq!(node.log_bytes() % (1 << 16), 0);
    assert!(node.log_bytes() > 0);
    for i in 0..20u64 {
        let (index, reply) = group.propose(vec![7; 1_000]).await.unwrap();
        assert_eq!(reply, [&b"did "[..], &[7; 1_000]].concat());
        assert!(last == 0 || index == last + 1, "{index} after {last}");
        // It may lag behind by a moment.
        until("the status says so", async || (group.status().last_applied, group.status().last_log) == (index, index)).await;
        let status = group.status();
        assert_eq!(group.standing(), (status.term, true));
        assert!(node.log_written() >= written + 1_000 * (i + 1) && node.log_written() < written + 1_200 * (i + 1), "{} bytes", node.log_written());
        last = index;
    }
    assert_eq!((machine.state.lock().unwrap().index, node.transfers(1), node.transfers(7)), (last, Some(0), None));
    assert!(!node.disk_full() && node.is_initialized(1) && !node.is_initialized(0) && !node.is_initialized(7));
    node.shutdown().await;
    assert_ne!(group.standing().1, group.status().failed.is_some(), "a group that has stopped does not lead");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_with_a_vote_on_disk_is_silent_for_the_guard_time_and_a_first_start_is_not() {
    let (disks, machine) = (Disks::default(), Machine::default());
    let guarded = RaftConfig { guard_ms: 2_500, ..config(&address()) };
    let began = Instant::now();
    let (node, _) = alone(guarded.clone(), &disks, &machine).await;
    assert!(began.elapsed() < Duration::from_millis(2_500), "nothing was promised before: {:?}", began.elapsed());
    node.shutdown().await;
    let began = Instant::now();
    let node = start(guarded, &disks, &Machine::default()).await;
    assert!(began.elapsed() >= Duration::from_millis(2_500), "{:?}", began.elapsed());
    assert!(node.is_initialized(1));
    node.shutdown().await;
}

/// A folder that only has the note that it takes part knows of no group yet.
#[tokio::test]
async fn a_group_that_is_not_running_is_known_by_its_log() {
    let disks = Disks::default();
    let empty = async |listen: &str| without_groups(config(listen), &disks).await.unwrap();
    let node = empty(&address()).await;
    node.mark_used().await.unwrap();
    node.shutdown().await;
    let node = empty(&address()).await;
    assert!(!node.is_initialized(0) && !node.is_initialized(1) && node.group(0).is_none());
    node.shutdown().await;
    let (node, _) = alone(config(&address()), &disks, &Machine::default()).await;
    node.shutdown().await;
    let node = empty(&address()).await;
    assert!(!node.is_initialized(0) && node.is_initialized(1));
    node.shutdown().await;
}

#[tokio::test]
async fn times_that_break_a_promise_are_refused() {
    for (bad, says) in [
        (RaftConfig { lease_age_ms: 600, ..config(&address()) }, "lease_age_ms"), (RaftConfig { lease_age_ms: 700, ..config(&address()) }, "lease_age_ms"),
        (RaftConfig { guard_ms: 599, ..config(&address()) }, "guard_ms"), (RaftConfig { heartbeat_ms: 400, ..config(&address()) }, "settings"),
    ] {
        match without_groups(bad, &Disks::default()).await {
            Err(e @ StartError::Config(_)) => assert!(e.to_string().contains(says), "{e}"),
            other => panic!("{says}: {:?}", other.map(|_| "it starts")),
        }
    }
    // The last values that keep it.
    let (disks, machine) = (Disks::default(), Machine::default());
    start(RaftConfig { lease_age_ms: 599, guard_ms: 600, ..config(&address()) }, &disks, &machine).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_cut_short_when_it_has_appended_much_and_only_then() {
    let (disks, machine) = (Disks::default(), Machine::default());
    let (node, group) = alone(RaftConfig { snapshot_bytes: 200_000, ..config(&address()) }, &disks, &machine).await;
    for _ in 0..15 {
        group.propose(vec![7; 10_000]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert!(!snapshot(&disks), "150 kB are not much");
    for _ in 0..60 {
        group.propose(vec![7; 10_000]).await.unwrap();
    }
    until("a snapshot", async || snapshot(&disks)).await;
    until("the log before it goes", async || node.log_bytes() < 8 << 16).await;
    // It counts from the last one on: 40 kB more may be one too many once, not each time.
    let mut snapshots = 0;
    for _ in 0..4 {
        let before = disks.1.ops();
        group.propose(vec![7; 10_000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(700)).await;
        snapshots += u64::from(disks.1.ops() > before);
    }
    assert!(snapshots <= 1, "{snapshots} snapshots");
    let at = disks.1.ops();
    for _ in 0..30 {
        group.propose(vec![7; 10_000]).await.unwrap();
    }
    until("the next one", async || disks.1.ops() > at).await;
    node.shutdown().await;
    // From the snapshot and the log behind it, nothing is missing.
    let again = Machine::default();
    let node = start(config(&address()), &disks, &again).await;
    until("all is there", async || again.state.lock().unwrap().payloads.len() == 109).await;
    assert_eq!(machine.state.lock().unwrap().chain, again.state.lock().unwrap().chain);
    node.shutdown().await;
}

/// A quiet group would keep the oldest segment for ever, and all behind it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_group_lets_the_oldest_segments_go() {
    let (disks, machine) = (Disks::default(), Machine::default());
    let listen = address();
    let (node, group) = alone(RaftConfig { snapshot_bytes: 300_000, ..config(&listen) }, &disks, &machine).await;
    node.initialize(0, BTreeMap::from([(1, listen)])).await.unwrap();
    until("it leads the quiet one", async || node.group(0).unwrap().barrier().await.is_ok()).await;
    node.group(0).unwrap().propose(b"the only word".to_vec()).await.unwrap();
    for _ in 0..150 {
        group.propose(vec![7; 10_000]).await.unwrap();
    }
    until("both have given up what is old", async || node.log_bytes() < 10 << 16).await;
    assert!(disks.1.list().unwrap().iter().any(|n| n == "snapshot-00000"), "the quiet one has a snapshot: {:?}", disks.1.list());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_back_is_no_candidate_until_it_comes_forward() {
    let addresses: BTreeMap<u64, String> = (1..=2).map(|n| (n, address())).collect();
    let disks: Vec<Disks> = vec![Disks::default(), Disks::default()];
    let mut nodes = Vec::new();
    for n in 1..=2u64 {
        let d = &disks[n as usize - 1];
        let config = RaftConfig { node: n, heartbeat_ms: 150, election_min_ms: 800, election_max_ms: 1_600, lease_age_ms: 1_000, ..config(&addresses[&n]) };
        nodes.push(common::start(config, (d.0.mount(), d.1.mount(), d.2.mount()), &addresses, [Machine::default(), Machine::default()]).await);
    }
    nodes[0].initialize(1, addresses.clone()).await.unwrap();
    let groups: Vec<GroupHandle> = nodes.iter().map(|n| n.group(1).unwrap()).collect();
    let leader = async || { for (i, g) in groups.iter().enumerate() { if g.barrier().await.is_ok() { return Some(i) } } None };
    until("somebody leads", async || leader().await.is_some()).await;
    let old = leader().await.unwrap();
    groups[old].stand_back().await;
    let began = Instant::now();
    until("the other one leads", async || leader().await == Some(1 - old)).await;
    assert!(began.elapsed() < Duration::from_millis(1_200), "it was given away, not lost: {:?}", began.elapsed());
    assert!(nodes[old].transfers(1).unwrap() > 0);
    // Nobody can lead now but the one that stands back.
    groups[1 - old].stand_back().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    groups[old].come_forward();
    until("the one that came forward leads", async || leader().await == Some(old)).await;
    for node in nodes {
        node.shutdown().await;
    }
}

/// What is a little behind gets entries instead of a whole snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_log_is_kept_behind_a_snapshot() {
    let (disks, machine) = (Disks::default(), Machine::default());
    let (node, group) = alone(RaftConfig { snapshot_every: 50, ..config(&address()) }, &disks, &machine).await;
    let mut written = 0;
    while !snapshot(&disks) && written < 500 {
        group.propose(b"x".to_vec()).await.unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!((40..60).contains(&written), "a snapshot after {written} entries");
    tokio::time::sleep(Duration::from_millis(300)).await;
    node.shutdown().await;
    let (_, logs) = Wal::open(disks.0.mount(), Options::new(1 << 16, [7; 24])).unwrap();
    let (purged, last) = (logs[&1].purged, logs[&1].last);
    assert!(purged > 30 && (10..=20).contains(&(last - purged)), "a fifth of 50, and what came since: {purged} of {last} are gone");
}

/// Three nodes with one group, and who leads it: all of them have heard it.
async fn three() -> (BTreeMap<u64, RaftNode>, u64) {
    let addresses: BTreeMap<u64, String> = (1..=3).map(|n| (n, address())).collect();
    let mut nodes = BTreeMap::new();
    for n in 1..=3u64 {
        let d = Disks::default();
        let config = RaftConfig { node: n, heartbeat_ms: 150, election_min_ms: 500, election_max_ms: 1_000, lease_age_ms: 800, ..config(&addresses[&n]) };
        nodes.insert(n, common::start(config, (d.0, d.1, d.2), &addresses, [Machine::default(), Machine::default()]).await);
    }
    nodes[&1].initialize(1, addresses.clone()).await.unwrap();
    let group = |n: u64| nodes[&n].group(1).unwrap();
    let leads = async |n: u64| group(n).barrier().await.is_ok();
    until("somebody leads", async || leads(1).await || leads(2).await || leads(3).await).await;
    let leader = nodes.keys().copied().find(|n| group(*n).status().is_leader).unwrap();
    until("all know it", async || nodes.keys().all(|n| group(*n).leader() == Some(leader))).await;
    (nodes, leader)
}

/// Of the two that are left, the one that stands back would be the first to ask for votes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stands_back_votes_and_does_not_stand_for_election() {
    let (nodes, leader) = three().await;
    let group = |n: u64| nodes[&n].group(1).unwrap();
    let leads = async |n: u64| group(n).barrier().await.is_ok();
    let (other, first) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    let term = group(leader).status().term;
    group(first).stand_back().await;
    nodes[&leader].shutdown().await;
    until("the other one leads", async || leads(other).await).await;
    assert_eq!((group(other).status().term, group(first).standing()), (term + 1, (term + 1, false)), "at the first attempt");
    for (_, node) in nodes {
        node.shutdown().await;
    }
}

/// It asks another one to take over, and counts that: whatever was checked under its lease before says nothing of the time after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_loses_its_vote_gives_the_leadership_away() {
    let (nodes, leader) = three().await;
    let group = |n: u64| nodes[&n].group(1).unwrap();
    let others: std::collections::BTreeSet<u64> = nodes.keys().copied().filter(|n| *n != leader).collect();
    let (term, before) = (group(leader).status().term, group(leader).transfers());
    group(leader).set_voters(others.clone()).await.unwrap();
    until("another one leads", async || others.iter().any(|n| group(*n).status().is_leader)).await;
    assert!(group(leader).transfers() > before, "not behind our back");
    until("it leads no more", async || !group(leader).standing().1).await;
    let next = others.iter().copied().find(|n| group(*n).status().is_leader).unwrap();
    assert_eq!(group(next).status().voters, others.iter().copied().collect::<Vec<_>>());
    assert!(group(next).status().term > term);
    // One that leads with a vote keeps it.
    let given = group(next).transfers();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(group(next).transfers(), given);
    for (_, node) in nodes {
        node.shutdown().await;
    }
}

/// The state is in the store by then, however rarely that is written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_in_order_leaves_nothing_to_be_applied_again() {
    let (disks, machine) = (Disks::default(), Machine::default());
    let (node, group) = alone(config(&address()), &disks, &machine).await;
    for i in 0..5u8 {
        group.propose(vec![i]).await.unwrap();
    }
    node.shutdown().await;
    let cuts = baton_raft::Cuts::open(&disks.2.mount(), [7; 24], 0..2).unwrap();
    assert_eq!(baton_raft::internal::cut(&cuts, 1).unwrap().standing().last.map(|id| id.index + 1), Some(machine.state.lock().unwrap().index));
    drop(cuts);
    let again = Machine::default();
    let node = start(config(&address()), &disks, &again).await;
    {
        let state = again.state.lock().unwrap();
        assert_eq!((state.payloads.len(), state.restored), (5, 1));
    }
    node.shutdown().await;
}
