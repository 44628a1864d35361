//! The last value that is allowed and the first that is not, and answers that only an operator or another crate reads. Each is here because the mutant of
//! its line lived (`docs/mutants.md`).
use crate::common::{*, kafka::Kafka};
use baton_coordinator::{
    classic::{ClassicCode, Opaque}, command::*, config::*, ids::*, metadata::*, record::{Batch, Joined, LogEntry, Record}, regexes, replay::{self, Outcome}, shard::*, shared::PartitionSet,
    state::State, assign::Input, work,
};
use std::{collections::BTreeSet, sync::Arc};

fn limit(r: Result<HeartbeatView, GroupError>) -> Option<String> { match r { Err(GroupError::LimitReached { limit, .. }) => Some(limit), _ => None } }
fn field<T: std::fmt::Debug>(r: Result<T, GroupError>) -> Option<String> { match r { Err(GroupError::Invalid { field, .. }) => Some(field), _ => None } }
fn declare(m: &mut Metadata, name: &str, partitions: i32) -> Result<u64, MetaError> { m.apply(&MetaCommand::DeclareTopic { name: name.into(), partitions, id_if_new: 7 }) }

#[test]
fn a_heartbeat_may_be_as_large_as_the_bound_and_no_larger() {
    let mut w = World::new(&[("t", 1)]);
    w.shard = Shard::new(1, Limits { subscription_max: 2, ..Limits::default() });
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(Arc::new(w.meta.clone()), w.now);
    let a = Model::new("a", &["t"]);
    let name = |n: usize| Heartbeat { member: "m".repeat(n).as_str().into(), ..a.join_request() };
    assert_eq!(field(w.beat(name(250))).as_deref(), Some("member_id"));
    assert_eq!(field(w.beat(name(0))).as_deref(), Some("member_id"));
    assert!(w.beat(name(249)).is_ok());
    let capacity = |c| Heartbeat { capacity: Some(c), ..a.join_request() };
    assert_eq!(field(w.beat(capacity(1_000_001))).as_deref(), Some("capacity"));
    assert!(w.beat(capacity(1_000_000)).is_ok());
    let names = |n: usize| Heartbeat { subscribed_topics: Some((0..n).map(|i| format!("t{i}").as_str().into()).collect()), ..a.join_request() };
    assert_eq!(limit(w.beat(names(3))).as_deref(), Some("subscribed_topics"));
    assert!(w.beat(names(2)).is_ok());
    let none = Heartbeat { member: "new".into(), subscribed_topics: None, ..a.join_request() };
    assert_eq!(field(w.beat(none.clone())).as_deref(), Some("subscribed_topics"));
    assert!(w.beat(Heartbeat { subscribed_regex: Some("t.*".into()), ..none }).is_ok(), "an expression is a subscription too");
}

#[test]
fn a_kafka_heartbeat_may_be_as_large_as_the_bound_and_no_larger() {
    let mut w = World::new(&[("t", 1)]);
    w.shard = Shard::new(1, Limits { subscription_max: 2, ..Limits::default() });
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(Arc::new(w.meta.clone()), w.now);
    let join = |id: &str, names: usize| Kafka { topics: (0..names).map(|i| format!("t{i}").as_str().into()).collect(), ..Kafka::new(id, &[]) }.join();
    assert!(matches!(w.consumer(join("a", 3)), Err(GroupError::LimitReached { .. })));
    assert!(w.consumer(join("a", 2)).is_ok());
    assert_eq!(field(w.consumer(join(&"m".repeat(250), 1))).as_deref(), Some("member_id"));
    assert!(w.consumer(join(&"m".repeat(249), 1)).is_ok());
    assert_eq!(field(w.consumer(Kafka { instance: Some("i".repeat(250).as_str().into()), ..Kafka::new("b", &["t"]) }.join())).as_deref(), Some("member_id"));
}

#[test]
fn a_cluster_is_made_once_and_a_topic_only_grows() {
    let mut m = Metadata::default();
    let create = |cluster_id| MetaCommand::CreateCluster { cluster_id, shards: 8 };
    m.apply(&create(5)).expect("the first");
    assert_eq!(m.apply(&create(6)), Err(MetaError::ClusterExists));
    assert_eq!((m.cluster_id, m.shards), (5, 8));
    let revision = declare(&mut m, "t", 4).expect("declared");
    assert_eq!(declare(&mut m, "t", 4), Ok(revision), "nothing changed");
    assert!(matches!(declare(&mut m, "t", 3), Err(MetaError::TopicCannotShrink { have: 4, asked: 3, .. })));
    assert_eq!(declare(&mut m, "t", 5), Ok(revision + 1));
    assert_eq!((m.topics[&TopicName::from("t")].partitions, m.topics_made_at), (5, revision), "none was made by that");
    let layout = MetaCommand::SetLayout { name: "t".into(), layout: Layout { zones: Vec::new(), weights: vec![2; 5] } };
    let set = m.apply(&layout).expect("it is within the bounds");
    assert_eq!(m.apply(&layout), Ok(set), "the same again changes nothing");
}

#[test]
fn topics_and_groups_settings_are_bounded_but_those_that_exist_go_on() {
    let mut m = Metadata { topics: (0..TOPICS_MAX).map(|i| (format!("t{i}").as_str().into(), TopicFacts { id: i as u128, partitions: 1 })).collect(), ..Metadata::default() };
    assert!(matches!(declare(&mut m, "one-more", 1), Err(MetaError::LimitReached { .. })));
    assert!(declare(&mut m, "t0", 2).is_ok(), "one of them may grow");
    let settings = |v| [(Setting::SessionTimeout, v)].into();
    let have = [(Setting::SessionTimeout, 20_000)];
    m.group_configs = (0..GROUP_CONFIGS_MAX).map(|i| (format!("g{i}").as_str().into(), have.into())).collect();
    let mut set = |group: &str, v| m.apply(&MetaCommand::SetGroupConfig { group: group.into(), settings: settings(v) });
    assert!(matches!(set("one-more", Some(30_000)), Err(MetaError::LimitReached { .. })));
    let changed = set("g0", Some(30_000)).expect("it has settings of its own");
    assert_eq!(set("g0", Some(30_000)), Ok(changed), "the same again changes nothing");
    assert_eq!(set("g0", None), Ok(changed + 1));
    assert!(set("one-more", Some(30_000)).is_ok(), "there is room again");
}

#[test]
fn an_expression_may_be_as_long_as_the_bound_and_a_bracket_may_be_escaped() {
    assert!(regexes::compile(&"a".repeat(1_000)).is_ok());
    let longest = (1_000..10_000).find(|n| regexes::compile(&"a".repeat(*n)).is_err()).expect("there is a bound");
    let why = regexes::compile(&"a".repeat(longest)).expect_err("too long");
    assert!(why.contains(&format!("{} are allowed", longest - 1)), "{why}");
    for (expression, yes, no) in [(r"[\]a]b", "]b", "b"), (r"\[a", "[a", "a"), (r"[a\\]&&", r"\&&", "a&"), (r"[[:alpha:][]x", "[x", ":x")] {
        let r = regexes::compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        assert!(r.is_match(yes.as_bytes()) && !r.is_match(no.as_bytes()), "{expression} on {yes} and {no}");
    }
}

/// The numbers that Kafka's clients know.
#[test]
fn classic_refusals_have_kafkas_numbers() {
    use ClassicCode::*;
    let numbers = [IllegalGeneration, InconsistentGroupProtocol, UnknownMemberId, InvalidSessionTimeout, RebalanceInProgress, GroupIdNotFound, MemberIdRequired, GroupMaxSizeReached, FencedInstanceId].map(ClassicCode::number);
    assert_eq!(numbers, [22, 23, 25, 26, 27, 69, 79, 81, 82]);
}

#[test]
fn what_is_printed_for_a_developer_says_what_it_is() {
    assert_eq!(format!("{:?}", baton_coordinator::shared::Shared::from(7)), "7");
    let p = Partition::new("t", 3);
    assert_eq!(format!("{p:?}"), "t:3");
    assert_eq!(format!("{:?}", PartitionSet::from_iter([p])), "{t:3}");
    assert_eq!(format!("{:?}", Incarnation(0x1234_5678 << 96)), "12345678…");
    assert!(!format!("{:?}", Opaque::from(&b"abc"[..])).is_empty());
}

/// Every subscriber to an expression is counted: it is looked at as long as there is one, and not after that.
#[test]
fn an_expression_is_known_as_long_as_somebody_says_it() {
    let mut w = World::new(&[("t1", 2), ("t2", 2)]);
    let said = |w: &World| w.group().said.iter().map(|(r, n)| (r.clone(), *n)).collect::<Vec<_>>();
    let (mut a, mut b) = (Model::new("a", &[]), Model::new("b", &[]));
    for (m, others) in [(&mut a, 0), (&mut b, 1)] {
        let v = w.beat(Heartbeat { subscribed_topics: None, subscribed_regex: Some("t.*".into()), ..m.join_request() }).expect("accepted");
        m.take(&v);
        assert_eq!(said(&w), [("t.*".to_string(), others + 1)]);
    }
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!((a.owned.len(), b.owned.len()), (2, 2));
    w.ask(a.leave_request()).expect("it leaves");
    assert_eq!(said(&w), [("t.*".to_string(), 1)]);
    w.declare("t3", 1);
    w.pass(20_000 - 11_000);
    w.settle(&mut [&mut b]);
    w.pass(10_000);
    w.settle(&mut [&mut b]);
    assert_eq!(b.owned.len(), 5, "the expression is still looked at: {:?}", b.owned);
    w.ask(b.leave_request()).expect("it leaves");
    assert_eq!(said(&w), []);
}

#[test]
fn an_operators_view_of_a_shard() {
    let mut w = World::new(&[("t", 2)]);
    assert_eq!((w.shard.id(), w.shard.leading(), w.shard.groups()), (1, Some(1), Vec::new()));
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.settle(&mut [&mut a]);
    let g = w.group();
    assert_eq!(w.shard.groups(), [("g".into(), GroupState::Stable, 1, g.revision)]);
    let (expected, sequence) = (Arc::new(g.clone()), w.shard.state().sequence);
    let (head, changed) = w.shard.take_changes();
    assert_eq!((head.sequence, head.groups.len(), head.last_token), (sequence, 0, w.shard.state().last_token));
    assert_eq!(changed, [("g".into(), Some(expected))]);
    assert_eq!(w.shard.take_changes().1, [], "they are told once");
    w.ask(Command::RemoveMember { member: a.id.clone() }).expect("removed");
    w.ask(Command::DeleteGroup { force: true }).expect("deleted");
    assert_eq!(w.shard.take_changes().1, [("g".into(), None)]);
    assert!(w.shard.due(u64::MAX).is_empty(), "nothing is left to do for a group that is gone");
    w.shard.step_down();
    assert_eq!(w.shard.leading(), None);
}

/// A caller that went away is not answered; one beside it is.
#[test]
fn a_held_heartbeat_is_forgotten_with_its_caller() {
    let (mut w, a, b) = two_at_rest(2);
    let (gone, stays) = (w.send(Command::Heartbeat(Heartbeat { wait_ms: 3_000, ..a.steady_request() })), w.send(Command::Heartbeat(Heartbeat { wait_ms: 3_000, ..b.steady_request() })));
    assert!(w.answer(gone).is_none() && w.answer(stays).is_none(), "both are held");
    w.shard.abandon(gone);
    assert!(!w.shard.due(u64::MAX).iter().any(|(_, t)| format!("{t:?}").starts_with("Wait") && format!("{t:?}").contains("\"a\"")), "{:?}", w.shard.due(u64::MAX));
    w.pass(10_000);
    assert!(w.answer(gone).is_none(), "nobody is there to hear it");
    assert!(w.answer(stays).is_some());
}

#[test]
fn commits_are_counted_and_so_is_every_batch_that_came_twice() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let token = |w: &World, p: i32| w.member("a").assigned[&Partition::new("t", p)].token;
    for n in 1..=3 {
        let offsets = vec![CommitOffset { partition: Partition::new("t", 0), token: token(&w, 0), offset: n, metadata: String::new(), leader_epoch: None }];
        w.ask(Command::Commit(Commit { member: Some(CommitMember { member: a.id.clone(), incarnation: a.incarnation, commit_seq: n as u64 }), offsets })).expect("committed");
    }
    assert_eq!(w.shard.stats().commits, 3);
    let (first, last) = (w.log[0].clone(), w.log[1].clone());
    for e in [&first, &last] { w.shard.replay(e); }
    assert_eq!(w.shard.stats().skipped, (first.batches.len() + last.batches.len()) as u64);
}

/// What is remembered of members that have gone is bounded; of those that still hold something it is kept.
#[test]
fn history_remembers_only_members_that_matter() {
    let mut w = World::new(&[("t", 2)]);
    let keeper = Model::new("keeper", &["t"]);
    w.beat(keeper.join_request()).expect("accepted");
    w.set(baton_coordinator::config::Setting::SessionTimeout, Some(60_000));
    for i in 0..40 {
        let mut m = Model::new(&format!("m{i}"), &["t"]);
        w.join(&mut m);
        w.ask(m.leave_request()).expect("it leaves");
        let named = &w.group().history.named;
        let most = 2 * (w.group().members.len() + w.group().holds.len()) + 16;
        assert!(named.len() <= most + 1, "{} names", named.len());
        if i == 10 { assert!(named.len() > 8, "not before there are many: {}", named.len()); }
    }
    assert!(w.group().history.named.contains_key(&keeper.id), "it is still there");
}

/// `safety.md` 8: what is confirmed is free at once, also while the member still stops the rest.
#[test]
fn a_part_of_what_is_asked_back_is_free_as_soon_as_it_is_confirmed() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.settle(&mut [&mut a]);
    let before = w.member("a").epoch;
    w.join(&mut b);
    w.pass(200);
    let v = w.steady(&mut a);
    let asked: Vec<Partition> = v.pending_revocation.iter().cloned().collect();
    assert_eq!(asked.len(), 2);
    assert_eq!((w.member("a").epoch, w.member("a").previous_epoch <= before), (before, true), "it goes on only when all is confirmed");
    // It has stopped one of the two.
    a.owned.insert(asked[1].clone());
    let v = w.steady(&mut a);
    assert_eq!(v.pending_revocation, BTreeSet::from([asked[1].clone()]), "the other is still asked back");
    assert!(!w.group().owners.contains_key(&asked[0]), "nobody's now");
    w.pass(200);
    w.steady(&mut b);
    assert_eq!(b.owned, BTreeSet::from([asked[0].clone()]));
    a.owned.remove(&asked[1]);
    let v = w.steady(&mut a);
    assert!(v.pending_revocation.is_empty());
    let m = w.member("a");
    assert_eq!((m.state, m.epoch, m.previous_epoch), (MemberState::Stable, before + 1, before));
    w.settle(&mut [&mut a, &mut b]);
}

/// The account of a rebalance: when it was, which epoch was arrived at, how long it took.
#[test]
fn the_history_of_a_rebalance_says_how_long_it_took() {
    let mut w = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.settle(&mut [&mut a]);
    let (began, epoch) = (w.now.wall_us / 1000, w.group().epoch);
    w.join(&mut b);
    w.pass(1_000);
    let before = w.history.values().filter(|h| h.kind == "stable").count();
    w.settle(&mut [&mut a, &mut b]);
    let all: Vec<&HistoryRecord> = w.history.values().filter(|h| h.kind == "stable").collect();
    assert_eq!(all.len(), before + 1, "once for a rebalance");
    let last = all.iter().max_by_key(|h| h.revision).expect("there is one");
    assert!(last.cause.contains(&format!("epoch {}", epoch + 1)), "{last:?}");
    assert_eq!(Some(last.at_ms - began), last.took_ms, "{last:?}");
    assert!(last.took_ms >= Some(1_000), "{last:?}");
    w.pass(5_000);
    w.steady(&mut a);
    assert_eq!(w.history.values().filter(|h| h.kind == "stable").count(), before + 1, "nothing new");
}

#[test]
fn an_empty_state_has_no_groups() {
    let s = State { revision: 7, ..State::default() };
    assert_eq!((s.head().revision, s.head().groups.len()), (7, 0));
}

/// KAFKA-16147: what the target gives back to a member that has not stopped it yet is a new grant at once, also while it has to stop the rest; an acknowledgement
/// of the older revision frees none of it.
#[test]
fn what_is_given_back_while_the_rest_is_asked_back_is_a_new_grant() {
    // Who gets the odd partition when c is gone depends on the names; one of the two does.
    assert!(["a", "z"].into_iter().filter(|name| given_back_to(name)).count() >= 1);
}
/// False: the other got it.
fn given_back_to(name: &str) -> bool {
    let mut w = World::new(&[("t", 5)]);
    let (mut a, mut b, mut c) = (Model::new(name, &["t"]), Model::new("b", &["t"]), Model::new("c", &["t"]));
    w.join(&mut a);
    w.settle(&mut [&mut a]);
    let all = a.owned.clone();
    w.join(&mut b);
    w.join(&mut c);
    w.pass(2_000);
    let v = w.beat(a.steady_request()).expect("accepted");
    assert_eq!((v.pending_revocation.len(), v.assignment.as_ref().map(|x| x.len())), (3, Some(2)), "two for itself, two for b, one for c");
    let asked_at = v.assignment_revision;
    w.ask(c.leave_request()).expect("it leaves");
    w.pass(2_000);
    w.steady(&mut b);
    if w.group().target[&a.id].len() == 2 {
        return false;
    }
    // It has stopped nothing yet.
    let still = Heartbeat { owned: Some(all.clone()), assignment_revision: asked_at, ..a.steady_request() };
    let v = w.beat(still).expect("accepted");
    let own = v.assignment.clone().expect("it is told of the grant");
    assert_eq!((v.pending_revocation.len(), own.len()), (2, 3), "{v:?}");
    assert!(v.assignment_revision > asked_at);
    let m = w.member(name);
    assert_eq!((m.state, m.pending.len(), m.assigned.len()), (MemberState::UnrevokedPartitions, 2, 3));
    // It acknowledges what it was asked first: all three. The one that it has again stays its own.
    let kept: BTreeSet<Partition> = own.keys().cloned().collect();
    let again: Vec<&Partition> = kept.iter().filter(|p| !m.assigned.is_empty() && m.assigned[*p].granted_at == v.assignment_revision).collect();
    assert_eq!(again.len(), 1, "one is granted anew");
    let older = Heartbeat { owned: Some(kept.iter().filter(|p| !again.contains(p)).cloned().collect()), assignment_revision: asked_at, ..a.steady_request() };
    let again = again[0].clone();
    w.beat(older).expect("accepted");
    assert_eq!(w.group().owners.get(&again).map(|o| o.member.clone()), Some(name.into()));
    assert_eq!(w.group().owners.values().filter(|o| o.member == a.id).count(), 3, "the other two are free");
    true
}

/// A newer target takes more from a member that has just confirmed: what it confirmed is free with that very step, and it goes on by one epoch.
#[test]
fn what_is_confirmed_is_free_also_when_more_is_asked_back() {
    let mut w = World::new(&[("t", 6)]);
    let (mut a, mut b, mut c) = (Model::new("a", &["t"]), Model::new("b", &["t"]), Model::new("c", &["t"]));
    w.join(&mut a);
    w.settle(&mut [&mut a]);
    let first = w.member("a").epoch;
    w.join(&mut b);
    w.pass(2_000);
    let v = w.steady(&mut a);
    assert_eq!(v.pending_revocation.len(), 3);
    w.join(&mut c);
    w.pass(2_000);
    let (v, before) = (w.steady(&mut a), v);
    assert_eq!(v.pending_revocation.len(), 1, "one more, for c");
    let m = w.member("a");
    assert_eq!((m.state, m.epoch, m.previous_epoch, m.assigned.len()), (MemberState::UnrevokedPartitions, first + 1, first, 2));
    assert!(before.pending_revocation.iter().all(|p| w.group().owners.get(p).is_none_or(|o| o.member != a.id)), "{:?}", w.group().owners);
    w.steady(&mut a);
    let m = w.member("a");
    assert_eq!((m.epoch, m.previous_epoch, m.pending.len()), (w.group().target_epoch, first + 1, 0));
    w.settle(&mut [&mut a, &mut b, &mut c]);
}

/// Records that no coordinator writes are refused: a target of an epoch that is not between the last target's and the group's, and an instance that is another's.
#[test]
fn a_target_out_of_its_epochs_and_a_second_holder_of_an_instance_are_refused() {
    let mut w = World::new(&[("t", 2)]);
    let a = Model::new("a", &["t"]);
    w.beat(Heartbeat { instance_id: Some("i".into()), ..a.join_request() }).expect("accepted");
    w.pass(2_000);
    let (epoch, state) = (w.group().epoch, w.shard.state().clone());
    let joined = w.log.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records).find_map(|r| if let Record::Joined(j) = r { Some((**j).clone()) } else { None }).expect("a has joined");
    let apply = |records: Vec<Record>| {
        let mut s = state.clone();
        let base_revision = s.groups[&GroupId::from("g")].revision;
        let e = LogEntry { node: 1, term: 9, base_sequence: s.sequence, time_ms: s.time_ms, batches: vec![Batch { group: "g".into(), base_revision, records }] };
        replay::entry(&mut s, &e, 100, &mut Vec::new()).remove(0)
    };
    let target = |epoch| Record::Target { epoch, assignment: Default::default() };
    let bump = |epoch| Record::Epoch { epoch, time_ms: state.time_ms };
    assert_eq!(apply(vec![target(epoch)]), Outcome::Applied);
    assert_eq!(apply(vec![bump(epoch + 1), bump(epoch + 2), target(epoch + 1)]), Outcome::Applied, "of an epoch between them");
    assert!(matches!(apply(vec![target(epoch + 1)]), Outcome::Quarantined(_)), "above the group's");
    assert!(matches!(apply(vec![target(epoch - 1)]), Outcome::Quarantined(_)), "below the last target's");
    let twin = Joined { member: "b".into(), joined_at: AssignmentRevision(u64::MAX >> 8), ..joined.clone() };
    assert!(matches!(apply(vec![Record::Joined(Box::new(twin))]), Outcome::Quarantined(_)), "its instance is a's");
    let again = Joined { joined_at: AssignmentRevision(u64::MAX >> 8), ..joined };
    assert_eq!(apply(vec![Record::Joined(Box::new(again))]), Outcome::Applied, "it is its own");
    let bad = Batch { group: "g".into(), base_revision: w.group().revision, records: vec![target(epoch + 1)] };
    w.shard.replay(&LogEntry { node: 1, term: 9, base_sequence: state.sequence, time_ms: state.time_ms, batches: vec![bad] });
    assert_eq!(w.shard.stats().refused_batches, 1);
}

/// Topics with many subscribers are looked at in another way than those with few: with the same result.
#[test]
fn weights_are_dealt_out_evenly_among_very_many_members() {
    let members = 70;
    let topic = |m: usize| if m < 68 { topics(&["t"]) } else { topics(&["u"]) };
    let weight = |p: i32| 1 + (p as u32 * 7) % 5;
    let input = Input {
        subscriptions: (0..members).map(|m| (format!("m{m:02}").as_str().into(), topic(m))).collect(),
        topics: [("t".into(), 204), ("u".into(), 4)].into(),
        weights: (0..204).map(|p| (Partition::new("t", p), weight(p))).collect(),
        ..Input::default()
    };
    let out = work::assign("weighted", &input).expect("it is one of the assignors");
    let load = |m: usize| out[&MemberId::from(format!("m{m:02}"))].iter().map(|p| if p.topic.as_str() == "t" { weight(p.partition) } else { 1 }).sum::<u32>();
    let loads: Vec<u32> = (0..68).map(load).collect();
    assert_eq!(loads.iter().sum::<u32>(), (0..204).map(weight).sum::<u32>(), "all are given, to subscribers");
    let (least, most) = (loads.iter().min().unwrap(), loads.iter().max().unwrap());
    assert!(most - least <= 1, "{loads:?}");
    assert_eq!((load(68), load(69)), (2, 2));
}

/// `safety.md` 7: a member that begins anew says by its revision which grants it had heard of: those are free. One that it had not heard of may be used by a request on
/// its way: that one is asked back.
#[test]
fn a_grant_that_a_rejoining_member_had_not_heard_of_is_not_free() {
    let (mut w, mut a, b) = two_at_rest(4);
    let (known, unheard) = (a.owned.clone(), b.owned.clone());
    w.ask(b.leave_request()).expect("it leaves");
    w.pass(2_000);
    w.beat(a.steady_request()).expect("its answer is lost");
    assert_eq!(w.member("a").assigned.len(), 4);
    let mut b = Model { incarnation: Incarnation(77), ..Model::new("b", &["t"]) };
    w.join(&mut b);
    w.pass(2_000);
    w.steady(&mut b);
    assert_eq!(w.group().target[&b.id].len(), 2);
    let theirs: BTreeSet<Partition> = w.group().target[&b.id].iter().cloned().collect();
    let v = w.join(&mut a);
    assert_eq!(v.pending_revocation, theirs.intersection(&unheard).cloned().collect(), "what it had not heard of is asked back");
    w.steady(&mut b);
    assert_eq!(b.owned, theirs.intersection(&known).cloned().collect(), "what it had heard of is free");
    w.settle(&mut [&mut a, &mut b]);
    assert_eq!(b.owned, theirs);
}

#[test]
fn the_assignor_that_most_members_name_is_used() {
    for (names, most) in [(["range", "range", "uniform"], "range"), (["range", "uniform", "uniform"], "uniform")] {
        let mut w = World::new(&[("t", 4)]);
        for (i, name) in names.iter().enumerate() {
            w.beat(Heartbeat { assignor: Some(name.to_string()), ..Model::new(&format!("m{i}"), &["t"]).join_request() }).expect("accepted");
        }
        assert_eq!(w.group().assignor("weighted"), most);
    }
}

#[test]
fn a_set_of_partitions_counts_and_sorts_what_it_is_made_of() {
    let p = |n| Partition::new("t", n);
    for given in [vec![p(2), p(1)], vec![p(1), p(1), p(2)], vec![p(1), p(2)], vec![p(2), p(1), p(2)]] {
        let s = PartitionSet::from_iter(given);
        assert_eq!((s.iter().cloned().collect::<Vec<_>>(), s.len(), s.is_empty()), (vec![p(1), p(2)], 2, false));
    }
}

/// What a regular expression stands for is taken from no older image than the group has seen.
#[test]
fn topics_found_on_an_older_image_are_looked_for_again() {
    let mut w = World::new(&[("n", 1), ("t1", 1)]);
    let mut a = Model::new("a", &["n"]);
    w.join(&mut a);
    w.settle(&mut [&mut a]);
    w.auto_work = false;
    let b = Model::new("b", &[]);
    w.beat(Heartbeat { subscribed_topics: None, subscribed_regex: Some("t.*".into()), ..b.join_request() }).expect("accepted");
    let old = w.work.remove(0);
    w.declare("t2", 1);
    w.declare("n", 2);
    w.steady(&mut a);
    let seen = w.group().metadata_revision;
    assert_eq!(seen, w.meta.revision, "the group has seen the newer image");
    let from = w.log.len();
    w.shard.done(old.run(), w.now);
    w.run();
    let older = |r: &Record| matches!(r, Record::Regex { resolved: Some(r), .. } if r.revision < seen);
    assert!(!w.log[from..].iter().flat_map(|e| &e.batches).flat_map(|b| &b.records).any(older), "{:?}", &w.log[from..]);
}

/// A group's new session timeout holds for its Kafka members too, and history says what they did.
#[test]
fn kafka_members_follow_the_groups_session() {
    let mut w = World::new(&[("t", 2)]);
    let mut k = Kafka::new("k", &["t"]);
    w.kjoin(&mut k);
    assert!(w.history.values().any(|h| h.kind == "joined" && h.cause == "k joined"), "{:?}", w.history);
    w.ksettle(&mut [&mut k]);
    let revision = w.shard.state().revision;
    w.kbeat(&mut k);
    assert_eq!(w.shard.state().revision, revision, "nothing changed");
    w.set(baton_coordinator::config::Setting::SessionTimeout, Some(25_000));
    w.kbeat(&mut k);
    assert_eq!((w.member("k").session_told_ms, w.member("k").session_promised_ms), (25_000, 25_000));
    w.consumer(ConsumerHeartbeat { subscribed_topics: Some(topics(&["t", "u"])), ..k.owning() }).expect("accepted");
    assert!(w.history.values().any(|h| h.kind == "subscription" && h.cause == "k changed its subscription"), "{:?}", w.history);
}
