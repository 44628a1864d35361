//! Opens the gaps between two steps of what a node does with its disk: they are too short for a fault to fall into by chance.

use super::{
    disks,
    plan::Ms,
    play::pause,
    world::{NODES, World},
};
use baton_raft::faults;
use baton_storage::Crash;
use std::sync::Arc;

/// Where a node keeps its state, and makes room in its log.
const POINTS: [&str; 7] = ["checkpoint about to be written", "checkpoint written", "snapshot about to be saved", "snapshot saved", "installation announced", "installation saved", "log about to be purged"];

/// Between the steps of checkpoints, snapshots and installations other things happen, on all nodes, while one that was cut off is given a snapshot. Then all lose their power, and
/// have to go on from what they wrote down.
pub async fn dawdle(world: &Arc<World>, node: u64, ms: Ms, most: Ms) -> bool {
    let Some(all) = world.take_all() else { return false };
    let dawdles = |most: Ms| for n in NODES { faults::change(world.host(n), |h| h.dawdles = (&POINTS, most)); };
    let before = faults::counted("node dawdles");
    dawdles(most);
    world.cut(node, false);
    pause(ms).await;
    world.cut(node, true);
    // It is given what it missed.
    pause(2_500).await;
    for n in NODES { world.kill_as(n, Crash::LoseUnsynced); }
    dawdles(0);
    pause(50).await;
    for n in NODES { world.restart(n); }
    world.give_back(&all);
    faults::counted("node dawdles") > before
}

/// A follower's disk fails while the other follower is cut off: nothing that it could not write counts, not even if the leader is cut off at that moment and the two elect without it.
/// Three times: something has to be acknowledged in the few moments between.
pub async fn fails_alone(world: &Arc<World>, s: u16, clean: bool) -> bool {
    let mut done = false;
    for _ in 0..3 {
        done |= fails_once(world, s, clean).await;
        pause(1_500).await;
    }
    done
}
async fn fails_once(world: &Arc<World>, s: u16, clean: bool) -> bool {
    let Some(leader) = world.leader(s) else { return false };
    let Some(all) = world.take_all() else { return false };
    let (fails, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    world.cut(other, false);
    pause(300).await;
    let failed = disks::next_sync_fails(world, fails, false).await;
    // What the leader was told of that write is acknowledged by now, if it counts.
    pause(30).await;
    world.cut(other, true);
    world.cut(leader, false);
    if failed {
        world.kill_as(fails, if clean { Crash::CleanPages } else { Crash::LoseUnsynced });
        pause(50).await;
        world.restart(fails);
    }
    let until = world.now() + 4_000;
    while world.now() < until && world.leader(s).is_none_or(|l| l == leader) { pause(20).await; }
    let elected = world.leader(s).is_some_and(|l| l != leader);
    world.cut(leader, true);
    world.give_back(&all);
    failed && elected
}
