//! `cargo xtask mutants PACKAGE`: mutation testing with one build. All mutants that `cargo mutants` lists are compiled at once, each behind a switch, in a copy of
//! the workspace; then each one is a run of the tests, the golden data and the stories, up to the first that fails.

mod copy;
mod ladder;
mod list;
mod plan;
mod process;
mod render;
mod report;
mod run;
mod switch;

use anyhow::{Context, Result, bail};
use list::Mutant;
use std::{collections::BTreeMap, fs, path::{Path, PathBuf}};

const USAGE: &str = "usage: cargo xtask mutants PACKAGE [--every N [--from K]] [--jobs N] [--dir DIR] [--upto N] [--retest] [--simulated]
  PACKAGE      baton-coordinator, baton-storage, baton-raft or baton-node
  --every N    a sample: the first of every N mutants, or with --from K the one after K others: another sample
  --jobs N     so many test processes at a time (1)
  --dir DIR    where the copy, the build and the results are (target/mutants)
  --upto N     only the first N rungs; another call without it takes the survivors further
  --retest     copy the tests again and run the survivors once more
  --simulated  the ladder of the simulated cluster, for those that are left";

/// What is asked for, and the folders.
pub struct Task { pub package: String, pub folder: String, pub root: PathBuf, pub dir: PathBuf, pub jobs: usize, pub every: usize, pub from: usize, pub upto: usize, pub retest: bool, pub simulated: bool }

impl Task {
    fn of(args: &[String]) -> Result<Self> {
        let package = args.first().filter(|a| a.starts_with("baton-")).context(USAGE)?.clone();
        let value = |name: &str| args.iter().position(|a| a == name).map(|i| args.get(i + 1).with_context(|| format!("{name} wants a value\n{USAGE}"))).transpose();
        let number = |name: &str, otherwise: usize| value(name).and_then(|v| v.map_or(Ok(otherwise), |v| v.parse::<usize>().with_context(|| format!("{name} wants a number"))));
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the tool lies in the workspace")?.to_path_buf();
        let dir = value("--dir")?.map_or(root.join("target/mutants"), PathBuf::from);
        let folder = package.trim_start_matches("baton-").to_string();
        let has = |name: &str| args.iter().any(|a| a == name);
        Ok(Self { dir: std::path::absolute(dir)?, jobs: number("--jobs", 1)?.max(1), every: number("--every", 1)?.max(1), from: number("--from", 0)?, upto: number("--upto", usize::MAX)?, retest: has("--retest"), simulated: has("--simulated"), folder, package, root })
    }
    /// The copy of this package's mutants; the build is shared.
    pub fn copy(&self) -> PathBuf { self.dir.join(&self.folder).join("copy") }
    pub fn file(&self, name: &str) -> PathBuf { self.dir.join(&self.folder).join(name) }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.is_empty() {
        bail!("{USAGE}");
    }
    let task = Task::of(&args)?;
    fs::create_dir_all(task.copy())?;
    let mutants = mutants(&task)?;
    let ladder = ladder::of(&task)?;
    let dropped_file = task.file("dropped.json");
    let dropped: Vec<switch::Dropped> = if dropped_file.exists() {
        serde_json::from_slice(&fs::read(&dropped_file)?)?
    } else {
        copy::workspace(&task.root, &task.copy(), None)?;
        let dropped = switch::write(&task.root, &task.copy(), &task.package, &task.folder, &mutants, &ladder.environment)?;
        fs::write(&dropped_file, serde_json::to_vec_pretty(&dropped)?)?;
        dropped
    };
    if task.retest {
        copy::workspace(&task.root, &task.copy(), Some(&task.copy().join(&task.folder).join("src")))?;
    }
    let rungs = ladder.build(&task)?;
    run::all(&task, &mutants, &dropped, &rungs)?;
    report::print(&task, &mutants, &dropped)
}

/// The list as it was at the first call: numbers must mean the same in all of the results.
fn mutants(task: &Task) -> Result<BTreeMap<u32, Mutant>> {
    let file = task.file("list.json");
    let list: Vec<Mutant> = if file.exists() {
        serde_json::from_slice(&fs::read(&file)?)?
    } else {
        let list = list::list(task)?;
        fs::write(&file, serde_json::to_vec(&list)?)?;
        list
    };
    Ok(list.into_iter().map(|m| (m.id, m)).collect())
}
