//! Several commands in one drain. Each of these was found by the core simulation.
use baton_coordinator::{command::*, shard::*};
use baton_coordinator::{classic::{Due, Phase}, decide::TimerCommand};
use crate::common::*;
use crate::convert;

/// Batches of one drain draw from one counter, in any order of groups: neither quarantines the other.
#[test]
fn two_groups_in_one_drain_do_not_quarantine_each_other() {
    let mut w = World::new(&[("t", 4)]);
    w.queue(901, "zeta", Command::Heartbeat(Model::new("a", &["t"]).join_request()));
    w.queue(902, "alpha", Command::Heartbeat(Model::new("b", &["t"]).join_request()));
    w.queue(903, "zeta", Command::Heartbeat(Model::new("c", &["t"]).join_request()));
    w.run();
    for t in [901, 902, 903] {
        assert!(matches!(w.answer(Ticket(t)), Some(Ok(Response::Heartbeat(_)))));
    }
    assert_eq!(w.log.len(), 1, "one entry for the drain");
    assert!(w.shard.state().groups.values().all(|g| g.quarantined.is_none()));
}

/// A steady heartbeat that is answered together with a batch of its group re-arms its session like any other.
#[test]
fn a_heartbeat_in_the_drain_of_a_batch_rearms_its_session() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.pass(10_000);
    w.queue(901, "g", Command::Heartbeat(Model::new("b", &[]).join_request()));
    w.queue(902, "g", Command::Heartbeat(a.steady_request()));
    w.run();
    w.pass(14_900);
    assert!(w.group().members.contains_key(&a.id), "15 s since its last heartbeat have not passed");
}

/// The operator's word is about earlier processes: a retry of the join does not free what this very process may use.
#[test]
fn predecessor_dead_does_not_free_the_holds_of_the_same_process() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    let mut join = a.join_request();
    join.predecessor_dead = true;
    let v = w.beat(join.clone()).expect("accepted");
    a.take(&v);
    assert_eq!(w.ask(Command::RemoveMember { member: a.id.clone() }), Ok(Response::Removed));
    assert!(matches!(w.beat(join), Err(GroupError::FencedRemoved { .. })), "a retry does not know of the grant: refused, not renewed");
    assert_eq!(w.group().holds.len(), 4);
    a.owned.clear();
    w.beat(a.join_request()).expect("a rejoin at the last revision acknowledges");
    assert!(w.group().holds.is_empty());
}

/// A heartbeat that waited through a lapse of the leader does not shorten the full session that the lapse gave.
#[test]
fn a_heartbeat_from_before_a_lapse_does_not_undo_the_rearming() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.pass(5_000);
    w.queue(901, "g", Command::Heartbeat(a.steady_request()));
    w.now.mono_ms += 8_000;
    w.shard.lead(1, 1, w.now);
    w.run();
    w.pass(14_999);
    assert!(w.group().members.contains_key(&a.id));
}

/// A late copy of a join by an incarnation that expired must not take the place of the one that came after it, whatever it states.
#[test]
fn an_expired_incarnation_is_replaced_once_another_has_joined() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    let mut copy = a.join_request();
    copy.predecessor_dead = true;
    w.join(&mut a);
    w.pass(16_000);
    assert!(w.group().members.is_empty());
    let mut next = Model::new("a", &["t"]);
    next.incarnation = baton_coordinator::ids::Incarnation(4711);
    w.join(&mut next);
    assert_eq!(w.beat(copy), Err(GroupError::FencedIncarnation));
    assert_eq!(w.member("a").incarnation, next.incarnation);
}

/// The same for a static place: whoever expired in it stated its predecessor's death before the one came that has it now (found by the core simulation, seed 1847).
#[test]
fn an_expired_member_does_not_take_its_static_place_from_a_later_one() {
    let mut w = World::new(&[("t", 4)]);
    let placed = |m: &Model| Heartbeat { instance_id: Some("i".into()), predecessor_dead: true, ..m.join_request() };
    let (a, b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.beat(placed(&a)).expect("nobody has it");
    w.pass(16_000);
    assert!(w.group().members.is_empty());
    w.beat(placed(&b)).expect("it is free again");
    assert!(matches!(w.beat(placed(&a)), Err(GroupError::UnreleasedInstanceId { holder, .. }) if holder == b.id));
    assert_eq!(w.member("b").incarnation, b.incarnation);
    // A process of its own may: its operator has looked after b came.
    w.beat(Heartbeat { incarnation: baton_coordinator::ids::Incarnation(4711), ..placed(&a) }).expect("b is said to be dead");
    assert!(!w.group().members.contains_key(&b.id));
}

/// Many commands change one draft, and all of them are answered as if each had been decided alone.
#[test]
fn commands_of_one_drain_build_on_each_other() {
    let mut w = World::new(&[("t", 6)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.pass(200);
    let mut unknown = Model::new("b", &["t"]).join_request();
    (unknown.subscribed_topics, unknown.subscribed_regex) = (Some(Default::default()), Some("(".into()));
    w.queue(901, "g", Command::Heartbeat(Model::new("c", &["t"]).join_request()));
    w.queue(902, "g", Command::Heartbeat(unknown));
    w.queue(903, "g", Command::Heartbeat(Model::new("d", &["t"]).join_request()));
    w.queue(904, "g", Command::Heartbeat(a.steady_request()));
    w.run();
    assert!(matches!(w.answer(Ticket(902)), Some(Err(GroupError::InvalidRegex { .. }))), "refused after it had written: nothing of it stays");
    for t in [901, 903, 904] {
        assert!(matches!(w.answer(Ticket(t)), Some(Ok(Response::Heartbeat(_)))), "{t}");
    }
    assert_eq!(w.group().members.keys().map(|m| m.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
    assert_eq!(w.log.len(), 2, "one entry for the first join, one for the drain");
    assert_eq!((w.shard.stats().refused_batches, w.shard.stats().skipped), (0, 0));
}

/// A command that breaks an invariant is refused alone: what came before and after it in the same drain is decided as if it had not been there. After three in a row the group
/// is quarantined, as ever.
#[cfg(feature = "seeded-bugs")]
#[test]
fn a_poisoned_command_is_refused_alone() {
    use baton_coordinator::seeded;
    for bug in [60, 61] {
        let mut w = World::new(&[("t", 6)]);
        seeded::set(bug);
        w.queue(901, "g", Command::Heartbeat(Model::new("a", &["t"]).join_request()));
        w.queue(902, "g", Command::Heartbeat(Model::new("poison", &["t"]).join_request()));
        w.queue(903, "g", Command::Heartbeat(Model::new("b", &["t"]).join_request()));
        w.queue(904, "other", Command::Heartbeat(Model::new("c", &["t"]).join_request()));
        w.run();
        let refused = |w: &mut World, t| matches!(w.answer(Ticket(t)), Some(Err(GroupError::Unavailable { reason })) if reason.contains("invariant"));
        assert!(refused(&mut w, 902), "bug {bug}");
        for t in [901, 903, 904] {
            assert!(matches!(w.answer(Ticket(t)), Some(Ok(Response::Heartbeat(_)))), "bug {bug}: {t}");
        }
        assert_eq!(w.group().members.keys().map(|m| m.as_str()).collect::<Vec<_>>(), ["a", "b"], "bug {bug}");
        assert!(!w.group().target.is_empty(), "bug {bug}: the target of the first decision is computed again");
        // A draft that a record did not fit is not built upon: what came after it goes into the next entry.
        assert_eq!((w.log.len(), w.shard.stats().refused_batches), (if bug == 60 { 1 } else { 2 }, 1), "bug {bug}");
        for t in [905, 906] {
            w.queue(t, "g", Command::Heartbeat(Model::new("poison", &["t"]).join_request()));
            w.run();
            assert!(refused(&mut w, t), "bug {bug}: {t}");
        }
        let quarantined = w.group().quarantined.is_some();
        seeded::set(0);
        // The accepted commands beside the first poison count as a batch that went well.
        assert_eq!((quarantined, w.shard.stats().refused_batches), (false, 3), "bug {bug}");
        seeded::set(bug);
        w.queue(907, "g", Command::Heartbeat(Model::new("poison", &["t"]).join_request()));
        w.run();
        seeded::set(0);
        assert!(w.group().quarantined.is_some(), "bug {bug}");
    }
}

/// A consumer member joins a classic group and leaves it at once. Converted and converted back in one batch, the group went on with what its leader had known of it before: its rebalance
/// had no timer, and waited for ever for who did not come.
#[test]
fn a_group_that_is_converted_and_back_at_once_has_the_timers_of_its_phase() {
    let (mut w, mut a, mut b) = (convert::world(|_| {}), convert::client(1), convert::client(2));
    convert::stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    w.queue(901, "g", convert::hb("m", 0, Some(&[])));
    w.queue(902, "g", convert::hb("m", -1, None));
    w.run();
    for t in [901, 902] {
        assert!(matches!(w.answer(Ticket(t)), Some(Ok(Response::Consumer(_)))));
    }
    assert_eq!(w.group().classic.as_ref().map(|c| (c.phase, c.members.len())), Some((Phase::Preparing, 2)));
    let due: Vec<Due> = timers(&w.shard).into_iter().filter_map(|(_, c)| if let TimerCommand::Classic(d) = c { Some(d) } else { None }).collect();
    assert!(due.contains(&Due::Join) && [&a, &b].iter().all(|c| due.contains(&Due::Session { member: c.id.clone() })), "{due:?}");
}

/// The last member of a classic group leaves while an id that was told is still out: the join phase ends by a timer at once. It fires behind its own entry, which is still in flight, and the
/// lease lapses: it was forgotten then.
#[test]
fn a_timer_that_has_fired_behind_its_own_entry_outlives_a_lapse() {
    let (mut w, mut a, b) = (convert::world(|_| {}), convert::client(1), convert::client(2));
    convert::stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    assert_eq!(convert::code(&mut w, b.join()), "MEMBER_ID_REQUIRED");
    w.auto_commit = false;
    let t = w.send(a.leave());
    w.pass(10);
    w.shard.lead(1, 1, w.now);
    w.auto_commit = true;
    w.commit();
    w.pass(10);
    assert!(w.answer(t).is_some_and(|r| r.is_ok()));
    assert_eq!(w.group().classic.as_ref().map(|c| c.phase), Some(Phase::Empty), "nobody is waited for");
}
