//! The disks of a node and what befalls them beyond a crash: full, failing, damaged, lost, put back from an old copy. The operator does what
//! `docs/storage.md` says; a node that must not come back stays out.

use super::{act::Act, plan::Ms, play::pause, world::World};
use baton_raft::faults;
use baton_storage::{Crash, Disk, SimDisk, SimKv};
use madsim::rand::{Rng, thread_rng};
use std::sync::{Arc, PoisonError};

/// One node's.
#[derive(Clone, Default)]
pub struct Disks { pub wal: SimDisk, pub snapshots: SimDisk, pub state: SimKv }

impl Disks {
    fn copy(&self) -> Disks { Disks { wal: self.wal.copy(), snapshots: self.snapshots.copy(), state: self.state.copy() } }
    /// The process ends in this way.
    pub fn crash(&self, kind: Crash) {
        self.wal.crash(kind, &mut |n| thread_rng().gen_range(0..n));
        self.snapshots.crash(kind, &mut |n| thread_rng().gen_range(0..n));
        // Of its unsynced writes a prefix survives; of a process that died alone, all.
        let unsynced = self.state.unsynced();
        self.state.crash(if kind == Crash::KillProcess { unsynced } else { thread_rng().gen_range(0..=unsynced) });
    }
    fn full(&self, full: bool) {
        self.wal.set_full(full);
        self.snapshots.set_full(full);
        self.state.set_full(full);
    }
    /// The files that hold something for good.
    fn files(disk: &SimDisk) -> Vec<String> {
        let mut names: Vec<String> = disk.copy().list().unwrap_or_default().into_iter().filter(|n| !n.ends_with(".tmp")).collect();
        names.sort();
        names
    }
}

fn disks(world: &World, id: u64) -> Disks { world.disks.lock().unwrap_or_else(PoisonError::into_inner)[&id].clone() }
fn put(world: &World, id: u64, disks: Disks) { world.disks.lock().unwrap_or_else(PoisonError::into_inner).insert(id, disks); }
/// Everything is well again.
pub fn heal(world: &World, id: u64) {
    disks(world, id).full(false);
    disks(world, id).wal.crash_at(0);
    disks(world, id).wal.fail_syncs(0);
    disks(world, id).snapshots.fail_syncs(0);
    faults::change(world.host(id), |h| h.slow_disk_ms = 0);
}

/// Waits until a node has ended by itself.
async fn ends(world: &World, id: u64, within: Ms) -> Option<String> {
    let end = world.now() + within;
    while world.now() < end && world.ended(id).is_none() && !world.is_over() { pause(50).await; }
    world.ended(id)
}
/// Waits until it serves.
async fn starts(world: &World, id: u64, within: Ms) -> bool {
    let end = world.now() + within;
    while world.now() < end && !world.is_up(id) && world.ended(id).is_none() { pause(50).await; }
    world.is_up(id)
}

/// Carries out an act on a disk. False: there was nothing to do it to.
pub async fn carry_out(world: &Arc<World>, act: &Act) -> bool {
    match *act {
        Act::DieAtOperation { node, op, down } => {
            if !world.is_up(node) || !world.is_free(node) { return false; }
            world.care(node, |c| c.may_end = true);
            disks(world, node).wal.crash_at(op);
            pause(400).await;
            super::acts::bounce(world, &[node], down, false).await;
            true
        }
        Act::SlowDisk { node, by_ms, ms } => {
            faults::change(world.host(node), |h| h.slow_disk_ms = by_ms);
            pause(ms).await;
            faults::change(world.host(node), |h| h.slow_disk_ms = 0);
            true
        }
        Act::FullDisk { node, ms } => {
            if !world.is_up(node) { return false; }
            let d = disks(world, node);
            d.full(true);
            world.event(format!("node {node} has a full disk"));
            pause(ms).await;
            d.full(false);
            world.event(format!("node {node} has room on its disk"));
            true
        }
        Act::FailSync { node, .. } | Act::FlipBit { node, .. } | Act::EmptyDisk { node, .. } | Act::OldCopy { node, .. } => world.take(&[node]) && {
            let done = alone(world, act).await;
            world.give_back(&[node]);
            done
        },
        _ => false,
    }
}
/// What suffers no other act on the same node.
async fn alone(world: &Arc<World>, act: &Act) -> bool {
    match *act {
        Act::FailSync { node, files, clean, down } => fail_sync(world, node, files, clean, down).await,
        Act::FlipBit { node, of, at, down } => flip(world, node, of, at, down).await,
        Act::EmptyDisk { node, ms } => empty(world, node, ms).await,
        Act::OldCopy { node, age } => old_copy(world, node, age).await,
        _ => false,
    }
}

/// The next sync of the node's log, or of its files, fails, within four seconds. True: the node has ended of it, as it may.
pub async fn next_sync_fails(world: &World, node: u64, files: bool) -> bool {
    world.care(node, |c| c.may_end = true);
    let d = disks(world, node);
    if files { d.snapshots.fail_syncs(1) } else { d.wal.fail_syncs(1) }
    let mut failed = ends(world, node, 4_000).await;
    d.wal.fail_syncs(0);
    d.snapshots.fail_syncs(0);
    // One that failed at the last moment is on its way.
    if failed.is_none() { failed = ends(world, node, 1_000).await; }
    if failed.is_none() { world.care(node, |c| c.may_end = false); }
    failed.is_some()
}
async fn fail_sync(world: &Arc<World>, node: u64, files: bool, clean: bool, down: Ms) -> bool {
    if !world.is_up(node) || !next_sync_fails(world, node, files).await { return false; }
    world.kill_as(node, if clean { Crash::CleanPages } else { Crash::KillProcess });
    pause(down).await;
    world.restart(node);
    true
}

/// Damage while the node is down. It must refuse its log or snapshot, and go on once the bytes are as they were; of the store of checkpoints it makes a new one.
async fn flip(world: &Arc<World>, node: u64, of: u64, at: u64, down: Ms) -> bool {
    if !world.is_up(node) { return false; }
    world.kill(node, false);
    let d = disks(world, node);
    let whole = d.copy();
    world.care(node, |c| c.may_end = true);
    if of == 2 {
        d.state.break_it();
        pause(down).await;
        world.restart(node);
        let up = starts(world, node, 20_000).await;
        world.care(node, |c| c.may_end = false);
        if !up && !world.is_over() && world.ended(node).is_some() { world.broken("durable", format!("node {node} does not get over a damaged store of checkpoints: {:?}", world.ended(node))); }
        return up;
    }
    let disk = if of == 0 { &d.wal } else { &d.snapshots };
    let names = Disks::files(disk);
    let Some(name) = names.get(at as usize % names.len().max(1)) else {
        world.restart(node);
        world.care(node, |c| c.may_end = false);
        return false;
    };
    disk.damage(name, |bytes| {
        let place = (at >> 16) as usize % bytes.len().max(1);
        if let Some(b) = bytes.get_mut(place) { *b ^= 1 << (at % 8) }
    });
    world.event(format!("a bit turns over in {name} of node {node}"));
    world.restart(node);
    let up = starts(world, node, 20_000).await;
    if up { world.broken("durable", format!("node {node} starts although a bit of {name} has turned over")); }
    let refused = world.ended(node);
    world.kill_as(node, Crash::KillProcess);
    world.care(node, |c| c.may_end = false);
    put(world, node, whole);
    pause(down).await;
    world.restart(node);
    refused.is_some()
}

async fn empty(world: &Arc<World>, node: u64, ms: Ms) -> bool {
    if !world.is_up(node) { return false; }
    world.kill(node, false);
    let own = disks(world, node);
    put(world, node, Disks::default());
    world.care(node, |c| (c.may_end, c.directory) = (true, Some(0xe << 32 | u128::from(node))));
    world.restart(node);
    let refused = ends(world, node, ms + 3_000).await;
    if world.is_up(node) { world.broken("durable", format!("node {node} takes part with an empty folder")); }
    world.kill_as(node, Crash::KillProcess);
    put(world, node, own);
    world.care(node, |c| (c.may_end, c.directory) = (false, None));
    world.restart(node);
    refused.is_some()
}

/// The entries that a node has applied of each shard.
fn applied(world: &World, node: u64) -> Vec<u64> {
    let seen = world.seen();
    seen.nodes.get(&node).map(|n| (0..world.plan.shards).map(|s| n.inspect(s, |_| ()).map_or(0, |(at, ())| at)).collect()).unwrap_or_default()
}

/// Its peers, which stayed up, have seen more of that folder: they refuse it, and it never comes back.
async fn old_copy(world: &Arc<World>, node: u64, age: Ms) -> bool {
    let lives = |w: &World| super::world::NODES.map(|n| (w.care(n, |c| c.lives), w.is_up(n))).collect::<Vec<_>>();
    if !world.is_up(node) || world.members().len() < 3 { return false; }
    let (copy, before, then) = (disks(world, node).copy(), lives(world), applied(world, node));
    pause(age.saturating_sub(3_000)).await;
    let grew = applied(world, node).iter().zip(&then).any(|(now, then)| *now > then + 12);
    // What is durable is told every second.
    pause(3_000).await;
    if !grew || lives(world) != before || before.iter().any(|(_, up)| !up) { return false; }
    world.kill(node, false);
    put(world, node, copy);
    world.care(node, |c| c.may_end = true);
    world.event(format!("node {node} is put back from a copy of {age} ms ago"));
    world.restart(node);
    let refused = ends(world, node, 10_000).await;
    if world.is_over() { return false; }
    match &refused {
        Some(why) if why.contains("old copy") => {}
        other => world.broken("durable", format!("node {node} was put back from a copy of {age} ms ago, and is not refused for it: {other:?}")),
    }
    world.care(node, |c| c.out = true);
    world.seen().nodes.remove(&node);
    world.sim.kill(world.host(node));
    true
}
