//! One leading shard under simulated time, and what happened to it in a step.

mod kafkas;

use super::{classic, consumer, kept, by_name::Beat, rules::Rules, slips::{self, GivesUp, Instances, Kind}, trace::*};
use baton_coordinator::{classic as c, command::*, config::{Limits, Setting}, decide::TimerCommand, ids::*, metadata::*, record::*, shard::*, state::Group, timers::Timer, work::Work};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The wall clock is ahead of the trace's, as it is in the world.
const WALL_US: u64 = 1_700_000_000_000_000;

#[derive(Clone)]
pub struct World {
    pub shard: Shard,
    pub meta: Metadata,
    now: u64,
    next_ticket: u64,
    /// Held requests: the step and operation that sent each.
    held: BTreeMap<Ticket, (usize, String)>,
    answers: Vec<(Ticket, Result<Response, GroupError>)>,
    fired: Vec<String>,
    pub names: Names,
    /// The group and its target as Kafka had them last.
    expected: Value,
    target: Value,
    /// Topic id → how a trace names the topic.
    labels: BTreeMap<u128, String>,
    work: Vec<Work>,
    pub rules: Rules,
    /// Whom Kafka takes each instance id for.
    instances: Instances,
    /// Kafka's group looks at its topics, and so at its kind, when it is next asked.
    looks_again: bool,
    default_assignor: String,
    kind: Kind,
    /// When Baton last computed a target.
    computed_at: Option<u64>,
    computed: u64,
    interval_ms: u64,
    /// Baton waits longer than the interval, since Kafka has computed a target that Baton had already.
    stretched: bool,
    /// Kafka's target, where Baton went on to its own within the same step.
    given_too_early: Option<Record>,
    /// Who joined with nothing new while a group was converted.
    goes_on_as_it_is: Option<MemberId>,
    /// The member of this step, if it gives up a place of its own.
    gives_up: Option<GivesUp>,
    /// Kafka found no target for the member of this step.
    finds_no_target: bool,
    /// The instance id of a member whose place is given away in this step under another one.
    left_behind: Option<String>,
    /// What went wrong while a rule was at work.
    slip: Result<(), String>,
}

/// Ids that a coordinator makes are random: they are named after their prefix, in the order in which they are first seen.
#[derive(Clone, Default)]
pub struct Names {
    symbols: BTreeMap<MemberId, String>,
    made: BTreeMap<String, usize>,
}
/// A hyphen and a UUID.
const RANDOM_LEN: usize = 37;
impl Names {
    /// The trace's name of a member.
    pub fn symbol(&mut self, id: &MemberId) -> String {
        if let Some(s) = self.symbols.get(id) {
            return s.clone();
        }
        let Some(prefix) = id.as_str().len().checked_sub(RANDOM_LEN).map(|n| id.as_str()[..n].to_string()) else { return id.to_string() };
        let n = self.made.entry(prefix.clone()).or_default();
        *n += 1;
        let symbol = if *n == 1 { format!("{prefix}*") } else { format!("{prefix}*{n}") };
        self.symbols.insert(id.clone(), symbol.clone());
        symbol
    }
    /// On first sight, an id that was made for a request is named as the trace names the one that Kafka made for it, if that is new as well.
    pub fn bind(&mut self, id: &MemberId, symbol: &str) {
        let new = !self.symbols.contains_key(id) && !self.symbols.values().any(|s| s == symbol);
        if new && symbol.contains('*') {
            let (prefix, _) = symbol.split_once('*').unwrap_or((symbol, ""));
            *self.made.entry(prefix.to_string()).or_default() += 1;
            self.symbols.insert(id.clone(), symbol.to_string());
        }
    }
    /// The member that the trace names so.
    pub fn id(&self, symbol: &str) -> MemberId { self.symbols.iter().find(|(_, s)| *s == symbol).map_or_else(|| symbol.into(), |(id, _)| id.clone()) }
}

impl World {
    pub fn new(trace: &Trace) -> Self {
        let mut limits = Limits::default();
        let of = |name: &str, default: u64| trace.setting(name).unwrap_or(default);
        limits.classic.initial_rebalance_delay_ms = of("group.initial.rebalance.delay.ms", 3_000);
        limits.members_max = of("group.consumer.max.size", i32::MAX as u64) as usize;
        limits.assignors = trace.assignors.clone();
        if let Some(Ok(policy)) = trace.config.get("group.consumer.migration.policy").and_then(Value::as_str).map(str::parse) {
            limits.classic.migration = policy;
        }
        limits.classic.members_max = of("group.max.size", i32::MAX as u64) as usize;
        let mut w = World {
            shard: Shard::new(0, limits), meta: Metadata::default(), now: 0, next_ticket: 0, held: BTreeMap::new(), answers: Vec::new(), fired: Vec::new(), names: Names::default(),
            expected: Value::Null, target: json!({}), labels: BTreeMap::new(), work: Vec::new(), rules: Rules::default(), instances: Instances::default(), looks_again: true, default_assignor: trace.assignors.first().cloned().unwrap_or_default(), kind: Kind::default(), computed_at: None, computed: 0, interval_ms: of("group.consumer.assignment.interval.ms", 1_000), stretched: false, given_too_early: None, gives_up: None, finds_no_target: false, goes_on_as_it_is: None, left_behind: None, slip: Ok(()),
        };
        w.shard.lead(1, 1, w.clock());
        // Kafka's defaults where the trace says nothing; no short interval while something is pending.
        let settings = [
            (Setting::SessionTimeout, of("group.consumer.session.timeout.ms", 45_000)), (Setting::HeartbeatInterval, of("group.consumer.heartbeat.interval.ms", 5_000)),
            (Setting::AssignmentInterval, of("group.consumer.assignment.interval.ms", 1_000)), (Setting::PendingInterval, 0),
        ];
        w.change(&MetaCommand::SetGroupConfig { group: "g".into(), settings: settings.map(|(s, v)| (s, Some(v))).into() });
        for t in &trace.topics {
            w.declare(&t.name, &t.name, t.parts);
        }
        w
    }
    fn clock(&self) -> Now { Now { mono_ms: self.now, wall_us: WALL_US + self.now * 1_000 } }
    fn declare(&mut self, name: &str, label: &str, partitions: i32) {
        self.looks_again |= self.shard.state().groups.get(&GroupId::from("g")).is_some_and(|g| g.subscribed_topics().contains(&TopicName::from(name)));
        let id_if_new = u128::from(self.meta.revision) + 1;
        let command = if partitions < 0 { MetaCommand::DeleteTopic { name: name.into() } } else { MetaCommand::DeclareTopic { name: name.into(), partitions, id_if_new } };
        self.change(&command);
        if partitions < 0 {
            self.rules.deleted(name);
        }
        if let Some(t) = self.meta.topics.get(&TopicName::from(name)) {
            self.labels.entry(t.id).or_insert_with(|| label.to_string());
        }
    }
    fn change(&mut self, command: &MetaCommand) {
        // A topic that is deleted twice stays deleted.
        let _ = self.meta.apply(command);
        self.shard.metadata(Arc::new(self.meta.clone()), self.clock());
        self.drive();
    }
    /// Everything that the shard wants, until it wants nothing.
    fn drive(&mut self) {
        while let Some(action) = self.shard.poll(self.clock()) {
            match action {
                Action::Propose(mut entry) => {
                    self.slip = self.slip.clone().and(self.as_kafka_computes(&mut entry));
                    self.shard.replay(&entry);
                }
                Action::Work(work) => self.work.push(work),
                Action::Reply { ticket, result } => self.answers.push((ticket, result)),
            }
        }
    }
    pub fn group(&self) -> Option<Arc<Group>> { self.shard.state().groups.get(&GroupId::from("g")).cloned() }

    /// Work beside the shard: after the answers of the step, before its state is looked at.
    pub fn work(&mut self) {
        while let Some(w) = self.work.pop() {
            self.shard.done(w.run(), self.clock());
            self.drive();
        }
    }
    /// How the trace names a topic, and the other way round.
    pub fn label(&self, id: u128) -> String { self.labels.get(&id).cloned().unwrap_or_else(|| format!("unknown topic {id}")) }
    pub fn topic_id(&self, label: &str) -> u128 { self.labels.iter().find(|(_, l)| *l == label).map_or(0, |(id, _)| *id) }
    pub fn send(&mut self, step: usize, op: &str, command: Command) {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.held.insert(ticket, (step, op.to_string()));
        self.shard.handle(ticket, Request { group: "g".into(), command, budget_ms: None, min_meta_revision: 0 }, self.clock());
        self.drive();
    }

    /// Every timer fires at its own deadline, before the request of that instant.
    fn pass(&mut self, until: u64) {
        while let Some(at) = self.shard.poll_timeout().filter(|at| *at <= until) {
            self.now = at.max(self.now);
            let due = self.shard.due(self.now);
            let (before, answered) = (self.view(), self.answers.len());
            let members_before = self.members();
            self.shard.handle_timeout(self.clock());
            self.drive();
            self.work();
            let members_after = self.members();
            let changed = before != self.view() || self.answers[answered..].iter().any(|(_, r)| !matches!(r, Err(GroupError::Unavailable { .. })));
            for (_, timer) in &due {
                // With several at one instant, a session had an effect if its member is gone by it.
                let effect = match timer {
                    Timer::Command(_, TimerCommand::Classic(c::Due::Session { member }) | TimerCommand::ExpireSession { member } | TimerCommand::ExpireRebalance { member, .. })
                        if due.len() > 1 =>
                    members_before.contains(member) && !members_after.contains(member),
                    Timer::Command(..) | Timer::Wait(..) => changed,
                };
                if effect && let Some(name) = self.name_of(timer) {
                    // Who has several at one instant is taken out once.
                    let (at, whose) = (at.to_string(), name.split_once("timeout ").map(|(_, m)| m.to_string()));
                    if whose.is_none_or(|m| !self.fired.iter().any(|f| f.starts_with(&at) && f.ends_with(&format!("timeout {m}")))) {
                        self.fired.push(format!("{at} {name}"));
                    }
                }
            }
        }
        self.now = until;
    }
    fn members(&self) -> Vec<MemberId> {
        let g: GroupId = "g".into();
        let pending = self.shard.classic_soft(&g).into_iter().flat_map(|s| s.pending.keys());
        let classic = self.shard.group(&g).into_iter().flat_map(|g| g.classic.iter().flat_map(|c| c.members.keys()).chain(g.members.keys()));
        classic.chain(pending).cloned().collect()
    }
    fn name_of(&mut self, timer: &Timer) -> Option<String> {
        match timer {
            Timer::Command(_, TimerCommand::Classic(due)) => Some(match due {
                c::Due::Session { member } => format!("heartbeat {}", self.names.symbol(member)),
                c::Due::JoinOf { member } => format!("join {}", self.names.symbol(member)),
                c::Due::SyncOf { member } => format!("sync {}", self.names.symbol(member)),
                c::Due::Join => "join".into(),
                c::Due::Sync => "sync".into(),
            }),
            Timer::Command(_, TimerCommand::ExpireSession { member }) => Some(format!("session-timeout {}", self.names.symbol(member))),
            Timer::Command(_, TimerCommand::ExpireRebalance { member, .. }) => Some(format!("rebalance-timeout {}", self.names.symbol(member))),
            Timer::Command(..) | Timer::Wait(..) => None,
        }
    }

    /// The group as the trace shows it.
    pub fn view(&mut self) -> Value {
        let g: GroupId = "g".into();
        let Some(group) = self.shard.state().groups.get(&g).cloned() else { return Value::Null };
        match &group.classic {
            // Kafka keeps offsets apart from groups.
            None if group.is_blank() => Value::Null,
            Some(classic) => classic::view(&mut self.names, classic, self.shard.classic_soft(&g)),
            None => consumer::view(self, &group),
        }
    }
    /// Who holds a partition in Kafka's group, as Baton has it.
    fn kafkas_owner(&self, topic: &str, partition: i64) -> Option<String> {
        let group = self.rules.last();
        if group["type"] != "consumer" {
            return None;
        }
        // Under whatever incarnation of the topic: Baton keeps ownership by name.
        let has = |m: &Value, field: &str| partitions(&m[field]).iter().any(|(label, p)| label.split('~').next() == Some(topic) && i64::from(*p) == partition);
        group["members"].as_object()?.iter().find(|(_, m)| has(m, "own") || has(m, "rev")).map(|(id, _)| id.clone())
    }

    /// What a step asks of the group.
    pub fn command(&self, step: &Step) -> Result<Command, String> {
        Ok(match step.op.as_str() {
            "hb" => consumer::heartbeat(self, &self.rules, step),
            "commit" => consumer::commit(self, &self.rules, step),
            "fetch" => consumer::fetch(step),
            _ => classic::command(self, step)?,
        })
    }
    /// The answers that have come, apart from whose they are.
    pub fn take_answers(&mut self) -> Vec<Result<Response, GroupError>> { std::mem::take(&mut self.answers).into_iter().map(|(_, r)| r).collect() }

    /// What the member of a step says to subscribe to.
    fn subscription(&self, member: &str) -> Option<(BTreeSet<TopicName>, Option<String>)> {
        let (g, id) = (self.group()?, self.names.id(member));
        g.members.get(&id).map(|m| (BTreeSet::clone(&m.subscribed), m.regex.clone()))
    }
    /// A heartbeat, and what it is for the next assignment of its member.
    fn beat(&self, step: &Step, subscribed_before: &Option<(BTreeSet<TopicName>, Option<String>)>) -> Beat {
        let member = who(step);
        let (g, id) = (self.group().unwrap_or_default(), self.names.id(&member));
        let Some(m) = g.members.get(&id) else { return Beat::default() };
        let there: Vec<_> = g.topics.iter().filter(|(t, _)| g.subscribes(m, t)).collect();
        let current = |p: &&Partition| there.iter().any(|(t, f)| **t == p.topic && p.partition < f.partitions && g.target_topics.get(*t).is_some_and(|x| x.id == f.id));
        Beat {
            full: step.number("e") == 0 || (step.fields.contains_key("rt") && step.fields.contains_key("own") && (step.fields.contains_key("subs") || step.fields.contains_key("regex"))),
            own: match step.op.as_str() {
                "join" => step.fields.get("protocols").map(|p| self.rules.named(&member, partitions(&p[0]["own"]))),
                _ => step.fields.get("own").map(partitions).map(|o| if step.number("e") == 0 { o } else { self.rules.claims(&member, o) }),
            },
            names_instance: step.maybe("inst").is_some(),
            resubscribed: *subscribed_before != self.subscription(&member),
            target: g.target.get(&id).filter(|_| !self.finds_no_target).into_iter().flatten().filter(current).map(|p| (self.label(g.topics[&p.topic].id), p.partition)).collect(),
            topics: there.iter().map(|(_, f)| self.label(f.id)).collect(),
            member,
        }
    }

    /// Carries out one step and compares. The error says what differs.
    pub fn step(&mut self, i: usize, step: &Step) -> Result<(), String> {
        self.fired.clear();
        self.finds_no_target = false;
        self.expire_who_was_not_asked(step)?;
        self.pass(step.t);
        let (mut refused, mut told, computed_before, subscribed_before) = (None, None, self.computed, self.subscription(&who(step)));
        match step.op.as_str() {
            "tick" => {}
            "topic" => self.declare(step.text("name"), step.maybe("label").unwrap_or(step.text("name")), step.number("parts") as i32),
            op => match (self.asks_under_an_id_left_behind(i, step)?, self.refuses(step)) {
                (Some(error), _) => refused = Some(json!({"err": error})),
                // Kafka did nothing, so nothing is asked of the Baton that goes on; what it would do is tried apart.
                (None, Some(error)) => {
                    slips::joins_as_under_a_new_id(self, i, step)?;
                    self.rules.explained_by(slips::RENAMED_INSTANCE);
                    refused = Some(json!({"err": error}));
                }
                (None, None) => {
                    self.as_kafka_sees_it(i, step)?;
                    told = kept::told_of_topics_that_are_there(self, i, step)?;
                    if told.is_some() {
                        self.rules.explained_by(super::rules::TOPIC_MADE_AGAIN);
                    }
                    let command = self.command(told.as_ref().unwrap_or(step))?;
                    let (before, computed) = (self.group(), self.computed);
                    self.send(i, op, command);
                    self.after_a_place_was_given_up(step)?;
                    self.after_something_was_left_to_nobody();
                    if computed == self.computed {
                        self.after_a_join_without_target(step, before.as_deref())?;
                    }
                }
            },
        }
        self.work();
        std::mem::replace(&mut self.slip, Ok(()))?;
        let (mut res, mut done) = (refused, Vec::new());
        for (ticket, result) in std::mem::take(&mut self.answers) {
            let (sent, op) = self.held.remove(&ticket).ok_or("a request was answered twice")?;
            // Kafka forgets the held sync of a member that leaves; Baton answers it.
            let forgotten = sent != i && op == "sync" && matches!(result, Err(GroupError::Classic { code: c::ClassicCode::UnknownMemberId, .. }));
            // Kafka leaves a request open whose client has sent another one since; Baton ends it.
            if let (true, Some(id), Some(symbol)) = (sent == i, classic::made(&result), step.res.as_ref().and_then(|r| r["m"].as_str())) {
                self.names.bind(&id, symbol);
            }
            let own = if sent == i { consumer::answer(self, step, &result) } else { None };
            let Some(answer) = own.or_else(|| classic::answer(&mut self.names, &op, &result)).filter(|_| !forgotten) else { continue };
            if sent == i {
                res = Some(answer);
            } else {
                done.push(with(answer, [("step", json!(sent)), ("op", json!(op))]));
            }
        }
        done.sort_by_key(|d| d["step"].as_u64());
        if let Some(g) = &step.group {
            self.instances.follow(&self.expected, g, &step.fired);
            self.expected = g.clone();
        }
        let by = who(step);
        if let Some(instance) = self.left_behind.take() {
            self.instances.leaves_behind(instance, by.clone());
        }
        let asked = matches!(step.op.as_str(), "hb" | "join") && step.number("e") >= 0 && step.res.as_ref().is_some_and(|r| r["err"] == "NONE");
        self.looks_again = self.expected["type"] != "consumer" || (self.looks_again && !asked);
        let mut expected_done = step.done.clone();
        expected_done.sort_by_key(|d| d["step"].as_u64());
        if let Some(t) = &step.target {
            self.target = if t.is_null() { json!({}) } else { t.clone() };
        }
        if self.stretched && self.computed > computed_before {
            self.stretched = false;
            self.stretch(self.interval_ms);
        }
        let group = self.view();
        let target = self.shard.state().groups.get(&GroupId::from("g")).cloned().map_or(json!({}), |g| consumer::target(self, &g));
        let exists = self.meta.topics.get(&TopicName::from(step.text("topic"))).is_some_and(|t| (0..i64::from(t.partitions)).contains(&step.number("p")));
        let beat = self.beat(told.as_ref().unwrap_or(step), &subscribed_before);
        self.rules.went(&step.fired);
        let before = self.rules.last().clone();
        let reconciles = match step.op.as_str() {
            "hb" => step.number("e") >= 0,
            "join" => self.expected["type"] == "consumer" && before["type"] == "consumer",
            _ => false,
        };
        let accepted = reconciles && step.res.as_ref().is_some_and(|r| r["err"] == "NONE");
        let expected = self.rules.group(&self.expected, accepted.then_some(&beat));
        let kafkas_owner = self.kafkas_owner(step.text("topic"), step.number("p"));
        let speaks_classic = self.expected["members"][step.text("m")].get("classic").is_some();
        let place = (step.text("topic"), step.number("p"));
        let expected_res = step.res.as_ref().map(|r| match step.op.as_str() {
            "hb" => self.rules.heartbeat(r, &before, &beat),
            "join" if accepted => self.rules.join(r, &by),
            "sync" => self.rules.sync(r, &by),
            "commit" => self.rules.commit(r, step.text("m"), kafkas_owner.as_deref(), exists, speaks_classic, place, step.number("offset")),
            "fetch" => self.rules.fetch(r, place),
            _ => r.clone(),
        });
        differ("fired", &json!(step.fired), &json!(self.fired))?;
        differ("res", &json!(expected_res), &json!(res))?;
        differ("done", &json!(expected_done), &json!(done))?;
        differ("group", &expected, &group)?;
        differ("target", &self.target, &target)
    }
}

/// Whose step it is: by the id that it was given, if it had none.
fn who(step: &Step) -> String { step.res.as_ref().and_then(|r| r["m"].as_str()).filter(|_| step.text("m").is_empty()).unwrap_or(step.text("m")).into() }

fn with<const N: usize>(answer: Value, more: [(&str, Value); N]) -> Value {
    let mut map: Map<String, Value> = answer.as_object().cloned().unwrap_or_default();
    map.extend(more.map(|(k, v)| (k.to_string(), v)));
    map.into()
}

fn differ(what: &str, kafka: &Value, baton: &Value) -> Result<(), String> {
    if kafka == baton { Ok(()) } else { Err(format!("{what}: Kafka has {kafka}, Baton {baton}")) }
}
