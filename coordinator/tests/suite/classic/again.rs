//! Joins, commits and leaders that come again: what stays as it is, and what does not.
use super::*;
use crate::common::timers;
use baton_coordinator::decide::TimerCommand;

/// Two members whose join phase is over and who have not synced; the first of the pair assigns.
fn joined_two(w: &mut World) -> (Client, Client) {
    let (mut a, mut b) = (client("a"), client("b"));
    let tickets = [come(w, &mut a, 1), come(w, &mut b, 2)];
    w.pass(6_000);
    for (c, t) in [&mut a, &mut b].into_iter().zip(tickets) {
        let r = w.answer(t).expect("the join phase is over");
        c.take(r);
    }
    if state(w).assigning_member.as_ref() == Some(&a.id) { (a, b) } else { (b, a) }
}
fn causes(w: &World) -> Vec<String> { w.history.values().map(|h| h.cause.clone()).collect() }

#[test]
fn who_joins_again_as_before_is_told_the_generation_as_it_is() {
    let mut w = world();
    let (mut first, mut other) = joined_two(&mut w);
    for (c, listed) in [(&mut first, 2), (&mut other, 0)] {
        let r = w.ask(c.join(9));
        assert_eq!((c.take(r).members.len(), c.generation, state(&w).phase), (listed, 1, Phase::Completing), "only who assigns is given the list, and nobody waits");
    }
    share(&mut w, &mut [&mut first, &mut other]);
    let r = w.ask(other.join(9));
    assert_eq!((other.take(r).members.len(), other.generation, state(&w).phase), (0, 1, Phase::Stable));
    // A rejoin of the assigning member may stand for something that only it sees.
    let t = w.send(first.join(9));
    assert!(w.answer(t).is_none() && state(&w).phase == Phase::Preparing);
    assert!(causes(&w).iter().any(|c| c.contains("which assigns, joins again")), "{:?}", causes(&w));
}

#[test]
fn who_says_something_else_calls_for_a_rebalance() {
    for completing in [true, false] {
        let mut w = world();
        let (mut first, mut other) = joined_two(&mut w);
        if !completing { share(&mut w, &mut [&mut first, &mut other]); }
        other.protocols = vec![("range".into(), opaque("news"))];
        let t = w.send(other.join(9));
        assert!(w.answer(t).is_none() && state(&w).phase == Phase::Preparing, "completing: {completing}");
        assert!(causes(&w).iter().any(|c| c.contains("says something else")), "{:?}", causes(&w));
    }
}

/// The client's names and its instance id are those of its first join, whatever connection it comes over.
#[test]
fn who_says_something_else_keeps_its_names() {
    let (mut w, mut a) = (world(), fixed("a"));
    stable(&mut w, &mut [&mut a]);
    a.protocols = vec![("range".into(), opaque("news"))];
    let Command::Classic(ClassicCommand::Join(j)) = a.join(9) else { panic!("it is a join") };
    w.send(classic(ClassicCommand::Join(Box::new(Join { client_id: "other".into(), client_host: "elsewhere".into(), instance_id: None, ..*j }))));
    let m = &state(&w).members[&a.id];
    assert_eq!((m.client_id.as_str(), m.client_host.as_str(), m.instance_id.as_ref().map(|i| i.as_str())), ("c", "h", Some("a")));
    assert_eq!(m.protocols, a.protocols);
}

#[test]
fn a_join_that_waits_is_ended_by_the_next_one_of_its_member() {
    let (mut w, mut a) = (world(), client("a"));
    let first = come(&mut w, &mut a, 1);
    let second = w.send(a.join(1));
    assert!(matches!(w.answer(first), Some(Err(GroupError::Unavailable { .. }))), "its client has given it up");
    w.pass(6_000);
    let r = w.answer(second).expect("the join phase is over");
    assert_eq!(a.take(r).generation, 1);
}

#[test]
fn a_commit_of_a_live_group_needs_a_member_and_its_generation() {
    let (mut w, mut a) = (world(), client("a"));
    stable(&mut w, &mut [&mut a]);
    let commit = |member: &str, instance: Option<&str>, generation: i32| {
        let offsets = vec![CommitOffset { partition: Partition::new("t", 0), token: FencingToken(0), offset: 5, metadata: String::new(), leader_epoch: None }];
        classic(ClassicCommand::Commit(GenerationCommit { member: member.into(), instance_id: instance.map(InstanceId::from), generation, offsets }))
    };
    let id = a.id.as_str();
    for (member, instance, generation, expected) in [
        ("", None, -1, ClassicCode::UnknownMemberId), ("somebody", None, 1, ClassicCode::UnknownMemberId), (id, None, -1, ClassicCode::IllegalGeneration), (id, None, 0, ClassicCode::IllegalGeneration),
        (id, None, 2, ClassicCode::IllegalGeneration),
    ] {
        assert_eq!(code(&mut w, commit(member, instance, generation)), expected, "{member} {instance:?} {generation}");
    }
    assert!(matches!(w.ask(commit(id, None, 1)), Ok(Response::Committed(r)) if r[0].1.is_ok()));
}

fn due(w: &World) -> Vec<&'static str> {
    let kind = |c: TimerCommand| if let TimerCommand::Classic(d) = c {
        Some(match d { Due::Session { .. } => "session", Due::Join => "join", Due::Sync => "sync", Due::JoinOf { .. } => "join of", Due::SyncOf { .. } => "sync of" })
    } else { None };
    timers(&w.shard).into_iter().filter_map(|(_, c)| kind(c)).collect()
}
fn led_anew(w: &mut World) {
    w.shard.step_down();
    w.shard.lead(2, 2, w.now);
    w.run();
}

/// A new leader does not know who has synced: in a sync phase everybody has to, in a stable group nobody.
#[test]
fn a_new_leader_waits_for_syncs_only_in_a_sync_phase() {
    let mut w = world();
    let (mut first, mut other) = joined_two(&mut w);
    led_anew(&mut w);
    assert_eq!(due(&w), ["session", "session", "sync"]);
    share(&mut w, &mut [&mut first, &mut other]);
    led_anew(&mut w);
    assert_eq!(due(&w), ["session", "session"]);
}

/// A group that does not exist yet, or that nobody is in any more, takes nobody who says no protocol or no strategy.
#[test]
fn who_says_no_protocol_makes_no_group() {
    for emptied in [false, true] {
        let (mut w, mut a) = (world(), client("a"));
        if emptied {
            stable(&mut w, &mut [&mut a]);
            w.ask(a.leave()).expect("it leaves");
        }
        let before = w.log.len();
        let Command::Classic(ClassicCommand::Join(j)) = client("b").join(9) else { panic!("it is a join") };
        for (protocol_type, protocols) in [("", j.protocols.clone()), ("connect", Vec::new())] {
            let join = Join { protocol_type: protocol_type.into(), protocols, ..(*j).clone() };
            assert_eq!(code(&mut w, classic(ClassicCommand::Join(Box::new(join)))), ClassicCode::InconsistentGroupProtocol, "emptied: {emptied}, type {protocol_type:?}");
        }
        assert_eq!((w.log.len(), w.shard.group(&"g".into()).is_some()), (before, emptied));
    }
}

/// Partitions that are held for a removed HTTP member are nobody's to assign: no classic group begins meanwhile.
#[test]
fn no_classic_group_begins_while_partitions_are_held() {
    let (mut w, mut h) = (world(), Model::new("h", &["t"]));
    w.join(&mut h);
    w.ask(Command::RemoveMember { member: h.id.clone() }).expect("it is a member");
    assert!(w.group().members.is_empty() && !w.group().holds.is_empty());
    let a = client("a");
    assert_eq!(code(&mut w, a.join(1)), ClassicCode::InconsistentGroupProtocol);
    w.pass(120_000);
    assert_eq!(code(&mut w, a.join(1)), ClassicCode::MemberIdRequired);
}

fn five(token: u64) -> Vec<CommitOffset> {
    vec![CommitOffset { partition: Partition::new("t", 0), token: FencingToken(token), offset: 5, metadata: String::new(), leader_epoch: None }]
}

/// What a live classic group reads is opaque: its offsets are neither deleted nor forgotten, and retention begins when the last member has gone.
#[test]
fn offsets_of_a_classic_group_stay_while_somebody_is_in_it() {
    let (mut w, mut a) = (world(), client("a"));
    w.set(baton_coordinator::config::Setting::OffsetsRetention, Some(10));
    stable(&mut w, &mut [&mut a]);
    let commit = GenerationCommit { member: a.id.clone(), instance_id: None, generation: a.generation, offsets: five(7) };
    assert!(matches!(w.ask(classic(ClassicCommand::Commit(commit))), Ok(Response::Committed(r)) if r[0].1.is_ok()));
    assert_eq!(w.group().offsets[&Partition::new("t", 0)].token, FencingToken(0), "a generation has no tokens, whatever is sent");
    let delete = || Command::DeleteOffsets { topic: "t".into() };
    assert_eq!(w.ask(delete()), Err(GroupError::NonEmptyGroup { members: 1 }));
    for _ in 0..4 * 60 {
        w.pass(5_000);
        assert_eq!(beat(&mut w, &a), Ok(()));
    }
    assert_eq!(w.group().offsets.len(), 1, "after 20 minutes in a live group");
    w.ask(a.leave()).expect("it leaves");
    // Sweeps come every ten minutes: the first finds them a little too young, counted from when the last one went, the second does not.
    w.pass(11 * 60_000);
    assert_eq!(w.group().offsets.len(), 1, "a sweep within ten minutes");
    w.pass(10 * 60_000);
    assert!(w.shard.group(&"g".into()).is_none_or(|g| g.offsets.is_empty()), "a sweep after that");
}

#[test]
fn offsets_of_an_emptied_classic_group_may_be_deleted() {
    let (mut w, mut a) = (world(), client("a"));
    stable(&mut w, &mut [&mut a]);
    let commit = GenerationCommit { member: a.id.clone(), instance_id: None, generation: a.generation, offsets: five(0) };
    w.ask(classic(ClassicCommand::Commit(commit))).expect("it is taken");
    w.ask(a.leave()).expect("it leaves");
    assert_eq!(w.ask(Command::DeleteOffsets { topic: "t".into() }), Ok(Response::OffsetsDeleted { count: 1 }));
}

/// A commit into a group that is not there is refused in the words of its version (KIP-848).
#[test]
fn a_commit_into_no_group_is_refused_as_its_version_says() {
    let mut w = world();
    let commit = |version: i16| Command::KafkaCommit(KafkaCommit { version, member: "k".into(), instance_id: None, epoch: 3, offsets: five(0) });
    assert_eq!(code(&mut w, commit(8)), ClassicCode::IllegalGeneration);
    assert!(matches!(w.ask(commit(9)), Err(GroupError::UnknownGroup { .. })));
}
