//! `cargo xtask scenario`: plays scenario files and compares with what they expect. Exits with 1 on a difference, with 2 on a file that cannot be played; `--bless` writes down what was produced instead.

use anyhow::{Context, Result, bail};
use baton_scenarios::{all, compare, diff, find, name, play};
use std::{path::Path, process::ExitCode};

const USAGE: &str = "usage: scenario [NAME|FILE] [--bless] | --all [--bless] | compare [--bless]";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<bool> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let bless = args.iter().any(|a| a == "--bless");
    let rest: Vec<&str> = args.iter().map(String::as_str).filter(|a| *a != "--bless").collect();
    match rest.as_slice() {
        [] => list(),
        ["--all"] => every(bless),
        ["compare"] => compared(bless),
        [what] if !what.starts_with('-') => one(&find(what)?, bless),
        _ => bail!("{USAGE}"),
    }
}

fn list() -> Result<bool> {
    println!("{USAGE}\n");
    for path in all()? {
        println!("{:<28} {}", name(&path), play(&path)?.scenario.title);
    }
    Ok(true)
}

fn every(bless: bool) -> Result<bool> {
    let mut fine = true;
    for path in all()? {
        let played = play(&path)?;
        let difference = played.difference();
        if bless && difference.is_some() {
            std::fs::write(&path, played.blessed()).with_context(|| format!("{} cannot be written", path.display()))?;
        }
        let verdict = match (&difference, bless) {
            (None, _) => "as expected".to_string(),
            (Some(_), true) => "written anew".to_string(),
            (Some(d), false) => format!("differs from what it expects (-) in what it produces (+):\n{d}"),
        };
        fine &= difference.is_none() || bless;
        println!("{:<28} {verdict}", name(&path));
    }
    Ok(compared(bless)? && fine)
}

fn one(path: &Path, bless: bool) -> Result<bool> {
    let played = play(path)?;
    println!("{}\n\n{}\n\n{}", played.scenario.title, played.scenario.about, played.produced);
    match played.difference() {
        None => println!("As expected."),
        Some(_) if bless => {
            std::fs::write(path, played.blessed()).with_context(|| format!("{} cannot be written", path.display()))?;
            println!("Written to {}.", path.display());
        }
        Some(d) => {
            println!("It differs: - was expected, + was produced. If that is right, run it again with --bless.\n\n{d}");
            return Ok(false);
        }
    }
    Ok(true)
}

fn compared(bless: bool) -> Result<bool> {
    let (table, path) = (compare::table()?, compare::file());
    print!("\n{table}");
    if bless {
        std::fs::write(&path, &table).with_context(|| format!("{} cannot be written", path.display()))?;
        return Ok(true);
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(d) = diff::lines(&expected, &table) {
        println!("\nThe table differs from {}:\n{d}", path.display());
        return Ok(false);
    }
    Ok(true)
}
