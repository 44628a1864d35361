//! Agreement with Apache Kafka: recorded inputs and outputs of Kafka's own code ("golden" data, JSON Lines) are put to Baton's and compared.
//!
//! `assignors` compares target assignments, `traces` whole conversations with a group coordinator. Both read a directory and return one
//! `FileReport` per file; `main` prints them. Where Baton differs on purpose, a named rule says so: a predicate on the case, never a list of case ids.

pub mod assignors;
pub mod report;
pub mod traces;

use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};

/// The project's own golden data.
pub fn own_data() -> PathBuf { Path::new(env!("CARGO_MANIFEST_DIR")).join("golden") }

/// Compares everything in `dir`: `assignors/*.jsonl` and `traces/*.jsonl`. Either folder may be absent, not both.
pub fn run(dir: &Path) -> Result<Vec<report::FileReport>> {
    let mut reports = assignors::run(&dir.join("assignors"))?;
    reports.extend(traces::run(&dir.join("traces"))?);
    if reports.is_empty() {
        bail!("{} holds neither assignors/*.jsonl nor traces/*.jsonl: there is nothing to compare", dir.display());
    }
    Ok(reports)
}

/// The `*.jsonl` files of a folder by name, each with its lines; nothing if there is no such folder.
pub fn json_lines(folder: &Path) -> Result<Vec<(String, Vec<String>)>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>()?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "jsonl"));
    paths.sort();
    paths
        .iter()
        .map(|p| {
            let text = std::fs::read_to_string(p).with_context(|| format!("{} could not be read", p.display()))?;
            let name = p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            Ok((name, text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect()))
        })
        .collect()
}
