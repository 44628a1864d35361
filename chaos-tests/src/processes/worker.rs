//! What both kinds of worker process have in common: their options, their record file, and that SIGTERM asks them to leave.

use anyhow::{Context, Result, bail};
use baton_invariants::belief::Record;
use std::{
    fs::{File, OpenOptions},
    io::Write,
    sync::{Arc, atomic::{AtomicBool, Ordering}},
    time::Duration,
};

/// What a worker is told on its command line.
#[derive(Clone)]
pub struct Options {
    pub name: String,
    pub servers: Vec<String>,
    pub group: String,
    pub topic: String,
    pub sink: String,
    /// Its record file.
    pub file: String,
    pub members: usize,
    pub slow_write: Duration,
    /// Between two writes of one member to one partition.
    pub turn: Duration,
    pub commit_every: Duration,
    /// The members do not fence themselves.
    pub no_guard: bool,
}
impl Default for Options {
    fn default() -> Self {
        let none = String::new;
        Self {
            name: none(), servers: Vec::new(), group: none(), topic: none(), sink: none(), file: none(), members: 1, slow_write: Duration::ZERO, turn: Duration::from_millis(200),
            commit_every: Duration::from_secs(1), no_guard: false,
        }
    }
}
impl Options {
    pub fn parse(mut args: impl Iterator<Item = String>) -> Result<Options> {
        let mut o = Options::default();
        while let Some(a) = args.next() {
            if a == "--no-guard" {
                o.no_guard = true;
                continue;
            }
            let v = args.next().with_context(|| format!("{a} needs a value"))?;
            let ms = || v.parse().map(Duration::from_millis).with_context(|| format!("{a} needs a number of milliseconds, not {v:?}"));
            match a.as_str() {
                "--name" => o.name = v,
                "--servers" => o.servers = v.split(',').map(String::from).collect(),
                "--group" => o.group = v,
                "--topic" => o.topic = v,
                "--sink" => o.sink = v,
                "--file" => o.file = v,
                "--members" => o.members = v.parse().with_context(|| format!("{a} needs a number, not {v:?}"))?,
                "--turn-ms" => o.turn = ms()?,
                "--commit-every-ms" => o.commit_every = ms()?,
                "--slow-write-ms" => o.slow_write = ms()?,
                _ => bail!("{a} is not known"),
            }
        }
        Ok(o)
    }
}

/// The process's record file. One `write` a line, nothing buffered: a kill loses nothing that has happened.
#[derive(Clone)]
pub struct Log(Arc<File>);
impl Log {
    pub fn open(file: &str) -> Result<Log> {
        let opened = OpenOptions::new().create(true).append(true).open(file);
        Ok(Log(Arc::new(opened.with_context(|| format!("the record file {file:?} (--file) cannot be opened"))?)))
    }
    pub fn put(&self, r: Record) {
        if let Err(e) = (&*self.0).write_all(format!("{r}\n").as_bytes()) {
            eprintln!("records: {e}");
            std::process::exit(3);
        }
    }
}

static LEAVE: AtomicBool = AtomicBool::new(false);
extern "C" fn on_term(_: i32) { LEAVE.store(true, Ordering::Relaxed); }

/// From now on SIGTERM asks the members to leave.
pub fn leave_on_term() {
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGTERM, on_term as *const () as libc::sighandler_t) };
}
/// Whether the process was asked to leave.
pub fn asked_to_leave() -> bool { LEAVE.load(Ordering::Relaxed) }

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_mistakes_are_named() {
        let parse = |line: &str| Options::parse(line.split(' ').map(String::from));
        let o = parse("--servers a:1,b:2 --members 4 --turn-ms 50 --no-guard --file f").expect("they are right");
        assert_eq!((o.servers.len(), o.members, o.turn, o.no_guard, o.file.as_str()), (2, 4, Duration::from_millis(50), true, "f"));
        assert_eq!(o.commit_every, Duration::from_secs(1));
        for (line, says) in [("--members", "--members needs a value"), ("--members x", "--members needs a number, not \"x\""), ("--turn-ms soon", "--turn-ms needs a number of milliseconds"), ("--bug 1", "--bug is not known")] {
            assert!(parse(line).err().is_some_and(|e| e.to_string().contains(says)), "{line}");
        }
        assert!(Log::open("/nowhere/records").err().is_some_and(|e| e.to_string().contains("/nowhere/records")));
    }
}
