//! Developer commands: `cargo xtask verify` is what CI runs, `cargo xtask fix` rewrites, `cargo xtask layers` checks the crate edges,
//! `cargo xtask sim …` runs the core simulation, `cargo xtask scenario …` plays stories that a newcomer can read, `cargo xtask model …` walks the states of the core, `cargo xtask golden` compares with what Apache Kafka answered,
//! `cargo xtask mutants …` changes the code in small ways and sees whether a test notices.

use anyhow::{Context, Result, bail};
use std::{env, fs, path::{Path, PathBuf}, process::{Command, Stdio}};

/// Who may depend on whom. Changing this table is an architecture decision (`docs/adr/`).
const EDGES: &[(&str, &[&str])] = &[
    ("baton-coordinator", &[]),
    ("baton-storage", &[]),
    ("baton-wire", &[]),
    ("baton-raft", &["baton-storage"]),
    ("baton-node", &["baton-coordinator", "baton-raft", "baton-storage"]),
    ("baton-api", &["baton-node", "baton-coordinator", "baton-wire"]),
    ("baton-client", &["baton-wire"]),
    ("baton-server", &["baton-api", "baton-node", "baton-raft", "baton-storage", "baton-coordinator", "baton-client", "baton-wire"]),
    ("baton-invariants", &["baton-coordinator"]),
    ("baton-core-sim", &["baton-coordinator", "baton-invariants"]),
    ("baton-model", &["baton-coordinator"]),
    ("baton-conformance", &["baton-coordinator"]),
    ("baton-scenarios", &["baton-coordinator"]),
    ("baton-bench", &["*"]),
    ("baton-chaos-tests", &["*"]),
    ("baton-xtask", &[]),
];

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["verify"] => verify(),
        ["fix"] => cargo(&["clippy", "--workspace", "--all-targets", "--fix", "--allow-dirty"]),
        ["layers"] => layers(),
        ["sim", "cluster", rest @ ..] => simulated(&[&["run", "--quiet", "-p", "baton-chaos-tests", "--bin", "cluster-sim", "--"], rest].concat()),
        ["sim", "soak", rest @ ..] => simulated(&[&["run", "--quiet", "-p", "baton-chaos-tests", "--bin", "cluster-sim", "--", "soak"], rest].concat()),
        ["sim", "trained", rest @ ..] => trained(rest),
        ["sim", rest @ ..] => cargo(&[&["run", "--quiet", "-p", "baton-core-sim", "--"], rest].concat()),
        ["chaos", rest @ ..] => {
            binaries()?;
            cargo(&[&["run", "--quiet", "-p", "baton-chaos-tests", "--bin", "nemesis", "--"], rest].concat())
        }
        ["model", rest @ ..] => cargo(&[&["run", "--quiet", "--release", "-p", "baton-model", "--"], rest].concat()),
        ["scenario", rest @ ..] => cargo(&[&["run", "--quiet", "-p", "baton-scenarios", "--"], rest].concat()),
        ["mutants", rest @ ..] => cargo(&[&["run", "--quiet", "--manifest-path", "mutation/Cargo.toml", "--target-dir", "target/mutants/tool", "--"], rest].concat()),
        ["golden", rest @ ..] => cargo(&[&["run", "--quiet", "-p", "baton-conformance", "--"], rest].concat()),
        _ => bail!("usage: cargo xtask verify | fix | layers | golden [--dir DIR] | scenario [NAME|FILE|--all|compare] [--bless] | model [--states N] [--seconds S] [--bug N] | chaos --kills N | mutants PACKAGE [--every N] [--jobs N] | sim [cluster | trained] (run --seeds A..B | replay SEED [--bug N] | mutants) | sim soak --hours H"),
    }
}

/// Everything that CI runs, from the quick to the slow. It ends with a test run, so that its closing lines are those of `cargo test`.
fn verify() -> Result<()> {
    layers()?;
    cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])?;
    simulated(&["test", "-p", "baton-raft", "--test", "simulated"])?;
    simulated(&["test", "-p", "baton-chaos-tests", "--lib", "--test", "cluster"])?;
    // 20,000 stories of the core, in the same build.
    simulated(&["test", "-p", "baton-chaos-tests", "--test", "core_stories", "--", "--nocapture"])?;
    cargo(&["run", "--quiet", "-p", "baton-model", "--", "--states", "1000000", "--seconds", "400"])?;
    binaries()?;
    // One test process at a time, and the processes' own run by itself: it counts on its machine.
    cargo(&["test", "--workspace", "--exclude", "baton-chaos-tests"])?;
    cargo(&["test", "-p", "baton-chaos-tests", "--", "--nocapture", "--test-threads=1"])
}

/// The server apart from the chaos crate, whose switches for bugs it must not have.
fn binaries() -> Result<()> {
    cargo(&["build", "-p", "baton-chaos-tests", "--bins"])?;
    cargo(&["build", "-p", "baton-server"])
}

/// The core simulation for long runs, built twice: the second time from what the first took its time for (profile-guided). Some minutes once, then two to three
/// times the simulated time of the ordinary build for each second.
fn trained(args: &[&str]) -> Result<()> {
    const STORIES: &[&str] = &["run", "--seeds", "500000..500200", "--jobs", "1"];
    let (host, sysroot) = (rustc(&["--print", "host-tuple"])?, rustc(&["--print", "sysroot"])?);
    let merge = Path::new(&sysroot).join("lib/rustlib").join(&host).join("bin/llvm-profdata");
    if !merge.exists() {
        bail!("there is no {}: `rustup component add llvm-tools` brings it; without it, `cargo xtask sim run` is the same simulation, built once", merge.display());
    }
    let root = env::current_dir().context("there is no current folder")?.join("target/trained");
    let (learned, profile) = (root.join("learned"), root.join("learned.profdata"));
    let build = |flag: String, into: &str| -> Result<PathBuf> {
        let dir = root.join(into);
        // With a target named, what runs while building is not built with the flag.
        let args = ["build", "--quiet", "--profile", "dist", "-p", "baton-core-sim", "--target", &host, "--target-dir"];
        println!("> RUSTFLAGS='{flag}' cargo {} {}", args.join(" "), dir.display());
        run(cargo_itself().args(args).arg(&dir).env("RUSTFLAGS", flag))?;
        Ok(dir.join(&host).join("dist/core-sim"))
    };
    let first = build(format!("-Cprofile-generate={}", learned.display()), "first")?;
    let changed = |f: &Path| f.metadata().and_then(|m| m.modified()).ok();
    if changed(&profile) < changed(&first) {
        if learned.exists() {
            fs::remove_dir_all(&learned).with_context(|| format!("{} cannot be emptied", learned.display()))?;
        }
        run(Command::new(&first).args(STORIES).stdout(Stdio::null()))?;
        run(Command::new(merge).arg("merge").arg("-o").arg(&profile).arg(&learned))?;
    }
    let second = build(format!("-Cprofile-use={}", profile.display()), "second")?;
    run(Command::new(second).args(args))
}

fn rustc(args: &[&str]) -> Result<String> {
    let out = Command::new(env::var("RUSTC").unwrap_or_else(|_| "rustc".into())).args(args).output().context("rustc could not be started")?;
    Ok(String::from_utf8(out.stdout).context("rustc did not answer in UTF-8")?.trim().into())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} could not be started"))?;
    if !status.success() {
        bail!("{command:?} failed");
    }
    Ok(())
}

/// Builds and runs with the deterministic simulator in place of tokio, in a target folder of its own.
fn simulated(args: &[&str]) -> Result<()> {
    println!("> RUSTFLAGS='--cfg madsim' cargo {}", args.join(" "));
    run(cargo_itself().arg(args[0]).args(["--profile", "sim", "--target-dir", "target/sim"]).args(&args[1..]).env("RUSTFLAGS", "--cfg madsim"))
}

fn cargo(args: &[&str]) -> Result<()> {
    println!("> cargo {}", args.join(" "));
    run(cargo_itself().args(args))
}
fn cargo_itself() -> Command { Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into())) }

/// Fails on any edge between crates of this workspace that the table does not have.
fn layers() -> Result<()> {
    let out = Command::new("cargo").args(["metadata", "--format-version", "1", "--no-deps"]).output().context("cargo metadata could not be started")?;
    let bad = bad_edges(&serde_json::from_slice(&out.stdout).context("cargo metadata did not print JSON")?)?;
    if !bad.is_empty() {
        bail!("edges that the architecture does not have: {}", bad.join(", "));
    }
    Ok(())
}

fn bad_edges(metadata: &serde_json::Value) -> Result<Vec<String>> {
    let mut bad = Vec::new();
    for p in metadata["packages"].as_array().context("cargo metadata has no packages")? {
        let name = p["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|(n, _)| *n == name) else {
            bad.push(format!("{name} (not in the table)"));
            continue;
        };
        for d in p["dependencies"].as_array().into_iter().flatten() {
            let to = d["name"].as_str().unwrap_or_default();
            let test_only = d["kind"].as_str() == Some("dev");
            if to.starts_with("baton-") && !test_only && !allowed.contains(&to) && !allowed.contains(&"*") {
                bad.push(format!("{name} → {to}"));
            }
        }
    }
    Ok(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_has_only_the_edges_of_the_architecture() { layers().expect("no other edge"); }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        let metadata = serde_json::json!({"packages": [{"name": "baton-coordinator", "dependencies": [{"name": "baton-raft", "kind": null}]}]});
        assert_eq!(bad_edges(&metadata).expect("readable"), ["baton-coordinator → baton-raft"]);
    }
}
