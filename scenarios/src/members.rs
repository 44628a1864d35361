//! Model members: processes that do what a client of their protocol does, with the time that it takes them to give up a partition.
//!
//! `Body` is what all of them have in common: hands that work on partitions, a clock for the next request, one request under way. How to ask and what an answer means
//! is the protocol's own file. A member never looks into the coordinator: it knows what it was answered.

pub mod classic;
pub mod consumer;
pub mod http;

use crate::{
    Ms,
    parse::{Protocol, Spec},
};
use baton_coordinator::{command::*, ids::*, metadata::Metadata};
use std::collections::{BTreeMap, BTreeSet};

/// What a process has in its hands.
#[derive(Clone, Debug, Default)]
pub struct Hands {
    /// It works on these.
    pub working: BTreeSet<Partition>,
    /// It finishes these, takes nothing new from them, and lets go then. `Ms::MAX`: its application is stuck.
    pub giving: BTreeMap<Partition, Ms>,
}
impl Hands {
    /// Everything it has not let go of.
    pub fn owned(&self) -> BTreeSet<Partition> { self.working.iter().chain(self.giving.keys()).cloned().collect() }
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Running,
    /// It finishes what it has, says that it goes, and ends.
    Closing,
    Gone,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
pub struct Waiting { pub number: u64, pub sent: Ms, until: Ms }

/// What all processes have in common.
#[derive(Clone, Debug)]
pub struct Body {
    pub name: String,
    pub spec: Spec,
    pub life: Life,
    pub hands: Hands,
    pub cut: bool,
    /// Since when its application has not come back for work.
    pub stuck: Option<Ms>,
    pub waiting: Option<Waiting>,
    /// When it wants to ask again; None: not by itself.
    pub next_send: Option<Ms>,
    /// What it says about itself since it was last asked.
    pub says: Vec<String>,
}

/// A request without an answer is given up after so long.
const REQUEST_TIMEOUT_MS: Ms = 1_000;

impl Body {
    /// Works on `target` and nothing else: takes what is new at once, gives up the rest. True: it is not done at once.
    pub fn turn_to(&mut self, target: &BTreeSet<Partition>, now: Ms) -> bool {
        for p in target {
            self.hands.giving.remove(p);
            self.hands.working.insert(p.clone());
        }
        let gone: Vec<Partition> = self.hands.working.difference(target).cloned().collect();
        self.give_up(gone, now);
        self.let_go(now);
        !self.hands.giving.is_empty()
    }
    pub fn give_up(&mut self, partitions: impl IntoIterator<Item = Partition>, now: Ms) {
        let until = if self.stuck.is_some() { Ms::MAX } else { now + self.spec.give_up_ms };
        for p in partitions {
            self.hands.working.remove(&p);
            self.hands.giving.entry(p).or_insert(until);
        }
    }
    /// What it has finished is out of its hands. True: that was something, and nothing is left to finish.
    fn let_go(&mut self, now: Ms) -> bool {
        let before = self.hands.giving.len();
        self.hands.giving.retain(|_, until| *until > now);
        before > 0 && self.hands.giving.is_empty()
    }
    /// Stops everything at once.
    pub fn drop_all(&mut self) { self.hands = Hands::default(); }
    pub fn say(&mut self, what: impl Into<String>) { self.says.push(what.into()); }
    pub fn end(&mut self) {
        self.drop_all();
        (self.life, self.waiting, self.next_send) = (Life::Gone, None, None);
    }
}

/// What a protocol adds.
pub trait Speaks {
    /// Its id in the group, if it knows one.
    fn id(&self) -> Option<&MemberId>;
    /// The next request, and how long its answer may be held.
    fn request(&mut self, b: &mut Body, now: Ms, meta: &Metadata) -> Option<(Command, Ms)>;
    fn answer(&mut self, b: &mut Body, now: Ms, sent: Ms, result: &Result<Response, GroupError>, meta: &Metadata);
    /// Everything that was to be given up is given up.
    fn gave_up(&mut self, b: &mut Body, now: Ms);
    /// No answer came.
    fn unanswered(&mut self) {}
    /// It closes: everything is given up. The last request is `request`'s; None: it goes without a word.
    fn close(&mut self, b: &mut Body, now: Ms);
    /// Its application has been stuck for its poll timeout: it leaves by itself, if its protocol does that. `back` once it goes on.
    fn polls_no_more(&mut self, b: &mut Body, now: Ms);
    fn polls_again(&mut self, b: &mut Body, now: Ms);
    /// When it must have stopped unless it hears more.
    fn deadline(&self) -> Option<Ms> { None }
    fn lapsed(&mut self, _b: &mut Body, _now: Ms) {}
}

/// One process.
pub struct Process {
    pub body: Body,
    speech: Box<dyn Speaks>,
    /// It has left because its application was stuck.
    left_stuck: bool,
}

impl Process {
    /// The `number`th process of the story, and the `nth` of its name.
    pub fn start(name: &str, nth: usize, number: u128, spec: &Spec, now: Ms) -> Process {
        let id = if nth == 1 { name.to_string() } else { format!("{name}.{nth}") };
        let speech: Box<dyn Speaks> = match spec.protocol {
            Protocol::Http => Box::new(http::Http::new(&id, number)),
            Protocol::Consumer => Box::new(consumer::Consumer::new(&id)),
            Protocol::Classic => Box::new(classic::Classic::new(&id, number)),
        };
        let body = Body { name: id, spec: spec.clone(), life: Life::Running, hands: Hands::default(), cut: false, stuck: None, waiting: None, next_send: Some(now), says: Vec::new() };
        Process { body, speech, left_stuck: false }
    }
    pub fn id(&self) -> Option<&MemberId> { self.speech.id() }

    /// When it does something by itself.
    pub fn due(&self) -> Option<Ms> {
        let b = &self.body;
        if b.life == Life::Gone {
            return None;
        }
        let send = if let Some(w) = b.waiting { Some(w.until) } else { b.next_send };
        let given = b.hands.giving.values().min().copied().filter(|at| *at < Ms::MAX);
        [send, given, self.speech.deadline(), self.polls_until()].into_iter().flatten().min()
    }
    fn polls_until(&self) -> Option<Ms> { self.body.stuck.filter(|_| !self.left_stuck).map(|since| since + self.body.spec.poll_timeout_ms) }

    /// Does what is due. A request may come of it, with its number.
    pub fn step(&mut self, now: Ms, meta: &Metadata, number: u64) -> Option<Command> {
        let b = &mut self.body;
        if b.life == Life::Gone {
            return None;
        }
        if b.let_go(now) {
            self.speech.gave_up(b, now);
        }
        if self.speech.deadline().is_some_and(|at| at <= now) {
            self.speech.lapsed(b, now);
        }
        if self.polls_until().is_some_and(|at| at <= now) {
            self.left_stuck = true;
            self.speech.polls_no_more(&mut self.body, now);
        }
        let b = &mut self.body;
        if b.waiting.is_some_and(|w| w.until <= now) {
            b.waiting = None;
            b.next_send = Some(now);
            self.speech.unanswered();
        }
        if b.life == Life::Gone || b.waiting.is_some() || b.next_send.is_none_or(|at| at > now) {
            return None;
        }
        b.next_send = None;
        let (command, held) = self.speech.request(b, now, meta)?;
        b.waiting = Some(Waiting { number, sent: now, until: now + held + REQUEST_TIMEOUT_MS });
        Some(command)
    }
    /// Takes the answer to its request of that number, if it still waits for it.
    pub fn answer(&mut self, now: Ms, number: u64, result: &Result<Response, GroupError>, meta: &Metadata) {
        let b = &mut self.body;
        let Some(w) = b.waiting.filter(|w| w.number == number && b.life != Life::Gone) else { return };
        b.waiting = None;
        self.speech.answer(b, now, w.sent, result, meta);
    }
    /// Closes: gives up what it has, then says so.
    pub fn close(&mut self, now: Ms) {
        let b = &mut self.body;
        b.life = Life::Closing;
        b.stuck = None;
        (b.waiting, b.next_send) = (None, None); // an answer that is still to come says nothing any more
        let all = b.hands.owned();
        b.give_up(all, now);
        if b.let_go(now) || b.hands.giving.is_empty() {
            self.speech.gave_up(b, now);
        }
        self.speech.close(b, now);
    }
    pub fn gets_stuck(&mut self, now: Ms) {
        self.body.stuck = Some(now);
        self.body.hands.giving.values_mut().for_each(|until| *until = Ms::MAX);
    }
    pub fn goes_on(&mut self, now: Ms) {
        let b = &mut self.body;
        b.stuck = None;
        let until = now + b.spec.give_up_ms;
        b.hands.giving.values_mut().for_each(|at| *at = until);
        // It may also have been put out meanwhile: joining again is the application's turn.
        if std::mem::take(&mut self.left_stuck) || (b.waiting.is_none() && b.next_send.is_none()) {
            self.speech.polls_again(b, now);
        }
    }
}

/// The words for a refusal: Kafka's name for it where the member is a Kafka client, else the sentence itself.
pub fn refusal(e: &GroupError, protocol: Protocol) -> String {
    match protocol {
        Protocol::Http => e.to_string(),
        Protocol::Consumer | Protocol::Classic => format!("{}: {e}", e.kafka().name),
    }
}
