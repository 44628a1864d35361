//! Carries out an act on nodes, links and clocks, and says whether it could be done to anybody. Disks are in `disks`, people and topics in `users`.

use super::{
    DRIFT_PPM,
    act::Act,
    disks, gaps,
    heirs, metadata,
    plan::Ms,
    play::{living, pause, shard},
    users::{self, Topics},
    voters,
    world::{NODES, World},
};
use baton_coordinator::record::FEATURE_LEVEL;
use baton_raft::faults::{self, Trap};
use baton_storage::Crash;
use madsim::{net::NetSim, rand::{Rng, thread_rng}};
use std::{sync::{Arc, atomic::Ordering::SeqCst}, time::Duration};

/// What happens to a node that comes to its trap: it stands still there, or dies; a moment later with `after_send`, so that what it has just said is out.
#[derive(Clone, Copy, Default)]
pub struct Spring { pub pause: Ms, pub down: Ms, pub after_send: bool }

pub async fn carry_out(world: &Arc<World>, topics: &Topics, act: Act) {
    let kind = act.kind();
    world.event(format!("act: {kind}: {act:?}"));
    world.acts_out.fetch_add(u64::from(act.must_end()), SeqCst);
    let done = match &act {
        Act::DieAtOperation { .. } | Act::SlowDisk { .. } | Act::FullDisk { .. } | Act::FailSync { .. } | Act::FlipBit { .. } | Act::OldCopy { .. } | Act::EmptyDisk { .. } => disks::carry_out(world, &act).await,
        Act::KillLeader { shard: s, down } => match world.leader(shard(world, *s)) { Some(n) => bounce(world, &[n], *down, false).await, None => false },
        Act::KillNode { node, down } => bounce(world, &[*node], *down, false).await,
        // Half of the time one power cut for all: what nobody had synced is gone everywhere.
        Act::KillAll { down } if thread_rng().gen_bool(0.5) => {
            NODES.filter(|n| world.is_free(*n)).for_each(|n| world.kill_as(n, Crash::LoseUnsynced));
            bounce(world, &NODES.collect::<Vec<_>>(), *down, false).await;
            true
        }
        Act::KillAll { down } => bounce(world, &NODES.collect::<Vec<_>>(), *down, false).await,
        Act::PauseNode { node, ms } => hold(world, &[*node], *ms).await,
        Act::PauseLeader { shard: s, ms } => match world.leader(shard(world, *s)) { Some(n) => hold(world, &[n], *ms).await, None => false },
        Act::PauseAll { ms, links: false } => hold(world, &NODES.collect::<Vec<_>>(), *ms).await,
        Act::PauseAll { ms, .. } => {
            for n in NODES { world.cut(n, false); }
            pause(*ms).await;
            for n in NODES { world.cut(n, true); }
            true
        }
        Act::CutLeader { shard: s, ms } => match world.leader(shard(world, *s)) {
            Some(n) => {
                world.cut(n, false);
                pause(*ms).await;
                world.cut(n, true);
                true
            }
            None => false,
        },
        Act::Split { shard: s, odd, ms } => split(world, *s, *odd, *ms).await,
        Act::CutOneWay { from, to, ms } => {
            world.one_way(*from, *to, false);
            pause(*ms).await;
            world.one_way(*from, *to, true);
            true
        }
        Act::Flap { a, b, times, ms } => {
            for _ in 0..*times {
                world.link(*a, *b, false);
                pause(*ms).await;
                world.link(*a, *b, true);
                pause(*ms).await;
            }
            true
        }
        Act::Bounce { shard: s } => bounce_under_lease(world, *s).await,
        Act::ForgetVote { shard: s } => {
            let all: Vec<u64> = NODES.collect();
            world.take(&all) && {
                let done = forget_vote(world, shard(world, *s)).await;
                world.give_back(&all);
                done
            }
        }
        Act::Loss { per_mille, ms } => {
            NetSim::current().update_config(|c| c.packet_loss_rate = *per_mille as f64 / 1_000.0);
            pause(*ms).await;
            NetSim::current().update_config(|c| c.packet_loss_rate = 0.0);
            true
        }
        Act::Latency { most, ms } => {
            NetSim::current().update_config(|c| c.send_latency = Duration::from_millis(1)..Duration::from_millis(*most));
            pause(*ms).await;
            usual_latency();
            true
        }
        Act::Transfer { shard: s, to } => transfer(world, shard(world, *s), *to).await,
        Act::RollingRestart { down } => {
            for n in NODES {
                // An operator's tool stops a node in order, or does not wait for it.
                if thread_rng().gen_bool(0.5) && heirs::stop(world, n, *down).await { world.fired("node stopped in order") } else { bounce(world, &[n], *down, true).await; }
                pause(1_500).await;
            }
            true
        }
        Act::Reconfigure { node, snapshot_every, checkpoint_ms, down } => {
            world.care(*node, |c| (c.snapshot_every, c.checkpoint_ms) = (Some(*snapshot_every), Some(*checkpoint_ms)));
            bounce(world, &[*node], *down, true).await
        }
        Act::OldVersion { node, ms } => match if *node == 0 { world.leader(0) } else { Some(*node) } {
            Some(node) if world.take(&[node]) => {
                let done = old_version(world, node, *ms).await;
                world.give_back(&[node]);
                done
            }
            _ => false,
        },
        Act::LaggingHeir { shard: s, ms } => heirs::lagging(world, shard(world, *s), *ms).await,
        Act::LostReply => heirs::lost_reply(world).await,
        Act::DeposedMeta { ms } => metadata::deposed(world, *ms).await,
        Act::LostChange => metadata::lost_change(world).await,
        Act::BehindMeta { ms } => metadata::behind(world, *ms).await,
        Act::Overdue => heirs::overdue(world).await,
        Act::GivenAway => heirs::given_away(world).await,
        Act::HalfWritten { shard: s } => heirs::half_written(world, shard(world, *s)).await,
        Act::OutAndIn { shard: s, leads, ms } => voters::out_and_in(world, shard(world, *s), *leads, *ms).await,
        Act::LeaderOut => voters::leader_out(world).await,
        Act::Dawdle { node, ms, most } => gaps::dawdle(world, *node, *ms, *most).await,
        Act::FailsAlone { shard: s, clean } => gaps::fails_alone(world, shard(world, *s), *clean).await,
        Act::AgedCheck { shard: s, hears, stop } => aged_check(world, shard(world, *s), *hears, *stop).await,
        Act::Forgotten { node, all, down } => forgotten(world, *node, *all, *down).await,
        Act::HeldAnswer { shard: s, ms } => held_answer(world, shard(world, *s), *ms).await,
        Act::AheadOfDisk { node, down } => ahead_of_disk(world, *node, *down).await,
        Act::Stop { node, down } => heirs::stop(world, *node, *down).await,
        Act::CrashInstall { node, point, ms, down } => crash_install(world, *node, point, *ms, *down).await,
        Act::Trap { node, point, passes, pause: stop, down } => trap(world, *node, point, *passes, *stop, *down).await,
        Act::WallClock { shard: s, by_ms } => match world.leader(shard(world, *s)) {
            Some(n) => { faults::change(world.host(n), |h| h.wall_us += by_ms * 1_000); true }
            None => false,
        },
        Act::OldMetadata { shard: s, ms } => match world.leader(shard(world, *s)) {
            Some(n) => {
                faults::change(world.host(n), |h| h.holds_back = Some(0));
                pause(*ms).await;
                faults::change(world.host(n), |h| h.holds_back = None);
                true
            }
            None => false,
        },
        Act::ChangeSession { group, from, down } => {
            let g = group % world.plan.groups;
            users::session(world, g, *from).await;
            pause(1_500).await;
            users::session(world, g, world.plan.session_ms).await;
            pause(thread_rng().gen_range(0..600)).await;
            match world.leader(users::shard_of_group(world, g)) { Some(n) => bounce(world, &[n], *down, false).await, None => false }
        }
        _ => users::carry_out(world, topics, &act).await,
    };
    world.acts_out.fetch_sub(u64::from(act.must_end()), SeqCst);
    if done { world.fired(kind); }
}

async fn split(world: &World, s: u64, odd: bool, ms: Ms) -> bool {
    let Some(n) = world.leader(shard(world, s)) else { return false };
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
    true
}

async fn bounce_under_lease(world: &World, s: u64) -> bool {
    let Some(leader) = world.leader(shard(world, s)) else { return false };
    let (first, second) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    if world.plan.aimed {
        // As far apart as the margins allow for: the leader's lease lasts long, the others' patience does not.
        for n in NODES { faults::drift(world.host(n), if n == leader { -DRIFT_PPM } else { DRIFT_PPM }); }
    }
    world.link(leader, first, false);
    pause(thread_rng().gen_range(600..1_500)).await;
    world.link(leader, second, false);
    bounce(world, &[second], 1, true).await;
    pause(thread_rng().gen_range(800..2_000)).await;
    world.link(leader, first, true);
    world.link(leader, second, true);
    true
}

/// The leader is dead; one of the two others is elected by the vote of the last, which loses its power as soon as it has answered. The elected one is cut off,
/// and the other two come back: whoever forgot that vote gives it again.
async fn forget_vote(world: &Arc<World>, s: u16) -> bool {
    let Some(leader) = world.leader(s) else { return false };
    let others: Vec<u64> = NODES.filter(|n| *n != leader).collect();
    if world.seen().nodes.len() < 3 { return false; }
    for n in &others {
        set_spring(world, *n, "vote granted", Some(s + 1), 0, Spring { after_send: true, down: 600_000, ..Spring::default() });
    }
    world.kill_as(leader, Crash::KillProcess);
    let end = world.now() + 3_000;
    while world.now() < end && others.iter().all(|n| world.is_up(*n)) { pause(1).await; }
    for n in &others { faults::set_trap(world.host(*n), None); }
    let Some(voter) = others.iter().copied().find(|n| !world.is_up(*n)) else {
        world.restart(leader);
        return false;
    };
    let elected = 6 - leader - voter;
    // It learns of its vote and says that it leads; nothing of that term may reach the others.
    let before = world.seen().judge.newest_term(s);
    world.link(elected, leader, false);
    world.link(elected, voter, false);
    pause(120).await;
    let leads = world.seen().judge.newest_term(s) > before || world.leader(s) == Some(elected);
    world.restart(voter);
    world.restart(leader);
    pause(4_000).await;
    world.cut(elected, true);
    leads
}

async fn transfer(world: &World, s: u16, to: u64) -> bool {
    let Some(node) = world.seen().nodes.values().next().cloned() else { return false };
    let host = world.host(node.cluster().node);
    match world.sim.get_node(host) { Some(h) => h.spawn(async move { node.transfer(s, to).await }).await.is_ok_and(|r| r.is_ok()), None => false }
}

/// An earlier version meets entries that it does not know: it stops the shard, keeps what it cannot read, and goes on when it is replaced.
async fn old_version(world: &World, node: u64, ms: Ms) -> bool {
    if !world.is_up(node) { return false; }
    let host = world.host(node);
    let before = faults::counts().get("entry of a later version").copied().unwrap_or(0);
    faults::change(host, |h| h.knows_level = Some(FEATURE_LEVEL - 1));
    world.care(node, |c| c.old_version = true);
    again(world, node).await;
    pause(ms).await;
    // Where nothing else is done to anybody: it must not keep the leadership of what it cannot serve.
    if world.plan.aimed {
        for s in 0..world.plan.shards {
            // It is given what it cannot serve, and has to give it away again.
            let stopped = |w: &World| w.seen().nodes.get(&node).and_then(|n| n.standing(s)).is_some_and(|(_, _, stopped)| stopped.is_some());
            if stopped(world) && transfer(world, s, node).await { pause(1_000).await; }
            let stuck = |w: &World| w.leader(s) == Some(node) && w.seen().nodes.get(&node).and_then(|n| n.standing(s)).is_some_and(|(_, _, stopped)| stopped.is_some());
            let end = world.now() + 5_000;
            while stuck(world) && world.now() < end { pause(100).await; }
            if stuck(world) { world.broken("live", format!("node {node} leads shard {s}, which it has stopped, and nobody serves it")); }
        }
    }
    faults::change(host, |h| h.knows_level = None);
    again(world, node).await;
    // What it keeps is applied by the end of its start.
    pause(2_500).await;
    world.care(node, |c| c.old_version = false);
    faults::counts().get("entry of a later version").copied().unwrap_or(0) > before
}

/// Its process is replaced.
async fn again(world: &World, node: u64) {
    world.kill(node, true);
    pause(20).await;
    world.restart(node);
}

// ---- traps

async fn trap(world: &Arc<World>, node: u64, point: &'static str, passes: u64, stop: Ms, down: Ms) -> bool {
    let Some(node) = (if node == 0 { world.leader(0) } else { Some(node) }) else { return false };
    if !world.is_up(node) || !world.is_free(node) { return false; }
    let sprung = format!("node {node} at a point: {point}");
    let times = |w: &World| w.seen().story.iter().filter(|l| l.ends_with(&sprung)).count();
    let before = times(world);
    set_spring(world, node, point, None, passes, Spring { pause: stop, down, ..Spring::default() });
    let end = world.now() + 4_000;
    while world.now() < end && times(world) == before { pause(50).await; }
    faults::set_trap(world.host(node), None);
    times(world) > before
}

/// A leader stands still with answers in its hand until the others have another leader. Then they must not leave any more (`safety.md` 3).
async fn held_answer(world: &Arc<World>, s: u16, stop: Ms) -> bool {
    let Some(leader) = world.leader(s).filter(|n| world.is_free(*n)) else { return false };
    let until = world.now() + stop + 2_500;
    // Asked over the others: they wait for it in its place, and it does not notice that they have given up.
    for n in NODES.filter(|n| *n != leader) { world.beside(heirs::ask_one(world.clone(), n, until)); }
    let term = world.seen().judge.newest_term(s);
    pause(thread_rng().gen_range(50..200)).await;
    set_spring(world, leader, "answer about to leave", Some(s + 1), 0, Spring { pause: stop, ..Spring::default() });
    pause(until.saturating_sub(world.now())).await;
    faults::set_trap(world.host(leader), None);
    world.seen().judge.newest_term(s) > term
}

/// A leader is cut off, and a while later a lease check still passes on what it heard before. The answer that waited for it stands still until nobody is bound by that any more:
/// the check was good for less than that (`safety.md` 3).
async fn aged_check(world: &Arc<World>, s: u16, hears: Ms, stop: Ms) -> bool {
    let Some(leader) = world.leader(s).filter(|n| world.is_free(*n)) else { return false };
    let until = world.now() + 2_000;
    for _ in 0..3 { world.beside(heirs::ask_one(world.clone(), leader, until)); }
    pause(100).await;
    let sprung = format!("node {leader} at a point: answer about to leave");
    let times = |w: &World| w.seen().story.iter().filter(|l| l.ends_with(&sprung)).count();
    let before = times(world);
    world.cut(leader, false);
    pause(hears).await;
    set_spring(world, leader, "answer about to leave", Some(s + 1), 0, Spring { pause: stop, ..Spring::default() });
    pause(until.saturating_sub(world.now())).await;
    faults::set_trap(world.host(leader), None);
    world.cut(leader, true);
    times(world) > before
}

/// A node applies what others have on their disks before it has it on its own, and loses its power just after a checkpoint: that must not have what the log has not (`safety.md` 28).
async fn ahead_of_disk(world: &Arc<World>, node: u64, down: Ms) -> bool {
    if !world.is_up(node) || !world.is_free(node) { return false; }
    // Whoever leads needs its own disk as others do theirs.
    let s = (0..world.plan.shards).find(|s| world.leader(*s).is_some_and(|l| l != node));
    let Some(s) = s else { return false };
    let lives = world.care(node, |c| c.lives);
    faults::change(world.host(node), |h| h.slow_disk_ms = 700);
    pause(thread_rng().gen_range(300..1_500)).await;
    set_spring(world, node, "checkpoint written", Some(s + 1), 0, Spring { after_send: true, down, ..Spring::default() });
    let end = world.now() + 6_000;
    while world.now() < end && world.is_up(node) { pause(20).await; }
    faults::set_trap(world.host(node), None);
    faults::change(world.host(node), |h| h.slow_disk_ms = 0);
    let died = !world.is_up(node);
    pause(down + 3_000).await;
    died && world.care(node, |c| c.lives) > lives
}

/// A group that was in a checkpoint is deleted and nobody makes it again. A node that starts from the next checkpoint must not have it any more: what is gone from memory has to go from the disk.
async fn forgotten(world: &Arc<World>, node: u64, all: bool, down: Ms) -> bool {
    let Some(s) = heirs::make_group(world).await else { return false };
    // Every node writes a checkpoint meanwhile.
    pause(3_000).await;
    if !world.is_up(node) || !world.is_free(node) || !heirs::delete_group(world).await { return false; }
    let lives = world.care(node, |c| c.lives);
    set_spring(world, node, "checkpoint written", Some(s + 1), 0, Spring { after_send: true, down, ..Spring::default() });
    let end = world.now() + 5_000;
    while world.now() < end && world.is_up(node) { pause(20).await; }
    faults::set_trap(world.host(node), None);
    let died = !world.is_up(node);
    // All of them start from theirs: nobody is left who could say how it was.
    if all {
        pause(2_500).await;
        bounce(world, &NODES.collect::<Vec<_>>(), 50, true).await;
    }
    pause(down + 3_000).await;
    let asked = heirs::look_for_group(world).await;
    died && asked && world.care(node, |c| c.lives) > lives
}

async fn crash_install(world: &Arc<World>, node: u64, point: &'static str, ms: Ms, down: Ms) -> bool {
    if !world.is_up(node) || !world.is_free(node) { return false; }
    world.cut(node, false);
    pause(ms).await;
    world.cut(node, true);
    if !world.is_up(node) || !world.is_free(node) { return false; }
    trap(world, node, point, 0, 0, down).await
}

fn set_spring(world: &Arc<World>, node: u64, point: &'static str, group: Option<u16>, passes: u64, spring: Spring) {
    world.care(node, |c| c.spring = spring);
    faults::set_trap(world.host(node), Some(Trap { point, group, passes }));
}

/// What is done at a trap; called by the code that has come to it.
pub fn at_trap(world: &Arc<World>, node: u64, point: &'static str) {
    world.event(format!("node {node} at a point: {point}"));
    world.fired(point);
    let spring = world.care(node, |c| c.spring);
    let w = world.clone();
    if spring.pause > 0 {
        world.sim.pause(world.host(node));
        return world.beside(async move {
            pause(spring.pause).await;
            if !w.sim.is_exit(w.host(node)) { w.sim.resume(w.host(node)); }
        });
    }
    if !spring.after_send { world.kill(node, false); }
    world.beside(async move {
        if spring.after_send {
            // A few hundred turns of the simulator are some microseconds: what was said is out, and nothing more was written.
            for _ in 0..400 { tokio::task::yield_now().await; }
            w.kill_as(node, Crash::LoseUnsynced);
        }
        if spring.down < 60_000 {
            pause(spring.down).await;
            if w.sim.is_exit(w.host(node)) && w.is_free(node) { w.restart(node); }
        }
    });
}

// ---- nodes

pub async fn bounce(world: &World, nodes: &[u64], down: Ms, gently: bool) -> bool {
    let nodes: Vec<u64> = nodes.iter().copied().filter(|n| world.is_free(*n)).collect();
    let some = nodes.iter().any(|n| world.is_up(*n));
    for n in &nodes { world.kill(*n, gently); }
    pause(down).await;
    // Somebody else may have started it meanwhile.
    for n in &nodes { if world.sim.is_exit(world.host(*n)) && world.is_free(*n) { world.restart(*n); } }
    some
}
async fn hold(world: &World, nodes: &[u64], ms: Ms) -> bool {
    let nodes: Vec<u64> = nodes.iter().copied().filter(|n| world.is_free(*n)).collect();
    let some = nodes.iter().any(|n| world.is_up(*n));
    for n in &nodes {
        world.event(format!("node {n} is paused"));
        world.sim.pause(world.host(*n));
    }
    pause(ms).await;
    for n in &nodes {
        world.event(format!("node {n} goes on"));
        if !world.sim.is_exit(world.host(*n)) { world.sim.resume(world.host(*n)); }
    }
    some
}
pub fn usual_latency() { NetSim::current().update_config(|c| c.send_latency = Duration::from_millis(1)..Duration::from_millis(10)); }
