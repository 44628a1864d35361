//! Exact values at edges: bounds, names and counters that no story would notice at once. Each is here because a change of it survived every other test.
use crate::common::*;
use baton_coordinator::{
    classic::Migration, command::*, config::*, decide::TimerCommand, ids::*, invariants, metadata::*, record::*, regexes, replay::{self, HistoryChange, Outcome},
    shard::*, state::{Group, State},
};
use std::sync::Arc;

fn invalid(r: Result<u64, MetaError>) -> Option<String> { if let Err(MetaError::Invalid { field, .. }) = r { Some(field) } else { None } }
fn declare(m: &mut Metadata, name: &str) -> Result<u64, MetaError> { m.apply(&MetaCommand::DeclareTopic { name: name.into(), partitions: 1, id_if_new: 7 }) }

#[test]
fn a_directory_is_registered_once_and_its_node_keeps_it() {
    let mut m = Metadata::default();
    let register = |directory| MetaCommand::RegisterDirectory { node: 1, directory };
    let revision = m.apply(&register(5)).expect("the first");
    assert_eq!(m.apply(&register(5)).expect("again"), revision, "nothing changed");
    assert!(matches!(m.apply(&register(6)), Err(MetaError::OtherDirectory { node: 1 })));
}

#[test]
fn names_are_those_that_kafka_allows() {
    let long = "a".repeat(249);
    for name in ["a", "a.b_c-9", "...", long.as_str()] { assert!(declare(&mut Metadata::default(), name).is_ok(), "{name:?}"); }
    let too_long = "a".repeat(250);
    for name in ["", ".", "..", "a b", "ä", "a/b", too_long.as_str()] { assert_eq!(invalid(declare(&mut Metadata::default(), name)).as_deref(), Some("topic"), "{name:?}"); }
}

#[test]
fn a_layout_is_bounded_and_an_empty_one_is_none() {
    let mut m = Metadata::default();
    declare(&mut m, "t").expect("declared");
    let mut set = |zones: Vec<Vec<String>>| m.apply(&MetaCommand::SetLayout { name: "t".into(), layout: Layout { zones: zones.into_iter().map(|z| z.into_iter().collect()).collect(), weights: Vec::new() } });
    let names = |n: usize| (0..n).map(|i| format!("z{i}")).collect::<Vec<_>>();
    let before = set(Vec::new()).expect("nothing is said");
    assert_eq!(set(Vec::new()).expect("nothing is said again"), before, "an empty layout on none changes nothing");
    for (zones, fine) in [(names(16), true), (names(17), false), (vec!["z".repeat(249)], true), (vec!["z".repeat(250)], false), (vec![String::new()], false)] {
        let r = set(vec![zones]);
        assert_eq!(r.is_ok(), fine, "{r:?}");
    }
    set(Vec::new()).expect("taken back");
    assert!(m.layouts.is_empty());
}

#[test]
fn words_and_numbers_are_read_as_they_are_written() {
    for p in [Migration::Bidirectional, Migration::Upgrade, Migration::Downgrade, Migration::Disabled] { assert_eq!(format!("{p:?}").parse::<Migration>(), Ok(p)); }
    assert!("both".parse::<Migration>().is_err());
    let i: Incarnation = "00ff".parse().expect("hexadecimal");
    assert_eq!(i, Incarnation(255));
    assert_eq!(i.to_string().parse::<Incarnation>(), Ok(i));
    assert!("xyz".parse::<Incarnation>().is_err());
    assert_eq!(Limits::default().default_assignor(), "uniform");
    assert_eq!(Limits { assignors: vec!["range".into(), "uniform".into()], ..Limits::default() }.default_assignor(), "range");
}

#[test]
fn what_may_be_tried_again_says_so_and_nothing_else() {
    let again = [GroupError::Unavailable { reason: String::new() }, GroupError::Loading { have: 1, need: 2 }, GroupError::Quarantined { reason: String::new() }];
    assert!(again.iter().all(GroupError::retriable));
    let mut w = World::new(&[("t", 1)]);
    let gone = w.ask(Command::Describe).expect_err("there is no group");
    assert!(!gone.retriable(), "{gone:?}");
}

/// The cluster's groups are spread by this for good: another value would look for a group where it is not.
#[test]
fn the_shard_of_a_group_is_crc32c_of_its_name() {
    // The check value of CRC-32C (Castagnoli) for this text is 0xe3069283.
    let check: GroupId = "123456789".into();
    assert_eq!([1, 8, 256].map(|n| shard_of(&check, n)), [0, 3, 0x83]);
    assert_eq!(shard_of(&check, 0), 0);
}

#[test]
fn an_expressions_escapes_are_single_characters_and_quotes_are_literal() {
    for (expression, yes, no) in [(r"a\.b", "a.b", "axb"), (r"\Qa.b\E.", "a.bx", "axbx"), (r"[[:digit:]]+\.\.", "12..", "12"), (r"\d\d", "12", "1d"), (r"[a-c&]", "&", "d")] {
        let r = regexes::compile(expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        assert!(r.is_match(yes.as_bytes()) && !r.is_match(no.as_bytes()), "{expression} on {yes} and {no}");
    }
    assert!(regexes::compile(r"a\").is_err());
}

/// A snapshot is the state, whole: who installs it is equal to who wrote it, and the digest tells states apart.
#[test]
fn a_snapshot_is_the_whole_state() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    let empty = w.shard.digest();
    w.join(&mut a);
    let one = w.shard.digest();
    w.join(&mut b);
    w.settle(&mut [&mut a, &mut b]);
    let copy = Shard::restore(1, Limits::default(), &w.shard.snapshot()).expect("it is read");
    assert_eq!(copy.state(), w.shard.state());
    assert_eq!(copy.digest(), w.shard.digest());
    assert!(empty != one && one != w.shard.digest());
    assert!(std::ptr::eq(&*copy.group(&"g".into()).unwrap().members[&MemberId::from("a")].subscribed, &*copy.group(&"g".into()).unwrap().members[&MemberId::from("b")].subscribed), "one set for equal subscriptions");
}

#[test]
fn history_says_which_partition_went_from_whom_to_whom() {
    let (w, _, b) = two_at_rest(2);
    let moved: Vec<&Moved> = w.history.values().flat_map(|r| &r.moved).collect();
    let given: &Partition = b.owned.first().expect("b has one");
    assert!(moved.iter().any(|m| m.partition == *given && m.from == Some("a".into()) && m.to.is_none()), "{moved:?}");
    assert!(moved.iter().any(|m| m.partition == *given && m.from.is_none() && m.to == Some("b".into())), "{moved:?}");
    assert_eq!(w.history.values().filter(|r| r.kind == "revoking").count(), 1, "one record for what was asked back, none where nothing was");
    assert!(w.history.values().all(|r| r.at_ms >= 5_000), "wall-clock ms");
}

#[test]
fn counters_count_what_was_replayed() {
    let mut w = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.join(&mut b);
    for offset in [1, 2, 3] {
        let commit = CommitOffset { partition: Partition::new("t", 0), token: FencingToken(0), offset, metadata: String::new(), leader_epoch: None };
        w.ask(Command::Commit(Commit { member: None, offsets: vec![commit] })).expect_err("an administrator commits for nobody's partitions only");
    }
    let epochs = w.log.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records).filter(|r| matches!(r, Record::Epoch { .. })).count();
    let offsets = w.log.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records).filter(|r| matches!(r, Record::Offset { .. })).count();
    let s = w.shard.stats();
    assert_eq!((s.rebalances, s.commits, s.skipped, s.refused_batches), (epochs as u64, offsets as u64, 0, 0));
    assert_eq!((w.log.len() as u64, epochs >= 2), (s.proposals, true));
    // The same entry once more finds another sequence: a no-op, counted as that.
    let again = w.log[0].clone();
    let before = w.shard.digest();
    w.shard.replay(&again);
    assert_eq!((w.shard.stats().skipped, w.shard.digest()), (again.batches.len() as u64, before));
}

/// A batch that contradicts the state is undone as a whole; the group is quarantined under a revision of its own.
#[test]
fn a_record_that_contradicts_the_state_is_refused_by_name() {
    let mut w = World::new(&[("t", 2)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.join(&mut b);
    // b leaves without the grant that it was sent: a hold.
    w.settle(&mut [&mut a, &mut b]);
    let stale = w.member("b").joined_at;
    w.ask(Command::Leave(Leave { member: b.id.clone(), incarnation: b.incarnation, assignment_revision: stale, is_static: false })).expect("it leaves");
    let state = w.shard.state().clone();
    let g = &state.groups[&GroupId::from("g")];
    let (p, hold) = g.holds.iter().next().map(|(p, h)| (p.clone(), h.clone())).expect("its partition is held");
    let apply = |state: &mut State, r: Record| {
        let g = &state.groups[&GroupId::from("g")];
        let e = LogEntry { node: 1, term: 9, base_sequence: state.sequence, time_ms: state.time_ms, batches: vec![Batch { group: "g".into(), base_revision: g.revision, records: vec![r] }] };
        let mut history = Vec::new();
        let outcome = replay::entry(state, &e, 100, &mut history).remove(0);
        assert!(!history.iter().any(|c| matches!(c, HistoryChange::Dropped { .. })), "nothing is dropped that is within the bound");
        outcome
    };
    let mut right = state.clone();
    assert_eq!(apply(&mut right, Record::HoldReleased { partition: p.clone(), token: hold.token }), Outcome::Applied);
    assert!(!right.groups[&GroupId::from("g")].owners.contains_key(&p), "nobody's");
    let mut wrong = state.clone();
    assert!(matches!(apply(&mut wrong, Record::HoldReleased { partition: p.clone(), token: FencingToken(hold.token.0 + 1) }), Outcome::Quarantined(_)));
    let after = &wrong.groups[&GroupId::from("g")];
    assert_eq!((wrong.revision, after.revision), (state.revision + 1, state.revision + 1));
    assert!(after.quarantined.is_some() && after.owners == g.owners && after.holds == g.holds, "it keeps its last good state");
}

/// The owner map and what members, pending revocations and holds claim are the same, both ways.
#[test]
fn every_disagreement_about_an_owner_is_named() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let good: Group = w.group().clone();
    assert_eq!(invariants::check(&good), Vec::<String>::new());
    let p = Partition::new("t", 0);
    let spoil = |f: &dyn Fn(&mut Group)| {
        let mut g = good.clone();
        f(&mut g);
        invariants::check(&g)
    };
    let one = |broken: Vec<String>| assert!(broken.iter().any(|b| b.starts_with("I1")), "{broken:?}");
    one(spoil(&|g| { g.owners.get_mut(&p).unwrap().member = "b".into(); }));
    one(spoil(&|g| { g.owners.get_mut(&p).unwrap().token.0 += 1; }));
    one(spoil(&|g| { g.owners.get_mut(&p).unwrap().state = OwnerState::Held; }));
    one(spoil(&|g| { g.owners.remove(&p); }));
    one(spoil(&|g| { let o = g.owners[&p].clone(); g.owners.insert(Partition::new("t", 9), o); }));
    let epochs = |broken: Vec<String>| assert!(broken.iter().any(|b| b.starts_with("I4")), "{broken:?}");
    epochs(spoil(&|g| g.target_epoch = g.epoch + 1));
    epochs(spoil(&|g| { g.members.get_mut(&MemberId::from("a")).unwrap().epoch = 0; }));
    epochs(spoil(&|g| { let a = g.members.get_mut(&MemberId::from("a")).unwrap(); a.epoch = g.target_epoch + 1; }));
}

#[test]
fn an_older_image_of_the_topics_is_not_taken() {
    let mut w = World::new(&[("t", 2)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    let old = Arc::new(w.meta.clone());
    w.declare("t", 3);
    w.steady(&mut a);
    w.shard.metadata(old, w.now);
    w.run();
    assert_eq!(w.group().topics[&TopicName::from("t")].partitions, 3);
    w.pass(200);
    w.steady(&mut a);
    assert_eq!(a.owned.len(), 3);
}

/// `safety.md` 19: a loop that was late expires nobody for it, and gives no more than its lateness.
#[test]
fn a_late_loop_extends_every_deadline_by_its_lateness() {
    let mut w = World::new(&[("t", 1)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.steady(&mut a);
    w.pass(200); // what follows the join is done
    let due = w.shard.due(u64::MAX).into_iter().find(|(_, t)| format!("{t:?}").contains("ExpireSession")).expect("its session").0;
    w.now.mono_ms = due + 1_000;
    w.shard.handle_timeout(w.now);
    w.run();
    assert!(w.group().members.contains_key(&a.id), "not for the loop's lateness");
    let moved = w.shard.due(u64::MAX).into_iter().find(|(_, t)| format!("{t:?}").contains("ExpireSession")).expect("its session").0;
    assert_eq!(moved, due + 1_000, "by its lateness, no more");
    let mut waited = w.shard.clone();
    w.pass(0);
    assert!(!w.group().members.contains_key(&a.id));
    // Its heartbeat had waited while the loop did not run.
    waited.handle(Ticket(1_000), Request { group: "g".into(), command: Command::Heartbeat(a.steady_request()), budget_ms: None, min_meta_revision: 0 }, w.now);
    while waited.poll(w.now).is_some() {}
    waited.handle_timeout(w.now);
    while waited.poll(w.now).is_some() {}
    assert!(waited.due(u64::MAX).iter().any(|(at, t)| format!("{t:?}").contains("ExpireSession") && *at > w.now.mono_ms), "it has a session again");
}

/// `safety.md` 19: a session ended while an entry of the group was in flight, and the member's heartbeat came before that was committed: it is heard first.
#[test]
fn a_heartbeat_that_came_while_its_member_waited_to_be_expired_is_heard() {
    let (mut w, mut a, mut b) = two_at_rest(2);
    let session = w.member("b").session_promised_ms;
    w.pass(session / 2);
    w.steady(&mut a);
    w.pass(session / 2 - 1);
    w.auto_commit = false;
    w.send(Command::Heartbeat(Model::new("c", &["t"]).join_request())); // in flight until it is committed below
    w.pass(1); // the session of b ends behind it
    w.send(Command::Heartbeat(b.steady_request()));
    w.auto_commit = true;
    w.commit();
    w.run();
    w.steady(&mut b);
    w.pass(session - 1);
    assert!(w.group().members.contains_key(&b.id), "a session from what it said meanwhile");
}

/// `safety.md` 19: a timer that had fired while an entry of its group was in flight, and was not decided before the lease lapsed, starts again in full.
#[test]
fn a_timer_that_waits_behind_an_entry_starts_again_after_a_lapse() {
    let (mut w, mut a, b) = two_at_rest(2);
    let session = w.member("b").session_promised_ms;
    let before_its_grant = w.member("b").joined_at;
    w.ask(Command::Leave(Leave { member: b.id.clone(), incarnation: b.incarnation, assignment_revision: before_its_grant, is_static: false })).expect("it leaves");
    assert_eq!(w.group().holds.len(), 1);
    w.pass(session / 2);
    w.steady(&mut a);
    w.pass(session / 2 - 1);
    w.auto_commit = false;
    w.send(Command::Heartbeat(Model::new("c", &["t"]).join_request())); // in flight until it is committed below
    w.pass(1); // the hold ends behind it
    w.shard.lead(1, 1, w.now); // the lease had lapsed
    w.auto_commit = true;
    w.commit();
    w.run();
    assert_eq!(w.group().holds.len(), 1, "one full session more");
    w.steady(&mut a);
    w.pass(session - 1);
    assert_eq!(w.group().holds.len(), 1);
    w.pass(1);
    assert_eq!(w.group().holds.len(), 0);
}

/// What was found by stories: a heartbeat that is held past its time, because an entry took long or nobody led for a while, is no sign of a late loop, and puts nobody's deadline off.
#[test]
fn a_held_heartbeat_past_its_time_puts_no_deadline_off() {
    let sessions = |w: &World| timers(&w.shard).into_iter().filter(|(_, t)| matches!(t, TimerCommand::ExpireSession { .. })).collect::<Vec<_>>();
    let holds = |a: &Model| Command::Heartbeat(Heartbeat { wait_ms: 300, ..a.steady_request() });
    // An entry that takes long.
    let (mut w, a, b) = two_at_rest(2);
    w.auto_commit = false;
    w.queue(1_001, "g", Command::Heartbeat(Heartbeat { rack: Some("r".into()), ..b.steady_request() }));
    w.queue(1_002, "g", holds(&a));
    w.run();
    assert_eq!(w.log.len(), w.committed + 1, "one entry is in flight");
    for _ in 0..20 {
        w.now.mono_ms += 100;
        w.run();
    }
    let before = sessions(&w);
    w.commit();
    w.shard.handle_timeout(w.now);
    assert_eq!(sessions(&w), before);
    w.run();
    assert!(w.answer(Ticket(1_002)).is_some(), "it is answered at once");

    // A lease that was lost for a while.
    let (mut w, a, _) = two_at_rest(2);
    w.queue(1_001, "g", holds(&a));
    w.run();
    assert!(w.answer(Ticket(1_001)).is_none(), "it is held");
    w.now.mono_ms += 2_000;
    w.shard.lead(1, 1, w.now);
    let before = sessions(&w);
    w.shard.handle_timeout(w.now);
    assert_eq!(sessions(&w), before);
    w.run();
    assert!(w.answer(Ticket(1_001)).is_some());
}
