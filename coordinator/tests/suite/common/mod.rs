//! One shard that leads, with a log that commits at once (or when the test says so).
#![allow(dead_code)]

pub mod kafka;

use baton_coordinator::{command::*, config::*, decide::TimerCommand, ids::*, metadata::*, record::*, shard::*, timers::Timer};
use baton_coordinator::replay::HistoryChange;
use baton_coordinator::work::Work;
use std::{collections::{BTreeMap, BTreeSet}, sync::Arc};

/// A small generator (splitmix64): what is drawn is a function of its seed.
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 { self.next() % n }
    pub fn one_in(&mut self, n: u64) -> bool { self.below(n) == 0 }
}

pub struct World {
    pub shard: Shard,
    pub meta: Metadata,
    pub now: Now,
    next: u64,
    /// Every entry that was proposed, in order.
    pub log: Vec<LogEntry>,
    /// False: proposals stay in `log` beyond `committed` until `commit`.
    pub auto_commit: bool,
    pub committed: usize,
    /// Work that is out; `run` does it after everything else.
    pub work: Vec<Work>,
    /// False: it stays out.
    pub auto_work: bool,
    pub answers: Vec<(Ticket, Result<Response, GroupError>)>,
    /// The history records of all groups, as a node keeps them.
    pub history: BTreeMap<(GroupId, u64), HistoryRecord>,
}

pub fn set(parts: &[(&str, i32)]) -> BTreeSet<Partition> { parts.iter().map(|(t, p)| Partition::new(*t, *p)).collect() }
pub fn topics(names: &[&str]) -> BTreeSet<TopicName> { names.iter().map(|t| TopicName::from(*t)).collect() }

/// The timers of a leading shard but for those of held heartbeats: when each is due, and what it does.
pub fn timers(shard: &Shard) -> Vec<(u64, TimerCommand)> {
    shard.due(u64::MAX).into_iter().filter_map(|(at, t)| if let Timer::Command(_, c) = t { Some((at, c)) } else { None }).collect()
}

/// Members a and b have shared the partitions of topic t, and rest.
pub fn two_at_rest(partitions: i32) -> (World, Model, Model) {
    let mut w = World::new(&[("t", partitions)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    (w, a, b)
}

/// `a` owns four partitions and has been asked for two; `b` waits for them.
pub fn half_way() -> (World, Model, Model) {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.pass(200);
    w.join(&mut b);
    let v = w.steady(&mut a);
    assert_eq!(v.pending_revocation.len(), 2);
    (w, a, b)
}

impl World {
    /// A leading shard and the given topics.
    pub fn new(topics: &[(&str, i32)]) -> Self {
        let mut w = World {
            shard: Shard::new(1, Limits::default()), meta: Metadata::default(), now: Now { mono_ms: 1_000, wall_us: 5_000_000 }, next: 0, log: Vec::new(),
            auto_commit: true, committed: 0, work: Vec::new(), auto_work: true, answers: Vec::new(), history: BTreeMap::new(),
        };
        w.shard.lead(1, 1, w.now);
        for (name, n) in topics {
            w.declare(name, *n);
        }
        w
    }
    pub fn meta(&mut self, c: MetaCommand) {
        self.meta.apply(&c).expect("the test's meta command is accepted");
        self.shard.metadata(Arc::new(self.meta.clone()), self.now);
        self.run();
    }
    pub fn declare(&mut self, name: &str, partitions: i32) {
        let id_if_new = u128::from(self.meta.revision) + 1000;
        self.meta(MetaCommand::DeclareTopic { name: name.into(), partitions, id_if_new });
    }
    /// Sets one setting of the group.
    pub fn set(&mut self, setting: Setting, value: Option<u64>) { self.meta(MetaCommand::SetGroupConfig { group: "g".into(), settings: [(setting, value)].into() }); }
    /// Polls until nothing is left, committing proposals at once if so set.
    pub fn run(&mut self) {
        self.drive();
        while self.auto_work && !self.work.is_empty() {
            let done = self.work.remove(0).run();
            self.shard.done(done, self.now);
            self.drive();
        }
    }
    fn drive(&mut self) {
        while let Some(a) = self.shard.poll(self.now) {
            match a {
                Action::Propose(e) => {
                    // What is proposed is what is read back.
                    let e = LogEntry::decode(&e.encode()).expect("an entry round-trips");
                    self.log.push(e);
                    if self.auto_commit {
                        self.commit();
                    }
                }
                Action::Work(w) => self.work.push(w),
                Action::Reply { ticket, result } => self.answers.push((ticket, result)),
            }
        }
    }
    pub fn commit(&mut self) {
        while self.committed < self.log.len() {
            let e = self.log[self.committed].clone();
            self.committed += 1;
            self.shard.replay(&e);
            for c in self.shard.take_history() {
                match c {
                    HistoryChange::Added { group, number, record } => assert!(self.history.insert((group, number), record).is_none(), "a number is used once"),
                    HistoryChange::Dropped { group, first, next } => { assert!(first < next); (first..next).for_each(|n| assert!(self.history.remove(&(group.clone(), n)).is_some(), "what is dropped was there")) }
                }
            }
        }
    }
    pub fn send(&mut self, command: Command) -> Ticket {
        self.next += 1;
        let t = Ticket(self.next);
        let (before, request) = (self.shard.clone(), Request { group: "g".into(), command: command.clone(), budget_ms: None, min_meta_revision: 0 });
        let (log, work) = (self.log.len(), self.work.len());
        self.queue(t.0, "g", command);
        self.run();
        self.as_at_once(before, &request, t, (log, work));
        t
    }
    /// What is answered at once is what the ordinary way answers, and that wants nothing else.
    fn as_at_once(&self, mut before: Shard, request: &Request, t: Ticket, (log, work): (usize, usize)) {
        let Some(answer) = before.steady(request, self.now) else { return };
        let Command::Heartbeat(h) = &request.command else { panic!("only a heartbeat can be steady: {request:?}") };
        assert_eq!(self.answers.iter().find(|(x, _)| *x == t).map(|(_, r)| r.clone()), Some(Ok(answer)), "{h:?}");
        assert_eq!((self.log.len(), self.work.len()), (log, work), "{h:?} wrote something");
        let session = |s: &Shard| timers(s).into_iter().find(|(_, c)| matches!(c, TimerCommand::ExpireSession { member } if *member == h.member));
        assert_eq!(session(&before), session(&self.shard), "{h:?}");
        assert_eq!(before.stats().heartbeats, self.shard.stats().heartbeats, "{h:?}");
    }
    pub fn answer(&mut self, t: Ticket) -> Option<Result<Response, GroupError>> {
        let at = self.answers.iter().position(|(x, _)| *x == t)?;
        Some(self.answers.remove(at).1)
    }
    pub fn ask(&mut self, command: Command) -> Result<Response, GroupError> {
        let t = self.send(command);
        self.answer(t).expect("the request is answered at once")
    }
    pub fn beat(&mut self, h: Heartbeat) -> Result<HeartbeatView, GroupError> {
        self.ask(Command::Heartbeat(h)).map(|r| match r {
            Response::Heartbeat(v) => v,
            other => panic!("a heartbeat was answered with {other:?}"),
        })
    }
    /// Time passes; timers fire on time.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        loop {
            let due = self.shard.poll_timeout().filter(|d| *d <= end);
            let at = due.unwrap_or(end).max(self.now.mono_ms);
            self.now.wall_us += (at - self.now.mono_ms) * 1000;
            self.now.mono_ms = at;
            if due.is_none() {
                return self.run();
            }
            self.shard.handle_timeout(self.now);
            self.run();
        }
    }
    /// Another node leads from now on, and has an older image of topics and settings than the group has seen.
    pub fn led_with_an_older_image(&mut self, old: Metadata) {
        let mut behind = Shard::new(1, Limits::default());
        self.log.iter().for_each(|e| behind.replay(e));
        behind.metadata(Arc::new(old), self.now);
        behind.lead(2, 2, self.now);
        drop(behind.take_history()); // the history is kept already
        self.shard = behind;
        self.run();
    }
    /// A request that is decided with whatever else waits when `run` is called.
    pub fn queue(&mut self, ticket: u64, group: &str, command: Command) {
        self.shard.handle(Ticket(ticket), Request { group: group.into(), command, budget_ms: None, min_meta_revision: 0 }, self.now)
    }
    pub fn group(&self) -> &baton_coordinator::state::Group { self.shard.group(&"g".into()).expect("the group exists") }
    pub fn member(&self, m: &str) -> &baton_coordinator::state::Member { &self.group().members[&MemberId::from(m)] }
    /// A conforming member joins and is brought to where it stands.
    pub fn join(&mut self, m: &mut Model) -> HeartbeatView {
        let v = self.beat(m.join_request()).expect("the join is accepted");
        m.take(&v);
        v
    }
    /// One steady heartbeat that says what the member owns.
    pub fn steady(&mut self, m: &mut Model) -> HeartbeatView {
        let v = self.beat(m.steady_request()).expect("the heartbeat is accepted");
        m.take(&v);
        v
    }
    /// All members heartbeat until the group is stable.
    pub fn settle(&mut self, members: &mut [&mut Model]) {
        for _ in 0..20 {
            self.pass(200);
            for m in members.iter_mut() {
                self.steady(m);
            }
            let g = self.group();
            if g.state() == GroupState::Stable && members.iter().all(|m| m.owned == g.members[&m.id].assigned.keys().cloned().collect()) {
                return;
            }
        }
        panic!("the group did not settle: {:#?}", self.group());
    }
}

/// A member that does as the protocol says.
#[derive(Clone, Debug)]
pub struct Model {
    pub id: MemberId,
    pub incarnation: Incarnation,
    pub epoch: Epoch,
    pub revision: AssignmentRevision,
    pub owned: BTreeSet<Partition>,
    pub topics: BTreeSet<TopicName>,
}
impl Model {
    pub fn new(id: &str, subscribed: &[&str]) -> Self {
        Self { id: id.into(), incarnation: Incarnation(crc(id)), epoch: 0, revision: AssignmentRevision(0), owned: BTreeSet::new(), topics: topics(subscribed) }
    }
    pub fn join_request(&self) -> Heartbeat {
        Heartbeat {
            member: self.id.clone(), incarnation: self.incarnation, epoch: 0, subscribed_topics: Some(self.topics.clone()), owned: Some(BTreeSet::new()),
            assignment_revision: self.revision, rebalance_timeout_ms: Some(60_000), ..Default::default()
        }
    }
    pub fn steady_request(&self) -> Heartbeat {
        Heartbeat { member: self.id.clone(), incarnation: self.incarnation, epoch: self.epoch, owned: Some(self.owned.clone()), assignment_revision: self.revision, ..Default::default() }
    }
    pub fn take(&mut self, v: &HeartbeatView) {
        self.epoch = v.member_epoch;
        if let Some(a) = &v.assignment
            && v.assignment_revision > self.revision
        {
            self.owned = a.keys().cloned().collect();
            self.revision = v.assignment_revision;
        }
    }
    pub fn leave_request(&self) -> Command { Command::Leave(Leave { member: self.id.clone(), incarnation: self.incarnation, assignment_revision: self.revision, is_static: false }) }
}
fn crc(s: &str) -> u128 { s.bytes().fold(7, |h, b| h * 131 + u128::from(b)) }
