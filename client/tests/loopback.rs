//! The member against a small scripted server on loopback: a real socket, real time, short leases.

mod common;

use baton_client::{Event, Guard, Listener, Member, Partition, Reason, clock};
use common::{Answer, dead, no_content, ok, problem, serve};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::time::{sleep, timeout};

type Log = Arc<Mutex<Vec<String>>>;

fn picture(epoch: i32, revision: u64, assigned: &[(i32, u64)], pending: &[i32], lease_ms: u64) -> Answer { ok(common::picture("t", epoch, revision, assigned, pending, lease_ms)) }
fn is_beat(path: &str) -> bool { path.ends_with("/heartbeat") }

#[derive(Clone, Default)]
struct Notes { log: Log, revoking: Duration }
impl Notes { fn note(&self, text: String) { self.log.lock().unwrap().push(text); } }
impl Listener for Notes {
    async fn on_assigned(&self, granted: &[Guard]) { for g in granted { self.note(format!("assigned {} {}", g.partition(), g.token())); } }
    async fn on_revoked(&self, revoked: &[Guard]) {
        for g in revoked { self.note(format!("revoking {} usable {}", g.partition(), g.check().is_ok())); }
        sleep(self.revoking).await;
        self.note("revoked".into());
    }
    async fn on_lost(&self, lost: &[Partition]) { for p in lost { self.note(format!("lost {p}")); } }
}

async fn until(log: &Log, what: &str) {
    let seen = timeout(Duration::from_secs(8), async { while !log.lock().unwrap().iter().any(|l| l.starts_with(what)) { sleep(Duration::from_millis(5)).await; } }).await;
    assert!(seen.is_ok(), "no {what:?} in {:?}", log.lock().unwrap());
}
fn position(log: &[String], what: &str) -> usize { log.iter().position(|l| l.starts_with(what)).unwrap_or_else(|| panic!("no {what:?} in {log:?}")) }

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn join_grant_then_a_revocation_is_confirmed_after_its_callback_and_leave() {
    let log = Log::default();
    let (l, asked) = (log.clone(), Mutex::new(0));
    let node = serve(move |method, path, body| {
        if method == "DELETE" { l.lock().unwrap().push(format!("DELETE {path}")); return no_content(); }
        if method == "PUT" {
            l.lock().unwrap().push(format!("commit {}", body["commit_seq"]));
            return ok(json!({"results": [{"topic": "t", "partition": 1, "code": if body["offsets"][0]["token"] == 6 { Value::Null } else { json!("STALE_TOKEN") }}]}));
        }
        let revision = body["assignment_revision"].as_u64().unwrap();
        l.lock().unwrap().push(format!("beat {} {revision} {}", body["member_epoch"], body["owned"]));
        let mut n = asked.lock().unwrap();
        *n += 1;
        match (*n, revision) {
            (1, _) => picture(1, 10, &[(0, 5), (1, 6)], &[], 3_000),
            (_, 0) => picture(1, 10, &[(0, 5), (1, 6)], &[], 3_000),
            (..5, _) => picture(1, 10, &[(0, 5), (1, 6)], &[], 3_000),
            (_, 10) => picture(2, 11, &[(1, 6)], &[0], 3_000),
            _ => picture(2, 11, &[(1, 6)], &[], 3_000),
        }
    }).await;
    let notes = Notes { log: log.clone(), revoking: Duration::from_millis(200) };
    let member = Member::builder([node], "g").topics(["t"]).member_id("m 1").listener(notes).spawn().await.unwrap();
    member.joined().await;
    until(&log, "assigned t:1 6").await;
    let (zero, one) = (member.guard("t", 0).unwrap(), member.guard("t", 1).unwrap());
    assert_eq!(one.check(), Ok(6));
    until(&log, "revoking t:0 usable true").await;
    assert_eq!(zero.check(), Ok(5), "usable until the callback has returned");
    until(&log, r#"beat 2 11 [{"partitions":[1],"topic":"t"}]"#).await;
    assert!(zero.check().is_err());
    assert!(member.guard("t", 0).is_none());
    {
        let log = log.lock().unwrap();
        let (start, end) = (position(&log, "revoking"), position(&log, "revoked"));
        assert!(end < position(&log, r#"beat 2 11"#));
        assert!(log[start..end].iter().any(|l| l.starts_with(r#"beat 2 10 [{"partitions":[0,1]"#)), "the lease is kept up meanwhile: {log:?}");
    }
    let results = member.commit(&[one.offset(41)], Duration::from_secs(2)).await.unwrap();
    assert_eq!(results[0].code, None);
    let mut stale = one.offset(42);
    stale.token = 4;
    assert_eq!(member.commit(&[stale], Duration::from_secs(2)).await.unwrap()[0].code.as_deref(), Some("STALE_TOKEN"));
    member.leave().await.unwrap();
    assert!(one.check().is_err());
    let log = log.lock().unwrap();
    assert!(position(&log, "commit 1") < position(&log, "commit 2"));
    let left = &log[position(&log, "DELETE")];
    assert!(left.starts_with("DELETE /v1/groups/g/members/m%201?incarnation=") && left.ends_with("&assignment_revision=11"), "{left}");
    assert!(position(&log, "revoking t:1") < position(&log, "DELETE"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_answer_grants_nothing() {
    let log = Log::default();
    let asked = Mutex::new(0);
    let node = serve(move |_, _, _| {
        let mut n = asked.lock().unwrap();
        *n += 1;
        if *n == 1 { picture(1, 10, &[(0, 5)], &[], 3_000) } else { picture(1, 9, &[(0, 4), (1, 4)], &[], 3_000) }
    }).await;
    let member = Member::builder([node], "g").topics(["t"]).listener(Notes { log: log.clone(), ..Notes::default() }).spawn().await.unwrap();
    until(&log, "assigned t:0 5").await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(member.assignment().iter().map(|g| (g.partition().partition, g.check())).collect::<Vec<_>>(), vec![(0, Ok(5))]);
    assert_eq!(*log.lock().unwrap(), vec!["assigned t:0 5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hears_nothing_stops_at_its_deadline_and_joins_again() {
    let log = Log::default();
    let events: Arc<Mutex<Vec<Event>>> = Arc::default();
    let (asked, joins) = (Mutex::new(0), log.clone());
    let node = serve(move |_, _, body| {
        if body["member_epoch"] == 0 { joins.lock().unwrap().push(format!("join {}", body["assignment_revision"])); }
        let mut n = asked.lock().unwrap();
        *n += 1;
        match (*n, body["member_epoch"] == 0) {
            (1, _) => picture(1, 10, &[(0, 5)], &[], 600),
            (_, true) => picture(2, 20, &[(0, 15)], &[], 600),
            (_, false) => None,
        }
    }).await;
    let e = events.clone();
    let member = Member::builder([node], "g").topics(["t"]).listener(Notes { log: log.clone(), ..Notes::default() })
        .on_event(move |event| e.lock().unwrap().push(event.clone())).spawn().await.unwrap();
    until(&log, "assigned t:0 5").await;
    let guard = member.guard("t", 0).unwrap();
    let deadline = guard.deadline();
    while guard.check().is_ok() {
        assert!(clock::now() < deadline + 100 * clock::MS);
        sleep(Duration::from_millis(1)).await;
    }
    assert!(clock::now() >= deadline);
    until(&log, "lost t:0").await;
    until(&log, "assigned t:0 15").await;
    assert!(guard.check().is_err(), "an old guard does not come back to life");
    assert_eq!(member.guard("t", 0).unwrap().check(), Ok(15));
    let said = log.lock().unwrap().clone();
    assert!(position(&said, "join 10") > position(&said, "lost"));
    let stopped = events.lock().unwrap().iter().find_map(|e| if let Event::Stopped { at, reason: Reason::Lapsed, token: 5, .. } = e { Some(*at) } else { None });
    assert_eq!(stopped, Some(deadline));
    drop(member);
    assert!(events.lock().unwrap().iter().any(|e| matches!(e, Event::Stopped { token: 15, reason: Reason::Crashed, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_nodes_are_tried_and_the_leader_is_followed() {
    let log = Log::default();
    // One refuses connections, one never answers, one says 503, one names the leader.
    let silent = serve(|_, _, _| None).await;
    let refusing = serve(|_, _, _| problem(503, "UNAVAILABLE")).await;
    let l = log.clone();
    let leader = serve(move |_, path, _| {
        if is_beat(path) { l.lock().unwrap().push("leader".into()); }
        picture(1, 10, &[(0, 5)], &[], 3_000)
    }).await;
    let (l, name) = (log.clone(), leader.clone());
    let follower = serve(move |_, _, _| {
        l.lock().unwrap().push("follower".into());
        picture(1, 10, &[(0, 5)], &[], 3_000).map(|(status, _, body)| (status, format!("x-baton-leader: {name}\r\n"), body))
    }).await;
    let member = Member::builder([dead().await, silent, refusing, follower], "g").topics(["t"]).request_timeout(Duration::from_millis(200)).spawn().await.unwrap();
    timeout(Duration::from_secs(5), member.joined()).await.unwrap();
    until(&log, "leader").await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(log.lock().unwrap().iter().filter(|l| *l == "follower").count(), 1);
    assert_eq!(member.guard("t", 0).unwrap().check(), Ok(5));
}

/// A nemesis found a member that lapsed although the cluster was back for half of its lease: it asked one node after the other, and waited for each that was stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_danger_nodes_that_say_nothing_are_not_waited_for() {
    let (log, up) = (Log::default(), Arc::new(AtomicBool::new(true)));
    // Once it is not up any more, the leader and both of the others but one say nothing; that one is asked last.
    let node = |name: &'static str, always: bool| {
        let (log, up) = (log.clone(), up.clone());
        serve(move |_, _, _| {
            if !always && !up.load(SeqCst) { log.lock().unwrap().push(format!("silence of {name}")); return None; }
            log.lock().unwrap().push(format!("{name} answers"));
            picture(1, 10, &[(0, 5)], &[], 2_000)
        })
    };
    let nodes = [node("a", false).await, node("b", false).await, node("c", true).await];
    let notes = Notes { log: log.clone(), ..Notes::default() };
    let member = Member::builder(nodes, "g").topics(["t"]).listener(notes).request_timeout(Duration::from_millis(1_500)).spawn().await.unwrap();
    until(&log, "assigned t:0 5").await;
    up.store(false, SeqCst);
    until(&log, "c answers").await;
    let seen = log.lock().unwrap().clone();
    let silent = seen.iter().filter(|l| l.starts_with("silence")).count();
    // One unanswered heartbeat to the node that led, then one try that goes from node to node.
    assert!((2..=4).contains(&silent), "{seen:?}");
    sleep(Duration::from_millis(100)).await;
    assert_eq!(member.guard("t", 0).unwrap().check(), Ok(5), "{seen:?}");
    assert!(!log.lock().unwrap().iter().any(|l| l.starts_with("lost")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_member_loses_and_joins_again() {
    let log = Log::default();
    let asked = Mutex::new(0);
    let node = serve(move |_, _, body| {
        let mut n = asked.lock().unwrap();
        *n += 1;
        match (*n, body["member_epoch"] == 0) {
            (1, _) => picture(1, 10, &[(0, 5)], &[], 3_000),
            (_, true) => picture(3, 30, &[(0, 25)], &[], 3_000),
            (..30, false) if body["assignment_revision"] == 10 => problem(404, "UNKNOWN_MEMBER"),
            _ => picture(3, 30, &[(0, 25)], &[], 3_000),
        }
    }).await;
    let _member = Member::builder([node], "g").topics(["t"]).listener(Notes { log: log.clone(), ..Notes::default() }).spawn().await.unwrap();
    until(&log, "assigned t:0 25").await;
    assert_eq!(*log.lock().unwrap(), vec!["assigned t:0 5", "lost t:0", "assigned t:0 25"]);
}
