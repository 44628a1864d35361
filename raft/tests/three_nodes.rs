//! Three nodes in one process over loopback, on simulated disks.
#![cfg(not(madsim))]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use baton_raft::{GroupHandle, PeerError, RaftConfig, RaftNode};
use baton_storage::{SimDisk, SimKv};
use common::Machine;

struct Cluster {
    addresses: BTreeMap<u64, String>,
    disks: BTreeMap<u64, (SimDisk, SimDisk, SimKv)>,
    nodes: BTreeMap<u64, (RaftNode, [Machine; 2])>,
}

impl Cluster {
    fn new() -> Cluster {
        // All bound at once, so that the ports differ.
        let sockets: Vec<_> = (1..=3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addresses = (1..=3).zip(&sockets).map(|(id, s)| (id, s.local_addr().unwrap().to_string())).collect();
        let disks = (1..=3).map(|id| (id, (SimDisk::new(), SimDisk::new(), SimKv::default()))).collect();
        Cluster { addresses, disks, nodes: BTreeMap::new() }
    }

    fn config(&self, id: u64) -> RaftConfig {
        // Slower than in production: the machine that runs the tests may be loaded.
        RaftConfig {
            node: id,
            listen: self.addresses[&id].clone(),
            secret: b"test secret".to_vec(),
            election_min_ms: 500,
            election_max_ms: 1000,
            lease_age_ms: 800,
            guard_ms: 1100,
            snapshot_every: 20,
            checkpoint_ms: 200,
            ..RaftConfig::default()
        }
    }

    async fn start(&mut self, id: u64) {
        let machines = [Machine::default(), Machine::default()];
        let (wal, snapshots, state) = &self.disks[&id];
        let node = common::start(self.config(id), (wal.mount(), snapshots.mount(), state.mount()), &self.addresses, machines.clone()).await;
        self.nodes.insert(id, (node, machines));
    }

    async fn stop(&mut self, id: u64) {
        let (node, _) = self.nodes.remove(&id).unwrap();
        node.shutdown().await;
    }

    fn group(&self, id: u64, no: u16) -> GroupHandle {
        self.nodes[&id].0.group(no).unwrap()
    }

    /// The node that leads the group and has proven it.
    async fn leader(&self, no: u16) -> u64 {
        let start = Instant::now();
        loop {
            for id in self.nodes.keys() {
                if self.group(*id, no).status().is_leader && self.group(*id, no).barrier().await.is_ok() {
                    return *id;
                }
            }
            assert!(start.elapsed() < Duration::from_secs(20), "no leader of group {no}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Proposes `n` payloads, each until it is accepted.
    async fn write(&self, no: u16, from: u64, n: u64) {
        for i in from..from + n {
            let payload = format!("g{no} {i}").into_bytes();
            loop {
                let leader = self.leader(no).await;
                match self.group(leader, no).propose(payload.clone()).await {
                    Ok((index, reply)) => {
                        assert!(index > 0);
                        assert_eq!(reply, [b"did ", &payload[..]].concat());
                        break;
                    }
                    Err(e) => println!("retry {i}: {e}"),
                }
            }
        }
    }

    /// Waits until all running nodes have applied the same, and returns the distinct payloads in order.
    async fn agreed(&self, no: u16) -> Vec<Vec<u8>> {
        let start = Instant::now();
        loop {
            let states: Vec<_> = self.nodes.values().map(|(_, m)| m[no as usize].state.lock().unwrap().clone()).collect();
            if states.iter().all(|s| s.index == states[0].index && s.index > 0) {
                assert!(states.iter().all(|s| s.chain == states[0].chain && s.payloads == states[0].payloads), "replicas differ");
                let mut payloads = states[0].payloads.clone();
                payloads.dedup();
                return payloads;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "replicas did not meet: {:?}", states.iter().map(|s| s.index).collect::<Vec<_>>());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn expected(no: u16, n: u64) -> Vec<Vec<u8>> {
    (0..n).map(|i| format!("g{no} {i}").into_bytes()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicates_survives_leader_loss_and_restarts() {
    let mut c = Cluster::new();
    for id in 1..=3 {
        c.start(id).await;
    }
    assert!(!c.nodes[&1].0.is_initialized(0));
    for no in 0..2 {
        c.nodes[&1].0.initialize(no, c.addresses.clone()).await.unwrap();
        c.nodes[&1].0.initialize(no, c.addresses.clone()).await.unwrap();
    }
    assert!(c.nodes[&1].0.is_initialized(0));
    c.write(0, 0, 3).await;
    c.write(1, 0, 50).await;
    assert_eq!(c.agreed(0).await, expected(0, 3));
    assert_eq!(c.agreed(1).await, expected(1, 50));

    // Lease: the leader has it, in its term; the others name the leader.
    let leader = c.leader(1).await;
    let status = c.group(leader, 1).status();
    assert_eq!(status.voters, [1, 2, 3]);
    assert_eq!(c.group(leader, 1).lease().await.unwrap(), status.term);
    let follower = leader % 3 + 1;
    assert_eq!(c.group(follower, 1).lease().await.unwrap_err().leader, Some(leader));
    assert_eq!(c.group(follower, 1).propose(b"x".to_vec()).await.unwrap_err().leader, Some(leader));

    // Opaque calls, to another node and to itself.
    let node = c.nodes[&leader].0.clone();
    let answer = node.call(follower, b"hello".to_vec(), Duration::from_secs(5)).await.unwrap();
    assert_eq!(answer, format!("{leader} to {follower}: hello").into_bytes());
    assert!(node.call(leader, b"hello".to_vec(), Duration::from_secs(5)).await.is_ok());
    assert!(matches!(node.call(9, Vec::new(), Duration::from_secs(5)).await, Err(PeerError::NotSent(_))));
    drop(node);

    // Without the leader the others go on.
    let watch = c.group(follower, 1);
    c.stop(leader).await;
    tokio::time::timeout(Duration::from_secs(20), watch.changed()).await.expect("no change seen");
    c.write(1, 50, 50).await;
    assert_ne!(c.leader(1).await, leader);

    // The old one comes back from its disk and catches up, by snapshot if the log is gone.
    c.start(leader).await;
    assert_eq!(c.agreed(1).await, expected(1, 100));

    // All stop; the state is in snapshots and logs.
    for id in 1..=3 {
        c.stop(id).await;
    }
    for id in 1..=3 {
        c.start(id).await;
    }
    c.write(1, 100, 1).await;
    assert_eq!(c.agreed(1).await, expected(1, 101));
    assert_eq!(c.agreed(0).await, expected(0, 3));
    for (_, machines) in c.nodes.values() {
        assert_eq!(machines[1].state.lock().unwrap().restored, 1, "the snapshot was not used");
    }
    for id in 1..=3 {
        c.stop(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_request() {
    let mut c = Cluster::new();
    for id in 1..=3 {
        c.start(id).await;
    }
    c.nodes[&1].0.initialize(1, c.addresses.clone()).await.unwrap();
    c.write(1, 0, 5).await;
    let old = c.leader(1).await;
    let new = old % 3 + 1;
    assert_eq!(c.agreed(1).await.len(), 5);
    let start = Instant::now();
    // A machine under load may be late with a heartbeat: then it is refused, and asked again.
    while c.leader(1).await != new {
        let _ = c.group(old, 1).transfer(new).await;
        assert!(start.elapsed() < Duration::from_secs(20), "leadership did not move");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(c.group(old, 1).lease().await.is_err());
    // A node that is away is not asked: its leader would serve nothing until it has lost an election.
    let away = new % 3 + 1;
    c.stop(away).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (leader, term) = (c.leader(1).await, c.group(new, 1).status().term);
    assert_eq!(leader, new);
    let refused = c.group(leader, 1).transfer(away).await.unwrap_err();
    assert!(refused.contains("has not answered"), "{refused}");
    c.group(leader, 1).barrier().await.unwrap();
    assert_eq!(c.group(leader, 1).status().term, term);
    for id in (1..=3).filter(|id| *id != away) {
        c.stop(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_is_refused() {
    let mut c = Cluster::new();
    c.start(1).await;
    let config = RaftConfig { secret: b"another secret".to_vec(), ..c.config(2) };
    let stranger = common::start(config, (SimDisk::new(), SimDisk::new(), SimKv::default()), &c.addresses, [Machine::default(), Machine::default()]).await;
    let answer = stranger.call(1, b"hello".to_vec(), Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(PeerError::NotSent(_))), "{answer:?}");
    let answer = c.nodes[&1].0.call(2, b"hello".to_vec(), Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(PeerError::NotSent(_))), "{answer:?}");
    stranger.shutdown().await;
    c.stop(1).await;
}

/// Whoever has heard one connection being opened cannot open another: what a node proves, it proves over a number that the other side has just drawn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_was_overheard_opens_nothing() {
    use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
    let mut c = Cluster::new();
    c.start(1).await;
    let first = c.addresses[&1].clone();
    // Node 2 takes this for node 1; it hands everything on, and keeps what node 2 says.
    let ear = TcpListener::bind("127.0.0.1:0").await.unwrap();
    c.addresses.insert(1, ear.local_addr().unwrap().to_string());
    c.start(2).await;
    c.addresses.insert(1, first.clone());
    let (mut from, mut to) = (ear.accept().await.unwrap().0, TcpStream::connect(&first).await.unwrap());
    let mut hello = [0; 24];
    to.read_exact(&mut hello).await.unwrap();
    from.write_all(&hello).await.unwrap();
    let mut proof = [0; 8 + 8 + 8 + 16 + 32 + 32];
    from.read_exact(&mut proof).await.unwrap();
    to.write_all(&proof).await.unwrap();
    let heard = async |s: &mut TcpStream| tokio::time::timeout(Duration::from_secs(20), s.read_u8()).await.expect("it answers, or closes");
    assert!(heard(&mut to).await.is_ok(), "the proof is good where it was made");

    let mut again = TcpStream::connect(&first).await.unwrap();
    let mut other = [0; 24];
    again.read_exact(&mut other).await.unwrap();
    assert_eq!(hello[..8], other[..8], "the same version");
    assert_ne!(hello[8..], other[8..], "another number");
    again.write_all(&proof).await.unwrap();
    assert!(heard(&mut again).await.is_err(), "the same words a second time are refused");
    c.stop(2).await;
    c.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_stops_and_the_others_go_on() {
    let mut c = Cluster::new();
    for id in 1..=3 {
        c.start(id).await;
    }
    for no in 0..2 {
        c.nodes[&1].0.initialize(no, c.addresses.clone()).await.unwrap();
        c.write(no, 0, 5).await;
    }
    let leader = c.leader(1).await;
    let group = c.group(leader, 1);
    c.disks[&leader].0.fail_syncs(1);
    let refused = group.propose(b"lost?".to_vec()).await.unwrap_err();
    assert!(refused.outcome_unknown, "{refused}");
    // Not only the group that met the fault: none of them may write to this log again.
    let start = Instant::now();
    while (0..2).any(|no| c.group(leader, no).status().failed.is_none()) {
        assert!(start.elapsed() < Duration::from_secs(20), "still running: {:?} {:?}", c.group(leader, 0).status(), group.status());
        // Gives an idle group a reason to write.
        let _ = c.group(leader, 0).propose(b"x".to_vec()).await;
        let _ = c.nodes[&(leader % 3 + 1)].0.group(0).unwrap().propose(b"x".to_vec()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let why = tokio::time::timeout(Duration::from_secs(5), c.nodes[&leader].0.failed()).await.expect("the node says that it cannot go on");
    assert!(why.contains("the log cannot be written") && why.contains("start the node again"), "{why}");
    assert!(!group.status().is_leader);
    assert!(group.lease().await.is_err());
    c.stop(leader).await;
    c.write(1, 5, 5).await;
    let mut payloads = c.agreed(1).await;
    payloads.retain(|p| p != b"lost?");
    assert_eq!(payloads, expected(1, 10));
    for id in c.nodes.keys().copied().collect::<Vec<_>>() {
        c.stop(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn voters_are_added_and_removed() {
    let mut c = Cluster::new();
    for id in 1..=3 {
        c.start(id).await;
    }
    c.nodes[&1].0.initialize(1, BTreeMap::from([(1, c.addresses[&1].clone())])).await.unwrap();
    c.write(1, 0, 60).await;
    let group = c.group(1, 1);
    for id in 2..=3 {
        group.add_learner(id, c.addresses[&id].clone()).await.unwrap();
    }
    group.set_voters(BTreeSet::from([1, 2, 3])).await.unwrap();
    assert_eq!(group.status().voters, [1, 2, 3]);
    assert_eq!(c.agreed(1).await, expected(1, 60));
    c.group(1, 1).set_voters(BTreeSet::from([2, 3])).await.unwrap();
    c.stop(1).await;
    c.write(1, 60, 5).await;
    assert_eq!(c.agreed(1).await, expected(1, 65));
    for id in 2..=3 {
        c.stop(id).await;
    }
}

/// The log's rule 7: a node with a full disk takes no entries and leads nothing, but it votes; when there is room it catches up, without a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_a_node_its_leaderships_and_nothing_else() {
    let mut c = Cluster::new();
    for id in 1..=3 {
        c.start(id).await;
    }
    c.nodes[&1].0.initialize(1, c.addresses.clone()).await.unwrap();
    c.write(1, 0, 5).await;
    let full = c.leader(1).await;
    let (wal, snapshots, state) = c.disks[&full].clone();
    let set_full = |on: bool| {
        wal.set_full(on);
        snapshots.set_full(on);
        state.set_full(on);
    };
    set_full(true);
    let start = Instant::now();
    let (mut written, mut refused) = (0, None);
    while c.group(full, 1).status().is_leader {
        // Its last entry may stay open until it hears of the others' log again: then it is no leader any more.
        match tokio::time::timeout(Duration::from_secs(1), c.group(full, 1).propose(vec![7; 2_000])).await {
            Ok(Ok(_)) => written += 1,
            Ok(Err(e)) => refused = refused.or(Some(e)).filter(|e| e.leader.is_none()),
            Err(_) => {}
        }
        assert!(start.elapsed() < Duration::from_secs(20), "it still leads after {written} entries");
    }
    assert!(written > 5 && c.nodes[&full].0.disk_full(), "{written} entries");
    assert!(refused.as_ref().is_none_or(|e| e.reason.contains("disk") && !e.outcome_unknown), "{refused:?}");
    // The others go on; it hears of their terms and votes in them, but has none of their entries.
    let others: Vec<u64> = (1..=3).filter(|id| *id != full).collect();
    c.write(1, 100, 10).await;
    let second = c.leader(1).await;
    assert_ne!(second, full);
    let third = *others.iter().find(|id| **id != second).unwrap();
    c.stop(second).await;
    // Only with the full node's vote are there two of three.
    let start = Instant::now();
    while !c.group(third, 1).status().is_leader {
        assert!(start.elapsed() < Duration::from_secs(20), "no leader with the vote of the full node: {:?}", c.group(full, 1).status());
        assert!(!c.group(full, 1).standing().1, "it does not stand for election itself");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(c.group(full, 1).status().term, c.group(third, 1).status().term);
    assert!(c.group(full, 1).status().failed.is_none());
    c.start(second).await;
    c.write(1, 110, 10).await;
    let (have, all) = (c.group(full, 1).status().last_log, c.group(c.leader(1).await, 1).status().last_log);
    assert!(have + 20 <= all, "the full node has {have} of {all}");
    set_full(false);
    let agreed = c.agreed(1).await;
    assert!(agreed.ends_with(&expected(1, 120)[100..]));
    assert!(!c.nodes[&full].0.disk_full());
    for id in 1..=3 {
        c.stop(id).await;
    }
}

/// `safety.md` 22: a folder that was put back from an old copy is whole in itself; only its peers know better.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_restored_from_an_old_copy_is_refused() {
    let mut c = Cluster::new();
    for id in 1..=3 {
        c.start(id).await;
    }
    c.nodes[&1].0.initialize(1, c.addresses.clone()).await.unwrap();
    c.write(1, 0, 10).await;
    let old = c.leader(1).await % 3 + 1;
    c.stop(old).await;
    let (log, snapshots, _) = &c.disks[&old];
    let copy = (log.copy(), snapshots.copy(), SimKv::default());
    // The same folder comes back as it was, goes on, and is seen to.
    c.start(old).await;
    c.write(1, 10, 10).await;
    c.agreed(1).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    c.stop(old).await;
    c.disks.insert(old, copy);
    c.start(old).await;
    let why = tokio::time::timeout(Duration::from_secs(10), c.nodes[&old].0.failed()).await.expect("it is refused");
    assert!(why.contains("restored from an old copy") && why.contains("new node id"), "{why}");
    // Nothing of consensus passes: it stays where it was.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(c.nodes[&old].1[1].state.lock().unwrap().payloads.len() <= 10);
    assert!(c.group(old, 1).status().last_log < 15, "{:?}", c.group(old, 1).status());
    c.stop(old).await;
    c.write(1, 20, 5).await;
    for id in c.nodes.keys().copied().collect::<Vec<_>>() {
        c.stop(id).await;
    }
}
