//! Many stories at once, on some threads, and the account of them.

use crate::{plan::{BATCH, Fired, KINDS}, run};
use anyhow::{Result, bail};
use baton_invariants::{linear::Report, names::Net};
use std::{ops::Range, sync::atomic::{AtomicU64, Ordering}};

/// Every so many stories one is played twice: the same seed must tell the same story.
const TWICE: u64 = 100;

/// What one thread has seen.
#[derive(Default)]
struct Seen { fired: Fired, order: Report, failed: Vec<u64>, slowest: u64, simulated_ms: u64, twice: u64, traces: u64 }

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
        seen.traces = seen.traces.wrapping_add(o.trace);
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


/// Plays all of them and says what happened. An error if an invariant broke, if a story was another one when it was played again, or if a demanded kind of event never happened.
pub fn stories(seeds: Range<u64>, bug: u8, jobs: usize) -> Result<()> {
    let (a, b) = (seeds.start, seeds.end);
    let next = AtomicU64::new(a);
    let began = std::time::Instant::now();
    let parts: Vec<Seen> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| s.spawn(|| play(&next, b, bug))).collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    if parts.len() != jobs.max(1) {
        bail!("a thread that played stories panicked");
    }
    let Seen { fired, order, mut failed, slowest, simulated_ms, twice, traces } = parts.into_iter().fold(Seen::default(), |mut sum, p| {
        sum.fired.add(&p.fired);
        sum.failed.extend(p.failed);
        sum.order += p.order;
        Seen { slowest: sum.slowest.max(p.slowest), simulated_ms: sum.simulated_ms + p.simulated_ms, twice: sum.twice + p.twice, traces: sum.traces.wrapping_add(p.traces), ..sum }
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
    println!("{:.1} simulated hours in {wall:.0} s{cpu}; {twice} stories were played twice; all of them together are {traces:016x}", simulated / 3600.0);
    println!("slowest story was settled {slowest} ms after the faults ended");
    if failed.is_empty() {
        println!("{} stories, none broke an invariant", b - a);
        Ok(())
    } else {
        bail!("{} of {} stories broke an invariant: {failed:?}", failed.len(), b - a)
    }
}
