//! The traps of KIP-848 coordinators, each with a known bug behind it: one scenario per trap, and for each the bug put back on purpose, which its
//! scenario must notice (feature `seeded-bugs`). The numbers are those of the list of traps in the protocol's notes.
//!
//! Four do not apply here. 3 (KAFKA-19862, load after compaction sees "add" before "remove"): this log is never compacted by key. 9 (KAFKA-16118,
//! unloading without a leader epoch throws): a shard is not unloaded, it stops leading (`step_down` takes no epoch). 12 (librdkafka#4672, an answer
//! without an epoch that arrives while leaving): a client's bug; here every answer carries its epoch. 15 (a group shown as "Dead" by tools that only
//! speak DescribeGroups): what the Kafka front tells, not what the core decides.
use baton_coordinator::{command::*, config::Setting, ids::*, metadata::MetaCommand, record::*, shard::*};
use crate::common::{kafka::Kafka, *};

/// The trap's number, the bug's, and its scenario.
const TRAPS: [(u8, u8, fn()); 11] = [
    (1, 1, trap_1), (2, 34, trap_2), (4, 35, trap_4), (5, 37, trap_5), (6, 36, trap_6), (7, 38, trap_7), (8, 41, trap_8), (10, 42, trap_10), (11, 43, trap_11),
    (13, 39, trap_13), (14, 40, trap_14),
];

#[test]
fn every_trap_is_avoided() {
    for (trap, _, scenario) in TRAPS {
        println!("trap {trap}");
        scenario();
    }
}

#[cfg(feature = "seeded-bugs")]
#[test]
fn every_traps_bug_is_noticed_when_it_is_put_back() {
    use baton_coordinator::seeded;
    for (trap, bug, scenario) in TRAPS {
        seeded::set(bug);
        let noticed = std::panic::catch_unwind(scenario).is_err();
        let reached = seeded::reached();
        seeded::set(0);
        assert!(reached > 0, "the scenario of trap {trap} does not come by bug {bug}");
        assert!(noticed, "bug {bug} goes unnoticed by the scenario of trap {trap}");
    }
}

/// KAFKA-16147: a partition pending revocation is given back to the same member before the revocation ends: it must stay in the owner map.
fn trap_1() {
    let (mut w, a, b) = half_way();
    assert_eq!(w.ask(b.leave_request()), Ok(Response::Left));
    w.pass(200);
    let mut h = a.steady_request();
    h.owned = None;
    w.beat(h).expect("accepted");
    assert_eq!((w.member("a").assigned.len(), w.group().owners.len()), (4, 4), "given back, and still owned in the map");
    w.pass(200);
    let mut c = Model::new("c", &["t"]);
    w.join(&mut c);
    assert!(c.owned.is_empty(), "nothing is free: one owner each");
}

/// KAFKA-19233: a rejoin with epoch 0 is accepted whatever the stored epoch.
fn trap_2() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Kafka::new("a", &["t"]);
    w.kjoin(&mut a);
    let mut b = Kafka::new("b", &["t"]);
    w.pass(200);
    w.kjoin(&mut b);
    w.ksettle(&mut [&mut a, &mut b]);
    assert!(w.member("a").previous_epoch > 0);
    let tokens = w.member("a").assigned.clone();
    let v = w.consumer(a.join()).expect("a member that lost everything comes back");
    assert_eq!(v.assignment.map(|x| x.values().map(|p| p.len()).sum()), Some(2));
    assert!(w.member("a").assigned.iter().all(|(p, x)| x.token > tokens[p].token), "it may be another process: new tokens");
}

/// KAFKA-17306: records for what is not there. They are our bug: the batch is undone as a whole, on every replica alike, and nobody dies of it.
fn trap_4() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let good = w.group().clone();
    let foreign = [
        Record::Removed { member: "nobody".into(), freed: Vec::new(), held: Vec::new(), fence: false },
        Record::HoldReleased { partition: Partition::new("t", 0), token: FencingToken(1) },
        Record::OffsetsExpired { partitions: vec![Partition::new("t", 9)] },
        Record::Regex { regex: "x".into(), resolved: None },
        Record::Repaired,
        Record::Created,
    ];
    for (n, record) in foreign.into_iter().enumerate() {
        let mut shard = Shard::restore(1, Default::default(), &w.shard.snapshot()).expect("a snapshot restores");
        let mut replica = Shard::restore(1, Default::default(), &w.shard.snapshot()).expect("a snapshot restores");
        let batch = Batch { group: "g".into(), base_revision: good.revision, records: vec![Record::Epoch { epoch: good.epoch + 1, time_ms: 0 }, record] };
        let e = LogEntry { node: 9, term: 9, base_sequence: shard.state().sequence, time_ms: 0, batches: vec![batch] };
        shard.replay(&e);
        replica.replay(&e);
        let g = shard.group(&"g".into()).expect("the group stays");
        assert!(g.quarantined.is_some(), "record {n}");
        assert_eq!((g.epoch, &g.members, &g.owners), (good.epoch, &good.members, &good.owners), "record {n}: nothing of the batch is left");
        assert_eq!(shard.digest(), replica.digest());
    }
}

/// KAFKA-20442: when the last member is fenced the target epoch is level with the group epoch.
fn trap_5() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Kafka::new("a", &["t"]);
    w.kjoin(&mut a);
    w.pass(15_001);
    assert!(w.group().members.is_empty(), "{:?}", w.group());
    assert_eq!((w.group().state(), w.group().target_epoch), (GroupState::Empty, w.group().epoch));
}

/// KAFKA-19899: an expression that is set to nothing bumps the epoch.
fn trap_6() {
    let mut w = World::new(&[("t", 2), ("u", 2)]);
    let mut a = Kafka { regex: Some("t.*".into()), ..Kafka::new("a", &["u"]) };
    w.kjoin(&mut a);
    w.ksettle(&mut [&mut a]);
    assert_eq!(a.has().len(), 4);
    let epoch = w.group().epoch;
    w.pass(1_000);
    let v = w.consumer(ConsumerHeartbeat { subscribed_regex: Some(String::new()), ..a.owning() }).expect("accepted");
    a.take(&v);
    assert_eq!(w.group().epoch, epoch + 1);
    w.ksettle(&mut [&mut a]);
    assert_eq!((a.has().len(), w.group().regexes.len()), (2, 0));
}

/// KAFKA-19431: who unsubscribes while an older target is in force must not keep what it no longer wants.
fn trap_7() {
    let mut w = World::new(&[("t", 2), ("u", 2)]);
    w.set(Setting::AssignmentInterval, Some(15_000));
    let mut a = Kafka::new("a", &["t", "u"]);
    w.kjoin(&mut a);
    let target = w.group().target_epoch;
    w.pass(1_000);
    let v = w.consumer(ConsumerHeartbeat { subscribed_topics: Some(topics(&["t"])), ..a.beat() }).expect("accepted");
    assert_eq!(w.group().target_epoch, target, "the old target is in force");
    assert_eq!(v.assignment.map(|x| x.len()), Some(1), "but u is asked back");
    assert!(w.member("a").pending.keys().all(|p| p.topic.as_str() == "u") && w.member("a").pending.len() == 2);
}

/// KAFKA-18687: a static member that comes back as it was changes nothing for the others.
fn trap_8() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Kafka::fixed("a", "i1", &["t"]), Kafka::fixed("b", "i2", &["t"]));
    w.kjoin(&mut a);
    w.pass(200);
    w.kjoin(&mut b);
    w.ksettle(&mut [&mut a, &mut b]);
    let (epoch, target) = (w.group().epoch, w.group().target_epoch);
    let had = a.has();
    w.consumer(ConsumerHeartbeat { epoch: -2, ..a.beat() }).expect("it leaves for a while");
    let mut again = Kafka::fixed("a2", "i1", &["t"]);
    w.pass(3_000);
    w.kjoin(&mut again);
    assert_eq!((w.group().epoch, w.group().target_epoch, again.has()), (epoch, target, had), "no bump, no new target, the old partitions at once");
    assert_eq!(w.group().state(), GroupState::Stable);
}

/// franz-go#889: heartbeats that are duplicated or answered late must not be fenced eagerly.
fn trap_10() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    w.pass(200);
    w.kjoin(&mut b);
    let v = w.consumer(a.beat()).expect("accepted");
    a.take(&v);
    let acknowledges = a.owning();
    w.consumer(acknowledges.clone()).expect("its answer, with the next epoch, is lost");
    assert_eq!(w.member("a").epoch, a.epoch + 1);
    let v = w.consumer(acknowledges).expect("sent again with the epoch before: accepted, for it owns nothing else");
    assert_eq!(v.epoch, a.epoch + 1);
    // And of an HTTP member an earlier epoch is always answered.
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    let old = a.steady_request();
    w.pass(200);
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!(w.beat(old).map(|v| v.member_epoch), Ok(a.epoch));
}

/// librdkafka#5541: a leave while a revocation is going on is a leave.
fn trap_11() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    w.pass(200);
    w.kjoin(&mut b);
    w.consumer(a.beat()).expect("accepted");
    assert_eq!(w.member("a").pending.len(), 2);
    let v = w.consumer(ConsumerHeartbeat { epoch: -1, ..a.beat() }).expect("it leaves");
    assert_eq!(v.epoch, -1);
    w.pass(200);
    w.kbeat(&mut b);
    assert_eq!(b.has().len(), 4, "and everything is free at once");
}

/// platformatic/kafka#267: an OffsetFetch with the epoch before the one that is on its way must not be told that it is stale.
fn trap_13() {
    let (mut w, a) = epoch_ahead();
    assert_eq!(w.kcommit(&a, a.epoch + 1, 0, 7), Ok(Ok(())));
    let fetch = |epoch| Command::KafkaFetch(KafkaFetch { member: Some("a".into()), epoch, partitions: None });
    assert!(matches!(w.ask(fetch(a.epoch)), Ok(Response::Offsets(o)) if o.len() == 1 && o[0].offset == 7));
    assert!(matches!(w.ask(fetch(a.epoch + 2)), Err(GroupError::StaleMemberEpoch { .. })));
}

/// KIP-1251: a commit that races an epoch bump is taken for a partition that never moved, and for no other.
fn trap_14() {
    let (mut w, a) = epoch_ahead();
    let kept = w.member("a").assigned.keys().next().expect("two partitions").partition;
    let given_up = (0..4).find(|p| !w.member("a").assigned.contains_key(&Partition::new("t", *p))).expect("two partitions");
    assert_eq!(w.kcommit(&a, a.epoch, kept, 5), Ok(Ok(())));
    assert_eq!(w.kcommit(&a, a.epoch, given_up, 5), Ok(Err(CommitRefusal::StaleMemberEpoch)));
}

/// `a` has two partitions of four, and its epoch has been bumped by an answer that it has not got.
fn epoch_ahead() -> (World, Kafka) {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    w.pass(200);
    w.kjoin(&mut b);
    w.kbeat(&mut a);
    w.consumer(a.owning()).expect("accepted; the answer is lost");
    assert_eq!(w.member("a").epoch, a.epoch + 1);
    assert_eq!(w.member("a").assigned.len(), 2);
    (w, a)
}

/// Trap 6 for HTTP members, and a topic that goes while it is matched.
#[test]
fn an_expression_of_an_http_member_is_followed() {
    let mut w = World::new(&[("t1", 1), ("t2", 1), ("x", 1)]);
    let mut a = Model::new("a", &[]);
    let v = w.beat(Heartbeat { subscribed_regex: Some("t.".into()), ..a.join_request() }).expect("accepted");
    a.take(&v);
    w.settle(&mut [&mut a]);
    assert_eq!(a.owned, set(&[("t1", 0), ("t2", 0)]));
    w.pass(10_001);
    w.steady(&mut a);
    w.declare("t3", 1);
    w.settle(&mut [&mut a]);
    assert_eq!(a.owned.len(), 3, "a new topic is found without being asked for");
    w.meta(MetaCommand::DeleteTopic { name: "t1".into() });
    w.settle(&mut [&mut a]);
    assert_eq!(a.owned, set(&[("t2", 0), ("t3", 0)]));
    let v = w.beat(Heartbeat { subscribed_regex: Some(String::new()), ..a.steady_request() }).expect("accepted");
    a.take(&v);
    w.settle(&mut [&mut a]);
    assert!(a.owned.is_empty() && w.group().regexes.is_empty());
    assert!(matches!(w.beat(Heartbeat { subscribed_regex: Some("(".into()), ..a.steady_request() }), Err(GroupError::InvalidRegex { .. })));
}
