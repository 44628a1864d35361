//! Worker processes: the real client library on a computer of its own, a worker that asks its guard before every write to the sink, fetches
//! where it begins and commits as it goes. What the library says it believes is written down.

use super::{plan::Ms, world::{World, http, NODES}};
use baton_invariants::belief::{self, Record};
use baton_client::{Event, Guard, Listener, Member, Reason, clock};
use madsim::{rand::{Rng, thread_rng}, task::NodeId, time::sleep};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::{AtomicBool, Ordering::SeqCst}},
    time::Duration,
};

/// One worker process, living or not.
#[derive(Clone)]
pub struct Process {
    pub group: String,
    pub host: NodeId,
    pub started: Ms,
    pub state: State,
    pub records: Vec<Record>,
    pub killed_at: Option<u64>,
    /// Place → token, by its own events.
    pub held: BTreeMap<String, u64>,
    pub deadline: u64,
    leave: Arc<AtomicBool>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State { Working, Leaving, Left, Dead }

impl Process {
    /// What it may use at `now` (ns).
    pub fn believes(&self, now: u64) -> impl Iterator<Item = (&str, u64)> {
        let may = now < self.deadline && self.state != State::Dead;
        self.held.iter().filter(move |_| may).map(|(p, t)| (p.as_str(), *t))
    }
    pub fn lives(&self) -> bool { matches!(self.state, State::Working | State::Leaving) }
    pub fn as_judged(&self) -> belief::Process { belief::Process { records: self.records.clone(), killed_at: self.killed_at } }
}

pub fn group(n: u64) -> String { format!("g{n}") }
pub fn topic(n: u64) -> String { format!("t{n}") }

/// Starts a process in group `g`, under a new name.
pub fn start(world: &Arc<World>, g: u64) -> String {
    let name = format!("w{}", world.seen().processes.len());
    let computer = world.computer(&name);
    let leave = Arc::new(AtomicBool::new(false));
    let process = Process {
        group: group(g), host: computer.id(), started: world.now(), state: State::Working, records: Vec::new(), killed_at: None,
        held: BTreeMap::new(), deadline: 0, leave: leave.clone(),
    };
    world.seen().processes.insert(name.clone(), process);
    world.event(format!("{name} starts in {}", group(g)));
    computer.spawn(work(world.clone(), name.clone(), g, leave));
    name
}

pub fn leave(world: &World, name: &str) {
    let mut seen = world.seen();
    if let Some(p) = seen.processes.get_mut(name) {
        p.state = State::Leaving;
        p.leave.store(true, SeqCst);
    }
}

pub fn kill(world: &World, name: &str) {
    let Some(host) = world.seen().processes.get_mut(name).map(|p| { (p.state, p.killed_at) = (State::Dead, Some(clock::now())); p.host }) else { return };
    world.event(format!("{name} is killed"));
    world.sim.kill(host);
}

/// What the library says, written down at once.
fn hear(world: &World, name: &str, event: &Event) {
    let mut verdict = Ok(());
    let mut line = None;
    {
        let mut seen = world.seen();
        let seen = &mut *seen;
        let Some(p) = seen.processes.get_mut(name) else { return };
        if p.state == State::Dead { return; }
        let place = |partition: &baton_client::Partition| format!("{}/{partition}", p.group);
        match event {
            Event::Granted { partition, token, at } => {
                let place = place(partition);
                p.records.push(Record::Grant { at: *at, member: name.into(), partition: place.clone(), token: *token });
                p.held.insert(place.clone(), *token);
                seen.work.grants += 1;
                line = Some(format!("{name} is granted {place} ({token})"));
                let others = seen.processes.iter().filter(|(n, _)| *n != name).flat_map(|(n, o)| o.believes(*at).map(|(q, t)| (q, t, n.as_str()))).filter(|(q, ..)| *q == place);
                verdict = belief::at_once(*at / 1_000_000, others.chain([(place.as_str(), *token, name)]));
            }
            Event::Stopped { partition, token, at, reason } => {
                let place = place(partition);
                p.records.push(Record::Stop { at: *at, member: name.into(), partition: place.clone(), token: *token });
                if p.held.get(&place) == Some(token) { p.held.remove(&place); }
                if *reason != Reason::Revoked { line = Some(format!("{name} loses {place}: {reason:?}")); } else { line = Some(format!("{name} gives {place} back")); }
            }
            Event::Lease { at, deadline } => {
                p.records.push(Record::Lease { at: *at, member: name.into(), deadline: *deadline });
                p.deadline = p.deadline.max(*deadline);
            }
            Event::Joined { member_id, .. } => line = Some(format!("{name} joins as {member_id}")),
            Event::Refused { code, .. } => line = Some(format!("{name} is refused: {code}")),
        }
    }
    if let Some(line) = line { world.event(line); }
    world.verdict(verdict);
}

/// Registers new tokens at the sink before any work, and is sometimes slow to stop.
struct Worker { world: Arc<World>, name: String, group: String }
impl Listener for Worker {
    async fn on_assigned(&self, granted: &[Guard]) { for g in granted { write(&self.world, &self.name, &self.group, g); } }
    async fn on_revoked(&self, _revoked: &[Guard]) {
        let plan = &self.world.plan;
        let slow = thread_rng().gen_range(0..100) < plan.slow_pct;
        sleep(Duration::from_millis(if slow { plan.slow_ms } else { 1 })).await;
    }
}

/// One guarded write. The sink must never refuse somebody whose guard said yes at that very moment.
fn write(world: &World, name: &str, group: &str, guard: &Guard) {
    let Ok(token) = guard.check() else { return };
    let place = format!("{group}/{}", guard.partition());
    let verdict = {
        let mut seen = world.seen();
        seen.work.uses += 1;
        if let Some(p) = seen.processes.get_mut(name) { p.records.push(Record::Use { at: clock::now(), member: name.into(), partition: place.clone(), token }); }
        seen.judge.sink.guarded(&place, token, name)
    };
    world.verdict(verdict);
}

async fn work(world: Arc<World>, name: String, g: u64, leave: Arc<AtomicBool>) {
    let (w, n) = (world.clone(), name.clone());
    let listener = Worker { world: world.clone(), name: name.clone(), group: group(g) };
    let nodes: Vec<String> = NODES.map(http).collect();
    let member = Member::builder(nodes, group(g)).topics([topic(g)]).member_id(&name).rebalance_timeout(Duration::from_secs(8))
        .long_poll(Duration::from_millis(world.plan.long_poll_ms)).listener(listener).on_event(move |e| hear(&w, &n, e)).spawn().await;
    let member = match member {
        Ok(m) => m,
        Err(e) => return world.broken("live", format!("{name} does not start: {e}")),
    };
    let mut fetched: BTreeMap<String, u64> = BTreeMap::new();
    while !leave.load(SeqCst) {
        sleep(Duration::from_millis(thread_rng().gen_range(30..150))).await;
        let guards = member.assignment();
        for guard in &guards { write(&world, &name, &group(g), guard); }
        let Some(guard) = guards.get(thread_rng().gen_range(0..guards.len().max(1))) else { continue };
        let place = format!("{}/{}", group(g), guard.partition());
        if fetched.insert(place.clone(), guard.token()) != Some(guard.token()) {
            fetch(&world, &name, &member, guard, &place).await;
        } else if thread_rng().gen_range(0..100) < world.plan.commit_pct {
            commit(&world, &name, &member, guard, &place).await;
        }
    }
    world.event(format!("{name} leaves"));
    let result = member.leave().await;
    world.event(format!("{name} has left: {result:?}"));
    if let Some(p) = world.seen().processes.get_mut(&name) { p.state = State::Left; }
}

/// Where it begins: at or after everything that was acknowledged before it asked.
async fn fetch(world: &World, name: &str, member: &Member, guard: &Guard, place: &str) {
    let asked = world.seen().judge.commits.ask(place);
    let p = guard.partition();
    if let Ok(found) = member.fetch(Some(&p.topic), Some(p.partition), Duration::from_secs(2)).await {
        let offset = found.first().map(|o| o.offset);
        world.event(format!("{name} fetches {place}: {offset:?}"));
        let verdict = { let mut s = world.seen(); s.work.fetches += 1; s.judge.commits.fetched(place, &asked, offset) };
        world.verdict(verdict);
    }
}

async fn commit(world: &World, name: &str, member: &Member, guard: &Guard, place: &str) {
    let offset = world.seen().judge.commits.next_offset(place);
    match member.commit(&[guard.offset(offset)], Duration::from_millis(1_500)).await {
        Ok(results) if results.first().is_some_and(|r| r.code.is_none()) => {
            world.event(format!("{name} has committed {offset} of {place}"));
            let mut seen = world.seen();
            seen.work.commits += 1;
            seen.judge.commits.acked(place, offset);
        }
        Ok(results) => world.event(format!("{name}'s commit of {place} is refused: {:?}", results.first().and_then(|r| r.code.clone()))),
        // Its outcome is unknown.
        Err(e) => world.event(format!("{name}'s commit {offset} of {place}: {e}")),
    }
}
