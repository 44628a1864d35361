//! Where one life of a group ends and the next begins: conversions at its edges, groups that are emptied and asked for again, and which changes of topics count.
use baton_coordinator::{classic::*, command::*, ids::*, metadata::MetaCommand, record::*};
use crate::{common::{Model, World, kafka::Kafka, set}, convert::{Client, assigned, client, code, consumer, hb, member, stable, world}};

fn records(w: &World, from: usize) -> Vec<Record> { w.log[from..].iter().flat_map(|e| &e.batches).flat_map(|b| b.records.clone()).collect() }
/// A classic member that was in the group of before.
fn stranger() -> Client { Client { id: "c-gone".into(), ..client(7) } }
/// A consumer group that was emptied, with an offset, and how far its tokens are.
fn emptied() -> (World, Kafka, u64) {
    let mut w = world(|_| {});
    let mut k = Kafka::new("m", &["t"]);
    w.kjoin(&mut k);
    assert_eq!(w.kcommit(&k, k.epoch, 2, 42), Ok(Ok(())));
    w.consumer(ConsumerHeartbeat { epoch: -1, ..k.beat() }).expect("it is in");
    assert!(w.group().epoch > 1 && w.group().members.is_empty());
    let token = w.shard.state().last_token;
    (w, k, token)
}
fn offset(w: &World) -> Option<i64> { w.group().offsets.get(&Partition::new("t", 2)).map(|o| o.offset) }

#[test]
fn an_emptied_consumer_group_begins_anew_when_a_classic_member_of_before_asks_for_it() {
    let (mut w, mut k, token) = emptied();
    assert_eq!(code(&mut w, stranger().join()), "UNKNOWN_MEMBER_ID");
    let g = w.group();
    assert!(g.is_blank() && g.classic.is_none());
    assert_eq!((g.epoch, g.target_epoch, offset(&w)), (1, 1, Some(42)), "offsets stay");
    // To the consumer protocol there is no such group, until somebody joins.
    assert_eq!(w.consumer(k.beat()).map_err(|e| e.kafka().name), Err("GROUP_ID_NOT_FOUND"));
    assert_eq!(w.kcommit(&k, k.epoch, 2, 43).map_err(|e| e.kafka().name), Err("GROUP_ID_NOT_FOUND"));
    assert_eq!(code(&mut w, stranger().leave()), "UNKNOWN_MEMBER_ID");
    // Asked once more, there is nothing more to forget.
    let before = w.log.len();
    assert_eq!((code(&mut w, stranger().join()), w.log.len()), ("UNKNOWN_MEMBER_ID", before));
    w.kjoin(&mut k);
    let granted: Vec<u64> = member(&w, &k.id).assigned.values().map(|x| x.token.0).collect();
    assert!(!granted.is_empty() && granted.iter().all(|t| *t > token), "tokens never begin anew: {granted:?} after {token}");
    assert_eq!(offset(&w), Some(42));
}

#[test]
fn what_is_held_keeps_the_group_as_it_is() {
    let mut w = world(|_| {});
    let mut m = Model::new("h", &["t"]);
    w.join(&mut m);
    w.ask(Command::RemoveMember { member: m.id.clone() }).expect("it is a member");
    let (holds, epoch) = (w.group().holds.clone(), w.group().epoch);
    assert_eq!(holds.len(), 4);
    assert_eq!(code(&mut w, stranger().join()), "UNKNOWN_MEMBER_ID");
    assert_eq!((&w.group().holds, w.group().epoch), (&holds, epoch));
}

#[test]
fn the_incarnations_of_before_stay_fenced_when_a_group_begins_anew() {
    let mut w = world(|_| {});
    let mut m = Model::new("h", &["t"]);
    w.join(&mut m);
    w.ask(m.leave_request()).expect("it is a member");
    assert_eq!(code(&mut w, stranger().join()), "UNKNOWN_MEMBER_ID");
    assert!(w.group().is_blank());
    assert_eq!(w.beat(m.join_request()), Err(GroupError::FencedIncarnation), "a late copy of its join makes no ghost");
}

#[test]
fn a_position_of_nobody_makes_a_group_that_began_anew_a_classic_one() {
    let (mut w, ..) = emptied();
    code(&mut w, stranger().join());
    let nobody = Kafka::new("", &[]);
    assert_eq!(w.kcommit(&nobody, -1, 2, 50), Ok(Ok(())));
    assert_eq!((w.group().classic.as_deref().map(|c| c.phase), offset(&w)), (Some(Phase::Empty), Some(50)));
}

#[test]
fn a_classic_group_is_not_left_by_a_consumer_heartbeat() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    assert_eq!(code(&mut w, hb("m", -1, None)), "GROUP_ID_NOT_FOUND");
    assert_eq!(code(&mut w, hb("m", 3, None)), "GROUP_ID_NOT_FOUND");
}

#[test]
fn a_static_classic_member_in_the_place_of_the_last_consumer_member_converts_the_group_without_a_new_target() {
    let (mut w, mut s) = (world(|_| {}), Kafka::fixed("s", "i", &["t"]));
    w.kjoin(&mut s);
    w.ksettle(&mut [&mut s]);
    let (epoch, from) = (w.group().epoch, w.log.len());
    let mut back = Client { instance: Some("i".into()), ..client(9) };
    let r = w.ask(back.join());
    back.take(r);
    let written = records(&w, from);
    assert!(!written.iter().any(|r| matches!(r, Record::Target { .. } | Record::Epoch { .. })), "{written:?}");
    assert!(written.iter().any(|r| matches!(r, Record::Classic(c) if matches!(&**c, ClassicRecord::Downgraded(_)))));
    let c = w.group().classic.as_deref().expect("nobody speaks the consumer protocol any more");
    assert_eq!((c.phase, c.generation, back.generation), (Phase::Stable, epoch, epoch));
    let Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. })) = w.ask(back.sync(&[])) else { panic!("it is in the generation") };
    let has = baton_coordinator::embedded::Assigned::decode(&assignment.0).expect("readable").partitions;
    assert_eq!(has.len(), 4, "what the place had");
}

#[test]
fn a_group_in_its_join_phase_keeps_its_generation_at_the_conversion() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    // Another one comes: the next generation is being gathered, and nobody knows it yet.
    let mut b = client(2);
    let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(b.join()) else { panic!("an id first") };
    b.id = id;
    w.send(b.join());
    assert_eq!((w.group().state(), a.generation), (GroupState::PreparingRebalance, 1));
    let v = consumer(&mut w, "m", 0, Some(&[]));
    assert_eq!((v.epoch, member(&w, &a.id).epoch, member(&w, &b.id).epoch), (2, 1, 1), "the epoch goes on from the generation that has been");
    assert_eq!((assigned(&w, &a.id).len(), assigned(&w, &b.id).len()), (4, 0));
    assert_eq!(code(&mut w, a.beat()), "REBALANCE_IN_PROGRESS");
}

#[test]
fn a_group_left_before_its_first_generation_tells_nobody_epoch_0() {
    let left = |interval: u64| {
        let mut w = world(|l| l.classic.initial_rebalance_delay_ms = 3_000);
        w.set(baton_coordinator::config::Setting::AssignmentInterval, Some(interval));
        let mut a = client(1);
        let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(a.join()) else { panic!("an id first") };
        a.id = id;
        w.send(a.join());
        w.ask(a.leave()).expect("it is in");
        assert_eq!((w.group().state(), w.group().classic.as_ref().map(|c| c.generation)), (GroupState::PreparingRebalance, Some(0)));
        w
    };
    let mut w = left(0);
    let v = consumer(&mut w, "m", 0, Some(&[]));
    assert_eq!((v.epoch, w.group().epoch, v.assignment.map(|a| a[&1_000].len())), (1, 1, Some(4)));
    // By a regular expression: what it stands for is found out beside the join.
    let mut w = left(0);
    let mut k = Kafka { regex: Some("t".into()), ..Kafka::new("m", &[]) };
    w.kjoin(&mut k);
    assert!(k.epoch > 0);
    w.ksettle(&mut [&mut k]);
    assert_eq!(k.has(), [0, 1, 2, 3]);
    // An HTTP member.
    let mut w = left(0);
    let mut m = Model::new("h", &["t"]);
    assert!(w.join(&mut m).member_epoch > 0);
    w.settle(&mut [&mut m]);
    assert_eq!(m.owned.len(), 4);
}

#[test]
fn a_classic_member_is_not_told_a_partition_of_a_topic_that_is_gone() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1]]);
    consumer(&mut w, "m", 0, Some(&[]));
    a.rejoin(&mut w);
    assert!(!a.owned.is_empty());
    w.meta(MetaCommand::DeleteTopic { name: "t".into() });
    let synced = |w: &mut World| match w.ask(a.sync(&[])) {
        Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. })) => baton_coordinator::embedded::Assigned::decode(&assignment.0).expect("readable").partitions,
        other => panic!("{other:?}"),
    };
    assert!(synced(&mut w).is_empty());
    // Nor one of the topic that came under its name: that one it was never granted.
    w.declare("t", 4);
    assert!(synced(&mut w).is_empty());
    assert!(!assigned(&w, &a.id).is_empty(), "it stays its own until it has been asked back");
}

/// A change counts for those who subscribed to the topic when it came. What a member has left behind by taking another expression is counted when that is resolved.
#[test]
fn a_topic_that_nobody_subscribes_to_any_more_changes_nothing_when_it_goes() {
    let mut w = world(|_| {});
    w.declare("u", 2);
    let (mut a, mut b) = (Kafka { regex: Some("[tu]".into()), ..Kafka::new("a", &[]) }, Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    w.kjoin(&mut b);
    w.ksettle(&mut [&mut a, &mut b]);
    assert!(w.group().topics.contains_key(&TopicName::from("u")));
    // Too soon after the last look for another one.
    let v = w.consumer(ConsumerHeartbeat { subscribed_regex: Some("t".into()), ..a.owning() }).expect("it is in");
    a.take(&v);
    let epoch = w.group().epoch;
    w.auto_work = false;
    w.meta(MetaCommand::DeleteTopic { name: "u".into() });
    w.kbeat(&mut b);
    assert_eq!(w.group().epoch, epoch, "nobody waits for it");
    assert!(!w.group().topics.contains_key(&TopicName::from("u")), "but what is gone is gone");
    w.auto_work = true;
    w.pass(11_000);
    w.kbeat(&mut a);
    w.ksettle(&mut [&mut a, &mut b]);
    assert!(w.group().epoch > epoch, "the new expression is resolved");
    let all: std::collections::BTreeSet<Partition> = w.group().owners.keys().cloned().collect();
    assert_eq!(all, set(&[("t", 0), ("t", 1), ("t", 2), ("t", 3)]));
}
