//! A worker process of the real-process run: some members that write to a sink, commit, and write down what they believe.
//! The members are a small model of a conforming one over plain HTTP, apart from the client library, so that one mistake cannot hide in both.
//! SIGTERM: the members leave, then it ends with 0.

use anyhow::{Result, bail};
use baton_chaos_tests::processes::{http::{boottime_ns, call}, worker::{Log, Options, asked_to_leave, leave_on_term}};
use baton_invariants::belief::{Record, Told};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

/// For one request; well below the lease, so that the next node gets its chance.
const PATIENCE: Duration = Duration::from_millis(1_200);

fn main() -> Result<()> {
    leave_on_term();
    let o = Options::parse(std::env::args().skip(1))?;
    let log = Log::open(&o.file)?;
    let members: Vec<_> = (0..o.members).map(|i| { let (o, log) = (o.clone(), log.clone()); std::thread::spawn(move || Member::new(o, i, log)?.run()) }).collect();
    for m in members { match m.join() { Ok(end) => end?, Err(_) => bail!("a member panicked") } }
    Ok(())
}

/// One look at one node.
fn call_once(server: &str, path: &str) -> std::io::Result<(u16, String, String)> { call(server, "GET", path, "", PATIENCE) }

struct Held { token: u64, registered: bool, written: i64, acked: i64 }

struct Member {
    o: Options,
    /// Its name in the records; the same over all its lives.
    label: String,
    /// New with each life.
    id: String,
    incarnation: String,
    lives: u32,
    log: Log,
    sink: BufReader<TcpStream>,
    server: usize,
    epoch: i64,
    revision: u64,
    /// On the clock of `boottime_ns`; 0: no lease.
    deadline: u64,
    commit_seq: u64,
    /// Commits and fetches of all its lives.
    calls: u64,
    held: BTreeMap<i64, Held>,
}

impl Member {
    fn new(o: Options, i: usize, log: Log) -> Result<Member> {
        let stream = TcpStream::connect(&o.sink)?;
        stream.set_nodelay(true)?;
        let mut m = Member {
            label: format!("{}-{i}", o.name), id: String::new(), incarnation: String::new(), lives: 0, log, sink: BufReader::new(stream), server: i % o.servers.len().max(1), epoch: 0,
            revision: 0, deadline: 0, commit_seq: 0, calls: 0, held: BTreeMap::new(), o,
        };
        m.new_life()?;
        Ok(m)
    }

    /// Another member id and incarnation: nothing that is still on its way for the old ones can be taken for ours.
    fn new_life(&mut self) -> Result<()> {
        let mut random = [0u8; 16];
        File::open("/dev/urandom")?.read_exact(&mut random)?;
        self.lives += 1;
        self.id = format!("{}.{}", self.label, self.lives);
        self.incarnation = random.iter().map(|b| format!("{b:02x}")).collect();
        (self.epoch, self.revision, self.deadline, self.commit_seq) = (0, 0, 0, 0);
        Ok(())
    }

    fn run(mut self) -> Result<()> {
        let (mut work_at, mut beat_at, mut commit_at) = (Instant::now(), Instant::now(), Instant::now() + self.o.commit_every);
        while !asked_to_leave() {
            if Instant::now() >= work_at { self.work()?; work_at = Instant::now() + self.o.turn; }
            if Instant::now() >= beat_at { beat_at = Instant::now() + self.beat()?; }
            if Instant::now() >= commit_at { self.commit(); self.fetch(); commit_at = Instant::now() + self.o.commit_every; }
            std::thread::sleep(work_at.min(beat_at).min(commit_at).saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
        }
        self.stop(|_| true);
        for _ in 0..5 { if self.epoch == 0 || self.leave() { break; } }
        Ok(())
    }

    /// The guard: asked before each use.
    fn may_use(&self) -> bool { self.o.no_guard || boottime_ns() < self.deadline }

    fn record(&self, n: i64) -> (u64, String, String) { (boottime_ns(), self.label.clone(), format!("{}:{n}", self.o.topic)) }

    /// Stops using the partitions that `which` names. True if there were any.
    fn stop(&mut self, which: impl Fn(i64) -> bool) -> bool {
        let gone: Vec<i64> = self.held.keys().copied().filter(|n| which(*n)).collect();
        for n in &gone {
            let Some(h) = self.held.remove(n) else { continue };
            let (at, member, partition) = self.record(*n);
            self.log.put(Record::Stop { at, member, partition, token: h.token });
        }
        !gone.is_empty()
    }

    /// One write to each partition it holds; a partition is registered under its token first.
    fn work(&mut self) -> Result<()> {
        for n in self.held.keys().copied().collect::<Vec<_>>() {
            let Some((token, registered)) = self.held.get(&n).map(|h| (h.token, h.registered)) else { continue };
            // The time is taken before the guard is asked: what happens from here on was begun under the lease.
            let (at, member, partition) = self.record(n);
            if !self.may_use() { break; }
            self.log.put(Record::Use { at, member, partition: partition.clone(), token });
            let verb = if registered { "write" } else { "register" };
            let answer = self.ask_sink(&format!("{verb} {partition} "), &format!("{token} {}\n", self.label))?;
            let count = answer.strip_prefix("ok ").and_then(|c| c.parse::<i64>().ok());
            match (self.held.get_mut(&n), count) {
                (Some(h), Some(_)) if !registered => h.registered = true,
                (Some(h), Some(count)) => h.written = count,
                _ => {}
            }
        }
        Ok(())
    }

    fn ask_sink(&mut self, first: &str, second: &str) -> Result<String> {
        if self.o.slow_write.is_zero() {
            self.sink.get_mut().write_all(format!("{first}{second}").as_bytes())?;
        } else {
            self.sink.get_mut().write_all(first.as_bytes())?;
            std::thread::sleep(self.o.slow_write);
            self.sink.get_mut().write_all(second.as_bytes())?;
        }
        let mut line = String::new();
        self.sink.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }

    /// One heartbeat. When the next is due.
    fn beat(&mut self) -> Result<Duration> {
        if !self.o.no_guard && boottime_ns() >= self.deadline {
            self.stop(|_| true);
            self.epoch = 0;
        }
        let owned: Vec<i64> = self.held.keys().copied().collect();
        let mut body = json!({"member_epoch": self.epoch, "incarnation": self.incarnation, "assignment_revision": self.revision, "timeout_ms": PATIENCE.as_millis() as u64,
            "owned": if owned.is_empty() { json!([]) } else { json!([{"topic": self.o.topic, "partitions": owned}]) }});
        if self.epoch == 0 {
            body["subscribed_topics"] = json!([self.o.topic]);
            body["rebalance_timeout_ms"] = json!(20_000);
        }
        let sent = boottime_ns();
        let (status, answer) = match self.call("POST", &format!("/v1/groups/{}/members/{}/heartbeat", self.o.group, self.id), &body.to_string()) {
            Some(a) => a,
            None => return Ok(Duration::from_millis(50)),
        };
        match (status, answer["code"].as_str().unwrap_or("")) {
            (200, _) => Ok(self.apply(sent, &answer)),
            (404, "UNKNOWN_MEMBER" | "UNKNOWN_MEMBER_ID" | "UNKNOWN_GROUP") | (409, _) => {
                eprintln!("{}: {answer}", self.id);
                self.stop(|_| true);
                self.leave();
                self.new_life()?;
                Ok(Duration::ZERO)
            }
            (400, _) => bail!("{}: {answer}", self.id),
            _ => Ok(Duration::from_millis(100)),
        }
    }

    fn apply(&mut self, sent: u64, a: &Value) -> Duration {
        let now = boottime_ns();
        let revision = a["assignment_revision"].as_u64().unwrap_or(0);
        let late = self.deadline > 0 && now >= self.deadline && self.epoch > 0;
        if revision < self.revision || (late && !self.o.no_guard) { return Duration::ZERO; }
        let deadline = sent + a["lease_ms"].as_u64().unwrap_or(0) * 1_000_000;
        if now >= deadline { return Duration::ZERO; }
        self.epoch = a["member_epoch"].as_i64().unwrap_or(0);
        self.deadline = self.deadline.max(deadline);
        self.log.put(Record::Lease { at: now, member: self.label.clone(), deadline: self.deadline });
        let mut changed = false;
        let named = |v: &Value, n: i64| v.as_array().into_iter().flatten().any(|t| t["partitions"].as_array().into_iter().flatten().any(|p| p.as_i64() == Some(n)));
        changed |= self.stop(|n| named(&a["pending_revocation"], n) || named(&a["taken"], n));
        if let Some(topics) = a["assignment"].as_array() {
            let granted: BTreeMap<i64, u64> = topics.iter().flat_map(|t| t["partitions"].as_array().cloned().unwrap_or_default()).filter_map(|p| Some((p["partition"].as_i64()?, p["token"].as_u64()?)))
                .filter(|(n, _)| !named(&a["pending_revocation"], *n) && !named(&a["taken"], *n)).collect();
            let stale: Vec<i64> = self.held.iter().filter(|(n, h)| granted.get(n) != Some(&h.token)).map(|(n, _)| *n).collect();
            changed |= self.stop(|n| stale.contains(&n));
            for (n, token) in granted {
                if self.held.contains_key(&n) { continue; }
                let (at, member, partition) = self.record(n);
                self.log.put(Record::Grant { at, member, partition, token });
                self.held.insert(n, Held { token, registered: false, written: 0, acked: 0 });
                changed = true;
            }
        }
        changed |= revision > self.revision;
        self.revision = revision;
        if changed { Duration::ZERO } else { Duration::from_millis(a["heartbeat_interval_ms"].as_u64().unwrap_or(1000).min(2000)) }
    }

    fn commit(&mut self) {
        if !self.may_use() { return; }
        let offsets: Vec<(i64, u64, i64)> = self.held.iter().filter(|(_, h)| h.written > h.acked).map(|(n, h)| (*n, h.token, h.written)).collect();
        if offsets.is_empty() { return; }
        self.commit_seq += 1;
        self.calls += 1;
        let call = self.calls;
        for (n, token, offset) in &offsets {
            let (at, member, partition) = self.record(*n);
            self.log.put(Record::Commits { at, member, call, partition, token: *token, seq: call, offset: *offset });
        }
        let body = json!({"member_id": self.id, "incarnation": self.incarnation, "commit_seq": self.commit_seq, "timeout_ms": PATIENCE.as_millis() as u64,
            "offsets": offsets.iter().map(|(n, token, offset)| json!({"topic": self.o.topic, "partition": n, "token": token, "offset": offset})).collect::<Vec<_>>()});
        let Some((200, answer)) = self.call("PUT", &format!("/v1/groups/{}/offsets", self.o.group), &body.to_string()) else { return };
        for ((n, token, offset), result) in offsets.into_iter().zip(answer["results"].as_array().into_iter().flatten()) {
            let (at, member, partition) = self.record(n);
            let told = if result["code"].is_null() { Told::Taken } else { Told::Refused };
            self.log.put(Record::Told { at, member: member.clone(), call, partition: partition.clone(), told });
            if told == Told::Refused { continue; }
            self.log.put(Record::Acked { at, member, partition, token, offset });
            if let Some(h) = self.held.get_mut(&n) { h.acked = offset; }
        }
    }

    /// Asks for a position, of any node: one that does not lead must not answer with less.
    fn fetch(&mut self) {
        self.calls += 1;
        let call = self.calls;
        let Some(n) = self.held.keys().nth(call as usize / 2 % self.held.len().max(1)).copied() else { return };
        let (at, member, partition) = self.record(n);
        self.log.put(Record::Fetches { at, member: member.clone(), call, partition: partition.clone() });
        let server = &self.o.servers[call as usize % self.o.servers.len()];
        let path = format!("/v1/groups/{}/offsets?topic={}&partition={n}", self.o.group, self.o.topic);
        let Ok((200, _, body)) = call_once(server, &path) else { return };
        let Ok(answer) = serde_json::from_str::<Value>(&body) else { return };
        let told = answer["offsets"][0]["offset"].as_i64().map_or(Told::None, Told::Found);
        self.log.put(Record::Told { at: boottime_ns(), member, call, partition, told });
    }

    fn leave(&mut self) -> bool {
        let path = format!("/v1/groups/{}/members/{}?incarnation={}&assignment_revision={}", self.o.group, self.id, self.incarnation, self.revision);
        matches!(self.call("DELETE", &path, ""), Some((200..=499, _)))
    }

    /// Asks the server that answered last, and goes to the leader it names. None: no answer; the next call asks another.
    fn call(&mut self, method: &str, path: &str, body: &str) -> Option<(u16, Value)> {
        match call(&self.o.servers[self.server], method, path, body, PATIENCE) {
            Ok((status, head, body)) if status < 500 => {
                let leader = head.lines().find_map(|l| l.strip_prefix("x-baton-leader:")).map(str::trim);
                if let Some(i) = self.o.servers.iter().position(|s| Some(s.as_str()) == leader) { self.server = i; }
                Some((status, serde_json::from_str(&body).unwrap_or(Value::Null)))
            }
            _ => { self.server = (self.server + 1) % self.o.servers.len(); None }
        }
    }
}
