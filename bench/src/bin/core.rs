//! What a group costs in the core alone, by its size: `cargo run --release -p baton-bench --bin core -- all|steady|joins|storm|memory [MEMBERS_MAX]`.

use anyhow::{Result, bail};
use baton_bench::{memory, shard::{Spent, World}};
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;

const SIZES: [usize; 5] = [10, 100, 1_000, 10_000, 100_000];
/// Commands that one drain serves while a group is filled.
const AT_ONCE: usize = 100;
const RUNS: usize = 7;

fn main() -> Result<()> {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    let which = argv.first().map_or("all", String::as_str);
    let most = argv.get(1).map_or(Ok(100_000), |n| n.parse())?;
    let sizes: Vec<usize> = SIZES.into_iter().filter(|n| *n <= most).collect();
    let mut known = false;
    for (name, run) in [("steady", steady as fn(&[usize])), ("joins", joins), ("storm", storm), ("memory", bytes)] {
        if which == "all" || which == name {
            known = true;
            run(&sizes);
        }
    }
    if known { Ok(()) } else { bail!("core all | steady | joins | storm | memory [MEMBERS_MAX]") }
}

/// A group of `n` members with a partition each, all at their target.
fn group(n: usize) -> World {
    let mut w = World::new(n.min(100_000) as i32);
    w.grow(n, AT_ONCE.max(n / 20));
    w
}

/// Sizes are gone through in turn, so that a slow moment of the machine hits all of them.
fn steady(sizes: &[usize]) {
    println!("== steady: one heartbeat that changes nothing, in the shard alone, µs (least, median, most of {RUNS} runs of 20,000)");
    let mut worlds: Vec<World> = sizes.iter().map(|n| group(*n)).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    for _ in 0..RUNS {
        for (w, t) in worlds.iter_mut().zip(&mut times) { t.push(w.steady(20_000).as_secs_f64() * 1e6); }
    }
    for (n, t) in sizes.iter().zip(&mut times) {
        t.sort_by(f64::total_cmp);
        println!("{n:>7} members: {:.2} {:.2} {:.2}", t[0], t[RUNS / 2], t[RUNS - 1]);
    }
}

/// One join at a time, each with everything that follows from it.
fn joins(sizes: &[usize]) {
    println!("== joins: one member joins a stable group and all become stable again; ms of the join itself, then of all that follows");
    for n in sizes.iter().filter(|n| **n <= 10_000) {
        let mut w = group(*n);
        let (mut own, mut all) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            w.pass(200);
            w.spent = Spent::default();
            let start = Instant::now();
            w.grow(1, AT_ONCE.max(n / 20));
            all.push((start.elapsed().as_secs_f64() * 1e3, w.spent));
            own.push(w.joined.as_secs_f64() * 1e3);
        }
        own.sort_by(f64::total_cmp);
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (ms, s) = all[RUNS / 2];
        println!("{n:>7} members: the join {:.2}; all {ms:.1} ({})", own[RUNS / 2], told(&s));
    }
}

/// Everybody joins at once.
fn storm(sizes: &[usize]) {
    println!("== storm: so many members join an empty group, {AT_ONCE} in a drain, until each has its target and nothing is pending");
    for n in sizes.iter().filter(|n| **n <= 10_000) {
        let start = Instant::now();
        let mut w = World::new(*n as i32);
        w.grow(*n, AT_ONCE);
        println!("{n:>7} members: {:.3} s ({})", start.elapsed().as_secs_f64(), told(&w.spent));
    }
}

fn told(s: &Spent) -> String {
    let ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
    format!("decided in {:.1} ms, replayed in {:.1} ms, targets in {:.1} ms; {} entries, {} KiB", ms(s.decide), ms(s.replay), ms(s.target), s.entries, s.entry_bytes >> 10)
}

/// The memory of a stable group on its leader, timers and all.
fn bytes(sizes: &[usize]) {
    println!("== memory: bytes a member with one partition each, on the leader (allocated, without the allocator's own) and in a snapshot");
    for n in sizes {
        let mut members = World::new(*n as i32);
        let before = memory::in_use();
        members.grow(*n, AT_ONCE.max(n / 20));
        members.forget_members();
        let used = memory::in_use() - before;
        println!("{n:>7} members: {} in memory, {} in the snapshot", used / n, members.shard.snapshot().len() / n);
    }
}
