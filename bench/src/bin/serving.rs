//! How fast a cluster serves, each figure beside something it can be compared with in the same run: this machine is small and shared.
//! `cargo run --release -p baton-bench --bin serving -- all`, or the name of one measurement. Needs the release build of `baton` beside it.

use anyhow::{Context, Result, bail};
use baton_bench::http::{Connection, Mill};
use baton_chaos_tests::processes::{Host, World};
use baton_client::{Event, Member, Reason, clock};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

const USAGE: &str = "serving all | heartbeats | sizes | commits | joins | handover | idle";
const SESSION: Duration = Duration::from_secs(120);
const ROUND: Duration = Duration::from_secs(3);
/// Connections of the load; more than the machine has cores, so that neither side waits for the other's answer.
const CONNECTIONS: usize = 32;

fn main() -> Result<()> {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    if let Some("echo") = argv.first().map(String::as_str) {
        return baton_bench::http::echo(argv.get(1).context("a port")?.parse()?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let which = argv.first().map_or("all", String::as_str);
    let mut known = false;
    for (name, run) in [("heartbeats", heartbeats as fn(&tokio::runtime::Runtime) -> Result<()>), ("sizes", sizes), ("commits", commits), ("joins", joins), ("handover", handover), ("idle", idle)] {
        if which == "all" || which == name {
            known = true;
            println!("== {name}");
            run(&runtime)?;
        }
    }
    if known { Ok(()) } else { bail!("{USAGE}") }
}

fn bins() -> Result<PathBuf> {
    let bins = std::env::current_exe()?.parent().context("no folder")?.to_path_buf();
    if !bins.join("baton").exists() { bail!("{} is missing: cargo build --release -p baton-server", bins.join("baton").display()); }
    Ok(bins)
}
fn cluster(name: &str, nodes: usize, partitions: usize) -> Result<World> {
    let bins = bins()?;
    Ok(World::start_on(&bins, name, partitions, SESSION, vec![Host::loopback(&bins); nodes], "127.0.0.1"))
}

const INCARNATION: &str = "0123456789abcdef0123456789abcdef";
fn join_body() -> String {
    json!({"member_epoch": 0, "incarnation": INCARNATION, "subscribed_topics": ["work"], "owned": [], "timeout_ms": 20_000}).to_string()
}
fn beat_path(group: &str, member: usize) -> String { format!("/v1/groups/{group}/members/m{member}/heartbeat") }

/// Lets members join and follow their answers until all are stable. How many requests that took.
async fn fill(address: &str, group: &str, members: usize) -> Result<(u64, Vec<(i64, u64)>)> {
    let requests = Arc::new(AtomicU64::new(0));
    let states: Arc<Mutex<Vec<(i64, u64)>>> = Arc::new(Mutex::new(vec![(0, 0); members]));
    let mut tasks = Vec::new();
    for c in 0..CONNECTIONS {
        let (address, group, requests, states) = (address.to_string(), group.to_string(), requests.clone(), states.clone());
        tasks.push(tokio::spawn(async move {
            let mut connection = Connection::open(&address).await?;
            let mut left: Vec<usize> = (c..members).step_by(CONNECTIONS).collect();
            while !left.is_empty() {
                let mut again = Vec::new();
                for m in left {
                    let (epoch, revision) = states.lock().map_err(|_| anyhow::anyhow!("poisoned"))?[m];
                    let body = if epoch == 0 { join_body() } else { json!({"member_epoch": epoch, "incarnation": INCARNATION, "owned": [], "assignment_revision": revision, "timeout_ms": 20_000}).to_string() };
                    let (status, answer) = connection.post(&beat_path(&group, m), body).await?;
                    requests.fetch_add(1, Relaxed);
                    let v: Value = serde_json::from_slice(&answer)?;
                    if status == 503 { again.push(m); continue; }
                    if status != 200 { bail!("{status} {v}"); }
                    let now = (v["member_epoch"].as_i64().unwrap_or(0), v["assignment_revision"].as_u64().unwrap_or(0));
                    states.lock().map_err(|_| anyhow::anyhow!("poisoned"))?[m] = now;
                    if v["member_state"] != "stable" || v["member_epoch"] != v["group_epoch"] { again.push(m); }
                }
                left = again;
            }
            Ok::<(), anyhow::Error>(())
        }));
    }
    for t in tasks { t.await??; }
    let states = states.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    Ok((requests.load(Relaxed), states))
}

/// Requests a second of steady heartbeats, and the node's CPU time for one.
async fn steady(address: &str, group: &str, states: &[(i64, u64)], pid: u32) -> Result<(f64, f64)> {
    let bodies: Vec<(String, String)> = states.iter().enumerate().map(|(m, (epoch, revision))| {
        (beat_path(group, m), json!({"member_epoch": epoch, "incarnation": INCARNATION, "owned": null, "assignment_revision": revision, "timeout_ms": 3_000}).to_string())
    }).collect();
    let before = cpu_ms(pid);
    let done = Mill::run(address, CONNECTIONS, ROUND, bodies).await?;
    let cpu = cpu_ms(pid) - before;
    Ok((done as f64 / ROUND.as_secs_f64(), cpu * 1_000.0 / done.max(1) as f64))
}

/// Steady heartbeats beside a route that echoes the same body, turn and turn about.
fn heartbeats(rt: &tokio::runtime::Runtime) -> Result<()> {
    let w = cluster("bench-heartbeats", 1, 10)?;
    let echo = Echo::start()?;
    rt.block_on(async {
        let (_, states) = fill(&w.http[0], "g", 10).await?;
        let body = json!({"member_epoch": 3, "incarnation": INCARNATION, "owned": null, "assignment_revision": 1_700_000_000_000_000u64, "timeout_ms": 3_000}).to_string();
        let mut ratios = Vec::new();
        for round in 1..=5 {
            let (beats, cpu) = steady(&w.http[0], "g", &states, w.pid(1)).await?;
            let echoed = Mill::run(&echo.address, CONNECTIONS, ROUND, vec![("/echo".into(), body.clone())]).await? as f64 / ROUND.as_secs_f64();
            ratios.push(beats / echoed);
            println!("round {round}: heartbeats {beats:.0}/s ({cpu:.1} us of CPU each), echo {echoed:.0}/s: {:.0} %", 100.0 * beats / echoed);
        }
        ratios.sort_by(f64::total_cmp);
        println!("steady heartbeats reach {:.0} % of the echo (median of 5; lowest {:.0} %, highest {:.0} %)", ratios[2] * 100.0, ratios[0] * 100.0, ratios[4] * 100.0);
        Ok::<(), anyhow::Error>(())
    })?;
    w.fine();
    Ok(())
}

/// What one steady heartbeat costs as its group grows, and what a member takes in memory.
fn sizes(rt: &tokio::runtime::Runtime) -> Result<()> {
    for members in [10usize, 1_000, 10_000, 100_000] {
        let w = cluster(&format!("bench-sizes-{members}"), 1, 100)?;
        let before = rss_kib(w.pid(1));
        let began = Instant::now();
        // Groups of 100,000 are filled in a way that does not wait for reconciliation: members without partitions are stable after one more heartbeat.
        let (_, states) = rt.block_on(fill(&w.http[0], "g", members))?;
        let filled = began.elapsed();
        let grown = rss_kib(w.pid(1)).saturating_sub(before);
        let (rate, cpu) = rt.block_on(steady(&w.http[0], "g", &states, w.pid(1)))?;
        println!("{members} members: {rate:.0} heartbeats/s, {cpu:.1} us of CPU each; in after {:.1} s; the node grew by {} KiB: {:.2} KiB a member", filled.as_secs_f64(), grown, grown as f64 / members as f64);
        w.fine();
    }
    Ok(())
}

/// Offset commits with a real fsync each (many share one), on one node and on three.
fn commits(rt: &tokio::runtime::Runtime) -> Result<()> {
    for nodes in [1, 3] {
        let w = cluster(&format!("bench-commits-{nodes}"), nodes, 64)?;
        let address = w.http[w.leader_of("offsets") - 1].clone();
        let bodies: Vec<(String, String)> = (0..64).map(|p| {
            ("/v1/groups/offsets/offsets".to_string(), json!({"offsets": [{"topic": "work", "partition": p, "offset": 42}], "timeout_ms": 3_000}).to_string())
        }).collect();
        let mut rates = Vec::new();
        for connections in [1, CONNECTIONS, 128] {
            let done = rt.block_on(Mill::run_with("PUT", &address, connections, ROUND, bodies.clone()))?;
            rates.push(format!("{connections} at a time: {:.0}/s", done as f64 / ROUND.as_secs_f64()));
        }
        println!("{nodes} node(s): commits {}", rates.join(", "));
        w.fine();
    }
    Ok(())
}

/// Members that come all at once, until every one is stable.
fn joins(rt: &tokio::runtime::Runtime) -> Result<()> {
    for members in [1_000, 10_000] {
        let w = cluster(&format!("bench-joins-{members}"), 3, members)?;
        let address = w.http[w.leader_of("storm") - 1].clone();
        let began = Instant::now();
        let (requests, _) = rt.block_on(fill(&address, "storm", members))?;
        println!("{members} members on three nodes, {members} partitions: all stable after {:.1} s and {requests} requests", began.elapsed().as_secs_f64());
        w.fine();
    }
    Ok(())
}

/// From one member's stop to the next one's grant, with answers that are held until something changes.
fn handover(rt: &tokio::runtime::Runtime) -> Result<()> {
    let w = cluster("bench-handover", 3, 12)?;
    let events: Arc<Mutex<Vec<(u64, String, bool)>>> = Arc::default();
    rt.block_on(async {
        let start = |id: String| {
            let events = events.clone();
            Member::builder(w.http.clone(), "hand").member_id(id).topics(["work"]).long_poll(Duration::from_secs(5)).on_event(move |e| {
                let note = |p: &baton_client::Partition, at: u64, granted| if let Ok(mut all) = events.lock() { all.push((at, p.to_string(), granted)) };
                match e {
                    Event::Granted { partition, at, .. } => note(partition, *at, true),
                    Event::Stopped { partition, at, reason: Reason::Revoked, .. } => note(partition, *at, false),
                    _ => {}
                }
            }).spawn()
        };
        let fixed = [start("a".into()).await?, start("b".into()).await?];
        for m in &fixed { m.joined().await; }
        for turn in 0..60 {
            let guest = start(format!("guest-{turn}")).await?;
            guest.joined().await;
            tokio::time::sleep(Duration::from_millis(400)).await;
            guest.leave().await?;
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        for m in fixed { m.leave().await?; }
        Ok::<(), anyhow::Error>(())
    })?;
    let mut all = events.lock().map_err(|_| anyhow::anyhow!("poisoned"))?.clone();
    all.sort();
    let mut gaps = Vec::new();
    for (i, (at, partition, granted)) in all.iter().enumerate().filter(|(_, e)| !e.2) {
        debug_assert!(!granted);
        if let Some((next, ..)) = all[i + 1..].iter().find(|(_, p, g)| p == partition && *g) { gaps.push((next - at) as f64 / 1e6); }
    }
    gaps.sort_by(f64::total_cmp);
    let at = |q: usize| gaps.get((gaps.len() * q / 1_000).min(gaps.len().saturating_sub(1))).copied().unwrap_or(0.0);
    println!("{} hand-overs: median {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", gaps.len(), at(500), at(900), at(990), at(1_000));
    let _ = clock::now();
    w.fine();
    Ok(())
}

/// A cluster that nobody asks anything.
fn idle(_: &tokio::runtime::Runtime) -> Result<()> {
    let w = cluster("bench-idle", 3, 12)?;
    std::thread::sleep(Duration::from_secs(3));
    let before: Vec<f64> = (1..=3).map(|n| cpu_ms(w.pid(n))).collect();
    std::thread::sleep(Duration::from_secs(20));
    let shares: Vec<String> = (1..=3).zip(before).map(|(n, b)| format!("{:.2} %", (cpu_ms(w.pid(n)) - b) / 200.0)).collect();
    println!("idle for 20 s, 8 shards and the meta group: {} of one core", shares.join(", "));
    w.fine();
    Ok(())
}

/// User and system time of a process, ms.
fn cpu_ms(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of the whole line; the clock tick is 10 ms on Linux.
    (ticks(11) + ticks(12)) * 10.0
}
fn rss_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The echo beside which heartbeats are measured, in a process of its own.
struct Echo { child: Child, address: String }
impl Echo {
    fn start() -> Result<Echo> {
        let port = baton_chaos_tests::processes::free_ports(1)[0];
        let child = Command::new(std::env::current_exe()?).args(["echo", &port.to_string()]).stdin(Stdio::null()).spawn()?;
        let address = format!("127.0.0.1:{port}");
        for _ in 0..100 {
            if std::net::TcpStream::connect(&address).is_ok() { return Ok(Echo { child, address }); }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the echo does not start")
    }
}
impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
