//! What a mutant has to get past, from the quick to the slow.

use crate::Task;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{collections::BTreeMap, fs, path::PathBuf, process::{Command, Stdio}};

/// One program to run. It is the same in all runs, so a mutant that it does not come by is one that it cannot notice.
pub struct Rung { pub name: &'static str, pub program: PathBuf, pub args: Vec<String>, pub folder: PathBuf }

pub struct Ladder { pub environment: Vec<(String, String)>, builds: Vec<Vec<&'static str>>, rungs: Vec<Step> }
/// The name of a rung, its program, its arguments.
type Step = (&'static str, &'static str, &'static str);

/// A unit test program is named `PACKAGE:lib`, others by their target.
pub fn of(task: &Task) -> Result<Ladder> {
    let (builds, rungs): (&[&str], &[Step]) = match (task.package.as_str(), task.simulated) {
        ("baton-coordinator", false) => (
            // One set of packages in both calls: the features are those of the stories, and the core is built once.
            &["build -p baton-coordinator -p baton-conformance -p baton-core-sim --bins --test suite", "test --no-run -p baton-coordinator -p baton-conformance -p baton-core-sim --lib"],
            &[
                ("unit tests", "baton-coordinator:lib", ""),
                ("suite", "suite", "--skip walks --skip assignors::"),
                ("properties of assignors", "suite", "assignors::"),
                ("golden data", "baton-conformance", ""),
                ("20 stories", "core-sim", "run --seeds 0..20"),
                ("walks", "suite", "walks"),
                ("60 more stories", "core-sim", "run --seeds 20..80"),
            ],
        ),
        ("baton-storage", false) => (
            // The slow ones crash at every operation of the disk, and flip every bit.
            &["test --no-run -p baton-storage --lib --test log --test stores --test crash"],
            &[
                ("unit tests", "baton-storage:lib", ""),
                ("the log", "log", ""),
                ("the stores", "stores", ""),
                ("quick tests", "crash", "--skip every"),
                ("crashes at every operation", "crash", "a_crash_at_every one_flipped_bit"),
            ],
        ),
        ("baton-raft", false) => (
            &["test --no-run -p baton-raft --lib --test suite --test cuts --test one_node --test three_nodes"],
            &[("unit tests", "baton-raft:lib", ""), ("suite", "suite", ""), ("cuts", "cuts", ""), ("one node", "one_node", ""), ("three nodes", "three_nodes", "")],
        ),
        ("baton-node", false) => (
            &["test --no-run -p baton-node --lib --test restart --test one_node --test cluster"],
            &[("unit tests", "baton-node:lib", ""), ("restarts", "restart", ""), ("one node", "one_node", ""), ("a cluster", "cluster", "")],
        ),
        ("baton-storage" | "baton-raft" | "baton-node", true) => (
            &["build --profile sim -p baton-chaos-tests --bin cluster-sim"],
            &[("20 stories of a cluster", "cluster-sim", "run --seeds 0..20"), ("100 more stories", "cluster-sim", "run --seeds 20..120")],
        ),
        (package, _) => bail!("there is no ladder for {package}"),
    };
    let target = std::env::var("MUTANTS_TARGET").map_or(task.dir.join("target"), PathBuf::from);
    let target = if task.simulated { target.join("sim") } else { target };
    let mut environment: Vec<(String, String)> = [("CARGO_INCREMENTAL", "0"), ("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_PROFILE_DEV_OPT_LEVEL", "1")].map(|(k, v)| (k.into(), v.into())).into();
    environment.push(("CARGO_TARGET_DIR".into(), target.to_string_lossy().into_owned()));
    if task.simulated {
        environment.push(("RUSTFLAGS".into(), "--cfg madsim".into()));
    }
    Ok(Ladder { environment, builds: builds.iter().map(|b| b.split(' ').collect()).collect(), rungs: rungs.to_vec() })
}

impl Ladder {
    pub fn build(&self, task: &Task) -> Result<Vec<Rung>> {
        let mut built = BTreeMap::new();
        for args in &self.builds {
            eprintln!("> cargo {}", args.join(" "));
            let out = Command::new("nice").args(["-n", "10", "cargo"]).args(args).arg("--message-format=json-render-diagnostics").envs(self.environment.iter().cloned()).current_dir(task.copy()).stderr(Stdio::piped()).output()?;
            if !out.status.success() {
                // Its warnings are about code that nobody has written.
                let errors: String = String::from_utf8_lossy(&out.stderr).split("\n\n").filter(|m| m.contains("error")).collect::<Vec<_>>().join("\n\n");
                bail!("the build of the mutants failed: {errors}");
            }
            let text = String::from_utf8_lossy(&out.stdout);
            for v in text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
                if let Some(program) = v["executable"].as_str() {
                    built.insert(name(&v), PathBuf::from(program));
                }
            }
        }
        // Another build must not take them away.
        let programs = task.file(if task.simulated { "simulated" } else { "programs" });
        fs::create_dir_all(&programs)?;
        self.rungs.iter().take(task.upto).map(|(name, program, args)| {
            let source = built.get(*program).with_context(|| format!("no {program} among {:?}", built.keys()))?;
            let copy = programs.join(program.replace(':', "-"));
            // One that still runs cannot be written over.
            let _ = fs::remove_file(&copy);
            fs::copy(source, &copy).with_context(|| format!("{} cannot be copied", source.display()))?;
            let mut args: Vec<String> = args.split_whitespace().map(Into::into).collect();
            let test = *program == "suite" || program.ends_with(":lib") || !program.contains("sim") && !program.starts_with("baton");
            let folder = if test { task.copy().join(&task.folder) } else { task.copy() };
            if test {
                args.push("--test-threads=1".into());
            }
            Ok(Rung { name, program: copy, args, folder })
        }).collect()
    }
}

fn name(artifact: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    let target = text(&artifact["target"]["name"]);
    if artifact["target"]["kind"][0] == "lib" { format!("{}:lib", target.replace('_', "-")) } else { target }
}
