//! What keeps a group well over months: settings, retention on the shard's own time, repair, loading, and how long things took.
use baton_coordinator::{command::*, config::*, ids::*, metadata::*, record::*, shard::*};
use crate::common::*;
use std::sync::Arc;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;

fn admin_commit(w: &mut World, topic: &str, partition: i32, offset: i64) {
    let offsets = vec![CommitOffset { partition: Partition::new(topic, partition), token: FencingToken(0), offset, metadata: String::new(), leader_epoch: None }];
    assert!(matches!(w.ask(Command::Commit(Commit { member: None, offsets })), Ok(Response::Committed(r)) if r[0].1.is_ok()));
}
fn offsets(w: &mut World) -> usize {
    match w.ask(Command::FetchOffsets { topic: None, partition: None }) {
        Ok(Response::Offsets(o)) => o.len(),
        Err(GroupError::UnknownGroup { .. }) => 0,
        other => panic!("{other:?}"),
    }
}

/// Two changes at one moment, each decided without the other: both hold.
#[test]
fn changes_of_two_settings_do_not_undo_each_other() {
    let mut m = Metadata::default();
    let set = |s: Setting, v: Option<u64>| MetaCommand::SetGroupConfig { group: "g".into(), settings: [(s, v)].into() };
    m.apply(&set(Setting::SessionTimeout, Some(9_000))).expect("in range");
    m.apply(&set(Setting::HeartbeatInterval, Some(500))).expect("in range");
    let c = m.config_of(&"g".into());
    assert_eq!((c.session_timeout_ms, c.heartbeat_interval_ms, c.assignment_interval_ms), (9_000, 500, 100));
    let revision = m.revision;
    m.apply(&set(Setting::HeartbeatInterval, Some(500))).expect("unchanged is fine");
    assert_eq!(m.revision, revision, "and changes nothing");
    m.apply(&set(Setting::SessionTimeout, None)).expect("back to the default");
    m.apply(&set(Setting::HeartbeatInterval, None)).expect("back to the default");
    assert!(m.group_configs.is_empty());
}

/// Every setting at both ends of its range, just beyond them, and by name.
#[test]
fn a_setting_out_of_range_is_refused_by_name_and_changes_nothing() {
    for s in Setting::ALL {
        assert_eq!(Setting::named(s.name()), Some(s));
        let (lo, hi) = s.range().into_inner();
        for (v, fine) in [(lo, true), (hi, true), (hi + 1, false)].into_iter().chain(lo.checked_sub(1).map(|v| (v, false))) {
            let mut m = Metadata::default();
            // A long session first: three heartbeat intervals fit into it whatever is asked.
            let mut settings: std::collections::BTreeMap<Setting, Option<u64>> = [(Setting::SessionTimeout, Some(60_000)), (Setting::HeartbeatInterval, Some(200))].into();
            settings.insert(s, Some(v));
            match m.apply(&MetaCommand::SetGroupConfig { group: "g".into(), settings }) {
                Ok(_) => assert!(fine, "{} = {v}", s.name()),
                Err(MetaError::Invalid { field, detail }) => assert!(!fine && field == s.name() && detail.contains(&v.to_string()) && m.group_configs.is_empty(), "{} = {v}: {detail}", s.name()),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    let mut m = Metadata::default();
    let short = MetaCommand::SetGroupConfig { group: "g".into(), settings: [(Setting::HeartbeatInterval, Some(5_001))].into() };
    assert!(matches!(m.apply(&short), Err(MetaError::Invalid { detail, .. }) if detail.contains("three heartbeat intervals")), "15 s is less than three of 5,001 ms");
}

/// `safety.md` 18: a leader 30 days ahead must not expire anybody's offsets; its own clock, over the retention time, may.
#[test]
fn a_leader_whose_wall_clock_is_30_days_ahead_expires_nothing() {
    let mut w = World::new(&[("t", 2)]);
    admin_commit(&mut w, "t", 0, 5);
    w.pass(20 * MINUTE);
    w.shard.step_down();
    w.now.wall_us += 30 * DAY * 1000;
    w.now.mono_ms += 30 * DAY; // and another machine's monotonic clock says anything at all
    w.shard.lead(2, 2, w.now);
    w.run();
    w.pass(6 * DAY);
    assert_eq!(offsets(&mut w), 1, "not seven days of a leader's service");
    admin_commit(&mut w, "t", 1, 6);
    w.pass(DAY + 20 * MINUTE);
    assert_eq!(offsets(&mut w), 1, "seven days after its commit the first is gone, the second stays");
    w.pass(6 * DAY);
    assert_eq!(offsets(&mut w), 0);
}

/// The shard's time goes on through changes of leader, never back, and an idle shard writes it down now and then.
#[test]
fn the_shards_time_adds_up_what_leaders_have_served() {
    let mut w = World::new(&[("t", 1)]);
    admin_commit(&mut w, "t", 0, 5);
    for term in 2..8 {
        w.pass(DAY);
        w.shard.step_down();
        w.now.mono_ms = 5_000 * term; // every node has its own clock
        w.shard.lead(term, term, w.now);
    }
    let served = w.shard.state().time_ms;
    // Each of the six may have served up to ten minutes that nobody wrote down: what is kept is kept longer, never shorter.
    assert!((6 * DAY - 60 * MINUTE..=6 * DAY).contains(&served), "{served} ms of six days are written down");
    assert_eq!(offsets(&mut w), 1);
    w.pass(DAY + 70 * MINUTE);
    assert_eq!(offsets(&mut w), 0, "seven days are over");
}

/// `offsets.retention.minutes`; a topic that somebody subscribes to keeps its offsets; a group of which nothing is left goes.
#[test]
fn retention_spares_what_is_in_use_and_ends_empty_groups() {
    let mut w = World::new(&[("t", 1), ("u", 1)]);
    w.set(Setting::OffsetsRetention, Some(30));
    admin_commit(&mut w, "t", 0, 5);
    admin_commit(&mut w, "u", 0, 6);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    for _ in 0..300 {
        w.pass(10_000);
        w.steady(&mut a);
    }
    assert_eq!(w.group().offsets.keys().map(|p| p.topic.to_string()).collect::<Vec<_>>(), ["t"], "50 minutes: nobody wants u's any more");
    assert_eq!(w.ask(a.leave_request()), Ok(Response::Left));
    w.pass(25 * MINUTE);
    assert!(w.shard.group(&"g".into()).is_some(), "its offsets are gone, the group not yet");
    w.pass(40 * MINUTE);
    assert!(w.shard.group(&"g".into()).is_none());
    assert!(w.shard.state().last_token > 0 && w.shard.state().revision > 0, "tokens and revisions go on from where they are");
}

/// Offsets of a deleted topic go at once, also in a group that nobody is in, also when it is back under its name before anybody looked.
#[test]
fn offsets_go_with_their_topic() {
    let mut w = World::new(&[("t", 1), ("u", 1)]);
    admin_commit(&mut w, "t", 0, 5);
    admin_commit(&mut w, "u", 0, 6);
    w.meta(MetaCommand::DeleteTopic { name: "t".into() });
    assert_eq!(offsets(&mut w), 1);
    w.meta.apply(&MetaCommand::DeleteTopic { name: "u".into() }).expect("deleted");
    w.declare("u", 1);
    assert_eq!(offsets(&mut w), 0);
}

/// `safety.md` 25: repair is a record; every replica lifts the quarantine, and the group goes on with its members' timers in full.
#[test]
fn a_repaired_group_goes_on_from_its_last_good_state() {
    let mut w = World::new(&[("t", 4)]);
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    assert_eq!(w.ask(Command::Repair), Err(GroupError::NotQuarantined));
    let poison = Record::Epoch { epoch: 1, time_ms: 0 };
    let batch = Batch { group: "g".into(), base_revision: w.group().revision, records: vec![poison] };
    let e = LogEntry { node: 9, term: 9, base_sequence: w.shard.state().sequence, time_ms: 0, batches: vec![batch] };
    w.shard.replay(&e);
    w.log.push(e);
    w.committed += 1;
    assert!(matches!(w.beat(a.steady_request()), Err(GroupError::Quarantined { .. })));
    w.pass(20_000);
    assert!(w.group().members.contains_key(&a.id), "a quarantined group expires nobody");
    assert_eq!(w.ask(Command::Repair), Ok(Response::Repaired));
    let v = w.beat(a.steady_request()).expect("the group goes on");
    assert_eq!(v.assignment_revision, a.revision);
    w.pass(14_999);
    assert!(w.group().members.contains_key(&a.id));
    w.pass(2);
    assert!(w.group().members.is_empty(), "its session runs again");
    let mut replica = Shard::new(1, Limits::default());
    w.log.iter().for_each(|e| replica.replay(e));
    assert_eq!(replica.digest(), w.shard.digest());
}

/// From the bump to the last member's arrival.
#[test]
fn history_says_how_long_a_rebalance_took() {
    let mut w = World::new(&[("t", 4)]);
    let (mut a, mut b) = (Model::new("a", &["t"]), Model::new("b", &["t"]));
    w.join(&mut a);
    w.pass(1_000);
    w.join(&mut b);
    w.pass(300);
    w.steady(&mut a);
    w.pass(400);
    w.steady(&mut a);
    w.pass(50);
    w.steady(&mut b);
    assert_eq!((w.group().state(), w.group().unsettled_since), (GroupState::Stable, None));
    let took: Vec<Option<u64>> = w.history.values().filter(|h| h.kind == "stable").map(|h| h.took_ms).collect();
    assert_eq!(took, [Some(0), Some(750)]);
}

/// `safety.md` 23: a leader whose image is older than what the group has seen is loading for what needs it; heartbeats without change go on.
#[test]
fn a_leader_whose_image_is_behind_is_loading() {
    let mut w = World::new(&[("t", 4)]);
    let old = w.meta.clone();
    let mut a = Model::new("a", &["t"]);
    w.join(&mut a);
    w.declare("t", 6);
    w.settle(&mut [&mut a]);
    w.led_with_an_older_image(old.clone());
    let need = w.group().metadata_revision;
    assert!(need > old.revision);
    let v = w.beat(a.steady_request()).expect("a heartbeat without change goes on");
    assert_eq!((v.member_epoch, a.owned.len()), (a.epoch, 6));
    let b = Model::new("b", &["t"]);
    assert_eq!(w.beat(b.join_request()), Err(GroupError::Loading { have: old.revision, need }));
    let mut h = a.steady_request();
    h.subscribed_topics = Some(topics(&["t", "u"]));
    assert_eq!(w.beat(h), Err(GroupError::Loading { have: old.revision, need }));
    assert_eq!(w.ask(Command::RemoveMember { member: "a".into() }), Ok(Response::Removed), "needs no image");
    let meta = w.meta.clone();
    w.shard.metadata(Arc::new(meta), w.now);
    assert!(w.beat(b.join_request()).is_ok(), "with the image it is done");
}

/// `safety.md` 23: what an administrator's change was acknowledged with may be demanded; the request waits for it within its own time.
#[test]
fn a_request_may_demand_a_meta_revision() {
    let mut w = World::new(&[("t", 4)]);
    let a = Model::new("a", &["t", "u"]);
    let need = w.meta.revision + 1;
    let ask = |budget_ms| Request { group: "g".into(), command: Command::Heartbeat(a.join_request()), budget_ms, min_meta_revision: need };
    w.shard.handle(Ticket(901), ask(None), w.now);
    w.run();
    assert_eq!(w.answer(Ticket(901)), Some(Err(GroupError::Loading { have: need - 1, need })), "without a time of its own it does not wait");
    w.shard.handle(Ticket(902), ask(Some(500)), w.now);
    w.run();
    assert_eq!(w.answer(Ticket(902)), None);
    w.declare("u", 2);
    let Some(Ok(Response::Heartbeat(v))) = w.answer(Ticket(902)) else { panic!("the image has come") };
    assert_eq!(v.assignment.map(|x| x.len()), Some(6), "with the topic that was asked for");
    let need = w.meta.revision + 1;
    w.shard.handle(Ticket(903), Request { group: "g".into(), command: Command::Describe, budget_ms: Some(500), min_meta_revision: need }, w.now);
    w.run();
    w.pass(501);
    assert!(matches!(w.answer(Ticket(903)), Some(Err(GroupError::Unavailable { .. }))), "nothing was done in its time");
}
