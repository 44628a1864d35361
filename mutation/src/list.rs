//! What `cargo mutants` would try: its list is taken as it is, so that the share killed can be compared with its own.

use crate::Task;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::process::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Place { pub line: usize, pub column: usize }
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Span { pub start: Place, pub end: Place }
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Function { pub function_name: String, pub return_type: String }

/// One change to the source. Its number is its place in the list, from 1; 0 is the program as it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mutant {
    #[serde(default)]
    pub id: u32,
    pub name: String,
    pub file: String,
    pub genre: String,
    pub replacement: String,
    pub span: Span,
    pub function: Option<Function>,
}

/// The list for one package; one in every so many is taken, which makes a sample that is the same each time. What exists only for simulations is left out (`.cargo/mutants.toml`).
pub fn list(task: &Task) -> Result<Vec<Mutant>> {
    let out = Command::new("cargo").args(["mutants", "-p", &task.package, "--list", "--json"]).current_dir(&task.root).output().context("cargo mutants cannot be started: cargo install cargo-mutants")?;
    if !out.status.success() {
        bail!("cargo mutants --list failed: {}", String::from_utf8_lossy(&out.stderr));
    }
    let mut all: Vec<Mutant> = serde_json::from_slice(&out.stdout).context("the list of cargo mutants is not what this tool knows (27.1)")?;
    (1..).zip(&mut all).for_each(|(id, m)| m.id = id);
    Ok(all.into_iter().skip(task.from).step_by(task.every).collect())
}
