//! Plays a scenario: one coordinator that leads the group's shard, a log that commits after a while, a network that takes a while, and the model members.
//! One event at a time, in the order of simulated time; at one instant first what arrives, then the coordinator's timers, then the members in the order of their start.

use crate::{
    Ms,
    members::{Life, Process},
    parse::{Act, Protocol, Scenario, Spec, Step},
    watch::{Owners, Pause, Watch},
};
use anyhow::{Result, ensure};
use baton_coordinator::{classic::join::member_id, command::*, config::Limits, ids::*, metadata::*, record::LogEntry, replay::HistoryChange, shard::*};
use std::{collections::BTreeMap, sync::Arc};

/// What happened, for `print`.
pub struct Told {
    pub lines: Vec<Line>,
    pub pauses: Vec<Pause>,
    /// Times at which two members worked on one partition.
    pub overlaps: Vec<Pause>,
    /// Every partition that somebody worked on, as it is called.
    pub partitions: Vec<String>,
}
/// At a time, somebody (a member, `group`, `owner` or `*`) did or became something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line { pub at: Ms, pub who: String, pub what: String }

enum Event {
    Step(Step),
    /// A process of this name starts; the specification may have changed.
    Start(String, Box<Spec>),
    Arrives(Ticket, Box<Command>),
    Answered(Ticket, Box<Result<Response, GroupError>>),
    Commits(Box<LogEntry>),
}

pub struct World {
    now: Ms,
    shard: Shard,
    term: Term,
    meta: Metadata,
    queue: BTreeMap<(Ms, u64), Event>,
    events: u64,
    network_ms: Ms,
    commit_ms: Ms,
    specs: BTreeMap<String, Spec>,
    processes: Vec<Process>,
    /// Whose request a ticket is.
    tickets: BTreeMap<Ticket, usize>,
    next: u64,
    names: Names,
    owners: Owners,
    watch: Watch,
    lines: Vec<Line>,
}

/// How partitions and members are called in the output.
#[derive(Default)]
pub struct Names { topics: BTreeMap<TopicName, (String, i32)>, members: BTreeMap<String, String> }
impl Names {
    pub fn partition(&self, p: &Partition) -> String {
        match self.topics.get(&p.topic) {
            Some((prefix, first)) => format!("{prefix}{}", first + p.partition),
            None => p.to_string(),
        }
    }
    pub fn partitions<'a>(&self, ps: impl IntoIterator<Item = &'a Partition>) -> String { ps.into_iter().map(|p| self.partition(p)).collect::<Vec<_>>().join(" ") }
    /// Ids that the coordinator made are called by their process.
    pub fn member(&self, id: &MemberId) -> String { self.members.get(id.as_str()).cloned().unwrap_or_else(|| id.to_string()) }
    fn text(&self, text: &str) -> String { self.members.iter().fold(text.to_string(), |t, (id, name)| t.replace(id, name)) }
}

/// More events than any story needs: something runs in circles.
const EVENTS_MAX: u64 = 200_000;
const NODE: u64 = 1;

fn group() -> GroupId { "g".into() }

/// Plays it to its end.
pub fn play(s: &Scenario) -> Result<Told> {
    let mut w = World::new(s)?;
    let mut told_from = s.setup.told_from;
    while let Some(at) = w.next_at().filter(|at| *at <= s.end) {
        if let Some(from) = told_from.filter(|from| at > *from) {
            w.tell_from(from);
            told_from = None;
        }
        ensure!(w.events < EVENTS_MAX, "more than {EVENTS_MAX} events by {} ms: something runs in circles", w.now);
        w.now = at;
        w.one();
        w.look();
    }
    w.now = s.end;
    w.watch.close();
    let partitions = w.meta.topics.iter().flat_map(|(t, f)| (0..f.partitions).map(|p| Partition::new(t.clone(), p)));
    let partitions = partitions.map(|p| w.names.partition(&p)).filter(|p| w.watch.ever.contains(p)).collect();
    Ok(Told { lines: w.lines, pauses: w.watch.pauses, overlaps: w.watch.overlaps, partitions })
}

impl World {
    fn new(s: &Scenario) -> Result<World> {
        let mut limits = Limits::default();
        limits.classic.initial_rebalance_delay_ms = s.setup.initial_delay_ms;
        let mut w = World {
            now: 0, shard: Shard::new(1, limits), term: 1, meta: Metadata::default(), queue: BTreeMap::new(), events: 0, network_ms: s.setup.network_ms, commit_ms: s.setup.commit_ms,
            specs: s.setup.members.clone(), processes: Vec::new(), tickets: BTreeMap::new(), next: 0, names: Names::default(), owners: Owners::default(), watch: Watch::default(), lines: Vec::new(),
        };
        w.shard.lead(NODE, w.term, w.clocks());
        for t in &s.setup.topics {
            w.topic(t)?;
        }
        if !s.setup.settings.is_empty() {
            let settings = s.setup.settings.iter().map(|(k, v)| (*k, Some(*v))).collect();
            w.meta.apply(&MetaCommand::SetGroupConfig { group: group(), settings })?;
        }
        w.shard.metadata(Arc::new(w.meta.clone()), w.clocks());
        for (at, step) in &s.steps {
            w.at(*at, Event::Step(step.clone()));
        }
        Ok(w)
    }
    fn topic(&mut self, t: &crate::parse::Topic) -> Result<()> {
        self.meta.apply(&MetaCommand::DeclareTopic { name: t.name.as_str().into(), partitions: t.partitions, id_if_new: u128::from(self.meta.revision) + 1_000 })?;
        if let Some(called) = &t.called {
            self.names.topics.insert(t.name.as_str().into(), called.clone());
        }
        Ok(())
    }
    fn clocks(&self) -> Now { Now { mono_ms: self.now + 1_000, wall_us: (self.now + 1_000) * 1_000 } }
    fn at(&mut self, at: Ms, event: Event) {
        self.events += 1;
        self.queue.insert((at, self.events), event);
    }
    fn tell(&mut self, who: &str, what: impl Into<String>) { self.lines.push(Line { at: self.now, who: who.into(), what: what.into() }); }

    /// What came before is how the story begins: one line for it.
    fn tell_from(&mut self, from: Ms) {
        self.now = from;
        self.lines.clear();
        self.watch.forget();
        let (who, what) = self.owners.summary(self.shard.group(&group()), &self.names);
        self.tell(who, what);
    }
    /// When something happens next.
    fn next_at(&self) -> Option<Ms> {
        let queued = self.queue.keys().next().map(|(at, _)| *at);
        let timer = self.shard.poll_timeout().map(|at| at.saturating_sub(1_000).max(self.now));
        let members = self.processes.iter().filter_map(Process::due).min().map(|at| at.max(self.now));
        [queued, timer, members].into_iter().flatten().min()
    }
    fn one(&mut self) {
        self.events += 1;
        if self.queue.keys().next().is_some_and(|(at, _)| *at <= self.now) {
            if let Some((_, event)) = self.queue.pop_first() {
                self.event(event);
            }
        } else if self.shard.poll_timeout().is_some_and(|at| at <= self.now + 1_000) {
            self.shard.handle_timeout(self.clocks());
        } else if let Some(i) = (0..self.processes.len()).find(|i| self.processes[*i].due().is_some_and(|at| at <= self.now)) {
            self.next += 1;
            let p = &mut self.processes[i];
            if let Some(command) = p.step(self.now, &self.meta, self.next)
                && !p.body.cut
            {
                let ticket = Ticket(self.next);
                self.tickets.insert(ticket, i);
                self.at(self.now + self.network_ms, Event::Arrives(ticket, Box::new(command)));
            }
        }
        self.drive();
    }
    /// Carries out what the coordinator asks for.
    fn drive(&mut self) {
        while let Some(action) = self.shard.poll(self.clocks()) {
            match action {
                Action::Propose(entry) => self.at(self.now + self.commit_ms, Event::Commits(Box::new(entry))),
                Action::Work(work) => self.shard.done(work.run(), self.clocks()),
                Action::Reply { ticket, result } => self.at(self.now + self.network_ms, Event::Answered(ticket, Box::new(result))),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Step(Step::Member { name, act }) => self.act(&name, act),
            Event::Step(Step::Topic(t)) => {
                let called = t.called.as_ref().map(|(p, first)| format!(", called {p}{first} to {p}{}", first + t.partitions - 1)).unwrap_or_default();
                match self.topic(&t) {
                    Ok(()) => self.tell("*", format!("topic {} has {} partitions{called}", t.name, t.partitions)),
                    Err(e) => self.tell("*", format!("topic {}: {e}", t.name)),
                }
                self.shard.metadata(Arc::new(self.meta.clone()), self.clocks());
            }
            Event::Step(Step::Failover) => {
                self.term += 1;
                self.tell("*", "another coordinator takes over");
                self.shard.step_down();
                // What the old one had proposed and not committed is lost with it.
                self.queue.retain(|_, e| !matches!(e, Event::Commits(_)));
                self.shard.lead(NODE + self.term, self.term, self.clocks());
            }
            Event::Start(name, spec) => self.start(&name, &spec),
            Event::Arrives(ticket, command) => {
                let cut = self.tickets.get(&ticket).is_none_or(|i| self.processes[*i].body.cut);
                if !cut {
                    self.shard.handle(ticket, Request { group: group(), command: *command, budget_ms: None, min_meta_revision: 0 }, self.clocks());
                }
            }
            Event::Answered(ticket, result) => {
                let Some(i) = self.tickets.remove(&ticket) else { return };
                if !self.processes[i].body.cut {
                    self.processes[i].answer(self.now, ticket.0, &result, &self.meta);
                }
            }
            Event::Commits(entry) => {
                self.shard.replay(&entry);
                for change in self.shard.take_history() {
                    if let HistoryChange::Added { record, .. } = change {
                        self.history(&record);
                    }
                }
                self.group_changed();
            }
        }
    }
    fn act(&mut self, name: &str, act: Act) {
        let running = self.processes.iter().position(|p| p.body.life == Life::Running && p.body.name.split('.').next() == Some(name));
        let who = running.map_or(name.to_string(), |i| self.processes[i].body.name.clone());
        match (act, running) {
            (Act::Starts, None) => {
                let spec = self.specs[name].clone();
                self.start(name, &spec);
            }
            (Act::Starts, Some(_)) => self.tell(&who, "runs already"),
            (_, None) => self.tell(&who, "does not run"),
            (Act::Leaves, Some(i)) => {
                self.tell(&who, "closes");
                self.processes[i].close(self.now);
            }
            (Act::Restarts { after, protocol }, Some(i)) => {
                let spec = self.specs.get_mut(name).expect("the parser knows the member");
                let changed = protocol.filter(|p| *p != spec.protocol);
                spec.protocol = protocol.unwrap_or(spec.protocol);
                let (spec, how) = (spec.clone(), changed.map(|p| format!(" as a {p} member")).unwrap_or_default());
                self.tell(&who, format!("closes, to start again after {after} ms{how}"));
                self.processes[i].close(self.now);
                self.at(self.now + after, Event::Start(name.into(), Box::new(spec)));
            }
            (Act::Dies, Some(i)) => {
                self.tell(&who, "dies");
                self.processes[i].body.end();
            }
            (Act::CutOff, Some(i)) => {
                self.tell(&who, "is cut off from the network");
                self.processes[i].body.cut = true;
            }
            (Act::Reconnected, Some(i)) => {
                self.tell(&who, "is reconnected");
                self.processes[i].body.cut = false;
            }
            (Act::Stuck, Some(i)) => {
                self.tell(&who, "gets stuck: its application does not come back for work");
                self.processes[i].gets_stuck(self.now);
            }
            (Act::GoesOn, Some(i)) => {
                self.tell(&who, "goes on");
                self.processes[i].goes_on(self.now);
            }
        }
    }
    fn start(&mut self, name: &str, spec: &Spec) {
        let nth = 1 + self.processes.iter().filter(|p| p.body.name.split('.').next() == Some(name)).count();
        let number = self.processes.len() as u128 + 1;
        let p = Process::start(name, nth, number, spec, self.now);
        if spec.protocol == Protocol::Classic {
            let made = member_id(spec.instance.as_deref().unwrap_or(&p.body.name), number);
            self.names.members.insert(made.to_string(), p.body.name.clone());
        }
        let what = match spec.protocol {
            Protocol::Classic => format!("starts: classic, {}, {}", if spec.cooperative() { "cooperative" } else { "eager" }, spec.offered().join(" before ")),
            Protocol::Consumer | Protocol::Http => format!("starts: {}", spec.protocol),
        };
        let fixed = spec.instance.as_ref().map(|i| format!(", static instance {i}")).unwrap_or_default();
        self.tell(&p.body.name.clone(), format!("{what}{fixed}"));
        self.processes.push(p);
    }

    /// Why the group changed, in the core's own words. What is said by owners and states below is left out.
    fn history(&mut self, r: &HistoryRecord) {
        let line = Line { at: self.now, who: "group".into(), what: self.names.text(&r.cause) };
        // In a classic group a join is told once as such and once as the reason of a rebalance.
        let twice = r.kind == "rebalance" && self.lines.last() == Some(&line);
        if !twice && !matches!(r.kind.as_str(), "revoking" | "moved" | "assigned" | "stable") {
            self.lines.push(line);
        }
    }
    fn group_changed(&mut self) {
        for (who, what) in self.owners.follow(self.now, self.shard.group(&group()), &self.names) {
            self.tell(who, what);
        }
    }
    /// What the members did in this event, and who works on what after it.
    fn look(&mut self) {
        for p in &mut self.processes {
            let who = p.body.name.clone();
            let said: Vec<String> = p.body.says.drain(..).map(|s| self.names.text(&s)).collect();
            let did = self.watch.hands(&who, p, &self.names);
            self.lines.extend(said.into_iter().chain(did).map(|what| Line { at: self.now, who: who.clone(), what }));
        }
        let working = self.processes.iter().filter(|p| p.body.stuck.is_none()).flat_map(|p| p.body.hands.working.iter().map(|x| (self.names.partition(x), p.body.name.clone())));
        self.watch.work(self.now, working.collect());
    }
}
