//! What members, administrators and those who only look things up do, and what the network does to their requests.

use super::{
    act::Act,
    members::{self, State, group, topic},
    plan::Ms,
    play::{as_admin, living, pause},
    stories,
    world::{NODES, World, http},
};
use baton_client::{Admin, Error, tap::{self, Fate}};
use baton_coordinator::{ids::{GroupId, TopicName}, shard::shard_of};
use baton_raft::faults;
use madsim::{net::NetSim, rand::{Rng, thread_rng}, task::NodeId};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

/// As the declarations say.
pub type Topics = Arc<Mutex<BTreeMap<TopicName, i32>>>;
fn set_topic(topics: &Topics, name: &str, partitions: i32) { topics.lock().expect("no holder panics").insert(TopicName::from(name), partitions); }
pub fn admin() -> Admin { Admin::new(NODES.map(http)).expect("three addresses with ports") }
/// Asks that node and no other.
pub fn admin_of(node: u64) -> Admin { Admin::new([http(node)]).expect("an address with a port") }
/// Whether an administrator heard that what was asked for is done.
pub fn was_done(answer: Option<Result<(u16, Value), Error>>) -> bool { matches!(answer, Some(Ok((status, _))) if status < 300) }
pub fn shard_of_group(world: &World, g: u64) -> u16 { shard_of(&GroupId::from(group(g).as_str()), world.plan.shards) }

pub fn victim(world: &World, n: u64) -> Option<(String, NodeId)> {
    let all = living(world);
    let name = all.get(n as usize % all.len().max(1))?.clone();
    let host = world.seen().processes.get(&name)?.host;
    Some((name, host))
}
pub fn lives(world: &World, name: &str) -> bool { world.seen().processes.get(name).is_some_and(|p| p.state != State::Dead) }

pub async fn declare(world: &World, topics: &Topics, g: u64, partitions: i32) -> Result<(), String> {
    let done = as_admin(world, async move { admin().declare_topic(&topic(g), partitions).await }).await;
    match done {
        Some(Ok(())) => { set_topic(topics, &topic(g), partitions); Ok(()) }
        other => Err(format!("{other:?}")),
    }
}
pub async fn session(world: &World, g: u64, ms: Ms) {
    let body = json!({"consumer.session.timeout.ms": ms, "consumer.heartbeat.interval.ms": 500});
    let done = as_admin(world, async move { admin().patch(&format!("/v1/groups/{}/config", group(g)), &body).await }).await;
    world.event(format!("the session of {} becomes {ms} ms: {:?}", group(g), done.map(|d| d.map(|(status, _)| status))));
}
pub async fn delete(world: &World, path: String) -> Option<u16> { as_admin(world, async move { admin().delete(&path).await }).await?.ok().map(|(status, _)| status) }

/// Carries out what is no fault of a node. False: there was nobody to do it to.
pub async fn carry_out(world: &Arc<World>, topics: &Topics, act: &Act) -> bool {
    match *act {
        Act::Join { group: g } => { members::start(world, g % world.plan.groups); true }
        Act::JoinStorm { group: g, members: n } => {
            let g = g % world.plan.groups;
            let names: Vec<String> = (0..n).map(|_| members::start(world, g)).collect();
            // Most of a storm goes again, at once.
            pause(thread_rng().gen_range(500..3_000)).await;
            for name in names.iter().skip(2) { members::leave(world, name); }
            true
        }
        Act::FlapMember { group: g, times, ms } => {
            for _ in 0..times {
                let name = members::start(world, g % world.plan.groups);
                pause(ms).await;
                members::kill(world, &name);
            }
            true
        }
        Act::Leave { member } => victim(world, member).map(|(m, _)| members::leave(world, &m)).is_some(),
        Act::KillMember { member } => victim(world, member).map(|(m, _)| members::kill(world, &m)).is_some(),
        Act::CutMember { member, how, ms } => match victim(world, member) {
            Some((_, host)) => {
                let net = NetSim::current();
                match how { 0 => net.clog_node(host), 1 => net.clog_node_out(host), _ => net.clog_node_in(host) }
                pause(ms).await;
                net.unclog_node(host);
                true
            }
            None => false,
        },
        Act::PauseMember { member, ms } => match victim(world, member) {
            Some((m, host)) => {
                world.sim.pause(host);
                pause(ms).await;
                if lives(world, &m) { world.sim.resume(host); }
                true
            }
            None => false,
        },
        Act::StopClock { member, ms } => match victim(world, member) {
            Some((m, host)) => {
                if let Some(p) = world.seen().processes.get_mut(&m) { p.clock_stopped = true; }
                faults::drift(host, -1_000_000);
                pause(ms).await;
                // Its machine is thrown away: nobody could say what it knows.
                members::kill(world, &m);
                true
            }
            None => false,
        },
        Act::Twin { member, ms } => match victim(world, member) {
            Some((m, host)) => {
                let net = NetSim::current();
                if thread_rng().gen_bool(0.5) { net.clog_node_in(host) } else { net.clog_node_out(host) }
                let twin = members::twin(world, &m);
                pause(ms).await;
                net.unclog_node(host);
                twin.is_some()
            }
            None => false,
        },
        Act::GrowTopic { group: g } => {
            let _one = world.topics_change.lock().await;
            let g = g % world.plan.groups;
            let have = topics.lock().expect("no holder panics").get(&TopicName::from(topic(g).as_str())).copied().unwrap_or(1);
            if have >= 24 { return false; }
            let done = declare(world, topics, g, have + 1).await;
            world.event(format!("{} grows to {}: {done:?}", topic(g), have + 1));
            // Of an unknown outcome: it is asked for again when all is well.
            set_topic(topics, &topic(g), have + 1);
            done.is_ok()
        }
        Act::DeleteTopic { group: g, gone } => delete_topic(world, topics, g % world.plan.groups, gone).await,
        Act::DeleteGroup { group: g } => delete_group(world, g % world.plan.groups).await,
        Act::RemoveMember { member } => match victim(world, member) {
            Some((m, _)) => {
                let path = world.seen().processes.get_mut(&m).map(|p| { p.removed = true; format!("/v1/groups/{}/members/{}?force=true", p.group, p.member_id) }).unwrap_or_default();
                let done = delete(world, path).await;
                world.event(format!("{m} is removed: {done:?}"));
                done.is_some_and(|s| s < 300)
            }
            None => false,
        },
        Act::LateAnswers { .. } | Act::CutAtBound { .. } | Act::ResetOffsets { .. } | Act::StaticRestart { .. } | Act::TwoInstances { .. } | Act::Outlived { .. } | Act::Poison { .. } => stories::carry_out(world, act).await,
        Act::Session { group: g, ms } => { session(world, g % world.plan.groups, ms).await; true }
        _ => false,
    }
}

/// Nothing that was acknowledged before the deletion is owed after it, and of what was on its way nobody knows.
async fn delete_topic(world: &Arc<World>, topics: &Topics, g: u64, gone: Ms) -> bool {
    let _one = world.topics_change.lock().await;
    let name = topic(g);
    let have = topics.lock().expect("no holder panics").get(&TopicName::from(name.as_str())).copied().unwrap_or(1);
    let forget = |step| world.seen().deletion(&format!("{}/{name}:", group(g)), step);
    forget(1);
    let done = delete(world, format!("/v1/topics/{name}")).await;
    pause(gone).await;
    for _ in 0..20 {
        let again = declare(world, topics, g, have).await;
        if again.is_ok() { break; }
        pause(250).await;
    }
    // A shard whose leader changes may learn of the deletion later than this.
    pause(1_500).await;
    forget(-1);
    world.event(format!("{name} was deleted ({done:?}) and made again with {have} partitions"));
    done.is_some_and(|s| s < 300)
}

/// Everybody leaves, and the group is deleted while some of its partitions may still be held.
async fn delete_group(world: &Arc<World>, g: u64) -> bool {
    let all: Vec<String> = living(world).into_iter().filter(|m| world.seen().processes.get(m).is_some_and(|p| p.group == group(g))).collect();
    for m in &all { members::leave(world, m); }
    let mut done = None;
    let forget = |step| world.seen().deletion(&format!("{}/", group(g)), step);
    forget(1);
    for _ in 0..30 {
        done = delete(world, format!("/v1/groups/{}", group(g))).await;
        if done.is_some_and(|s| s < 300) { break; }
        pause(300).await;
    }
    forget(-1);
    world.event(format!("{} is deleted: {done:?}", group(g)));
    for _ in 0..all.len().min(3) { members::start(world, g); }
    done.is_some_and(|s| s < 300)
}

/// Looks things up all the time, at any node and also at one that was just cut off or deposed. Whether its answers fit is the judge of order's to say.
pub async fn reader(world: Arc<World>) {
    loop {
        pause(thread_rng().gen_range(60..500)).await;
        let g = group(thread_rng().gen_range(0..world.plan.groups));
        let t = g.replacen('g', "t", 1);
        let path = match thread_rng().gen_range(0..20) {
            0 => format!("/v1/groups/{g}"),
            1 => format!("/v1/groups/{g}/config"),
            2 => format!("/v1/topics/{t}"),
            _ => {
                let seen = world.seen();
                let n = thread_rng().gen_range(0..seen.judge.commits.places().max(1));
                let Some((g, p)) = seen.judge.commits.place(n).and_then(|p| p.split_once('/')) else { continue };
                let Some((t, no)) = p.split_once(':') else { continue };
                format!("/v1/groups/{g}/offsets?topic={t}&partition={no}")
            }
        };
        // One node alone, half of the time: it answers, or says that it cannot.
        let one = thread_rng().gen_bool(0.5).then(|| thread_rng().gen_range(NODES));
        let asked = as_admin(&world, async move {
            match one {
                Some(n) => admin_of(n).get(&path).await,
                None => admin().get(&path).await,
            }
        });
        if let Some(Ok((200, _))) = asked.await { world.seen().work.fetches += 1; }
    }
}

/// From now on the network does to requests of members what the plan says.
pub fn tamper(world: &Arc<World>) {
    let (weak, admin) = (Arc::downgrade(world), world.admin);
    tap::set(move |sent| {
        let Some(world) = weak.upgrade() else { return Fate::Carried };
        let (per_mille, most) = world.plan.copies;
        // An administrator's copies would be other acts of his.
        if madsim::plugin::node() == admin || world.over.load(SeqCst) { return Fate::Carried; }
        if thread_rng().gen_range(0..1_000) < per_mille && sent.method.as_str() != "GET" {
            let late = thread_rng().gen_range(20..=most.max(21));
            let (addr, method, path, body) = (sent.addr.to_string(), sent.method.clone(), sent.path.to_string(), sent.body.map(<[u8]>::to_vec));
            let w = world.clone();
            world.beside(async move {
                pause(late).await;
                if w.over.load(SeqCst) { return; }
                w.fired("request twice");
                if late > 60_000 { w.fired("request twice, more than a minute late"); }
                tap::copy(addr, method, path, body).await;
            });
        }
        if let Some((until, by)) = world.late().get(&madsim::plugin::node()).copied() && world.now() < until && sent.path.ends_with("/heartbeat") { return Fate::Late(Duration::from_millis(by)); }
        if thread_rng().gen_range(0..1_000) < world.plan.half_open {
            world.fired("connection half open");
            return if thread_rng().gen_bool(0.5) { Fate::Swallowed } else { Fate::Unheard };
        }
        let (per_mille, most) = world.plan.slow_answers;
        if thread_rng().gen_range(0..1_000) < per_mille {
            world.fired("answer late");
            return Fate::Late(Duration::from_millis(thread_rng().gen_range(1..=most)));
        }
        Fate::Carried
    });
}
