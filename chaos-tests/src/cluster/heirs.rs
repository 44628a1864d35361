//! Short stories about what is handed on: from a leader to the next, from a node that forwards to the one that decides, from a node that is stopped in order to the others.

use super::{
    members::topic,
    plan::Ms,
    play::{as_admin, pause},
    users::{admin, admin_of, delete, was_done},
    world::{NODES, World, http},
};
use baton_client::tap;
use baton_coordinator::{command::{Command, Heartbeat, Request, Response}, ids::{GroupId, Incarnation, MemberId}, shard::shard_of};
use baton_node::Node;
use baton_raft::faults;
use baton_storage::Crash;
use madsim::rand::{Rng, thread_rng};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// A group without members: only administrators write its offsets.
const RESETS: &str = "resets";

/// A group that is made to be deleted, without members.
const PASSING: &str = "passing";

/// The followers have a leader's newest entries and have not applied them yet. It acknowledges commits, and dies; the next one is asked by everybody for what was
/// acknowledged, and must not answer before it has caught up (`safety.md` 19).
pub async fn lagging(world: &Arc<World>, s: u16, ms: Ms) -> bool {
    let Some(leader) = world.leader(s) else { return false };
    let others: Vec<u64> = NODES.filter(|n| *n != leader).collect();
    if !world.is_free(leader) || others.iter().any(|n| !world.is_up(*n)) { return false; }
    let hold = |on: bool| for n in &others { faults::change(world.host(*n), |h| h.holds_back = on.then_some(s + 1)); };
    hold(true);
    let (before, end) = (world.seen().work.commits, world.now() + 2_500);
    while world.now() < end && world.seen().work.commits < before + 2 { pause(2).await; }
    let acknowledged = world.seen().work.commits >= before + 2;
    world.kill_as(leader, Crash::KillProcess);
    let until = world.now() + 3_000;
    for n in &others { for _ in 0..2 { world.beside(ask_one(world.clone(), *n, until)); } }
    while world.now() < until && world.leader(s).is_none_or(|n| n == leader) { pause(5).await; }
    let heir = world.leader(s).is_some_and(|n| n != leader);
    pause(ms).await;
    hold(false);
    pause(until.saturating_sub(world.now())).await;
    if world.sim.is_exit(world.host(leader)) && world.is_free(leader) { world.restart(leader); }
    acknowledged && heir
}

/// A leader's followers have slow disks, and all three lose their power just after it has acknowledged something. The followers elect again without it: what was acknowledged has
/// to be on the disk of one of them, not only on its way there.
pub async fn half_written(world: &Arc<World>, s: u16) -> bool {
    let Some(leader) = world.leader(s) else { return false };
    let others: Vec<u64> = NODES.filter(|n| *n != leader).collect();
    let Some(all) = world.take_all() else { return false };
    let slow = |ms: Ms| for n in &others { faults::change(world.host(*n), |h| h.slow_disk_ms = ms) };
    slow(400);
    // What was on its way when the disks became slow does not count.
    pause(500).await;
    let (before, end) = (world.seen().work.commits, world.now() + 3_000);
    while world.now() < end && world.seen().work.commits == before { pause(2).await; }
    let acknowledged = world.seen().work.commits > before;
    for n in NODES { world.kill_as(n, Crash::LoseUnsynced); }
    slow(0);
    pause(50).await;
    for n in others { world.restart(n); }
    let until = world.now() + 3_000;
    while world.now() < until && world.leader(s).is_none() { pause(20).await; }
    let elected = world.leader(s).is_some();
    world.restart(leader);
    world.give_back(&all);
    acknowledged && elected
}

/// Asks one node again and again where a group is.
pub async fn ask_one(world: Arc<World>, node: u64, until: Ms) {
    while world.now() < until && !world.is_over() {
        let place = {
            let seen = world.seen();
            let n = thread_rng().gen_range(0..seen.judge.commits.places().max(1));
            seen.judge.commits.place(n).and_then(|p| Some((p.split_once('/')?.0.to_string(), p.split_once('/')?.1.split_once(':')?.0.to_string(), p.split_once(':')?.1.to_string())))
        };
        if let Some((g, t, p)) = place { get(&world, node, format!("/v1/groups/{g}/offsets?topic={t}&partition={p}")).await; }
        pause(thread_rng().gen_range(3..25)).await;
    }
}

pub async fn get(world: &World, node: u64, path: String) -> Option<(u16, Value)> { as_admin(world, async move { admin_of(node).get(&path).await }).await?.ok() }
fn path() -> String { format!("/v1/groups/{RESETS}/offsets") }
fn to(offset: i64) -> Value { json!({"offsets": [{"topic": topic(0), "partition": 0, "offset": offset}]}) }
async fn set(world: &World, node: u64, offset: i64) -> bool {
    let done = as_admin(world, async move { admin_of(node).put(&path(), &to(offset)).await }).await;
    was_done(done)
}
async fn offset(world: &World, node: u64) -> Option<i64> { offset_of(world, node, RESETS).await?.1["offsets"][0]["offset"].as_i64() }
async fn offset_of(world: &World, node: u64, group: &str) -> Option<(u16, Value)> { get(world, node, format!("/v1/groups/{group}/offsets?topic={}&partition=0", topic(0))).await }

/// A node forwards a request and never hears the answer: it must not send it again, for by then something else may have been asked and done (`safety.md` 5).
pub async fn lost_reply(world: &Arc<World>) -> bool {
    let s = shard_of(&GroupId::from(RESETS), world.plan.shards);
    let Some(leader) = world.leader(s) else { return false };
    let forwards = leader % 3 + 1;
    if NODES.into_iter().any(|n| !world.is_up(n)) { return false; }
    let first = thread_rng().gen_range(1_000..2_000);
    if !set(world, leader, first - 1).await { return false; }
    let begin = world.now();
    world.one_way(leader, forwards, false);
    let sent = as_admin(world, async move {
        let body = serde_json::to_vec(&to(first)).ok();
        // One request, whatever becomes of it.
        madsim::task::spawn(tap::copy(http(forwards), "PUT".parse().expect("a method"), path(), body));
    });
    sent.await;
    let mut seen = false;
    while !seen && world.now() < begin + 500 {
        seen = offset(world, leader).await == Some(first);
        pause(10).await;
    }
    let then = seen && set(world, leader, first + 5_000).await && offset(world, leader).await.is_some();
    // The one that forwards has given up its connection by now, and has some time left for the request.
    pause((begin + 950).saturating_sub(world.now())).await;
    world.one_way(leader, forwards, true);
    pause(1_500).await;
    let found = offset(world, leader).await;
    world.event(format!("node {forwards} has forwarded a reset to {first} without an answer; {} followed, now there is {found:?}", first + 5_000));
    then && found.is_some()
}

/// A reset waits behind an entry that cannot be committed, for longer than it said that it is worth something; its caller has been told that by then. When the leader can go on it must
/// not carry it out any more (`safety.md` 17).
pub async fn overdue(world: &Arc<World>) -> bool {
    let s = shard_of(&GroupId::from(RESETS), world.plan.shards);
    let Some(leader) = world.leader(s).filter(|n| world.is_free(*n)) else { return false };
    let first = thread_rng().gen_range(1_000..2_000);
    if NODES.into_iter().any(|n| !world.is_up(n)) || !set(world, leader, first).await { return false; }
    let send = |offset: i64, timeout_ms: Ms| as_admin(world, async move {
        let mut body = to(offset);
        body["timeout_ms"] = json!(timeout_ms);
        madsim::task::spawn(tap::copy(http(leader), "PUT".parse().expect("a method"), path(), serde_json::to_vec(&body).ok()));
    });
    // Something is in the log of the leader that it has not applied: whatever changes anything waits for that.
    let in_flight = || world.seen().nodes.get(&leader).is_some_and(|n| n.cluster().shards.get(usize::from(s)).is_some_and(|v| v.last_log > v.applied));
    let begin = world.now();
    world.cut(leader, false);
    send(first + 1, 5_000).await;
    while world.now() < begin + 150 && !in_flight() { pause(5).await; }
    // Its packets have had their time.
    pause(60).await;
    let before = in_flight();
    if before { send(first + 5_000, 60).await; }
    // Not for so long that another is elected.
    pause((begin + 450).saturating_sub(world.now())).await;
    let waited = before && in_flight();
    world.cut(leader, true);
    pause(1_500).await;
    let found = offset(world, leader).await;
    world.event(format!("a reset to {} was worth something for 60 ms, and waited for longer ({waited}): now there is {found:?}", first + 5_000));
    if waited && found == Some(first + 5_000) {
        world.broken("linearizable", format!("a reset to {} was carried out after its timeout_ms, behind an entry for which it had waited all the time", first + 5_000));
    }
    waited && found.is_some()
}

/// Makes the group that is to be deleted for good, and says in which shard it is.
pub async fn make_group(world: &Arc<World>) -> Option<u16> {
    let made = as_admin(world, async move { admin().put(&format!("/v1/groups/{PASSING}/offsets"), &to(5)).await }).await;
    was_done(made).then(|| shard_of(&GroupId::from(PASSING), world.plan.shards))
}
pub async fn delete_group(world: &Arc<World>) -> bool {
    let done = delete(world, format!("/v1/groups/{PASSING}")).await;
    world.event(format!("{PASSING} is deleted for good: {done:?}"));
    done.is_some_and(|s| s < 300)
}
/// Asks every node for it.
pub async fn look_for_group(world: &Arc<World>) -> bool {
    let mut answers = 0;
    for n in NODES {
        answers += u64::from(get(world, n, format!("/v1/groups/{PASSING}")).await.is_some());
        answers += u64::from(offset_of(world, n, PASSING).await.is_some());
    }
    answers > 0
}

/// A node is stopped as an operator does it. What it had acknowledged is there when it comes back, and nobody waits for it meanwhile.
pub async fn stop(world: &Arc<World>, id: u64, down: Ms) -> bool {
    let Some(node) = world.seen().nodes.get(&id).cloned() else { return false };
    if !world.take(&[id]) { return false; }
    world.event(format!("node {id} is stopped in order"));
    let stopped = match world.sim.get_node(world.host(id)) {
        Some(h) => h.spawn(async move {
            node.drain().await;
            node.shutdown().await;
        }).await.is_ok(),
        None => false,
    };
    // A group that has been stopped is no failure of its node.
    world.kill_as(id, Crash::KillProcess);
    pause(down).await;
    world.restart(id);
    world.give_back(&[id]);
    stopped
}

/// A leader asks another node to take over, and hears nobody and is heard by nobody from then on. Its last lease check is a moment old and says nothing of what follows: the other one
/// is elected although everybody has promised to wait. Once it leads, the first must tell its members nothing more (`safety.md` 3).
pub async fn given_away(world: &Arc<World>) -> bool {
    let group = GroupId::from("given-away");
    let s = shard_of(&group, world.plan.shards);
    let Some(leader) = world.leader(s).filter(|n| world.take(&[*n])) else { return false };
    let (term, until) = { let seen = world.seen(); (seen.judge.newest_term(s), world.now() + 2_500) };
    let (node, to) = { let seen = world.seen(); (seen.nodes.get(&leader).cloned(), NODES.filter(|n| *n != leader && seen.nodes.contains_key(n)).min()) };
    let (mut asked, member) = (false, MemberId::from("beats"));
    if let (Some(node), Some(to), Some(host)) = (node, to, world.sim.get_node(world.host(leader))) {
        host.spawn(beats(world.clone(), node.clone(), group.clone(), member.clone(), until));
        pause(thread_rng().gen_range(400..700)).await;
        asked = host.spawn(async move { node.transfer(s, to).await }).await.is_ok_and(|r| r.is_ok());
        pause(thread_rng().gen_range(0..4)).await;
        world.cut(leader, false);
        pause(until.saturating_sub(world.now())).await;
        world.cut(leader, true);
    }
    world.give_back(&[leader]);
    end_beats(world, &group, &member).await;
    asked && world.seen().judge.newest_term(s) > term
}
pub async fn end_beats(world: &World, group: &GroupId, member: &MemberId) { delete(world, format!("/v1/groups/{group}/members/{member}?force=true")).await; }
/// A member beside the node that answers it: it asks that one all the time, and wants nothing.
pub async fn beats(world: Arc<World>, node: Node, group: GroupId, member: MemberId, until: Ms) {
    let mut h = Heartbeat { member, incarnation: Incarnation(thread_rng().gen_range(1..u128::MAX)), subscribed_topics: Some(BTreeSet::new()), owned: Some(BTreeSet::new()), ..Heartbeat::default() };
    while world.now() < until && !world.is_over() {
        let request = Request { group: group.clone(), command: Command::Heartbeat(h.clone()), budget_ms: Some(300), min_meta_revision: 0 };
        match node.request(request, Duration::from_millis(300)).await {
            Ok(Response::Heartbeat(v)) => (h.epoch, h.assignment_revision, h.subscribed_topics) = (v.member_epoch, v.assignment_revision, None),
            Ok(_) => return,
            // Its session may have ended in an earlier part of the story, or another node leads.
            Err(_) => pause(20).await,
        }
        pause(thread_rng().gen_range(2..6)).await;
    }
}
