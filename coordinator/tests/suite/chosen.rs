//! Assignors as members and groups choose them: from the heartbeat to who has what. And work that is lost on its way.
use baton_coordinator::{command::*, config::Setting, metadata::*, work::Task};
use crate::common::*;

fn layout(zones: &[&str], weights: &[u32]) -> Layout {
    Layout { zones: zones.iter().map(|z| z.split(',').filter(|z| !z.is_empty()).map(String::from).collect()).collect(), weights: weights.to_vec() }
}
fn set_layout(w: &mut World, layout: Layout) { w.meta(MetaCommand::SetLayout { name: "t".into(), layout }); }
fn asks(m: &Model, assignor: &str, rack: Option<&str>, capacity: Option<u32>) -> Heartbeat { Heartbeat { assignor: Some(assignor.into()), rack: rack.map(String::from), capacity, ..m.join_request() } }

/// Two members in two zones: each gets the partitions of its own zone, although `uniform` would have dealt them out in order.
#[test]
fn rack_aware_is_chosen_by_members_and_reads_the_zones_of_the_topic() {
    let mut w = World::new(&[("t", 4)]);
    set_layout(&mut w, layout(&["south", "north", "south", "north"], &[]));
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    for (m, rack) in [(&mut a, "north"), (&mut b, "south")] {
        let v = w.beat(asks(m, "rack-aware", Some(rack), None)).expect("the assignor is known");
        m.take(&v);
    }
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.owned, b.owned), (set(&[("t", 1), ("t", 3)]), set(&[("t", 0), ("t", 2)])));
}

/// A heavy partition is worth three light ones, and who can carry twice as much gets it.
#[test]
fn weighted_reads_weights_and_capacities() {
    let mut w = World::new(&[("t", 4)]);
    set_layout(&mut w, layout(&[], &[1, 1, 1, 6]));
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    for (m, capacity) in [(&mut a, None), (&mut b, Some(2))] {
        let v = w.beat(asks(m, "weighted", None, capacity)).expect("the assignor is known");
        m.take(&v);
    }
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.owned, b.owned), (set(&[("t", 0), ("t", 1), ("t", 2)]), set(&[("t", 3)])));
    assert_eq!(w.member("b").capacity, Some(2), "replicated with the member");
    assert_eq!(w.group().assignor("uniform"), "weighted");
}

/// With a bound of one, a newcomer gets one partition at each computation, not its half at once.
#[test]
fn the_group_bounds_how_many_partitions_move_at_once() {
    let mut w = World::new(&[("t", 6)]);
    w.set(Setting::MovesMax, Some(1));
    let mut a = Model::new("a", &["t"]);
    let v = w.beat(asks(&a, "weighted", None, None)).expect("accepted");
    a.take(&v);
    w.settle(&mut [&mut a]);
    let mut b = Model::new("b", &["t"]);
    let v = w.beat(asks(&b, "weighted", None, None)).expect("accepted");
    b.take(&v);
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.owned.len(), b.owned.len()), (5, 1));
}

#[test]
fn layouts_and_capacities_out_of_bounds_are_refused_by_name() {
    let mut w = World::new(&[("t", 2)]);
    let field = |w: &World, l: Layout| match w.meta.clone().apply(&MetaCommand::SetLayout { name: "t".into(), layout: l }) {
        Err(MetaError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(&w, layout(&["a", "b", "c"], &[])), "zones");
    assert_eq!(field(&w, layout(&[], &[1, 0])), "weights");
    assert_eq!(field(&w, layout(&[], &[1, 1, 1])), "weights");
    let unknown = w.meta.clone().apply(&MetaCommand::SetLayout { name: "none".into(), layout: Layout::default() });
    assert!(matches!(unknown, Err(MetaError::UnknownTopic { .. })));
    let m = Model::new("a", &["t"]);
    assert!(matches!(w.beat(asks(&m, "weighted", None, Some(1_000_001))), Err(GroupError::Invalid { field, .. }) if field == "capacity"));
    assert!(matches!(w.beat(asks(&m, "sticky", None, None)), Err(GroupError::UnsupportedAssignor { .. })));
}

#[test]
fn a_deleted_topic_takes_its_layout_with_it() {
    let mut w = World::new(&[("t", 2)]);
    set_layout(&mut w, layout(&["a"], &[3]));
    w.meta(MetaCommand::DeleteTopic { name: "t".into() });
    assert!(w.meta.layouts.is_empty());
}

/// The thread that computes dies: nothing comes back. After the deadline the work is given out again, once, and the first run's late result is not taken.
#[test]
fn work_that_is_lost_is_given_out_again() {
    let mut w = World::new(&[("t", 6_000)]);
    w.auto_work = false;
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    assert_eq!(w.work.len(), 1, "a large group's target is computed beside the shard");
    let lost = w.work.remove(0);
    for _ in 0..20 {
        w.pass(1_000);
        w.steady(&mut a);
    }
    assert!(w.work.is_empty(), "it may still come back");
    for _ in 0..15 {
        w.pass(1_000);
        w.steady(&mut a);
    }
    assert_eq!(w.work.len(), 1, "it is asked for again, and once only");
    assert!(matches!(w.work[0].task, Task::Assign { .. }) && w.work[0].run != lost.run);
    w.shard.done(lost.run(), w.now);
    w.run();
    assert!(w.group().target.is_empty(), "what has been given up for lost is not taken");
    let again = w.work.remove(0);
    w.shard.done(again.run(), w.now);
    w.run();
    w.settle(&mut [&mut a]);
    assert_eq!(a.owned.len(), 6_000);
}

/// Nobody heartbeats (all wait for an answer): the timer asks again by itself.
#[test]
fn lost_work_is_asked_for_again_without_any_heartbeat() {
    let mut w = World::new(&[("t", 6_000)]);
    w.auto_work = false;
    w.set(Setting::SessionTimeout, Some(60_000));
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    drop(w.work.remove(0));
    w.pass(29_000);
    assert!(w.work.is_empty());
    w.pass(2_000);
    assert_eq!(w.work.len(), 1);
}
