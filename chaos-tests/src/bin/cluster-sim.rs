//! Plays stories of a simulated cluster: `run --seeds A..B [--with ACT] [--jobs N] [--bug N] [--html FILE]`, `replay SEED [--bug N] [--html FILE]`, `mutants [--seeds N]`,
//! `speed`, `soak --hours H [--state FILE]`. Only in a build with `--cfg madsim`: `cargo xtask sim cluster …` makes one.

#[cfg(not(madsim))]
fn main() {
    eprintln!("this build has real time and a real network: use `cargo xtask sim cluster …`");
    std::process::exit(2);
}

#[cfg(madsim)]
fn main() -> std::process::ExitCode {
    match cli::main() {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(madsim)]
mod cli {
    use anyhow::{Context, Result, bail};
    use baton_chaos_tests::{
        cluster::{BATCH, BUGS, KINDS, OPEN, Outcome, Plan, Report, cpu_seconds, play_plan, play_seeds, run, soak},
        core_sim::{plan::Fired, timeline::About},
    };
    use std::time::Instant;

    pub fn main() -> Result<()> {
        std::panic::set_hook(Box::new(|_| {}));
        let args: Vec<String> = std::env::args().skip(1).collect();
        let value = |name: &str| args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)).cloned();
        let jobs = value("--jobs").map_or(Ok(1), |j| j.parse())?;
        let bug = value("--bug").map_or(Ok(0), |b| b.parse())?;
        match args.first().map(String::as_str) {
            Some("run") => {
                let seeds = value("--seeds").unwrap_or("0..40".into());
                let (a, b) = seeds.split_once("..").context("--seeds wants A..B")?;
                stories(a.parse()?, b.parse()?, value("--with").as_deref(), jobs, bug, value("--html"))
            }
            Some("replay") => replay(args.get(1).context("replay SEED [--bug N] [--html FILE]")?.parse()?, bug, value("--html")),
            Some("speed") => { speed(); Ok(()) }
            Some("mutants") => mutants(value("--seeds").map_or(Ok(150), |b| b.parse())?, value("--with").as_deref(), jobs, bug),
            Some("soak") => soak::soak(value("--hours").context("soak --hours H [--state FILE] [--bug N]")?.parse()?, &value("--state").unwrap_or("target/sim-soak.json".into()), jobs, bug),
            _ => bail!("cluster-sim run --seeds A..B [--with ACT] [--jobs N] [--bug N] [--html FILE] | replay SEED [--bug N] [--html FILE] | mutants [--seeds N] [--bug N] | soak --hours H [--state FILE] [--bug N]"),
        }
    }

    fn told(o: &Outcome, bug: u8) -> Option<String> {
        let (at, why) = o.broken.as_ref()?;
        let with = if bug > 0 { format!(" --bug {bug}") } else { String::new() };
        Some(format!("seed {}: {} at {at} ms: {}\n  replay: cargo xtask sim cluster replay {}{with}", o.seed, why.invariant, why.what, o.seed))
    }
    fn picture(o: &Outcome, bug: u8, file: Option<&String>) -> Result<()> {
        let Some(file) = file else { return Ok(()) };
        let what = BUGS.iter().chain(&OPEN).find(|b| b.number == bug).map(|b| b.what.to_string());
        let replay = format!("cargo xtask sim cluster replay {}{}", o.seed, if bug > 0 { format!(" --bug {bug}") } else { String::new() });
        let about = About { title: format!("Simulated cluster, seed {}", o.seed), replay, bug: what, story: &o.story };
        std::fs::write(file, o.timeline.html(&about)).with_context(|| format!("{file} cannot be written"))?;
        println!("  the story as a picture: {file}");
        Ok(())
    }

    /// Whether a story has an act of that name.
    fn has(seed: u64, act: &str) -> bool { Plan::draw(seed).acts.iter().any(|(_, a)| format!("{a:?}").starts_with(act)) }

    fn stories(a: u64, b: u64, with: Option<&str>, jobs: usize, bug: u8, html: Option<String>) -> Result<()> {
        let (mut fired, mut failed, mut simulated, begin) = (Fired::default(), Vec::new(), 0, Instant::now());
        let (mut drawn, mut order) = (Ok(()), Report::default());
        play_seeds((a..b).filter(|seed| with.is_none_or(|act| has(*seed, act))), jobs, bug, |o| {
            fired.add(&o.fired);
            simulated += o.simulated_ms;
            order += o.order.clone();
            if let Some(text) = told(&o, bug) {
                println!("{text}");
                if failed.is_empty() { drawn = picture(&o, bug, html.as_ref()); }
                failed.push(o.seed);
            }
        });
        drawn?;
        println!("\nfaults and events that happened in seeds {a}..{b}:");
        for (what, n) in &fired.0 { println!("  {n:>8}  {what}"); }
        let silent: Vec<&str> = KINDS.into_iter().filter(|k| !fired.0.contains_key(k)).collect();
        if !silent.is_empty() { println!("did not happen: {}", silent.join(", ")); }
        let cpu = cpu_seconds();
        println!("{} simulated s in {:.1} s; {cpu:.1} s of CPU time, {:.0} simulated s for each", simulated / 1_000, begin.elapsed().as_secs_f64(), simulated as f64 / 1_000.0 / cpu.max(0.001));
        println!("calls that were put in order: {order}");
        if !failed.is_empty() { bail!("{} of {} stories broke an invariant: {failed:?}", failed.len(), b - a) }
        if !silent.is_empty() && b - a >= BATCH && bug == 0 && with.is_none() { bail!("a fault that never happens proves nothing: {silent:?}") }
        println!("{} stories, none broke an invariant", b - a);
        Ok(())
    }

    /// What a calm minute costs, by size.
    fn speed() {
        let calm = |shards, members, commit_pct| Plan { shards, groups: 1, members, commit_pct, acts: Vec::new(), calm_at: 60_000, readers: 0, quiet_ms: 0, ..Plan::draw(0) };
        for (shards, members, commit_pct) in [(1, 1, 0), (1, 10, 0), (1, 10, 40), (1, 30, 40), (2, 30, 40), (8, 30, 40)] {
            let before = cpu_seconds();
            let o = play_plan(1, calm(shards, members, commit_pct), 0);
            let cpu = cpu_seconds() - before;
            println!("{shards} shards, {members:>2} members, {commit_pct:>2} % of rounds commit: {:>5.0} simulated s a CPU second ({:?})", o.simulated_ms as f64 / 1_000.0 / cpu, o.work);
        }
    }

    fn replay(seed: u64, bug: u8, html: Option<String>) -> Result<()> {
        let o = run(seed, bug);
        println!("seed {seed}: {:#?}", o.plan);
        for line in &o.story { println!("{line}"); }
        println!("digest {:016x}, {} events, {:?}; in order: {}", o.digest, o.events, o.work, o.order);
        picture(&o, bug, html.as_ref())?;
        let Some(text) = told(&o, bug) else {
            println!("no invariant was broken");
            return Ok(());
        };
        let acts: Vec<String> = soak::shrink(&o, |plan: Plan| play_plan(seed, plan, bug)).iter().map(|(at, act)| format!("  {at:>7} ms  {act:?}")).collect();
        bail!("{text}\nof its {} acts these are enough:\n{}", o.plan.acts.len(), acts.join("\n"))
    }

    fn mutants(most: u64, with: Option<&str>, jobs: usize, only: u8) -> Result<()> {
        println!("| bug | what | caught by | seeds needed | branch reached |\n| --- | --- | --- | --- | --- |");
        let mut missed = Vec::new();
        for bug in BUGS.iter().chain(&OPEN).filter(|b| if only == 0 { BUGS.iter().any(|c| c.number == b.number) } else { only == b.number }) {
            let (mut reached, mut found) = (0, None);
            // A handful at a time, so that the first that fails is the lowest seed.
            let step = 2 * jobs.max(1) as u64;
            let seeds: Vec<u64> = (0..most).filter(|seed| with.is_none_or(|act| has(*seed, act))).collect();
            for some in seeds.chunks(step as usize) {
                let mut all = Vec::new();
                play_seeds(some.iter().copied(), jobs, bug.number, |o| {
                    reached += o.reached;
                    all.extend(o.broken.map(|(at, why)| (o.seed, at, why)));
                });
                found = all.into_iter().min_by_key(|(seed, ..)| *seed);
                if found.is_some() { break; }
            }
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
