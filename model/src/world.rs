//! One state of the world, and what can happen in it.

use crate::{Bounds, Counters, member::*};
use baton_coordinator::{command::*, config::*, ids::*, invariants, metadata::*, record::*, shard::*};
use std::{collections::BTreeMap, fmt, sync::Arc};

pub const MEMBERS: usize = 3;
pub const PARTITIONS: i32 = 3;
/// A step of time: a third of a session. A lease is 2.55 of them.
pub const TICK_MS: u64 = 5_000;
const START_MS: u64 = 1_000_000;

/// A request under way, or a copy of one.
#[derive(Clone, Debug)]
pub struct Letter {
    pub from: usize,
    pub number: u8,
    pub life: u8,
    pub sent: u64,
    pub command: Arc<Command>,
    pub delivered: bool,
}
/// An answer under way.
#[derive(Clone, Debug)]
pub struct Answer {
    pub to: usize,
    pub life: u8,
    pub sent: u64,
    pub result: Arc<Result<Response, GroupError>>,
}
#[derive(Clone, Debug, PartialEq)]
pub struct Broken {
    pub invariant: &'static str,
    pub what: String,
}

#[derive(Clone)]
pub struct World {
    pub shard: Arc<Shard>,
    /// Proposed and not committed.
    pub entry: Option<Arc<LogEntry>>,
    pub now: u64,
    pub term: u64,
    pub members: [Arc<Member>; MEMBERS],
    pub letters: Vec<Letter>,
    /// Delivered, not answered.
    pub open: BTreeMap<Ticket, Letter>,
    pub answers: Vec<Answer>,
    /// The highest token of each partition so far.
    pub highest: BTreeMap<Partition, u64>,
    pub left: Bounds,
    pub broken: Option<Broken>,
    tickets: u64,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A member sends what is due; it is delivered, committed and answered before anything else happens.
    Exchange(usize),
    /// The same, but the answer is late, or never comes.
    Unanswered(usize),
    /// A member sends what is due; it may be delivered at any time, or never.
    Post(usize),
    /// A letter is delivered; with `copy`, one like it stays on the way.
    Deliver { letter: usize, copy: bool },
    Commit,
    /// A late answer arrives.
    Answer(usize),
    /// A member has stopped what it was asked to.
    Settle(usize),
    /// A member stops everything and leaves for good; a new process comes after it.
    Leave(usize),
    /// An administrator removes a member.
    Remove(usize),
    /// A third of a session passes.
    Tick,
    /// Another node leads; the entry in flight was committed before, or is lost.
    NewLeader { survives: bool },
}

fn group() -> GroupId { "g".into() }

impl World {
    pub fn new(left: Bounds) -> World {
        let mut meta = Metadata::default();
        let mut apply = |c: MetaCommand| meta.apply(&c).expect("the model's meta commands are valid");
        apply(MetaCommand::DeclareTopic { name: "t".into(), partitions: PARTITIONS, id_if_new: 1 });
        let settings = [(Setting::AssignmentInterval, Some(0)), (Setting::SessionTimeout, Some(3 * TICK_MS))].into();
        apply(MetaCommand::SetGroupConfig { group: group(), settings });
        let mut shard = Shard::new(0, Limits { history_max: 0, ..Limits::default() });
        let now = Now { mono_ms: START_MS, wall_us: 0 };
        shard.lead(1, 1, now);
        shard.metadata(Arc::new(meta), now);
        World {
            shard: Arc::new(shard), entry: None, now: START_MS, term: 1, members: std::array::from_fn(|i| Arc::new(Member::new(i))), letters: Vec::new(), open: BTreeMap::new(),
            answers: Vec::new(), highest: BTreeMap::new(), left, broken: None, tickets: 0,
        }
    }
    fn clock(&self) -> Now { Now { mono_ms: self.now, wall_us: 0 } }
    fn member(&mut self, i: usize) -> &mut Member { Arc::make_mut(&mut self.members[i]) }

    /// Everything that can happen.
    pub fn actions(&self, out: &mut Vec<Action>) {
        let quiet = self.entry.is_none();
        for (i, m) in self.members.iter().enumerate() {
            if quiet {
                out.push(Action::Exchange(i));
                if self.left.late_answers > 0 {
                    out.push(Action::Unanswered(i));
                }
                if self.left.leaves > 0 && m.phase == Phase::Steady {
                    out.push(Action::Leave(i));
                    out.push(Action::Remove(i));
                }
            }
            // A second letter while one is on its way brings nothing new.
            if self.left.posts > 0 && !self.letters.iter().any(|l| l.from == i && l.number == m.sent) {
                out.push(Action::Post(i));
            }
            if !m.settled() {
                out.push(Action::Settle(i));
            }
        }
        for letter in 0..self.letters.len() {
            out.push(Action::Deliver { letter, copy: false });
            if self.left.copies > 0 {
                out.push(Action::Deliver { letter, copy: true });
            }
        }
        out.extend((0..self.answers.len()).map(Action::Answer));
        if !quiet {
            out.push(Action::Commit);
        }
        if self.left.ticks > 0 {
            out.push(Action::Tick);
        }
        if self.left.leader_changes > 0 {
            out.push(Action::NewLeader { survives: true });
            if !quiet {
                out.push(Action::NewLeader { survives: false });
            }
        }
    }

    pub fn take(&mut self, action: &Action, n: &Counters) {
        match action {
            Action::Exchange(i) => self.exchange(*i, true, n),
            Action::Unanswered(i) => {
                self.left.late_answers -= 1;
                self.exchange(*i, false, n);
            }
            Action::Post(i) => {
                self.left.posts -= 1;
                let letter = self.letter(*i);
                self.letters.push(letter);
            }
            Action::Deliver { letter, copy } => {
                let mut l = self.letters[*letter].clone();
                if l.delivered {
                    Counters::add(&n.duplicated);
                }
                if *copy {
                    self.left.copies -= 1;
                    self.letters[*letter].delivered = true;
                } else {
                    self.letters.remove(*letter);
                }
                l.delivered = true;
                self.deliver(l, n);
            }
            Action::Commit => self.commit(n),
            Action::Answer(a) => {
                Counters::add(&n.late_answers);
                let a = self.answers.remove(*a);
                self.read(&a, n);
            }
            Action::Settle(i) => self.member(*i).settle(),
            Action::Leave(i) => {
                self.left.leaves -= 1;
                // It has stopped before it says so.
                self.member(*i).settle();
                let m = self.member(*i);
                m.owned.clear();
                m.phase = Phase::Leaving;
                self.exchange(*i, true, n);
            }
            Action::Remove(i) => {
                self.left.leaves -= 1;
                let command = Command::RemoveMember { member: self.members[*i].id.clone() };
                self.tickets += 1;
                let (ticket, now) = (Ticket(self.tickets), self.clock());
                Arc::make_mut(&mut self.shard).handle(ticket, Request { group: group(), command, budget_ms: None, min_meta_revision: 0 }, now);
                self.drive(n);
            }
            Action::Tick => self.tick(n),
            Action::NewLeader { survives } => self.new_leader(*survives, n),
        }
        self.look();
    }

    fn letter(&mut self, i: usize) -> Letter {
        let sent = self.now;
        let m = self.member(i);
        m.sent += 1;
        Letter { from: i, number: m.sent, life: m.life, sent, command: Arc::new(m.request()), delivered: false }
    }
    fn exchange(&mut self, i: usize, answered: bool, n: &Counters) {
        let letter = self.letter(i);
        let number = letter.number;
        let before = self.answers.len();
        self.deliver(letter, n);
        // A command may wait for one in flight, and propose behind it.
        while self.entry.is_some() {
            self.commit(n);
        }
        let mine = self.answers[before..].iter().rposition(|a| a.to == i && self.members[i].sent == number).map(|at| before + at);
        if answered && let Some(at) = mine {
            let a = self.answers.remove(at);
            self.read(&a, n);
        }
    }
    fn deliver(&mut self, letter: Letter, n: &Counters) {
        Counters::add(&n.delivered);
        let m = self.member(letter.from);
        if letter.number < m.delivered {
            Counters::add(&n.stale);
        }
        m.delivered = m.delivered.max(letter.number);
        self.tickets += 1;
        let (ticket, now) = (Ticket(self.tickets), self.clock());
        let request = Request { group: group(), command: (*letter.command).clone(), budget_ms: None, min_meta_revision: 0 };
        self.open.insert(ticket, letter);
        Arc::make_mut(&mut self.shard).handle(ticket, request, now);
        self.drive(n);
    }
    /// Fetches what the shard wants. Whatever is answered while an entry of the group is in flight was read from a state that may be overtaken.
    fn drive(&mut self, n: &Counters) {
        let in_flight = self.entry.is_some();
        let now = self.clock();
        while let Some(action) = Arc::make_mut(&mut self.shard).poll(now) {
            match action {
                Action_::Propose(entry) => {
                    assert!(self.entry.is_none(), "one entry in flight at a time");
                    self.entry = Some(Arc::new(entry));
                }
                // Groups this small are assigned in the shard, and nobody says a regular expression.
                Action_::Work(work) => unreachable!("{work:?}"),
                Action_::Reply { ticket, result } => {
                    let Some(letter) = self.open.remove(&ticket) else { continue };
                    if matches!(result, Err(GroupError::Unavailable { .. })) {
                        Counters::add(&n.lost);
                        continue;
                    }
                    if in_flight {
                        self.breaks("answers-committed", format!("{} was answered while an entry of its group is in flight", self.members[letter.from].id));
                    }
                    if let Err(GroupError::FencedMemberEpoch { received, stored }) = &result {
                        self.breaks("never fenced", format!("{} sent epoch {received} of its own process, {stored} is stored", self.members[letter.from].id));
                    }
                    self.answers.push(Answer { to: letter.from, life: letter.life, sent: letter.sent, result: Arc::new(result) });
                }
            }
        }
        // Each member has one late answer at most; an older one is lost.
        for i in 0..MEMBERS {
            while self.answers.iter().filter(|a| a.to == i).count() > 1 {
                let oldest = self.answers.iter().position(|a| a.to == i).expect("there are two");
                self.answers.remove(oldest);
                Counters::add(&n.lost);
            }
        }
    }
    fn commit(&mut self, n: &Counters) {
        let Some(entry) = self.entry.take() else { return };
        for r in entry.batches.iter().flat_map(|b| &b.records) {
            if let Record::Reconciled(r) = r {
                for (p, token) in &r.granted {
                    let highest = self.highest.insert(p.clone(), token.0).unwrap_or(0);
                    if highest > 0 {
                        Counters::add(&n.handed_over);
                    }
                    if token.0 <= highest {
                        self.breaks("fencing", format!("{p} is granted under token {} after {highest}", token.0));
                    }
                }
            }
        }
        let shard = Arc::make_mut(&mut self.shard);
        shard.replay(&entry);
        shard.take_history();
        shard.take_changes();
        self.drive(n);
    }
    fn read(&mut self, a: &Answer, n: &Counters) {
        let now = self.now;
        let m = self.member(a.to);
        if a.life != m.life {
            Counters::add(&n.lost);
        }
        m.answer(now, a.life, a.sent, &a.result);
    }
    fn tick(&mut self, n: &Counters) {
        self.left.ticks -= 1;
        self.now += TICK_MS;
        for i in 0..MEMBERS {
            if self.members[i].phase == Phase::Steady && self.now >= self.members[i].deadline {
                self.member(i).drop_all(Phase::Joining);
            }
        }
        let now = self.clock();
        let shard = Arc::make_mut(&mut self.shard);
        if shard.poll_timeout().is_some_and(|at| at <= now.mono_ms) {
            Counters::add(&n.expired);
        }
        shard.handle_timeout(now);
        self.drive(n);
    }
    fn new_leader(&mut self, survives: bool, n: &Counters) {
        self.left.leader_changes -= 1;
        Counters::add(&n.leader_changes);
        if survives {
            self.commit(n);
        } else {
            Counters::add(&n.entries_lost);
        }
        self.entry = None;
        self.open.clear();
        self.term += 1;
        let (term, now) = (self.term, self.clock());
        let shard = Arc::make_mut(&mut self.shard);
        shard.step_down();
        while shard.poll(now).is_some() {}
        shard.lead(term, term, now);
        self.drive(n);
    }

    fn breaks(&mut self, invariant: &'static str, what: String) {
        if self.broken.is_none() {
            self.broken = Some(Broken { invariant, what });
        }
    }
    /// What must hold in every state.
    fn look(&mut self) {
        if let Some(g) = self.shard.group(&group()) {
            if let Some(why) = g.quarantined.clone() {
                return self.breaks("one-owner", format!("replay refused a batch: {why}"));
            }
            if let Some(why) = invariants::check(g).first() {
                return self.breaks("one-owner", why.clone());
            }
            // Said once more from outside: the owner map is not asked.
            let mut owners: BTreeMap<&Partition, &MemberId> = BTreeMap::new();
            let held = g.holds.iter().map(|(p, h)| (p, &h.member));
            let claims = g.members.iter().flat_map(|(id, m)| m.holdings().map(move |(p, ..)| (p, id))).chain(held);
            for (p, id) in claims.collect::<Vec<_>>() {
                if let Some(other) = owners.insert(p, id) {
                    let what = format!("{p} is {other}'s and {id}'s");
                    return self.breaks("one-owner", what);
                }
            }
        }
        let mut believers: BTreeMap<Partition, usize> = BTreeMap::new();
        for i in 0..MEMBERS {
            let mine: Vec<Partition> = self.members[i].beliefs(self.now).map(|(p, _)| p.clone()).collect();
            for p in mine {
                if let Some(other) = believers.insert(p.clone(), i) {
                    let what = format!("m{other} and m{i} both use {p}");
                    return self.breaks("one-believer", what);
                }
            }
        }
    }
}
use baton_coordinator::shard::Action as Action_;

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(b) = &self.broken {
            return write!(f, "BROKEN {}: {}", b.invariant, b.what);
        }
        write!(f, "t={}", (self.now - START_MS) / TICK_MS)?;
        for m in &self.members {
            write!(f, " {}[{:?} e{} uses {:?}]", m.id, m.phase, m.epoch, m.owned.keys().map(|p| p.partition).collect::<Vec<_>>())?;
        }
        write!(f, " letters {} answers {} in flight {}", self.letters.len(), self.answers.len(), self.entry.is_some())
    }
}
