//! Members that speak Kafka's consumer protocol, alone and beside HTTP members; static members of both; work beside the shard.
use baton_coordinator::{command::*, config::*, ids::*, metadata::*, shard::*, state::AWAY, work::*};
use crate::common::{kafka::Kafka, *};
use std::sync::Arc;

fn code(r: Result<ConsumerView, GroupError>) -> &'static str { r.map_or_else(|e| e.kafka().name, |_| "NONE") }

/// The whole hand-over, as KIP-848 tells it; and steady heartbeats write nothing.
#[test]
fn revoke_before_assign_among_kafka_members() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    assert_eq!((a.epoch, a.has().len()), (2, 4), "a group's first target is of epoch 2");
    w.pass(200);
    w.kjoin(&mut b);
    assert_eq!((b.epoch, b.has().len(), w.member("b").state), (3, 0, MemberState::UnreleasedPartitions));
    let v = w.consumer(a.beat()).expect("accepted");
    assert_eq!((v.epoch, w.member("a").state), (2, MemberState::UnrevokedPartitions));
    a.take(&v);
    w.consumer(a.beat()).expect("a null owned set confirms nothing");
    assert_eq!(w.member("a").pending.len(), 2);
    w.kbeat(&mut a);
    assert_eq!((a.epoch, w.member("a").state), (3, MemberState::Stable));
    w.kbeat(&mut b);
    assert_eq!((a.has().len(), b.has().len()), (2, 2));
    let entries = w.log.len();
    for _ in 0..20 {
        w.pass(1_000);
        w.kbeat(&mut a);
        w.kbeat(&mut b);
    }
    assert_eq!(w.log.len(), entries, "steady heartbeats never touch the log");
}

#[test]
fn requests_are_validated_with_kafkas_codes() {
    let mut w = World::new(&[("t", 4)]);
    let a = Kafka::new("a", &["t"]);
    let join = a.join();
    let cases = [
        (ConsumerHeartbeat { member: "".into(), ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { rebalance_timeout_ms: -1, ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { owned: None, ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { owned: Some([(7, [0].into())].into()), ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { subscribed_topics: None, ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { instance_id: Some("".into()), ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { rack: Some(String::new()), ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { epoch: -3, ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { epoch: -2, ..join.clone() }, "INVALID_REQUEST"),
        (ConsumerHeartbeat { assignor: Some("sticky".into()), ..join.clone() }, "UNSUPPORTED_ASSIGNOR"),
        (ConsumerHeartbeat { subscribed_regex: Some("[".into()), ..join.clone() }, "INVALID_REGULAR_EXPRESSION"),
        (ConsumerHeartbeat { epoch: 1, ..a.beat() }, "GROUP_ID_NOT_FOUND"),
        (ConsumerHeartbeat { epoch: -1, ..a.beat() }, "GROUP_ID_NOT_FOUND"),
    ];
    for (h, expected) in cases {
        assert_eq!(code(w.consumer(h.clone())), expected, "{h:?}");
        assert!(w.shard.group(&"g".into()).is_none(), "a refused request leaves nothing behind: {h:?}");
    }
    let v = w.consumer(ConsumerHeartbeat { version: 0, member: "".into(), ..join }).expect("version 0 leaves the id to the coordinator");
    assert_eq!(v.member.as_str(), "made");
    assert_eq!(code(w.consumer(ConsumerHeartbeat { epoch: 1, ..a.beat() })), "UNKNOWN_MEMBER_ID");
}

#[test]
fn a_full_group_takes_no_new_member_and_keeps_its_own() {
    let mut w = World::new(&[("t", 4)]);
    w.shard = Shard::new(1, Limits { members_max: 1, ..Limits::default() });
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(Arc::new(w.meta.clone()), w.now);
    let mut a = Kafka::new("a", &["t"]);
    w.kjoin(&mut a);
    assert_eq!(code(w.consumer(Kafka::new("b", &["t"]).join())), "GROUP_MAX_SIZE_REACHED");
    w.kbeat(&mut a);
    assert_eq!(code(w.consumer(a.join())), "NONE");
}

/// KIP-848 §5: the newcomer is refused while the holder has not left; the id of before is fenced once it has been taken over.
#[test]
fn a_static_place_is_one_process_at_a_time() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Kafka::fixed("a", "i", &["t"]);
    w.kjoin(&mut a);
    assert_eq!(code(w.consumer(Kafka::fixed("b", "i", &["t"]).join())), "UNRELEASED_INSTANCE_ID");
    assert_eq!(code(w.consumer(ConsumerHeartbeat { epoch: a.epoch, ..Kafka::fixed("b", "i", &["t"]).beat() })), "FENCED_INSTANCE_ID");
    assert_eq!(code(w.consumer(ConsumerHeartbeat { instance_id: Some("other".into()), ..a.beat() })), "UNKNOWN_MEMBER_ID");
    w.consumer(ConsumerHeartbeat { epoch: -2, ..a.beat() }).expect("away");
    assert_eq!((w.member("a").epoch, w.member("a").assigned.len()), (AWAY, 2));
    let tokens: Vec<u64> = w.member("a").assigned.values().map(|x| x.token.0).collect();
    let mut b = Kafka::fixed("b", "i", &["t"]);
    w.kjoin(&mut b);
    assert_eq!(b.has().len(), 2);
    assert!(w.member("b").assigned.values().all(|x| tokens.iter().all(|t| x.token.0 > *t)), "a new process: new tokens");
    assert_eq!(code(w.consumer(a.beat())), "FENCED_INSTANCE_ID");
    // Away for longer than its session: gone for good.
    w.consumer(ConsumerHeartbeat { epoch: -2, ..b.beat() }).expect("away");
    w.pass(15_001);
    assert!(w.group().members.is_empty() && w.group().owners.is_empty() && w.group().instances.is_empty());
}

/// KIP-1251: whoever is back in a static place may commit what its earlier process worked on, at whatever epoch it was told.
#[test]
fn who_is_back_in_a_static_place_commits_at_any_epoch_for_what_it_goes_on_with() {
    let mut w = World::new(&[("t", 1)]);
    let mut a = Kafka::fixed("a", "i", &["t"]);
    w.kjoin(&mut a);
    w.ksettle(&mut [&mut a]);
    assert_eq!(w.kcommit(&a, a.epoch - 1, 0, 5), Ok(Err(CommitRefusal::StaleMemberEpoch)), "it had nothing then");
    w.consumer(ConsumerHeartbeat { epoch: -2, ..a.beat() }).expect("away");
    let mut b = Kafka::fixed("b", "i", &["t"]);
    w.kjoin(&mut b);
    assert_eq!((b.has(), w.kcommit(&b, b.epoch - 1, 0, 6)), (vec![0], Ok(Ok(()))));
    assert!(matches!(w.kcommit(&a, b.epoch - 1, 0, 7), Err(GroupError::UnknownMember { .. })), "not its earlier process");
}

/// A member that is in joins under the instance id of one that is away: it goes on in that place, and what it had in its own is free and soon somebody's.
#[test]
fn a_member_takes_the_place_of_one_that_is_away_and_gives_up_its_own() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b, mut c) = (Kafka::fixed("a", "i", &["t"]), Kafka::new("b", &["t"]), Kafka::new("c", &["t"]));
    for k in [&mut a, &mut b, &mut c] {
        w.kjoin(k);
        w.pass(200);
    }
    w.ksettle(&mut [&mut a, &mut b, &mut c]);
    let (place, own) = (a.has(), b.has());
    let other = Kafka { instance: Some("i".into()), ..b.clone() };
    assert_eq!(code(w.consumer(other.join())), "UNRELEASED_INSTANCE_ID", "its holder is there");
    w.consumer(ConsumerHeartbeat { epoch: -2, ..a.beat() }).expect("away");
    let mut b = other;
    w.kjoin(&mut b);
    assert!(place.iter().all(|p| b.has().contains(p)) && !w.group().members.contains_key(&MemberId::from("a")));
    assert_eq!(w.group().instances[&InstanceId::from("i")], MemberId::from("b"));
    w.ksettle(&mut [&mut b, &mut c]);
    assert!(own.iter().all(|p| b.has().contains(p) || c.has().contains(p)), "nothing is left without an owner");
    assert_eq!(code(w.consumer(a.beat())), "FENCED_INSTANCE_ID");
}

/// `safety.md` 15: what a Kafka member gives up is free at once for an HTTP member; what an HTTP member gave up is held, also for Kafka members.
#[test]
fn in_a_mixed_group_a_kafka_member_frees_and_an_http_member_holds() {
    let mut w = World::new(&[("t", 2)]);
    let mut k = Kafka::new("k", &["t"]);
    let mut h = Model::new("h", &["t"]);
    w.kjoin(&mut k);
    w.pass(200);
    w.join(&mut h);
    w.kbeat(&mut k);
    w.kbeat(&mut k);
    w.steady(&mut h);
    assert_eq!((k.has().len(), h.owned.len()), (1, 1));
    assert_eq!(w.ask(Command::RemoveMember { member: "h".into() }), Ok(Response::Removed));
    assert_eq!(w.group().holds.len(), 1, "it may still be working: held");
    w.pass(200);
    w.kbeat(&mut k);
    assert_eq!(k.has().len(), 1);
    w.pass(10_000);
    w.kbeat(&mut k);
    w.pass(5_000);
    w.kbeat(&mut k);
    assert_eq!(k.has().len(), 2, "one promised session later");
    h.owned.clear();
    h.epoch = 0;
    w.pass(200);
    w.join(&mut h);
    assert_eq!(w.ask(Command::RemoveMember { member: "k".into() }), Ok(Response::Removed));
    assert!(w.group().holds.is_empty());
    w.pass(200);
    w.steady(&mut h);
    assert_eq!(h.owned.len(), 2, "free at once");
}

/// An id of one protocol is not taken over by the other, whatever it says.
#[test]
fn ids_are_not_taken_across_protocols() {
    let mut w = World::new(&[("t", 2)]);
    let mut k = Kafka::new("x", &["t"]);
    w.kjoin(&mut k);
    let twin = Heartbeat { incarnation: Incarnation(0), predecessor_dead: true, ..Model::new("x", &["t"]).join_request() };
    assert!(matches!(w.beat(twin.clone()), Err(GroupError::MemberIdInUse { .. })));
    assert_eq!(w.beat(Heartbeat { epoch: k.epoch, ..twin }), Err(GroupError::FencedIncarnation));
    let mut h = Model::new("y", &["t"]);
    w.join(&mut h);
    assert_eq!(code(w.consumer(Kafka::new("y", &["t"]).join())), "FENCED_MEMBER_EPOCH");
    assert_eq!(code(w.consumer(ConsumerHeartbeat { epoch: -1, ..Kafka::new("y", &["t"]).beat() })), "UNKNOWN_MEMBER_ID");
    assert!(w.group().members.contains_key(&MemberId::from("x")) && w.group().members.contains_key(&MemberId::from("y")));
}

/// A topic made again under its name is another topic: who has a partition of the old one is asked for it before anybody gets the new one.
#[test]
fn a_topic_made_again_is_another_topic() {
    let mut w = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    w.meta(MetaCommand::DeleteTopic { name: "t".into() });
    w.declare("t", 2);
    w.pass(200);
    w.kjoin(&mut b);
    assert!(b.has().is_empty());
    let v = w.consumer(a.beat()).expect("accepted");
    assert_eq!(v.assignment, Some(PartitionsById::new()), "everything is asked back, also what its target gives it again");
    assert_eq!(w.kcommit(&a, a.epoch, 0, 3).map(|r| r.is_ok()), Ok(true), "by name it is still its own");
    a.take(&v);
    w.ksettle(&mut [&mut a, &mut b]);
    let id = w.meta.topics[&TopicName::from("t")].id;
    assert!(a.owned.keys().chain(b.owned.keys()).all(|t| *t == id) && a.has().len() + b.has().len() == 2);
}

/// `safety.md` 17: at the current epoch nobody commits for what another member holds; a stranger and an empty group are told apart.
#[test]
fn commits_are_admitted_by_epoch_and_owner() {
    let mut w = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    let nobody = Kafka::new("", &[]);
    assert!(matches!(w.kcommit(&a, 1, 0, 1), Err(GroupError::UnknownGroup { .. })));
    assert_eq!(w.kcommit(&nobody, -1, 0, 1), Ok(Ok(())), "a group that only keeps offsets");
    w.kjoin(&mut a);
    w.pass(200);
    w.kjoin(&mut b);
    w.ksettle(&mut [&mut a, &mut b]);
    let (mine, others) = (a.has()[0], b.has()[0]);
    assert_eq!(w.kcommit(&a, a.epoch, mine, 5), Ok(Ok(())));
    assert_eq!(w.kcommit(&a, a.epoch, others, 5), Ok(Err(CommitRefusal::StaleMemberEpoch)));
    assert_eq!(w.kcommit(&a, a.epoch, 9, 5), Ok(Err(CommitRefusal::UnknownPartition)));
    assert!(matches!(w.kcommit(&a, a.epoch + 1, mine, 5), Err(GroupError::StaleMemberEpoch { .. })));
    assert!(matches!(w.kcommit(&nobody, -1, mine, 5), Err(GroupError::UnknownMember { .. })));
    let old = KafkaCommit { version: 8, member: "a".into(), instance_id: None, epoch: a.epoch, offsets: Vec::new() };
    assert!(matches!(w.ask(Command::KafkaCommit(old)), Err(GroupError::UnsupportedVersion { version: 8 })));
}

/// HTTP static members: the place is kept for one session, its next process gets the partitions at once, the one before is fenced.
#[test]
fn a_static_http_member_comes_back_to_its_place() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    let place = |m: &Model| Heartbeat { instance_id: Some("i".into()), ..m.join_request() };
    let v = w.beat(place(&a)).expect("accepted");
    a.take(&v);
    w.pass(200);
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    let (epoch, had) = (w.group().epoch, a.owned.clone());
    let next = Model { incarnation: Incarnation(77), ..Model::new("a-again", &["t"]) };
    assert!(matches!(w.beat(place(&next)), Err(GroupError::UnreleasedInstanceId { .. })));
    let Command::Leave(leave) = a.leave_request() else { panic!("a leave") };
    let early = Leave { assignment_revision: AssignmentRevision(a.revision.0 - 1), is_static: true, ..leave.clone() };
    assert_eq!(w.ask(Command::Leave(early)), Err(GroupError::StaleLeave), "it does not know all that it was granted");
    let early_join = place(&a);
    assert_eq!(w.ask(Command::Leave(Leave { is_static: true, ..leave.clone() })), Ok(Response::Left));
    assert_eq!(w.ask(Command::Leave(Leave { is_static: true, ..leave })), Ok(Response::Left), "said twice");
    assert_eq!(w.beat(early_join), Err(GroupError::FencedIncarnation), "a late copy of its join brings nobody back");
    w.steady(&mut b);
    assert_eq!(w.group().owners.len(), 4, "its partitions are kept for it");
    let mut next = next;
    let v = w.beat(place(&next)).expect("the place is free");
    next.take(&v);
    assert_eq!((next.owned.clone(), w.group().epoch), (had, epoch), "at once, without a rebalance");
    assert!(matches!(w.beat(Heartbeat { instance_id: Some("i".into()), ..a.steady_request() }), Err(GroupError::FencedInstanceId { .. })));
    assert_eq!(w.beat(a.steady_request()), Err(GroupError::FencedIncarnation));
    assert!(matches!(w.ask(Command::Leave(Leave { member: "b".into(), incarnation: b.incarnation, assignment_revision: b.revision, is_static: true })), Err(GroupError::Invalid { .. })));
}

/// A large group's target is computed beside the shard; meanwhile everybody stays on the old one.
#[test]
fn a_large_target_is_computed_beside_the_shard() {
    let mut w = World::new(&[("t", 6)]);
    offload(&mut w);
    let (mut a, mut b, mut c) = (Model::new("a", &["t"]), Model::new("b", &["t"]), Model::new("c", &["t"]));
    w.join(&mut a);
    assert!(a.owned.is_empty() && w.group().target_epoch == 2, "its answer was made before the target");
    w.steady(&mut a);
    assert_eq!(a.owned.len(), 6);
    w.auto_work = false;
    w.pass(200);
    w.join(&mut b);
    w.pass(200);
    w.join(&mut c);
    assert_eq!((w.work.len(), w.group().epoch, w.group().target_epoch), (1, 4, 2), "one run at a time");
    // Its epoch has been superseded, but it is newer than what there is: taken. Who has left meanwhile is left out.
    assert_eq!(w.ask(c.leave_request()), Ok(Response::Left));
    let run = w.work.remove(0);
    w.shard.done(run.clone().run(), w.now);
    w.run();
    assert_eq!(w.group().target_epoch, 3);
    w.shard.done(run.run(), w.now);
    w.run();
    assert_eq!(w.group().target_epoch, 3, "a result is taken once");
    w.auto_work = true;
    w.pass(1_000);
    w.steady(&mut a);
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.owned.len(), b.owned.len(), w.group().target_epoch), (3, 3, w.group().epoch));
}

/// An assignor that fails leaves the old target in force, and is tried again.
#[test]
fn a_failing_assignor_leaves_the_old_target() {
    let mut w = World::new(&[("t", 6)]);
    offload(&mut w);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.steady(&mut a);
    w.auto_work = false;
    w.pass(200);
    w.join(&mut b);
    let run = w.work.remove(0);
    w.shard.done(Done { group: run.group, run: run.run, kind: Kind::Assign, result: Err("no".into()) }, w.now);
    w.run();
    assert_eq!((w.group().target_epoch, w.shard.stats().failed_assignments, w.work.len()), (2, 1, 0));
    w.steady(&mut a);
    assert_eq!(a.owned.len(), 6);
    w.auto_work = true;
    w.pass(1_100);
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.owned.len(), b.owned.len()), (3, 3));
}

fn offload(w: &mut World) {
    w.shard = Shard::new(1, Limits { offload_from: 0, ..Limits::default() });
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(Arc::new(w.meta.clone()), w.now);
}

/// A leader's change in the middle of everything: the next one has it from the state.
#[test]
fn a_new_leader_goes_on_with_kafka_members() {
    let mut w = World::new(&[("t1", 2), ("t2", 2)]);
    let (mut a, mut b) = (Kafka { regex: Some("t.".into()), ..Kafka::new("a", &[]) }, Kafka::fixed("b", "i", &["t1"]));
    w.kjoin(&mut a);
    w.pass(200);
    w.kbeat(&mut a);
    w.kjoin(&mut b);
    w.consumer(a.beat()).expect("asked to give back");
    w.consumer(ConsumerHeartbeat { epoch: -2, ..b.beat() }).expect("away");
    let restored = Shard::restore(1, Limits::default(), &w.shard.snapshot()).expect("a snapshot restores");
    assert_eq!(restored.state(), w.shard.state());
    let mut replica = Shard::new(1, Limits::default());
    w.log.iter().for_each(|e| replica.replay(e));
    assert_eq!(replica.digest(), w.shard.digest());
    w.shard = replica;
    drop(w.shard.take_history());
    w.shard.metadata(Arc::new(w.meta.clone()), w.now);
    w.shard.lead(2, 2, w.now);
    w.run();
    let mut again = Kafka::fixed("b2", "i", &["t1"]);
    w.kjoin(&mut again);
    let v = w.consumer(a.beat()).expect("accepted");
    a.take(&v);
    w.ksettle(&mut [&mut a, &mut again]);
    assert_eq!((a.has().len(), again.has().len()), (2, 2), "b wants t1 alone");
    w.pass(15_001);
    assert!(w.group().members.is_empty(), "sessions run under the new leader");
}

/// Work that was begun under an earlier leadership was for a draft that may be lost: its result is nobody's, although the same node leads again.
#[test]
fn a_result_from_an_earlier_leadership_is_not_taken() {
    let mut w = World::new(&[("t", 4)]);
    offload(&mut w);
    w.auto_work = false;
    w.auto_commit = false;
    let a = Model::new("a", &["t"]);
    w.send(Command::Heartbeat(a.join_request()));
    let stale = w.work.remove(0);
    w.log.clear(); // the join is lost with its leader
    w.shard.step_down();
    w.run();
    w.auto_commit = true;
    w.shard.lead(1, 2, w.now);
    let (mut b, mut c) = (Model::new("b", &["t"]), Model::new("c", &["t"]));
    w.join(&mut b);
    assert_eq!((w.group().epoch, w.work.len()), (2, 1), "the same epoch, of other members");
    w.shard.done(stale.run(), w.now);
    w.run();
    assert_eq!(w.group().target_epoch, 1, "not taken");
    w.auto_work = true;
    w.run();
    w.pass(200);
    w.join(&mut c);
    w.settle(&mut [&mut b, &mut c]);
    assert_eq!((b.owned.len(), c.owned.len()), (2, 2));
}

/// A timer that is armed in the past is taken for a loop that was late, and moves every deadline by its "lateness": sessions then never end.
#[test]
fn a_read_before_the_first_target_of_a_new_leader_moves_no_deadline() {
    let mut w = World::new(&[("t", 6)]);
    w.now.mono_ms = 5_000_000;
    offload(&mut w);
    let mut a = Model::new("a", &["t"]);
    w.auto_work = false;
    w.join(&mut a);
    assert_eq!((w.group().epoch, w.group().target_epoch), (2, 1), "its target is still being computed");
    // The next leader has not computed any target, and is asked for something that it answers without the log.
    w.shard.step_down();
    w.run();
    w.work.clear();
    w.shard.lead(1, 2, w.now);
    let _ = w.ask(Command::FetchOffsets { topic: None, partition: None });
    w.pass(40_000);
    assert_eq!(w.group().members_count(), 0, "it was not heard of for two sessions");
}

/// A static member comes back under another id while the target is computed: its return bumps no epoch, so the part of the one before is its.
#[test]
fn a_late_target_is_for_who_has_the_place_by_then() {
    let mut w = World::new(&[("t", 6)]);
    offload(&mut w);
    let (mut before, mut after) = (Kafka::fixed("k1", "i", &["t"]), Kafka::fixed("k2", "i", &["t"]));
    w.auto_work = false;
    w.kjoin(&mut before);
    w.consumer(ConsumerHeartbeat { epoch: -2, ..before.beat() }).expect("away");
    w.kjoin(&mut after);
    w.auto_work = true;
    w.run();
    w.pass(200);
    w.ksettle(&mut [&mut after]);
    assert_eq!(after.has().len(), 6, "{:#?}", w.group());
}

/// Core simulation, seed 13551: the result was ready while the group's deletion was in flight, and was taken for the group that came after it under the same
/// name and epoch: it stood at an empty target for ever.
#[test]
fn a_target_of_a_deleted_group_is_not_taken_by_the_group_that_comes_after_it() {
    let mut w = World::new(&[("t", 4)]);
    offload(&mut w);
    w.auto_work = false;
    let mut before = Model::new("a", &["nothing"]);
    w.join(&mut before);
    let old = w.work.remove(0);
    assert_eq!(w.ask(before.leave_request()), Ok(Response::Left));
    w.auto_commit = false;
    w.send(Command::DeleteGroup { force: true });
    let mut a = Model::new("a", &["t"]);
    a.incarnation = Incarnation(99);
    w.send(Command::Heartbeat(a.join_request()));
    w.shard.done(old.run(), w.now);
    w.commit();
    (w.auto_commit, w.auto_work) = (true, true);
    w.run();
    w.commit();
    w.run();
    w.join(&mut a);
    for _ in 0..5 {
        w.pass(1_000);
        w.steady(&mut a);
    }
    assert_eq!(a.owned, set(&[("t", 0), ("t", 1), ("t", 2), ("t", 3)]), "{:#?}", w.group());
}
