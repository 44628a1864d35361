//! The member against a small scripted server on loopback.
mod common;

use baton_client::{Event, Guard, Listener, Member, Partition, Reason};
use common::{Answer, dead, no_content, ok, problem, serve};
use serde_json::json;
use std::{
    sync::{Arc, Mutex, atomic::{AtomicBool, Ordering}},
    time::Duration,
};

fn answer(revision: u64, assigned: &[(i32, u64)], pending: &[i32], lease_ms: u64) -> Answer { ok(common::picture("orders", 1, revision, assigned, pending, lease_ms)) }

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
    let addr = serve(move |method, path, body| {
        if method == "DELETE" { l.add(format!("leave {}", path.split("assignment_revision=").nth(1).unwrap())); return no_content(); }
        if method == "PUT" {
            assert_eq!(body["offsets"][0]["token"], 5);
            return ok(json!({"results": [{"topic": "orders", "partition": 0, "code": null}]}));
        }
        assert_eq!(path, "/v1/groups/my%20group/members/w/heartbeat");
        let revision = body["assignment_revision"].as_u64().unwrap();
        if body["member_epoch"] == 0 { l.add("join"); }
        if !r.load(Ordering::SeqCst) { return answer(10, &[(0, 5), (1, 6)], &[], 5_000); }
        if revision < 11 {
            l.add("beat while stopping");
            return answer(11, &[(0, 5)], &[1], 5_000);
        }
        l.add(format!("confirmed {}", body["owned"]));
        answer(11, &[(0, 5)], &[], 5_000)
    }).await;
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
    let addr = serve(move |_, _, body| {
        if h.load(Ordering::SeqCst) { return None; }
        let revision = body["assignment_revision"].as_u64().unwrap();
        if body["member_epoch"] == 0 && revision > 0 { return answer(20, &[(0, 21)], &[], 400); }
        answer(revision.max(10), &[(0, if revision >= 20 { 21 } else { 5 })], &[], 400)
    }).await;
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
    let busy = serve(|_, _, _| problem(503, "UNAVAILABLE")).await;
    let good = serve(|_, _, _| answer(10, &[(0, 5)], &[], 5_000)).await;
    let m = Member::builder(vec![dead().await, busy, good], "g").topics(["orders"]).spawn().await.unwrap();
    wait_for("grant", || owned(&m).len() == 1).await;
}
