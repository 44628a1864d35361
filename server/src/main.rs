//! `baton`: one binary for a node, a development cluster and a look at a running cluster.
//! This crate only wires: options, data folder, signals, logs. Every rule of the protocol lives below it.

mod args;
mod config;
mod demo;
mod dev;
mod folder;
mod group;
mod http;
mod serve;
mod signals;
mod status;
mod worker;

use anyhow::Result;
use args::{Args, Opt, help};
use std::{process::ExitCode, sync::atomic::{AtomicUsize, Ordering}};

/// A heartbeat makes and drops dozens of small objects: `docs/adr/` says what this allocator saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
baton: a coordinator for consumer groups. Work is given to one worker at a time, also when machines stall or fail.

  baton dev       a cluster of three nodes on this machine, to try things out
  baton serve     one node of a cluster
  baton status    nodes, shards and groups of a running cluster
  baton group repair   lift the quarantine of a group after a fault
  baton config check   every mistake in a configuration file
  baton worker    a worker to watch: joins a group and says what it owns
  baton version

`baton COMMAND --help` lists the options of a command.
";

fn main() -> ExitCode {
    let argv: Vec<String> = std::env::args().skip(1).collect();
    match run(&argv) {
        Ok(code) => code,
        Err(e) => { eprintln!("baton: {e:#}"); ExitCode::FAILURE }
    }
}

fn run(argv: &[String]) -> Result<ExitCode> {
    let (command, rest) = match argv.split_first() { Some((c, r)) => (c.as_str(), r), None => ("help", argv) };
    match command {
        "serve" => with("serve", "one node of a cluster", serve::OPTIONS, rest, serve::run),
        "dev" => with("dev", "a cluster on this machine, to try things out; its nodes end with it", dev::OPTIONS, rest, dev::run),
        "status" => with("status", "nodes, shards and groups of a running cluster", status::OPTIONS, rest, status::run),
        "group" if rest.first().map(String::as_str) == Some("repair") => with("group repair", "lifts the quarantine of a group", group::OPTIONS, &rest[1..], group::repair),
        "group" => { eprintln!("baton group repair --group GROUP"); Ok(ExitCode::from(2)) }
        "config" if rest.first().map(String::as_str) == Some("check") => with("config check", "names every mistake in a configuration file", config::OPTIONS, &rest[1..], config::check),
        "config" => { eprintln!("baton config check --config FILE"); Ok(ExitCode::from(2)) }
        "worker" => with("worker", "joins a group and says what it owns; it does no work", worker::OPTIONS, rest, worker::run),
        "version" | "--version" | "-V" => { println!("baton {}", env!("CARGO_PKG_VERSION")); Ok(ExitCode::SUCCESS) }
        "help" | "--help" | "-h" => { print!("{USAGE}"); Ok(ExitCode::SUCCESS) }
        other => { eprint!("baton: {other:?} is not a command\n\n{USAGE}"); Ok(ExitCode::from(2)) }
    }
}

fn with(command: &str, about: &str, options: &'static [Opt], argv: &[String], run: fn(Args) -> Result<ExitCode>) -> Result<ExitCode> {
    match Args::parse(command, options, argv, |name| std::env::var(name).ok())? {
        Some(args) => run(args),
        None => { print!("baton {command}: {about}\n\n{}", help(options)); Ok(ExitCode::SUCCESS) }
    }
}

/// How often `say` was called: who redraws a picture in place must know whether something stands below it by now.
pub static SAID: AtomicUsize = AtomicUsize::new(0);

/// A pipe that was closed by its reader (`baton status | head`) is no reason for a panic message.
pub fn say(text: &str) {
    use std::io::Write;
    SAID.fetch_add(1, Ordering::Relaxed);
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
