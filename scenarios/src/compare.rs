//! One story under each protocol, side by side: how long which partition paused.

use crate::{Ms, Played, play, print::total};
use anyhow::Result;
use std::path::PathBuf;

/// The files of the comparison: the same members, times and topic under four protocols.
pub const FILES: [&str; 4] = ["one-two-one-eager", "one-two-one-cooperative", "one-two-one-consumer", "one-two-one-http"];

/// Where the table is kept that must come out.
pub fn file() -> PathBuf { crate::folder().join("compare.txt") }

/// Plays them and draws the table.
pub fn table() -> Result<String> {
    let mut rows = vec![["protocol", "partition", "C2 joins", "C2 leaves", "both", "pauses"].map(String::from).to_vec()];
    for name in FILES {
        let played = play(&crate::find(name)?)?;
        rows.extend(of(&played, name.trim_start_matches("one-two-one-")));
    }
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let cell = |(c, (text, w)): (usize, (&String, &usize))| if c < 2 { format!("{text:<w$}") } else { format!("{text:>w$}") };
    let line = |r: &Vec<String>| r.iter().zip(&widths).enumerate().map(cell).collect::<Vec<_>>().join("  ").trim_end().to_string();
    Ok(rows.iter().map(|r| line(r) + "\n").collect())
}

/// One row for each partition, and one for all.
fn of(played: &Played, protocol: &str) -> Vec<Vec<String>> {
    // The last step is that C2 leaves: what began before it belongs to its joining.
    let leaves = played.scenario.steps.last().map_or(Ms::MAX, |(at, _)| *at);
    let row = |name: &str, of: Option<&str>| {
        let mine: Vec<_> = played.told.pauses.iter().filter(|p| of.is_none_or(|x| p.partition == x)).cloned().collect();
        let (joins, left): (Vec<_>, Vec<_>) = mine.iter().cloned().partition(|p| p.from < leaves);
        let ms = |x: Ms| format!("{x} ms");
        vec![protocol.to_string(), name.to_string(), ms(total(&joins)), ms(total(&left)), ms(total(&mine)), mine.len().to_string()]
    };
    let mut rows: Vec<Vec<String>> = played.told.partitions.iter().map(|p| row(p, Some(p))).collect();
    rows.push(row("all", None));
    rows
}
