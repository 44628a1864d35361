//! `cargo xtask golden [--dir DIR]`: compares Baton with golden data and exits with 1 on any difference that no rule explains.

use anyhow::{Result, bail};
use baton_conformance::{own_data, report, run};
use std::{path::PathBuf, process::ExitCode};

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let dir = match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] => own_data(),
        ["--dir", dir] => PathBuf::from(dir),
        _ => bail!("usage: golden [--dir DIR], where DIR holds assignors/*.jsonl and traces/*.jsonl"),
    };
    let reports = run(&dir)?;
    print!("{}", report::render(&reports));
    Ok(if reports.iter().all(|r| r.unexplained == 0) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
