//! Plays seed after seed for hours. A file remembers where it is, so that it goes on after a stop, and every failing seed with the acts that are
//! enough to break it.

use super::{Act, Outcome, Plan, plan::Ms, run, play_plan};
use anyhow::{Context, Result, bail};
use baton_core_sim::plan::Fired;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

/// A failing story may be played so often to shrink it.
const TRIES: usize = 60;
const SAY_EVERY: Duration = Duration::from_secs(60);

#[derive(Default, Serialize, Deserialize)]
struct State { next_seed: u64, simulated_ms: u64, worked_ms: u64, fired: BTreeMap<String, u64>, failed: Vec<Failed> }
#[derive(Serialize, Deserialize)]
struct Failed { seed: u64, invariant: String, what: String, enough: Vec<String> }

/// Plays for `hours` of this machine's time.
pub fn soak(hours: f64, file: &str) -> Result<()> {
    let mut state: State = match std::fs::read(file) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("{file} is not the state of a soak: give another --state"))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::default(),
        Err(e) => return Err(e).with_context(|| format!("{file} cannot be read")),
    };
    println!("from seed {} on, for {hours} h; the state is kept in {file}", state.next_seed);
    let (begin, mut said) = (Instant::now(), Instant::now());
    while begin.elapsed().as_secs_f64() < hours * 3_600.0 {
        let at = Instant::now();
        let o = run(state.next_seed, 0);
        state.worked_ms += at.elapsed().as_millis() as u64;
        state.simulated_ms += o.simulated_ms;
        let Fired(fired) = &o.fired;
        for (what, n) in fired { *state.fired.entry(what.to_string()).or_default() += n; }
        if let Some((ms, why)) = &o.broken {
            println!("seed {}: {} at {ms} ms: {}\n  replay: cargo xtask sim cluster replay {}", o.seed, why.invariant, why.what, o.seed);
            let enough = shrink(&o, |plan| play_plan(o.seed, plan, 0)).iter().map(|(at, act)| format!("{at} ms {act:?}")).collect();
            state.failed.push(Failed { seed: o.seed, invariant: why.invariant.into(), what: why.what.clone(), enough });
        }
        state.next_seed += 1;
        save(&state, Path::new(file))?;
        if said.elapsed() > SAY_EVERY {
            said = Instant::now();
            println!("{} stories, {} simulated hours, {} failed", state.next_seed, state.simulated_ms / 3_600_000, state.failed.len());
        }
    }
    println!("{} stories in all, {} simulated s, {:.1} simulated s a second, {} failed", state.next_seed, state.simulated_ms / 1_000, state.simulated_ms as f64 / state.worked_ms.max(1) as f64, state.failed.len());
    if state.failed.is_empty() { Ok(()) } else { bail!("failing seeds: {:?}", state.failed.iter().map(|f| f.seed).collect::<Vec<_>>()) }
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
