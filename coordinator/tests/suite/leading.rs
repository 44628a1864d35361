//! What only the leader of a shard knows: who waits, what is in flight, which timers run, and what becomes of each when something else comes first.
use crate::common::*;
use baton_coordinator::{command::*, config::*, ids::*, record::*, shard::*, work::Task};

fn join_of(w: &mut World, ticket: u64, group: &str, member: &str) {
    w.queue(ticket, group, Command::Heartbeat(Model::new(member, &["t"]).join_request()))
}
/// An administrator's commit.
fn position(partition: i32) -> Command {
    let offsets = vec![CommitOffset { partition: Partition::new("t", partition), token: FencingToken(0), offset: 7, metadata: String::new(), leader_epoch: None }];
    Command::Commit(Commit { member: None, offsets })
}
/// A commit of one partition that the member owns.
fn own(w: &World, a: &Model) -> Command {
    let partition = a.owned.first().expect("it owns one").clone();
    let token = w.group().owners[&partition].token;
    let member = CommitMember { member: a.id.clone(), incarnation: a.incarnation, commit_seq: 1 };
    Command::Commit(Commit { member: Some(member), offsets: vec![CommitOffset { partition, token, offset: 7, metadata: String::new(), leader_epoch: None }] })
}
fn with_limits(w: &mut World, limits: Limits) {
    w.shard = Shard::new(1, limits);
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(std::sync::Arc::new(w.meta.clone()), w.now);
}
fn waiting(w: &mut World, a: &Model, wait_ms: u64) -> Ticket {
    let t = w.send(Command::Heartbeat(Heartbeat { wait_ms, ..a.steady_request() }));
    assert_eq!(w.answer(t), None, "nothing new: it is held");
    t
}

/// The bound on groups counts those that the same drain makes, each once, and never refuses a group that exists.
#[test]
fn the_bound_on_groups_counts_every_group_once() {
    let mut w = World::new(&[("t", 4)]);
    with_limits(&mut w, Limits { groups_max: 3, ..Limits::default() });
    join_of(&mut w, 901, "one", "a");
    join_of(&mut w, 902, "two", "a");
    w.run();
    // Two that exist are changed, one is made, and there the bound is.
    for (t, group, member) in [(903, "one", "b"), (904, "two", "b"), (905, "three", "a"), (906, "four", "a"), (907, "one", "c"), (908, "three", "b")] {
        join_of(&mut w, t, group, member);
    }
    w.run();
    for t in [901, 902, 903, 904, 905, 907, 908] {
        assert!(matches!(w.answer(Ticket(t)), Some(Ok(Response::Heartbeat(_)))), "{t}");
    }
    assert_eq!(w.answer(Ticket(906)), Some(Err(GroupError::LimitReached { limit: "groups".into(), max: 3 })));
    join_of(&mut w, 909, "four", "a");
    w.queue(910, "five", Command::Describe);
    w.run();
    assert!(matches!(w.answer(Ticket(909)), Some(Err(GroupError::LimitReached { .. }))), "nor in a drain of its own");
    assert!(matches!(w.answer(Ticket(910)), Some(Err(GroupError::UnknownGroup { .. }))), "who makes no group is not told of the bound");
}

/// What waits at one moment goes into entries of about the size that is set; everybody is answered, and no group's commands change their order.
#[test]
fn a_long_queue_is_cut_into_entries_of_a_bounded_size() {
    let mut w = World::new(&[("t", 4)]);
    with_limits(&mut w, Limits { entry_bytes: 4_000, ..Limits::default() });
    for n in 0..40 {
        join_of(&mut w, 900 + n, ["one", "two"][n as usize % 2], &format!("m{n:02}"));
    }
    w.run();
    let records: Vec<usize> = w.log.iter().map(|e| e.batches.iter().map(|b| b.records.len()).sum()).collect();
    // 20 records of about 200 bytes, and what the last command adds to them.
    assert!(records.len() > 3 && records.iter().all(|n| *n < 20 + 20), "{records:?}");
    for n in 0..40 {
        assert!(matches!(w.answer(Ticket(900 + n)), Some(Ok(Response::Heartbeat(_)))), "{n}");
    }
    for group in ["one", "two"] {
        let joined: Vec<MemberId> = w
            .log
            .iter()
            .flat_map(|e| &e.batches)
            .filter(|b| b.group.as_str() == group)
            .flat_map(|b| &b.records)
            .filter_map(|r| if let Record::Joined(j) = r { Some(j.member.clone()) } else { None })
            .collect();
        assert!(joined.is_sorted() && joined.len() == 20, "{group}: {joined:?}");
    }
}

/// Another leader's entry came first for one of two groups: what was decided for that group did not happen and says so; the other group's answers hold, and whoever waited
/// behind the entry is served as if nothing had been in flight.
#[test]
fn a_batch_that_was_not_applied_says_so_to_its_own_group_alone() {
    let mut w = World::new(&[("t", 4)]);
    for group in ["lost", "kept"] {
        w.queue(900, group, position(0));
    }
    w.run();
    w.auto_commit = false;
    join_of(&mut w, 901, "lost", "a");
    join_of(&mut w, 902, "kept", "b");
    w.run();
    assert_eq!((w.answer(Ticket(901)), w.answer(Ticket(902))), (None, None), "in flight");
    join_of(&mut w, 903, "lost", "c");
    w.queue(904, "kept", Command::Describe);
    w.run();
    assert_eq!((w.answer(Ticket(903)), w.answer(Ticket(904))), (None, None), "behind what is in flight");
    // The same entry as proposed, but decided on a revision of the group that is not there any more.
    let at = w.log.len() - 1;
    for b in w.log[at].batches.iter_mut().filter(|b| b.group.as_str() == "lost") {
        b.base_revision += 100;
    }
    w.auto_commit = true;
    w.commit();
    w.run();
    assert!(matches!(w.answer(Ticket(901)), Some(Err(GroupError::Unavailable { reason })) if reason.contains("changed before")));
    assert!(matches!(w.answer(Ticket(902)), Some(Ok(Response::Heartbeat(_)))));
    assert!(matches!(w.answer(Ticket(903)), Some(Ok(Response::Heartbeat(_)))), "decided on what is there");
    assert!(matches!(w.answer(Ticket(904)), Some(Ok(Response::Group(_)))));
    let members = |g: &str| w.shard.group(&g.into()).map(|g| g.members.keys().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!((members("lost"), members("kept")), (Some(vec!["c".to_string()]), Some(vec!["b".to_string()])));
}

/// Work that is out for one group is not forgotten for what another one lost.
#[test]
fn a_lost_batch_does_not_forget_the_work_of_another_group() {
    let mut w = World::new(&[("t", 4)]);
    with_limits(&mut w, Limits { offload_from: 1, ..Limits::default() });
    w.queue(900, "lost", position(0));
    w.run();
    w.auto_work = false;
    join_of(&mut w, 901, "g", "a");
    w.run();
    assert_eq!((w.work.len(), w.group().target.len()), (1, 0));
    w.auto_commit = false;
    w.queue(902, "lost", position(1));
    w.run();
    let at = w.log.len() - 1;
    w.log[at].batches[0].base_revision += 100;
    w.auto_commit = true;
    w.commit();
    w.run();
    assert!(matches!(w.answer(Ticket(902)), Some(Err(GroupError::Unavailable { .. }))));
    w.auto_work = true;
    w.run();
    assert!(!w.group().target.is_empty() && w.group().target_epoch == w.group().epoch, "its result is taken");
}

/// Expressions of a group are resolved by one piece of work at a time; what is new in between is asked for when that has come back, or is taken for lost.
#[test]
fn work_of_one_kind_is_out_once() {
    let mut w = World::new(&[("t", 4), ("u", 1)]);
    w.auto_work = false;
    let mut members = [Model::new("a", &[]), Model::new("b", &[])];
    for (m, regex) in members.iter_mut().zip(["t", "u"]) {
        let v = w.beat(Heartbeat { subscribed_regex: Some(regex.into()), ..m.join_request() }).expect("joined");
        m.take(&v);
    }
    let resolves = |w: &World| w.work.iter().filter(|x| matches!(x.task, Task::Resolve { .. })).count();
    assert_eq!(resolves(&w), 1, "the second waits for the first");
    w.auto_work = true;
    w.run();
    for _ in 0..12 {
        w.pass(1_000);
        members.iter_mut().for_each(|m| {
            w.steady(m);
        });
    }
    assert_eq!(w.group().regexes.keys().collect::<Vec<_>>(), ["t", "u"], "both are found out in the end");
}

/// A new topic that a member's expression matches is taken over although nobody says a word, ten seconds after the last look at the latest.
#[test]
fn a_topic_that_an_expression_matches_is_found_without_a_heartbeat() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &[]);
    let v = w.beat(Heartbeat { subscribed_regex: Some("t.*".into()), ..a.join_request() }).expect("joined");
    a.take(&v);
    w.pass(200);
    w.steady(&mut a);
    w.declare("t2", 2);
    assert!(!w.group().topics.contains_key(&TopicName::from("t2")), "looked for a moment ago");
    w.pass(10_001);
    assert!(w.group().topics.contains_key(&TopicName::from("t2")));
    assert!(w.group().members.contains_key(&a.id));
}

/// A target that has to wait for the assignment interval comes when that is over, without anybody's heartbeat.
#[test]
fn a_target_that_waits_for_its_interval_comes_by_itself() {
    let mut w = World::new(&[("t", 4)]);
    w.set(Setting::AssignmentInterval, Some(2_000));
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.pass(500);
    w.join(&mut b);
    assert!(w.group().target_epoch < w.group().epoch, "too soon after the last");
    w.pass(2_000);
    assert_eq!(w.group().target_epoch, w.group().epoch);
}

/// A heartbeat is held only while its member has nothing to learn: a new epoch is told at once, also where the assignment stays.
#[test]
fn a_new_epoch_is_told_at_once_to_who_would_wait() {
    let (mut w, mut a, mut b) = two_at_rest(2);
    let held = waiting(&mut w, &a, 3_000);
    let mut c = Model::new("c", &["t"]);
    w.join(&mut c);
    assert!(
        matches!(w.answer(held), Some(Ok(Response::Heartbeat(v))) if v.member_epoch > a.epoch && v.assignment.is_none()),
        "the third gets nothing, and the epoch is another one"
    );
    let t = w.send(Command::Heartbeat(Heartbeat { wait_ms: 3_000, ..b.steady_request() }));
    let Some(Ok(Response::Heartbeat(v))) = w.answer(t) else { panic!("told at once") };
    assert!(v.member_epoch > b.epoch && v.assignment.is_none());
    b.take(&v);
    w.steady(&mut a);
    waiting(&mut w, &b, 3_000);
}

/// A later heartbeat of the same process ends the one that is held; a stranger's under the same name is refused and ends nothing.
#[test]
fn only_the_process_itself_ends_its_held_heartbeat() {
    let (mut w, a, _) = two_at_rest(2);
    let held = waiting(&mut w, &a, 3_000);
    let stranger = Model { incarnation: Incarnation(4_711), ..a.clone() };
    assert!(w.beat(stranger.steady_request()).is_err());
    assert_eq!(w.answer(held), None);
    w.beat(a.steady_request()).expect("its own");
    assert!(matches!(w.answer(held), Some(Ok(Response::Heartbeat(_)))));
    w.pass(5_000);
    assert!(w.answers.is_empty(), "nobody is answered twice");
}

/// A wait that ends while an entry of its group is in flight is answered as soon as that has been applied: it does not wait once more.
#[test]
fn a_wait_that_ends_behind_an_entry_is_over() {
    let (mut w, a, _) = two_at_rest(2);
    let held = waiting(&mut w, &a, 2_000);
    w.pass(1_900);
    w.auto_commit = false;
    let commit = own(&w, &a);
    w.send(commit);
    w.pass(200);
    assert_eq!(w.answer(held), None, "what is in flight might be for its member");
    w.auto_commit = true;
    w.commit();
    w.run();
    assert!(matches!(w.answer(held), Some(Ok(Response::Heartbeat(_)))));
}

/// `safety.md` 19: after a lapse the time to give partitions back starts again in full, like every other.
#[test]
fn after_a_lapse_a_member_has_its_whole_rebalance_timeout_again() {
    let (mut w, a, mut b) = half_way();
    let four = set(&[("t", 0), ("t", 1), ("t", 2), ("t", 3)]);
    let keep = |w: &mut World, seconds: u64, a: &Model, b: &mut Model| {
        for _ in 0..seconds {
            w.pass(1_000);
            // It goes on with what it has; refused once it is removed.
            let _ = w.beat(Heartbeat { owned: Some(four.clone()), ..a.steady_request() });
            w.steady(b);
        }
    };
    keep(&mut w, 50, &a, &mut b);
    w.shard.lead(1, 1, w.now);
    w.run();
    keep(&mut w, 59, &a, &mut b);
    assert!(w.group().members.contains_key(&a.id), "60 s from the lapse, not from the beginning");
    keep(&mut w, 2, &a, &mut b);
    assert!(!w.group().members.contains_key(&a.id));
}

/// Another term is another leadership, also of the same node: whoever waits is told to try again, and what is proposed names the new term.
#[test]
fn a_new_term_of_the_same_node_begins_anew() {
    let (mut w, a, b) = two_at_rest(2);
    let held = waiting(&mut w, &a, 3_000);
    w.auto_commit = false;
    let commit = own(&w, &a);
    let in_flight = w.send(commit);
    w.shard.lead(1, 2, w.now);
    w.run();
    for t in [held, in_flight] {
        assert!(matches!(w.answer(t), Some(Err(GroupError::Unavailable { .. }))));
    }
    assert_eq!(w.shard.leading(), Some(2));
    w.auto_commit = true;
    w.commit();
    w.run();
    w.ask(b.leave_request()).expect("it leaves");
    assert_eq!(w.log.last().map(|e| (e.node, e.term)), Some((1, 2)));
}

/// A session that was raised counts from the moment at which it is written down, in full.
#[test]
fn a_raised_session_runs_in_full_at_once() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.pass(10_000);
    w.set(Setting::SessionTimeout, Some(60_000));
    w.steady(&mut a);
    assert_eq!(w.member("a").session_promised_ms, 60_000);
    w.pass(59_999);
    assert!(w.group().members.contains_key(&a.id));
    w.pass(2);
    assert!(!w.group().members.contains_key(&a.id));
}

/// Groups are looked through in steps, so that nobody waits long for a sweep; and all of them are.
#[test]
fn a_sweep_of_many_groups_goes_in_steps_and_reaches_all() {
    let mut w = World::new(&[("t", 4)]);
    // Entries that are large enough for all of them at once.
    with_limits(&mut w, Limits { entry_bytes: 64 << 20, ..Limits::default() });
    for n in 0..1_100u64 {
        w.queue(10_000 + n, &format!("g{n:04}"), position(0));
    }
    w.run();
    assert_eq!(w.shard.state().groups.len(), 1_100);
    let before = w.log.len();
    w.pass(8 * 24 * 3_600_000);
    assert!(w.shard.state().groups.is_empty(), "seven days are over for all: {} are left", w.shard.state().groups.len());
    let largest = w.log[before..].iter().map(|e| e.batches.len()).max();
    assert!(largest.is_some_and(|n| (1..=500).contains(&n)), "{largest:?} groups in one entry");
}

/// The count of heartbeats is of those that were accepted: answered at once, with a batch, or held; a refusal is none.
#[test]
fn accepted_heartbeats_are_counted() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.steady(&mut a);
    w.steady(&mut a);
    assert!(w.beat(Model { incarnation: Incarnation(1), ..a.clone() }.steady_request()).is_err());
    w.ask(Command::Describe).expect("described");
    let commit = own(&w, &a);
    w.ask(commit).expect("committed");
    assert_eq!(w.shard.stats().heartbeats, 3);
}

/// A heartbeat with nothing new in it is answered without the queue, and keeps its member; everything else takes the ordinary way, and nothing is done for it at once.
#[test]
fn only_a_heartbeat_with_nothing_new_is_answered_at_once() {
    let (mut w, a, b) = two_at_rest(4);
    let of = |h: Heartbeat| Request { group: "g".into(), command: Command::Heartbeat(h), budget_ms: None, min_meta_revision: 0 };
    let plain = of(a.steady_request());
    let at_once = |w: &mut World, r: &Request| w.shard.steady(r, w.now);
    let Some(Response::Heartbeat(v)) = at_once(&mut w, &plain) else { panic!("it has nothing new to say") };
    assert_eq!((v.member, v.member_epoch, v.assignment, v.member_state), (a.id.clone(), a.epoch, None, MemberState::Stable));
    // What it says keeps it in, as long as a session lasts, to the ms; who says nothing is out.
    let session = w.group().config.session_timeout_ms;
    w.pass(session - 1);
    assert!(at_once(&mut w, &plain).is_some());
    w.pass(session - 1);
    assert_eq!(w.group().members.keys().collect::<Vec<_>>(), [&a.id], "b was silent");
    let t = w.send(Command::Heartbeat(a.steady_request()));
    assert!(matches!(w.answer(t), Some(Ok(_))));

    let (mut w, a, b2) = two_at_rest(4);
    assert_eq!(b2.id, b.id);
    let h = a.steady_request();
    let revision = h.assignment_revision;
    let others = [
        ("a join", Heartbeat { epoch: 0, ..h.clone() }), ("an earlier epoch", Heartbeat { epoch: h.epoch - 1, ..h.clone() }), ("a later epoch", Heartbeat { epoch: h.epoch + 1, ..h.clone() }),
        ("an earlier revision", Heartbeat { assignment_revision: AssignmentRevision(revision.0 - 1), ..h.clone() }), ("another process", Heartbeat { incarnation: b.incarnation, ..h.clone() }),
        ("a wish", Heartbeat { rack: Some("r".into()), ..h.clone() }), ("one that waits", Heartbeat { wait_ms: 1_000, ..h.clone() }), ("nobody", Heartbeat { member: "nobody".into(), ..h.clone() }),
        ("another's place", Heartbeat { instance_id: Some("i".into()), wait_ms: 1, ..h.clone() }),
    ];
    for (what, h) in others {
        let (due, mut r) = (w.shard.due(u64::MAX), of(h));
        assert_eq!(at_once(&mut w, &r), None, "{what}");
        assert_eq!(w.shard.due(u64::MAX), due, "{what}: nothing was done");
        (r.group, r.min_meta_revision) = ("none".into(), 0);
        assert_eq!(at_once(&mut w, &r), None, "{what} in no group");
    }
    let plain = of(h);
    let newer = w.meta.revision + 1;
    assert_eq!(at_once(&mut w, &Request { min_meta_revision: newer, ..plain.clone() }), None, "what was acknowledged elsewhere has not come yet");
    assert_eq!(at_once(&mut w, &Request { command: Command::Describe, ..plain.clone() }), None);
    // A heartbeat of its member that is held is ended by the ordinary way.
    let held = waiting(&mut w, &a, 5_000);
    assert_eq!(at_once(&mut w, &plain), None);
    let t = w.send(plain.command.clone());
    assert!(w.answer(held).is_some() && w.answer(t).is_some());
    // What waits, and a batch of its group that is in flight, come first (`safety.md` 1).
    w.queue(990, "other", Command::Describe);
    assert_eq!(at_once(&mut w, &plain), None, "something waits");
    w.run();
    assert!(at_once(&mut w, &plain).is_some());
    w.auto_commit = false;
    let t = w.send(Command::RemoveMember { member: a.id.clone() });
    assert_eq!((w.answer(t), at_once(&mut w, &plain)), (None, None), "its removal is in flight");
    w.commit();
    assert_eq!(at_once(&mut w, &plain), None, "what was replayed has not been followed yet");
    w.run();
    assert_eq!(at_once(&mut w, &plain), None, "it is out");
    w.shard.step_down();
    assert_eq!(at_once(&mut w, &plain), None);
}

/// A session that was changed, or a group whose target is behind, is seen by a heartbeat with nothing new in it: it takes the ordinary way.
#[test]
fn a_heartbeat_that_finds_news_is_not_answered_at_once() {
    let (mut w, a, _) = two_at_rest(4);
    let plain = Request { group: "g".into(), command: Command::Heartbeat(a.steady_request()), budget_ms: None, min_meta_revision: 0 };
    assert!(w.shard.steady(&plain, w.now).is_some());
    w.set(Setting::SessionTimeout, Some(9_000));
    assert_eq!(w.shard.steady(&plain, w.now), None, "it is to be told another session");
    w.beat(a.steady_request()).unwrap();
    assert!(w.shard.steady(&plain, w.now).is_some());
    // A member more: the group's epoch goes on, and so must a.
    w.join(&mut Model::new("c", &["t"]));
    assert_eq!(w.shard.steady(&plain, w.now), None, "there is a new epoch");
}
