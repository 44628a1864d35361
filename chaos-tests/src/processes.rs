//! The processes of the real-process runs: nodes, workers and the sink. Everything it starts dies with the thread that started it.

pub mod disk;
pub mod http;
pub mod namespaces;
pub mod worker;

use baton_invariants::{belief::{Process, Record}, sink};
use http::{boottime_ns, call};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, atomic::{AtomicU16, Ordering}},
    time::{Duration, Instant},
};

pub const GROUP: &str = "crew";
pub const TOPIC: &str = "work";
const SLOW: Duration = Duration::from_secs(3);

pub struct World {
    pub dir: PathBuf,
    bins: PathBuf,
    pub hosts: Vec<Host>,
    pub http: Vec<String>,
    peers: Vec<String>,
    nodes: Vec<Option<Child>>,
    workers: BTreeMap<String, Worker>,
    sink: Arc<Mutex<Sink>>,
    sink_address: String,
    partitions: usize,
    start: Instant,
    keep: bool,
}
/// Where and how a node runs. May be changed between two starts of it.
#[derive(Clone)]
pub struct Host {
    /// Other than loopback only in a network of its own.
    pub ip: String,
    /// What stands before the command, as `ip netns exec NAME`.
    pub prefix: Vec<String>,
    pub baton: PathBuf,
    pub env: Vec<(String, String)>,
    /// Its data folder; None: beside the others.
    pub data: Option<PathBuf>,
}
impl Host {
    pub fn loopback(bins: &Path) -> Host { Host { ip: "127.0.0.1".into(), prefix: Vec::new(), baton: bins.join("baton"), env: Vec::new(), data: None } }
}

struct Worker { child: Option<Child>, file: PathBuf, killed_at: Option<u64> }

/// What the sink has seen. It takes a write only under the token that was registered last, and a token only if it is greater.
#[derive(Clone, Default)]
pub struct Sink { pub writes: u64, pub registered: u64, pub refused: u64, pub wrong: Vec<String>, held: sink::Sink<String>, count: BTreeMap<String, u64> }

impl World {
    /// Three nodes that serve, a topic, a group with its session, a sink. No worker yet.
    /// `bins` is the folder of `baton`, `worker` and `model_worker`.
    pub fn start(bins: &Path, name: &str, partitions: usize, session: Duration) -> World {
        World::start_on(bins, name, partitions, session, vec![Host::loopback(bins); 3], "127.0.0.1")
    }

    /// The same on these hosts; workers and sink are at `here`.
    pub fn start_on(bins: &Path, name: &str, partitions: usize, session: Duration, hosts: Vec<Host>, here: &str) -> World {
        let dir = std::env::temp_dir().join(format!("baton-processes-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).expect("temporary folder");
        let count = hosts.len();
        let ports = free_ports(2 * count);
        let http = hosts.iter().zip(&ports[..count]).map(|(h, p)| format!("{}:{p}", h.ip)).collect();
        let peers = hosts.iter().zip(&ports[count..]).map(|(h, p)| format!("{}:{p}", h.ip)).collect();
        fs::write(dir.join("secret"), "a secret of sixteen bytes and more").expect("secret");
        let sink = Arc::new(Mutex::new(Sink::default()));
        let listener = TcpListener::bind((here, 0)).expect("sink");
        let sink_address = listener.local_addr().expect("sink address").to_string();
        let shared = sink.clone();
        std::thread::spawn(move || for s in listener.incoming().flatten() {
            let sink = shared.clone();
            std::thread::spawn(move || Sink::serve(&sink, s));
        });
        let mut w = World { dir, bins: bins.to_path_buf(), hosts, http, peers, nodes: (0..count).map(|_| None).collect(), workers: BTreeMap::new(), sink, sink_address, partitions, start: Instant::now(), keep: true };
        for n in 1..=count { w.start_node(n); }
        for n in 1..=count { w.ready(n, Duration::from_secs(30)); }
        w.ask("PUT", &format!("/v1/topics/{TOPIC}"), &format!("{{\"partitions\":{partitions}}}"));
        w.ask("PATCH", &format!("/v1/groups/{GROUP}/config"), &format!("{{\"consumer.session.timeout.ms\":{}}}", session.as_millis()));
        w
    }

    pub fn mark_start(&mut self) { self.start = Instant::now(); }
    /// Waits for a second of the story and says what comes.
    pub fn at(&self, second: u64, what: &str) {
        std::thread::sleep((self.start + Duration::from_secs(second)).saturating_duration_since(Instant::now()));
        println!("{:>5.1} s  {what}", self.start.elapsed().as_secs_f32());
    }

    // Nodes, by id from 1.
    pub fn start_node(&mut self, n: usize) {
        let host = &self.hosts[n - 1];
        let mut c = match host.prefix.split_first() {
            Some((first, rest)) => { let mut c = Command::new(first); c.args(rest).arg(&host.baton); c }
            None => Command::new(&host.baton),
        };
        let data = host.data.clone().unwrap_or_else(|| self.dir.join(format!("node-{n}")));
        c.args(["serve", "--node-id", &n.to_string(), "--data"]).arg(data).envs(host.env.iter().cloned()).arg("--secret-file").arg(self.dir.join("secret"))
            .args(["--http", &self.http[n - 1], "--peer", &self.peers[n - 1], "--peers", &self.peer_list(), "--wal-segment-mib", "1"]);
        if host.ip != "127.0.0.1" { c.arg("--insecure"); }
        self.nodes[n - 1] = Some(spawn(c, &self.dir.join(format!("node-{n}.log"))));
    }
    /// SIGTERM, and waits for the end: at most 12 s.
    pub fn stop_node(&mut self, n: usize) {
        self.signal_node(n, libc::SIGTERM);
        let Some(mut c) = self.nodes[n - 1].take() else { return };
        let end = Instant::now() + Duration::from_secs(12);
        while !matches!(c.try_wait(), Ok(Some(_)) | Err(_)) {
            assert!(Instant::now() < end, "node {n} does not stop on SIGTERM");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    /// Whether it has ended by itself.
    pub fn ended(&mut self, n: usize) -> bool { self.nodes[n - 1].as_mut().is_some_and(|c| matches!(c.try_wait(), Ok(Some(_)))) }
    /// All nodes, as `--peers` wants them.
    pub fn peer_list(&self) -> String { self.peers.iter().enumerate().map(|(i, p)| format!("{}={p}", i + 1)).collect::<Vec<_>>().join(",") }
    /// SIGKILL. The time after it, ns.
    pub fn kill_node(&mut self, n: usize) -> u64 {
        let at = boottime_ns();
        if let Some(mut c) = self.nodes[n - 1].take() { let _ = c.kill(); let _ = c.wait(); }
        at
    }
    pub fn signal_node(&self, n: usize, signal: i32) { if let Some(c) = &self.nodes[n - 1] { send(c, signal); } }
    pub fn ready(&self, n: usize, within: Duration) {
        let end = Instant::now() + within;
        loop {
            let answer = call(&self.http[n - 1], "GET", "/readyz", "", SLOW);
            if answer.as_ref().is_ok_and(|a| a.0 == 200) { return; }
            assert!(Instant::now() < end, "node {n} is not ready: {answer:?}; see {}", self.dir.display());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    pub fn no_node_died(&mut self) {
        for (i, n) in self.nodes.iter_mut().enumerate() {
            let status = n.as_mut().map(|c| c.try_wait());
            assert!(matches!(status, Some(Ok(None))), "node {} has ended by itself: {status:?}", i + 1);
        }
    }
    pub fn pid(&self, n: usize) -> u32 { self.nodes[n - 1].as_ref().map_or(0, Child::id) }
    /// The node that leads the group's shard.
    pub fn leader(&self) -> usize { self.leader_of(GROUP) }
    /// As most of the nodes see it: one that was just cut off or restarted may still name an old one.
    pub fn leader_of(&self, group: &str) -> usize {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let mut named: BTreeMap<usize, usize> = BTreeMap::new();
            for a in &self.http {
                // A group that does not exist yet has a leader as well.
                let Ok((200 | 404, head, _)) = call(a, "GET", &format!("/v1/groups/{group}"), "", SLOW) else { continue };
                let leader = head.lines().find_map(|l| l.strip_prefix("x-baton-leader:")).map(str::trim);
                if let Some(i) = self.http.iter().position(|h| Some(h.as_str()) == leader) { *named.entry(i + 1).or_default() += 1; }
            }
            if let Some((n, _)) = named.into_iter().find(|(_, votes)| 2 * votes > self.http.len()) { return n; }
            assert!(Instant::now() < end, "no node is named as the group's leader by most of them");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    // Workers, by name.
    /// Members of the client library.
    pub fn worker(&mut self, name: &str, args: &[&str]) { self.start_worker("worker", name, args); }
    /// Members that follow the protocol over plain HTTP, apart from the client library: one mistake cannot hide in both.
    pub fn model_worker(&mut self, name: &str, args: &[&str]) { self.start_worker("model_worker", name, args); }
    fn start_worker(&mut self, program: &str, name: &str, args: &[&str]) {
        let file = self.dir.join(format!("{name}.records"));
        let mut c = Command::new(self.bins.join(program));
        c.args(["--name", name, "--servers", &self.http.join(","), "--group", GROUP, "--topic", TOPIC, "--sink", &self.sink_address, "--file"]).arg(&file).args(args);
        let child = spawn(c, &self.dir.join(format!("{name}.log")));
        let before = self.workers.insert(name.into(), Worker { child: Some(child), file, killed_at: None });
        assert!(before.is_none(), "worker {name} twice");
    }
    pub fn signal_worker(&self, name: &str, signal: i32) { if let Some(c) = &self.workers[name].child { send(c, signal); } }
    pub fn kill_worker(&mut self, name: &str) {
        let w = self.workers.get_mut(name).expect("worker");
        if let Some(mut c) = w.child.take() { let _ = c.kill(); let _ = c.wait(); }
        // After its end, not before the signal: until then it may have believed.
        w.killed_at = Some(boottime_ns());
    }
    /// SIGTERM: its members leave. Not waited for.
    pub fn stop_worker(&mut self, name: &str) { self.signal_worker(name, libc::SIGTERM); }
    pub fn stop_workers(&mut self) {
        let names: Vec<String> = self.workers.keys().cloned().collect();
        for n in &names { self.signal_worker(n, libc::SIGTERM); }
        let end = Instant::now() + Duration::from_secs(10);
        for n in &names {
            while let Some(c) = self.workers.get_mut(n).and_then(|w| w.child.as_mut()) {
                match c.try_wait() {
                    Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                    Ok(Some(status)) => { assert!(status.success(), "worker {n} ended with {status}"); self.workers.get_mut(n).expect("worker").child = None; }
                    _ => { println!("worker {n} does not stop: killed"); self.kill_worker(n); }
                }
            }
        }
    }
    /// What every process wrote down.
    pub fn processes(&self) -> Vec<Process> {
        self.workers.values().map(|w| {
            let text = fs::read_to_string(&w.file).unwrap_or_default();
            // A kill may cut the last line.
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let records = whole.lines().map(|l| l.parse::<Record>().expect("a record")).collect();
            Process { records, killed_at: w.killed_at }
        }).collect()
    }

    pub fn all_owned(&self, within: Duration, what: &str) {
        let (began, mut last) = (Instant::now(), String::new());
        while began.elapsed() < within {
            if let Some(v) = self.try_ask("GET", &format!("/v1/groups/{GROUP}/assignment"), "") {
                let all = v["partitions"].as_array().cloned().unwrap_or_default();
                let owned = all.iter().filter(|p| p["owner"].is_string() && p["state"].as_str().is_some_and(|s| s.eq_ignore_ascii_case("assigned"))).count();
                last = format!("{owned} of {}", self.partitions);
                let alive = self.workers.values().filter(|w| w.child.is_some()).count();
                let owners: std::collections::BTreeSet<&str> = all.iter().filter_map(|p| p["owner"].as_str()).collect();
                if owned == self.partitions && all.len() == self.partitions && owners.len() >= alive.saturating_sub(4).max(1) { println!("{what}: {owned} partitions, {} owners, after {:.1} s", owners.len(), began.elapsed().as_secs_f32()); return; }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        panic!("{what}: not after {within:?}: {last} assigned; see {}", self.dir.display());
    }
    /// Committed offsets, by `topic:partition`.
    pub fn committed(&self) -> BTreeMap<String, i64> {
        let v = self.ask("GET", &format!("/v1/groups/{GROUP}/offsets"), "");
        let all = v["offsets"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|o| Some((format!("{}:{}", o["topic"].as_str()?, o["partition"].as_i64()?), o["offset"].as_i64()?))).collect()
    }
    pub fn sink(&self) -> Sink { self.sink.lock().unwrap_or_else(|e| e.into_inner()).clone() }

    fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<Value> {
        self.http.iter().find_map(|a| match call(a, method, path, body, SLOW) { Ok((200 | 201, _, body)) => serde_json::from_str(&body).ok(), _ => None })
    }
    fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let end = Instant::now() + Duration::from_secs(15);
        loop {
            if let Some(v) = self.try_ask(method, path, body) { return v; }
            assert!(Instant::now() < end, "{method} {path}: {:?}", self.http.iter().map(|a| call(a, method, path, body, SLOW)).collect::<Vec<_>>());
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    /// The run has passed: nothing needs to be kept.
    pub fn fine(mut self) { self.keep = std::env::var_os("BATON_KEEP").is_some(); }
}

impl Drop for World {
    fn drop(&mut self) {
        for c in self.nodes.iter_mut().flatten().chain(self.workers.values_mut().filter_map(|w| w.child.as_mut())) { let _ = c.kill(); let _ = c.wait(); }
        if self.keep { println!("logs and records are in {}", self.dir.display()); } else { let _ = fs::remove_dir_all(&self.dir); }
    }
}

impl Sink {
    /// Lines `register PARTITION TOKEN MEMBER` and `write PARTITION TOKEN MEMBER`, answered `ok N` (N writes so far) or `stale`.
    fn serve(sink: &Mutex<Sink>, stream: TcpStream) {
        let Ok(mut out) = stream.try_clone() else { return };
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let answer = sink.lock().unwrap_or_else(|e| e.into_inner()).take(&line);
            if out.write_all(answer.as_bytes()).is_err() { return; }
        }
    }
    fn take(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        let [verb, partition, token, member] = words[..] else { self.wrong.push(format!("sink: {line:?}")); return "stale\n".into() };
        let (place, token) = (partition.to_string(), token.parse().unwrap_or(0));
        let fine = match verb {
            "register" => self.held.register(&place, token, member).unwrap_or_else(|b| { self.wrong.push(b.to_string()); false }),
            "write" => self.held.write(&place, token, member),
            _ => false,
        };
        if !fine { self.refused += 1; return "stale\n".into(); }
        let n = self.count.entry(partition.into()).or_default();
        if verb == "register" {
            self.registered += 1;
        } else {
            self.writes += 1;
            *n += 1;
        }
        format!("ok {n}\n")
    }
}

fn spawn(mut c: Command, log: &Path) -> Child {
    let out = OpenOptions::new().create(true).append(true).open(log).expect("log");
    c.stdin(Stdio::null()).stdout(out.try_clone().expect("log")).stderr(out);
    // SAFETY: prctl is async-signal-safe. The kernel kills the child when the test's thread ends, however it ends.
    unsafe { c.pre_exec(|| { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL); Ok(()) }) };
    c.spawn().unwrap_or_else(|e| panic!("{c:?}: {e}"))
}
fn send(c: &Child, signal: i32) {
    // SAFETY: no memory is involved; the child has not been waited for, so the pid is still its own.
    unsafe { libc::kill(c.id() as i32, signal) };
}

/// The folder of the binaries, given one of them; `baton` is built if need be.
pub fn bins(one_of_them: &str) -> PathBuf {
    let folder = Path::new(one_of_them).parent().expect("target folder").to_path_buf();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Asked also when it is there: an old binary would be tested silently.
    let built = Command::new(cargo).args(["build", "-q", "-p", "baton-server"]).status();
    assert!(folder.join("baton").exists(), "{} is missing: cargo build -p baton-server ({built:?})", folder.join("baton").display());
    folder
}

/// Below the range of outgoing connections: a killed node must find its port free again.
pub fn free_ports(n: usize) -> Vec<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 17_000 + (std::process::id() as u16 % 997) * 14;
    let mut ports = Vec::new();
    while ports.len() < n {
        // Never one twice: a port that was found free may wait for its user.
        let port = 17_000 + (first - 17_000 + NEXT.fetch_add(1, Ordering::Relaxed)) % 15_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() { ports.push(port); }
    }
    ports
}
