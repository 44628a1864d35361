//! Joining, fencing, expiry, removal, sessions, leadership.
use baton_coordinator::{command::*, config::Setting, ids::*, metadata::MetaCommand, shard::*};
use crate::common::*;

/// Trap 2 (KAFKA-19233) and rule 9: a rejoin with epoch 0 is accepted whatever the stored epoch, with new tokens.
#[test]
fn a_rejoin_with_epoch_0_is_a_new_grant() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let (epoch, tokens) = (w.group().epoch, w.member("a").assigned.clone());
    a.owned.clear();
    w.join(&mut a);
    assert_eq!((w.group().epoch, a.owned.len()), (epoch, 2), "nothing changed for the group");
    assert!(w.member("a").assigned.iter().all(|(p, x)| x.token > tokens[p].token));
}

/// Trap 10: an HTTP member's earlier epoch is answered with the full state, never fenced; one above is.
#[test]
fn an_earlier_epoch_is_answered_and_a_later_one_fenced() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    let old = a.steady_request();
    w.pass(200);
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    let v = w.beat(old).expect("answered");
    assert_eq!((v.member_epoch, v.assignment.map(|x| x.len())), (a.epoch, Some(2)));
    let mut future = a.steady_request();
    future.epoch += 1;
    assert!(matches!(w.beat(future), Err(GroupError::FencedMemberEpoch { .. })));
}

/// Trap 19 of the seeded list: a retry after a lost answer neither bumps nor fences.
#[test]
fn a_retry_after_a_lost_answer_bumps_nothing() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    let join = a.join_request();
    w.join(&mut a);
    let epoch = w.group().epoch;
    w.beat(join.clone()).expect("accepted");
    w.beat(a.steady_request()).expect("accepted");
    assert_eq!(w.group().epoch, epoch);
}

/// `safety.md` 6.
#[test]
fn a_second_incarnation_is_refused_beside_a_live_one() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let before = w.group().clone();
    let mut twin = a.clone();
    twin.incarnation = Incarnation(99);
    let mut join = twin.join_request();
    join.assignment_revision = AssignmentRevision(0);
    w.pass(1_000);
    assert_eq!(w.beat(join.clone()), Err(GroupError::MemberIdInUse { remaining_ms: 14_000 }));
    assert_eq!(*w.group(), before);
    join.predecessor_dead = true;
    w.beat(join).expect("the operator's word takes the place over");
    assert_eq!(w.beat(a.join_request()), Err(GroupError::FencedIncarnation), "a replaced incarnation is never accepted again");
    assert_eq!(w.beat(a.steady_request()), Err(GroupError::FencedIncarnation));
}

#[test]
fn a_silent_member_is_expired_after_its_session_and_not_before() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.pass(10_000);
    w.steady(&mut a);
    w.pass(14_999);
    assert_eq!(w.group().members.len(), 1);
    w.pass(1);
    // Trap 5 (KAFKA-20442): an empty group's target epoch is level with its epoch.
    assert!(w.group().members.is_empty());
    assert_eq!((w.group().state(), w.group().target_epoch), (GroupState::Empty, w.group().epoch));
    assert!(w.history.values().any(|h| h.kind == "expired" && h.cause.contains("15000 ms")));
}

/// `safety.md` 12: whoever does not give back in time is out, but what it may use is held for one session.
#[test]
fn a_member_that_does_not_give_back_is_removed_and_its_partitions_are_held() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.pass(200);
    w.join(&mut b);
    w.steady(&mut a);
    let everything = set(&[("t", 0), ("t", 1), ("t", 2), ("t", 3)]);
    for _ in 0..13 {
        w.pass(5_000);
        w.steady(&mut b);
        let mut h = a.steady_request();
        h.owned = Some(everything.clone());
        let _ = w.beat(h);
    }
    assert!(!w.group().members.contains_key(&a.id));
    assert_eq!(w.group().holds.len(), 4);
    assert!(matches!(w.beat(a.steady_request()), Err(GroupError::FencedRemoved { remaining_ms }) if remaining_ms > 0));
    w.steady(&mut b);
    assert!(b.owned.is_empty(), "held partitions are nobody else's");
    assert_eq!(w.ask(a.leave_request()), Ok(Response::Left), "the removed member says it has stopped");
    assert!(w.group().holds.is_empty());
    w.settle(&mut [&mut b]);
    assert_eq!(b.owned.len(), 4);
}

#[test]
fn a_group_with_holds_is_not_deleted_unless_forced() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    assert_eq!(w.ask(Command::DeleteGroup { force: true }), Err(GroupError::NonEmptyGroup { members: 1 }));
    assert_eq!(w.ask(Command::RemoveMember { member: a.id.clone() }), Ok(Response::Removed));
    assert!(matches!(w.ask(Command::DeleteGroup { force: false }), Err(GroupError::GroupDraining { holds: 4, remaining_ms: 15_000 })));
    assert_eq!(w.ask(Command::DeleteGroup { force: true }), Ok(Response::Deleted));
}

/// `safety.md` 1: a heartbeat of a member whose removal is in flight waits for it.
#[test]
fn a_heartbeat_waits_for_the_removal_in_flight() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.auto_commit = false;
    let removal = w.send(Command::RemoveMember { member: a.id.clone() });
    let beat = w.send(Command::Heartbeat(a.steady_request()));
    assert_eq!((w.answer(removal), w.answer(beat)), (None, None));
    w.commit();
    w.run();
    assert_eq!(w.answer(removal), Some(Ok(Response::Removed)));
    assert!(matches!(w.answer(beat), Some(Err(GroupError::FencedRemoved { .. }))));
}

/// `safety.md` 19: a new leader gives everybody a full session, by the promise in the state.
#[test]
fn a_new_leader_rearms_in_full() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.pass(14_000);
    w.shard.step_down();
    w.shard.lead(1, 2, w.now);
    w.pass(14_999);
    assert_eq!(w.group().members.len(), 1);
    w.pass(2);
    assert!(w.group().members.is_empty());
}

/// `safety.md` 11: session 15 s → 3 s; until one old session has passed under one leader, timers go by the old promise.
#[test]
fn a_lowered_session_is_in_force_only_after_one_old_session() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.set(Setting::SessionTimeout, Some(3_000));
    let v = w.steady(&mut a);
    assert_eq!((v.session_timeout_ms, w.member("a").session_promised_ms), (3_000, 15_000));
    w.shard.step_down();
    w.shard.lead(1, 2, w.now);
    w.pass(14_900);
    assert_eq!(w.group().members.len(), 1, "not expired at 3 s: 15 s were promised");
    w.steady(&mut a);
    w.pass(200);
    assert_eq!(w.member("a").session_promised_ms, 3_000);
    w.steady(&mut a);
    w.pass(14_000);
    w.run();
    assert!(w.group().members.is_empty());
}

/// Found by the core simulation (seed 69): the first lowering's timer ended the second one's promise, 4 s after the member had been told 15 s.
#[test]
fn a_session_raised_and_lowered_again_keeps_its_promise_in_full() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    for session in [3_000, 15_000, 3_000] {
        w.pass(4_000);
        w.set(Setting::SessionTimeout, Some(session));
        assert_eq!(w.steady(&mut a).session_timeout_ms, session);
    }
    // The first lowering was 8 s ago.
    w.pass(8_000);
    w.steady(&mut a);
    assert_eq!(w.member("a").session_promised_ms, 15_000, "a lease under 15 s may still run");
    w.pass(7_100);
    w.steady(&mut a);
    assert_eq!(w.member("a").session_promised_ms, 3_000);
}

/// `safety.md` 4 and 24: what a deposed leader had proposed on an older state is a no-op.
#[test]
fn an_entry_decided_on_another_state_is_a_no_op() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.auto_commit = false;
    w.send(Command::RemoveMember { member: a.id.clone() });
    let late = w.log.pop().expect("a proposal");
    w.shard.step_down();
    w.run();
    w.shard.lead(1, 2, w.now);
    w.auto_commit = true;
    a.owned.clear();
    w.join(&mut a);
    let before = w.group().clone();
    w.shard.replay(&late);
    w.run();
    assert_eq!(*w.group(), before);
    assert_eq!(w.shard.stats().skipped, 1);
}

/// Trap 7 (KAFKA-19431) and 6: an unsubscribed topic's partitions are asked back at once; the change bumps.
#[test]
fn an_unsubscribed_topic_is_asked_back_although_the_target_is_older() {
    let mut w = World::new(&[("t", 2), ("u", 2)]);
    let mut a = Model::new("a", &["t", "u"]);
    w.join(&mut a);
    let epoch = w.group().epoch;
    let mut h = a.steady_request();
    h.subscribed_topics = Some(topics(&["t"]));
    let v = w.beat(h).expect("accepted");
    assert_eq!(v.pending_revocation, set(&[("u", 0), ("u", 1)]));
    assert!(w.group().epoch > epoch);
}

/// `safety.md` 13: deleted and made again between two heartbeats, the owner is asked back; offsets are gone.
#[test]
fn a_topic_made_again_under_its_name_is_asked_back_and_loses_its_offsets() {
    let mut w = World::new(&[("t", 1)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let p = Partition::new("t", 0);
    let token = w.member("a").assigned[&p].token;
    assert_eq!(commit(&mut w, &a, 1, token, 5), Ok(()));
    w.meta(MetaCommand::DeleteTopic { name: "t".into() });
    assert_eq!(w.member("a").pending.len(), 1);
    w.declare("t", 1);
    assert!(w.group().offsets.is_empty());
    let mut h = a.steady_request();
    h.assignment_revision = a.revision;
    let v = w.beat(h).expect("accepted");
    a.take(&v);
    w.settle(&mut [&mut a]);
    assert!(w.member("a").assigned[&p].token > token);
}

#[test]
fn a_topic_that_grows_is_spread() {
    let mut w = World::new(&[("t", 1)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.declare("t", 3);
    w.settle(&mut [&mut a]);
    assert_eq!(a.owned.len(), 3);
}

/// `safety.md` 17.
#[test]
fn a_commit_needs_the_token_and_a_sequence_that_does_not_fall() {
    let mut w = World::new(&[("t", 1)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let token = w.member("a").assigned[&Partition::new("t", 0)].token;
    assert_eq!(commit(&mut w, &a, 12, token, 20), Ok(()));
    assert_eq!(commit(&mut w, &a, 11, token, 10), Err(CommitRefusal::StaleCommit));
    assert_eq!(commit(&mut w, &a, 13, FencingToken(token.0 - 1), 30), Err(CommitRefusal::StaleToken));
    assert_eq!(commit(&mut w, &a, 13, token, -1), Err(CommitRefusal::InvalidOffset));
    assert!(matches!(w.ask(Command::FetchOffsets { topic: None, partition: None }), Ok(Response::Offsets(o)) if o.len() == 1 && o[0].offset == 20));
    assert!(matches!(w.ask(Command::DeleteOffsets { topic: "t".into() }), Err(GroupError::SubscribedToTopic { .. })));
}

/// Fast hand-over: a held heartbeat is answered as soon as its member gets something, and ends at its bound otherwise.
#[test]
fn a_held_heartbeat_is_answered_when_something_changes() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.pass(200);
    let mut wait = a.steady_request();
    wait.wait_ms = 60_000;
    let t = w.send(Command::Heartbeat(wait.clone()));
    assert_eq!(w.answer(t), None);
    w.join(&mut b);
    let Some(Ok(Response::Heartbeat(v))) = w.answer(t) else { panic!("the held heartbeat is answered at once") };
    assert_eq!((v.pending_revocation.len(), v.heartbeat_interval_ms), (2, 100));
    a.take(&v);
    let mut wait = b.steady_request();
    wait.wait_ms = 2_000;
    let t = w.send(Command::Heartbeat(wait));
    assert_eq!(w.answer(t), None);
    w.steady(&mut a);
    let Some(Ok(Response::Heartbeat(v))) = w.answer(t) else { panic!("the grant ends the wait") };
    assert_eq!(v.assignment.map(|x| x.len()), Some(2));
    let mut wait = a.steady_request();
    wait.wait_ms = 60_000;
    let t = w.send(Command::Heartbeat(wait));
    w.pass(4_249);
    assert_eq!(w.answer(t), None);
    w.pass(1);
    assert!(matches!(w.answer(t), Some(Ok(Response::Heartbeat(_)))), "a third of the lease of 12,750 ms is the bound");
}

/// Steady heartbeats never touch the log.
#[test]
fn steady_heartbeats_propose_nothing() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let entries = w.log.len();
    for _ in 0..100 {
        w.pass(1_000);
        w.steady(&mut a);
    }
    assert_eq!(w.log.len(), entries);
}

/// replicas-agree: snapshot and replay from nothing give one state.
#[test]
fn snapshot_and_full_replay_agree() {
    let mut w = World::new(&[("t", 8)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.pass(200);
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    let mut replica = Shard::new(1, Default::default());
    w.log.iter().for_each(|e| replica.replay(e));
    assert_eq!(replica.digest(), w.shard.digest());
    let restored = Shard::restore(1, Default::default(), &w.shard.snapshot()).expect("a snapshot restores");
    assert_eq!(restored.state(), w.shard.state());
}

/// `safety.md` 25: a poison record quarantines its group, equally on every replica; others go on.
#[test]
fn a_poison_record_quarantines_the_group_and_nothing_else() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let before = w.group().members.clone();
    let poison = baton_coordinator::record::Record::Epoch { epoch: 1, time_ms: 0 };
    let batch = baton_coordinator::record::Batch { group: "g".into(), base_revision: w.group().revision, records: vec![poison] };
    let e = baton_coordinator::record::LogEntry { node: 9, term: 9, base_sequence: w.shard.state().sequence, time_ms: 0, batches: vec![batch] };
    w.shard.replay(&e);
    assert_eq!(w.group().members, before, "the batch is undone");
    assert!(matches!(w.beat(a.steady_request()), Err(GroupError::Quarantined { reason }) if reason.contains("I4")));
    w.shard.handle(Ticket(999), Request { group: "other".into(), command: Command::Heartbeat(a.join_request()), budget_ms: None, min_meta_revision: 0 }, w.now);
    w.run();
    assert!(matches!(w.answer(Ticket(999)), Some(Ok(Response::Heartbeat(_)))));
}

#[test]
fn bad_requests_are_refused_by_name() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    assert_eq!(w.beat(Heartbeat { epoch: 3, ..a.steady_request() }), Err(GroupError::UnknownGroup { group: "g".into() }));
    w.join(&mut a);
    let field = |w: &mut World, h: Heartbeat| match w.beat(h) {
        Err(GroupError::Invalid { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(&mut w, Heartbeat { epoch: -1, ..a.join_request() }), "member_epoch");
    assert_eq!(field(&mut w, Heartbeat { member: "".into(), ..a.join_request() }), "member_id");
    assert_eq!(field(&mut w, Heartbeat { rebalance_timeout_ms: Some(1), ..a.join_request() }), "rebalance_timeout_ms");
    assert_eq!(w.beat(Heartbeat { assignor: Some("x".into()), ..a.join_request() }), Err(GroupError::UnsupportedAssignor { name: "x".into() }));
    assert!(matches!(w.beat(Heartbeat { member: "zz".into(), ..a.steady_request() }), Err(GroupError::UnknownMember { .. })));
    let late = Request { group: "g".into(), command: Command::Describe, budget_ms: Some(5), min_meta_revision: 0 };
    w.shard.handle(Ticket(77), late, w.now);
    w.now.mono_ms += 10;
    w.run();
    assert!(matches!(w.answer(Ticket(77)), Some(Err(GroupError::Unavailable { .. }))));
}

fn commit(w: &mut World, a: &Model, commit_seq: u64, token: FencingToken, offset: i64) -> Result<(), CommitRefusal> {
    let member = Some(CommitMember { member: a.id.clone(), incarnation: a.incarnation, commit_seq });
    let offsets = vec![CommitOffset { partition: Partition::new("t", 0), token, offset, metadata: String::new(), leader_epoch: None }];
    match w.ask(Command::Commit(Commit { member, offsets })) {
        Ok(Response::Committed(r)) => r[0].1,
        other => panic!("{other:?}"),
    }
}

/// `safety.md` 29: the state has the numbers, the records are handed out; bounded by count, gone with the group, numbered anew in its next life.
#[test]
fn history_is_handed_out_and_bounded() {
    let mut w = World::new(&[("t", 4)]);
    w.shard = Shard::new(1, baton_coordinator::config::Limits { history_max: 5, ..Default::default() });
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(std::sync::Arc::new(w.meta.clone()), w.now);
    let mut a = Model::new("a", &["t"]);
    for round in 0..3 {
        for _ in 0..4 {
            w.join(&mut a);
            w.pass(200);
            let leave = Leave { member: "a".into(), incarnation: a.incarnation, assignment_revision: a.revision, is_static: false };
            w.ask(Command::Leave(leave)).expect("it leaves");
            a = Model { incarnation: Incarnation(a.incarnation.0 + 1), ..Model::new("a", &["t"]) };
        }
        let mark = w.group().history.clone();
        let numbers: Vec<u64> = w.history.keys().map(|(_, n)| *n).collect();
        assert_eq!(numbers, (mark.first..mark.next).collect::<Vec<_>>(), "what is kept is what the state says");
        assert_eq!(numbers.len(), 5);
        assert!(w.history.values().zip(w.history.values().skip(1)).all(|(a, b)| 0 < a.revision && a.revision <= b.revision), "{:?}", w.history);
        assert_eq!(w.ask(Command::History { since: 0 }), Ok(Response::HistoryAt { first: mark.first, next: mark.next }));
        if round == 1 {
            w.ask(Command::DeleteGroup { force: false }).expect("an empty group is deleted");
            assert!(w.history.is_empty(), "the history goes with its group");
        }
    }
}

/// A newer image that comes while a batch of a group is in flight finds a state without what that batch brings.
#[test]
fn a_topic_made_while_a_join_is_in_flight_is_spread() {
    let mut w = World::new(&[("u", 1)]);
    let mut a = Model::new("a", &["t"]);
    w.auto_commit = false;
    let join = w.send(Command::Heartbeat(a.join_request()));
    w.declare("t", 4);
    w.auto_commit = true;
    w.commit();
    w.run();
    let Some(Ok(Response::Heartbeat(v))) = w.answer(join) else { panic!("the join is answered") };
    a.take(&v);
    w.pass(1_000);
    w.settle(&mut [&mut a]);
    assert_eq!(a.owned.len(), 4);
}

fn in_place(h: Heartbeat) -> Heartbeat { Heartbeat { instance_id: Some("i".into()), ..h } }
fn leave_for_a_while(w: &mut World, a: &Model) {
    let leave = Leave { member: a.id.clone(), incarnation: a.incarnation, assignment_revision: a.revision, is_static: true };
    assert_eq!(w.ask(Command::Leave(leave)), Ok(Response::Left));
}

/// What its place has may have to go before it has heard anything: it is told an epoch all the same.
#[test]
fn a_static_member_is_back_after_its_topic_was_made_again() {
    let mut w = World::new(&[("t", 2), ("u", 2)]);
    let (mut a, mut other) = (Model::new("a", &["t", "u"]), Model::new("o", &["t", "u"]));
    let v = w.beat(in_place(a.join_request())).expect("it joins");
    a.take(&v);
    w.settle(&mut [&mut a]);
    leave_for_a_while(&mut w, &a);
    w.meta(MetaCommand::DeleteTopic { name: "t".into() });
    w.declare("t", 2);
    // Another process, and one that does not want the topic any more.
    for topics in [&["t", "u"][..], &["u"]] {
        other.topics = crate::common::topics(topics);
        (other.epoch, other.revision, other.owned) = Default::default();
        other.incarnation = Incarnation(other.incarnation.0 + 1);
        let v = w.beat(in_place(other.join_request())).expect("its place is free");
        assert!(v.member_epoch > 0);
        other.take(&v);
        w.pass(1_000);
        w.settle(&mut [&mut other]);
        let (g, m) = (w.group(), w.member("o"));
        assert_eq!(m.assigned.len(), 2 * topics.len());
        assert!(m.assigned.iter().all(|(p, x)| g.topics[&p.topic].id == x.topic_id), "{:?}", m.assigned);
        leave_for_a_while(&mut w, &other);
    }
}
