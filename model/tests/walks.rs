//! Bounded walks, small enough for every change; `cargo xtask model` walks on.
use baton_model::{Bounds, Cluster, Counters, starts, world::*};
use stateright::{Checker, HasDiscoveries, Model};
use std::{sync::Arc, sync::atomic::Ordering::Relaxed, time::Duration};

/// Faults of every kind but time, each at most once: enough for every bug below.
const SMALL: Bounds = Bounds { ticks: 0, leader_changes: 1, leaves: 1, posts: 1, late_answers: 0, copies: 1 };

/// Walks breadth first until something breaks or `states` distinct states are seen. What broke, and how many there were.
fn walk(bounds: Bounds, bug: u8, states: usize) -> (Vec<&'static str>, usize, Arc<Counters>) {
    let cluster = Cluster::new(bounds, bug);
    let counters = cluster.counters.clone();
    let checker = cluster.checker().threads(2).target_state_count(4 * states).timeout(Duration::from_secs(300)).finish_when(HasDiscoveries::Any).spawn_bfs();
    while !checker.is_done() && checker.unique_state_count() < states && checker.discoveries().is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    (checker.discoveries().into_keys().collect(), checker.unique_state_count(), counters)
}

#[test]
fn nothing_breaks_and_every_fault_is_met() {
    let (broken, states, n) = walk(Bounds::default(), 0, 60_000);
    println!("{states} distinct states: {}", n.render());
    assert!(broken.is_empty(), "{broken:?}");
    assert!(states >= 60_000);
    for (what, counter) in [("duplicated", &n.duplicated), ("stale", &n.stale), ("lost", &n.lost), ("late", &n.late_answers), ("leader changes", &n.leader_changes), ("handed over", &n.handed_over), ("expired", &n.expired)] {
        assert!(counter.load(Relaxed) >= 50, "{what} is hardly met: {}", n.render());
    }
}

/// Bug → the invariant that must break, named in advance (`docs/evidence.md` has what the bugs are).
const BUGS: [(u8, &[&str]); 7] = [
    (1, &["one-owner"]), (2, &["one-owner"]), (3, &["one-believer"]), (4, &["one-believer"]), (19, &["never fenced"]), (21, &["answers-committed"]), (23, &["one-believer"]),
];

#[test]
fn every_seeded_bug_is_found_and_without_it_the_same_walk_is_clean() {
    let mut most = 0;
    for (bug, invariant) in BUGS {
        let (broken, states, n) = walk(SMALL, bug, 200_000);
        println!("bug {bug}: {broken:?} after {states} distinct states, its branch was reached {} times", n.reached.load(Relaxed));
        assert_eq!(broken, invariant, "bug {bug} after {states} states");
        most = most.max(states);
    }
    let (broken, states, _) = walk(SMALL, 0, most);
    assert!(broken.is_empty() && states >= most, "{broken:?} after {states} states");
}

#[test]
fn states_that_differ_only_in_names_are_one() {
    let reach = |actions: &[Action]| {
        let (mut w, n) = (World::new(SMALL), Counters::default());
        actions.iter().for_each(|a| w.take(a, &n));
        w
    };
    use Action::*;
    let (a, b) = (reach(&[Exchange(0), Exchange(2)]), reach(&[Exchange(1), Exchange(0)]));
    assert_eq!(a, b);
    assert_ne!(a, reach(&[Exchange(0)]));
    assert_ne!(a, reach(&[Exchange(0), Exchange(2), Exchange(0)]), "the first has something to give back now");
    // Time that passes for all of it alike makes no difference; what it does to a deadline does.
    let (mut late, mut never) = (World::new(Bounds { ticks: 3, ..SMALL }), World::new(Bounds { ticks: 2, ..SMALL }));
    late.take(&Tick, &Counters::default());
    assert_eq!(late, never, "nobody is there whose deadline could have come nearer");
    (late, never) = (reach(&[Exchange(0)]), reach(&[Exchange(0)]));
    (late.left.ticks, never.left.ticks) = (1, 0);
    late.take(&Tick, &Counters::default());
    assert_ne!(late, never);
}

#[test]
fn every_start_is_different_and_whole() {
    let all = starts::all(SMALL);
    for (i, a) in all.iter().enumerate() {
        assert!(a.broken.is_none(), "{a:?}");
        assert!(all[i + 1..].iter().all(|b| a != b), "start {i} is there twice");
    }
}
