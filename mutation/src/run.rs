//! Runs the ladder: once as it is, to see that all is green, how long each rung takes and which mutants it comes by; then once for each mutant, up to the rung that fails.
//! Every result is appended to a file at once, so that a run can be broken off and taken up again.

use crate::{Task, ladder::Rung, list::Mutant, process::{self, End}, switch::Dropped};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{collections::{BTreeMap, BTreeSet}, fs::{self, OpenOptions}, io::Write, path::PathBuf, sync::Mutex, thread, time::{Duration, Instant}};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome { Killed, Timeout, Survived }

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    pub id: u32,
    pub outcome: Outcome,
    /// The rung that killed it.
    pub rung: Option<String>,
    /// Whether any rung comes by it.
    pub reached: bool,
    pub ms: u64,
    /// The rungs that did not notice it.
    #[serde(default)]
    pub passed: Vec<String>,
}

/// A rung, and what is known of it from the run without a mutant.
struct Known<'a> { rung: &'a Rung, reached: BTreeSet<u32>, limit: Duration }

/// The last word on each mutant.
pub fn verdicts(task: &Task) -> Result<BTreeMap<u32, Verdict>> {
    let text = fs::read_to_string(task.file("results.jsonl")).unwrap_or_default();
    // A line that was cut off is no result.
    let mut all: BTreeMap<u32, Verdict> = BTreeMap::new();
    for v in text.lines().filter_map(|l| serde_json::from_str::<Verdict>(l).ok()) {
        let reached = v.reached || all.get(&v.id).is_some_and(|old| old.reached);
        all.insert(v.id, Verdict { reached, ..v });
    }
    Ok(all)
}

pub fn all(task: &Task, mutants: &BTreeMap<u32, Mutant>, dropped: &[Dropped], rungs: &[Rung]) -> Result<()> {
    let known: Vec<Known> = rungs.iter().map(|r| known(task, r)).collect::<Result<_>>()?;
    let done = verdicts(task)?;
    // A rung that has let it through does so again, unless the tests are others now.
    let knew = |id: u32| done.get(&id).map(|v| v.passed.clone()).unwrap_or_default();
    let climbs = |id: u32, k: &Known| k.reached.contains(&id) && (task.retest || !knew(id).iter().any(|r| r == k.rung.name));
    let again = |v: &Verdict| v.outcome == Outcome::Survived && known.iter().any(|k| climbs(v.id, k));
    let gone: BTreeSet<u32> = dropped.iter().map(|d| d.id).collect();
    let wanted = |id: &u32| match done.get(id) { Some(v) => again(v), None => !gone.contains(id) && !task.simulated };
    let queue: Vec<u32> = mutants.keys().copied().filter(wanted).collect();
    let (total, began) = (queue.len(), Instant::now());
    eprintln!("{total} mutants to run, {} have a result", done.len());
    let results = Mutex::new(OpenOptions::new().create(true).append(true).open(task.file("results.jsonl"))?);
    let next = Mutex::new((queue.into_iter().enumerate(), [0usize; 3]));
    let work = || -> Result<()> {
        loop {
            let Some((i, id)) = next.lock().expect("no thread panics").0.next() else { return Ok(()) };
            let verdict = one(id, &known, knew(id), climbs)?;
            results.lock().expect("no thread panics").write_all(format!("{}\n", serde_json::to_string(&verdict)?).as_bytes())?;
            let mut n = next.lock().expect("no thread panics");
            n.1[verdict.outcome as usize] += 1;
            if (i + 1) % 50 == 0 || i + 1 == total {
                let [killed, timeout, survived] = n.1;
                eprintln!("{}/{total} in {} s: {killed} killed, {timeout} timed out, {survived} survived", i + 1, began.elapsed().as_secs());
            }
        }
    };
    thread::scope(|s| {
        let threads: Vec<_> = (0..task.jobs).map(|_| s.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|_| bail!("a thread that ran mutants panicked")))
    })
}

/// The run without a mutant.
fn known<'a>(task: &Task, rung: &'a Rung) -> Result<Known<'a>> {
    let file: PathBuf = task.file("reached.txt");
    let _ = fs::remove_file(&file);
    let (end, took) = process::run(&rung.program, &rung.args, &[("MUTANT_REACHED".into(), file.to_string_lossy().into_owned())], &rung.folder, Duration::from_secs(300))?;
    if end != End::Passed {
        bail!("{}: {end:?} without any mutant: {} {:?}", rung.name, rung.program.display(), rung.args);
    }
    let reached: BTreeSet<u32> = fs::read_to_string(&file).unwrap_or_default().lines().map(str::parse).collect::<Result<_, _>>().context("the notes of what was reached are numbers")?;
    eprintln!("{}: green in {} ms, comes by {} mutants", rung.name, took.as_millis(), reached.len());
    let limit = (took * 10).clamp(Duration::from_secs(5), Duration::from_secs(60).max(took * 3));
    Ok(Known { rung, reached, limit })
}

fn one(id: u32, known: &[Known], passed: Vec<String>, climbs: impl Fn(u32, &Known) -> bool) -> Result<Verdict> {
    let began = Instant::now();
    let reached = known.iter().any(|k| k.reached.contains(&id));
    let mut verdict = Verdict { id, outcome: Outcome::Survived, rung: None, reached, ms: 0, passed };
    for k in known.iter().filter(|k| climbs(id, k)) {
        let (end, _) = process::run(&k.rung.program, &k.rung.args, &[("MUTANT".into(), id.to_string())], &k.rung.folder, k.limit)?;
        if end != End::Passed {
            verdict.rung = Some(k.rung.name.into());
            verdict.outcome = if end == End::Failed { Outcome::Killed } else { Outcome::Timeout };
            break;
        }
        verdict.passed.retain(|r| r != k.rung.name);
        verdict.passed.push(k.rung.name.into());
    }
    verdict.ms = began.elapsed().as_millis() as u64;
    Ok(verdict)
}
