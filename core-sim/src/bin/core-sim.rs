//! Runs stories: `run --seeds A..B [--jobs N]`, `replay SEED [--bug N] [--html FILE]`, `mutants [--seeds N]`.

use anyhow::{Context, Result, bail};
use baton_core_sim::{bugs, plan::{BATCH, Fired, KINDS}, run, timeline::About};
use baton_invariants::{linear::Report, names::Net};
use std::sync::atomic::{AtomicU64, Ordering};

fn main() -> Result<()> {
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    match args.first().map(String::as_str) {
        Some("run") => {
            let seeds = value("--seeds").unwrap_or("0..300".into());
            let (a, b) = seeds.split_once("..").context("--seeds wants A..B")?;
            stories(a.parse()?, b.parse()?, value("--bug").map_or(Ok(0), |b| b.parse())?, value("--jobs").map_or(Ok(1), |b| b.parse())?)
        }
        Some("replay") => replay(args.get(1).context("replay SEED [--bug N] [--html FILE]")?.parse()?, value("--bug").map_or(Ok(0), |b| b.parse())?, value("--html")),
        Some("mutants") => mutants(value("--seeds").map_or(Ok(300), |b| b.parse())?),
        _ => bail!("core-sim run --seeds A..B | replay SEED [--bug N] [--html FILE] | mutants [--seeds N]"),
    }
}

/// Every so many stories one is played twice: the same seed must tell the same story.
const TWICE: u64 = 100;

/// What one thread has seen.
#[derive(Default)]
struct Seen { fired: Fired, order: Report, failed: Vec<u64>, slowest: u64, simulated_ms: u64, twice: u64 }

/// Takes seeds from a common counter until there are none left.
fn play(next: &AtomicU64, end: u64, bug: u8) -> Seen {
    let mut seen = Seen::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return seen;
        }
        let o = run(seed, bug, false);
        seen.fired.add(&o.fired);
        seen.order += o.order;
        seen.slowest = seen.slowest.max(o.settled_after);
        seen.simulated_ms += o.simulated_ms;
        if seed.is_multiple_of(TWICE) {
            seen.twice += 1;
            if run(seed, bug, false).trace != o.trace {
                println!("seed {seed}: played again it tells another story");
                seen.failed.push(seed);
            }
        }
        if let Some((at, why)) = o.broken {
            println!("seed {seed}: {} at {at} ms: {}\n  replay: cargo xtask sim replay {seed}{}", why.invariant, why.what, if bug > 0 { format!(" --bug {bug}") } else { String::new() });
            seen.failed.push(seed);
        }
    }
}

/// The CPU time of this process in seconds, where the system says it.
fn cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let after = stat.rsplit(')').next()?;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Some(ticks as f64 / 100.0)
}

fn stories(a: u64, b: u64, bug: u8, jobs: usize) -> Result<()> {
    let next = AtomicU64::new(a);
    let began = std::time::Instant::now();
    let parts: Vec<Seen> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| s.spawn(|| play(&next, b, bug))).collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    if parts.len() != jobs.max(1) {
        bail!("a thread that played stories panicked");
    }
    let Seen { fired, order, mut failed, slowest, simulated_ms, twice } = parts.into_iter().fold(Seen::default(), |mut sum, p| {
        sum.fired.add(&p.fired);
        sum.failed.extend(p.failed);
        sum.order += p.order;
        Seen { slowest: sum.slowest.max(p.slowest), simulated_ms: sum.simulated_ms + p.simulated_ms, twice: sum.twice + p.twice, ..sum }
    });
    failed.sort_unstable();
    let (simulated, wall) = (simulated_ms as f64 / 1000.0, began.elapsed().as_secs_f64());
    println!("\nfaults and events that happened in seeds {a}..{b}:");
    for (what, n) in &fired.0 {
        println!("  {n:>8}  {what}");
    }
    let silent: Vec<&str> = KINDS.into_iter().filter(|k| !fired.0.contains_key(k)).collect();
    if !silent.is_empty() {
        println!("did not happen: {}", silent.join(", "));
    }
    if !silent.is_empty() && b - a >= BATCH && bug == 0 {
        bail!("a fault that never happens proves nothing: {silent:?}");
    }
    println!("invariants checked: {}", Net::Core.checks().join(", "));
    println!("order of commits, fetches and admin calls: {order}");
    let cpu = cpu_s().map(|c| format!(", {c:.0} s of CPU time: {:.0} simulated seconds per CPU second", simulated / c.max(0.01))).unwrap_or_default();
    println!("{:.1} simulated hours in {wall:.0} s{cpu}; {twice} stories were played twice", simulated / 3600.0);
    println!("slowest story was settled {slowest} ms after the faults ended");
    if failed.is_empty() {
        println!("{} stories, none broke an invariant", b - a);
        Ok(())
    } else {
        bail!("{} of {} stories broke an invariant: {failed:?}", failed.len(), b - a)
    }
}

fn replay(seed: u64, bug: u8, html: Option<String>) -> Result<()> {
    let o = run(seed, bug, true);
    println!("seed {seed}: {:#?}", o.plan);
    for line in &o.story {
        println!("{line}");
    }
    println!("trace {:016x}", o.trace);
    if o.broken.is_some() {
        println!("{}", o.state);
    }
    if let Some(file) = html {
        let what = bugs().find(|b| b.number == bug).map(|b| b.what.to_string());
        let replay = format!("cargo xtask sim replay {seed}{}", if bug > 0 { format!(" --bug {bug}") } else { String::new() });
        let about = About { title: format!("Core simulation, seed {seed}"), replay, bug: what, story: &o.story };
        std::fs::write(&file, o.timeline.html(&about)).with_context(|| format!("{file} cannot be written"))?;
        println!("the story as a picture: {file}");
    }
    match o.broken {
        Some((at, why)) => bail!("{} at {at} ms: {}", why.invariant, why.what),
        None => {
            println!("no invariant was broken; settled {} ms after the faults ended", o.settled_after);
            Ok(())
        }
    }
}

fn mutants(most: u64) -> Result<()> {
    println!("| bug | what | caught by | seeds needed | branch reached |\n| --- | --- | --- | --- | --- |");
    let mut missed = Vec::new();
    for bug in bugs() {
        let (mut reached, mut found) = (0, None);
        for seed in 0..most {
            let o = run(seed, bug.number, false);
            reached += o.reached;
            if let Some((_, why)) = o.broken {
                found = Some((seed, why));
                break;
            }
        }
        match found {
            Some((seed, why)) => println!("| {} | {} | {} | {} | {reached} |", bug.number, bug.what, why.invariant, seed + 1),
            None => {
                println!("| {} | {} | not caught | {most} | {reached} |", bug.number, bug.what);
                missed.push(bug.number);
            }
        }
    }
    if missed.is_empty() { Ok(()) } else { bail!("not caught: {missed:?}") }
}
