//! The rules of `machine`, one by one. Times in ms; the lease is 1,000 ms, the interval 100 ms.

use super::*;
use baton_wire::{AssignedPartition, AssignedTopic, MemberState, TopicPartitions};

fn machine_with(edit: impl FnOnce(&mut Config)) -> Machine {
    let mut config = Config {
        member_id: "m".into(), member_id_is_drawn: false, topics: vec!["t".into()], rebalance_timeout_ms: 5_000, instance_id: None, rack: None, assignor: None,
        predecessor_dead: false, long_poll_ms: 0, request_timeout_ms: 1_500, self_fencing: true,
    };
    edit(&mut config);
    let mut n = 0;
    Machine::new(config, Box::new(move || { n += 1; n }))
}
fn p(n: i32) -> Partition { Partition::new("t", n) }
fn topic(partitions: &[i32]) -> Vec<TopicPartitions> { if partitions.is_empty() { vec![] } else { vec![TopicPartitions { topic: "t".into(), partitions: partitions.to_vec() }] } }
fn ok(epoch: i32, revision: u64, assigned: &[(i32, u64)], pending: &[i32]) -> HeartbeatResponse {
    let partitions = assigned.iter().map(|(partition, token)| AssignedPartition { partition: *partition, token: *token }).collect();
    HeartbeatResponse {
        member_id: "m".into(), member_epoch: epoch, group_epoch: epoch, member_state: MemberState::Stable, heartbeat_interval_ms: 100, session_timeout_ms: 1_200,
        lease_ms: 1_000, assignment_revision: revision, assignment: Some(vec![AssignedTopic { topic: "t".into(), topic_id: String::new(), partitions }]),
        pending_revocation: topic(pending), taken: vec![], waited_at_most_ms: 0,
    }
}
fn accept(m: &mut Machine, t: Ticket, r: HeartbeatResponse, ms: u64) -> Vec<Effect> { m.answer(t, Outcome::Accepted(Box::new(r)), ms * MS); effects(m) }
fn refuse(m: &mut Machine, t: Ticket, code: &str, ms: u64) -> Vec<Effect> { m.answer(t, Outcome::Refused(Problem::new(code, "")), ms * MS); effects(m) }
fn effects(m: &mut Machine) -> Vec<Effect> { std::iter::from_fn(|| m.effect()).collect() }
/// Sends at `ms`, or as soon after as something is due.
fn beat(m: &mut Machine, ms: u64) -> Beat { m.request(ms * MS).unwrap_or_else(|| panic!("nothing is due at {ms}: {}", m.wake() / MS)) }
fn owned(b: &Beat) -> Vec<i32> { b.body.owned.iter().flatten().flat_map(|o| o.partitions.clone()).collect() }
/// Joined at 0 with partitions 0 and 1 under revision 10; confirmed at 20; the deadline is 1020.
fn joined(edit: impl FnOnce(&mut Config)) -> Machine {
    let mut m = machine_with(edit);
    let b = beat(&mut m, 0);
    assert_eq!((b.body.member_epoch, b.body.assignment_revision, b.body.subscribed_topics.clone()), (0, Some(0), Some(vec!["t".into()])));
    let e = accept(&mut m, b.ticket, ok(1, 10, &[(0, 5), (1, 6)], &[]), 20);
    assert_eq!(e, vec![Effect::Joined, Effect::Lease { deadline: 1_000 * MS }, Effect::Grant(vec![(p(0), 5), (p(1), 6)])]);
    let b = beat(&mut m, 20);
    assert_eq!((b.body.member_epoch, b.body.assignment_revision, owned(&b), b.body.subscribed_topics), (1, Some(10), vec![0, 1], None));
    assert_eq!(accept(&mut m, b.ticket, ok(1, 10, &[], &[]), 30), vec![Effect::Lease { deadline: 1_020 * MS }]);
    assert!(m.request(31 * MS).is_none(), "nothing is due before the interval");
    m
}

#[test]
fn an_equal_or_older_answer_only_extends_the_lease_to_its_own_send_time() {
    let mut m = joined(|_| {});
    for (at, revision) in [(200, 10), (400, 9)] {
        let b = beat(&mut m, at);
        let e = accept(&mut m, b.ticket, ok(1, revision, &[(2, 99)], &[0]), at + 50);
        assert_eq!(e, vec![Effect::Lease { deadline: (at + 1_000) * MS }]);
    }
    let b = beat(&mut m, 600);
    assert_eq!((b.body.assignment_revision, owned(&b)), (Some(10), vec![0, 1]));
}

#[test]
fn an_answer_past_its_own_deadline_grants_nothing() {
    let mut m = machine_with(|_| {});
    let b = beat(&mut m, 0);
    assert_eq!(accept(&mut m, b.ticket, ok(1, 10, &[(0, 5)], &[]), 1_000), vec![]);
    let b = beat(&mut m, 3_000);
    assert_eq!(b.body.member_epoch, 0, "it joins again");
}

#[test]
fn a_greater_revision_without_its_assignment_is_not_trusted() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    let mut r = ok(2, 11, &[], &[]);
    r.assignment = None;
    assert_eq!(accept(&mut m, b.ticket, r, 210), vec![]);
}

#[test]
fn a_revocation_is_confirmed_only_after_the_callback_and_then_at_once() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    let e = accept(&mut m, b.ticket, ok(2, 11, &[(1, 6)], &[0]), 210);
    assert_eq!(e, vec![Effect::Lease { deadline: 1_200 * MS }, Effect::Revoke(vec![(p(0), 5)])]);
    // Meanwhile the lease is kept up, under the old revision and with everything owned.
    let b = beat(&mut m, 320);
    assert_eq!((b.body.assignment_revision, owned(&b)), (Some(10), vec![0, 1]));
    accept(&mut m, b.ticket, ok(2, 11, &[(1, 6)], &[0]), 330);
    m.finished(Callback::Revoke, &[(p(0), 5)], 340 * MS);
    assert_eq!(effects(&mut m), vec![Effect::Stop(vec![(p(0), 5)])]);
    let b = beat(&mut m, 340);
    assert_eq!((b.body.assignment_revision, owned(&b)), (Some(11), vec![1]));
    // Unanswered, it is sent again.
    m.answer(b.ticket, Outcome::NoAnswer, 400 * MS);
    let b = beat(&mut m, 600);
    assert_eq!((b.body.assignment_revision, owned(&b)), (Some(11), vec![1]));
}

#[test]
fn a_partition_given_back_while_it_is_being_stopped_is_a_new_grant_after_the_stop() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    accept(&mut m, b.ticket, ok(2, 11, &[(1, 6)], &[0]), 210);
    let b = beat(&mut m, 320);
    assert_eq!(accept(&mut m, b.ticket, ok(2, 12, &[(0, 8), (1, 6)], &[]), 330), vec![Effect::Lease { deadline: 1_320 * MS }]);
    m.finished(Callback::Revoke, &[(p(0), 5)], 340 * MS);
    assert_eq!(effects(&mut m), vec![Effect::Stop(vec![(p(0), 5)]), Effect::Grant(vec![(p(0), 8)])]);
    let b = beat(&mut m, 340);
    assert_eq!((b.body.assignment_revision, owned(&b)), (Some(12), vec![0, 1]));
}

#[test]
fn a_new_token_for_a_held_partition_stops_the_old_grant_first() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    let e = accept(&mut m, b.ticket, ok(2, 12, &[(0, 8), (1, 6)], &[]), 210);
    assert_eq!(e[1..], [Effect::Revoke(vec![(p(0), 5)])]);
}

#[test]
fn a_lapse_takes_everything_and_the_join_waits_for_the_listener() {
    let mut m = joined(|_| {});
    let late = beat(&mut m, 500);
    assert_eq!(m.wake(), 1_020 * MS);
    m.tick(1_020 * MS);
    assert_eq!(effects(&mut m), vec![Effect::Lose { granted: vec![(p(0), 5), (p(1), 6)], reason: Reason::Lapsed, at: 1_020 * MS }]);
    // The answer under way would still be in time by its own deadline; what it says is about a life that is over.
    assert_eq!(accept(&mut m, late.ticket, ok(1, 13, &[(0, 9)], &[]), 1_030), vec![]);
    assert!(m.request(2_000 * MS).is_none(), "the listener has not finished");
    m.finished(Callback::Lost, &[(p(0), 5), (p(1), 6)], 2_000 * MS);
    assert_eq!(effects(&mut m), vec![]);
    let b = beat(&mut m, 2_100);
    assert_eq!((b.body.member_epoch, b.body.assignment_revision, owned(&b), b.body.incarnation), (0, Some(10), vec![], late.body.incarnation));
    let e = accept(&mut m, b.ticket, ok(3, 20, &[(0, 15)], &[]), 2_120);
    assert_eq!(e[2], Effect::Grant(vec![(p(0), 15)]));
}

#[test]
fn a_lapse_is_seen_by_the_answer_that_comes_too_late_too() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 500);
    let e = accept(&mut m, b.ticket, ok(1, 10, &[], &[]), 1_100);
    assert_eq!(e, vec![Effect::Lose { granted: vec![(p(0), 5), (p(1), 6)], reason: Reason::Lapsed, at: 1_020 * MS }]);
}

#[test]
fn a_lapse_during_a_revocation_waits_for_both_callbacks() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    accept(&mut m, b.ticket, ok(2, 11, &[(1, 6)], &[0]), 210);
    m.tick(1_200 * MS);
    assert!(matches!(&effects(&mut m)[..], [Effect::Lose { granted, .. }] if granted.len() == 2));
    m.finished(Callback::Revoke, &[(p(0), 5)], 1_300 * MS);
    assert_eq!(effects(&mut m), vec![], "its stop is on record already");
    assert!(m.request(1_500 * MS).is_none());
    m.finished(Callback::Lost, &[(p(0), 5), (p(1), 6)], 1_600 * MS);
    let b = beat(&mut m, 1_700);
    assert_eq!((b.body.member_epoch, b.body.assignment_revision), (0, Some(11)));
}

#[test]
fn fenced_or_unknown_members_lose_everything_and_join_again() {
    for (code, reason) in [(code::FENCED_MEMBER_EPOCH, Reason::Fenced), (code::UNKNOWN_MEMBER, Reason::UnknownMember), (code::FENCED_REMOVED, Reason::Removed)] {
        let mut m = joined(|_| {});
        let b = beat(&mut m, 200);
        let e = refuse(&mut m, b.ticket, code, 210);
        assert_eq!(e, vec![Effect::Lose { granted: vec![(p(0), 5), (p(1), 6)], reason, at: 210 * MS }]);
        m.finished(Callback::Lost, &[(p(0), 5), (p(1), 6)], 220 * MS);
        let b = beat(&mut m, 300);
        assert_eq!((b.body.member_epoch, b.body.assignment_revision, owned(&b)), (0, Some(10), vec![]), "{code}: the join acknowledges");
    }
}

/// The operator spoke of the processes before this one's first join: at a later one somebody else may have come.
#[test]
fn that_the_predecessor_is_dead_is_said_until_the_first_join_and_never_again() {
    let mut m = machine_with(|c| c.predecessor_dead = true);
    let b = beat(&mut m, 0);
    assert!(b.body.predecessor_dead);
    m.answer(b.ticket, Outcome::NoAnswer, 500 * MS);
    let b = beat(&mut m, 1_500);
    assert!(b.body.predecessor_dead, "nobody is known to have heard it");
    accept(&mut m, b.ticket, ok(1, 10, &[(0, 5)], &[]), 1_520);
    let b = beat(&mut m, 1_620);
    assert!(!b.body.predecessor_dead);
    refuse(&mut m, b.ticket, code::FENCED_MEMBER_EPOCH, 1_630);
    m.finished(Callback::Lost, &[(p(0), 5)], 1_640 * MS);
    let again = beat(&mut m, 3_000);
    assert_eq!((again.body.member_epoch, again.body.predecessor_dead), (0, false));
}

#[test]
fn a_replaced_member_becomes_another_one_without_claims() {
    for drawn in [false, true] {
        let mut m = joined(|c| (c.member_id_is_drawn, c.predecessor_dead) = (drawn, true));
        let b = beat(&mut m, 200);
        let e = refuse(&mut m, b.ticket, code::FENCED_INCARNATION, 210);
        assert!(matches!(e[..], [Effect::Lose { reason: Reason::Replaced, .. }, Effect::Reborn { .. }]));
        m.finished(Callback::Lost, &[(p(0), 5), (p(1), 6)], 220 * MS);
        let again = beat(&mut m, 3_000);
        assert_eq!((again.body.member_epoch, again.body.assignment_revision, again.body.predecessor_dead), (0, Some(0), false));
        assert_ne!(again.body.incarnation, b.body.incarnation);
        assert_eq!(again.member_id == "m", !drawn);
    }
}

#[test]
fn a_member_id_in_use_is_tried_again_later_and_changes_nothing() {
    let mut m = machine_with(|_| {});
    let b = beat(&mut m, 0);
    m.answer(b.ticket, Outcome::Refused(Problem::new(code::MEMBER_ID_IN_USE, "").after(9_000)), MS);
    assert_eq!(effects(&mut m), vec![]);
    assert!(m.request(400 * MS).is_none());
    let again = beat(&mut m, 1_100);
    assert_eq!(again.body, b.body);
}

#[test]
fn no_answer_and_retriable_refusals_keep_everything_until_the_deadline() {
    let mut m = joined(|_| {});
    let mut at = 200;
    while at < 1_000 {
        let Some(b) = m.request(at * MS) else { at = m.wake() / MS + 1; continue };
        if at % 2 == 0 { m.answer(b.ticket, Outcome::NoAnswer, (at + 1) * MS); } else { assert_eq!(refuse(&mut m, b.ticket, code::UNAVAILABLE, at + 1), vec![]); }
        assert_eq!(effects(&mut m), vec![]);
        at += 1;
    }
    m.tick(1_020 * MS);
    assert!(matches!(effects(&mut m)[..], [Effect::Lose { reason: Reason::Lapsed, .. }]));
}

/// Joined as `joined`, with waits; the first held heartbeat went out at 30, with the answer to the confirmation.
fn listening(long_poll_ms: u64) -> (Machine, Beat) {
    let mut m = machine_with(|c| c.long_poll_ms = long_poll_ms);
    let b = beat(&mut m, 0);
    accept(&mut m, b.ticket, ok(1, 10, &[(0, 5), (1, 6)], &[]), 20);
    let confirm = beat(&mut m, 20);
    assert_eq!(confirm.body.wait_ms, 0, "a confirmation is answered at once");
    accept(&mut m, confirm.ticket, ok(1, 10, &[], &[]), 30);
    let held = beat(&mut m, 30);
    let longest = long_poll_ms.min(1_000 / WAIT_OF_LEASE);
    assert!(held.body.wait_ms <= longest && held.body.wait_ms >= longest - longest / 10, "{}", held.body.wait_ms);
    (m, held)
}
/// When the next heartbeat is due.
fn due(m: &mut Machine, from: u64) -> u64 { (from..).find(|ms| m.request(ms * MS).is_some()).unwrap_or(u64::MAX) }

#[test]
fn who_has_done_everything_listens_all_the_time() {
    // A wait that was held in full is followed by the next at once, also if it was shorter than the interval.
    let (mut m, held) = listening(80);
    let end = 30 + held.body.wait_ms - 1;
    accept(&mut m, held.ticket, ok(1, 10, &[], &[]), end);
    assert!(beat(&mut m, end).body.wait_ms > 0);
    // News that ask for nothing are followed by the next wait at once.
    let (mut m, held) = listening(300);
    accept(&mut m, held.ticket, ok(2, 10, &[], &[]), 40);
    let next = beat(&mut m, 40);
    assert!(next.body.wait_ms > 0 && next.body.member_epoch == 2);
    // A grant is confirmed at once, then listened on at once.
    accept(&mut m, next.ticket, ok(3, 12, &[(0, 5), (1, 6), (2, 9)], &[]), 50);
    let confirm = beat(&mut m, 50);
    assert_eq!((confirm.body.wait_ms, owned(&confirm)), (0, vec![0, 1, 2]));
    accept(&mut m, confirm.ticket, ok(3, 12, &[], &[]), 60);
    assert!(beat(&mut m, 60).body.wait_ms > 0);
}

#[test]
fn an_answer_that_was_not_held_is_not_followed_at_once() {
    // By a server that ignores `wait_ms`, or holds shorter than it was asked: each answer brings nothing, so the interval of 100 ms (less a tenth) counts.
    for held_ms in [0, 1, 40] {
        let (mut m, mut held) = listening(300);
        let (mut at, mut sent) = (30, 1);
        while at < 1_000 {
            let answered = at + held_ms;
            accept(&mut m, held.ticket, ok(1, 10, &[], &[]), answered);
            let next = (answered..).find_map(|ms| m.request(ms * MS).map(|b| (ms, b))).expect("a heartbeat");
            assert!(next.0 >= at + 90, "sent at {at}, answered at {answered}, sent again at {}", next.0);
            (at, held, sent) = (next.0, next.1, sent + 1);
        }
        assert!(sent <= 12, "{sent} heartbeats in a second");
    }
    // Something between breaks every wait, and lets what is answered at once pass.
    let (mut m, held) = listening(300);
    m.answer(held.ticket, Outcome::NoAnswer, 31 * MS);
    let (mut at, mut sent) = (31, 0);
    while at < 1_031 {
        let Some(b) = m.request(at * MS) else { at += 1; continue };
        sent += 1;
        if b.body.wait_ms > 0 { m.answer(b.ticket, Outcome::NoAnswer, at * MS); } else { accept(&mut m, b.ticket, ok(1, 10, &[], &[]), at); }
    }
    assert!(sent <= 20, "{sent} heartbeats in a second");
    // The same where every wait is refused.
    let (mut m, held) = listening(300);
    refuse(&mut m, held.ticket, code::UNAVAILABLE, 31);
    let (mut at, mut sent) = (31, 0);
    while at < 1_031 {
        let Some(b) = m.request(at * MS) else { at += 1; continue };
        sent += 1;
        if b.body.wait_ms > 0 { refuse(&mut m, b.ticket, code::UNAVAILABLE, at); } else { accept(&mut m, b.ticket, ok(1, 10, &[], &[]), at); }
    }
    assert!(sent <= 20, "{sent} heartbeats in a second");
    // Nor does a wait of next to nothing make a loop.
    let (mut m, held) = listening(2);
    accept(&mut m, held.ticket, ok(1, 10, &[], &[]), 33);
    assert!(due(&mut m, 33) >= 120);
}

/// A leader that gives its shard away refuses what it holds. Whoever then waited for the interval heard of the next change up to a second late.
#[test]
fn who_was_refused_once_listens_again_as_soon_as_it_is_answered() {
    let (mut m, held) = listening(300);
    refuse(&mut m, held.ticket, code::UNAVAILABLE, 40);
    let at = (40..).find(|ms| m.wake() <= ms * MS).expect("a time");
    let again = beat(&mut m, at);
    assert_eq!(again.body.wait_ms, 0, "the lease comes first");
    accept(&mut m, again.ticket, ok(1, 10, &[], &[]), at + 5);
    assert!(beat(&mut m, at + 5).body.wait_ms > 0);
}

#[test]
fn an_idle_member_sends_one_heartbeat_a_wait() {
    let (mut m, mut held) = listening(300);
    let (mut at, mut sent) = (30, 0);
    while at < 10_000 {
        let end = at + held.body.wait_ms;
        accept(&mut m, held.ticket, ok(1, 10, &[], &[]), end);
        (at, held, sent) = (end, beat(&mut m, end), sent + 1);
    }
    assert!((50..=56).contains(&sent), "{sent} heartbeats in 10 s with waits of 180 to 200 ms, a fifth of the lease");
}

/// A nemesis found members that lapsed under three failovers in a row: their held heartbeat had waited at a node that was cut off for more than half of the lease.
#[test]
fn a_lease_survives_a_held_heartbeat_and_two_tries_that_nobody_answers() {
    let (mut m, held) = listening(10_000);
    let mut at = 30;
    let mut beat_now = held;
    for _ in 0..3 {
        at += beat_now.body.wait_ms + beat_now.timeout_ms;
        m.answer(beat_now.ticket, Outcome::NoAnswer, at * MS);
        assert_eq!(effects(&mut m), vec![], "at {at} ms");
        let next = (at..).find_map(|ms| m.request(ms * MS).map(|b| (ms, b))).expect("another try");
        (at, beat_now) = next;
        assert_eq!(beat_now.body.wait_ms, 0, "after a failure nothing is held");
    }
    assert!(at < 1_020, "the next try begins at {at} ms, before the deadline at 1,020");
}

/// The less is left, the denser the tries: who was unlucky with the first ones still notices a cluster that is back.
#[test]
fn tries_become_denser_towards_the_end_of_the_lease_and_ask_every_node() {
    let mut m = joined(|_| {});
    let (mut at, mut sent) = (30, Vec::new());
    while at < 1_020 {
        if let Some(b) = m.request(at * MS) {
            assert_eq!(b.spread, !sent.is_empty() || 1_020 - at < 500, "at {at}: {sent:?}");
            sent.push(at);
            m.answer(b.ticket, Outcome::NoAnswer, at * MS);
        }
        at += 1;
    }
    for pair in sent.windows(2) { assert!(pair[1] - pair[0] <= ((1_020 - pair[0]) / PAUSE_OF_REST).max(BACKOFF_MS.0) + 1, "{sent:?}"); }
    assert!(sent.iter().filter(|at| **at >= 820).count() >= 4, "four tries in the last fifth: {sent:?}");
    // Held heartbeats and those of a member that is well go to one node.
    let (_, held) = listening(300);
    assert!(!held.spread);
    let mut m = joined(|_| {});
    assert!(!beat(&mut m, 130).spread);
}

#[test]
fn who_is_stopping_something_does_not_listen_without_pause() {
    let (mut m, held) = listening(300);
    accept(&mut m, held.ticket, ok(2, 11, &[(1, 6)], &[0]), 40);
    assert!(due(&mut m, 40) >= 120, "while its listener stops a partition, it beats at the interval");
}

#[test]
fn a_confirmation_does_not_wait_for_a_held_answer() {
    let (mut m, b) = listening(200);
    accept(&mut m, b.ticket, ok(2, 11, &[(1, 6)], &[0]), 210);
    let held = beat(&mut m, 320);
    assert!(held.body.wait_ms > 0);
    assert!(m.request(330 * MS).is_none(), "one at a time");
    m.finished(Callback::Revoke, &[(p(0), 5)], 340 * MS);
    effects(&mut m);
    let confirm = beat(&mut m, 340);
    assert_eq!((confirm.body.assignment_revision, confirm.body.wait_ms), (Some(11), 0));
    assert_eq!(accept(&mut m, held.ticket, ok(2, 14, &[(5, 50)], &[]), 341), vec![], "replaced: its answer says nothing");
}

#[test]
fn a_taken_partition_keeps_the_deadline_it_had() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    let mut r = ok(2, 11, &[(1, 6)], &[]);
    r.taken = topic(&[0]);
    let e = accept(&mut m, b.ticket, r, 210);
    assert_eq!(e, vec![Effect::Cap((p(0), 5), 1_020 * MS), Effect::Lease { deadline: 1_200 * MS }, Effect::Revoke(vec![(p(0), 5)])]);
    m.tick(1_020 * MS);
    assert_eq!(effects(&mut m), vec![Effect::Lose { granted: vec![(p(0), 5)], reason: Reason::Taken, at: 1_020 * MS }]);
}

#[test]
fn what_an_assignment_does_not_name_at_all_is_lost_at_once() {
    let mut m = joined(|_| {});
    let b = beat(&mut m, 200);
    let e = accept(&mut m, b.ticket, ok(2, 11, &[(1, 6)], &[]), 210);
    assert_eq!(e[1], Effect::Lose { granted: vec![(p(0), 5)], reason: Reason::Taken, at: 210 * MS });
    let b = beat(&mut m, 320);
    assert_eq!(b.body.assignment_revision, Some(10), "not applied before the listener knows");
}

#[test]
fn a_leave_stops_everything_first_and_takes_nothing_new() {
    let mut m = joined(|_| {});
    m.leave();
    assert_eq!(effects(&mut m), vec![Effect::Revoke(vec![(p(0), 5), (p(1), 6)])]);
    assert!(!m.may_leave());
    let b = beat(&mut m, 200);
    assert_eq!((b.body.assignment_revision, owned(&b)), (Some(10), vec![0, 1]));
    assert_eq!(accept(&mut m, b.ticket, ok(2, 11, &[(1, 6), (2, 9)], &[]), 210), vec![Effect::Lease { deadline: 1_200 * MS }]);
    m.finished(Callback::Revoke, &[(p(0), 5), (p(1), 6)], 300 * MS);
    assert!(m.may_leave());
    assert_eq!(m.seen(), 10);
    assert!(m.request(2_000 * MS).is_none());
}

#[test]
fn a_leave_after_a_lapse_does_not_join_again() {
    let mut m = joined(|_| {});
    m.leave();
    m.tick(1_020 * MS);
    m.finished(Callback::Lost, &[(p(0), 5), (p(1), 6)], 1_100 * MS);
    assert!(m.may_leave());
    assert!(m.request(5_000 * MS).is_none());
}

#[test]
fn without_self_fencing_nothing_lapses() {
    let mut m = joined(|c| c.self_fencing = false);
    m.tick(1_000_000 * MS);
    assert_eq!(effects(&mut m), vec![]);
}
