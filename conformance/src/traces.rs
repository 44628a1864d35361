//! Whole conversations with Kafka's group coordinator, replayed step by step on Baton's: one shard that leads, a log that commits at once, and simulated time.
//!
//! After every step the answers (of this request and of those held before), the timers that had an effect, and the group's state must be Kafka's. A trace ends at
//! its first unexplained difference. What is counted is traces: one has agreed if every step did, and is explained if rules (`rules`) predicted exactly what Baton did
//! in every step that differs, to its end.

mod by_name;
mod classic;
mod consumer;
mod kept;
mod rules;
mod slips;
mod trace;
mod world;

use crate::report::{FileReport, Verdict};
use anyhow::{Context, Result};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};
use trace::Trace;
use world::World;

/// Compares every trace of a folder.
pub fn run(folder: &Path) -> Result<Vec<FileReport>> {
    let mut reports = Vec::new();
    for (file, lines) in crate::json_lines(folder)? {
        let mut report = FileReport::new(format!("traces/{file}"));
        for line in lines {
            let trace: Trace = serde_json::from_str(&line).with_context(|| format!("a trace of {file} cannot be read"))?;
            // A trace that cannot be replayed is that trace's difference, not the end of the comparison.
            let replayed = catch_unwind(AssertUnwindSafe(|| one(&trace, &mut report)));
            if replayed.is_err() {
                report.add(&trace.trace, Verdict::Unexplained("the replay broke off; what it met is printed above".into()));
            }
        }
        reports.push(report);
    }
    Ok(reports)
}

fn one(trace: &Trace, report: &mut FileReport) {
    let mut world = World::new(trace);
    // From there on Kafka's outcome depended on the order of a hash map.
    let until = trace.exact_until.unwrap_or(trace.steps.len());
    for (i, step) in trace.steps.iter().enumerate().take(until) {
        if let Err(why) = world.step(i, step) {
            return report.add(&format!("{}#{i}", trace.trace), Verdict::Unexplained(why));
        }
    }
    match world.rules.used() {
        used if used.is_empty() => report.add(&trace.trace, Verdict::Agreed),
        used => report.explain(used),
    }
}
