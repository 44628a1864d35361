//! What people and members are shown: whom a group waits for, how soon a member should ask again, and what it gets by default.
use crate::common::{Model, World, half_way, kafka::Kafka, timers, two_at_rest};
use baton_coordinator::{command::*, config::Setting, decide::TimerCommand, ids::*, shard::*};

fn view(w: &mut World) -> GroupView {
    match w.ask(Command::Describe) {
        Ok(Response::Group(v)) => *v,
        other => panic!("a group was expected, not {other:?}"),
    }
}

#[test]
fn a_group_that_waits_says_for_whom_since_when_and_for_how_long_at_most() {
    let (mut w, a, _b) = half_way();
    let asked: Vec<Partition> = w.member("a").pending.keys().cloned().collect();
    for passed in [0, 300, 400] {
        w.pass(passed);
        let v = view(&mut w);
        let waits: Vec<(&MemberId, &Partition, u64)> = v.stuck_because.iter().map(|s| (&s.member, &s.partition, s.at_most_ms)).collect();
        let expected: Vec<_> = asked.iter().map(|p| (&a.id, p, 60_000 + w.member("a").session_promised_ms)).collect();
        assert_eq!((v.state, waits), (GroupState::Reconciling, expected));
        let since = if passed == 400 { 700 } else { passed };
        assert!(v.stuck_because.iter().all(|s| s.since_ms == since), "after {since} ms: {:?}", v.stuck_because);
    }
    // Removed by an administrator: what it had is held for a session, and that is what is waited for then.
    w.ask(Command::RemoveMember { member: a.id.clone() }).expect("it is a member");
    w.pass(1_000);
    let (v, remaining) = (view(&mut w), w.group().holds.len());
    assert_eq!((v.holds.len(), remaining), (4, 4));
    for s in &v.stuck_because {
        let held = v.holds.iter().find(|h| h.partition == s.partition).expect("it is held");
        assert_eq!((s.at_most_ms, held.remaining_ms), (held.remaining_ms, held.remaining_ms));
        assert!(s.at_most_ms > 0 && s.member == a.id);
    }
}

#[test]
fn a_group_at_rest_waits_for_nobody() {
    let (mut w, ..) = two_at_rest(4);
    assert_eq!(view(&mut w).stuck_because, vec![]);
}

/// A member with something to do is asked back soon: one that waits or gives back, and one that is behind its group.
#[test]
fn who_has_something_to_do_is_asked_back_soon() {
    let (mut w, mut a, mut b) = two_at_rest(6);
    w.set(Setting::HeartbeatInterval, Some(4_000));
    w.set(Setting::PendingInterval, Some(150));
    assert_eq!((w.steady(&mut a).heartbeat_interval_ms, w.steady(&mut b).heartbeat_interval_ms), (4_000, 4_000));
    let mut c = Model::new("c", &["t"]);
    assert_eq!(w.join(&mut c).heartbeat_interval_ms, 150, "it waits");
    assert_eq!(w.steady(&mut a).heartbeat_interval_ms, 150, "it is to give back");
    w.settle(&mut [&mut a, &mut b, &mut c]);
    assert_eq!(w.steady(&mut c).heartbeat_interval_ms, 4_000);
    // Nothing to wait for, but there is a newer epoch that it will only be told of later: no target has been computed for it.
    w.set(Setting::AssignmentInterval, Some(10_000));
    w.pass(500);
    w.declare("t", 9);
    let behind = w.steady(&mut a);
    assert!(behind.group_epoch > behind.member_epoch && behind.member_state == MemberState::Stable, "{behind:?}");
    assert_eq!(behind.heartbeat_interval_ms, 150);
    // Without a short one, and with one that is longer than the usual.
    w.set(Setting::PendingInterval, Some(0));
    assert_eq!(w.steady(&mut a).heartbeat_interval_ms, 4_000);
    w.set(Setting::PendingInterval, Some(9_000));
    assert_eq!(w.steady(&mut a).heartbeat_interval_ms, 4_000);
}

#[test]
fn who_says_no_rebalance_timeout_has_a_minute() {
    let (mut w, a) = (World::new(&[("t", 1)]), Model::new("a", &["t"]));
    w.beat(Heartbeat { rebalance_timeout_ms: None, ..a.join_request() }).expect("the join is accepted");
    assert_eq!(w.member("a").rebalance_timeout_ms, 60_000);
}

#[test]
fn a_shard_says_its_number() { assert_eq!(Shard::new(3, baton_coordinator::config::Limits::default()).id(), 3); }

/// The timer that ends an earlier promise is that of the newest value told.
#[test]
fn a_session_that_is_lowered_twice_has_one_timer() {
    let lowering = |w: &World| -> Vec<u64> {
        timers(&w.shard).into_iter().filter_map(|(_, c)| if let TimerCommand::LowerSession { told_ms, .. } = c { Some(told_ms) } else { None }).collect()
    };
    let (mut w, mut a) = (World::new(&[("t", 1)]), Model::new("a", &["t"]));
    w.set(Setting::SessionTimeout, Some(30_000));
    w.join(&mut a);
    for (session, expected) in [(20_000, vec![20_000]), (10_000, vec![10_000]), (15_000, vec![15_000]), (30_000, vec![])] {
        w.set(Setting::SessionTimeout, Some(session));
        w.steady(&mut a);
        assert_eq!(lowering(&w), expected, "told {session} ms");
    }
}

/// A member of the consumer protocol that goes on to a newer epoch with what it has keeps its revision: only other partitions make a new one.
#[test]
fn a_newer_epoch_alone_makes_no_new_revision() {
    let mut w = World::new(&[("t", 1), ("u", 1)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["u"]));
    w.kjoin(&mut a);
    w.ksettle(&mut [&mut a]);
    let (revision, epoch) = (w.member("a").assignment_revision, a.epoch);
    w.kjoin(&mut b);
    w.ksettle(&mut [&mut a, &mut b]);
    assert!(a.epoch > epoch);
    assert_eq!(w.member("a").assignment_revision, revision);
}

/// Facts of topics that changed are taken over for what is new: what a member has of a topic that is still the same stays its own, under its token, and nobody is asked for it.
#[test]
fn a_topic_that_grows_or_goes_takes_nothing_of_what_is_still_there() {
    let mut w = World::new(&[("t", 4), ("u", 2)]);
    let (mut a, mut b) = (Model::new("a", &["t", "u"]), Model::new("b", &["t", "u"]));
    w.join(&mut a);
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    let tokens = |w: &World, topic: &str, below: i32| -> Vec<(Partition, FencingToken)> {
        w.group().owners.iter().filter(|(p, _)| p.topic.as_str() == topic && p.partition < below).map(|(p, o)| (p.clone(), o.token)).collect()
    };
    let (t, u) = (tokens(&w, "t", 4), tokens(&w, "u", 2));
    w.declare("t", 6);
    for m in [&mut a, &mut b] {
        assert!(w.steady(m).pending_revocation.is_empty(), "nobody is asked for anything");
    }
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((tokens(&w, "t", 4), tokens(&w, "u", 2)), (t.clone(), u));
    // With one member nothing moves for balance either.
    w.ask(b.leave_request()).expect("it leaves");
    w.settle(&mut [&mut a]);
    let t = tokens(&w, "t", 6);
    w.meta(baton_coordinator::metadata::MetaCommand::DeleteTopic { name: "u".into() });
    assert_eq!(w.steady(&mut a).pending_revocation, [0, 1].map(|p| Partition::new("u", p)).into());
    w.settle(&mut [&mut a]);
    assert_eq!(tokens(&w, "t", 6), t);
}

fn deadline(w: &World, of: impl Fn(&TimerCommand) -> bool) -> Option<u64> { timers(&w.shard).into_iter().find(|(_, c)| of(c)).map(|(at, _)| at) }

/// An earlier promise ends a session after it was lowered, whatever happens to the member meanwhile.
#[test]
fn what_happens_meanwhile_does_not_put_off_the_end_of_an_earlier_promise() {
    let (mut w, mut a) = (World::new(&[("t", 1), ("u", 1)]), Model::new("a", &["t"]));
    w.set(Setting::SessionTimeout, Some(30_000));
    w.join(&mut a);
    w.set(Setting::SessionTimeout, Some(10_000));
    w.steady(&mut a);
    let ends = |w: &World| deadline(w, |c| matches!(c, TimerCommand::LowerSession { told_ms: 10_000, .. }));
    let (first, begun) = (ends(&w), w.now.mono_ms);
    assert_eq!(first, Some(begun + 30_000));
    w.pass(4_000);
    let v = w.beat(Heartbeat { subscribed_topics: Some(["t", "u"].map(TopicName::from).into()), ..a.steady_request() }).expect("it is accepted");
    a.take(&v);
    assert_eq!(ends(&w), first);
}

/// A member learns of a change when its batch is applied: its session begins then, not when its heartbeat came.
#[test]
fn a_session_begins_when_the_change_is_applied() {
    let (mut w, mut a) = (World::new(&[("t", 1), ("u", 1)]), Model::new("a", &["t"]));
    w.join(&mut a);
    w.auto_commit = false;
    let news = Heartbeat { subscribed_topics: Some(["t", "u"].map(TopicName::from).into()), ..a.steady_request() };
    let t = w.send(Command::Heartbeat(news));
    let (ends, came) = (|w: &World| deadline(w, |c| matches!(c, TimerCommand::ExpireSession { .. })), w.now.mono_ms);
    w.pass(2_000);
    assert!(w.answer(t).is_none());
    w.auto_commit = true;
    w.commit();
    w.run();
    assert!(matches!(w.answer(t), Some(Ok(Response::Heartbeat(_)))));
    assert_eq!(ends(&w), Some(came + 2_000 + w.member("a").session_promised_ms));
}
