//! Short stories about topics and settings: who may be asked for them, and what is done twice. The topics are nobody's but the story's.

use super::{
    heirs::get,
    plan::Ms,
    play::{as_admin, pause},
    users::{admin_of, was_done},
    world::{NODES, World, http},
};
use baton_client::tap;
use baton_raft::faults;
use madsim::rand::{Rng, thread_rng};
use serde_json::json;
use std::sync::Arc;

/// The node that leads the metadata now, as it says itself; of two, that of the higher term.
fn leader(world: &World) -> Option<u64> {
    let seen = world.seen();
    let claims = seen.nodes.iter().filter_map(|(id, n)| {
        let meta = n.cluster().meta;
        (meta.leader == Some(*id)).then_some((meta.term, *id))
    });
    claims.max().map(|(_, id)| id)
}
fn all_up(world: &World) -> bool { NODES.into_iter().all(|n| world.is_up(n) && world.is_free(n)) }
async fn put(world: &World, node: u64, topic: &str, partitions: i32) -> bool {
    let path = path(topic);
    let done = as_admin(world, async move { admin_of(node).put(&path, &json!({"partitions": partitions})).await }).await;
    was_done(done)
}
async fn delete(world: &World, node: u64, topic: &str) -> bool {
    let path = path(topic);
    let done = as_admin(world, async move { admin_of(node).delete(&path).await }).await;
    was_done(done)
}
async fn session(world: &World, node: u64, group: &str, ms: Ms) -> bool {
    let path = config(group);
    let body = json!({"consumer.session.timeout.ms": ms, "consumer.heartbeat.interval.ms": 500});
    let done = as_admin(world, async move { admin_of(node).patch(&path, &body).await }).await;
    was_done(done)
}
fn path(topic: &str) -> String { format!("/v1/topics/{topic}") }
fn config(group: &str) -> String { format!("/v1/groups/{group}/config") }

/// Who leads the metadata is cut off from the others and goes on to be asked, as it may not know yet that another leads. What it says must be true at that time, or it must say that
/// it does not know (`safety.md` 2).
pub async fn deposed(world: &Arc<World>, ms: Ms) -> bool {
    let Some(old) = leader(world).filter(|_| all_up(world)) else { return false };
    let name = format!("alone{}", world.now());
    if !put(world, old, &name, 1).await || !session(world, old, &name, 5_000).await { return false; }
    world.cut(old, false);
    let until = world.now() + ms;
    for path in [path(&name), path(&name), config(&name)] { world.beside(look(world.clone(), old, path, until)); }
    let mut changes = 0;
    while world.now() < until {
        pause(thread_rng().gen_range(20..200)).await;
        let Some(new) = leader(world).filter(|n| *n != old) else { continue };
        changes += i32::from(change(world, new, &name, changes).await);
    }
    world.cut(old, true);
    world.event(format!("node {old} was asked for topics while others made {changes} changes"));
    pause(1_500).await;
    delete(world, old, &name).await;
    changes > 0
}
/// The next change of a topic and of the settings of the group of that name.
async fn change(world: &World, node: u64, name: &str, changes: i32) -> bool {
    match changes % 4 {
        0 => put(world, node, name, 2 + changes).await,
        1 => session(world, node, name, 5_100 + changes as Ms).await,
        2 => delete(world, node, name).await,
        _ => put(world, node, name, 1).await,
    }
}

/// A node is behind with what it applies of the metadata, and is asked for topics and settings while others change them. It has to wait until it has what was committed when it was
/// asked, or to say that it cannot answer (`safety.md` 2).
pub async fn behind(world: &Arc<World>, ms: Ms) -> bool {
    let Some(leads) = leader(world).filter(|_| all_up(world)) else { return false };
    let (late, name) = (leads % 3 + 1, format!("late{}", world.now()));
    if !put(world, leads, &name, 1).await || !session(world, leads, &name, 5_000).await { return false; }
    let until = world.now() + ms;
    for path in [path(&name), path(&name), config(&name)] { world.beside(look(world.clone(), late, path, until)); }
    let mut changes = 0;
    while world.now() < until {
        faults::change(world.host(late), |h| h.holds_back = Some(0));
        let Some(leads) = leader(world) else { break };
        changes += i32::from(change(world, leads, &name, changes).await);
        pause(thread_rng().gen_range(100..900)).await;
        faults::change(world.host(late), |h| h.holds_back = None);
        pause(thread_rng().gen_range(60..200)).await;
    }
    faults::change(world.host(late), |h| h.holds_back = None);
    world.event(format!("node {late} was behind and asked for topics while others made {changes} changes"));
    pause(1_500).await;
    if let Some(leads) = leader(world) { delete(world, leads, &name).await; }
    changes > 1
}

async fn look(world: Arc<World>, node: u64, path: String, until: Ms) {
    while world.now() < until && !world.is_over() {
        get(&world, node, path.clone()).await;
        pause(thread_rng().gen_range(5..60)).await;
    }
}

/// A node forwards a change of topics and never hears the answer: it must not send it again, for by then something else may have been asked and done (`safety.md` 5).
pub async fn lost_change(world: &Arc<World>) -> bool {
    let Some(leader) = leader(world).filter(|_| all_up(world)) else { return false };
    let (forwards, name) = (leader % 3 + 1, format!("twice{}", world.now()));
    if !put(world, leader, &name, 2).await { return false; }
    let begin = world.now();
    world.one_way(leader, forwards, false);
    let asked = path(&name);
    let sent = as_admin(world, async move {
        // One request, whatever becomes of it.
        madsim::task::spawn(tap::copy(http(forwards), "DELETE".parse().expect("a method"), asked, None));
    });
    sent.await;
    let mut gone = false;
    while !gone && world.now() < begin + 500 {
        gone = get(world, leader, path(&name)).await.is_some_and(|(status, _)| status == 404);
        pause(10).await;
    }
    let then = gone && put(world, leader, &name, 3).await && get(world, leader, path(&name)).await.is_some();
    // The one that forwards has given up its connection by now, and has some time left for the request.
    pause((begin + 950).saturating_sub(world.now())).await;
    world.one_way(leader, forwards, true);
    pause(2_500).await;
    let found = get(world, leader, path(&name)).await;
    world.event(format!("node {forwards} has forwarded the deletion of {name} without an answer; it was made again, now there is {:?}", found.as_ref().map(|(status, _)| status)));
    then && found.is_some()
}
