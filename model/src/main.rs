//! `cargo xtask model`: walks the states of the coordinator's own code, breadth first, and says how many there were and what was met.
//!
//! `--states N` (distinct, default 1,000,000) · `--seconds S` at most (default 170) · `--threads N` (default 2) · `--bug N` with a seeded bug · `--no-symmetry` · `--deep N` depth-first
//! to this depth · `--bounds ticks,leader changes,leaves,posts,late answers,copies`.

use anyhow::{Context, Result, bail};
use baton_model::{Bounds, Cluster, canon, world::{Action, World}};
use stateright::{Checker, Model};
use std::{
    process::ExitCode,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

struct Args {
    states: usize,
    seconds: u64,
    threads: usize,
    bug: u8,
    deep: Option<usize>,
    bounds: Bounds,
}

fn args() -> Result<Args> {
    let mut a = Args { states: 1_000_000, seconds: 170, threads: 2, bug: 0, deep: None, bounds: Bounds::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--no-symmetry" {
            canon::NAMES_COUNT.store(true, Relaxed);
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        let number = || value.parse::<u64>().with_context(|| format!("{word} takes a number, not {value}"));
        match word.as_str() {
            "--states" => a.states = number()? as usize,
            "--seconds" => a.seconds = number()?,
            "--threads" => a.threads = number()? as usize,
            "--bug" => a.bug = number()? as u8,
            "--deep" => a.deep = Some(number()? as usize),
            "--bounds" => {
                let n: Vec<u8> = value.split(',').map(str::parse).collect::<Result<_, _>>().context("--bounds takes six small numbers")?;
                let [ticks, leader_changes, leaves, posts, late_answers, copies] = n[..] else { bail!("--bounds takes six numbers, not {}", n.len()) };
                a.bounds = Bounds { ticks, leader_changes, leaves, posts, late_answers, copies };
            }
            _ => bail!("unknown option {word}"),
        }
    }
    Ok(a)
}

fn main() -> Result<ExitCode> {
    let a = args()?;
    let cluster = Cluster::new(a.bounds, a.bug);
    let counters = cluster.counters.clone();
    let (began, limit) = (Instant::now(), Duration::from_secs(a.seconds));
    let builder = cluster.checker().threads(a.threads).timeout(limit).finish_when(stateright::HasDiscoveries::Any);
    let (unique, generated, depth, done, found) = match a.deep {
        None => watch(builder.spawn_bfs(), a.states, limit),
        Some(depth) => watch(builder.target_max_depth(depth).spawn_dfs(), a.states, limit),
    };
    println!("{unique} distinct states, {generated} generated, depth {depth}, {:.1} s, bounds {:?}", began.elapsed().as_secs_f64(), a.bounds);
    println!("{}", counters.render());
    if a.bug > 0 {
        println!("the branch of bug {} was reached {} times", a.bug, counters.reached.load(Relaxed));
    }
    for f in &found {
        println!("{f}");
    }
    if found.is_empty() && !done && unique < a.states {
        println!("too few: {} distinct states were asked for; the time was over first", a.states);
        return Ok(ExitCode::FAILURE);
    }
    Ok(if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The way to a state that breaks an invariant, step by step.
fn story(name: &str, path: stateright::Path<World, Action>) -> String {
    let steps = path.into_vec().into_iter().map(|(state, action)| match action {
        Some(action) => format!("  {state:?}\n    then {action:?}\n"),
        None => format!("  {state:?}"),
    });
    format!("{name} is broken by:\n{}", steps.collect::<String>())
}

/// Waits until enough states are seen, or all, or one that breaks an invariant.
fn watch<C: Checker<Cluster>>(checker: C, states: usize, limit: Duration) -> (usize, usize, usize, bool, Vec<String>) {
    let (began, mut over) = (Instant::now(), false);
    while !checker.is_done() && !over && checker.unique_state_count() < states && checker.discoveries().is_empty() {
        std::thread::sleep(Duration::from_millis(50));
        over = began.elapsed() > limit;
    }
    let found = checker.discoveries().into_iter().map(|(name, path)| story(name, path)).collect();
    // The threads end with the process.
    (checker.unique_state_count(), checker.state_count(), checker.max_depth(), checker.is_done() && !over, found)
}
