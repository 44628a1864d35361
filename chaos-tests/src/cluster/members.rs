//! Worker processes: the real client library on a computer of its own, a worker that asks its guard before every write to the sink, fetches
//! where it begins and commits as it goes. What the library says it believes is written down.

use super::{plan::Ms, world::{World, http, NODES}};
use baton_invariants::belief::{self, Record};
use baton_client::{Event, Guard, Listener, Member, Reason};
use baton_raft::faults;
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
    pub member_id: String,
    pub host: NodeId,
    pub started: Ms,
    pub state: State,
    pub records: Vec<Record>,
    pub killed_at: Option<u64>,
    /// Place → token, by its own events.
    pub held: BTreeMap<String, u64>,
    pub deadline: u64,
    /// When a commit of it was taken last.
    pub committed: Ms,
    /// An administrator removed it, or another process has its id: it may be gone from the group without its session's end.
    pub removed: bool,
    /// Its clock stands still: it believes what it should not, and only the sink can stop it.
    pub clock_stopped: bool,
    leave: Arc<AtomicBool>,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State { Working, Leaving, Left, Dead }

impl Process {
    /// What it may use at `now` (ns).
    pub fn believes(&self, now: u64) -> impl Iterator<Item = (&str, u64)> {
        let may = now < self.deadline && self.state != State::Dead && !self.clock_stopped;
        self.held.iter().filter(move |_| may).map(|(p, t)| (p.as_str(), *t))
    }
    pub fn lives(&self) -> bool { matches!(self.state, State::Working | State::Leaving) }
    /// All times are of the clock without drift.
    pub fn as_judged(&self) -> Option<belief::Process> { (!self.clock_stopped).then(|| belief::Process { records: self.records.clone(), killed_at: self.killed_at }) }
}

pub fn group(n: u64) -> String { format!("g{n}") }
pub fn topic(n: u64) -> String { format!("t{n}") }

/// Starts a process in group `g`, under a new name.
pub fn start(world: &Arc<World>, g: u64) -> String {
    let name = format!("w{}", world.seen().processes.len());
    start_as(world, name.clone(), name, g)
}
/// Starts a process with an instance id. `dead`: its operator says that the one before is.
pub fn start_instance(world: &Arc<World>, g: u64, instance: &str, dead: bool) -> String {
    let name = format!("w{}", world.seen().processes.len());
    start_with(world, name.clone(), name, g, Some((instance.to_string(), dead)))
}
/// Starts a second process under the id of another.
pub fn twin(world: &Arc<World>, first: &str) -> Option<String> {
    let (g, member_id) = {
        let mut seen = world.seen();
        let p = seen.processes.get_mut(first)?;
        p.removed = true;
        (p.group.trim_start_matches('g').parse().ok()?, p.member_id.clone())
    };
    let name = format!("w{}", world.seen().processes.len());
    let name = start_as(world, name, member_id, g);
    if let Some(p) = world.seen().processes.get_mut(&name) { p.removed = true; }
    Some(name)
}
fn start_as(world: &Arc<World>, name: String, member_id: String, g: u64) -> String { start_with(world, name, member_id, g, None) }
fn start_with(world: &Arc<World>, name: String, member_id: String, g: u64, instance: Option<(String, bool)>) -> String {
    let computer = world.computer(&name);
    let leave = Arc::new(AtomicBool::new(false));
    let process = Process {
        group: group(g), member_id: member_id.clone(), removed: false, clock_stopped: false, host: computer.id(), started: world.now(), state: State::Working, records: Vec::new(), killed_at: None,
        held: BTreeMap::new(), deadline: 0, committed: 0, leave: leave.clone(),
    };
    world.seen().processes.insert(name.clone(), process);
    world.event(format!("{name} starts in {}{}", group(g), if name == member_id { String::new() } else { format!(" as {member_id}") }));
    if let Some((i, _)) = &instance { world.event(format!("{name} has the instance id {i}")); }
    computer.spawn(work(world.clone(), name.clone(), member_id, g, instance, leave));
    name
}

pub fn leave(world: &World, name: &str) {
    let mut seen = world.seen();
    if let Some(p) = seen.processes.get_mut(name).filter(|p| p.state == State::Working) {
        p.state = State::Leaving;
        p.leave.store(true, SeqCst);
    }
}

pub fn kill(world: &World, name: &str) {
    let Some(host) = world.seen().processes.get_mut(name).filter(|p| p.state != State::Dead).map(|p| { (p.state, p.killed_at) = (State::Dead, Some(faults::true_now_ns())); p.host }) else { return };
    world.event(format!("{name} is killed"));
    world.sim.kill(host);
}

/// What the library says, written down at once.
fn hear(world: &Arc<World>, name: &str, event: &Event) {
    let mut verdict = Ok(());
    let (mut line, mut zombie) = (None, None);
    {
        let mut seen = world.seen();
        let seen = &mut *seen;
        let Some(p) = seen.processes.get_mut(name) else { return };
        if p.state == State::Dead { return; }
        // What a member says is of its own clock; it is judged by the true one.
        let host = p.host;
        let when = |at: u64| faults::to_true_ns(host, at);
        let place = |partition: &baton_client::Partition| format!("{}/{partition}", p.group);
        match event {
            Event::Granted { partition, token, .. } => {
                let (place, at) = (place(partition), &faults::true_now_ns());
                p.records.push(Record::Grant { at: *at, member: name.into(), partition: place.clone(), token: *token });
                p.held.insert(place.clone(), *token);
                seen.work.grants += 1;
                line = Some(format!("{name} is granted {place} ({token})"));
                let others = seen.processes.iter().filter(|(n, _)| *n != name).flat_map(|(n, o)| o.believes(*at).map(|(q, t)| (q, t, n.as_str()))).filter(|(q, ..)| *q == place);
                verdict = belief::at_once(faults::true_ms(*at), others.chain([(place.as_str(), *token, name)]));
            }
            Event::Stopped { partition, token, at, reason } => {
                let place = place(partition);
                p.records.push(Record::Stop { at: when(*at), member: name.into(), partition: place.clone(), token: *token });
                if p.held.get(&place) == Some(token) { p.held.remove(&place); }
                if [Reason::Lapsed, Reason::Fenced].contains(reason) && thread_rng().gen_range(0..100) < world.plan.zombie_pct { zombie = Some((place.clone(), *token)); }
                if *reason != Reason::Revoked { line = Some(format!("{name} loses {place}: {reason:?}")); } else { line = Some(format!("{name} gives {place} back")); }
            }
            Event::Lease { deadline, .. } => {
                let deadline = when(*deadline);
                p.records.push(Record::Lease { at: faults::true_now_ns(), member: name.into(), deadline });
                p.deadline = p.deadline.max(deadline);
            }
            Event::Joined { member_id, .. } => line = Some(format!("{name} joins as {member_id}")),
            Event::Refused { code, .. } => line = Some(format!("{name} is refused: {code}")),
        }
    }
    if let Some(line) = line { world.event(line); }
    if let Some((place, token)) = zombie { madsim::task::spawn(work_on(world.clone(), name.to_string(), place, token)); }
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

/// A zombie works on under a token that it has lost. The sink refuses it as soon as somebody else has begun.
async fn work_on(world: Arc<World>, name: String, place: String, token: u64) {
    for _ in 0..20 {
        sleep(Duration::from_millis(thread_rng().gen_range(50..600))).await;
        if world.seen().judge.sink.highest(&place) > token {
            world.fired("zombie refused by the sink");
            return world.event(format!("the sink of {place} refuses {name}, which works on under {token}"));
        }
    }
}

/// One guarded write. The sink must never refuse somebody whose guard said yes at that very moment.
fn write(world: &World, name: &str, group: &str, guard: &Guard) {
    let Ok(token) = guard.check() else { return };
    let place = format!("{group}/{}", guard.partition());
    let verdict = {
        let mut seen = world.seen();
        seen.work.uses += 1;
        let stopped = seen.processes.get(name).is_some_and(|p| p.clock_stopped);
        if stopped && seen.judge.sink.highest(&place) > token {
            seen.fired.hit("zombie refused by the sink");
            return;
        }
        if let Some(p) = seen.processes.get_mut(name) { p.records.push(Record::Use { at: faults::true_now_ns(), member: name.into(), partition: place.clone(), token }); }
        seen.judge.sink.guarded(&place, token, name)
    };
    world.verdict(verdict);
}

async fn work(world: Arc<World>, name: String, member_id: String, g: u64, instance: Option<(String, bool)>, leave: Arc<AtomicBool>) {
    let (w, n) = (world.clone(), name.clone());
    let listener = Worker { world: world.clone(), name: name.clone(), group: group(g) };
    let nodes: Vec<String> = NODES.map(http).collect();
    let mut builder = Member::builder(nodes, group(g));
    if let Some((instance, dead)) = instance { builder = builder.instance_id(instance).predecessor_dead(dead); }
    let member = builder.topics([topic(g)]).member_id(&member_id).rebalance_timeout(Duration::from_secs(8))
        .long_poll(Duration::from_millis(world.plan.long_poll_ms)).listener(listener).on_event(move |e| hear(&w, &n, e)).spawn().await;
    let member = match member {
        Ok(m) => m,
        Err(e) => return world.broken("live", format!("{name} does not start: {e}")),
    };
    let mut fetched: BTreeMap<String, u64> = BTreeMap::new();
    while !leave.load(SeqCst) {
        // A crowd is as busy as a few.
        let crowd = (world.plan.members * world.plan.groups).div_ceil(6).max(1);
        sleep(Duration::from_millis(thread_rng().gen_range(30..150) * crowd)).await;
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

/// Where it begins. Whether the answer fits everything that was acknowledged is the judge of order's to say.
async fn fetch(world: &World, name: &str, member: &Member, guard: &Guard, place: &str) {
    let p = guard.partition();
    if let Ok(found) = member.fetch(Some(&p.topic), Some(p.partition), Duration::from_secs(2)).await {
        world.event(format!("{name} fetches {place}: {:?}", found.first().map(|o| o.offset)));
        world.seen().work.fetches += 1;
    }
}

async fn commit(world: &World, name: &str, member: &Member, guard: &Guard, place: &str) {
    let (offset, deletions) = { let mut seen = world.seen(); (seen.judge.commits.next_offset(place), seen.deletions) };
    match member.commit(&[guard.offset(offset)], Duration::from_millis(1_500)).await {
        Ok(results) if results.first().is_some_and(|r| r.code.is_none()) => {
            world.event(format!("{name} has committed {offset} of {place}"));
            let mut seen = world.seen();
            seen.work.commits += 1;
            if let Some(p) = seen.processes.get_mut(name) { p.committed = world.now(); }
            if seen.owes(deletions) { seen.judge.commits.acked(place, offset); }
        }
        Ok(results) => world.event(format!("{name}'s commit of {place} is refused: {:?}", results.first().and_then(|r| r.code.clone()))),
        // Its outcome is unknown.
        Err(e) => world.event(format!("{name}'s commit {offset} of {place}: {e}")),
    }
}
