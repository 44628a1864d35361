//! What was played as text: the timeline, then who paused for how long.

use crate::{Ms, watch::Pause, world::Told};

/// `10.215`: seconds.
pub fn seconds(ms: Ms) -> String { format!("{}.{:03}", ms / 1_000, ms % 1_000) }

/// The lines below `expect`.
pub fn block(told: &Told) -> String {
    let mut out = String::new();
    for l in &told.lines {
        out.push_str(&format!("  {:>8}  {:<6} {}\n", seconds(l.at), l.who, l.what));
    }
    out.push_str("\npaused (nobody worked on it)\n");
    out.push_str(&table(told));
    if !told.overlaps.is_empty() {
        out.push_str("\ntwice (two members worked on it at once)\n");
        out.push_str(&rows(&told.overlaps));
    }
    out
}

fn table(told: &Told) -> String {
    let mut out = rows(&told.pauses);
    let never: Vec<&str> = told.partitions.iter().filter(|p| !told.pauses.iter().any(|x| x.partition == **p)).map(String::as_str).collect();
    if !never.is_empty() {
        out.push_str(&format!("  never: {}\n", never.join(" ")));
    }
    out.push_str(&format!("  total: {} ms{}\n", total(&told.pauses), each(told)));
    out
}

/// What the total is made of, where a partition paused more than once.
fn each(told: &Told) -> String {
    let of = |p: &String| told.pauses.iter().filter(|x| x.partition == *p).cloned().collect::<Vec<_>>();
    if told.partitions.iter().all(|p| of(p).len() < 2) {
        return String::new();
    }
    let parts: Vec<String> = told.partitions.iter().filter(|p| !of(p).is_empty()).map(|p| format!("{p} {}", total(&of(p)))).collect();
    format!(" ({})", parts.join(", "))
}

fn rows(pauses: &[Pause]) -> String {
    let width = pauses.iter().map(|p| p.partition.len()).max().unwrap_or(0);
    let one = |p: &Pause| match p.to {
        Some(to) => {
            let then = if p.after.is_empty() { String::new() } else { format!(", then {}", p.after) };
            format!("  {:<width$}  {:>8} to {:>8}  {:>6} ms  {}{then}\n", p.partition, seconds(p.from), seconds(to), to - p.from, p.before)
        }
        None => format!("  {:<width$}  {:>8} to the end            {}\n", p.partition, seconds(p.from), p.before),
    };
    pauses.iter().map(one).collect()
}

/// All pauses that ended, added up.
pub fn total(pauses: &[Pause]) -> Ms { pauses.iter().filter_map(|p| p.to.map(|to| to - p.from)).sum() }
