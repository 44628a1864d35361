//! The voters of a shard change under load. No command of the product does that yet; what there is below it has to bear it all the same (M1).

use super::{
    heirs::{beats, end_beats},
    plan::Ms,
    play::pause,
    world::{World, peer},
};
use baton_coordinator::{ids::{GroupId, MemberId}, shard::shard_of};
use baton_raft::GroupHandle;
use baton_storage::Crash;
use madsim::rand::{Rng, thread_rng};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// A node, perhaps the leader, loses its vote in a shard and is out of it for a while, then it is given everything and its vote again. It dies as soon as it has that, and the
/// leader is cut off: the third node needs the vote of one that has just come in and starts anew.
pub async fn out_and_in(world: &Arc<World>, s: u16, leads: bool, ms: Ms) -> bool {
    let Some(all) = world.take_all() else { return false };
    let Some(leader) = world.leader(s) else { world.give_back(&all); return false };
    let out = if leads { leader } else { leader % 3 + 1 };
    let others: BTreeSet<u64> = all.iter().copied().filter(|n| *n != out).collect();
    let gone = set(world, s, others.clone()).await;
    pause(ms).await;
    let apart = gone && world.leader(s).is_some_and(|n| n != out) && voters(world, s) == Some(others);
    let back = set(world, s, all.iter().copied().collect()).await;
    if !back { world.broken("live", format!("node {out} cannot be given its vote in shard {s} again")); }
    if let (true, Some(leader)) = (back, world.leader(s).filter(|n| *n != out)) {
        world.kill_as(out, Crash::LoseUnsynced);
        world.restart(out);
        world.cut(leader, false);
        pause(2_000).await;
        world.cut(leader, true);
    }
    world.give_back(&all);
    apart && back
}

/// A leader loses its vote while a member beside it asks all the time: whoever leads next is elected at once, although everybody has promised to wait, and tells the one before nothing.
pub async fn leader_out(world: &Arc<World>) -> bool {
    let (group, member) = (GroupId::from("voted-out"), MemberId::from("beats"));
    let s = shard_of(&group, world.plan.shards);
    let Some(all) = world.take_all() else { return false };
    let mut over = false;
    if let Some((leader, _)) = handle(world, s) && let Some(host) = world.sim.get_node(world.host(leader)) && let Some(node) = { let seen = world.seen(); seen.nodes.get(&leader).cloned() } {
        let (term, until) = (world.seen().judge.newest_term(s), world.now() + 2_500);
        host.spawn(beats(world.clone(), node, group.clone(), member.clone(), until));
        pause(thread_rng().gen_range(400..700)).await;
        let gone = set(world, s, all.iter().copied().filter(|n| *n != leader).collect()).await;
        pause(until.saturating_sub(world.now())).await;
        over = gone && world.seen().judge.newest_term(s) > term;
        if !set(world, s, all.iter().copied().collect()).await { world.broken("live", format!("node {leader} cannot be given its vote in shard {s} again")); }
        end_beats(world, &group, &member).await;
    }
    world.give_back(&all);
    over
}

/// The voters as the leader knows them.
fn voters(world: &World, s: u16) -> Option<BTreeSet<u64>> { Some(handle(world, s)?.1.status().voters.into_iter().collect()) }
fn handle(world: &World, s: u16) -> Option<(u64, GroupHandle)> {
    let leader = world.leader(s)?;
    let node = world.seen().nodes.get(&leader).cloned()?;
    Some((leader, node.raft_group(s)?))
}

/// Asks whoever leads until the shard has these voters.
async fn set(world: &Arc<World>, s: u16, wanted: BTreeSet<u64>) -> bool {
    let end = world.now() + 15_000;
    while world.now() < end && !world.is_over() {
        if let Some((leader, group)) = handle(world, s) && let Some(host) = world.sim.get_node(world.host(leader)) {
            let wants = wanted.clone();
            let done = host.spawn(async move {
                let have = group.status().voters;
                for n in wants.iter().filter(|n| !have.contains(n)) { group.add_learner(*n, peer(*n)).await?; }
                // Nobody answers a leader that is replaced meanwhile.
                tokio::time::timeout(Duration::from_secs(3), group.set_voters(wants)).await.map_err(|_| "not within 3 s".to_string())?
            });
            let done = done.await;
            world.event(format!("node {leader} sets the voters of shard {s} to {wanted:?}: {done:?}"));
            if matches!(done, Ok(Ok(()))) { return true; }
        }
        pause(100).await;
    }
    false
}
