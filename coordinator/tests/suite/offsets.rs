//! Committed offsets (`safety.md` 17): who may commit what, what is kept with them, who may look at and delete them, and when they end.
use baton_coordinator::{command::*, config::*, ids::*};
use crate::common::*;
use crate::common::kafka::Kafka;
use std::sync::Arc;

const MINUTE: u64 = 60_000;

fn offset(topic: &str, partition: i32, token: u64, offset: i64) -> CommitOffset {
    CommitOffset { partition: Partition::new(topic, partition), token: FencingToken(token), offset, metadata: String::new(), leader_epoch: None }
}
fn results(r: Result<Response, GroupError>) -> Vec<Result<(), CommitRefusal>> {
    match r {
        Ok(Response::Committed(r)) => r.into_iter().map(|(_, r)| r).collect(),
        other => panic!("{other:?}"),
    }
}
fn admin(w: &mut World, offsets: Vec<CommitOffset>) -> Result<Response, GroupError> { w.ask(Command::Commit(Commit { member: None, offsets })) }
fn as_member(m: &Model, seq: u64, offsets: Vec<CommitOffset>) -> Command {
    Command::Commit(Commit { member: Some(CommitMember { member: m.id.clone(), incarnation: m.incarnation, commit_seq: seq }), offsets })
}
fn fetched(w: &mut World, topic: Option<&str>, partition: Option<i32>) -> Vec<(String, i32, i64)> {
    match w.ask(Command::FetchOffsets { topic: topic.map(TopicName::from), partition }) {
        Ok(Response::Offsets(o)) => o.into_iter().map(|o| (o.partition.topic.to_string(), o.partition.partition, o.offset)).collect(),
        other => panic!("{other:?}"),
    }
}
fn token(w: &World, p: i32) -> u64 { w.group().owners[&Partition::new("t", p)].token.0 }

/// Another process under the same name, and a neighbour who knows the token, are not the owner.
#[test]
fn a_token_is_good_only_with_its_owners_name_and_incarnation() {
    let (mut w, a, b) = two_at_rest(2);
    let p = a.owned.iter().next().expect("a has one").partition;
    let token = token(&w, p);
    let other_process = Model { incarnation: Incarnation(a.incarnation.0 + 1), ..a.clone() };
    let r = w.ask(as_member(&other_process, 9, vec![offset("t", p, token, 7)]));
    assert_eq!(results(r), [Err(CommitRefusal::StaleToken)]);
    let r = w.ask(as_member(&b, 9, vec![offset("t", p, token, 7)]));
    assert_eq!(results(r), [Err(CommitRefusal::StaleToken)]);
    let r = w.ask(as_member(&a, 1, vec![offset("t", p, token, 7)]));
    assert_eq!(results(r), [Ok(())]);
}

/// Each partition of a request is judged by itself; what nobody owns is stale, what does not exist unknown.
#[test]
fn each_partition_of_a_commit_is_judged_by_itself() {
    let (mut w, a, _) = two_at_rest(4);
    let mine: Vec<i32> = a.owned.iter().map(|p| p.partition).collect();
    assert_eq!(w.ask(Command::RemoveMember { member: "b".into() }), Ok(Response::Removed));
    let free = (0..4).find(|p| !mine.contains(p)).expect("b had some");
    let ask = as_member(&a, 1, vec![offset("t", mine[0], token(&w, mine[0]), 3), offset("t", free, 1, 3), offset("t", 4, 1, 3), offset("u", 0, 1, 3)]);
    let r = w.ask(ask);
    assert_eq!(results(r), [Ok(()), Err(CommitRefusal::StaleToken), Err(CommitRefusal::UnknownPartition), Err(CommitRefusal::UnknownPartition)]);
    assert_eq!(fetched(&mut w, None, None), [("t".into(), mine[0], 3)]);
}

/// Text beside an offset may have 4,096 bytes, from everybody; zero is an offset.
#[test]
fn text_beside_an_offset_is_bounded() {
    let mut w = World::new(&[("t", 1)]);
    let with = |n: usize| CommitOffset { metadata: "m".repeat(n), ..offset("t", 0, 0, 0) };
    let r = admin(&mut w, vec![with(4_096), with(4_097)]);
    assert_eq!(results(r), [Ok(()), Err(CommitRefusal::MetadataTooLarge)]);
    let mut k = Kafka::new("k", &["t"]);
    w.kjoin(&mut k);
    w.ksettle(&mut [&mut k]);
    let commit = |n| Command::KafkaCommit(KafkaCommit { version: 9, member: "k".into(), instance_id: None, epoch: k.epoch, offsets: vec![with(n)] });
    let r = w.ask(commit(4_096));
    assert_eq!(results(r), [Ok(())]);
    let r = w.ask(commit(4_097));
    assert_eq!(results(r), [Err(CommitRefusal::MetadataTooLarge)]);
}

/// An administrator's offset belongs to nobody: it is kept under no token, whatever the request says, and the next owner's number 1 follows it.
#[test]
fn an_administrators_offset_is_nobodys() {
    let mut w = World::new(&[("t", 1)]);
    let before = w.now.wall_us / 1_000;
    let r = admin(&mut w, vec![offset("t", 0, 77, 40)]);
    assert_eq!(results(r), [Ok(())]);
    let kept = w.group().offsets[&Partition::new("t", 0)].clone();
    assert_eq!((kept.token, kept.seq, kept.committed_at_ms), (FencingToken(0), 0, before));
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let t = token(&w, 0);
    let r = w.ask(as_member(&a, 1, vec![offset("t", 0, t, 12)]));
    assert_eq!(results(r), [Ok(())], "an owner may go back");
    assert_eq!(w.group().offsets[&Partition::new("t", 0)].token.0, t);
    assert!(matches!(admin(&mut w, vec![offset("t", 0, 0, 5)]), Err(GroupError::NonEmptyGroup { members: 1 })));
}

/// While a removed process may still use a partition, nobody moves its offset, and the refusal says for how long.
#[test]
fn an_administrator_waits_for_holds() {
    let (mut w, a, b) = two_at_rest(2);
    for m in [&a, &b] { assert_eq!(w.ask(Command::RemoveMember { member: m.id.clone() }), Ok(Response::Removed)); }
    w.pass(1_000);
    let Err(GroupError::GroupDraining { holds: 2, remaining_ms }) = admin(&mut w, vec![offset("t", 0, 0, 5)]) else { panic!("it is not refused") };
    let session = w.meta.config_of(&"g".into()).session_timeout_ms;
    assert!((1..session).contains(&remaining_ms), "{remaining_ms} of {session}");
    w.pass(remaining_ms - 1);
    assert!(matches!(admin(&mut w, vec![offset("t", 0, 0, 5)]), Err(GroupError::GroupDraining { remaining_ms: 1, .. })));
    w.pass(1);
    let r = admin(&mut w, vec![offset("t", 0, 0, 5), offset("t", 2, 0, 5)]);
    assert_eq!(results(r), [Ok(()), Err(CommitRefusal::UnknownPartition)]);
}

/// Whether a topic exists is asked of the image: a leader with an older one than the group has seen does not know (`safety.md` 23).
#[test]
fn an_administrators_commit_needs_an_image_as_new_as_the_groups() {
    let mut w = World::new(&[("t", 1)]);
    let old = w.meta.clone();
    w.declare("u", 1);
    let mut a = Model::new("a", &["u"]);
    w.join(&mut a);
    assert_eq!(w.ask(a.leave_request()), Ok(Response::Left));
    w.led_with_an_older_image(old.clone());
    let need = w.group().metadata_revision;
    assert_eq!(admin(&mut w, vec![offset("u", 0, 0, 5)]), Err(GroupError::Loading { have: old.revision, need }));
    let meta = w.meta.clone();
    w.shard.metadata(Arc::new(meta), w.now);
    let r = admin(&mut w, vec![offset("u", 0, 0, 5)]);
    assert_eq!(results(r), [Ok(())]);
}

/// All, a topic's, one.
#[test]
fn offsets_are_looked_at_by_topic_and_partition() {
    let mut w = World::new(&[("t", 2), ("u", 2)]);
    let all = [("t", 0, 10), ("t", 1, 11), ("u", 0, 20), ("u", 1, 21)];
    let r = admin(&mut w, all.iter().map(|(t, p, o)| offset(t, *p, 0, *o)).collect());
    assert_eq!(results(r), [Ok(()); 4]);
    let these = |which: &[usize]| which.iter().map(|i| (all[*i].0.to_string(), all[*i].1, all[*i].2)).collect::<Vec<_>>();
    assert_eq!(fetched(&mut w, None, None), these(&[0, 1, 2, 3]));
    assert_eq!(fetched(&mut w, Some("u"), None), these(&[2, 3]));
    assert_eq!(fetched(&mut w, Some("u"), Some(1)), these(&[3]));
    assert_eq!(fetched(&mut w, None, Some(0)), these(&[0, 2]));
    assert_eq!(w.ask(Command::DeleteOffsets { topic: "u".into() }), Ok(Response::OffsetsDeleted { count: 2 }));
    assert_eq!(fetched(&mut w, None, None), these(&[0, 1]));
    assert_eq!(w.ask(Command::DeleteOffsets { topic: "u".into() }), Ok(Response::OffsetsDeleted { count: 0 }));
}

/// Kafka's OffsetFetch: without a member and an epoch anybody may look; with one, a member of this group at this epoch or a later one.
#[test]
fn kafkas_fetch_asks_for_a_member_only_if_it_names_one() {
    let mut w = World::new(&[("t", 2)]);
    let r = admin(&mut w, vec![offset("t", 0, 0, 10), offset("t", 1, 0, 11)]);
    assert_eq!(results(r), [Ok(()); 2]);
    let mut k = Kafka::new("k", &["t"]);
    w.kjoin(&mut k);
    w.ksettle(&mut [&mut k]);
    let mut fetch = |member: Option<&str>, epoch, partitions: Option<&[(&str, i32)]>| {
        w.ask(Command::KafkaFetch(KafkaFetch { member: member.map(MemberId::from), epoch, partitions: partitions.map(set) })).map(|r| match r {
            Response::Offsets(o) => o.iter().map(|o| o.offset).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(fetch(None, -1, None), Ok(vec![10, 11]));
    assert_eq!(fetch(None, -1, Some(&[("t", 1)])), Ok(vec![11]));
    assert_eq!(fetch(Some("k"), k.epoch, None), Ok(vec![10, 11]));
    assert_eq!(fetch(Some("k"), k.epoch - 1, None), Ok(vec![10, 11]));
    assert!(matches!(fetch(Some("k"), k.epoch + 1, None), Err(GroupError::StaleMemberEpoch { .. })));
    assert!(matches!(fetch(Some("x"), k.epoch, None), Err(GroupError::UnknownMember { .. })));
    assert!(matches!(fetch(Some("x"), -1, None), Err(GroupError::UnknownMember { .. })));
    assert!(matches!(fetch(None, 0, None), Err(GroupError::UnknownMember { .. })));
}

/// What a Kafka member commits is kept under the token it has the partition by, so that an HTTP member that comes after it is not held up by it.
#[test]
fn a_kafka_members_commit_is_kept_under_its_token() {
    let mut w = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Kafka::new("a", &["t"]), Kafka::new("b", &["t"]));
    w.kjoin(&mut a);
    w.kjoin(&mut b);
    w.ksettle(&mut [&mut a, &mut b]);
    let p = a.has()[0];
    assert_eq!(w.kcommit(&a, a.epoch, p, 5), Ok(Ok(())));
    assert_eq!(w.group().offsets[&Partition::new("t", p)].token.0, token(&w, p));
}

/// Retention counts from the commit, on the shard's time, and only for what nobody owns and nobody reads. A minute early is too early.
#[test]
fn an_offset_lives_for_its_retention_and_a_topic_in_use_for_longer() {
    let mut w = World::new(&[("t", 1), ("u", 1)]);
    w.set(Setting::OffsetsRetention, Some(60));
    let r = admin(&mut w, vec![offset("t", 0, 0, 5), offset("u", 0, 0, 6)]);
    assert_eq!(results(r), [Ok(()); 2]);
    let mut k = Kafka::new("k", &["t"]);
    w.kjoin(&mut k);
    for _ in 0..59 * 6 {
        w.pass(10_000);
        w.kbeat(&mut k);
    }
    assert_eq!(fetched(&mut w, None, None).len(), 2, "59 minutes");
    for _ in 0..15 * 6 {
        w.pass(10_000);
        w.kbeat(&mut k);
    }
    assert_eq!(fetched(&mut w, None, None), [("t".into(), 0, 5)], "of what is read nothing goes");
    let proposed = w.log.len();
    for _ in 0..60 {
        w.pass(10_000);
        w.kbeat(&mut k);
    }
    assert!(w.log.len() <= proposed + 1, "with nothing to expire nothing is written but the shard's time");
}

/// A member takes part in deletions too: what it subscribes to stays, what it does not may go.
#[test]
fn offsets_of_a_topic_that_is_read_are_not_deleted() {
    let mut w = World::new(&[("t", 1), ("u", 1)]);
    let r = admin(&mut w, vec![offset("t", 0, 0, 5), offset("u", 0, 0, 6)]);
    assert_eq!(results(r), [Ok(()); 2]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    assert!(matches!(w.ask(Command::DeleteOffsets { topic: "t".into() }), Err(GroupError::SubscribedToTopic { .. })));
    assert_eq!(w.ask(Command::DeleteOffsets { topic: "u".into() }), Ok(Response::OffsetsDeleted { count: 1 }));
    w.pass(10 * MINUTE);
    assert!(w.group().members.is_empty(), "its session is over");
    assert_eq!(w.ask(Command::DeleteOffsets { topic: "t".into() }), Ok(Response::OffsetsDeleted { count: 1 }));
}
