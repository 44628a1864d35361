//! Scenario files: stories of a group that a newcomer can read, each with what must come of it.
//!
//! `parse` reads a file, `world` lets model members (`members`) talk to the shipped core under simulated time, `print` writes down what happened, and the
//! result must be the file's `expect` block, line by line. Nothing of that block is computed here: owners, epochs and errors are what the core decided.

pub mod compare;
pub mod diff;
pub mod members;
pub mod parse;
pub mod print;
pub mod watch;
pub mod world;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// Simulated milliseconds since the story began.
pub type Ms = u64;

/// The folder of the files that come with Baton.
pub fn folder() -> PathBuf { Path::new(env!("CARGO_MANIFEST_DIR")).join("files") }

/// Every scenario file of the folder, by name.
pub fn all() -> Result<Vec<PathBuf>> {
    let folder = folder();
    let mut files = Vec::new();
    for f in std::fs::read_dir(&folder).with_context(|| format!("the folder {} cannot be read", folder.display()))? {
        let path = f?.path();
        if path.extension().is_some_and(|e| e == "scenario") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file by its path, or one of the folder by its name.
pub fn find(what: &str) -> Result<PathBuf> {
    let named = folder().join(format!("{what}.scenario"));
    if named.exists() {
        return Ok(named);
    }
    let path = PathBuf::from(what);
    if path.exists() {
        return Ok(path);
    }
    let names: Vec<String> = all()?.iter().map(|p| name(p)).collect();
    bail!("there is no scenario {what:?}, neither as a file nor by name. There are: {}", names.join(", "))
}

/// The name of a file: without folder and ending.
pub fn name(path: &Path) -> String { path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default() }

/// One scenario that has been run.
pub struct Played {
    pub scenario: parse::Scenario,
    pub told: world::Told,
    /// What the `expect` block ought to be.
    pub produced: String,
    text: String,
}

/// Reads a file and plays it.
pub fn play(path: &Path) -> Result<Played> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let shown = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    play_text(&shown, text)
}

/// Plays a text as if it were the file of that name.
pub fn play_text(file: &str, text: String) -> Result<Played> {
    let scenario = parse::parse(file, &text)?;
    let told = world::play(&scenario).with_context(|| format!("{file} was not played to its end"))?;
    let produced = print::block(&told);
    Ok(Played { scenario, told, produced, text })
}

impl Played {
    /// None: as expected. Otherwise what differs.
    pub fn difference(&self) -> Option<String> { diff::lines(&self.scenario.expect, &self.produced) }
    /// The file with what was produced in place of what was expected.
    pub fn blessed(&self) -> String {
        let before: Vec<&str> = self.text.lines().take_while(|l| l.trim_end() != parse::EXPECT).collect();
        format!("{}\n\n{}\n{}", before.join("\n").trim_end(), parse::EXPECT, self.produced)
    }
}
