//! Whole conversations with Kafka's group coordinator, replayed step by step on Baton's: one shard that leads, a log that commits at once, and simulated time.
//!
//! After every step the answers (of this request and of those held before), the timers that had an effect, and the group's state must be Kafka's. A trace ends at
//! its first unexplained difference: what follows would only repeat it; the rest of its steps count as skipped.

mod classic;
mod trace;
mod world;

use crate::report::{FileReport, Verdict};
use anyhow::{Context, Result};
use std::path::Path;
use trace::Trace;
use world::World;

/// Compares every trace of a folder.
pub fn run(folder: &Path) -> Result<Vec<FileReport>> {
    let mut reports = Vec::new();
    for (file, lines) in crate::json_lines(folder)? {
        let mut report = FileReport::new(format!("traces/{file}"));
        for line in lines {
            let trace: Trace = serde_json::from_str(&line).with_context(|| format!("a trace of {file} cannot be read"))?;
            one(&trace, &mut report);
        }
        reports.push(report);
    }
    Ok(reports)
}

/// Which operations the replay knows so far; a trace with any other is skipped as a whole.
const KNOWN: [&str; 9] = ["tick", "join", "sync", "heartbeat", "leave", "commit", "fetch", "topic", "describe"];

fn one(trace: &Trace, report: &mut FileReport) {
    let id = |i: usize| format!("{}#{i}", trace.trace);
    let classic = trace.steps.iter().any(|s| s.op == "join" || s.op == "sync");
    let known = classic && trace.steps.iter().all(|s| KNOWN.contains(&s.op.as_str()));
    // From here on Kafka's outcome depended on the order of a hash map.
    let until = if known { trace.exact_until.unwrap_or(trace.steps.len()) } else { 0 };
    let mut world = World::new(trace);
    for (i, step) in trace.steps.iter().enumerate() {
        if i >= until {
            report.add(&id(i), Verdict::Skipped);
            continue;
        }
        match world.step(i, step) {
            Ok(()) => report.add(&id(i), Verdict::Agreed),
            Err(why) => {
                report.add(&id(i), Verdict::Unexplained(why));
                (i + 1..trace.steps.len()).for_each(|i| report.add(&id(i), Verdict::Skipped));
                return;
            }
        }
    }
}
