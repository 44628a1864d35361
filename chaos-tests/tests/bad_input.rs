//! What a person can get wrong, tried on real `baton` processes: each mistake gets an error that says what it is and what to do, and nothing is lost.
//! Linux only. The HTTP front's own tests go through more malformed requests; here is what needs a cluster, a folder or a port.

use baton_chaos_tests::processes::{disk::Small, http::call, *};
use serde_json::{Value, json};
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

const SLOW: Duration = Duration::from_secs(3);
/// A program that should refuse to start ends within this.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Runs `baton` until it ends by itself.
fn baton_ends(args: &[&str]) -> Output {
    let mut child = Command::new(here().join("baton")).args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("baton");
    let end = Instant::now() + ENDS_WITHIN;
    while child.try_wait().expect("wait").is_none() {
        if Instant::now() > end {
            let _ = child.kill();
            let said = child.wait_with_output().map(|o| String::from_utf8_lossy(&o.stderr).chars().take(1_500).collect::<String>());
            panic!("`baton {}` goes on: {said:?}", args.join(" "));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.wait_with_output().expect("output")
}

/// Ends with an error that has all these words.
fn refused(args: &[&str], words: &[&str]) {
    let out = baton_ends(args);
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success(), "`baton {}` ended well: {text}", args.join(" "));
    for w in words {
        assert!(text.contains(w), "`baton {}` does not say {w:?}: {text}", args.join(" "));
    }
    assert!(!text.contains("panicked"), "{text}");
    println!("refused: {}", text.lines().last().unwrap_or(""));
}

struct Api<'a>(&'a str);
impl Api<'_> {
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = call(self.0, method, path, body, SLOW).expect("an answer");
        (status, serde_json::from_str(&body).unwrap_or(Value::Null))
    }
    /// A problem with this status and code, whose words tell what to do.
    fn problem(&self, method: &str, path: &str, body: &str, status: u16, code: &str) {
        let (got, p) = self.ask(method, path, body);
        assert_eq!((got, p["code"].as_str()), (status, Some(code)), "{method} {path} {}: {p}", &body[..body.len().min(200)]);
        for field in ["title", "detail", "action"] {
            assert!(p[field].as_str().is_some_and(|t| t.len() > 3), "{method} {path}: no {field} in {p}");
        }
    }
}

fn here() -> PathBuf { bins(env!("CARGO_BIN_EXE_worker")) }

#[test]
fn requests_that_are_wrong_are_refused_and_change_nothing() {
    let w = World::start(&here(), "requests", 4, Duration::from_secs(6));
    let api = Api(&w.http[0]);
    let beat = |epoch: i64, incarnation: &str, revision: u64| {
        let mut b = json!({"member_epoch": epoch, "incarnation": incarnation, "owned": [], "assignment_revision": revision});
        if epoch == 0 { b["subscribed_topics"] = json!([TOPIC]); }
        b.to_string()
    };
    let (one, two) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let member = "/v1/groups/g/members/m";
    let (status, joined) = api.ask("POST", &format!("{member}/heartbeat"), &beat(0, one, 0));
    assert_eq!(status, 200, "{joined}");
    let before = api.ask("GET", "/v1/groups/g", "").1;

    api.problem("GET", "/v1/groups/nobody", "", 404, "UNKNOWN_GROUP");
    api.problem("DELETE", "/v1/groups/g/members/nobody?force=true", "", 404, "UNKNOWN_MEMBER");
    api.problem("POST", "/v1/groups/g/members/nobody/heartbeat", &beat(3, one, 0), 404, "UNKNOWN_MEMBER");
    api.problem("GET", "/v1/topics/nothing", "", 404, "UNKNOWN_TOPIC");
    api.problem("POST", &format!("{member}/heartbeat"), "{\"member_epoch\":", 400, "INVALID_JSON");
    api.problem("POST", &format!("{member}/heartbeat"), &json!({"member_epoch": 0, "incarnation": one, "colour": 1}).to_string(), 400, "INVALID_FIELD");
    api.problem("PUT", "/v1/topics/big", &format!("{{\"partitions\":1,\"x\":\"{}\"}}", "x".repeat(2 << 20)), 413, "BODY_TOO_LARGE");
    api.problem("PUT", "/v1/topics/new", "{\"partitions\":-1}", 400, "INVALID_FIELD");
    api.problem("PUT", &format!("/v1/topics/{TOPIC}"), "{\"partitions\":3}", 409, "TOPIC_CANNOT_SHRINK");
    api.problem("POST", &format!("{member}/heartbeat"), &beat(99, one, 0), 409, "FENCED_MEMBER_EPOCH");
    api.problem("POST", &format!("{member}/heartbeat"), &beat(1, two, 0), 409, "FENCED_INCARNATION");
    api.problem("POST", &format!("{member}/heartbeat"), &beat(0, two, 0), 409, "MEMBER_ID_IN_USE");
    api.problem("DELETE", &format!("{member}?incarnation={two}&assignment_revision=0"), "", 409, "FENCED_INCARNATION");

    let after = api.ask("GET", "/v1/groups/g", "").1;
    let what = |v: &Value| (v["group_epoch"].clone(), v["members"][0]["assigned"].clone(), v["members"][0]["incarnation"].clone());
    assert_eq!(what(&before), what(&after));
    assert_eq!(api.ask("GET", &format!("/v1/topics/{TOPIC}"), "").1["partitions"], 4);
    w.fine();
}

#[test]
fn nodes_that_must_not_start_say_why() {
    let mut w = World::start(&here(), "nodes", 4, Duration::from_secs(6));
    let peers = w.peer_list();
    let spare = free_ports(2);
    let (http, peer) = (format!("127.0.0.1:{}", spare[0]), format!("127.0.0.1:{}", spare[1]));
    let dir = w.dir.clone();
    let folder = |n: &str| dir.join(n).display().to_string();

    let secret = folder("secret");

    println!("another node's data");
    w.kill_node(2);
    refused(&["serve", "--node-id", "3", "--data", &folder("node-2"), "--http", &http, "--peers", &peers, "--secret-file", &secret], &["node 2", "node-2"]);
    println!("an empty folder under a known id");
    refused(&["serve", "--node-id", "2", "--data", &folder("fresh"), "--http", &http, "--peers", &peers, "--secret-file", &secret], &["new node id"]);
    println!("data of another cluster");
    let other = World::start(&here(), "other", 1, Duration::from_secs(6));
    let stranger = other.dir.join("node-2").display().to_string();
    let mut other = other;
    other.kill_node(2);
    refused(&["serve", "--node-id", "2", "--data", &stranger, "--http", &http, "--peers", &peers, "--secret-file", &secret], &["cluster"]);
    other.start_node(2);
    other.ready(2, Duration::from_secs(20));
    other.fine();
    println!("the node itself, afterwards");
    w.start_node(2);
    w.ready(2, Duration::from_secs(20));
    println!("two nodes with one id");
    let twin: Vec<String> = peers.split(',').map(|p| if p.starts_with("2=") { format!("2={peer}") } else { p.into() }).collect();
    refused(&["serve", "--node-id", "2", "--data", &folder("twin"), "--http", &http, "--peers", &twin.join(","), "--secret-file", &secret], &["new node id"]);
    println!("one folder twice, a port in use");
    refused(&["serve", "--node-id", "2", "--data", &folder("node-2"), "--http", &http, "--peers", &peers, "--secret-file", &secret], &["already", "node-2"]);
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = taken.local_addr().expect("address").to_string();
    refused(&["serve", "--node-id", "9", "--data", &folder("nine"), "--http", &address, "--peers", "9=127.0.0.1:1"], &["in use", &address]);
    w.no_node_died();
    assert_eq!(Api(&w.http[1]).ask("GET", &format!("/v1/topics/{TOPIC}"), "").1["partitions"], 4);
    w.fine();
}

#[test]
fn a_second_dev_on_one_folder_is_refused() {
    let dir = std::env::temp_dir().join(format!("baton-second-dev-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let ports = free_ports(10);
    let port = ports[0].to_string();
    let data = dir.display().to_string();
    let mut first = Command::new(here().join("baton")).args(["dev", "--nodes", "1", "--data", &data, "--http-port", &port]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("baton");
    wait_ready(&format!("127.0.0.1:{port}"));
    refused(&["dev", "--nodes", "1", "--data", &data, "--http-port", &ports[9].to_string()], &["already runs", &data]);
    let elsewhere = dir.join("elsewhere").display().to_string();
    refused(&["dev", "--nodes", "1", "--data", &elsewhere, "--http-port", &port], &["in use", "--http-port"]);
    let declared = call(&format!("127.0.0.1:{port}"), "PUT", "/v1/topics/kept", "{\"partitions\":2}", SLOW).expect("an answer");
    assert!((200..300).contains(&declared.0), "{declared:?}");
    stop(&mut first);
    let mut again = Command::new(here().join("baton")).args(["dev", "--nodes", "1", "--data", &data, "--http-port", &port]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("baton");
    wait_ready(&format!("127.0.0.1:{port}"));
    let kept = call(&format!("127.0.0.1:{port}"), "GET", "/v1/topics/kept", "", SLOW).expect("an answer");
    assert_eq!(kept.0, 200, "the second start does not find the old state: {kept:?}");
    stop(&mut again);
    let _ = fs::remove_dir_all(Path::new(&data));
}

/// A node whose disk is full refuses what it cannot write, says why, and goes on when there is room again. Needs the right to mount.
#[test]
fn a_full_disk_refuses_and_goes_on_when_there_is_room() {
    let dir = std::env::temp_dir().join(format!("baton-full-disk-{}", std::process::id()));
    let _ = fs::remove_dir_all(&dir);
    let Some(disk) = Small::mount(&dir, 24) else { return println!("skipped: a small file system cannot be mounted here") };
    let here = here();
    let host = Host { data: Some(dir.join("node")), ..Host::loopback(&here) };
    let mut w = World::start_on(&here, "full", 4, Duration::from_secs(6), vec![host], "127.0.0.1");
    let address = w.http[0].clone();
    let commit = |offset: u64| {
        let metadata = "m".repeat(4_000);
        let body = json!({"offsets": (0..4).map(|p| json!({"topic": TOPIC, "partition": p, "offset": offset, "metadata": metadata})).collect::<Vec<_>>(), "timeout_ms": 1_500}).to_string();
        call(&address, "PUT", "/v1/groups/full/offsets", &body, SLOW)
    };
    assert_eq!(commit(1).expect("an answer").0, 200);
    disk.fill().expect("ballast");
    // What is prepared of the log takes some more.
    let refused = (2..2_000).find_map(|n| match commit(n) { Ok((200, ..)) => None, other => Some((n, other)) });
    let (n, answer) = refused.expect("the disk is full, and yet everything is taken");
    println!("commit {n} on a full disk: {answer:?}");
    assert!(matches!(&answer, Ok((503, _, body)) if body.contains("action")), "{answer:?}");
    let log = fs::read_to_string(w.dir.join("node-1.log")).expect("log");
    assert!(log.contains("full") || log.contains("No space"), "the log does not say that the disk is full: {log}");
    disk.free().expect("room");
    let end = Instant::now() + Duration::from_secs(20);
    while !commit(10_000).is_ok_and(|a| a.0 == 200) {
        assert!(Instant::now() < end, "it does not go on although there is room again");
        std::thread::sleep(Duration::from_millis(200));
    }
    w.no_node_died();
    w.kill_node(1);
    w.start_node(1);
    w.ready(1, Duration::from_secs(20));
    let offsets = Api(&address).ask("GET", &format!("/v1/groups/full/offsets?topic={TOPIC}&partition=0"), "").1;
    assert_eq!(offsets["offsets"][0]["offset"], 10_000, "{offsets}");
    w.fine();
}

fn wait_ready(address: &str) {
    let end = Instant::now() + Duration::from_secs(30);
    while !call(address, "GET", "/readyz", "", SLOW).is_ok_and(|a| a.0 == 200) {
        assert!(Instant::now() < end, "{address} is not ready");
        std::thread::sleep(Duration::from_millis(100));
    }
}
fn stop(child: &mut std::process::Child) {
    // SAFETY: no memory is involved; the child has not been waited for, so its pid is still its own.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let status = child.wait().expect("wait");
    assert!(status.success(), "dev ended with {status}");
}
