//! `baton dev`: real node processes on loopback, watched over by this one. Killing a node by hand is part of the fun, so it is started again.
//! Nodes never outlive this process: the kernel kills them if it dies, and it stops them when it is asked to stop.

use crate::{args::{Args, Opt}, demo, folder, http, say, signals};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::mpsc::{RecvTimeoutError, channel},
    time::{Duration, Instant},
};

pub static OPTIONS: &[Opt] = &[
    Opt { name: "data", value: "DIR", default: "./baton-data", help: "where the nodes keep their state; a second start finds it" },
    Opt { name: "http-port", value: "PORT", default: "7600", help: "node i serves HTTP on this port + i - 1" },
    Opt { name: "nodes", value: "N", default: "3", help: "how many nodes, fixed at the first start" },
    Opt { name: "demo", value: "", default: "", help: "run a few workers on a topic and show who owns what" },
];

/// A node that ends sooner than this after its start did not come up.
const UP: Duration = Duration::from_secs(5);
/// After so many starts in a row that did not come up, `dev` gives up and says why.
const TRIES: u32 = 3;
const RESTART_AFTER: Duration = Duration::from_secs(1);
const READY_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// `DIR/dev.json`: what must stay the same between two starts.
#[derive(Serialize, Deserialize)]
struct DevFile { format: u32, nodes: u64, peer_ports: Vec<u16> }

struct Node {
    id: u64,
    command: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    started: Instant,
    start_again: Option<Instant>,
    failed: u32,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let stop = signals::stop_signals()?;
    let data = PathBuf::from(args.need("data")?);
    let asked = args.number("nodes", 1, 9)?;
    let first_port = args.number("http-port", 1, 65_535 - 9)? as u16;
    let _lock = folder::lock(&data, "`baton dev`")?;
    let file = dev_file(&data, asked)?;
    let secret = data.join("secret");
    if !secret.exists() {
        let mut random = [0u8; 32];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
        folder::write_new(&secret, random.iter().map(|b| format!("{b:02x}")).collect::<String>().as_bytes(), 0o600)?;
    }

    let http: Vec<String> = (0..file.nodes).map(|i| format!("127.0.0.1:{}", first_port + i as u16)).collect();
    for a in &http { free(a).with_context(|| format!("{a} is in use: stop what listens there, or choose other ports with --http-port"))?; }
    for p in &file.peer_ports {
        free(&format!("127.0.0.1:{p}")).with_context(|| format!("127.0.0.1:{p} is in use; this cluster's nodes talk to each other there ({})", data.join("dev.json").display()))?;
    }
    let peers: Vec<String> = file.peer_ports.iter().enumerate().map(|(i, p)| format!("{}=127.0.0.1:{p}", i + 1)).collect();
    let program = std::env::current_exe().context("cannot find the path of this program")?.display().to_string();
    let mut nodes = Vec::new();
    for (i, address) in http.iter().enumerate() {
        let id = i as u64 + 1;
        let dir = data.join(format!("node-{id}"));
        let peer = format!("127.0.0.1:{}", file.peer_ports[i]);
        let command = [&program, "serve", "--node-id", &id.to_string(), "--data", &dir.display().to_string(), "--http", address, "--peer", &peer,
            "--peers", &peers.join(","), "--secret-file", &secret.display().to_string(), "--wal-segment-mib", "16", "--group-initial-rebalance-delay-ms", "0"].map(String::from).to_vec();
        let mut node = Node { id, command, log: data.join(format!("node-{id}.log")), child: None, started: Instant::now(), start_again: None, failed: 0 };
        node.start()?;
        nodes.push(node);
    }

    say(&format!("{} nodes are starting; data and logs are in {}", nodes.len(), data.display()));
    for (n, a) in nodes.iter().zip(&http) { say(&format!("  node {}  http://{a}  pid {}  {}", n.id, n.child.as_ref().map_or(0, Child::id), n.log.display())); }
    let (tx, ready) = channel();
    let waiting = http.clone();
    std::thread::spawn(move || { let _ = tx.send(wait_ready(&waiting)); });
    let mut is_ready = false;

    let result = loop {
        match stop.recv_timeout(Duration::from_millis(100)) {
            Ok(signal) => { say(&format!("{signal}: stopping the nodes")); break Ok(()); }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break Err(anyhow::anyhow!("the signal thread has ended")),
        }
        if !is_ready && let Ok(answer) = ready.try_recv() {
            if let Err(e) = answer { break Err(e); }
            is_ready = true;
            welcome(&http);
            if args.switch("demo") {
                let servers = http.clone();
                std::thread::spawn(move || if let Err(e) = demo::run(servers) { say(&format!("demo: {e:#}")); });
            }
        }
        if let Some(Err(e)) = nodes.iter_mut().map(|n| n.watch()).find(|r| r.is_err()) { break Err(e); }
    };
    let clean = stop_all(&mut nodes);
    result?;
    Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn welcome(http: &[String]) {
    let a = &http[0];
    say(&format!("\ntry, in another terminal:
  curl -X PUT http://{a}/v1/topics/hello -H 'content-type: application/json' -d '{{\"partitions\":4}}'
  curl -X POST http://{a}/v1/groups/g1/members/w1/heartbeat -H 'content-type: application/json' -d '{{\"member_epoch\":0,\"incarnation\":\"0123456789abcdef0123456789abcdef\",\"subscribed_topics\":[\"hello\"],\"owned\":[]}}'
  curl http://{a}/v1/groups/g1
and kill a node: `kill -9 PID`; it is started again. Ctrl-C stops everything.\n"));
    say(&format!("ready http={}", http.join(",")));
}

/// The stored file, or a new one with free ports.
fn dev_file(data: &Path, nodes: u64) -> Result<DevFile> {
    let path = data.join("dev.json");
    match fs::read(&path) {
        Ok(bytes) => {
            let f: DevFile = serde_json::from_slice(&bytes).with_context(|| format!("{} cannot be read", path.display()))?;
            if f.format != 1 || f.peer_ports.len() as u64 != f.nodes { bail!("{} is not what this version writes", path.display()); }
            if f.nodes != nodes { bail!("{} holds a cluster of {} nodes: start it with --nodes {}, or give another folder with --data", data.display(), f.nodes, f.nodes); }
            Ok(f)
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let file = DevFile { format: 1, nodes, peer_ports: free_ports(nodes as usize)? };
            folder::write_new(&path, serde_json::to_string_pretty(&file)?.as_bytes(), 0o644)?;
            Ok(file)
        }
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Ports below the range from which the kernel takes the ports of outgoing connections: they are kept, so they should stay free.
fn free_ports(n: usize) -> Result<Vec<u16>> {
    let mut ports = Vec::new();
    for _ in 0..1000 {
        let mut random = [0u8; 2];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
        let port = 17_000 + u16::from_le_bytes(random) % 14_000;
        if !ports.contains(&port) && free(&format!("127.0.0.1:{port}")).is_ok() { ports.push(port); }
        if ports.len() == n { return Ok(ports); }
    }
    bail!("no {n} free ports were found on 127.0.0.1")
}
fn free(address: &str) -> std::io::Result<()> { TcpListener::bind(address).map(drop) }

fn wait_ready(http: &[String]) -> Result<()> {
    let end = Instant::now() + READY_WITHIN;
    for address in http {
        let mut last = String::from("no answer");
        loop {
            match http::call(address, "GET", "/readyz", "", Duration::from_secs(2)) {
                Ok((200, _)) => break,
                Ok((status, body)) => last = format!("{status} {}", body.trim()),
                Err(e) => last = if last == "no answer" { format!("{e:#}") } else { last },
            }
            if Instant::now() > end { bail!("{address} is not ready after {} s: {last}", READY_WITHIN.as_secs()); }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    Ok(())
}

impl Node {
    fn start(&mut self) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(&self.command[0]);
        // Its own process group: Ctrl-C reaches `dev` alone, which then stops the nodes in order.
        command.args(&self.command[1..]).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        // Several nodes share this machine: one worker thread each costs a third less when nobody asks anything.
        if std::env::var_os("TOKIO_WORKER_THREADS").is_none() { command.env("TOKIO_WORKER_THREADS", "1"); }
        // What is meant for one node by hand must not reach them all.
        for o in crate::serve::OPTIONS { command.env_remove(crate::args::env_name(o.name)); }
        die_with_parent(&mut command);
        // Called on the main thread only: PR_SET_PDEATHSIG goes by the thread that started the child.
        self.child = Some(command.spawn().with_context(|| format!("cannot start node {}", self.id))?);
        (self.started, self.start_again) = (Instant::now(), None);
        Ok(())
    }

    /// Notices an end and starts again when it is time. Err: it does not come up.
    fn watch(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child && let Some(status) = child.try_wait()? {
            let pid = child.id();
            self.child = None;
            // A kill is the user's doing, also right after a start; only an end of its own counts as a failure.
            self.failed = if status.signal().is_none() && self.started.elapsed() < UP { self.failed + 1 } else { 0 };
            if self.failed >= TRIES { bail!("node {} does not come up ({}); the end of {}:\n{}", self.id, ended(status), self.log.display(), tail(&self.log)); }
            say(&format!("node {} (pid {pid}) {}; it is started again in {} s", self.id, ended(status), RESTART_AFTER.as_secs()));
            self.start_again = Some(Instant::now() + RESTART_AFTER);
        }
        if self.start_again.is_some_and(|at| Instant::now() >= at) {
            self.start()?;
            say(&format!("node {} is started again: pid {}", self.id, self.child.as_ref().map_or(0, Child::id)));
        }
        Ok(())
    }
}

/// The child ends when the thread that starts it ends, however that happens.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id();
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 { return Err(std::io::Error::last_os_error()); }
            // The parent may have died before the line above.
            if libc::getppid() as u32 != parent { return Err(std::io::Error::from_raw_os_error(libc::ESRCH)); }
            Ok(())
        });
    }
}

/// SIGTERM to all, then SIGKILL to those that stay. True if all ended by themselves.
fn stop_all(nodes: &mut [Node]) -> bool {
    let signal = |child: &Child, s| {
        // SAFETY: no memory is involved; the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(child.id() as i32, s) };
    };
    for child in nodes.iter().filter_map(|n| n.child.as_ref()) { signal(child, libc::SIGTERM); }
    let end = Instant::now() + STOP_WITHIN;
    let mut clean = true;
    for node in nodes {
        let Some(child) = &mut node.child else { continue };
        loop {
            match child.try_wait() {
                Ok(Some(_)) | Err(_) => break,
                Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                Ok(None) => {
                    say(&format!("node {} does not stop: killed", node.id));
                    clean = false;
                    signal(child, libc::SIGKILL);
                    let _ = child.wait();
                    break;
                }
            }
        }
    }
    clean
}

pub fn ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(s), _) => format!("was ended by signal {s}"),
        (None, Some(c)) => format!("has ended with code {c}"),
        _ => "has ended".into(),
    }
}

fn tail(path: &Path) -> String {
    let text = fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
}
