//! Writes all mutants of a package into its copy, and leaves out those that the compiler refuses until it takes the rest.

use crate::{copy, list::Mutant, plan::{self, Plan}, render::{self, Region}};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::{BTreeMap, BTreeSet}, fs, path::Path, process::Command};

/// Why a mutant is not in the switched build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dropped {
    pub id: u32,
    /// Its own code does not compile: it would not by itself either.
    pub unviable: bool,
    pub why: String,
}

/// The switch itself, at the end of the copy's `lib.rs`: one number from the environment, read once; or, with `MUTANT_REACHED`, a note in that file of each mutant that is come by.
const SWITCH: &str = r#"
#[doc(hidden)]
pub mod mutation_switch {
    use std::{io::Write, sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed}};
    const UNREAD: u32 = u32::MAX;
    const RECORDS: u32 = u32::MAX - 1;
    static STATE: AtomicU32 = AtomicU32::new(UNREAD);
    static SEEN: [AtomicU8; COUNT] = [const { AtomicU8::new(0) }; COUNT];
    #[inline]
    pub fn mutated(id: u32) -> bool {
        let state = STATE.load(Relaxed);
        if state < RECORDS { state == id } else { slow(id, state) }
    }
    #[cold]
    #[inline(never)]
    fn slow(id: u32, state: u32) -> bool {
        if SEEN[id as usize].load(Relaxed) == 1 {
            return false;
        }
        let file = std::env::var("MUTANT_REACHED").ok();
        if state == UNREAD {
            let chosen = std::env::var("MUTANT").map_or(0, |n| n.parse().expect("MUTANT is a number"));
            STATE.store(if file.is_some() { RECORDS } else { chosen }, Relaxed);
            return mutated(id);
        }
        if let (0, Some(file)) = (SEEN[id as usize].swap(1, Relaxed), file) {
            std::fs::OpenOptions::new().create(true).append(true).open(file).and_then(|mut f| f.write_all(format!("{id}\n").as_bytes())).expect("the note is written");
        }
        false
    }
}
#[allow(unused_imports)]
pub(crate) use mutation_switch::mutated;
"#;

/// Gives those that had to be left out.
pub fn write(root: &Path, copy: &Path, package: &str, folder: &str, mutants: &BTreeMap<u32, Mutant>, environment: &[(String, String)]) -> Result<Vec<Dropped>> {
    let mut files: BTreeMap<&str, (String, Plan)> = BTreeMap::new();
    let mut out: Vec<Dropped> = Vec::new();
    let names: BTreeSet<&str> = mutants.values().map(|m| m.file.as_str()).collect();
    for name in names {
        let source = fs::read_to_string(root.join(name)).with_context(|| format!("{name} cannot be read"))?;
        let here: Vec<&Mutant> = mutants.values().filter(|m| m.file == name).collect();
        let plan = plan::plan(&source, &here).with_context(|| name.to_string())?;
        out.extend(plan.lost.iter().map(|(id, why)| Dropped { id: *id, unviable: why.contains("let"), why: why.to_string() }));
        files.insert(name, (source, plan));
    }
    let library = format!("{folder}/src/lib.rs");
    let switch = SWITCH.replace("COUNT", &(mutants.keys().max().copied().unwrap_or(0) + 1).to_string());
    if !files.contains_key(library.as_str()) {
        let source = fs::read_to_string(root.join(&library))?;
        copy::write(&copy.join(&library), (source + &switch).as_bytes())?;
    }
    for round in 1.. {
        let gone: BTreeSet<u32> = out.iter().map(|d| d.id).collect();
        let mut regions: BTreeMap<&str, Vec<Region>> = BTreeMap::new();
        for (name, (source, plan)) in &files {
            let mut rendered = render::render(source, &plan.nodes, mutants, &gone);
            if *name == library {
                rendered.text += &switch;
            }
            copy::write(&copy.join(name), rendered.text.as_bytes())?;
            regions.insert(name, rendered.regions);
        }
        let errors = check(copy, package, environment)?;
        eprintln!("round {round}: {} errors, {} left out so far", errors.len(), gone.len());
        if errors.is_empty() {
            return Ok(out);
        }
        let before = out.len();
        for e in &errors {
            let Some(region) = regions.get(e.file.as_str()).and_then(|all| blamed(all, e, mutants)) else {
                eprintln!("no mutant is to blame for {e:?}");
                continue;
            };
            for id in region.ids.iter().filter(|id| !gone.contains(id)) {
                if !out.iter().any(|d| d.id == *id) {
                    out.push(Dropped { id: *id, unviable: region.own, why: e.what.clone() });
                }
            }
        }
        if out.len() == before {
            bail!("the compiler refuses the same mutants again: {errors:?}");
        }
    }
    unreachable!("the rounds end by themselves")
}

#[derive(Debug)]
struct Error { file: String, bytes: std::ops::Range<usize>, what: String }

/// The smallest piece of new code around the error; else the one whose code the error is around. A match that is not exhaustive any more: the next arm that can be taken away.
fn blamed<'a>(all: &'a [Region], e: &Error, mutants: &BTreeMap<u32, Mutant>) -> Option<&'a Region> {
    let arm = |r: &&Region| r.range.start >= e.bytes.end && r.ids.iter().any(|id| mutants[id].genre == "MatchArm");
    if e.what.starts_with("E0004") {
        return all.iter().filter(arm).min_by_key(|r| r.range.start);
    }
    let around = |r: &&Region| r.range.start <= e.bytes.start && e.bytes.end <= r.range.end;
    let within = |r: &&Region| e.bytes.start <= r.range.start && r.range.end <= e.bytes.end;
    let size = |r: &&Region| r.range.len();
    all.iter().filter(around).min_by_key(size).or_else(|| all.iter().filter(within).min_by_key(size))
}

/// What the compiler refuses, in the plain build and in the simulated one, which has code of its own.
fn check(copy: &Path, package: &str, environment: &[(String, String)]) -> Result<Vec<Error>> {
    let plain = check_in(copy, package, environment)?;
    if !plain.is_empty() || package == "baton-coordinator" {
        return Ok(plain);
    }
    let target = environment.iter().find(|(k, _)| k == "CARGO_TARGET_DIR").map_or_else(|| "target".to_string(), |(_, t)| t.clone());
    let simulated = [("RUSTFLAGS".to_string(), "--cfg madsim".to_string()), ("CARGO_TARGET_DIR".to_string(), format!("{target}/check-simulated"))];
    check_in(copy, package, &[environment, &simulated].concat())
}
fn check_in(copy: &Path, package: &str, environment: &[(String, String)]) -> Result<Vec<Error>> {
    let out = Command::new("cargo").args(["check", "-p", package, "--lib", "--message-format=json", "--quiet"]).envs(environment.iter().cloned()).current_dir(copy).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let mut errors = Vec::new();
    for message in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()).filter(|v| v["message"]["level"] == "error") {
        let m = &message["message"];
        for span in m["spans"].as_array().into_iter().flatten().filter(|s| s["is_primary"] == true) {
            // In a macro: where it was called.
            let mut span = span;
            while !span["expansion"]["span"].is_null() {
                span = &span["expansion"]["span"];
            }
            let byte = |name: &str| span[name].as_u64().unwrap_or(0) as usize;
            let what = format!("{} {}", m["code"]["code"].as_str().unwrap_or_default(), m["message"].as_str().unwrap_or_default());
            errors.push(Error { file: span["file_name"].as_str().unwrap_or_default().to_string(), bytes: byte("byte_start")..byte("byte_end"), what });
        }
    }
    if errors.is_empty() && !out.status.success() {
        bail!("cargo check failed without an error in the sources: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(errors)
}
