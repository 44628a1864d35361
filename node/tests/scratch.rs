use baton_coordinator::{command::*, ids::*, metadata::MetaCommand};
use baton_node::*;
use baton_raft::RaftConfig;
use baton_storage::SimDisk;
use std::{collections::*, time::*};
fn cpu() -> u64 { let s = std::fs::read_to_string("/proc/self/stat").unwrap(); let f: Vec<&str> = s.rsplit(')').next().unwrap().split_whitespace().collect(); f[11].parse::<u64>().unwrap() + f[12].parse::<u64>().unwrap() }
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers() {
    let ls: Vec<_> = (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peers: BTreeMap<u64, String> = (1..).zip(&ls).map(|(i, l)| (i, l.local_addr().unwrap().to_string())).collect();
    drop(ls);
    let t = Instant::now();
    let hs: Vec<_> = (1..=3u64).map(|id| tokio::spawn(Node::start(NodeConfig { node: id, http_advertise: "x".into(), peers: peers.clone(), shards: 8, directory: Node::random_id(), segment_bytes: 1 << 20, raft: RaftConfig { listen: peers[&id].clone(), ..Default::default() }, ..Default::default() }, SimDisk::new(), SimDisk::new()))).collect();
    let mut nodes = vec![];
    for h in hs { nodes.push(h.await.unwrap().unwrap()); }
    while nodes.iter().any(|n| n.ready().is_err()) { tokio::time::sleep(Duration::from_millis(10)).await; }
    println!("ready after {:?}", t.elapsed());
    nodes[0].meta(MetaCommand::DeclareTopic { name: "t".into(), partitions: 4, id_if_new: 1 }).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    let c = cpu(); tokio::time::sleep(Duration::from_secs(4)).await;
    println!("idle cpu ticks in 4 s: {}", cpu() - c);
    println!("{:?}", nodes[0].cluster().shards.iter().map(|s| s.leader).collect::<Vec<_>>());
    for n in &nodes {
        let mut lat = vec![];
        let (mut e, mut r) = (0, AssignmentRevision(0));
        for i in 0..300 {
            let h = Heartbeat { member: "m".into(), incarnation: Incarnation(7), epoch: e, subscribed_topics: (e == 0).then(|| BTreeSet::from(["t".into()])), assignment_revision: r, ..Default::default() };
            let t = Instant::now();
            match n.request(Request { group: "g".into(), command: Command::Heartbeat(h), budget_ms: None }, Duration::from_secs(3)).await {
                Ok(Response::Heartbeat(v)) => { e = v.member_epoch; r = v.assignment_revision; }
                other => println!("{i} {other:?}"),
            }
            lat.push(t.elapsed());
        }
        lat.sort();
        println!("p50 {:?} p99 {:?} max {:?}", lat[150], lat[296], lat[299]);
    }
    for n in &nodes { n.shutdown().await; }
}
