//! How fast a cluster serves, and what it costs when nobody asks it anything. The machine is small and shared: look at the ratios.
//! `cargo run --release -p baton-bench --bin serving -- all`, or the name of one measurement. Needs the release build of `baton` beside it.

use anyhow::{Context, Result, bail};
use baton_bench::http::Mill;
use baton_chaos_tests::processes::{Host, World};
use serde_json::json;
use std::{path::PathBuf, time::Duration};

const USAGE: &str = "serving all | commits | idle";
const SESSION: Duration = Duration::from_secs(120);
const ROUND: Duration = Duration::from_secs(3);
/// Connections of the load; more than the machine has cores, so that neither side waits for the other's answer.
const CONNECTIONS: usize = 32;

fn main() -> Result<()> {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let which = argv.first().map_or("all", String::as_str);
    let mut known = false;
    for (name, run) in [("commits", commits as fn(&tokio::runtime::Runtime) -> Result<()>), ("idle", idle)] {
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
            let done = rt.block_on(Mill::run("PUT", &address, connections, ROUND, bodies.clone()))?;
            rates.push(format!("{connections} at a time: {:.0}/s", done as f64 / ROUND.as_secs_f64()));
        }
        println!("{nodes} node(s): commits {}", rates.join(", "));
        w.fine();
    }
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
