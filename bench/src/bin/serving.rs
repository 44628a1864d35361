//! How fast a cluster serves, and what it costs when nobody asks it anything. The machine is small and shared: look at the ratios.
//! `cargo run --release -p baton-bench --bin serving -- all`, or the name of one measurement and its number. Needs the release build of `baton` beside it.

use anyhow::{Context, Result, bail};
use axum::{Router, routing::post, serve::ListenerExt};
use baton_bench::{
    crew::{Crew, Steady},
    handover,
    http::Mill,
};
use baton_chaos_tests::processes::{Host, World, http::call};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;

/// The server's own, so that the echo has it too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "serving all | commits | heartbeats [MEMBERS] | sizes [MEMBERS_MAX] | storm [MEMBERS] | handover [ROUNDS] | idle [THREADS]";
/// Longer than any measurement: nobody expires while only some are heard.
const LONG_SESSION: Duration = Duration::from_secs(1_800);
const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 5;
/// Connections of the load; more than the machine has cores, so that neither side waits for the other's answer.
const CONNECTIONS: usize = 32;
/// A connection of a large crew has no more members than these: each sends one heartbeat at a time, and real members do not wait for each other.
const MEMBERS_EACH: usize = 50;

type Measure = fn(&Runtime, Option<usize>) -> Result<()>;
const ALL: [(&str, Measure); 6] = [("commits", commits), ("heartbeats", heartbeats), ("sizes", sizes), ("storm", storm), ("handover", hand_over), ("idle", idle)];

fn main() -> Result<()> {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let which = argv.first().map_or("all", String::as_str);
    let number = argv.get(1).map(|n| n.parse().with_context(|| USAGE)).transpose()?;
    if which == "echo" { return runtime.block_on(echo()); }
    let wanted: Vec<_> = ALL.iter().filter(|(name, _)| which == "all" || which == *name).collect();
    if wanted.is_empty() { bail!("{USAGE}"); }
    for (name, run) in wanted {
        println!("== {name}");
        run(&runtime, number)?;
    }
    Ok(())
}

fn bins() -> Result<PathBuf> {
    let bins = std::env::current_exe()?.parent().context("no folder")?.to_path_buf();
    if !bins.join("baton").exists() { bail!("{} is missing: cargo build --release -p baton-server", bins.join("baton").display()); }
    Ok(bins)
}
/// Nodes, with a topic of so many partitions and `session` for the group `crew`.
fn cluster(name: &str, nodes: usize, partitions: usize, session: Duration) -> Result<World> {
    let bins = bins()?;
    Ok(World::start_on(&bins, name, partitions, session, vec![Host::loopback(&bins); nodes], "127.0.0.1"))
}
fn ask(address: &str, method: &str, path: &str, body: &str) -> Result<Value> {
    let (status, _, answer) = call(address, method, path, body, Duration::from_secs(10))?;
    if status >= 300 { bail!("{method} {path}: {status} {answer}"); }
    Ok(serde_json::from_str(&answer).unwrap_or(Value::Null))
}
/// A topic with a partition for each member, and a group of its own with a long session; all members in, each at its target.
fn filled(rt: &Runtime, w: &World, members: usize) -> Result<Vec<Steady>> {
    let (group, topic) = (format!("of-{members}"), format!("for-{members}"));
    ask(&w.http[0], "PUT", &format!("/v1/topics/{topic}"), &json!({"partitions": members}).to_string())?;
    ask(&w.http[0], "PATCH", &format!("/v1/groups/{group}/config"), &json!({"consumer.session.timeout.ms": LONG_SESSION.as_millis() as u64}).to_string())?;
    let address = &w.http[w.leader_of(&group) - 1];
    let (steady, _) = gather(rt, address, &group, &topic, members)?;
    Ok(steady)
}
/// Members join until everyone has its target and nothing is pending; how long that took.
fn gather(rt: &Runtime, address: &str, group: &str, topic: &str, members: usize) -> Result<(Vec<Steady>, Duration)> {
    let start = Instant::now();
    let crew = rt.block_on(async { Crew::start(address, group, topic, members, (members / MEMBERS_EACH).max(2 * CONNECTIONS)) });
    let took = loop {
        std::thread::sleep(Duration::from_millis(50));
        let all = crew.counts.settled.load(Relaxed) == members as u64;
        let listed = || -> Result<bool> {
            let groups = ask(address, "GET", &format!("/v1/groups?prefix={group}"), "")?;
            Ok(groups["items"].as_array().into_iter().flatten().any(|g| g["group"] == group && g["state"] == "stable" && g["members"] == members))
        };
        if all && listed()? { break start.elapsed(); }
        if start.elapsed() > Duration::from_secs(600) { bail!("{group}: {} of {members} members are settled after 600 s", crew.counts.settled.load(Relaxed)); }
    };
    let counts = crew.counts.clone();
    let steady = rt.block_on(crew.stop())?;
    if counts.rejoins.load(Relaxed) > 0 { println!("{group}: {} joined again, which spoils the measurement", counts.rejoins.load(Relaxed)); }
    Ok((steady, took))
}

/// Least, median and most.
fn spread(mut all: Vec<f64>) -> (f64, f64, f64) {
    all.sort_by(f64::total_cmp);
    (all[0], all[all.len() / 2], all[all.len() - 1])
}
fn rate(done: u64, time: Duration) -> f64 { done as f64 / time.as_secs_f64() }

/// Offset commits with a real fsync each (many share one), on one node and on three.
fn commits(rt: &Runtime, _: Option<usize>) -> Result<()> {
    for nodes in [1, 3] {
        let w = cluster(&format!("bench-commits-{nodes}"), nodes, 64, Duration::from_secs(120))?;
        let address = w.http[w.leader_of("offsets") - 1].clone();
        let bodies: Vec<(String, String)> = (0..64).map(|p| {
            ("/v1/groups/offsets/offsets".to_string(), json!({"offsets": [{"topic": "work", "partition": p, "offset": 42}], "timeout_ms": 3_000}).to_string())
        }).collect();
        let mut rates = Vec::new();
        for connections in [1, CONNECTIONS, 128] {
            let done = rt.block_on(Mill::run("PUT", &address, connections, ROUND, bodies.clone()))?;
            rates.push(format!("{connections} at a time: {:.0}/s", rate(done, ROUND)));
        }
        println!("{nodes} node(s): commits {}", rates.join(", "));
        w.fine();
    }
    Ok(())
}

/// A plain axum server that sends every body back; prints its address. Ends with its parent's pipe.
async fn echo() -> Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    let route = post(async |body: bytes::Bytes| ([("content-type", "application/json")], body));
    let app = Router::new().route("/v1/groups/{group}/members/{member}/heartbeat", route);
    let listener = listener.tap_io(|s| { let _ = s.set_nodelay(true); });
    let orphaned = tokio::task::spawn_blocking(|| std::io::stdin().lines().count());
    tokio::select! { r = axum::serve(listener, app) => Ok(r?), _ = orphaned => Ok(()) }
}
struct Echo { child: Child, address: String }
impl Echo {
    fn start() -> Result<Echo> {
        let mut child = Command::new(std::env::current_exe()?).arg("echo").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut address = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut address)?;
        Ok(Echo { child, address: address.trim().into() })
    }
}
impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Steady heartbeats beside an echo of the same bodies by a plain axum route: same connections, same client, rounds in turn.
fn heartbeats(rt: &Runtime, members: Option<usize>) -> Result<()> {
    let members = members.unwrap_or(1_000);
    for nodes in [1, 3] {
        let w = cluster(&format!("bench-heartbeats-{nodes}"), nodes, 1, LONG_SESSION)?;
        let steady = filled(rt, &w, members)?;
        let leader = w.leader_of(&format!("of-{members}"));
        let address = w.http[leader - 1].clone();
        let echo = Echo::start()?;
        // Of each side: rates, and the time of a processor that its process took for each answer, which other work on the machine disturbs less.
        let (mut ours, mut theirs) = ([vec![], vec![]], [vec![], vec![]]);
        for _ in 0..ROUNDS {
            for (address, pid, [rates, costs]) in [(&address, w.pid(leader), &mut ours), (&echo.address, echo.child.id(), &mut theirs)] {
                let before = cpu_ms(pid);
                let done = rt.block_on(Mill::run("POST", address, CONNECTIONS, ROUND, steady.clone()))?;
                rates.push(rate(done, ROUND));
                costs.push((cpu_ms(pid) - before) * 1_000.0 / done as f64);
            }
        }
        let shares = |a: &[f64], b: &[f64]| spread(a.iter().zip(b).map(|(a, b)| 100.0 * a / b).collect());
        let ([rates, costs], [echoes, echo_costs]) = (ours, theirs);
        let (low, mid, high) = shares(&rates, &echoes);
        let (_, share, _) = shares(&echo_costs, &costs);
        let ((_, r, _), (_, e, _), (_, c, _), (_, ec, _)) = (spread(rates), spread(echoes), spread(costs), spread(echo_costs));
        println!("{nodes} node(s), {members} members: {r:.0}/s beside an echo's {e:.0}/s: {mid:.0} % ({low:.0} to {high:.0} in {ROUNDS} rounds); {c:.1} us of a processor for each beside {ec:.1}: {share:.0} %");
        w.fine();
    }
    Ok(())
}

/// The same heartbeats as the group grows: groups of every size on one node, asked in turn.
fn sizes(rt: &Runtime, most: Option<usize>) -> Result<()> {
    let sizes: Vec<usize> = [10, 100, 1_000, 10_000, 100_000].into_iter().filter(|n| *n <= most.unwrap_or(10_000)).collect();
    let w = cluster("bench-sizes", 1, 1, LONG_SESSION)?;
    let steady = sizes.iter().map(|n| filled(rt, &w, *n)).collect::<Result<Vec<_>>>()?;
    let mut rates = vec![Vec::new(); sizes.len()];
    for _ in 0..ROUNDS {
        for (all, s) in rates.iter_mut().zip(&steady) { all.push(rate(rt.block_on(Mill::run("POST", &w.http[0], CONNECTIONS, ROUND, s.clone()))?, ROUND)); }
    }
    let first = rates[0].clone();
    for (n, all) in sizes.iter().zip(rates) {
        let (low, mid, high) = spread(all.iter().zip(&first).map(|(r, f)| 100.0 * r / f).collect());
        println!("{n:>7} members: {:.0}/s, {mid:.0} % of the smallest ({low:.0} to {high:.0})", spread(all).1);
    }
    w.fine();
    Ok(())
}

/// Everybody joins at once, on one node and on three; and what a member costs in memory.
fn storm(rt: &Runtime, members: Option<usize>) -> Result<()> {
    for members in members.map_or(vec![1_000, 10_000], |n| vec![n]) {
        for nodes in [1, 3] {
            let w = cluster(&format!("bench-storm-{nodes}"), nodes, members, Duration::from_secs(45))?;
            let leader = w.leader();
            let before = rss_kib(w.pid(leader));
            let (_, took) = gather(rt, &w.http[leader - 1], "crew", "work", members)?;
            let grew = rss_kib(w.pid(leader)).saturating_sub(before);
            println!("{members} members join {nodes} node(s): stable after {:.2} s; the leader grew by {} bytes a member", took.as_secs_f64(), grew * 1_024 / members as u64);
            w.fine();
        }
    }
    Ok(())
}

/// Hand-overs between two members that listen (`wait_ms`), on one node and on three.
fn hand_over(rt: &Runtime, rounds: Option<usize>) -> Result<()> {
    let partitions = 8;
    for nodes in [1, 3] {
        let w = cluster(&format!("bench-handover-{nodes}"), nodes, partitions, Duration::from_secs(15))?;
        let t = rt.block_on(handover::run(&w.http, "crew", "work", partitions, rounds.unwrap_or(50)))?;
        println!("{nodes} node(s): {}; {}; {}", told("old owner stopped to new owner told", t.between), told("a member joins, whole", t.join), told("a member leaves, whole", t.leave));
        w.fine();
    }
    Ok(())
}
fn told(what: &str, mut ms: Vec<f64>) -> String {
    ms.sort_by(f64::total_cmp);
    let at = |percent: usize| ms[(ms.len() * percent / 100).min(ms.len() - 1)];
    format!("{what}: median {:.1} ms, p99 {:.1}, most {:.1} ({} times)", at(50), at(99), ms[ms.len() - 1], ms.len())
}

/// A cluster that nobody asks anything.
fn idle(_: &Runtime, threads: Option<usize>) -> Result<()> {
    let bins = bins()?;
    let mut host = Host::loopback(&bins);
    host.env.extend(threads.map(|n| ("TOKIO_WORKER_THREADS".to_string(), n.to_string())));
    let w = World::start_on(&bins, "bench-idle", 12, Duration::from_secs(120), vec![host; 3], "127.0.0.1");
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
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of the whole line; the clock tick is 10 ms on Linux.
    (ticks(11) + ticks(12)) * 10.0
}
/// Memory of a process that is in RAM, KiB.
fn rss_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    text.lines().find_map(|l| l.strip_prefix("VmRSS:")).and_then(|v| v.split_whitespace().next()).and_then(|v| v.parse().ok()).unwrap_or(0)
}
