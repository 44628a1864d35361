//! Plays a plan: the cluster comes up, the acts are done one by one, then everything heals and must come to rest.

use super::{
    judge,
    members::{self, State, group, topic},
    plan::{Act, Ms, Plan},
    world::{NODES, Seen, World, http},
};
use baton_client::Admin;
use baton_coordinator::{ids::{GroupId, TopicName}, shard::shard_of};
use baton_core_sim::timeline::Span;
use baton_invariants::{Verdict, belief, broken};
use madsim::{net::NetSim, rand::{Rng, thread_rng}, time::sleep};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

/// After the last act: a session, a restart, a rebalance timeout, and slack.
const SETTLE: Ms = 45_000;

pub async fn story(plan: Plan, seen: Arc<Mutex<Seen>>) {
    let world = World::new(plan, seen);
    madsim::task::spawn(watch(world.clone()));
    let topics = Arc::new(Mutex::new(BTreeMap::new()));
    if begin(&world, &topics).await {
        for (at, act) in world.plan.acts.clone() {
            wait_until(&world, at).await;
            if world.is_over() { break; }
            world.fired(act.kind());
            let (w, t) = (world.clone(), topics.clone());
            madsim::task::spawn(async move { carry_out(&w, &t, act).await });
        }
        wait_until(&world, world.plan.calm_at).await;
        heal(&world).await;
        settle(&world, &topics).await;
    }
    end(&world).await;
}

async fn pause(ms: Ms) { sleep(Duration::from_millis(ms)).await }
async fn wait_until(world: &World, at: Ms) { pause(at.saturating_sub(world.now())).await }
fn admin() -> Admin { Admin::new(NODES.map(http)).expect("three addresses with ports") }
/// Runs on the administrator's computer.
async fn as_admin<T: Send + 'static>(world: &World, work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    world.sim.get_node(world.admin)?.spawn(work).await.ok()
}

type Topics = Arc<Mutex<BTreeMap<TopicName, i32>>>;
fn set_topic(topics: &Topics, name: &str, partitions: i32) { topics.lock().expect("no holder panics").insert(TopicName::from(name), partitions); }

async fn declare(world: &World, topics: &Topics, g: u64, partitions: i32) -> Result<(), String> {
    let done = as_admin(world, async move { admin().declare_topic(&topic(g), partitions).await }).await;
    match done {
        Some(Ok(())) => { set_topic(topics, &topic(g), partitions); Ok(()) }
        other => Err(format!("{other:?}")),
    }
}
async fn session(world: &World, g: u64, ms: Ms) {
    let body = json!({"consumer.session.timeout.ms": ms, "consumer.heartbeat.interval.ms": 500});
    let done = as_admin(world, async move { admin().patch(&format!("/v1/groups/{}/config", group(g)), &body).await }).await;
    world.event(format!("the session of {} becomes {ms} ms: {:?}", group(g), done.map(|d| d.map(|(status, _)| status))));
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
        sleep(Duration::from_millis(thread_rng().gen_range(3..20))).await;
        let verdict = look(&world);
        let news = std::mem::take(&mut world.seen().judge.news);
        news.into_iter().for_each(|line| world.event(line));
        world.verdict(verdict);
    }
}
fn look(world: &World) -> Verdict {
    let now = world.now();
    let mut seen = world.seen();
    let seen = &mut *seen;
    seen.now_ms = now;
    for (id, node) in &seen.nodes {
        for s in &node.cluster().shards {
            if s.leader == Some(*id) { seen.judge.leads(*id, s.shard, s.term)?; }
            if let Some(why) = &s.stopped { return broken("live", format!("node {id} has stopped shard {}: {why}", s.shard)); }
            if let Some((_, verdict)) = node.inspect(s.shard, |shard| seen.judge.state.sampled(*id, s.shard, shard)) { verdict?; }
        }
    }
    Ok(())
}

/// The processes that live, in the order of their start.
fn living(world: &World) -> Vec<String> {
    let seen = world.seen();
    let mut all: Vec<(Ms, String)> = seen.processes.iter().filter(|(_, p)| p.state == State::Working).map(|(n, p)| (p.started, n.clone())).collect();
    all.sort();
    all.into_iter().map(|(_, n)| n).collect()
}
fn victim(world: &World, n: u64) -> Option<String> {
    let all = living(world);
    all.get(n as usize % all.len().max(1)).cloned()
}
fn shard(world: &World, n: u64) -> u16 { (n % u64::from(world.plan.shards)) as u16 }

async fn carry_out(world: &Arc<World>, topics: &Topics, act: Act) {
    world.event(format!("act: {act:?}"));
    match act {
        Act::KillLeader { shard: s, down } => if let Some(n) = world.leader(shard(world, s)) { bounce(world, &[n], down, false).await },
        Act::KillNode { node, down } => bounce(world, &[node], down, false).await,
        Act::KillAll { down } => bounce(world, &NODES.collect::<Vec<_>>(), down, false).await,
        Act::DieAtOperation { node, op, down } => {
            world.die_at(node, op);
            pause(400).await;
            bounce(world, &[node], down, false).await;
        }
        Act::PauseNode { node, ms } => hold(world, node, ms).await,
        Act::PauseLeader { shard: s, ms } => if let Some(n) = world.leader(shard(world, s)) { hold(world, n, ms).await },
        Act::CutLeader { shard: s, ms } => if let Some(n) = world.leader(shard(world, s)) {
            world.cut(n, false);
            pause(ms).await;
            world.cut(n, true);
        },
        Act::Split { shard: s, odd, ms } => if let Some(n) = world.leader(shard(world, s)) {
            let net = NetSim::current();
            let hosts: Vec<_> = living(world).iter().filter_map(|m| world.seen().processes.get(m).map(|p| p.host)).collect();
            let across = |up: bool| for (i, h) in hosts.iter().enumerate() {
                let with_leader = i.is_multiple_of(2) != odd;
                for node in NODES.filter(|o| (*o == n) != with_leader).map(|o| world.host(o)) {
                    if up { net.unclog_link(*h, node); net.unclog_link(node, *h) } else { net.clog_link(*h, node); net.clog_link(node, *h) }
                }
            };
            world.cut(n, false);
            across(false);
            pause(ms).await;
            world.cut(n, true);
            across(true);
        },
        Act::CutOneWay { from, to, ms } => {
            world.one_way(from, to, false);
            pause(ms).await;
            world.one_way(from, to, true);
        }
        Act::Flap { a, b, times, ms } => for _ in 0..times {
            world.link(a, b, false);
            pause(ms).await;
            world.link(a, b, true);
            pause(ms).await;
        },
        Act::Bounce { shard: s } => if let Some(leader) = world.leader(shard(world, s)) {
            let (first, second) = (leader % 3 + 1, (leader + 1) % 3 + 1);
            world.link(leader, first, false);
            pause(thread_rng().gen_range(600..1_500)).await;
            world.link(leader, second, false);
            bounce(world, &[second], 1, true).await;
            pause(thread_rng().gen_range(800..2_000)).await;
            world.link(leader, first, true);
            world.link(leader, second, true);
        },
        Act::Loss { per_mille, ms } => {
            NetSim::current().update_config(|c| c.packet_loss_rate = per_mille as f64 / 1_000.0);
            pause(ms).await;
            NetSim::current().update_config(|c| c.packet_loss_rate = 0.0);
        }
        Act::Latency { most, ms } => {
            NetSim::current().update_config(|c| c.send_latency = Duration::from_millis(1)..Duration::from_millis(most));
            pause(ms).await;
            usual_latency();
        }
        Act::Transfer { shard: s, to } => {
            let node = world.seen().nodes.values().next().cloned();
            if let Some(node) = node {
                let (s, host) = (shard(world, s), world.host(node.cluster().node));
                if let Some(h) = world.sim.get_node(host) { h.spawn(async move { node.transfer(s, to).await }).await.ok(); }
            }
        }
        Act::RollingRestart { down } => for n in NODES {
            bounce(world, &[n], down, true).await;
            pause(1_500).await;
        },
        Act::Join { group: g } => { members::start(world, g % world.plan.groups); }
        Act::Leave { member } => if let Some(m) = victim(world, member) { members::leave(world, &m) },
        Act::KillMember { member } => if let Some(m) = victim(world, member) { members::kill(world, &m) },
        Act::CutMember { member, how, ms } => if let Some(host) = victim(world, member).and_then(|m| world.seen().processes.get(&m).map(|p| p.host)) {
            let net = NetSim::current();
            match how { 0 => net.clog_node(host), 1 => net.clog_node_out(host), _ => net.clog_node_in(host) }
            pause(ms).await;
            net.unclog_node(host);
        },
        Act::PauseMember { member, ms } => if let Some((m, host)) = victim(world, member).and_then(|m| world.seen().processes.get(&m).map(|p| (m.clone(), p.host))) {
            world.sim.pause(host);
            pause(ms).await;
            if world.seen().processes.get(&m).is_some_and(|p| p.state != State::Dead) { world.sim.resume(host); }
        },
        Act::GrowTopic { group: g } => {
            let g = g % world.plan.groups;
            let have = topics.lock().expect("no holder panics").get(&TopicName::from(topic(g).as_str())).copied().unwrap_or(1);
            if have < 16 { world.event(format!("{} grows to {}: {:?}", topic(g), have + 1, declare(world, topics, g, have + 1).await)); }
        }
        Act::RemoveMember { member } => if let Some(m) = victim(world, member) {
            let path = world.seen().processes.get(&m).map(|p| format!("/v1/groups/{}/members/{m}?force=true", p.group)).unwrap_or_default();
            let done = as_admin(world, async move { admin().delete(&path).await }).await;
            world.event(format!("{m} is removed: {:?}", done.map(|d| d.map(|(status, _)| status))));
        },
        Act::Session { group: g, ms } => session(world, g % world.plan.groups, ms).await,
    }
}

async fn bounce(world: &World, nodes: &[u64], down: Ms, gently: bool) {
    for n in nodes { world.kill(*n, gently); }
    pause(down).await;
    // Somebody else may have started it meanwhile.
    for n in nodes { if world.sim.is_exit(world.host(*n)) { world.restart(*n); } }
}
async fn hold(world: &World, node: u64, ms: Ms) {
    world.event(format!("node {node} is paused"));
    world.sim.pause(world.host(node));
    pause(ms).await;
    world.event(format!("node {node} goes on"));
    if !world.sim.is_exit(world.host(node)) { world.sim.resume(world.host(node)); }
}
fn usual_latency() { NetSim::current().update_config(|c| c.send_latency = Duration::from_millis(1)..Duration::from_millis(10)); }

/// All links, nodes and processes are well from here on.
async fn heal(world: &World) {
    world.event("everything heals".into());
    let net = NetSim::current();
    net.update_config(|c| c.packet_loss_rate = 0.0);
    usual_latency();
    for n in NODES {
        world.cut(n, true);
        if world.seen().nodes.contains_key(&n) {
            world.die_at(n, 0);
            world.sim.resume(world.host(n));
        } else {
            world.kill(n, true);
            world.restart(n);
        }
    }
    let hosts: Vec<_> = world.seen().processes.values().filter(|p| p.lives()).map(|p| p.host).collect();
    for h in hosts {
        net.unclog_node(h);
        for n in NODES.map(|n| world.host(n)) { net.unclog_link(h, n); net.unclog_link(n, h); }
        world.sim.resume(h);
    }
}

/// Waits until everything is owned again; then nothing acknowledged may be missing.
async fn settle(world: &Arc<World>, topics: &Topics) {
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
    for g in 0..world.plan.groups {
        if world.is_over() { return; }
        let found = as_admin(world, async move { admin().get(&format!("/v1/groups/{}/offsets", group(g))).await }).await;
        let Some(Ok((200, body))) = found else { return world.broken("live", format!("the offsets of {} cannot be read at the end: {found:?}", group(g))) };
        let committed: BTreeMap<String, i64> = body["offsets"].as_array().into_iter().flatten()
            .filter_map(|o| Some((format!("{}/{}:{}", group(g), o["topic"].as_str()?, o["partition"]), o["offset"].as_i64()?))).collect();
        let lost = world.seen().judge.commits.lost(&format!("{}/", group(g)), &committed);
        for what in lost { world.broken("durable", what); }
    }
}

/// All nodes serve and agree; every living member believes exactly what the state gives it; every partition is owned.
fn at_rest(world: &World, topics: &BTreeMap<TopicName, i32>) -> Verdict {
    let seen = world.seen();
    if seen.nodes.len() != 3 { return broken("live", format!("only {} nodes are up", seen.nodes.len())); }
    for (id, n) in &seen.nodes {
        if let Err(why) = n.ready() { return broken("live", format!("node {id} is not ready: {why}")); }
    }
    let now = baton_client::clock::now();
    for g in 0..world.plan.groups {
        let living: BTreeMap<&str, &members::Process> = seen.processes.iter().filter(|(_, p)| p.lives() && p.group == group(g)).map(|(n, p)| (n.as_str(), p)).collect();
        if let Some((n, _)) = living.iter().find(|(_, p)| p.state == State::Leaving) { return broken("live", format!("{n} has not left yet")); }
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
    let hosts: Vec<_> = world.seen().processes.values().map(|p| p.host).collect();
    let records: Vec<belief::Process> = world.seen().processes.values().map(|p| p.as_judged()).collect();
    world.seen().nodes.clear();
    for n in NODES { world.sim.kill(world.host(n)); }
    for h in hosts { world.sim.kill(h); }
    let (beliefs, wrong) = belief::judged(&records);
    let ms = |ns: u64| ns.min(now * 1_000_000) / 1_000_000;
    world.seen().timeline.spans = beliefs.iter()
        .map(|b| Span { row: b.partition.clone(), who: b.member.clone(), token: b.token, from: ms(b.from), to: ms(b.to), end: format!("{:?}", b.end) }).collect();
    if let Some(v) = wrong.first() { world.broken(v.invariant(), v.to_string()); }
    pause(10).await;
    world.seen().now_ms = now;
}
