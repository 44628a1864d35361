//! Kafka's assignors and ours, on the same input.

pub mod case;
pub mod client;
pub mod judge;
pub mod server;

use crate::report::{FileReport, Verdict};
use anyhow::{Context, Result};
use case::{Assigned, Case, Side};
use std::path::Path;

/// Compares every case of a folder.
pub fn run(folder: &Path) -> Result<Vec<FileReport>> {
    let mut reports = Vec::new();
    for (file, lines) in crate::json_lines(folder)? {
        let mut report = FileReport::new(format!("assignors/{file}"));
        for (n, line) in lines.iter().enumerate() {
            let case: Case = serde_json::from_str(line).with_context(|| format!("line {} of {file} is not a case", n + 1))?;
            let verdict = compare(&case).with_context(|| format!("case {} of {file}", case.id))?;
            report.add(&case.id, verdict);
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Runs our assignor of the case's name and judges what it gave.
pub fn compare(case: &Case) -> Result<Verdict> {
    match ours(case)? {
        Ran::Gave(given) => judge::judge(case, &given),
        Ran::NotAsked => Ok(Verdict::Skipped),
        Ran::Unknown => Ok(Verdict::Unexplained(format!("there is no {:?} assignor {:?} here", case.side, case.assignor))),
    }
}

/// What our side made of a case.
pub enum Ran {
    Gave(Assigned),
    /// Outside of what Baton promises: Kafka's share groups, which let several members own one partition.
    NotAsked,
    Unknown,
}

fn ours(case: &Case) -> Result<Ran> {
    match (case.side, case.assignor.as_str()) {
        (Side::Server, "simple") => Ok(Ran::NotAsked),
        (Side::Server, _) => server::run(case),
        (Side::Client, _) => client::run(case),
    }
}
