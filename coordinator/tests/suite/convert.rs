//! Classic and consumer members in one group: conversions while members are in, one rule per test.
use baton_coordinator::{classic::*, command::*, config::Limits, embedded::*, ids::*, record::*, shard::*, state::Member};
use crate::common::{Model, World, set};
use std::collections::BTreeSet;

/// A classic consumer client that rebalances as it is told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client {
    pub id: MemberId,
    pub instance: Option<InstanceId>,
    pub generation: i32,
    pub owned: BTreeSet<Partition>,
    pub kind: &'static str,
    pub strategies: Vec<&'static str>,
    pub random: u128,
}
pub(crate) fn client(random: u128) -> Client { Client { generation: -1, kind: "consumer", strategies: vec!["range"], random, ..Client::default() } }
impl Client {
    pub fn join(&self) -> Command {
        let said = Subscription { topics: vec!["t".into()], owned: self.owned.iter().cloned().collect(), generation: self.generation, ..Subscription::default() };
        let said = Opaque::from(said.encode(3).expect("it is short"));
        Command::Classic(ClassicCommand::Join(Box::new(Join {
            member: self.id.clone(), instance_id: self.instance.clone(), client_id: "c".into(), client_host: "h".into(), session_timeout_ms: 10_000, rebalance_timeout_ms: 20_000,
            protocol_type: self.kind.into(), protocols: self.strategies.iter().map(|s| (s.to_string(), said.clone())).collect(), version: 9, random: self.random, reason: None,
        })))
    }
    pub fn sync(&self, assignments: &[(&Client, &[i32], Option<&str>)]) -> Command {
        let given = |ps: &[i32], data: Option<&str>| Assigned { partitions: ps.iter().map(|p| Partition::new("t", *p)).collect(), user_data: data.map(|d| d.as_bytes().to_vec()) }.encode(3).expect("it is short");
        let assignments = assignments.iter().map(|(c, ps, data)| (c.id.clone(), given(ps, *data).into())).collect();
        Command::Classic(ClassicCommand::Sync(Sync { member: self.id.clone(), instance_id: self.instance.clone(), generation: self.generation, assignments, ..Sync::default() }))
    }
    pub fn beat(&self) -> Command { Command::Classic(ClassicCommand::Heartbeat(Beat { member: self.id.clone(), instance_id: self.instance.clone(), generation: self.generation })) }
    pub fn leave(&self) -> Command { Command::Classic(ClassicCommand::Leave(vec![Leaver { member: self.id.clone(), instance_id: self.instance.clone(), reason: None }])) }
    pub fn take(&mut self, r: Result<Response, GroupError>) {
        let Ok(Response::Classic(ClassicAnswer::Joined(j))) = r else { panic!("a generation was expected, not {r:?}") };
        (self.id, self.generation) = (j.member.clone(), j.generation);
    }
    /// Joins a consumer group again, syncs, and owns what it is given: what a client does that is called to join.
    pub fn rejoin(&mut self, w: &mut World) {
        let r = w.ask(self.join());
        self.take(r);
        let Ok(Response::Classic(ClassicAnswer::Synced { assignment, .. })) = w.ask(self.sync(&[])) else { panic!("it has just joined") };
        self.owned = Assigned::decode(&assignment.0).expect("it can be read").partitions.into_iter().collect();
    }
}
pub(crate) fn hb(m: &str, epoch: Epoch, owned: Option<&[i32]>) -> Command {
    let first = epoch == 0;
    let owned = owned.map(|ps| if ps.is_empty() { Default::default() } else { [(1_000, ps.iter().copied().collect())].into() });
    Command::Consumer(Box::new(ConsumerHeartbeat {
        version: 1, member: m.into(), epoch, rebalance_timeout_ms: if first { 20_000 } else { -1 }, subscribed_topics: first.then(|| ["t".into()].into()), owned, ..ConsumerHeartbeat::default()
    }))
}
pub(crate) fn consumer(w: &mut World, m: &str, epoch: Epoch, owned: Option<&[i32]>) -> ConsumerView {
    match w.ask(hb(m, epoch, owned)) {
        Ok(Response::Consumer(v)) => v,
        other => panic!("{other:?}"),
    }
}
pub(crate) fn code(w: &mut World, c: Command) -> &'static str {
    match w.ask(c) {
        Err(e) => e.kafka().name,
        Ok(_) => "NONE",
    }
}
pub(crate) fn world(change: impl FnOnce(&mut Limits)) -> World {
    let mut w = World::new(&[("t", 4)]);
    let mut limits = Limits::default();
    limits.classic.initial_rebalance_delay_ms = 0;
    change(&mut limits);
    w.shard = Shard::new(1, limits);
    w.shard.lead(1, 1, w.now);
    w.shard.metadata(std::sync::Arc::new(w.meta.clone()), w.now);
    w.set(baton_coordinator::config::Setting::AssignmentInterval, Some(0));
    w
}
/// A stable classic group of these clients; the first assigns.
pub(crate) fn stable(w: &mut World, members: &mut [&mut Client], shares: &[&[i32]]) {
    let mut tickets = Vec::new();
    for c in members.iter_mut() {
        if c.instance.is_none() {
            match w.ask(c.join()) {
                Err(GroupError::Classic { code: ClassicCode::MemberIdRequired, member: Some(m) }) => c.id = m,
                other => panic!("{other:?}"),
            }
        }
        tickets.push(w.send(c.join()));
    }
    w.pass(1);
    for (c, t) in members.iter_mut().zip(tickets) {
        let r = w.answer(t).expect("the join phase is over");
        c.take(r);
    }
    let all: Vec<(&Client, &[i32], Option<&str>)> = members.iter().zip(shares).map(|(c, s)| (&**c, *s, None)).collect();
    w.ask(members[0].sync(&all)).expect("the first joined first, so it assigns");
    for (c, s) in members.iter_mut().zip(shares) {
        w.ask(c.sync(&[])).expect("the assignment is there");
        c.owned = s.iter().map(|p| Partition::new("t", *p)).collect();
    }
}
pub(crate) fn member<'a>(w: &'a World, id: &MemberId) -> &'a Member { &w.group().members[id] }
pub(crate) fn assigned(w: &World, id: &MemberId) -> BTreeSet<Partition> { member(w, id).assigned.keys().cloned().collect() }

#[test]
fn the_first_consumer_member_converts_the_group_and_everybody_moves_one_by_one() {
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), client(2));
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    let v = consumer(&mut w, "m", 0, Some(&[]));
    assert_eq!((v.epoch, v.assignment), (2, Some(Default::default())), "nothing is free yet");
    assert_eq!((w.group().epoch, assigned(&w, &a.id), assigned(&w, &b.id)), (2, set(&[("t", 0), ("t", 1)]), set(&[("t", 2), ("t", 3)])));
    assert_eq!((code(&mut w, a.beat()), code(&mut w, b.beat())), ("REBALANCE_IN_PROGRESS", "REBALANCE_IN_PROGRESS"));
    // They join and sync until nobody is called any more: giving back is one join, going on another.
    for _ in 0..6 {
        for c in [&mut a, &mut b] {
            if code(&mut w, c.beat()) == "REBALANCE_IN_PROGRESS" {
                c.rejoin(&mut w);
            }
        }
        let have: Vec<i32> = assigned(&w, &"m".into()).iter().map(|p| p.partition).collect();
        consumer(&mut w, "m", 2, Some(&have));
    }
    assert_eq!(w.group().state(), GroupState::Stable);
    assert_eq!((code(&mut w, a.beat()), code(&mut w, b.beat())), ("NONE", "NONE"));
    let all: BTreeSet<Partition> = a.owned.iter().chain(&b.owned).cloned().chain(assigned(&w, &"m".into())).collect();
    assert_eq!((all.len(), assigned(&w, &"m".into()).len()), (4, 1), "{:#?}", w.group());
    assert_eq!((a.generation, b.generation), (2, 2), "the epoch is the generation");
}

#[test]
fn whoever_waits_in_the_classic_group_is_called_to_join_again() {
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), client(2));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(b.join()) else { panic!() };
    b.id = id;
    let held = w.send(b.join());
    consumer(&mut w, "m", 0, Some(&[]));
    assert!(matches!(w.answer(held), Some(Err(GroupError::Classic { code: ClassicCode::RebalanceInProgress, .. }))));
    assert!(member(&w, &b.id).assigned.is_empty() && assigned(&w, &a.id).len() == 4, "what was assigned last stays until it is given back");
    b.rejoin(&mut w);
    assert_eq!(b.generation, 2);
}

#[test]
fn a_group_that_cannot_be_converted_says_why_and_stays() {
    let refused = |w: &mut World, why: &str| match w.ask(hb("m", 0, Some(&[]))) {
        Err(e @ GroupError::NotConvertible { .. }) => assert!(e.to_string().contains(why) && e.kafka().name == "GROUP_ID_NOT_FOUND", "{e}"),
        other => panic!("{other:?}"),
    };
    for (migration, allowed) in [(Migration::Disabled, false), (Migration::Downgrade, false), (Migration::Upgrade, true)] {
        let (mut w, mut a) = (world(|l| l.classic.migration = migration), client(1));
        stable(&mut w, &mut [&mut a], &[&[0]]);
        if allowed { consumer(&mut w, "m", 0, Some(&[])); } else { refused(&mut w, "migration.policy") }
    }
    let (mut w, mut connect) = (world(|_| {}), Client { kind: "connect", ..client(1) });
    stable(&mut w, &mut [&mut connect], &[&[0]]);
    refused(&mut w, "protocol type is \"connect\"");
    assert_eq!(code(&mut w, hb("m", 3, None)), "GROUP_ID_NOT_FOUND", "a heartbeat that is no join converts nothing");
    assert_eq!(code(&mut w, connect.beat()), "NONE");
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0]]);
    w.ask(a.join()).map(drop).expect("it assigns, and is alone");
    a.generation += 1;
    let own = a.clone();
    w.ask(a.sync(&[(&own, &[0], Some("what only its assignor understands"))])).unwrap();
    refused(&mut w, "user data of a custom assignor");
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), client(2));
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[1]]);
    refused(&mut w, "t:1 is assigned to");
    let (mut w, mut a, mut b) = (world(|l| l.members_max = 1), client(1), client(2));
    stable(&mut w, &mut [&mut a, &mut b], &[&[0], &[1]]);
    refused(&mut w, "more members than");
}

#[test]
fn the_last_consumer_member_that_leaves_or_expires_makes_it_a_classic_group_again() {
    for leaves in [true, false] {
        let (mut w, mut a) = (world(|_| {}), client(1));
        consumer(&mut w, "m", 0, Some(&[]));
        let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(a.join()) else { panic!() };
        a.id = id;
        a.rejoin(&mut w);
        if leaves {
            w.ask(hb("m", -1, None)).unwrap();
        } else {
            for _ in 0..3 {
                w.pass(5_000);
                let _ = w.ask(a.beat()); // it lives
            }
        }
        let c = w.group().classic.as_deref().expect("it is a classic group");
        assert_eq!((c.phase, c.protocol.as_deref(), c.protocol_type.as_deref(), c.assigning_member.as_ref()), (Phase::Preparing, Some("range"), Some("consumer"), Some(&a.id)));
        assert_eq!(c.generation, w.group().epoch);
        // Called to a rebalance, it assigns for itself from now on; nobody is expired for the conversion.
        let r = w.ask(a.join());
        let before = c_generation(&w);
        a.take(r);
        assert_eq!(a.generation, before);
        let own = a.clone();
        w.ask(a.sync(&[(&own, &[0, 1, 2, 3], None)])).unwrap();
        assert_eq!(code(&mut w, a.beat()), "NONE");
        w.pass(9_999);
        assert_eq!(w.group().members_count(), 1);
        w.pass(1);
        assert_eq!(w.group().members_count(), 0, "its session is a classic one's");
    }
}
fn c_generation(w: &World) -> i32 { w.group().classic.as_ref().map_or(-1, |c| c.generation) }

#[test]
fn a_group_that_holds_partitions_of_an_http_member_is_not_converted_until_they_are_free() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    let mut m = Model::new("m", &["t"]);
    w.join(&mut m);
    let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(a.join()) else { panic!() };
    a.id = id;
    a.rejoin(&mut w);
    w.ask(Command::RemoveMember { member: "m".into() }).unwrap();
    assert!(w.group().classic.is_none() && w.group().holds.len() == 4, "it may still be working");
    assert!(matches!(w.ask(Command::DeleteGroup { force: false }), Err(GroupError::NonEmptyGroup { .. })));
    for _ in 0..5 {
        w.pass(3_000);
        let _ = w.ask(a.beat());
        if code(&mut w, a.beat()) == "REBALANCE_IN_PROGRESS" && w.group().classic.is_none() {
            a.rejoin(&mut w);
            assert!(a.owned.is_empty() || w.group().holds.is_empty(), "what is held is nobody else's");
        }
    }
    assert!(w.group().classic.is_some() && w.group().holds.is_empty(), "{:#?}", w.group());
}

#[test]
fn the_policy_decides_about_the_way_back_too() {
    for (migration, classic_again) in [(Migration::Bidirectional, true), (Migration::Downgrade, true), (Migration::Upgrade, false)] {
        let (mut w, mut a) = (world(|l| l.classic.migration = migration), client(1));
        if migration == Migration::Downgrade {
            consumer(&mut w, "m", 0, Some(&[]));
            let Err(GroupError::Classic { member: Some(id), .. }) = w.ask(a.join()) else { panic!() };
            a.id = id;
            a.rejoin(&mut w);
        } else {
            stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
            consumer(&mut w, "m", 0, Some(&[]));
        }
        w.ask(hb("m", -1, None)).unwrap();
        assert_eq!(w.group().classic.is_some(), classic_again, "{migration:?}");
    }
    let (mut w, a) = (world(|l| l.classic.migration = Migration::Disabled), client(1));
    consumer(&mut w, "m", 0, Some(&[]));
    assert_eq!(code(&mut w, a.join()), "INCONSISTENT_GROUP_PROTOCOL", "it could never be a classic group again");
    let (mut w, a) = (world(|l| l.classic.migration = Migration::Upgrade), client(1));
    consumer(&mut w, "m", 0, Some(&[]));
    assert_eq!(code(&mut w, a.join()), "MEMBER_ID_REQUIRED", "only a policy that forbids both ways keeps it out (Kafka 4.3)");
}

#[test]
fn who_is_called_has_its_rebalance_timeout_to_join_and_then_to_sync() {
    for syncs_late in [false, true] {
        let (mut w, mut a) = (world(|_| {}), client(1));
        stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
        consumer(&mut w, "m", 0, Some(&[]));
        assert_eq!(code(&mut w, a.beat()), "REBALANCE_IN_PROGRESS");
        if syncs_late {
            w.pass(5_000);
            let r = w.ask(a.join());
            a.take(r);
        }
        let left = |w: &mut World, a: &Client, ms: u64| {
            for _ in 0..ms / 5_000 {
                w.pass(5_000);
                let _ = w.ask(a.beat());
                let have: Vec<i32> = assigned(w, &"m".into()).iter().map(|p| p.partition).collect();
                let epoch = member(w, &"m".into()).epoch;
                consumer(w, "m", epoch, Some(&have));
            }
        };
        left(&mut w, &a, 15_000);
        w.pass(4_999);
        assert!(w.group().members.contains_key(&a.id), "its heartbeats keep its session");
        w.pass(1);
        assert!(!w.group().members.contains_key(&a.id), "it was to {} in 20 s", if syncs_late { "sync" } else { "join" });
        assert_eq!(assigned(&w, &"m".into()).len(), 0);
        let epoch = member(&w, &"m".into()).epoch;
        assert_eq!(consumer(&mut w, "m", epoch, Some(&[])).assignment.map(|a| a[&1_000].len()), Some(4), "what it had is free at once");
    }
}

#[test]
fn classic_requests_in_a_consumer_group_are_checked() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    consumer(&mut w, "m", 0, Some(&[]));
    let with = |change: fn(&mut Client)| { let mut c = a.clone(); change(&mut c); c };
    assert_eq!(code(&mut w, with(|c| c.generation = 9).beat()), "ILLEGAL_GENERATION");
    assert_eq!(code(&mut w, with(|c| c.generation = 9).sync(&[])), "ILLEGAL_GENERATION");
    assert_eq!(code(&mut w, a.sync(&[])), "REBALANCE_IN_PROGRESS");
    assert_eq!(code(&mut w, with(|c| c.id = "x".into()).beat()), "UNKNOWN_MEMBER_ID");
    assert_eq!(code(&mut w, with(|c| c.id = "m".into()).beat()), "UNKNOWN_MEMBER_ID", "a consumer member does not speak the classic protocol");
    assert_eq!(code(&mut w, with(|c| c.instance = Some("i".into())).beat()), "UNKNOWN_MEMBER_ID");
    assert_eq!(code(&mut w, with(|c| c.strategies = vec!["other"]).join()), "INCONSISTENT_GROUP_PROTOCOL");
    assert_eq!(code(&mut w, with(|c| c.kind = "connect").join()), "INCONSISTENT_GROUP_PROTOCOL");
    let commit = |epoch, p| Command::KafkaCommit(KafkaCommit {
        version: 8, member: a.id.clone(), instance_id: None, epoch,
        offsets: vec![CommitOffset { partition: Partition::new("t", p), token: FencingToken(0), offset: 7, metadata: String::new(), leader_epoch: None }],
    });
    assert_eq!(code(&mut w, commit(1, 0)), "NONE");
    assert_eq!(code(&mut w, commit(5, 0)), "ILLEGAL_GENERATION");
    let r = w.ask(a.leave());
    assert!(matches!(r, Ok(Response::Classic(ClassicAnswer::Left(results))) if results[0].1.is_ok()));
    assert!(!w.group().members.contains_key(&a.id));
}

#[test]
fn a_static_member_changes_its_protocol_in_its_place() {
    let (mut w, mut s) = (world(|_| {}), Client { instance: Some("i".into()), ..client(1) });
    stable(&mut w, &mut [&mut s], &[&[0, 1, 2, 3]]);
    // The same instance comes back as a consumer member: the group is converted, and the place is its.
    let upgrade = |epoch, m: &str| match hb(m, epoch, Some(&[])) {
        Command::Consumer(h) => Command::Consumer(Box::new(ConsumerHeartbeat { instance_id: Some("i".into()), ..*h })),
        _ => unreachable!(),
    };
    let Ok(Response::Consumer(v)) = w.ask(upgrade(0, "m")) else { panic!() };
    assert_eq!((v.assignment.map(|a| a[&1_000].len()), w.group().members.len()), (Some(4), 1), "it takes over what its place has");
    assert!(w.group().members.values().all(|m| m.classic.is_none()));
    assert_eq!(code(&mut w, s.beat()), "FENCED_INSTANCE_ID");
    // And back: the last consumer member is replaced by a classic one, which assigns from the next rebalance on.
    let mut back = Client { id: "".into(), generation: -1, owned: BTreeSet::new(), ..s.clone() };
    let r = w.ask(back.join());
    back.take(r);
    let c = w.group().classic.as_deref().expect("nobody else is in");
    assert_eq!((c.phase, c.statics.get(&InstanceId::from("i"))), (Phase::Stable, Some(&back.id)));
}

#[test]
fn a_conversion_survives_a_leader_change_with_full_sessions() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    consumer(&mut w, "m", 0, Some(&[]));
    w.pass(9_000);
    let mut next = Shard::restore(1, Limits::default(), &w.shard.snapshot()).expect("the snapshot is read");
    w.shard.step_down();
    next.lead(2, 2, w.now);
    next.metadata(std::sync::Arc::new(w.meta.clone()), w.now);
    w.shard = next;
    w.pass(9_999);
    assert!(w.group().members.contains_key(&a.id), "its session began anew");
    assert_eq!(code(&mut w, a.beat()), "REBALANCE_IN_PROGRESS");
    a.rejoin(&mut w);
    let record = w.log.iter().flat_map(|e| &e.batches).flat_map(|b| &b.records).filter(|r| matches!(r, Record::Classic(c) if matches!(&**c, ClassicRecord::Upgraded { .. }))).count();
    assert_eq!(record, 1, "a conversion is one record");
}

/// It names topics, not ids: what it was granted is meant, and stays its own until it says that it has stopped.
#[test]
fn a_claim_to_a_partition_of_a_topic_made_again_frees_nothing() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    consumer(&mut w, "m", 0, Some(&[]));
    w.meta(baton_coordinator::metadata::MetaCommand::DeleteTopic { name: "t".into() });
    w.declare("t", 4);
    consumer(&mut w, "m", 2, Some(&[]));
    let r = w.ask(a.join());
    a.take(r);
    let holds = |w: &World, id: &MemberId| member(w, id).holdings().count();
    assert_eq!((holds(&w, &a.id), holds(&w, &"m".into())), (4, 0), "{:#?}", w.group());
}

/// A conversion back and the next command of the group may be decided together: the group's members have their timers all the same.
#[test]
fn a_classic_member_expires_although_another_joined_right_behind_the_conversion_back() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    consumer(&mut w, "m", 0, Some(&[]));
    w.auto_commit = false;
    w.send(hb("n", 0, Some(&[])));
    w.send(hb("n", -1, None));
    w.send(hb("m", -1, None));
    w.send(client(2).join());
    w.auto_commit = true;
    w.commit();
    w.run();
    w.commit();
    w.run();
    assert!(w.group().classic.as_ref().is_some_and(|c| c.members.contains_key(&a.id)), "{:#?}", w.group());
    w.pass(60_000);
    assert_eq!(w.group().members_count(), 0, "nobody has been heard of: {:#?}", w.group());
}

/// It holds on to what it said to own until it is told otherwise, also when a generation in between never got its assignment.
#[test]
fn a_conversion_in_mid_rebalance_keeps_what_cooperative_members_use() {
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), Client { instance: Some("i".into()), ..client(2) });
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    // A generation without an assignment, then the next join phase.
    let c = Client { instance: Some("j".into()), ..client(3) };
    w.send(c.join());
    w.send(a.join());
    w.send(b.join());
    assert_eq!(w.group().state(), GroupState::CompletingRebalance);
    w.ask(Command::Classic(ClassicCommand::Leave(vec![Leaver { member: "".into(), instance_id: Some("j".into()), reason: None }]))).expect("it leaves");
    assert_eq!(w.group().state(), GroupState::PreparingRebalance);
    consumer(&mut w, "m", 0, Some(&[]));
    assert_eq!((assigned(&w, &a.id), assigned(&w, &b.id)), (set(&[("t", 0), ("t", 1)]), set(&[("t", 2), ("t", 3)])));
}

/// What a member is to give back it may still be using when the last consumer member goes.
#[test]
fn a_conversion_back_takes_nothing_from_who_holds_it() {
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), client(2));
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1, 2, 3], &[]]);
    consumer(&mut w, "m", 0, Some(&[]));
    assert_ne!(w.group().target[&a.id].len(), 4, "something is to go elsewhere");
    consumer(&mut w, "m", -1, None);
    let c = w.group().classic.as_ref().expect("only classic members are left");
    let given = |id: &MemberId| Assigned::decode(&c.members[id].assignment.0).expect("it can be read").partitions.len();
    assert_eq!((given(&a.id), given(&b.id), w.group().state()), (4, 0, GroupState::PreparingRebalance));
}

/// KIP-345: an administrator names a static place and no member. Whoever has it goes, by whatever protocol it came: what one of Kafka's had is free, what one over HTTP had is held,
/// and with the last consumer member the group is a classic one again. A member itself may leave so only by the classic protocol.
#[test]
fn an_administrator_empties_a_static_place_of_either_protocol() {
    let leave = |member: &str| Command::Classic(ClassicCommand::Leave(vec![Leaver { member: member.into(), instance_id: Some("i".into()), reason: None }]));
    let said = |r: Result<Response, GroupError>| match r {
        Ok(Response::Classic(ClassicAnswer::Left(l))) => l.into_iter().map(|(_, r)| r).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    for http in [false, true] {
        let (mut w, mut a, mut m) = (world(|_| {}), client(1), Model::new("m", &["t"]));
        stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
        let beat = |w: &mut World, m: &mut Model| {
            let i = Some(InstanceId::from("i"));
            match hb("m", if m.epoch == 0 { 0 } else { w.member("m").epoch }, Some(&[])) {
                _ if http && m.epoch > 0 => drop(w.steady(m)),
                _ if http => { let v = w.beat(Heartbeat { instance_id: i, ..m.join_request() }).expect("it joins"); m.take(&v) }
                Command::Consumer(h) => { w.ask(Command::Consumer(Box::new(ConsumerHeartbeat { instance_id: i, ..*h }))).expect("it is in"); m.epoch = 1 }
                other => panic!("{other:?}"),
            }
        };
        beat(&mut w, &mut m);
        a.rejoin(&mut w);
        a.rejoin(&mut w);
        beat(&mut w, &mut m);
        let had = w.member("m").holdings().count();
        assert!(had > 0);
        assert_eq!(said(w.ask(leave("m"))), [Err(ClassicCode::UnknownMemberId)], "it does not speak the classic protocol itself");
        assert_eq!(w.member("m").holdings().count(), had);
        assert_eq!(said(w.ask(leave(""))), [Ok(())]);
        assert_eq!((w.group().holds.len(), w.group().classic.is_some()), if http { (had, false) } else { (0, true) });
        assert_eq!(said(w.ask(leave(""))), [Err(ClassicCode::UnknownMemberId)], "nobody has the place");
    }
}

/// A topic may go while nobody leads: the next leader forgets its offsets soon, also in a classic group.
#[test]
fn a_new_leader_forgets_offsets_of_topics_that_are_gone() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    let offsets = vec![CommitOffset { partition: Partition::new("t", 0), token: FencingToken(0), offset: 7, metadata: String::new(), leader_epoch: None }];
    w.ask(Command::Classic(ClassicCommand::Commit(GenerationCommit { member: a.id.clone(), instance_id: None, generation: a.generation, offsets }))).expect("its generation");
    assert_eq!(w.group().offsets.len(), 1);
    w.shard.step_down();
    w.meta(baton_coordinator::metadata::MetaCommand::DeleteTopic { name: "t".into() });
    w.declare("t", 4);
    w.shard.lead(1, 2, w.now);
    w.pass(2_000);
    assert!(w.group().offsets.is_empty(), "{:?}", w.group().offsets);
}

/// A static member that comes back by the other protocol with the wish of its place bumps nothing by itself; but the topic grew while the assignor was a client.
#[test]
fn a_conversion_by_a_returning_static_member_leaves_no_partition_out() {
    let everything = |w: &World| w.group().target.values().flatten().cloned().collect::<BTreeSet<_>>();
    let back = |w: &mut World, m: &str| match hb(m, 0, Some(&[])) {
        Command::Consumer(h) => w.ask(Command::Consumer(Box::new(ConsumerHeartbeat { instance_id: Some("i".into()), ..*h }))).expect("its place is free"),
        other => panic!("{other:?}"),
    };
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), Client { instance: Some("i".into()), ..client(2) });
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    w.declare("t", 6);
    back(&mut w, "m");
    assert_eq!(everything(&w).len(), 6, "{:?}", w.group().target);
    // The same when the last generation never got its assignment.
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), Client { instance: Some("i".into()), ..client(2) });
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    (a.owned, b.owned) = Default::default();
    let c = Client { instance: Some("j".into()), ..client(3) };
    for c in [&c, &a, &b] { w.send(c.join()); }
    assert_eq!(w.group().state(), GroupState::CompletingRebalance);
    back(&mut w, "m");
    assert_eq!(everything(&w).len(), 4, "{:?}", w.group().target);
    // And when nothing was left out, a conversion changes nothing (KIP-345).
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), Client { instance: Some("i".into()), ..client(2) });
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    back(&mut w, "m");
    assert_eq!((w.group().epoch, assigned(&w, &"m".into())), (1, set(&[("t", 2), ("t", 3)])));
}

/// The group is not a classic one in between: that would not take the member that comes.
#[test]
fn an_http_process_takes_the_place_of_a_dead_one_among_classic_members() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    let place = |h: Heartbeat| Heartbeat { instance_id: Some("i".into()), ..h };
    w.beat(place(Model::new("m", &["t"]).join_request())).expect("it joins");
    let v = w.beat(Heartbeat { predecessor_dead: true, ..place(Model::new("n", &["t"]).join_request()) }).expect("its operator says that the first is dead");
    assert_eq!((v.member, w.group().members.len(), w.group().classic.is_none()), ("n".into(), 2, true));
}

/// It goes by names: the topic that comes under the name is not given to others while a classic member has not heard that the one before is gone.
#[test]
fn a_conversion_while_a_topic_is_gone_frees_nothing_of_it() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3]]);
    w.meta(baton_coordinator::metadata::MetaCommand::DeleteTopic { name: "t".into() });
    let v = consumer(&mut w, "m", 0, Some(&[]));
    w.declare("t", 4);
    let v = consumer(&mut w, "m", v.epoch, None);
    assert_eq!((v.assignment, assigned(&w, &"m".into()).len(), assigned(&w, &a.id).len()), (None, 0, 4));
    // It stops everything and joins again: then they are free.
    a.owned.clear();
    a.rejoin(&mut w);
    consumer(&mut w, "m", v.epoch, None);
    assert_eq!(assigned(&w, &"m".into()).len() + assigned(&w, &a.id).len(), 4);
}

/// The assignor, a client, has seen a partition that this node's image does not have yet.
#[test]
fn a_conversion_on_an_older_image_frees_nothing() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0, 1, 2, 3, 4]]);
    let v = consumer(&mut w, "m", 0, Some(&[]));
    w.declare("t", 5);
    let v = consumer(&mut w, "m", v.epoch, None);
    assert_eq!((v.assignment, assigned(&w, &"m".into()).len(), assigned(&w, &a.id).len()), (None, 0, 5));
    a.owned.clear();
    a.rejoin(&mut w);
    consumer(&mut w, "m", v.epoch, None);
    assert_eq!(assigned(&w, &"m".into()).len() + assigned(&w, &a.id).len(), 5);
}

#[test]
fn nobody_is_called_to_join_before_there_is_a_target_to_join_for() {
    let (mut w, mut a, mut b) = (world(|_| {}), client(1), client(2));
    stable(&mut w, &mut [&mut a, &mut b], &[&[0, 1], &[2, 3]]);
    consumer(&mut w, "m", 0, Some(&[]));
    b.rejoin(&mut w);
    // The other one goes: the epoch is bumped, and the next target comes with the consumer member's heartbeat.
    w.ask(a.leave()).expect("it is a member");
    assert!(w.group().epoch > w.group().target_epoch);
    assert!(matches!(w.ask(b.sync(&[])), Ok(Response::Classic(ClassicAnswer::Synced { .. }))), "it is told what it has");
    consumer(&mut w, "m", 2, None);
    assert_eq!(code(&mut w, b.beat()), "REBALANCE_IN_PROGRESS");
}

#[test]
fn a_leave_from_an_emptied_consumer_group_is_answered_member_by_member() {
    let (mut w, mut a) = (world(|_| {}), client(1));
    stable(&mut w, &mut [&mut a], &[&[0]]);
    consumer(&mut w, "m", 0, Some(&[]));
    w.pass(200_000);
    assert!(w.group().members.is_empty() && w.group().classic.is_none());
    let Ok(Response::Classic(ClassicAnswer::Left(results))) = w.ask(a.leave()) else { panic!("each has its own answer") };
    assert_eq!(results[0].1, Err(ClassicCode::UnknownMemberId));
}
