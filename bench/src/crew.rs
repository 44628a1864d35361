//! Many members over few connections: each connection is one task that heartbeats its members in turn, when each is due. Nobody is forgotten once it is stable: a member that
//! falls silent is rightly expired, and the group then measures itself.

use crate::http::Connection;
use anyhow::{Result, bail};
use baton_wire::{HeartbeatRequest, HeartbeatResponse, MemberState, Owned, Problem, hex128};
use bytes::Bytes;
use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{Arc, atomic::{AtomicBool, AtomicU64, Ordering::Relaxed}},
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};

/// A steady heartbeat, to be sent again and again: path and body.
pub type Steady = (String, String);

#[derive(Default)]
pub struct Counts {
    /// Answered with 200.
    pub beats: AtomicU64,
    /// Members that are stable and have confirmed everything, as their last answer said.
    pub settled: AtomicU64,
    /// Members that had to join again: 0, or the measurement is not of what it says.
    pub rejoins: AtomicU64,
    /// Answers 503, tried again.
    pub again: AtomicU64,
}

/// The members of one group.
pub struct Crew { stop: Arc<AtomicBool>, pub counts: Arc<Counts>, tasks: Vec<JoinHandle<Result<Vec<Steady>>>> }

impl Crew {
    /// `members` join `group` and subscribe to `topic`; they heartbeat until `stop`.
    pub fn start(address: &str, group: &str, topic: &str, members: usize, connections: usize) -> Crew {
        let (stop, counts) = (Arc::new(AtomicBool::new(false)), Arc::new(Counts::default()));
        let tasks = (0..connections.min(members)).map(|c| {
            let mine: Vec<Member> = (c..members).step_by(connections).map(|n| Member::new(n, topic)).collect();
            let line = Line { address: address.into(), group: group.into(), stop: stop.clone(), counts: counts.clone() };
            tokio::spawn(line.run(mine))
        });
        Crew { tasks: tasks.collect(), stop, counts }
    }
    /// No more heartbeats. Gives the steady heartbeat of every member.
    pub async fn stop(self) -> Result<Vec<Steady>> {
        self.stop.store(true, Relaxed);
        let mut all = Vec::new();
        for t in self.tasks { all.extend(t.await??); }
        Ok(all)
    }
}

struct Member { id: String, incarnation: u128, topic: String, epoch: i32, revision: u64, owned: Vec<Owned>, settled: bool }

impl Member {
    fn new(n: usize, topic: &str) -> Member {
        Member { id: format!("member-{n:06}"), incarnation: n as u128 + 1, topic: topic.into(), epoch: 0, revision: 0, owned: Vec::new(), settled: false }
    }
    fn path(&self, group: &str) -> String { format!("/v1/groups/{group}/members/{}/heartbeat", self.id) }
    fn body(&self) -> String {
        let joins = self.epoch == 0;
        let request = HeartbeatRequest {
            member_epoch: self.epoch, incarnation: hex128(self.incarnation), subscribed_topics: joins.then(|| vec![self.topic.clone()]), owned: Some(self.owned.clone()),
            assignment_revision: Some(self.revision), timeout_ms: Some(10_000), ..HeartbeatRequest::default()
        };
        serde_json::to_string(&request).expect("a heartbeat is JSON")
    }
    /// Takes an answer. When the next heartbeat is due, ms.
    fn take(&mut self, r: &HeartbeatResponse) -> u64 {
        self.epoch = r.member_epoch;
        let newer = r.assignment_revision > self.revision;
        if let (true, Some(a)) = (newer, &r.assignment) {
            self.owned = a.iter().map(|t| Owned { topic: t.topic.clone(), partitions: t.partitions.iter().map(|p| p.partition).collect() }).collect();
            self.revision = r.assignment_revision;
        }
        self.settled = !newer && r.member_state == MemberState::Stable && r.member_epoch == r.group_epoch;
        // What is new is confirmed at once: these members need no time to stop.
        if newer { 0 } else { r.heartbeat_interval_ms }
    }
}

/// One connection and its members.
struct Line { address: String, group: String, stop: Arc<AtomicBool>, counts: Arc<Counts> }

impl Line {
    async fn run(self, mut members: Vec<Member>) -> Result<Vec<Steady>> {
        let mut connection = Connection::open(&self.address).await?;
        let mut due: BinaryHeap<Reverse<(Instant, usize)>> = (0..members.len()).map(|n| Reverse((Instant::now(), n))).collect();
        while let Some(Reverse((at, n))) = due.pop() {
            // Looked at often enough to end soon.
            while Instant::now() < at && !self.stop.load(Relaxed) { tokio::time::sleep((at - Instant::now()).min(Duration::from_millis(100))).await; }
            if self.stop.load(Relaxed) { break; }
            let m = &mut members[n];
            let (sent, was) = (Instant::now(), m.settled);
            let (status, body) = connection.send("POST", &m.path(&self.group), Bytes::from(m.body())).await?;
            let after_ms = match status {
                200 => {
                    self.counts.beats.fetch_add(1, Relaxed);
                    m.take(&serde_json::from_slice(&body)?)
                }
                503 => {
                    self.counts.again.fetch_add(1, Relaxed);
                    50
                }
                404 | 409 => {
                    self.counts.rejoins.fetch_add(1, Relaxed);
                    (m.epoch, m.settled) = (0, false);
                    m.owned.clear();
                    50
                }
                _ => bail!("{}: {status} {:?}", m.id, serde_json::from_slice::<Problem>(&body).map(|p| p.to_string())),
            };
            match (was, m.settled) {
                (false, true) => { self.counts.settled.fetch_add(1, Relaxed); }
                (true, false) => { self.counts.settled.fetch_sub(1, Relaxed); }
                _ => {}
            }
            due.push(Reverse((sent + Duration::from_millis(after_ms), n)));
        }
        Ok(members.iter().map(|m| (m.path(&self.group), m.body())).collect())
    }
}
