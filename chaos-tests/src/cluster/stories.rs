//! Short stories of users, each aimed at one rule: answers out of order, clocks at the bound, a poisoned group, reset offsets, instance ids.

use super::{
    act::Act,
    acts,
    members::{self, group, topic},
    plan::Ms,
    play::{as_admin, living, pause},
    users::{admin, delete, lives, victim},
    world::{NODES, World},
};
use baton_coordinator::ids::GroupId;
use baton_raft::faults;
use madsim::{net::NetSim, rand::{Rng, thread_rng}};
use serde_json::{Value, json};
use std::sync::Arc;

/// A member with a session of 6 s waits for an answer for an eighth of its lease, 637 ms.
const LATE: Ms = 550;
/// The group that is poisoned. It has no members of its own.
const POISONED: &str = "poisoned";

/// Carries out one of these stories. False: there was nobody to do it to.
pub async fn carry_out(world: &Arc<World>, act: &Act) -> bool {
    match *act {
        Act::LateAnswers { member, by } => match victim(world, member) {
            Some((m, host)) => {
                let g = world.seen().processes.get(&m).and_then(|p| p.group.trim_start_matches('g').parse().ok()).unwrap_or(0);
                members::start(world, g);
                world.late().insert(host, (world.now() + 700, by));
                pause(1_500).await;
                members::start(world, g);
                pause(by).await;
                world.late().remove(&host);
                lives(world, &m)
            }
            None => false,
        },
        Act::CutAtBound { member, ms } => match victim(world, member) {
            Some((_, host)) => {
                // Its last answer was held, and then on its way for nearly as long as it waits for one.
                world.late().insert(host, (world.now() + 10_000, LATE));
                pause(1_500 + thread_rng().gen_range(0..800)).await;
                NetSim::current().clog_node(host);
                world.late().remove(&host);
                pause(ms).await;
                NetSim::current().unclog_node(host);
                true
            }
            None => false,
        },
        Act::Poison { .. } => poison(world).await,
        Act::ResetOffsets { group: g, to } => reset_offsets(world, g % world.plan.groups, to).await,
        Act::StaticRestart { group: g, how, ms } => {
            let (g, instance) = (g % world.plan.groups, format!("i{}", world.seen().processes.len()));
            let first = members::start_instance(world, g, &instance, false);
            pause(ms + 500).await;
            // It leaves, it dies and is waited for, or it dies and its operator says so.
            if how == 0 { members::leave(world, &first) } else { members::kill(world, &first) }
            if how == 2 && let Some(p) = world.seen().processes.get_mut(&first) { p.removed = true; }
            pause(thread_rng().gen_range(1..800)).await;
            members::start_instance(world, g, &instance, how == 2);
            true
        }
        Act::Outlived { member, ms } => match victim(world, member) {
            Some((first, host)) => {
                NetSim::current().clog_node(host);
                let Some(second) = members::twin(world, &first) else { return false };
                // Let in as soon as the first one's session has ended.
                let end = world.now() + 2 * world.plan.session_ms + 2_000;
                let took = || world.seen().processes.get(&second).is_some_and(|p| !p.held.is_empty());
                while world.now() < end && !took() { pause(50).await; }
                let took = took();
                NetSim::current().unclog_node(host);
                pause(ms).await;
                members::kill(world, &second);
                took && lives(world, &first)
            }
            None => false,
        },
        Act::TwoInstances { group: g, ms } => {
            let (g, instance) = (g % world.plan.groups, format!("i{}", world.seen().processes.len()));
            let both = [members::start_instance(world, g, &instance, false), members::start_instance(world, g, &instance, false)];
            pause(ms).await;
            // Only one of them will ever be let in.
            members::kill(world, &both[thread_rng().gen_range(0..2)]);
            true
        }
        _ => false,
    }
}

async fn ask(world: &World, method: &'static str, path: String, body: Option<Value>) -> Option<(u16, Value)> {
    as_admin(world, async move {
        match (method, &body) {
            ("PUT", Some(b)) => admin().put(&path, b).await,
            ("POST", b) => admin().call("POST".parse().expect("a method"), &path, b.as_ref()).await,
            _ => admin().get(&path).await,
        }
    }).await?.ok()
}

/// Offsets of a group with members are the members'. Those of one that everybody has left may be reset, also while the next ones join.
async fn reset_offsets(world: &Arc<World>, g: u64, to: i64) -> bool {
    let path = || format!("/v1/groups/{}/offsets", group(g));
    let body = json!({"offsets": [{"topic": topic(g), "partition": 0, "offset": to}, {"topic": topic(g), "partition": 1, "offset": to}]});
    let members_now = || async {
        let found = ask(world, "GET", format!("/v1/groups/{}", group(g)), None).await;
        let ids = |v: &Value| v["members"].as_array().into_iter().flatten().filter_map(|m| Some((m["member_id"].as_str()?.to_string(), m["member_epoch"].as_i64()))).collect::<Vec<_>>();
        found.map(|(_, v)| ids(&v)).unwrap_or_default()
    };
    let forget = |step| world.seen().deletion(&format!("{}/", group(g)), step);
    forget(1);
    let before = members_now().await;
    let refused = ask(world, "PUT", path(), Some(body.clone())).await;
    let after = members_now().await;
    world.event(format!("an administrator resets the offsets of {} with {} members: {:?}", group(g), before.len(), refused.as_ref().map(|r| r.0)));
    // One that was in all the time, in one epoch, was not asked.
    if refused.as_ref().is_some_and(|(status, _)| *status < 300) && before.iter().any(|m| after.contains(m)) {
        world.broken("durable", format!("offsets of {} were reset under its members {before:?}", group(g)));
    }
    let all: Vec<String> = living(world).into_iter().filter(|m| world.seen().processes.get(m).is_some_and(|p| p.group == group(g))).collect();
    for m in &all { members::leave(world, m); }
    let mut done = None;
    for n in 0..30 {
        done = ask(world, "PUT", path(), Some(body.clone())).await.map(|r| r.0);
        if done.is_some_and(|s| s < 300) { break; }
        // The next ones do not wait for the administrator.
        if n == 20 { members::start(world, g); }
        pause(200).await;
    }
    for _ in 0..all.len().clamp(1, 3) { members::start(world, g); }
    pause(1_000).await;
    forget(-1);
    world.event(format!("the offsets of {} are reset to {to}: {done:?}", group(g)));
    refused.is_some_and(|(status, _)| status == 409) && done.is_some_and(|s| s < 300)
}

/// A leader with a bug proposes what cannot be replayed. One group is quarantined, everywhere and after a restart too, and says so; what it had committed
/// can be read; it is well again after its repair. That nobody else notices is seen at the end, as always.
async fn poison(world: &Arc<World>) -> bool {
    let path = |rest: &str| format!("/v1/groups/{POISONED}{rest}");
    world.seen().judge.state.poisoned = Some(GroupId::from(POISONED));
    let offsets = json!({"offsets": [{"topic": topic(0), "partition": 0, "offset": 7}]});
    let before = ask(world, "PUT", path("/offsets"), Some(offsets)).await;
    if before.as_ref().is_none_or(|(status, _)| *status >= 300) { return false; }
    let join = json!({"member_epoch": 0, "incarnation": format!("{:032x}", thread_rng().r#gen::<u128>()), "subscribed_topics": [topic(0)], "rebalance_timeout_ms": 5_000, "owned": [], "assignment_revision": 0});
    for n in NODES { faults::change(world.host(n), |h| h.poisons = Some(POISONED)); }
    let proposed = faults::counted("poison record proposed");
    let end = world.now() + 6_000;
    while world.now() < end && faults::counted("poison record proposed") == proposed {
        ask(world, "POST", path("/members/x/heartbeat"), Some(join.clone())).await;
    }
    for n in NODES { faults::change(world.host(n), |h| h.poisons = None); }
    if faults::counted("poison record proposed") == proposed { return false; }
    let quarantined = || async {
        for _ in 0..30 {
            let code = ask(world, "POST", path("/members/x/heartbeat"), Some(join.clone())).await.map(|(_, v)| v["code"].as_str().unwrap_or_default().to_string());
            let read = ask(world, "GET", path("/offsets"), None).await.and_then(|(_, v)| v["offsets"][0]["offset"].as_i64());
            if code.as_deref() == Some("GROUP_QUARANTINED") && read == Some(7) { return true; }
            pause(300).await;
        }
        false
    };
    if !quarantined().await && !world.is_over() {
        world.broken("replay", "a group with a poison record is not quarantined, or its offsets cannot be read".into());
        return false;
    }
    acts::bounce(world, &NODES.collect::<Vec<_>>(), 50, false).await;
    pause(2_000).await;
    if !quarantined().await && !world.is_over() {
        world.broken("replay", "a quarantined group is not what it was after a restart of all nodes".into());
        return false;
    }
    world.fired("poison record");
    let mut repaired = None;
    for _ in 0..30 {
        repaired = ask(world, "POST", path("/repair"), None).await.map(|r| r.0);
        if repaired.is_some_and(|s| s < 300) { break; }
        pause(300).await;
    }
    let joined = ask(world, "POST", path("/members/x/heartbeat"), Some(join.clone())).await.map(|r| r.0);
    world.event(format!("the poisoned group is repaired: {repaired:?}; a member joins: {joined:?}"));
    if joined.is_some_and(|s| s < 300) { world.fired("poisoned group repaired"); }
    delete(world, path("/members/x?force=true")).await;
    true
}
