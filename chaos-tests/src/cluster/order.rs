//! What members, administrators and readers asked over the wire and what they were told, written down for the judge of order (`linear`): offsets by
//! partition, topics, whether groups exist, and their sessions.
//!
//! Every try of every caller is a call of its own, copies by the network too: one that nobody answered, or with "unavailable", may be carried out at any
//! later time, or never. So nothing here knows of retries, and who answered, a leader, a follower or one that was deposed, does not matter.

use super::world::World;
use baton_client::{http::Reply, tap::{Notes, Sent}};
use baton_coordinator::command::CommitRefusal;
use baton_invariants::{Verdict, answers, linear::{Report, groups::{self, Groups}, history::{CallId, History}, monotone::{Floor, Monotone}, offsets::{self, Offsets, Value}, settings::{self, Settings}, topics::{self, Topics}}};
use baton_wire::{CommitRequest, CommitResponse, OffsetsResponse, Problem, code};
use serde_json::Value as Json;
use std::{collections::{BTreeMap, BTreeSet}, sync::Weak};

/// A place is a partition of a group, as text; topics, groups and settings go by their names.
#[derive(Default)]
pub struct Order {
    offsets: History<String, Offsets>,
    topics: History<String, Topics>,
    groups: History<String, Groups>,
    sessions: History<String, Settings>,
    /// What members were told by their heartbeats, (assignment revision, epoch) by (group, member, incarnation): it never goes back.
    told: Monotone<Life, (u64, i64)>,
    places: BTreeSet<String>,
    /// Commits of members that were asked for: the greatest number by place and token.
    numbers: BTreeMap<(String, u64), u64>,
    open: BTreeMap<u64, Vec<Noted>>,
    next: u64,
}

type Life = (String, String, String);

/// What a request is a call to.
enum Noted {
    /// Of this place; of a member: under which token, and which number it has.
    Commit(CallId, String, Option<(u64, u64)>),
    /// Of this place.
    Fetch(CallId, String),
    /// All or nothing: a deletion.
    Clear(CallId),
    Topic(CallId),
    /// A look at a topic.
    Partitions(CallId),
    Group(CallId),
    /// A look at a group.
    Exists(CallId),
    Session(CallId),
    /// A look at a session.
    Lasts(CallId),
    Heartbeat(Life, Floor<(u64, i64)>),
}

fn place(group: &str, topic: &str, partition: i32) -> String { format!("{group}/{topic}:{partition}") }
fn value(offset: i64, metadata: Option<String>) -> Value { Value { offset, metadata: metadata.unwrap_or_default() } }

impl Order {
    /// A request may be carried out from now on. None: it is of no interest.
    fn asked(&mut self, now: u64, sent: &Sent) -> Option<u64> {
        let (path, query) = sent.path.split_once('?').unwrap_or((sent.path, ""));
        let of = |name: &str| query.split('&').find_map(|q| q.strip_prefix(name)?.strip_prefix('='));
        let body = || sent.body.and_then(|b| serde_json::from_slice::<Json>(b).ok()).unwrap_or(Json::Null);
        let words: Vec<&str> = path.trim_start_matches('/').split('/').skip(1).collect();
        let mut noted = Vec::new();
        match (sent.method.as_str(), &words[..]) {
            ("PUT", ["groups", g, "offsets"]) => {
                let request: CommitRequest = serde_json::from_slice(sent.body?).ok()?;
                if request.member_id.is_none() { noted.push(Noted::Group(self.groups.called(now, g.to_string(), groups::Op::Make))); }
                for o in request.offsets {
                    let place = place(g, &o.topic, o.partition);
                    let of = o.token.zip(request.commit_seq);
                    let op = match of {
                        Some((token, seq)) => offsets::Op::Commit { token, seq, value: value(o.offset, o.metadata) },
                        None => offsets::Op::Set { value: value(o.offset, o.metadata) },
                    };
                    if let Some((token, seq)) = of {
                        let greatest = self.numbers.entry((place.clone(), token)).or_default();
                        *greatest = (*greatest).max(seq);
                    }
                    self.places.insert(place.clone());
                    noted.push(Noted::Commit(self.offsets.called(now, place.clone(), op), place, of));
                }
            }
            ("GET", ["groups", g, "offsets"]) => {
                let one = of("topic").zip(of("partition")).and_then(|(t, p)| Some(place(g, t, p.parse().ok()?)));
                let within = format!("{g}/");
                let wanted = if let Some(one) = one { vec![one] } else { self.places.iter().filter(|p| p.starts_with(&within)).cloned().collect() };
                noted.extend(wanted.into_iter().map(|p| Noted::Fetch(self.offsets.called(now, p.clone(), offsets::Op::Fetch { found: None }), p)));
            }
            ("DELETE", ["groups", g, "offsets"]) => {
                let within = format!("{g}/{}:", of("topic")?);
                noted.push(Noted::Clear(self.offsets.called_for_all(now, move |p: &String| p.starts_with(&within), offsets::Op::Clear)));
            }
            ("DELETE", ["groups", g]) => {
                let within = format!("{g}/");
                noted.push(Noted::Clear(self.offsets.called_for_all(now, move |p: &String| p.starts_with(&within), offsets::Op::Clear)));
                noted.push(Noted::Group(self.groups.called(now, g.to_string(), groups::Op::Delete)));
            }
            ("GET", ["groups", g]) => noted.push(Noted::Exists(self.groups.called(now, g.to_string(), groups::Op::Look { found: true }))),
            ("POST", ["groups", g, "members", m, "heartbeat"]) => {
                let body = body();
                if body["member_epoch"] == 0 { noted.push(Noted::Group(self.groups.called(now, g.to_string(), groups::Op::Make))); }
                let life = (g.to_string(), m.to_string(), body["incarnation"].as_str()?.to_string());
                let floor = self.told.ask(&life);
                noted.push(Noted::Heartbeat(life, floor));
            }
            ("PATCH", ["groups", g, "config"]) => {
                let ms = body()["consumer.session.timeout.ms"].as_u64()?;
                noted.push(Noted::Session(self.sessions.called(now, g.to_string(), settings::Op::Set(ms))));
            }
            ("GET", ["groups", g, "config"]) => noted.push(Noted::Lasts(self.sessions.called(now, g.to_string(), settings::Op::Get { found: 0 }))),
            ("PUT", ["topics", t]) => {
                let partitions = body()["partitions"].as_i64()? as i32;
                noted.push(Noted::Topic(self.topics.called(now, t.to_string(), topics::Op::Declare { partitions })));
            }
            ("DELETE", ["topics", t]) => {
                noted.push(Noted::Topic(self.topics.called(now, t.to_string(), topics::Op::Delete)));
                // Some time later its offsets go, and those that come until then.
                let within = format!("/{t}:");
                let gone = self.offsets.called_for_all(now, move |p: &String| p.contains(&within), offsets::Op::Clear);
                self.offsets.repeats(gone);
            }
            ("GET", ["topics", t]) => noted.push(Noted::Partitions(self.topics.called(now, t.to_string(), topics::Op::Get { found: None }))),
            _ => return None,
        }
        self.next += 1;
        self.open.insert(self.next, noted);
        Some(self.next)
    }

    /// The answer was heard.
    fn answered(&mut self, now: u64, number: u64, answer: &Reply) -> Verdict {
        let Some(noted) = self.open.remove(&number) else { return Ok(()) };
        // It says nothing: whatever was asked may still be carried out.
        if answer.status >= 500 { return Ok(()); }
        let fine = answer.is_success();
        let code = if fine { String::new() } else { serde_json::from_slice::<Problem>(&answer.body).map(|p| p.code).unwrap_or_default() };
        let json = || serde_json::from_slice::<Json>(&answer.body).unwrap_or(Json::Null);
        let results = || serde_json::from_slice::<CommitResponse>(&answer.body).map(|r| r.results).unwrap_or_default();
        let found = || serde_json::from_slice::<OffsetsResponse>(&answer.body).map(|r| r.offsets).unwrap_or_default();
        // The results of a commit are in the order of its offsets.
        let mut refusals = if fine && noted.iter().any(|n| matches!(n, Noted::Commit(..))) { results() } else { Vec::new() }.into_iter().map(|r| r.code);
        let offsets = if fine && noted.iter().any(|n| matches!(n, Noted::Fetch(..))) { found() } else { Vec::new() };
        for n in noted {
            match n {
                Noted::Commit(id, ..) if !fine => self.offsets.refused(id),
                Noted::Commit(id, place, of) => match refusals.next() {
                    Some(None) => self.offsets.returned(id, now),
                    refusal => {
                        self.offsets.refused(id);
                        if let (Some(Some(code)), Some((token, seq))) = (refusal, of) && code == code::STALE_COMMIT {
                            let greatest = self.numbers.get(&(place.clone(), token)).copied().unwrap_or_default();
                            answers::commit_refused(&place, CommitRefusal::StaleCommit, true, greatest > seq)?;
                        }
                    }
                },
                Noted::Clear(id) if !fine => self.offsets.refused(id),
                Noted::Clear(id) => self.offsets.returned(id, now),
                Noted::Fetch(id, p) if fine || code == code::UNKNOWN_GROUP => {
                    let group = p.split('/').next().unwrap_or_default();
                    let found = offsets.iter().find(|o| place(group, &o.topic, o.partition) == p).map(|o| Value { offset: o.offset, metadata: o.metadata.clone() });
                    self.offsets.answered(id, now, offsets::Op::Fetch { found });
                }
                Noted::Fetch(id, _) => self.offsets.refused(id),
                Noted::Topic(id) if fine => self.topics.returned(id, now),
                Noted::Partitions(id) if fine => self.topics.answered(id, now, topics::Op::Get { found: json()["partitions"].as_i64().map(|n| n as i32) }),
                Noted::Topic(id) | Noted::Partitions(id) if code == code::UNKNOWN_TOPIC => self.topics.answered(id, now, topics::Op::Get { found: None }),
                Noted::Topic(id) | Noted::Partitions(id) => self.topics.refused(id),
                Noted::Group(id) | Noted::Exists(id) if fine => self.groups.returned(id, now),
                Noted::Group(id) | Noted::Exists(id) if code == code::UNKNOWN_GROUP => self.groups.answered(id, now, groups::Op::Look { found: false }),
                Noted::Group(id) | Noted::Exists(id) => self.groups.refused(id),
                Noted::Session(id) if fine => self.sessions.returned(id, now),
                Noted::Lasts(id) if fine => self.sessions.answered(id, now, settings::Op::Get { found: json()["consumer.session.timeout.ms"].as_u64().unwrap_or(0) }),
                Noted::Session(id) | Noted::Lasts(id) => self.sessions.refused(id),
                Noted::Heartbeat(life, floor) if fine => {
                    let told = json();
                    self.told.answered(&life, &floor, (told["assignment_revision"].as_u64().unwrap_or(0), told["member_epoch"].as_i64().unwrap_or(0)))?;
                }
                Noted::Heartbeat(..) => {}
            }
        }
        Ok(())
    }

    /// Whether all calls have an order. What was looked at is in the report.
    pub fn check(&self) -> (Report, Verdict) {
        let parts = [self.offsets.check(), self.topics.check(), self.groups.check(), self.sessions.check()];
        let (mut report, mut first) = (Report::default(), (u64::MAX, Ok(())));
        for (r, verdict) in parts {
            let at = r.broke.unwrap_or(u64::MAX);
            report += r;
            if at < first.0 { first = (at, verdict); }
        }
        (report, first.1)
    }
}

/// Writes down what the clients of a world ask.
pub struct Clerk(pub Weak<World>);
impl Notes for Clerk {
    fn asked(&self, sent: &Sent) -> Option<u64> {
        let world = self.0.upgrade()?;
        let now = world.now_ns();
        world.seen().order.asked(now, sent)
    }
    fn answered(&self, number: u64, answer: &Reply) {
        let Some(world) = self.0.upgrade() else { return };
        let now = world.now_ns();
        let verdict = world.seen().order.answered(now, number, answer);
        world.verdict(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(o: &mut Order, now: u64, method: &str, path: &str, body: &str) -> u64 {
        let method = method.parse().unwrap();
        o.asked(now, &Sent { addr: "a:1", method: &method, path, body: Some(body.as_bytes()) }).unwrap()
    }
    fn tell(o: &mut Order, now: u64, number: u64, status: u16, body: &str) -> Verdict { o.answered(now, number, &Reply { status, leader: None, body: body.to_string().into() }) }
    fn fetch(o: &mut Order, at: u64, found: Option<i64>) {
        let number = ask(o, at, "GET", "/v1/groups/g/offsets?topic=t&partition=0", "");
        let found = found.map(|n| format!(r#"{{"topic":"t","partition":0,"offset":{n},"metadata":"","committed_at_ms":0}}"#)).unwrap_or_default();
        tell(o, at + 1, number, 200, &format!(r#"{{"offsets":[{found}]}}"#)).unwrap();
    }
    fn broken(o: &Order) -> bool { o.check().1.is_err_and(|b| b.invariant == "linearizable") }

    const JOIN: &str = r#"{"member_epoch":0,"incarnation":"01"}"#;

    #[test]
    fn a_member_is_never_told_less_than_before() {
        let mut o = Order::default();
        let beat = |o: &mut Order| ask(o, 1, "POST", "/v1/groups/g/members/m/heartbeat", JOIN);
        let (first, second) = (beat(&mut o), beat(&mut o));
        tell(&mut o, 2, second, 200, r#"{"assignment_revision":9,"member_epoch":2}"#).unwrap();
        tell(&mut o, 3, first, 200, r#"{"assignment_revision":7,"member_epoch":1}"#).unwrap();
        let later = beat(&mut o);
        assert!(tell(&mut o, 4, later, 200, r#"{"assignment_revision":7,"member_epoch":2}"#).is_err_and(|b| b.invariant == "linearizable"));
    }

    #[test]
    fn what_is_asked_over_the_wire_is_judged() {
        let commit = r#"{"member_id":"m","incarnation":"00000000000000000000000000000001","commit_seq":1,"offsets":[{"topic":"t","partition":0,"token":5,"offset":7}]}"#;
        let taken = r#"{"results":[{"topic":"t","partition":0,"code":null}]}"#;
        let mut o = Order::default();
        let number = ask(&mut o, 1, "PUT", "/v1/groups/g/offsets", commit);
        tell(&mut o, 2, number, 200, taken).unwrap();
        // A copy of it, much later: nobody hears its answer, and it is the same commit.
        ask(&mut o, 10, "PUT", "/v1/groups/g/offsets", commit);
        fetch(&mut o, 12, Some(7));
        assert!(!broken(&o));
        fetch(&mut o, 14, None);
        assert!(broken(&o));
        assert_eq!(o.check().0.broke, Some(15));
    }

    #[test]
    fn deletions_topics_groups_and_settings_are_judged() {
        let mut o = Order::default();
        let mut quick = |at, method: &str, path: &str, body: &str, status, answer: &str| { let n = ask(&mut o, at, method, path, body); tell(&mut o, at + 1, n, status, answer).unwrap(); };
        quick(1, "POST", "/v1/groups/g/members/m/heartbeat", JOIN, 200, "{}");
        quick(3, "GET", "/v1/groups/g", "", 200, "{}");
        quick(5, "DELETE", "/v1/groups/g", "", 204, "");
        quick(7, "GET", "/v1/groups/g", "", 404, r#"{"type":"","title":"","status":404,"detail":"","action":"","code":"UNKNOWN_GROUP","retriable":false}"#);
        quick(9, "PUT", "/v1/topics/t", r#"{"partitions":3}"#, 200, "{}");
        quick(11, "GET", "/v1/topics/t", "", 200, r#"{"partitions":3}"#);
        quick(13, "PATCH", "/v1/groups/g/config", r#"{"consumer.session.timeout.ms":4000}"#, 200, "{}");
        quick(15, "GET", "/v1/groups/g/config", "", 200, r#"{"consumer.session.timeout.ms":4000}"#);
        let (report, verdict) = o.check();
        assert_eq!((verdict, report.objects, report.undecided.len()), (Ok(()), 3, 0));
        for (path, answer) in [("/v1/groups/g", "{}"), ("/v1/topics/t", r#"{"partitions":2}"#), ("/v1/groups/g/config", r#"{"consumer.session.timeout.ms":9}"#)] {
            let n = ask(&mut o, 20, "GET", path, "");
            tell(&mut o, 21, n, 200, answer).unwrap();
            assert!(broken(&o), "{path}");
            // Not heard, it says nothing.
            o = Order::default();
            for (at, method, path, body) in [(1, "POST", "/v1/groups/g/members/m/heartbeat", JOIN), (5, "DELETE", "/v1/groups/g", ""), (9, "PUT", "/v1/topics/t", r#"{"partitions":3}"#), (13, "PATCH", "/v1/groups/g/config", r#"{"consumer.session.timeout.ms":4000}"#)] {
                let n = ask(&mut o, at, method, path, body);
                tell(&mut o, at + 1, n, 200, "{}").unwrap();
            }
            assert!(!broken(&o));
        }
    }
}
