//! One shard of the core with a log that commits at once, and HTTP members that do as the protocol says: what a group costs without network, disk and JSON.
//! Times are added up by what they were spent on.

use baton_coordinator::{
    command::{Command, GroupState, Heartbeat, HeartbeatView, Request, Response},
    config::Limits,
    ids::*,
    metadata::{MetaCommand, Metadata},
    record::LogEntry,
    shard::{Action, Now, Shard, Ticket},
    state::Group,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

pub const GROUP: &str = "crew";
const TOPIC: &str = "work";

/// What time was spent on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent { pub decide: Duration, pub replay: Duration, pub target: Duration, pub entries: u64, pub entry_bytes: u64 }

/// A member: what it knows.
struct Member { id: MemberId, epoch: Epoch, revision: AssignmentRevision, owned: BTreeSet<Partition>, behind: bool }

/// See the module. `joined`: how long the last `grow` took until its joins were answered.
pub struct World { pub shard: Shard, pub spent: Spent, pub joined: Duration, now: Now, members: Vec<Member>, waiting: BTreeMap<Ticket, usize>, tickets: u64 }

impl World {
    /// A shard that leads, and a topic.
    pub fn new(partitions: i32) -> World {
        let mut meta = Metadata::default();
        meta.apply(&MetaCommand::DeclareTopic { name: TOPIC.into(), partitions, id_if_new: 7 }).expect("a topic within the limits");
        let now = Now { mono_ms: 1_000, wall_us: 1_700_000_000_000_000 };
        let mut shard = Shard::new(0, Limits::default());
        shard.lead(1, 1, now);
        shard.metadata(Arc::new(meta), now);
        World { shard, spent: Spent::default(), joined: Duration::ZERO, now, members: Vec::new(), waiting: BTreeMap::new(), tickets: 0 }
    }
    pub fn group(&self) -> &Group { self.shard.group(&GROUP.into()).expect("somebody has joined") }
    pub fn len(&self) -> usize { self.members.len() }
    pub fn is_empty(&self) -> bool { self.members.is_empty() }

    /// `count` members join, `at_once` of them in one drain, and everybody heartbeats until all have their target.
    pub fn grow(&mut self, count: usize, at_once: usize) {
        let first = self.members.len();
        self.members.extend((first..first + count).map(|n| Member { id: format!("member-{n:06}").into(), epoch: 0, revision: AssignmentRevision(0), owned: BTreeSet::new(), behind: true }));
        let all: Vec<usize> = (first..first + count).collect();
        let start = Instant::now();
        for some in all.chunks(at_once) { self.beat(some, at_once); }
        self.joined = start.elapsed();
        self.settle(at_once);
    }
    /// Only the shard is left.
    pub fn forget_members(&mut self) {
        self.members = Vec::new();
        self.waiting = BTreeMap::new();
    }
    /// Heartbeats until the group is stable and every member knows all of its own.
    pub fn settle(&mut self, at_once: usize) {
        for round in 0.. {
            assert!(round < 50, "the group does not become stable");
            self.pass(150);
            let all: Vec<usize> = (0..self.members.len()).collect();
            for some in all.chunks(at_once) { self.beat(some, at_once); }
            if self.group().state() == GroupState::Stable && self.members.iter().all(|m| !m.behind) { return; }
        }
    }
    /// One heartbeat of each of these members in one drain, then a confirmation of those who were told something.
    pub fn beat(&mut self, some: &[usize], at_once: usize) {
        for n in some { self.send(*n); }
        self.run();
        let told: Vec<usize> = some.iter().copied().filter(|n| self.members[*n].behind).collect();
        for again in told.chunks(at_once) {
            for n in again { self.send(*n); }
            self.run();
        }
    }
    /// Steady heartbeats of members in a scattered order, each answered before the next; the time of one.
    pub fn steady(&mut self, count: usize) -> Duration {
        let n = self.members.len();
        // Requests are made beforehand: what is measured is the shard.
        let requests: Vec<(usize, Request)> = (0..count).map(|i| { let m = i.wrapping_mul(7_919) % n; (m, self.request(m)) }).collect();
        let (before, entries) = (self.shard.stats().heartbeats, self.spent.entries);
        let start = Instant::now();
        for (m, request) in requests {
            self.tickets += 1;
            self.waiting.insert(Ticket(self.tickets), m);
            self.shard.handle(Ticket(self.tickets), request, self.now);
            self.run();
        }
        let took = start.elapsed();
        assert_eq!((self.shard.stats().heartbeats - before, self.spent.entries), (count as u64, entries), "every heartbeat was accepted, none needed the log");
        took / count as u32
    }
    /// Time passes; what is due is done.
    pub fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_us += ms * 1_000;
        let start = Instant::now();
        self.shard.handle_timeout(self.now);
        self.spent.decide += start.elapsed();
        self.run();
    }

    fn request(&self, n: usize) -> Request {
        let m = &self.members[n];
        let joins = m.epoch == 0;
        let heartbeat = Heartbeat {
            member: m.id.clone(), incarnation: Incarnation(n as u128 + 1), epoch: m.epoch, subscribed_topics: joins.then(|| [TopicName::from(TOPIC)].into()),
            rebalance_timeout_ms: joins.then_some(60_000), owned: Some(m.owned.clone()), assignment_revision: m.revision, ..Heartbeat::default()
        };
        Request { group: GROUP.into(), command: Command::Heartbeat(heartbeat), budget_ms: None, min_meta_revision: 0 }
    }
    fn send(&mut self, n: usize) {
        self.tickets += 1;
        self.waiting.insert(Ticket(self.tickets), n);
        let request = self.request(n);
        self.shard.handle(Ticket(self.tickets), request, self.now);
    }
    fn run(&mut self) {
        loop {
            let start = Instant::now();
            let action = self.shard.poll(self.now);
            self.spent.decide += start.elapsed();
            match action {
                None => return,
                Some(Action::Propose(entry)) => {
                    let bytes = entry.encode();
                    self.spent.entries += 1;
                    self.spent.entry_bytes += bytes.len() as u64;
                    let entry = LogEntry::decode(&bytes).expect("an entry is read as it was written");
                    let start = Instant::now();
                    self.shard.replay(&entry);
                    self.spent.replay += start.elapsed();
                    self.shard.take_history();
                    self.shard.take_changes();
                }
                Some(Action::Work(work)) => {
                    let start = Instant::now();
                    let done = work.run();
                    self.spent.target += start.elapsed();
                    self.shard.done(done, self.now);
                }
                Some(Action::Reply { ticket, result }) => match result {
                    Ok(Response::Heartbeat(v)) => self.take(ticket, &v),
                    other => panic!("a heartbeat was answered with {other:?}"),
                },
            }
        }
    }
    fn take(&mut self, ticket: Ticket, v: &HeartbeatView) {
        let Some(n) = self.waiting.remove(&ticket) else { return };
        let m = &mut self.members[n];
        m.epoch = v.member_epoch;
        m.behind = v.assignment_revision > m.revision;
        if let (true, Some(a)) = (m.behind, &v.assignment) {
            m.owned = a.keys().cloned().collect();
            m.revision = v.assignment_revision;
        }
    }
}
