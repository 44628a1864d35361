//! The API over real connections with a fake node: what is refused, how, and that commands and answers are translated right.

use baton_api::*;
use baton_coordinator::{command::*, ids::*, metadata::*};
use baton_node::{Kind, Metric};
use baton_wire::{ClusterView, Problem, code, hex128};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Remembers what it was asked and answers what it was told to.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Inner>>);
#[derive(Default)]
struct Inner { asked: Vec<(Request, Duration)>, answers: Vec<Result<Response, Refused>>, image: Metadata, hold: Option<Duration>, unready: bool }
impl Fake {
    fn answers(self, a: Result<Response, Refused>) -> Fake { self.0.lock().unwrap().answers.push(a); self }
    fn asked(&self) -> (Request, Duration) { self.0.lock().unwrap().asked.last().expect("something was asked").clone() }
}
impl Backend for Fake {
    async fn request(&self, request: Request, deadline: Duration) -> Result<Response, Refused> {
        let hold = self.0.lock().unwrap().hold;
        if let Some(hold) = hold { tokio::time::sleep(hold).await; }
        let mut i = self.0.lock().unwrap();
        i.asked.push((request, deadline));
        i.answers.pop().unwrap_or_else(|| Err(Refused::Group(GroupError::Unavailable { reason: "the fake has no answer".into() })))
    }
    async fn meta(&self, command: MetaCommand) -> Result<u64, Refused> { self.0.lock().unwrap().image.apply(&command).map_err(Refused::Meta) }
    fn metadata(&self) -> Arc<Metadata> { Arc::new(self.0.lock().unwrap().image.clone()) }
    async fn fresh_metadata(&self) -> Result<Arc<Metadata>, Refused> { Ok(self.metadata()) }
    async fn list_groups(&self) -> GroupList {
        let g = |name: &str, state| GroupItem { group: name.into(), classic: false, state, members: 2, revision: 9 };
        GroupList { groups: vec![g("b", GroupState::Stable), g("a", GroupState::Empty), g("c1", GroupState::Stable)], as_of_index: Some(4) }
    }
    fn cluster(&self) -> ClusterView { ClusterView { node_id: 1, ..Default::default() } }
    fn leader_http(&self, group: Option<&GroupId>) -> Option<String> { Some(group.map_or("meta:1".into(), |g| format!("{g}:2"))) }
    fn ready(&self) -> Result<(), String> { if self.0.lock().unwrap().unready { Err("no leader yet".into()) } else { Ok(()) } }
    fn metrics(&self) -> Vec<Metric> { vec![Metric { name: "baton_x_total", suffix: "", help: "x", kind: Kind::Counter, labels: vec![("shard", "1".into())], value: 3.0 }] }
}

async fn start(fake: &Fake) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, router(fake.clone()), std::future::pending()));
    at
}

struct Answer { status: u16, head: String, body: String }
impl Answer {
    fn json(&self) -> Value { serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body)) }
    fn header(&self, name: &str) -> Option<&str> { self.head.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")) }
    /// Checks everything that all problems have in common.
    fn problem(&self, code: &str) -> Problem {
        let p: Problem = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.body));
        assert_eq!((p.code.as_str(), p.status), (code, self.status), "{p:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        assert!(self.status == 503 || self.header("x-baton-leader").is_some(), "{}", self.head);
        assert!(!p.detail.is_empty() && !p.action.is_empty());
        assert_eq!(self.header("retry-after").is_some(), p.retry_after_ms.is_some());
        p
    }
}

/// The server may answer and close before it has read all of a head that is too large.
async fn raw(at: SocketAddr, text: &[u8]) -> Answer { send(at, text, false).await }
async fn send(at: SocketAddr, text: &[u8], to_the_end: bool) -> Answer {
    let mut s = TcpStream::connect(at).await.unwrap();
    let sent = s.write_all(text).await.and(s.flush().await);
    if to_the_end { sent.expect("nobody resets a client that is still sending its body"); }
    let mut all = vec![];
    let _ = tokio::time::timeout(Duration::from_secs(20), s.read_to_end(&mut all)).await.expect("an answer");
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {all:?}"));
    Answer { status: head[9..12].parse().unwrap(), head: head.into(), body: body.into() }
}
async fn call(at: SocketAddr, method: &str, path: &str, body: &str) -> Answer {
    send(at, format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes(), true).await
}

const HEARTBEAT: &str = "/v1/groups/g/members/m/heartbeat";
fn heartbeat() -> Value { json!({"member_epoch":0,"incarnation":hex128(7),"subscribed_topics":["t"],"owned":[{"topic":"t","partitions":[3,0]}],"assignment_revision":17,"wait_ms":400,"timeout_ms":3000}) }
fn view() -> HeartbeatView {
    HeartbeatView {
        member: "m".into(), member_epoch: 7, group_epoch: 8, member_state: MemberState::UnreleasedPartitions, heartbeat_interval_ms: 1000, session_timeout_ms: 15000,
        lease_ms: 12750, assignment_revision: AssignmentRevision(18), pending_revocation: [Partition::new("t", 3)].into(), taken: Default::default(),
        assignment: Some([(Partition::new("t", 0), FencingToken(5)), (Partition::new("t", 1), FencingToken(6)), (Partition::new("u", 0), FencingToken(7))].into()),
        topic_ids: [("t".into(), 1), ("u".into(), 2)].into(), waited_at_most_ms: 400,
    }
}

#[tokio::test]
async fn a_heartbeat_is_translated_both_ways() {
    let fake = Fake::default().answers(Ok(Response::Heartbeat(view())));
    let at = start(&fake).await;
    let a = call(at, "POST", HEARTBEAT, &heartbeat().to_string()).await;
    assert_eq!(a.status, 200, "{}", a.body);
    assert_eq!(a.header("x-baton-leader"), Some("g:2"));
    assert_eq!(a.json(), json!({"member_id":"m","member_epoch":7,"group_epoch":8,"member_state":"unreleased_partitions","heartbeat_interval_ms":1000,
        "session_timeout_ms":15000,"lease_ms":12750,"assignment_revision":18,"pending_revocation":[{"topic":"t","partitions":[3]}],"taken":[],"waited_at_most_ms":400,
        "assignment":[{"topic":"t","topic_id":hex128(1),"partitions":[{"partition":0,"token":5},{"partition":1,"token":6}]},
            {"topic":"u","topic_id":hex128(2),"partitions":[{"partition":0,"token":7}]}]}));
    let (request, deadline) = fake.asked();
    assert_eq!((request.group.as_str(), request.budget_ms, deadline), ("g", Some(3000), Duration::from_millis(3400)));
    let Command::Heartbeat(h) = request.command else { panic!("{request:?}") };
    assert_eq!(h, Heartbeat {
        member: "m".into(), incarnation: Incarnation(7), subscribed_topics: Some(["t".into()].into()), owned: Some([Partition::new("t", 0), Partition::new("t", 3)].into()),
        assignment_revision: AssignmentRevision(17), wait_ms: 400, ..Default::default()
    });
}

#[tokio::test]
async fn malformed_requests_are_named_and_never_reach_the_node() {
    let fake = Fake::default();
    let at = start(&fake).await;
    for bad in ["", "{", "nonsense", "{\"member_epoch\":0,}", "{} {}", "\u{0}"] {
        let c = if bad == "{} {}" { code::INVALID_FIELD } else { code::INVALID_JSON };
        call(at, "POST", HEARTBEAT, bad).await.problem(c);
    }
    let with = |k: &str, v: Value| { let mut b = heartbeat(); b[k] = v; b.to_string() };
    for (body, name) in [
        (with("memberr", json!(1)), "memberr"), (with("member_epoch", json!("0")), "member_epoch"), (with("member_epoch", json!(5_000_000_000u64)), "member_epoch"),
        (with("incarnation", json!("9f0c")), "incarnation"), (with("owned", json!([{"topic":"t","partitions":[0],"x":1}])), "owned[0]"),
        (with("wait_ms", json!(-1)), "wait_ms"), (with("subscribed_regex", json!(7)), "subscribed_regex"), (with("capacity", json!(-3)), "capacity"), (with("capacity", json!(5_000_000_000u64)), "capacity"),
    ] {
        let p = call(at, "POST", HEARTBEAT, &body).await.problem(code::INVALID_FIELD);
        assert!(p.detail.contains(name) && !p.retriable, "{name}: {}", p.detail);
    }
    for (path, name) in [
        ("/v1/groups/g/members/m", "incarnation"), ("/v1/groups/g/members/m?incarnation=00000000000000000000000000000007", "assignment_revision"),
        ("/v1/groups/g/members/m?assignment_revision=1", "incarnation"), ("/v1/groups/g/members/m?force=true&assignment_revision=1", "force"),
        ("/v1/groups/g/members/m?forced=true", "forced"), ("/v1/groups/g/members/m?force=yes", "force"), ("/v1/groups/g/members/m?static=true&force=true", "static"),
        ("/v1/groups/g/offsets", "topic"), ("/v1/groups/g?force=1", "force"),
    ] {
        let p = call(at, "DELETE", path, "").await.problem(code::INVALID_FIELD);
        assert!(p.detail.contains(name), "{path}: {}", p.detail);
    }
    for (path, name) in [("/v1/groups/g/offsets?partition=1", "topic"), ("/v1/groups/g/history?partition=t", "partition"), ("/v1/groups?state=odd", "state"), ("/v1/topics?type=consumer", "type")] {
        let p = call(at, "GET", path, "").await.problem(code::INVALID_FIELD);
        assert!(p.detail.contains(name), "{path}: {}", p.detail);
    }
    let one = |token: Value, member: Value| json!({"member_id":member,"incarnation":if member.is_null() { Value::Null } else { json!(hex128(1)) },
        "commit_seq":if member.is_null() { Value::Null } else { json!(1) },"offsets":[{"topic":"t","partition":0,"offset":1,"token":token}]}).to_string();
    for body in [one(Value::Null, json!("m")), one(json!(1), Value::Null), json!({"member_id":"m","offsets":[]}).to_string(), json!({"commit_seq":1,"offsets":[]}).to_string()] {
        call(at, "PUT", "/v1/groups/g/offsets", &body).await.problem(code::INVALID_FIELD);
    }
    call(at, "GET", "/v1/groups/%ff", "").await.problem(code::INVALID_REQUEST);
    assert!(fake.0.lock().unwrap().asked.is_empty());
}

#[tokio::test]
async fn what_is_too_large_or_not_there_is_a_problem_too() {
    let fake = Fake::default();
    let at = start(&fake).await;
    let large = format!("{{\"x\":\"{}\"}}", "a".repeat(BODY_MAX));
    call(at, "POST", HEARTBEAT, &large).await.problem(code::BODY_TOO_LARGE);
    let head = format!("POST {HEARTBEAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    raw(at, format!("{head}{:x}\r\n{large}\r\n0\r\n\r\n", large.len()).as_bytes()).await.problem(code::BODY_TOO_LARGE);
    // One far over the limit is refused in words as well, not with a reset connection.
    for _ in 0..20 { call(at, "POST", HEARTBEAT, &"a".repeat(8 * BODY_MAX)).await.problem(code::BODY_TOO_LARGE); }
    raw(at, format!("GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-long: {}\r\n\r\n", "a".repeat(HEADERS_MAX)).as_bytes()).await.problem(code::HEADERS_TOO_LARGE);
    assert_eq!(raw(at, format!("GET /healthz HTTP/1.1\r\nx-long: {}\r\n\r\n", "a".repeat(200 << 10)).as_bytes()).await.status, 431);
    call(at, "GET", "/v2/x", "").await.problem(code::NOT_FOUND);
    call(at, "GET", "/v1/groups/g/events", "").await.problem(code::NOT_FOUND);
    call(at, "PUT", "/v1/groups/g", "").await.problem(code::METHOD_NOT_ALLOWED);
    let many: Vec<Value> = (0..=OFFSETS_MAX).map(|i| json!({"topic":"t","partition":i,"offset":1})).collect();
    let p = call(at, "PUT", "/v1/groups/g/offsets", &json!({"offsets":many}).to_string()).await.problem(code::LIMIT_REACHED);
    assert_eq!(p.limit.as_deref(), Some("offsets a request"));
}

#[tokio::test]
async fn leaves_removals_and_offsets_are_translated() {
    let offset = OffsetView { partition: Partition::new("t", 1), offset: 5, metadata: "x".into(), leader_epoch: None, committed_at_ms: 9 };
    let committed = vec![(Partition::new("t", 0), Ok(())), (Partition::new("t", 1), Err(CommitRefusal::StaleToken))];
    // The fake answers the last first.
    let fake = Fake::default().answers(Ok(Response::OffsetsDeleted { count: 3 })).answers(Ok(Response::Offsets(vec![offset]))).answers(Ok(Response::Committed(committed)))
        .answers(Ok(Response::Removed)).answers(Ok(Response::Left));
    let at = start(&fake).await;
    let leave = format!("/v1/groups/g%20x/members/m%2F1?incarnation={}&assignment_revision=18", hex128(7));
    let a = call(at, "DELETE", &leave, "").await;
    assert_eq!((a.status, a.body.as_str(), a.header("x-baton-leader")), (204, "", Some("g x:2")));
    assert_eq!(fake.asked().0.command, Command::Leave(Leave { member: "m/1".into(), incarnation: Incarnation(7), assignment_revision: AssignmentRevision(18), is_static: false }));
    assert_eq!(call(at, "DELETE", "/v1/groups/g/members/m?force=true", "").await.status, 204);
    assert_eq!(fake.asked().0.command, Command::RemoveMember { member: "m".into() });
    let body = json!({"member_id":"m","incarnation":hex128(7),"commit_seq":3,"offsets":[{"topic":"t","partition":0,"token":4,"offset":5},{"topic":"t","partition":1,"token":4,"offset":6,"metadata":"y","leader_epoch":2}]});
    let a = call(at, "PUT", "/v1/groups/g/offsets", &body.to_string()).await;
    assert_eq!(a.json(), json!({"results":[{"topic":"t","partition":0,"code":null},{"topic":"t","partition":1,"code":"STALE_TOKEN"}]}));
    let Command::Commit(c) = fake.asked().0.command else { panic!() };
    assert_eq!((c.member.unwrap().commit_seq, c.offsets[1].metadata.as_str(), c.offsets[0].token), (3, "y", FencingToken(4)));
    let a = call(at, "GET", "/v1/groups/g/offsets?topic=t&partition=1", "").await;
    assert_eq!(a.json(), json!({"offsets":[{"topic":"t","partition":1,"offset":5,"metadata":"x","leader_epoch":null,"committed_at_ms":9}]}));
    assert_eq!(call(at, "DELETE", "/v1/groups/g/offsets?topic=t", "").await.json(), json!({"count":3}));
}

#[tokio::test]
async fn topics_and_settings_are_read_as_they_were_written() {
    let fake = Fake::default();
    let at = start(&fake).await;
    call(at, "GET", "/v1/topics/orders", "").await.problem(code::UNKNOWN_TOPIC);
    let put = call(at, "PUT", "/v1/topics/orders", "{\"partitions\":12}").await;
    assert_eq!((put.status, put.json()["partitions"].clone()), (200, json!(12)));
    assert_eq!(put.header("x-baton-leader"), Some("meta:1"));
    assert_eq!(call(at, "GET", "/v1/topics/orders", "").await.json(), put.json());
    assert_eq!(call(at, "PUT", "/v1/topics/orders", "{\"partitions\":12}").await.json(), put.json());
    call(at, "PUT", "/v1/topics/orders", "{\"partitions\":3}").await.problem(code::TOPIC_CANNOT_SHRINK);
    call(at, "PUT", "/v1/topics/or%20ders", "{\"partitions\":3}").await.problem(code::INVALID_FIELD);
    assert_eq!(call(at, "GET", "/v1/topics?prefix=or", "").await.json()["items"], json!([put.json()]));
    assert_eq!(call(at, "DELETE", "/v1/topics/orders", "").await.status, 204);
    let config = "/v1/groups/g/config";
    assert_eq!(call(at, "GET", config, "").await.json()["consumer.session.timeout.ms"], 15_000);
    assert_eq!(call(at, "PATCH", config, "{\"consumer.session.timeout.ms\":9000}").await.json()["consumer.session.timeout.ms"], 9_000);
    let p = call(at, "PATCH", config, "{\"consumer.session.timeout.ms\":1}").await.problem(code::INVALID_FIELD);
    assert!(p.detail.contains("consumer.session.timeout.ms"));
    assert!(call(at, "PATCH", config, "{\"session\":1}").await.problem(code::INVALID_FIELD).detail.contains("session"));
    assert_eq!(call(at, "GET", config, "").await.json()["consumer.session.timeout.ms"], 9_000);
    call(at, "PATCH", config, "{\"consumer.session.timeout.ms\":null}").await;
    assert!(fake.metadata().group_configs.is_empty());
}

#[tokio::test]
async fn layouts_and_revisions_travel_both_ways() {
    let fake = Fake::default().answers(Ok(Response::Heartbeat(view())));
    let at = start(&fake).await;
    let declared = call(at, "PUT", "/v1/topics/t", &json!({"partitions":2}).to_string()).await;
    assert_eq!((declared.status, declared.header("x-baton-meta-revision")), (200, Some("1")));
    let layout = json!({"zones":[["north","south"],[]],"weights":[3]});
    let put = call(at, "PUT", "/v1/topics/t/layout", &layout.to_string()).await;
    assert_eq!((put.status, put.header("x-baton-meta-revision"), put.json()), (200, Some("2"), layout.clone()));
    assert_eq!(call(at, "GET", "/v1/topics/t/layout", "").await.json(), layout);
    let p = call(at, "PUT", "/v1/topics/t/layout", &json!({"weights":[1,2,3]}).to_string()).await.problem(code::INVALID_FIELD);
    assert!(p.detail.contains("weights"), "{}", p.detail);
    call(at, "GET", "/v1/topics/none/layout", "").await.problem(code::UNKNOWN_TOPIC);
    let mut body = heartbeat();
    (body["capacity"], body["assignor"]) = (json!(3), json!("weighted"));
    assert_eq!(call(at, "POST", &format!("{HEARTBEAT}?min_meta_revision=2"), &body.to_string()).await.status, 200);
    let (request, _) = fake.asked();
    assert_eq!(request.min_meta_revision, 2);
    let Command::Heartbeat(h) = request.command else { panic!("{request:?}") };
    assert_eq!((h.capacity, h.assignor.as_deref()), (Some(3), Some("weighted")));
}

#[tokio::test]
async fn a_classic_group_is_described_with_its_members_strategy_and_generation() {
    use baton_coordinator::{classic::*, embedded::Assigned};
    let bytes = Assigned { partitions: vec![Partition::new("t", 1)], user_data: None }.encode(3).expect("encodes");
    let member = ClassicMember {
        instance_id: Some("i".into()), client_id: "c".into(), client_host: "h".into(), session_timeout_ms: 6_000, rebalance_timeout_ms: 6_000, protocols: vec![], assignment: Opaque::from(bytes),
    };
    let classic = Classic {
        phase: Phase::Stable, generation: 4, protocol_type: Some("consumer".into()), protocol: Some("range".into()), members: [("m".into(), Arc::new(member))].into(), ..Classic::default()
    };
    let group = GroupView {
        group: "g".into(), state: GroupState::Stable, group_epoch: 1, target_epoch: 1, assignor: "uniform".into(), stuck_because: vec![], quarantined: None, classic: Some(Box::new(classic)), members: vec![],
        holds: vec![], partitions: vec![],
    };
    let fake = Fake::default().answers(Ok(Response::Group(Box::new(group))));
    let at = start(&fake).await;
    let v = call(at, "GET", "/v1/groups/g?min_meta_revision=3", "").await.json();
    assert_eq!((&v["type"], &v["generation"], &v["protocol"], &v["protocol_type"]), (&json!("classic"), &json!(4), &json!("range"), &json!("consumer")));
    assert_eq!((&v["members"][0]["member_id"], &v["members"][0]["instance_id"], &v["members"][0]["assigned"]), (&json!("m"), &json!("i"), &json!([{"topic":"t","partitions":[1]}])));
    assert_eq!(fake.asked().0.min_meta_revision, 3);
}

#[tokio::test]
async fn groups_are_listed_described_and_their_history_is_filtered() {
    let record = |revision, member: &str, p| HistoryRecord {
        revision, at_ms: 1, kind: "joined".into(), cause: "why".into(), member: Some(member.into()), took_ms: None,
        moved: vec![Moved { partition: Partition::new("t", p), from: None, to: Some(member.into()) }],
    };
    let group = GroupView {
        group: "g".into(), state: GroupState::Stable, group_epoch: 3, target_epoch: 3, assignor: "uniform".into(), stuck_because: vec![], quarantined: None, classic: None,
        members: vec![], holds: vec![HoldView { partition: Partition::new("t", 0), member: "m".into(), remaining_ms: 5 }],
        partitions: vec![OwnerView { partition: Partition::new("t", 0), owner: Some("m".into()), token: Some(FencingToken(4)), state: OwnerState::PendingRevocation }],
    };
    let fake = Fake::default().answers(Ok(Response::Deleted)).answers(Ok(Response::History(vec![record(5, "m", 0), record(6, "n", 1)])))
        .answers(Ok(Response::Group(Box::new(group.clone())))).answers(Ok(Response::Group(Box::new(group))));
    let at = start(&fake).await;
    let names = |v: Value| v["items"].as_array().unwrap().iter().map(|g| g["group"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(names(call(at, "GET", "/v1/groups", "").await.json()), ["a", "b", "c1"]);
    assert_eq!(names(call(at, "GET", "/v1/groups?state=stable&type=consumer&page=b", "").await.json()), ["c1"]);
    let v = call(at, "GET", "/v1/groups/g", "").await.json();
    assert_eq!((&v["type"], &v["state"], &v["holds"][0]["remaining_ms"]), (&json!("consumer"), &json!("stable"), &json!(5)));
    assert_eq!(call(at, "GET", "/v1/groups/g/assignment", "").await.json(), json!({"partitions":[{"topic":"t","partition":0,"owner":"m","token":4,"state":"pending_revocation"}]}));
    let v = call(at, "GET", "/v1/groups/g/history?since=5&member=m&partition=t:0", "").await.json();
    assert_eq!((v["records"].as_array().unwrap().len(), &v["next"]), (1, &json!(7)));
    assert_eq!(fake.asked().0.command, Command::History { since: 5 });
    assert_eq!(call(at, "DELETE", "/v1/groups/g?force=true", "").await.status, 204);
    assert_eq!(fake.asked().0.command, Command::DeleteGroup { force: true });
}

#[tokio::test]
async fn health_metrics_and_an_answer_of_the_wrong_kind() {
    let fake = Fake::default().answers(Ok(Response::Left));
    let at = start(&fake).await;
    call(at, "POST", HEARTBEAT, &heartbeat().to_string()).await.problem(code::INTERNAL);
    assert_eq!(call(at, "GET", "/readyz", "").await.status, 200);
    fake.0.lock().unwrap().unready = true;
    assert_eq!(call(at, "GET", "/healthz", "").await.status, 200);
    call(at, "GET", "/readyz", "").await.problem(code::NOT_READY);
    assert!(call(at, "GET", "/metrics", "").await.body.contains("baton_x_total{shard=\"1\"} 3\n"));
    assert_eq!(call(at, "GET", "/v1/cluster", "").await.json()["node_id"], 1);
}

#[tokio::test]
async fn a_refusal_names_the_leader_it_knows() {
    let fake = Fake::default().answers(Err(Refused::Unavailable { reason: "no leader".into(), leader_http: Some("n2:7600".into()), retry_after_ms: 1_500 }));
    let at = start(&fake).await;
    let a = call(at, "POST", HEARTBEAT, &heartbeat().to_string()).await;
    assert_eq!(a.problem(code::UNAVAILABLE).retry_after_ms, Some(1_500));
    assert_eq!((a.header("x-baton-leader"), a.header("retry-after")), (Some("n2:7600"), Some("2")));
    // One that knows no better than to ask again sends nobody to a leader that has just not answered.
    let fake = Fake::default().answers(Err(Refused::Unavailable { reason: "the leader says nothing".into(), leader_http: None, retry_after_ms: 200 }));
    let a = call(start(&fake).await, "POST", HEARTBEAT, &heartbeat().to_string()).await;
    assert_eq!((a.status, a.header("x-baton-leader")), (503, None));
}

#[test]
fn every_refusal_is_in_the_table_and_agrees_with_the_core() {
    use GroupError as G;
    use MetaError as M;
    let group = [
        (G::UnknownGroup { group: "g".into() }, code::UNKNOWN_GROUP), (G::UnknownMember { member: "m".into() }, code::UNKNOWN_MEMBER),
        (G::FencedMemberEpoch { received: 2, stored: 1 }, code::FENCED_MEMBER_EPOCH), (G::FencedIncarnation, code::FENCED_INCARNATION),
        (G::FencedRemoved { remaining_ms: 1 }, code::FENCED_REMOVED), (G::MemberIdInUse { remaining_ms: 1 }, code::MEMBER_ID_IN_USE),
        (G::UnreleasedInstanceId { instance: "i".into(), holder: "m".into() }, code::UNRELEASED_INSTANCE_ID), (G::StaleLeave, code::STALE_LEAVE),
        (G::NonEmptyGroup { members: 1 }, code::NON_EMPTY_GROUP), (G::GroupDraining { holds: 1, remaining_ms: 1 }, code::GROUP_DRAINING),
        (G::SubscribedToTopic { topic: "t".into() }, code::GROUP_SUBSCRIBED_TO_TOPIC), (G::UnsupportedAssignor { name: "a".into() }, code::UNSUPPORTED_ASSIGNOR),
        (G::Invalid { field: "f".into(), detail: "d".into() }, code::INVALID_FIELD), (G::LimitReached { limit: "members".into(), max: 1 }, code::LIMIT_REACHED),
        (G::Classic { code: baton_coordinator::classic::ClassicCode::InconsistentGroupProtocol, member: None }, code::INCONSISTENT_GROUP_PROTOCOL),
        (G::Quarantined { reason: "r".into() }, code::GROUP_QUARANTINED), (G::Unavailable { reason: "r".into() }, code::UNAVAILABLE),
    ];
    for (e, c) in group {
        let p = problem_of(&Refused::Group(e.clone()));
        assert_eq!((p.code.as_str(), p.retriable, &p.detail), (c, e.retriable(), &e.to_string()));
        if p.retriable || p.status == 429 || p.status == 503 { assert!(p.retry_after_ms.is_some(), "{p:?}"); }
        assert_eq!(p.limit.is_some(), p.status == 429);
    }
    let meta = [
        (M::UnknownTopic { name: "t".into() }, code::UNKNOWN_TOPIC), (M::TopicCannotShrink { name: "t".into(), have: 2, asked: 1 }, code::TOPIC_CANNOT_SHRINK),
        (M::Invalid { field: "f".into(), detail: "d".into() }, code::INVALID_FIELD), (M::LimitReached { limit: "topics".into(), max: 1 }, code::LIMIT_REACHED),
        (M::OtherDirectory { node: 1 }, code::NODE_ID_USED), (M::ClusterExists, code::CLUSTER_EXISTS),
    ];
    for (e, c) in meta { assert_eq!(problem_of(&Refused::Meta(e)).code, c); }
    assert_eq!(problem_of(&Refused::Unavailable { reason: "r".into(), leader_http: None, retry_after_ms: 7 }).retry_after_ms, Some(7));
}

#[tokio::test]
async fn every_route_is_served_and_described() {
    let at = start(&Fake::default()).await;
    let doc = call(at, "GET", "/openapi.json", "").await.json();
    assert_eq!(doc, openapi_document());
    let mut described = 0;
    for methods in doc["paths"].as_object().unwrap().values() { described += methods.as_object().unwrap().len(); }
    assert_eq!(described, ROUTES.len());
    for (method, path) in ROUTES {
        let op = &doc["paths"][*path][*method];
        assert!(!op["summary"].as_str().unwrap().is_empty(), "{method} {path}");
        let a = call(at, &method.to_uppercase(), &path.replace(['{', '}'], ""), "").await;
        assert!(a.status != 405 && !a.body.contains("\"code\":\"NOT_FOUND\""), "{method} {path}: {}", a.status);
    }
    // Every reference leads somewhere.
    let text = doc.to_string();
    for part in text.split("#/components/").skip(1) {
        let path = format!("/components/{}", part.split('"').next().unwrap());
        assert!(doc.pointer(&path).is_some(), "{path}");
    }
}

#[tokio::test]
async fn shutdown_lets_a_request_end_and_frees_the_port() {
    let fake = Fake::default().answers(Ok(Response::Heartbeat(view())));
    fake.0.lock().unwrap().hold = Some(Duration::from_millis(300));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(serve(listener, router(fake.clone()), async { let _ = stopped.await; }));
    let _idle = TcpStream::connect(at).await.unwrap();
    let body = heartbeat().to_string();
    // No `connection: close`: the server must close it.
    let request = format!("POST {HEARTBEAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let held = tokio::spawn(async move { raw(at, request.as_bytes()).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    stop.send(()).unwrap();
    assert_eq!(held.await.unwrap().status, 200);
    tokio::time::timeout(Duration::from_secs(2), server).await.expect("stops at once when nothing is under way").unwrap();
    assert!(TcpStream::connect(at).await.is_err());
}

#[tokio::test]
async fn a_connection_too_many_is_told_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(serve_limited(listener, router(Fake::default()), std::future::pending(), 1));
    let first = TcpStream::connect(at).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut second = TcpStream::connect(at).await.unwrap();
    let mut text = String::new();
    second.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains(code::TOO_MANY_CONNECTIONS), "{text}");
    drop(first);
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut s = TcpStream::connect(at).await.unwrap();
        s.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        if s.read_to_string(&mut text).await.is_ok() && text.starts_with("HTTP/1.1 200") { return; }
    }
    panic!("the slot was not given back");
}
