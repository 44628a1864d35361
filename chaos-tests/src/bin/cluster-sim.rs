//! Plays stories of a simulated cluster: `run --seeds A..B [--bug N]`, `replay SEED [--bug N]`, `mutants [--seeds N]`.
//! Only in a build with `--cfg madsim`: `cargo xtask sim cluster …` makes one.

#[cfg(not(madsim))]
fn main() {
    eprintln!("this build has real time and a real network: use `cargo xtask sim cluster …`");
    std::process::exit(2);
}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    match cli::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => { eprintln!("{e:#}"); std::process::ExitCode::FAILURE }
    }
}

#[cfg(madsim)]
mod cli {
    use anyhow::{Context, Result, bail};
    use baton_chaos_tests::{cluster::{BUGS, Outcome, run}, core_sim::plan::Fired};
    use std::time::Instant;

    pub fn main() -> Result<()> {
        std::panic::set_hook(Box::new(|_| {}));
        let args: Vec<String> = std::env::args().skip(1).collect();
        let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
        let bug = value("--bug").map_or(Ok(0), |b| b.parse())?;
        match args.first().map(String::as_str) {
            Some("run") => {
                let seeds = value("--seeds").unwrap_or("0..40".into());
                let (a, b) = seeds.split_once("..").context("--seeds wants A..B")?;
                stories(a.parse()?, b.parse()?, bug)
            }
            Some("replay") => replay(args.get(1).context("replay SEED [--bug N]")?.parse()?, bug),
            Some("mutants") => mutants(value("--seeds").map_or(Ok(60), |b| b.parse())?, bug),
            _ => bail!("cluster-sim run --seeds A..B [--bug N] | replay SEED [--bug N] | mutants [--seeds N] [--bug N]"),
        }
    }

    fn told(o: &Outcome, bug: u8) -> Option<String> {
        let (at, why) = o.broken.as_ref()?;
        let with = if bug > 0 { format!(" --bug {bug}") } else { String::new() };
        Some(format!("seed {}: {} at {at} ms: {}\n  replay: cargo xtask sim cluster replay {}{with}", o.seed, why.invariant, why.what, o.seed))
    }

    fn stories(a: u64, b: u64, bug: u8) -> Result<()> {
        let (mut fired, mut failed, mut simulated, begin) = (Fired::default(), Vec::new(), 0, Instant::now());
        for seed in a..b {
            let o = run(seed, bug);
            fired.add(&o.fired);
            simulated += o.simulated_ms;
            if let Some(text) = told(&o, bug) {
                println!("{text}");
                failed.push(seed);
            }
        }
        println!("\nfaults and events that happened in seeds {a}..{b}:");
        for (what, n) in &fired.0 { println!("  {n:>8}  {what}"); }
        println!("{} simulated s in {:.1} s", simulated / 1_000, begin.elapsed().as_secs_f64());
        if failed.is_empty() {
            println!("{} stories, none broke an invariant", b - a);
            Ok(())
        } else {
            bail!("{} of {} stories broke an invariant: {failed:?}", failed.len(), b - a)
        }
    }

    fn replay(seed: u64, bug: u8) -> Result<()> {
        let o = run(seed, bug);
        println!("seed {seed}: {:#?}", o.plan);
        for line in &o.story { println!("{line}"); }
        println!("digest {:016x}, {} events, {:?}", o.digest, o.events, o.work);
        match told(&o, bug) {
            Some(text) => bail!(text),
            None => { println!("no invariant was broken"); Ok(()) }
        }
    }

    fn mutants(most: u64, only: u8) -> Result<()> {
        println!("| bug | what | caught by | seeds needed | branch reached |\n| --- | --- | --- | --- | --- |");
        let mut missed = Vec::new();
        for bug in BUGS.iter().filter(|b| only == 0 || only == b.number) {
            let mut reached = 0;
            let found = (0..most).find_map(|seed| {
                let o = run(seed, bug.number);
                reached += o.reached;
                o.broken.map(|(at, why)| (seed, at, why))
            });
            match found {
                Some((seed, at, why)) => {
                    println!("| {} | {} | {} | {} | {reached} |", bug.number, bug.what, why.invariant, seed + 1);
                    eprintln!("  bug {} at {at} ms: {}", bug.number, why.what);
                    if !bug.caught_by.contains(&why.invariant) { missed.push(bug.number); }
                }
                None => {
                    println!("| {} | {} | not caught | {most} | {reached} |", bug.number, bug.what);
                    missed.push(bug.number);
                }
            }
        }
        if missed.is_empty() { Ok(()) } else { bail!("not caught, or by another invariant: {missed:?}") }
    }
}
