//! Classic groups, one rule per test: a small fleet of clients at one leading shard.
use baton_coordinator::{classic::*, command::*, ids::*, record::*, shard::*};
use crate::common::{Model, World};

mod again;

/// A client of the classic protocol.
#[derive(Clone, Debug, Default)]
struct Client {
    id: MemberId,
    instance: Option<InstanceId>,
    generation: i32,
    /// What it says for each strategy.
    protocols: Vec<(String, Opaque)>,
    session: u64,
    rebalance: u64,
}
fn client(name: &str) -> Client {
    let protocols = vec![("range".into(), opaque(name)), ("sticky".into(), opaque(name))];
    Client { id: "".into(), instance: None, generation: -1, protocols, session: 10_000, rebalance: 30_000 }
}
fn fixed(instance: &str) -> Client { Client { instance: Some(instance.into()), ..client(instance) } }
fn opaque(s: &str) -> Opaque { s.as_bytes().into() }
fn classic(c: ClassicCommand) -> Command { Command::Classic(c) }

impl Client {
    fn join(&self, random: u128) -> Command {
        classic(ClassicCommand::Join(Box::new(Join {
            member: self.id.clone(), instance_id: self.instance.clone(), client_id: "c".into(), client_host: "h".into(), session_timeout_ms: self.session,
            rebalance_timeout_ms: self.rebalance, protocol_type: "connect".into(), protocols: self.protocols.clone(), version: 9, random, reason: None,
        })))
    }
    fn sync(&self, assignments: &[(&Client, &str)]) -> Command {
        let assignments = assignments.iter().map(|(c, a)| (c.id.clone(), opaque(a))).collect();
        classic(ClassicCommand::Sync(Sync { member: self.id.clone(), instance_id: self.instance.clone(), generation: self.generation, assignments, ..Sync::default() }))
    }
    fn beat(&self) -> Command { classic(ClassicCommand::Heartbeat(Beat { member: self.id.clone(), instance_id: self.instance.clone(), generation: self.generation })) }
    fn leave(&self) -> Command { classic(ClassicCommand::Leave(vec![Leaver { member: self.id.clone(), instance_id: self.instance.clone(), reason: None }])) }
    fn take(&mut self, r: Result<Response, GroupError>) -> JoinedGeneration {
        let Ok(Response::Classic(ClassicAnswer::Joined(j))) = r else { panic!("a generation was expected, not {r:?}") };
        (self.id, self.generation) = (j.member.clone(), j.generation);
        *j
    }
}

fn world() -> World { World::new(&[("t", 4)]) }
fn refused(r: Result<Response, GroupError>) -> ClassicCode {
    match r {
        Err(GroupError::Classic { code, .. }) => code,
        other => panic!("a refusal was expected, not {other:?}"),
    }
}
fn code(w: &mut World, c: Command) -> ClassicCode { let r = w.ask(c); refused(r) }
fn beat(w: &mut World, c: &Client) -> Result<(), ClassicCode> {
    match w.ask(c.beat()) {
        Ok(Response::Classic(ClassicAnswer::Heartbeat)) => Ok(()),
        other => Err(refused(other)),
    }
}
fn synced(r: Result<Response, GroupError>) -> String {
    match r {
        Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. })) => String::from_utf8(assignment.0.to_vec()).expect("the test assigns text"),
        other => panic!("an assignment was expected, not {other:?}"),
    }
}
fn state(w: &World) -> &Classic { w.group().classic.as_deref().expect("it is a classic group") }
/// Sends a dynamic member's two joins; the second is held.
fn come(w: &mut World, c: &mut Client, random: u128) -> Ticket {
    if c.instance.is_none() {
        match w.ask(c.join(random)) {
            Err(GroupError::Classic { code: ClassicCode::MemberIdRequired, member: Some(m) }) => c.id = m,
            other => panic!("{other:?}"),
        }
    }
    w.send(c.join(random))
}
/// A stable group of these members; the first assigns "a", "b", …
fn stable(w: &mut World, members: &mut [&mut Client]) {
    let tickets: Vec<Ticket> = members.iter_mut().enumerate().map(|(i, c)| come(w, c, i as u128 + 1)).collect();
    w.pass(if members.len() == 1 { 3_000 } else { 6_000 });
    for (c, t) in members.iter_mut().zip(tickets) {
        let r = w.answer(t).expect("the join phase is over");
        c.take(r);
    }
    share(w, members);
}
fn share(w: &mut World, members: &mut [&mut Client]) {
    let assigning = state(w).assigning_member.clone();
    let letters: Vec<String> = (0..members.len()).map(|i| char::from(b'a' + i as u8).to_string()).collect();
    let all: Vec<(&Client, &str)> = members.iter().zip(&letters).map(|(c, l)| (&**c, &**l)).collect();
    let who = members.iter().find(|c| Some(&c.id) == assigning.as_ref()).expect("somebody assigns");
    w.ask(who.sync(&all)).expect("the assignment is taken");
    for (c, l) in &all {
        let r = w.ask(c.sync(&[]));
        assert_eq!(synced(r), *l);
    }
}

#[test]
fn a_dynamic_member_learns_its_id_before_it_is_let_in() {
    let (mut w, mut a) = (world(), client("a"));
    let t = come(&mut w, &mut a, 7);
    assert_eq!(a.id.as_str(), "c-00000000-0000-0000-0000-000000000007");
    assert!(w.answer(t).is_none(), "the join phase has just begun");
    w.pass(3_000);
    let r = w.answer(t).expect("the initial delay is over");
    let j = a.take(r);
    assert_eq!((j.generation, j.assigning_member.clone(), j.members.len(), j.protocol.as_deref()), (1, a.id.clone(), 1, Some("range")));
}

/// What the client said of its reason is in the history; nothing is added for an empty one.
#[test]
fn the_history_says_the_reason_that_a_client_gave() {
    for (reason, said) in [(Some("a new subscription"), "(a new subscription)"), (Some(""), "joined"), (None, "joined")] {
        let (mut w, a) = (world(), fixed("a"));
        let Command::Classic(ClassicCommand::Join(mut j)) = a.join(7) else { panic!("it is a join") };
        j.reason = reason.map(String::from);
        w.send(classic(ClassicCommand::Join(j)));
        let causes: Vec<&String> = w.history.values().filter(|h| h.kind == "joined").map(|h| &h.cause).collect();
        assert!(causes.len() == 1 && causes[0].ends_with(said), "{reason:?}: {causes:?}");
    }
}

/// A member that joined and never syncs is out after the rebalance timeout, also when the leader is a new one by then: what it finds is that all have yet to sync.
#[test]
fn a_new_leader_waits_for_those_that_have_yet_to_sync_as_long_as_the_old_one() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    let tickets = [come(&mut w, &mut a, 1), come(&mut w, &mut b, 2)];
    w.pass(6_000);
    for (c, t) in [&mut a, &mut b].into_iter().zip(tickets) {
        let r = w.answer(t).expect("the join phase is over");
        c.take(r);
    }
    assert_eq!(state(&w).phase, Phase::Completing);
    w.shard.lead(1, 2, w.now);
    for _ in 0..5 {
        w.pass(5_000);
        for c in [&a, &b] { let _ = w.ask(c.beat()); }
    }
    assert_eq!(state(&w).members.len(), 2, "not before the time");
    w.pass(4_999);
    assert_eq!(state(&w).members.len(), 2, "not before the time");
    w.pass(1);
    assert!(!state(&w).members.contains_key(&a.id) && !state(&w).members.contains_key(&b.id), "neither has synced: {:?}", state(&w));
}

/// Who says nothing of itself may commit only to a group that nobody is in.
#[test]
fn a_commit_without_a_member_is_refused_while_there_are_members() {
    let (mut w, mut a) = (world(), client("a"));
    stable(&mut w, &mut [&mut a]);
    let commit = |member: &str, generation| classic(ClassicCommand::Commit(GenerationCommit { member: member.into(), instance_id: None, generation, offsets: Vec::new() }));
    assert_eq!(code(&mut w, commit("", -1)), ClassicCode::UnknownMemberId);
    assert_eq!(code(&mut w, commit("", 0)), ClassicCode::UnknownMemberId);
    assert_eq!(code(&mut w, commit(a.id.as_str(), a.generation + 1)), ClassicCode::IllegalGeneration);
    assert!(w.ask(commit(a.id.as_str(), a.generation)).is_ok());
    w.ask(a.leave()).expect("it leaves");
    assert!(w.ask(commit("", -1)).is_ok());
}

#[test]
fn an_id_that_does_not_come_back_is_forgotten_after_its_session() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    stable(&mut w, &mut [&mut a]);
    let t = w.send(b.join(9));
    let Some(Err(GroupError::Classic { member: Some(id), .. })) = w.answer(t) else { panic!() };
    w.pass(5_000);
    beat(&mut w, &a).unwrap();
    w.pass(5_000);
    b.id = id;
    assert_eq!(code(&mut w, b.join(9)), ClassicCode::UnknownMemberId);
}

#[test]
fn each_newcomer_extends_the_initial_delay_up_to_the_rebalance_timeout() {
    let (mut w, mut a, mut b) = (world(), Client { rebalance: 5_000, ..client("a") }, Client { rebalance: 5_000, ..client("b") });
    let first = come(&mut w, &mut a, 1);
    w.pass(2_900);
    let second = come(&mut w, &mut b, 2);
    w.pass(2_000); // 4.9 s: 3 s of delay, then 2 s more
    assert!(w.answer(first).is_none());
    w.pass(100);
    assert!(w.answer(first).is_some() && w.answer(second).is_some());
}

#[test]
fn the_strategy_is_the_first_common_one_by_votes_of_all_members() {
    let (mut w, mut a, mut b, mut c) = (world(), client("a"), client("b"), client("c"));
    let order = |names: &[&str]| names.iter().map(|n| (n.to_string(), opaque(n))).collect::<Vec<_>>();
    (a.protocols, b.protocols, c.protocols) = (order(&["own", "range", "sticky"]), order(&["sticky", "range"]), order(&["sticky", "range", "other"]));
    stable(&mut w, &mut [&mut a, &mut b, &mut c]);
    assert_eq!(state(&w).protocol.as_deref(), Some("sticky"), "own and other are not common; two of three vote for sticky");
    let mut d = Client { protocols: order(&["other"]), ..client("d") };
    assert_eq!(code(&mut w, d.join(8)), ClassicCode::InconsistentGroupProtocol);
    d.protocols = Vec::new();
    assert_eq!(code(&mut w, d.join(8)), ClassicCode::InconsistentGroupProtocol);
}

#[test]
fn only_the_assigning_member_gets_the_list_with_what_each_said() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    let (ta, tb) = (come(&mut w, &mut a, 1), come(&mut w, &mut b, 2));
    w.pass(9_000);
    let (ra, rb) = (w.answer(ta).unwrap(), w.answer(tb).unwrap());
    let (ja, jb) = (a.take(ra), b.take(rb));
    assert_eq!(ja.members.iter().map(|m| m.metadata.clone()).collect::<Vec<_>>(), vec![opaque("a"), opaque("b")]);
    assert!(jb.members.is_empty() && jb.assigning_member == a.id);
}

#[test]
fn a_sync_waits_for_the_assignment_and_gets_its_part() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    let (ta, tb) = (come(&mut w, &mut a, 1), come(&mut w, &mut b, 2));
    w.pass(9_000);
    let (ra, rb) = (w.answer(ta).unwrap(), w.answer(tb).unwrap());
    a.take(ra);
    b.take(rb);
    let held = w.send(b.sync(&[(&a, "forged")]));
    assert!(w.answer(held).is_none(), "who does not assign waits, whatever it brings");
    let r = w.ask(a.sync(&[(&a, "x"), (&client("nobody"), "z")]));
    assert_eq!(synced(r), "x");
    assert_eq!(synced(w.answer(held).unwrap()), "", "who is not named has nothing");
    let r = w.ask(b.sync(&[]));
    assert_eq!(synced(r), "");
}

#[test]
fn a_rebalance_calls_everybody_and_drops_who_does_not_come() {
    let (mut w, mut a, mut b, mut c) = (world(), client("a"), client("b"), client("c"));
    stable(&mut w, &mut [&mut a, &mut b]);
    let tc = come(&mut w, &mut c, 3);
    assert_eq!((beat(&mut w, &a), beat(&mut w, &b)), (Err(ClassicCode::RebalanceInProgress), Err(ClassicCode::RebalanceInProgress)));
    let ta = w.send(a.join(0));
    for _ in 0..3 {
        w.pass(9_990);
        assert_eq!(beat(&mut w, &b), Err(ClassicCode::RebalanceInProgress), "it lives, it only does not come");
        assert!(w.answer(tc).is_none());
    }
    w.pass(30);
    let (ra, rc) = (w.answer(ta).unwrap(), w.answer(tc).unwrap());
    assert_eq!((a.take(ra).members.len(), c.take(rc).generation), (2, 2));
    assert_eq!(beat(&mut w, &b), Err(ClassicCode::UnknownMemberId));
}

#[test]
fn the_loss_of_the_assigning_member_makes_another_one_assign() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    stable(&mut w, &mut [&mut a, &mut b]);
    w.ask(a.leave()).unwrap();
    assert_eq!(state(&w).assigning_member.as_ref(), Some(&b.id));
    let t = w.send(b.join(0));
    let r = w.answer(t).expect("all that are left have joined");
    assert_eq!(b.take(r).members.len(), 1);
}

#[test]
fn a_session_ends_to_the_millisecond_and_heartbeats_and_commits_renew_it() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    stable(&mut w, &mut [&mut a, &mut b]);
    w.pass(5_000);
    beat(&mut w, &a).unwrap();
    let offset = CommitOffset { partition: Partition::new("t", 0), token: FencingToken(0), offset: 5, metadata: String::new(), leader_epoch: None };
    let commit = GenerationCommit { member: b.id.clone(), instance_id: None, generation: b.generation, offsets: vec![offset] };
    w.ask(classic(ClassicCommand::Commit(commit.clone()))).unwrap();
    w.pass(9_999);
    assert_eq!(state(&w).members.len(), 2);
    beat(&mut w, &a).unwrap();
    w.pass(1);
    assert_eq!(state(&w).members.keys().collect::<Vec<_>>(), vec![&a.id]);
    assert_eq!(code(&mut w, classic(ClassicCommand::Commit(commit))), ClassicCode::UnknownMemberId);
}

#[test]
fn who_does_not_sync_within_the_rebalance_timeout_is_out() {
    let (mut w, mut a, mut b) = (world(), Client { session: 60_000, ..client("a") }, Client { session: 60_000, ..client("b") });
    let (ta, tb) = (come(&mut w, &mut a, 1), come(&mut w, &mut b, 2));
    w.pass(9_000);
    let (ra, rb) = (w.answer(ta).unwrap(), w.answer(tb).unwrap());
    a.take(ra);
    b.take(rb);
    w.ask(a.sync(&[(&a, "x"), (&b, "y")])).unwrap();
    let left = 30_000 - (w.now.mono_ms - 1_000 - 6_000);
    w.pass(left - 1);
    assert_eq!(state(&w).members.len(), 2);
    w.pass(1);
    assert_eq!((state(&w).members.len(), state(&w).phase), (1, Phase::Preparing));
}

#[test]
fn generations_ids_and_instances_are_checked_on_every_request() {
    let (mut w, mut a, mut s) = (world(), client("a"), fixed("i"));
    stable(&mut w, &mut [&mut a, &mut s]);
    let older = Client { generation: a.generation - 1, ..a.clone() };
    assert_eq!(beat(&mut w, &older), Err(ClassicCode::IllegalGeneration));
    assert_eq!(code(&mut w, older.sync(&[])), ClassicCode::IllegalGeneration);
    let nobody = Client { id: "nobody".into(), ..a.clone() };
    assert_eq!(beat(&mut w, &nobody), Err(ClassicCode::UnknownMemberId));
    assert_eq!(code(&mut w, nobody.join(0)), ClassicCode::UnknownMemberId);
    let wrong = Client { id: "i-old".into(), ..s.clone() };
    assert_eq!((beat(&mut w, &wrong), code(&mut w, wrong.join(0))), (Err(ClassicCode::FencedInstanceId), ClassicCode::FencedInstanceId));
    let mut other = a.clone();
    other.session = 5_999;
    assert_eq!(code(&mut w, other.join(0)), ClassicCode::InvalidSessionTimeout);
    other.session = 1_800_001;
    assert_eq!(code(&mut w, other.join(0)), ClassicCode::InvalidSessionTimeout);
    let type_of_another = Sync { member: a.id.clone(), generation: a.generation, protocol_type: Some("consumer".into()), ..Sync::default() };
    assert_eq!(code(&mut w, classic(ClassicCommand::Sync(type_of_another))), ClassicCode::InconsistentGroupProtocol);
}

#[test]
fn a_static_member_that_says_the_same_comes_back_without_a_rebalance_and_fences_its_old_process() {
    let (mut w, mut s, mut a) = (world(), fixed("i"), client("a"));
    stable(&mut w, &mut [&mut s, &mut a]);
    let old = s.clone();
    s.id = "".into();
    let r = w.ask(s.join(99));
    let j = s.take(r);
    assert_eq!((j.generation, j.skip_assignment, j.members.len(), &j.assigning_member), (old.generation, true, 2, &s.id));
    assert_ne!(s.id, old.id);
    assert_eq!((beat(&mut w, &old), beat(&mut w, &s), beat(&mut w, &a)), (Err(ClassicCode::FencedInstanceId), Ok(()), Ok(())));
    let r = w.ask(s.sync(&[]));
    assert_eq!(synced(r), "a", "it takes over the assignment");
    // One whose strategies change the group's rebalances it.
    let mut changed = Client { id: "".into(), protocols: vec![("sticky".into(), opaque("i"))], ..s.clone() };
    let t = w.send(changed.join(100));
    assert!(w.answer(t).is_none() && state(&w).phase == Phase::Preparing);
    let ta = w.send(a.join(0));
    let (rs, ra) = (w.answer(t).unwrap(), w.answer(ta).unwrap());
    assert_eq!((changed.take(rs).generation, a.take(ra).protocol.as_deref()), (2, Some("sticky")));
}

#[test]
fn a_static_member_is_removed_by_its_instance_id_and_a_batch_is_one_rebalance() {
    let (mut w, mut s, mut a, mut b) = (world(), fixed("i"), client("a"), client("b"));
    stable(&mut w, &mut [&mut s, &mut a, &mut b]);
    let leaver = |m: &str, i: Option<&str>| Leaver { member: m.into(), instance_id: i.map(InstanceId::from), reason: Some("scaled down".into()) };
    let r = w.ask(classic(ClassicCommand::Leave(vec![leaver("", Some("i")), leaver("nobody", None), leaver(a.id.as_str(), None), leaver("x", Some("i"))])));
    let Ok(Response::Classic(ClassicAnswer::Left(results))) = r else { panic!("{r:?}") };
    let codes: Vec<_> = results.into_iter().map(|(_, r)| r).collect();
    assert_eq!(codes, vec![Ok(()), Err(ClassicCode::UnknownMemberId), Ok(()), Err(ClassicCode::UnknownMemberId)]);
    let preparing = w.log.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records).filter(|r| matches!(r, Record::Classic(c) if **c == ClassicRecord::Preparing)).count();
    assert_eq!((preparing, state(&w).members.len()), (2, 1), "the first rebalance, and one for the whole batch");
}

#[test]
fn a_group_is_as_large_as_its_limit_allows() {
    let mut limits = baton_coordinator::config::Limits::default();
    limits.classic.members_max = 1;
    let (mut w, mut a, b) = (world(), client("a"), client("b"));
    w.shard = Shard::new(1, limits);
    w.shard.lead(1, 1, w.now);
    stable(&mut w, &mut [&mut a]);
    assert_eq!(code(&mut w, b.join(5)), ClassicCode::GroupMaxSizeReached);
    assert_eq!(beat(&mut w, &a), Ok(()));
}

#[test]
fn no_answer_leaves_before_what_it_tells_is_committed() {
    let (mut w, mut a) = (world(), client("a"));
    w.auto_commit = false;
    let first = w.send(a.join(1));
    assert!(w.answer(first).is_none(), "the group is not in the log yet");
    w.commit();
    w.run();
    let Some(Err(GroupError::Classic { member: Some(id), .. })) = w.answer(first) else { panic!() };
    a.id = id;
    let joining = w.send(a.join(1));
    w.commit();
    w.run();
    w.pass(3_000);
    assert!(w.answer(joining).is_none(), "the generation is not committed");
    w.pass(500);
    w.commit();
    w.run();
    let r = w.answer(joining).expect("committed");
    a.take(r);
    // The session runs from the answer on, not from the decision half a second before.
    let held = w.send(a.sync(&[(&a, "x")]));
    assert!(w.answer(held).is_none());
    w.commit();
    w.run();
    assert_eq!(synced(w.answer(held).unwrap()), "x");
    let beating = w.send(a.beat());
    assert!(w.answer(beating).is_some(), "steady heartbeats need no log");
    let next = w.send(a.join(0));
    let behind = w.send(a.beat());
    assert!(w.answer(behind).is_none(), "a batch of the group is in flight");
    w.commit();
    w.run();
    assert!(w.answer(next).is_some() && w.answer(behind).is_some());
}

#[test]
fn a_new_leader_asks_for_the_rebalance_again_and_gives_everybody_a_full_session() {
    let (mut w, mut a, mut b, mut c) = (world(), client("a"), client("b"), client("c"));
    stable(&mut w, &mut [&mut a, &mut b]);
    let tc = come(&mut w, &mut c, 3);
    let ta = w.send(a.join(0));
    w.pass(9_000);
    beat(&mut w, &b).unwrap_err();
    let mut next = Shard::restore(1, Default::default(), &w.shard.snapshot()).expect("the snapshot is read");
    w.shard.step_down();
    w.run();
    for t in [ta, tc] {
        assert!(matches!(w.answer(t), Some(Err(GroupError::Unavailable { .. }))), "who waited is told to try again");
    }
    next.lead(2, 2, w.now);
    w.shard = next;
    w.pass(9_999);
    assert_eq!(state(&w).members.len(), 3, "every session began anew");
    assert_eq!((beat(&mut w, &a), beat(&mut w, &b)), (Err(ClassicCode::RebalanceInProgress), Err(ClassicCode::RebalanceInProgress)));
    // A member that had joined at the old leader is known to the new one.
    let (ta, tb, tc) = (w.send(a.join(0)), w.send(b.join(0)), w.send(c.join(0)));
    let (ra, rb, rc) = (w.answer(ta).unwrap(), w.answer(tb).unwrap(), w.answer(tc).unwrap());
    assert_eq!((a.take(ra).generation, b.take(rb).generation, c.take(rc).generation), (2, 2, 2));
    share(&mut w, &mut [&mut a, &mut b, &mut c]);
}

#[test]
fn a_new_leader_in_the_sync_phase_lets_the_assigning_member_assign_anew() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    let (ta, tb) = (come(&mut w, &mut a, 1), come(&mut w, &mut b, 2));
    w.pass(9_000);
    let (ra, rb) = (w.answer(ta).unwrap(), w.answer(tb).unwrap());
    a.take(ra);
    b.take(rb);
    let held = w.send(b.sync(&[]));
    let mut next = Shard::restore(1, Default::default(), &w.shard.snapshot()).unwrap();
    w.shard.step_down();
    w.run();
    assert!(matches!(w.answer(held), Some(Err(GroupError::Unavailable { .. }))));
    next.lead(2, 2, w.now);
    w.shard = next;
    let r = w.ask(a.join(0));
    assert_eq!(a.take(r).members.len(), 2, "the same generation, for who missed its answer");
    share(&mut w, &mut [&mut a, &mut b]);
    assert_eq!(state(&w).generation, 1);
}

#[test]
fn a_lost_batch_takes_what_was_decided_with_it() {
    let (mut w, mut a, mut b) = (world(), client("a"), client("b"));
    stable(&mut w, &mut [&mut a]);
    let t = w.send(b.join(2));
    let Some(Err(GroupError::Classic { member: Some(id), .. })) = w.answer(t) else { panic!() };
    b.id = id;
    w.auto_commit = false;
    let joining = w.send(b.join(2));
    let mut lost = w.log.pop().expect("the join was proposed");
    // Another entry is in its place: it was decided on another state.
    let other = LogEntry { node: 9, term: 1, base_sequence: lost.base_sequence, ..LogEntry::default() };
    w.shard.replay(&other);
    lost.node = 1;
    w.shard.replay(&lost);
    w.run();
    assert!(matches!(w.answer(joining), Some(Err(GroupError::Unavailable { .. }))), "it is told to try again");
    assert_eq!(state(&w).members.len(), 1);
    assert_eq!(beat(&mut w, &a), Ok(()), "and the group goes on as it was");
}

/// Core simulation, seed 3844: the lease lapsed while the batch of the first join was in flight, all timers began anew, and those of the batch were gone: the
/// join phase never ended, and its member never expired.
#[test]
fn a_lapse_while_a_join_is_in_flight_loses_neither_the_join_phase_nor_the_session() {
    let (mut w, mut a) = (world(), client("a"));
    if let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(a.join(1)) { a.id = id }
    w.auto_commit = false;
    let joining = w.send(a.join(1));
    assert!(w.shard.group(&"g".into()).is_none_or(|g| g.classic.as_ref().is_none_or(|c| c.members.is_empty())), "its batch is in flight");
    w.shard.lead(1, 1, w.now);
    w.commit();
    w.auto_commit = true;
    w.run();
    w.pass(3_000);
    let r = w.answer(joining).expect("the join phase has ended");
    a.take(r);
    share(&mut w, &mut [&mut a]);
    w.pass(60_000);
    assert!(state(&w).members.is_empty(), "nobody has heard of it since");
}

#[test]
fn a_member_of_the_other_protocol_finds_a_classic_group_taken_until_it_is_empty() {
    let (mut w, mut a) = (world(), client("a"));
    stable(&mut w, &mut [&mut a]);
    let mut m = Model::new("m", &["t"]);
    assert!(matches!(w.beat(m.join_request()), Err(GroupError::NotConvertible { .. })), "a group of another kind than consumers is never converted");
    assert!(matches!(w.ask(Command::DeleteGroup { force: true }), Err(GroupError::NonEmptyGroup { members: 1 })));
    w.ask(a.leave()).unwrap();
    w.join(&mut m);
    assert!(w.group().classic.is_none() && w.group().members.len() == 1);
    assert_eq!(code(&mut w, client("b").join(4)), ClassicCode::InconsistentGroupProtocol);
    w.ask(m.leave_request()).unwrap();
    let t = w.send(client("b").join(4));
    assert_eq!(refused(w.answer(t).unwrap()), ClassicCode::MemberIdRequired);
}
