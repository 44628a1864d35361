//! One run of a test program: until it ends, says that something failed, or takes too long.

use anyhow::{Context, Result};
use std::{io::{BufRead, BufReader}, path::Path, process::{Command, Stdio}, sync::mpsc, thread, time::{Duration, Instant}};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End { Passed, Failed, TimedOut }

/// Memory that a mutant may take, in KiB: one that fills a list without end is stopped by that.
const MEMORY: &str = "3000000";

/// What it prints is read along: the first failure ends it.
pub fn run(program: &Path, args: &[String], environment: &[(String, String)], folder: &Path, limit: Duration) -> Result<(End, Duration)> {
    let began = Instant::now();
    let mut child = Command::new("sh")
        .args(["-c", &format!("ulimit -v {MEMORY}; exec \"$@\""), "sh"]).arg(program).args(args)
        .envs(environment.iter().cloned()).current_dir(folder)
        .stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().with_context(|| format!("{} cannot be started", program.display()))?;
    let out = child.stdout.take().context("the output is a pipe")?;
    let (send, lines) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(out);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) && send.send(failure(&String::from_utf8_lossy(&line))).is_ok() {
            line.clear();
        }
    });
    let end = loop {
        match lines.recv_timeout(limit.saturating_sub(began.elapsed())) {
            Ok(false) => {}
            Ok(true) => break End::Failed,
            Err(mpsc::RecvTimeoutError::Timeout) => break End::TimedOut,
            Err(mpsc::RecvTimeoutError::Disconnected) => break if child.wait()?.success() { End::Passed } else { End::Failed },
        }
    };
    // It has ended by itself, or it ends now; both are no news.
    let _ = child.kill();
    child.wait()?;
    Ok((end, began.elapsed()))
}

/// A line of the test harness, or of the stories, that says that something failed.
fn failure(line: &str) -> bool {
    let line = line.trim_end();
    (line.starts_with("test ") && line.ends_with("FAILED")) || (line.starts_with("seed ") && line.contains(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> End { run(Path::new("sh"), &["-c".into(), script.into()], &[], Path::new("."), Duration::from_millis(1500)).expect("sh runs").0 }

    #[test]
    fn the_first_failure_ends_it() {
        assert_eq!(sh("echo test a ... ok"), End::Passed);
        assert_eq!(sh("exit 3"), End::Failed);
        let began = Instant::now();
        assert_eq!(sh("echo 'test a ... FAILED'; exec sleep 60"), End::Failed);
        assert!(began.elapsed() < Duration::from_secs(1), "it was not waited for");
        assert_eq!(sh("exec sleep 60"), End::TimedOut);
    }
}
