//! The member against a small scripted server on loopback.
use baton_client::{Event, Guard, Listener, Member, Partition, Reason};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, atomic::{AtomicBool, Ordering}},
    time::Duration,
};
use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};

type Script = Arc<dyn Fn(&str, &str, &Value) -> Option<(u16, Value)> + Send + Sync>;

/// Answers by `script`; None: it never answers.
async fn serve(script: Script) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(connection(stream, script.clone()));
        }
    });
    addr
}

async fn connection(mut stream: TcpStream, script: Script) {
    let mut buf = Vec::new();
    loop {
        let end = loop {
            if let Some(i) = buf.windows(4).position(|w| w == b"\r\n\r\n") { break i + 4; }
            let mut b = [0; 4096];
            match stream.read(&mut b).await { Ok(0) | Err(_) => return, Ok(n) => buf.extend_from_slice(&b[..n]) }
        };
        let head = String::from_utf8_lossy(&buf[..end]).to_string();
        let length: usize = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().parse().unwrap())).unwrap_or(0);
        while buf.len() < end + length {
            let mut b = [0; 4096];
            match stream.read(&mut b).await { Ok(0) | Err(_) => return, Ok(n) => buf.extend_from_slice(&b[..n]) }
        }
        let body = serde_json::from_slice(&buf[end..end + length]).unwrap_or(Value::Null);
        buf.drain(..end + length);
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let Some((status, answer)) = script(method, path, &body) else { std::future::pending::<()>().await; return };
        let text = if answer.is_null() { String::new() } else { answer.to_string() };
        let out = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if stream.write_all(out.as_bytes()).await.is_err() || stream.flush().await.is_err() { return; }
    }
}

fn answer(revision: u64, assigned: &[(i32, u64)], pending: &[i32], lease_ms: u64) -> Value {
    let partitions: Vec<Value> = assigned.iter().map(|(p, t)| json!({"partition": p, "token": t})).collect();
    let pending = if pending.is_empty() { json!([]) } else { json!([{"topic": "orders", "partitions": pending}]) };
    json!({"member_id": "w", "member_epoch": 1, "group_epoch": 1, "member_state": "stable", "heartbeat_interval_ms": 50, "session_timeout_ms": 1000, "lease_ms": lease_ms,
        "assignment_revision": revision, "assignment": [{"topic": "orders", "topic_id": "0", "partitions": partitions}], "pending_revocation": pending, "taken": [], "waited_at_most_ms": 0})
}

#[derive(Default)]
struct Log { lines: Mutex<Vec<String>>, events: Mutex<Vec<Event>> }
impl Log {
    fn add(&self, line: impl Into<String>) { self.lines.lock().unwrap().push(line.into()); }
    fn all(&self) -> Vec<String> { self.lines.lock().unwrap().clone() }
}
struct L(Arc<Log>);
impl Listener for L {
    async fn on_assigned(&self, g: &[Guard]) { for g in g { self.0.add(format!("assigned {}={}", g.partition(), g.token())); } }
    async fn on_revoked(&self, l: &[Guard]) {
        tokio::time::sleep(Duration::from_millis(150)).await;
        for g in l { assert!(g.check().is_ok()); self.0.add(format!("revoked {}", g.partition())); }
    }
    async fn on_lost(&self, l: &[Partition]) { for p in l { self.0.add(format!("lost {p}")); } }
}
impl Log {
    fn event(&self, e: &Event) {
        match e { Event::Granted { partition, .. } => self.add(format!("granted {partition}")), Event::Stopped { partition, .. } => self.add(format!("stopped {partition}")), _ => return }
        self.events.lock().unwrap().push(e.clone());
    }
}
fn hook(log: &Arc<Log>) -> impl Fn(&Event) + Send + Sync + 'static { let log = log.clone(); move |e| log.event(e) }
fn owned(m: &Member) -> Vec<(Partition, u64)> { m.assignment().iter().filter(|g| g.check().is_ok()).map(|g| (g.partition().clone(), g.token())).collect() }

async fn wait_for(what: &str, f: impl Fn() -> bool) {
    for _ in 0..500 { if f() { return; } tokio::time::sleep(Duration::from_millis(10)).await; }
    panic!("never: {what}");
}

#[tokio::test]
async fn joins_revokes_confirms_commits_and_leaves() {
    let log = Arc::new(Log::default());
    let (l, revoke) = (log.clone(), Arc::new(AtomicBool::new(false)));
    let r = revoke.clone();
    let addr = serve(Arc::new(move |method, path, body| {
        if method == "DELETE" { l.add(format!("leave {}", path.split("assignment_revision=").nth(1).unwrap())); return Some((204, Value::Null)); }
        if method == "PUT" {
            assert_eq!(body["offsets"][0]["token"], 5);
            return Some((200, json!({"results": [{"topic": "orders", "partition": 0, "code": null}]})));
        }
        assert_eq!(path, "/v1/groups/my%20group/members/w/heartbeat");
        let revision = body["assignment_revision"].as_u64().unwrap();
        if body["member_epoch"] == 0 { l.add("join"); }
        if !r.load(Ordering::SeqCst) { return Some((200, answer(10, &[(0, 5), (1, 6)], &[], 5_000))); }
        if revision < 11 {
            l.add("beat while stopping");
            return Some((200, answer(11, &[(0, 5)], &[1], 5_000)));
        }
        l.add(format!("confirmed {}", body["owned"]));
        Some((200, answer(11, &[(0, 5)], &[], 5_000)))
    })).await;
    let m = Member::builder(vec![addr], "my group").topics(["orders"]).member_id("w").on_event(hook(&log)).listener(L(log.clone())).spawn().await.unwrap();
    wait_for("grant", || owned(&m).len() == 2).await;
    let (g0, g1) = (m.guard("orders", 0).unwrap(), m.guard("orders", 1).unwrap());
    assert_eq!((g0.check(), m.guard("orders", 9).is_none()), (Ok(5), true));
    revoke.store(true, Ordering::SeqCst);
    wait_for("confirmation", || log.all().iter().any(|x| x.starts_with("confirmed"))).await;
    assert!(g1.check().is_err() && g0.check().is_ok());
    let results = m.commit(&[g0.offset(4)], Duration::from_secs(2)).await.unwrap();
    assert!(results.len() == 1 && results[0].code.is_none());
    m.leave().await.unwrap();
    assert!(g0.check().is_err());
    let mut lines = log.all();
    assert!(lines.iter().any(|x| x == "beat while stopping"), "{lines:?}");
    lines.retain(|x| x != "beat while stopping");
    lines.dedup();
    assert_eq!(lines, ["join", "granted orders:0", "granted orders:1", "assigned orders:0=5", "assigned orders:1=6", "revoked orders:1", "stopped orders:1",
        "confirmed [{\"partitions\":[0],\"topic\":\"orders\"}]", "revoked orders:0", "stopped orders:0", "leave 11"]);
}

#[tokio::test]
async fn fences_itself_while_the_server_hangs() {
    let log = Arc::new(Log::default());
    let hang = Arc::new(AtomicBool::new(false));
    let h = hang.clone();
    let addr = serve(Arc::new(move |_, _, body| {
        if h.load(Ordering::SeqCst) { return None; }
        let revision = body["assignment_revision"].as_u64().unwrap();
        if body["member_epoch"] == 0 && revision > 0 { return Some((200, answer(20, &[(0, 21)], &[], 400))); }
        Some((200, answer(revision.max(10), &[(0, if revision >= 20 { 21 } else { 5 })], &[], 400)))
    })).await;
    let m = Member::builder(vec![addr], "g").topics(["orders"]).on_event(hook(&log)).listener(L(log.clone())).spawn().await.unwrap();
    wait_for("grant", || owned(&m).len() == 1).await;
    let g = m.guard("orders", 0).unwrap();
    hang.store(true, Ordering::SeqCst);
    wait_for("loss", || log.all().contains(&"lost orders:0".to_string())).await;
    assert!(g.check().is_err());
    {
        let events = log.events.lock().unwrap();
        let (Event::Granted { at: from, .. }, Event::Stopped { at: to, reason, .. }) = (&events[0], &events[1]) else { panic!("{events:?}") };
        assert_eq!(*reason, Reason::Lapsed);
        assert!(to - from < 1_400_000_000, "before the hanging request's timeout: {} ms", (to - from) / 1_000_000);
    }
    hang.store(false, Ordering::SeqCst);
    wait_for("a new grant", || owned(&m) == vec![(Partition::new("orders", 0), 21)]).await;
    assert!(g.check().is_err(), "the old grant stays dead");
}

#[tokio::test]
async fn goes_on_with_another_node() {
    let dead = { let l = TcpListener::bind("127.0.0.1:0").await.unwrap(); l.local_addr().unwrap().to_string() };
    let busy = serve(Arc::new(|_, _, _| Some((503, json!({"type": "x", "title": "x", "status": 503, "code": "UNAVAILABLE", "detail": "", "action": "", "retriable": true, "retry_after_ms": 20, "limit": null}))))).await;
    let good = serve(Arc::new(|_, _, _| Some((200, answer(10, &[(0, 5)], &[], 5_000))))).await;
    let m = Member::builder(vec![dead, busy, good], "g").topics(["orders"]).spawn().await.unwrap();
    wait_for("grant", || owned(&m).len() == 1).await;
}
