//! A worker process of the real-process run: members of the client library that write to a sink, commit, and write down what they believe.
//! What they believe is what the library says through its events; the worker adds each use and each acknowledged commit.
//! SIGTERM: the members leave, then it ends with 0.

use anyhow::{Context, Result};
use baton_chaos_tests::processes::worker::{Log, Options, asked_to_leave, leave_on_term};
use baton_invariants::belief::{Record, Told};
use baton_client::{Event, Guard, Listener, Member, Reason, clock};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::Mutex,
    time::{Instant, sleep},
};

/// Given to one commit, over all nodes.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many commits of a member for one fetch.
const FETCH_EVERY: u64 = 3;

/// Writes down what the library says of its beliefs, under the name that is the same over all lives of the member.
fn note(log: &Log, member: &str, event: &Event) {
    let member = member.to_string();
    if let Event::Stopped { at, reason, .. } = event && !matches!(reason, Reason::Revoked | Reason::Crashed) {
        log.put(Record::Fenced { at: *at, member: member.clone(), why: format!("{reason:?}") });
    }
    match event {
        Event::Granted { partition, token, at } => log.put(Record::Grant { at: *at, member, partition: partition.to_string(), token: *token }),
        // The judge finds the lapse itself, from the leases: it shall not take the library's word for it.
        Event::Stopped { partition, reason: Reason::Lapsed, .. } => eprintln!("{member} let {partition} lapse"),
        Event::Stopped { partition, token, at, .. } => log.put(Record::Stop { at: *at, member, partition: partition.to_string(), token: *token }),
        Event::Lease { at, deadline } => log.put(Record::Lease { at: *at, member, deadline: *deadline }),
        Event::Joined { member_id, .. } => eprintln!("{member} joined as {member_id}"),
        Event::Refused { code, .. } => eprintln!("{member} is refused: {code}"),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    leave_on_term();
    let o = Options::parse(std::env::args().skip(1))?;
    let log = Log::open(&o.file)?;
    let members: Vec<_> = (0..o.members).map(|i| tokio::spawn(run(o.clone(), i, log.clone()))).collect();
    for m in members {
        m.await.context("a member panicked")??;
    }
    Ok(())
}

/// Waits, when partitions are asked back, until the write that is under way has ended.
struct Finish(Arc<Mutex<Sink>>);
impl Listener for Finish {
    async fn on_revoked(&self, _: &[Guard]) { drop(self.0.lock().await); }
}

/// What was done under one token.
#[derive(Default)]
struct Work { token: u64, registered: bool, written: i64, acked: i64 }

async fn run(o: Options, i: usize, log: Log) -> Result<()> {
    let label = format!("{}-{i}", o.name);
    let stream = TcpStream::connect(&o.sink).await?;
    stream.set_nodelay(true)?;
    let sink = Arc::new(Mutex::new(Sink { stream: BufReader::new(stream), slow: o.slow_write }));
    let (events, name) = (log.clone(), label.clone());
    let mut servers = o.servers.clone();
    let turn = i % servers.len().max(1);
    servers.rotate_left(turn);
    let member = Member::builder(servers, o.group.clone())
        .topics([o.topic.clone()])
        .rebalance_timeout(Duration::from_secs(20))
        .long_poll(Duration::from_secs(1))
        .self_fencing(!o.no_guard)
        .on_event(move |e| note(&events, &name, e))
        .listener(Finish(sink.clone()))
        .spawn()
        .await?;
    let mut work: BTreeMap<i32, Work> = BTreeMap::new();
    let (mut commit_at, mut calls) = (Instant::now() + o.commit_every, 0);
    while !asked_to_leave() {
        let next = Instant::now() + o.turn;
        for guard in member.assignment() {
            let w = work.entry(guard.partition().partition).or_default();
            if w.token != guard.token() {
                *w = Work { token: guard.token(), ..Work::default() };
            }
            write(&sink, &log, &label, &guard, w).await?;
        }
        if Instant::now() >= commit_at {
            calls += 1;
            commit(&member, &log, &label, &mut work, calls).await;
            if calls % FETCH_EVERY == 0 {
                calls += 1;
                fetch(&member, &log, &label, calls).await;
            }
            commit_at = Instant::now() + o.commit_every;
        }
        sleep(next.saturating_duration_since(Instant::now())).await;
    }
    if let Err(e) = member.leave().await {
        eprintln!("{label} could not leave: {e}");
    }
    Ok(())
}

/// One write to a partition, under its guard; a new owner registers its token first.
async fn write(sink: &Mutex<Sink>, log: &Log, label: &str, guard: &Guard, w: &mut Work) -> Result<()> {
    let mut sink = sink.lock().await;
    // The time is taken before the guard is asked: what happens from here on was begun under the lease.
    let at = clock::now();
    let Ok(token) = guard.check() else { return Ok(()) };
    let partition = guard.partition().to_string();
    log.put(Record::Use { at, member: label.into(), partition: partition.clone(), token });
    let verb = if w.registered { "write" } else { "register" };
    let answer = sink.ask(&format!("{verb} {partition} "), &format!("{token} {label}\n")).await?;
    if let Some(count) = answer.strip_prefix("ok ").and_then(|c| c.parse::<i64>().ok()) {
        if w.registered { w.written = count } else { w.registered = true }
    }
    Ok(())
}

/// Commits what was written since. Of a refusal nothing is written down: the library may have sent it before, to a node that did not answer.
async fn commit(member: &Member, log: &Log, label: &str, work: &mut BTreeMap<i32, Work>, call: u64) {
    let mut offsets = Vec::new();
    for guard in member.assignment() {
        if let Some(w) = work.get(&guard.partition().partition)
            && w.token == guard.token() && w.written > w.acked && guard.check().is_ok()
        {
            offsets.push(guard.offset(w.written));
        }
    }
    if offsets.is_empty() { return; }
    let at = clock::now();
    for o in &offsets { log.put(Record::Commits { at, member: label.into(), call, partition: o.partition.to_string(), token: o.token, seq: call, offset: o.offset }); }
    let results = match member.commit(&offsets, PATIENCE).await {
        Ok(results) => results,
        Err(e) => return eprintln!("{label}: commit: {e}"),
    };
    for (o, _) in offsets.into_iter().zip(results).filter(|(_, r)| r.code.is_none()) {
        let at = clock::now();
        log.put(Record::Told { at, member: label.into(), call, partition: o.partition.to_string(), told: Told::Taken });
        log.put(Record::Acked { at, member: label.into(), partition: o.partition.to_string(), token: o.token, offset: o.offset });
        if let Some(w) = work.get_mut(&o.partition.partition).filter(|w| w.token == o.token) {
            w.acked = o.offset;
        }
    }
}

/// Asks for one of the member's positions.
async fn fetch(member: &Member, log: &Log, label: &str, call: u64) {
    let guards = member.assignment();
    let Some(guard) = guards.get(call as usize / 4 % guards.len().max(1)) else { return };
    let p = guard.partition();
    log.put(Record::Fetches { at: clock::now(), member: label.into(), call, partition: p.to_string() });
    match member.fetch(Some(&p.topic), Some(p.partition), PATIENCE).await {
        Ok(found) => log.put(Record::Told { at: clock::now(), member: label.into(), call, partition: p.to_string(), told: found.first().map_or(Told::None, |o| Told::Found(o.offset)) }),
        Err(e) => eprintln!("{label}: fetch: {e}"),
    }
}

/// The connection to the sink. With a slow write it is left half sent for that long.
struct Sink { stream: BufReader<TcpStream>, slow: Duration }
impl Sink {
    async fn ask(&mut self, first: &str, second: &str) -> Result<String> {
        if self.slow.is_zero() {
            self.stream.write_all(format!("{first}{second}").as_bytes()).await?;
        } else {
            self.stream.write_all(first.as_bytes()).await?;
            sleep(self.slow).await;
            self.stream.write_all(second.as_bytes()).await?;
        }
        let mut line = String::new();
        self.stream.read_line(&mut line).await?;
        Ok(line.trim().to_string())
    }
}
