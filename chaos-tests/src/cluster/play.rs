//! Plays a plan: the cluster comes up, the acts are done one by one, then everything heals and must come to rest.

use super::{
    acts, disks, judge,
    members::{self, State, group, topic as group_topic},
    order::Clerk,
    plan::{Ms, Plan},
    timers::Gone,
    users::{self, Topics, admin, declare, session},
    world::{NODES, Seen, World, judge_answers},
};
use baton_client::tap;
use baton_coordinator::{ids::{GroupId, MemberId, TopicName}, shard::shard_of};
use baton_core_sim::timeline::Span;
use baton_invariants::{Verdict, belief, broken, state};
use baton_raft::faults;
use madsim::{net::NetSim, rand::{Rng, thread_rng}, task::NodeId, time::sleep};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

/// After the last act: a session, a restart, a rebalance timeout, and slack.
const SETTLE: Ms = 45_000;

pub async fn story(plan: Plan, seen: Arc<Mutex<Seen>>) {
    baton_client::clock::set_source(faults::now_ns);
    let world = World::new(plan, seen);
    let weak = Arc::downgrade(&world);
    faults::on_trap(move |host, point| if let Some(w) = weak.upgrade() && let Some(node) = w.node_at(host) { acts::at_trap(&w, node, point) });
    judge_answers(&world);
    users::tamper(&world);
    tap::set_notes(Clerk(Arc::downgrade(&world)));
    madsim::task::spawn(watch(world.clone()));
    for _ in 0..world.plan.readers { madsim::task::spawn(users::reader(world.clone())); }
    let topics = Arc::new(Mutex::new(BTreeMap::new()));
    if begin(&world, &topics).await {
        for (at, act) in world.plan.acts.clone() {
            wait_until(&world, at).await;
            if world.is_over() { break; }
            let (w, t) = (world.clone(), topics.clone());
            madsim::task::spawn(async move { acts::carry_out(&w, &t, act).await });
        }
        wait_until(&world, world.plan.calm_at).await;
        heal(&world).await;
        settle(&world, &topics).await;
        world.verdict(watched(&world));
    }
    end(&world).await;
}

pub async fn pause(ms: Ms) { sleep(Duration::from_millis(ms)).await }
async fn wait_until(world: &World, at: Ms) { pause(at.saturating_sub(world.now())).await }
/// Runs on the administrator's computer.
pub async fn as_admin<T: Send + 'static>(world: &World, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    world.sim.get_node(world.admin)?.spawn(work).await.ok()
}

/// The cluster forms, topics are declared, the first members start.
async fn begin(world: &Arc<World>, topics: &Topics) -> bool {
    for g in 0..world.plan.groups {
        let mut done = Err(String::new());
        for _ in 0..20 {
            done = declare(world, topics, g, world.plan.partitions).await;
            if done.is_ok() { break; }
            pause(250).await;
        }
        if let Err(e) = done {
            world.broken("live", format!("the cluster does not form: {e}"));
            return false;
        }
        session(world, g, world.plan.session_ms).await;
        for _ in 0..world.plan.members { members::start(world, g); }
    }
    true
}

/// Looks at every node's state all the time.
async fn watch(world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(thread_rng().gen_range(5..25))).await;
        let verdict = look(&world);
        let news = std::mem::take(&mut world.seen().judge.news);
        news.into_iter().for_each(|line| world.event(line));
        world.verdict(verdict);
    }
}
fn look(world: &World) -> Verdict {
    let now = world.now();
    let old_versions: BTreeSet<u64> = NODES.filter(|n| world.care(*n, |c| c.old_version)).collect();
    let mut seen = world.seen();
    let seen = &mut *seen;
    seen.now_ms = now;
    let processes = &seen.processes;
    // Gone for another reason than its session: it left, was removed, or shares its id.
    let gone = |g: &GroupId, m: &MemberId| {
        let its: Vec<&members::Process> = processes.values().filter(|p| p.member_id == m.as_str() && p.group == g.as_str()).collect();
        let went = its.is_empty() || its.iter().any(|p| p.removed || matches!(p.state, State::Leaving | State::Left));
        // A clock that stands still never comes to its deadline: that process believes what it should not.
        Gone { went, deadline: its.iter().filter(|p| !p.clock_stopped).map(|p| faults::true_ms(p.deadline)).max().unwrap_or(0) }
    };
    for (id, node) in &seen.nodes {
        for no in 0..world.plan.shards {
            let Some((leader, term, stopped)) = node.standing(no) else { continue };
            if leader == Some(*id) { seen.judge.leads(*id, no, term)?; }
            if let Some(why) = stopped.filter(|_| !old_versions.contains(id)) { return broken("live", format!("node {id} has stopped shard {no}: {why}")); }
            let verdict = node.inspect(no, |shard| {
                seen.judge.state.sampled(*id, no, shard)?;
                seen.timers.look(no, shard, now, gone)
            });
            if let Some((_, verdict)) = verdict { verdict?; }
        }
    }
    for (point, what, busy) in [("installation in the store", "snapshot installed", "snapshot installed in a rebalance"), ("log about to be purged", "log purged", "log purged in a rebalance")] {
        let count = faults::counted(point);
        if count > seen.fired.0.get(what).copied().unwrap_or(0) {
            seen.fired.0.insert(what, count);
            let rebalancing = |n: &baton_node::Node| (0..world.plan.shards).any(|s| n.inspect(s, |shard| shard.state().groups.values().any(|g| g.members.values().any(|m| m.epoch < g.target_epoch || !m.pending.is_empty()))).is_some_and(|(_, yes)| yes));
            if seen.nodes.values().any(rebalancing) { seen.fired.hit(busy); }
        }
    }
    Ok(())
}

/// The processes that live, in the order of their start.
pub fn living(world: &World) -> Vec<String> {
    let seen = world.seen();
    let mut all: Vec<(Ms, String)> = seen.processes.iter().filter(|(_, p)| p.state == State::Working).map(|(n, p)| (p.started, n.clone())).collect();
    all.sort();
    all.into_iter().map(|(_, n)| n).collect()
}
pub fn shard(world: &World, n: u64) -> u16 { (n % u64::from(world.plan.shards)) as u16 }

/// All links, nodes and processes are well from here on.
async fn heal(world: &Arc<World>) {
    world.well.store(u64::MAX, SeqCst);
    let end = world.now() + 60_000;
    while world.acts_out.load(SeqCst) > 0 && world.now() < end && !world.is_over() { pause(50).await; }
    world.event("everything heals".into());
    world.well.store(world.now(), SeqCst);
    let net = NetSim::current();
    net.update_config(|c| c.packet_loss_rate = 0.0);
    acts::usual_latency();
    for n in NODES {
        world.cut(n, true);
        disks::heal(world, n);
        faults::set_trap(world.host(n), None);
        faults::change(world.host(n), |h| h.holds_back = None);
        if world.is_up(n) {
            world.care(n, |c| c.may_end = false);
            world.sim.resume(world.host(n));
        } else if !world.care(n, |c| c.out) {
            world.kill(n, true);
            world.restart(n);
        }
    }
    // Of two processes with one id one will never be let in: the newest is the one that was wanted.
    let mut newest: BTreeMap<String, (Ms, String)> = BTreeMap::new();
    for (name, p) in world.seen().processes.iter().filter(|(_, p)| p.lives()) {
        let at = newest.entry(p.member_id.clone()).or_default();
        *at = at.clone().max((p.started, name.clone()));
    }
    let keep: BTreeSet<String> = newest.into_values().map(|(_, n)| n).collect();
    let all: Vec<(String, NodeId)> = world.seen().processes.iter().filter(|(_, p)| p.lives()).map(|(n, p)| (n.clone(), p.host)).collect();
    for (name, h) in all {
        if !keep.contains(&name) { members::kill(world, &name); continue; }
        net.unclog_node(h);
        for n in NODES.map(|n| world.host(n)) { net.unclog_link(h, n); net.unclog_link(n, h); }
        world.sim.resume(h);
    }
}

/// Waits until everything is owned again, for a while longer where old copies of requests are still to come; then nothing acknowledged may be missing.
async fn settle(world: &Arc<World>, topics: &Topics) {
    for g in 0..world.plan.groups {
        let wanted = topics.lock().expect("no holder panics").get(&TopicName::from(group_topic(g).as_str())).copied();
        for _ in 0..40 {
            if world.is_over() || declare(world, topics, g, wanted.unwrap_or(1)).await.is_ok() { break; }
            pause(250).await;
        }
    }
    rest(world, topics).await;
    if world.plan.quiet_ms > 0 && !world.is_over() {
        pause(world.plan.quiet_ms).await;
        rest(world, topics).await;
    }
    world.over.store(true, SeqCst);
    world.verdict(same_histories(world));
    for g in 0..world.plan.groups {
        if world.is_over() { return; }
        // Before the question: what is acknowledged meanwhile may or may not be in its answer.
        let owed = world.seen().judge.commits.clone();
        let within = format!("{}/", group(g));
        if owed.lost(&within, &BTreeMap::new()).is_empty() { continue; }
        let found = as_admin(world, async move { admin().get(&format!("/v1/groups/{}/offsets", group(g))).await }).await;
        let Some(Ok((200, body))) = found else { return world.broken("live", format!("the offsets of {} cannot be read at the end: {found:?}", group(g))) };
        let committed: BTreeMap<String, i64> = body["offsets"].as_array().into_iter().flatten()
            .filter_map(|o| Some((format!("{}/{}:{}", group(g), o["topic"].as_str()?, o["partition"]), o["offset"].as_i64()?))).collect();
        for what in owed.lost(&within, &committed) { world.broken("durable", what); }
    }
}
/// Whoever judges must have had something to look at: without evidence everything is in order.
fn watched(world: &World) -> Verdict {
    let seen = world.seen();
    for (what, n) in [("grant", seen.work.grants), ("write to a sink", seen.work.uses), ("lease", seen.work.leases), ("answer under a lease", seen.work.answers)] {
        if n == 0 { return broken("live", format!("no {what} was seen in the whole story")); }
    }
    match (0..world.plan.shards).find(|s| seen.judge.newest_term(*s) == 0) {
        Some(s) => broken("live", format!("nobody was seen to lead shard {s} in the whole story")),
        None => Ok(()),
    }
}
/// History is kept beside the state, in memory and in checkpoints: every node has all records that the state says there are, and the same ones (`safety.md` 29).
fn same_histories(world: &World) -> Verdict {
    let seen = world.seen();
    for g in 0..world.plan.groups {
        let id = GroupId::from(group(g).as_str());
        let mut first = None;
        for (n, node) in &seen.nodes {
            let Some((numbers, found)) = node.history(&id) else { continue };
            let found = match found {
                Ok(found) => found,
                Err(e) => return broken("live", format!("node {n} cannot read the history of {id}: {e}")),
            };
            state::history_is_whole(*n, &id, &numbers, found.len())?;
            let (_, other) = first.get_or_insert_with(|| (*n, (numbers.clone(), found.clone())));
            // Whoever has applied less is not at rest, and was looked for before.
            if other.0 == numbers && other.1 != found { return broken("replicas-agree", format!("node {n} keeps another history of {id} than others")); }
        }
    }
    Ok(())
}
async fn rest(world: &Arc<World>, topics: &Topics) {
    let end = world.now() + SETTLE;
    let mut calm = 0;
    while !world.is_over() && calm < 3 {
        pause(250).await;
        match at_rest(world, &topics.lock().expect("no holder panics")) {
            Ok(()) => calm += 1,
            Err(why) if world.now() > end => return world.verdict(Err(why)),
            Err(_) => calm = 0,
        }
    }
}

/// All nodes serve and agree; every living member can commit and believes exactly what the state gives it; every partition is owned.
fn at_rest(world: &World, topics: &BTreeMap<TopicName, i32>) -> Verdict {
    let wanted = world.members();
    let seen = world.seen();
    if seen.nodes.keys().copied().collect::<BTreeSet<u64>>() != wanted { return broken("live", format!("only nodes {:?} are up", seen.nodes.keys())); }
    for (id, n) in &seen.nodes {
        if let Err(why) = n.ready() { return broken("live", format!("node {id} is not ready: {why}")); }
    }
    let now = faults::true_now_ns();
    for g in 0..world.plan.groups {
        let living: BTreeMap<&str, &members::Process> = seen.processes.iter().filter(|(_, p)| p.lives() && p.group == group(g)).map(|(_, p)| (p.member_id.as_str(), p)).collect();
        if let Some((n, _)) = living.iter().find(|(_, p)| p.state == State::Leaving) { return broken("live", format!("{n} has not left yet")); }
        // Whoever commits often has had one taken by now: to believe is not enough.
        let idle = |p: &members::Process| world.plan.commit_pct >= 40 && p.committed < world.well.load(SeqCst) && p.believes(now).next().is_some();
        if let Some((n, _)) = living.iter().find(|(_, p)| idle(p)) { return broken("live", format!("no commit of {n} was taken since all is well")); }
        let no = shard_of(&GroupId::from(group(g).as_str()), world.plan.shards);
        let mut levels = BTreeSet::new();
        for (id, n) in &seen.nodes {
            let checked = n.inspect(no, |shard| {
                let id = GroupId::from(group(g).as_str());
                let found = shard.group(&id);
                let names: BTreeSet<&str> = found.iter().flat_map(|x| x.members.keys().map(|m| m.as_str())).collect();
                if names != living.keys().copied().collect() { return broken("live", format!("{id}: members {names:?}, living {:?}", living.keys())); }
                if living.is_empty() { return Ok(()); }
                judge::complete(shard, &group(g), topics)?;
                for (m, x) in found.iter().flat_map(|x| &x.members) {
                    let wanted: BTreeMap<String, u64> = x.assigned.iter().map(|(p, t)| (format!("{id}/{p}"), t.token.0)).collect();
                    let believed: BTreeMap<String, u64> = living[m.as_str()].believes(now).map(|(p, t)| (p.to_string(), t)).collect();
                    if wanted != believed { return broken("live", format!("{m} believes {believed:?}, the state has {wanted:?}")); }
                }
                Ok(())
            });
            let Some((applied, verdict)) = checked else { return broken("live", format!("node {id} has no shard {no}")) };
            levels.insert(applied);
            verdict?;
        }
        if levels.len() != 1 { return broken("live", format!("the nodes have applied {levels:?} of shard {no}")); }
    }
    Ok(())
}

/// Everything stops inside the simulation, then the beliefs are laid side by side.
async fn end(world: &Arc<World>) {
    let now = world.now();
    for what in ["message of a peer twice", "timer late", "sync on a slow disk"] {
        if let n @ 1.. = faults::counted(what) { world.seen().fired.0.insert(what, n); }
    }
    let hosts: Vec<_> = world.seen().processes.values().map(|p| p.host).collect();
    let records: Vec<belief::Process> = world.seen().processes.values().filter_map(|p| p.as_judged()).collect();
    world.seen().nodes.clear();
    for n in NODES { world.sim.kill(world.host(n)); }
    for h in hosts { world.sim.kill(h); }
    let (beliefs, wrong) = belief::judged(&records);
    let ms = |ns: u64| faults::true_ms(ns).min(now);
    world.seen().timeline.spans = beliefs.iter()
        .map(|b| Span { row: b.partition.clone(), who: b.member.clone(), token: b.token, from: ms(b.from), to: ms(b.to), end: format!("{:?}", b.end) }).collect();
    if let Some(v) = wrong.first() { world.broken(v.invariant(), v.to_string()); }
    // Last: what else broke says more of why.
    let (report, verdict) = world.seen().order.check();
    let at = report.broke.map_or(now, |ns| ns / 1_000_000);
    world.seen().ordered = report;
    if let Err(b) = verdict { world.broken_at(at, b.invariant, b.what); }
    pause(10).await;
    world.seen().now_ms = now;
}
