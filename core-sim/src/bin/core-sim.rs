//! Runs stories: `run --seeds A..B [--jobs N]`, `replay SEED [--bug N] [--html FILE]`, `mutants [--seeds N]`.

use anyhow::{Context, Result, bail};
use baton_core_sim::{NOT_CAUGHT, SeededBug, batch::stories, bugs, run, timeline::About};

/// Stories make and drop small things all the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    std::panic::set_hook(Box::new(|_| {}));
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
    match args.first().map(String::as_str) {
        Some("run") => {
            let seeds = value("--seeds").unwrap_or("0..300".into());
            let (a, b) = seeds.split_once("..").context("--seeds wants A..B")?;
            stories(a.parse()?..b.parse()?, value("--bug").map_or(Ok(0), |b| b.parse())?, value("--jobs").map_or(Ok(1), |b| b.parse())?)
        }
        Some("replay") => replay(args.get(1).context("replay SEED [--bug N] [--html FILE]")?.parse()?, value("--bug").map_or(Ok(0), |b| b.parse())?, value("--html")),
        Some("mutants") => mutants(value("--seeds").map_or(Ok(400), |b| b.parse())?, value("--only").map(|l| l.split(',').map(str::parse).collect::<Result<Vec<u8>, _>>()).transpose()?),
        _ => bail!("core-sim run --seeds A..B | replay SEED [--bug N] [--html FILE] | mutants [--seeds N] [--only BUG,BUG…]"),
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

fn mutants(most: u64, only: Option<Vec<u8>>) -> Result<()> {
    println!("| bug | what | caught by | seeds needed | branch reached |\n| --- | --- | --- | --- | --- |");
    let mut missed = Vec::new();
    let chosen: Vec<&SeededBug> = match &only {
        None => bugs().collect(),
        Some(only) => bugs().chain(&NOT_CAUGHT).filter(|b| only.contains(&b.number)).collect(),
    };
    for bug in chosen {
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
