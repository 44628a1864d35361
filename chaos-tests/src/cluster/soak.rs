//! Plays story after story for hours, of the cluster and of the core. A file remembers where it is, so that it goes on after a stop, and every failing
//! seed with the acts that are enough to break it; beside the file each failing story lies as text and as a picture.

use super::{Act, BUGS, OPEN, Outcome, Plan, plan::Ms, play_plan, play_seeds};
use anyhow::{Context, Result, bail};
use baton_core_sim::{plan::Fired, timeline::About};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::{IsTerminal, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// A failing story may be played so often to shrink it.
const TRIES: usize = 60;
/// One that fails like so many others is kept, but not shrunk any more.
const ALIKE: usize = 5;
/// So many stories of the core for one of the cluster: they take about as long.
const CORE: u64 = 10;
const SAY_EVERY: Duration = Duration::from_secs(60);

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct State { next_seed: u64, next_core_seed: u64, simulated_ms: u64, worked_ms: u64, fired: BTreeMap<String, u64>, failed: Vec<Failed> }
#[derive(Serialize, Deserialize)]
struct Failed { net: String, seed: u64, invariant: String, what: String, enough: Vec<String> }

/// Plays for `hours` of this machine's time with `jobs` threads; with a seeded bug it shows what becomes of stories that fail.
pub fn soak(hours: f64, file: &str, jobs: usize, bug: u8) -> Result<()> {
    let mut state: State = match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{file} is not the state of a soak: give another --state"))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
        Err(e) => return Err(e).with_context(|| format!("{file} cannot be read")),
    };
    let kept = Path::new(file).with_extension("failed");
    println!("from cluster seed {} and core seed {} on, for {hours} h with {jobs} threads; the state is kept in {file}; stop it at any time, the same command goes on", state.next_seed, state.next_core_seed);
    let mut bar = Bar { begin: Instant::now(), hours, said: Instant::now() };
    while bar.begin.elapsed().as_secs_f64() < hours * 3_600.0 {
        let (at, chunk) = (Instant::now(), 2 * jobs.max(1) as u64);
        let mut outcomes = Vec::new();
        play_seeds(state.next_seed..state.next_seed + chunk, jobs, bug, |o| outcomes.push(o));
        outcomes.sort_by_key(|o| o.seed);
        for o in outcomes {
            state.simulated_ms += o.simulated_ms;
            let Fired(fired) = &o.fired;
            for (what, n) in fired { *state.fired.entry(what.to_string()).or_default() += n; }
            if o.broken.is_some() { state.failed.push(cluster_failed(&o, &kept, &state.failed, bug)?); }
        }
        state.next_seed += chunk;
        for seed in state.next_core_seed..state.next_core_seed + chunk * CORE {
            if baton_core_sim::run(seed, bug, false).broken.is_some() { state.failed.push(core_failed(seed, &kept, bug)?); }
        }
        state.next_core_seed += chunk * CORE;
        state.worked_ms += at.elapsed().as_millis() as u64;
        save(&state, Path::new(file))?;
        bar.show(&state);
    }
    println!("\n{} stories of the cluster and {} of the core in all, {} simulated s of the cluster, {} failed", state.next_seed, state.next_core_seed, state.simulated_ms / 1_000, state.failed.len());
    if state.failed.is_empty() { Ok(()) } else { bail!("failing seeds: {:?}; see {} and {file}", state.failed.iter().map(|f| (&f.net, f.seed)).collect::<Vec<_>>(), kept.display()) }
}

/// How far it is: on a terminal all the time, elsewhere a line a minute.
struct Bar { begin: Instant, hours: f64, said: Instant }
impl Bar {
    fn show(&mut self, s: &State) {
        let part = (self.begin.elapsed().as_secs_f64() / (self.hours * 3_600.0)).min(1.0);
        let full = (part * 30.0) as usize;
        let line = format!("[{}{}] {:>3.0} %  {} cluster and {} core stories, {} simulated hours, {} failed",
            "#".repeat(full), ".".repeat(30 - full), part * 100.0, s.next_seed, s.next_core_seed, s.simulated_ms / 3_600_000, s.failed.len());
        let terminal = std::io::stderr().is_terminal();
        if terminal || self.said.elapsed() > SAY_EVERY {
            self.said = Instant::now();
            let mut err = std::io::stderr();
            // Nobody to tell: it goes on all the same.
            let _ = if terminal { write!(err, "\r{line} ") } else { writeln!(err, "{line}") };
        }
    }
}

fn with(bug: u8) -> String { if bug > 0 { format!(" --bug {bug}") } else { String::new() } }
fn named(bug: u8) -> Option<String> { BUGS.iter().chain(&OPEN).find(|b| b.number == bug).map(|b| b.what.to_string()) }
fn write(path: PathBuf, text: String) -> Result<()> {
    if let Some(folder) = path.parent() { std::fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?; }
    std::fs::write(&path, text).with_context(|| format!("{} cannot be written", path.display()))
}

/// Keeps a failing story of the core: it is played again, so that it is told.
fn core_failed(seed: u64, kept: &Path, bug: u8) -> Result<Failed> {
    let o = baton_core_sim::run(seed, bug, true);
    let Some((ms, why)) = &o.broken else { bail!("core seed {seed} failed and does not when it is played again: the simulation does not repeat") };
    let replay = format!("cargo xtask sim replay {seed}{}", with(bug));
    println!("\ncore seed {seed}: {} at {ms} ms: {}\n  replay: {replay}", why.invariant, why.what);
    write(kept.join(format!("core-{seed}.txt")), format!("{}: {}\n\n{:#?}\n\n{}\n\n{}\n", why.invariant, why.what, o.plan, o.story.join("\n"), o.state))?;
    let about = About { title: format!("Core simulation, seed {seed}"), replay, bug: named(bug), story: &o.story };
    write(kept.join(format!("core-{seed}.html")), o.timeline.html(&about))?;
    Ok(Failed { net: "core".into(), seed, invariant: why.invariant.into(), what: why.what.clone(), enough: Vec::new() })
}

/// Keeps a failing story, and finds out which of its acts are enough.
fn cluster_failed(o: &Outcome, kept: &Path, before: &[Failed], bug: u8) -> Result<Failed> {
    let Some((ms, why)) = &o.broken else { bail!("seed {} did not fail", o.seed) };
    let replay = format!("cargo xtask sim cluster replay {}{}", o.seed, with(bug));
    println!("\ncluster seed {}: {} at {ms} ms: {}\n  replay: {replay}", o.seed, why.invariant, why.what);
    let name = |ext: &str| kept.join(format!("cluster-{}.{ext}", o.seed));
    let about = About { title: format!("Simulated cluster, seed {}", o.seed), replay, bug: named(bug), story: &o.story };
    write(name("html"), o.timeline.html(&about))?;
    let alike = before.iter().filter(|f| f.net == "cluster" && f.invariant == why.invariant).count() >= ALIKE;
    let enough: Vec<String> = if alike { Vec::new() } else { shrink(o, |plan| play_plan(o.seed, plan, bug)).iter().map(|(at, act)| format!("{at} ms {act:?}")).collect() };
    let said = if alike { "not looked for: it fails as others did".into() } else { enough.join("\n") };
    write(name("txt"), format!("{}: {}\n\nof its {} acts these are enough:\n{said}\n\n{:#?}\n\n{}\n", why.invariant, why.what, o.plan.acts.len(), o.plan, o.story.join("\n")))?;
    Ok(Failed { net: "cluster".into(), seed: o.seed, invariant: why.invariant.into(), what: why.what.clone(), enough })
}

/// Whole or not at all: a stop in the middle must not lose the state.
fn save(state: &State, file: &Path) -> Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec_pretty(state)?).and_then(|()| std::fs::rename(&new, file)).with_context(|| format!("{} cannot be written", file.display()))
}

/// Leaves acts out, halves first, then ever smaller runs of them, as long as the same invariant still breaks.
pub fn shrink(o: &Outcome, mut play: impl FnMut(Plan) -> Outcome) -> Vec<(Ms, Act)> {
    let Some((_, why)) = &o.broken else { return o.plan.acts.clone() };
    let mut acts = o.plan.acts.clone();
    let (mut run, mut tries) = (acts.len().div_ceil(2), 0);
    while run > 0 && !acts.is_empty() {
        let mut at = 0;
        while at < acts.len() && tries < TRIES {
            let mut fewer = acts.clone();
            fewer.drain(at..(at + run).min(acts.len()));
            tries += 1;
            let again = play(Plan { acts: fewer.clone(), ..o.plan.clone() });
            if again.broken.is_some_and(|(_, b)| b.invariant == why.invariant) { acts = fewer } else { at += run }
        }
        run /= 2;
    }
    acts
}
