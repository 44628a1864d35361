//! Histories whose verdict is known, and small random ones against brute force.

use super::{*, offsets::{Offsets, Op, Value}, groups::{self, Groups}, settings::{self, Settings}, topics::Topics};

fn v(n: i64) -> Value { Value::of(n) }
fn call<O>(op: O, invoked: u64, returned: u64) -> Call<O> { Call { op, invoked, end: End::Returned(returned) } }
fn open<O>(op: O, invoked: u64) -> Call<O> { Call { op, invoked, end: End::Unknown } }
fn commit(token: u64, seq: u64, n: i64) -> Op { Op::Commit { token, seq, value: v(n) } }
fn fetch(n: i64) -> Op { Op::Fetch { found: (n >= 0).then(|| v(n)) } }
fn fine(calls: &[Call<Op>]) { assert_eq!(check::<Offsets>(calls, STEPS), Checked::Linearizable); }
fn not(calls: &[Call<Op>], which: usize) { assert!(matches!(check::<Offsets>(calls, STEPS), Checked::Not { call, .. } if call == which), "{:?}", check::<Offsets>(calls, STEPS)); }

#[test]
fn a_fetch_after_an_acknowledged_commit_sees_it() {
    fine(&[call(fetch(-1), 0, 1), call(commit(1, 1, 10), 2, 3), call(fetch(10), 4, 5)]);
    not(&[call(commit(1, 1, 10), 2, 3), call(fetch(-1), 4, 5)], 1);
    not(&[call(commit(1, 1, 10), 2, 3), call(commit(1, 2, 11), 4, 5), call(fetch(10), 6, 7)], 2);
    not(&[call(fetch(10), 0, 1), call(commit(1, 1, 10), 2, 3)], 0);
}

#[test]
fn calls_that_overlap_may_be_ordered_either_way() {
    fine(&[call(commit(1, 1, 10), 0, 9), call(fetch(-1), 1, 2)]);
    fine(&[call(commit(1, 1, 10), 0, 9), call(fetch(10), 1, 2)]);
    // Touching at one instant is overlapping.
    fine(&[call(commit(1, 1, 10), 0, 5), call(fetch(-1), 5, 6)]);
    // Seen once, it has happened.
    not(&[call(commit(1, 1, 10), 0, 9), call(fetch(10), 1, 2), call(fetch(-1), 3, 4)], 2);
}

#[test]
fn a_call_of_unknown_outcome_happens_at_any_time_or_never() {
    fine(&[open(commit(1, 1, 10), 0), call(fetch(-1), 1, 2), call(fetch(-1), 900, 901)]);
    fine(&[open(commit(1, 1, 10), 0), call(fetch(-1), 1, 2), call(fetch(10), 900, 901)]);
    // Once only, and not before it was made.
    not(&[open(commit(1, 1, 10), 0), call(fetch(10), 1, 2), call(fetch(-1), 3, 4)], 2);
    not(&[call(fetch(10), 1, 2), open(commit(1, 1, 10), 3)], 0);
    // A later commit of the same member overtakes it for good.
    not(&[open(commit(1, 1, 10), 0), call(commit(1, 2, 11), 1, 2), call(fetch(10), 3, 4)], 2);
    // Two of them, seen in either order of their numbers only if the sequence allows.
    fine(&[open(commit(1, 1, 10), 0), open(commit(1, 2, 11), 0), call(fetch(10), 1, 2), call(fetch(11), 3, 4)]);
    not(&[open(commit(1, 1, 10), 0), open(commit(1, 2, 11), 0), call(fetch(11), 1, 2), call(fetch(10), 3, 4)], 3);
    // A fetch without an answer says nothing.
    fine(&[open(fetch(77), 0), call(fetch(-1), 1, 2)]);
}

#[test]
fn a_commit_under_an_earlier_token_or_sequence_is_never_accepted() {
    not(&[call(commit(2, 1, 10), 0, 1), call(commit(1, 9, 11), 2, 3)], 1);
    not(&[call(commit(2, 5, 10), 0, 1), call(commit(2, 4, 11), 2, 3)], 1);
    // The same one again is a retry.
    fine(&[call(commit(2, 5, 10), 0, 1), call(commit(2, 5, 10), 2, 3), call(fetch(10), 4, 5)]);
}

#[test]
fn an_administrators_calls_are_seen_by_whoever_asks_later() {
    let before = [call(commit(1, 3, 10), 0, 1)];
    let with = |more: &[Call<Op>]| [&before[..], more].concat();
    fine(&with(&[call(Op::Set { value: v(2) }, 2, 3), call(fetch(2), 4, 5)]));
    not(&with(&[call(Op::Set { value: v(2) }, 2, 3), call(fetch(10), 4, 5)]), 2);
    fine(&with(&[call(Op::Clear, 2, 3), call(fetch(-1), 4, 5)]));
    not(&with(&[call(Op::Clear, 2, 3), call(fetch(10), 4, 5)]), 2);
    // A topic that was deleted takes its offsets along some time later, also those that came meanwhile.
    let again = Call { op: Op::Clear, invoked: 2, end: End::Repeats };
    fine(&with(&[again.clone(), call(fetch(10), 4, 5), call(fetch(-1), 6, 7), call(commit(1, 4, 12), 8, 9), call(fetch(-1), 10, 11)]));
    not(&with(&[again, call(fetch(-1), 6, 7), call(fetch(10), 8, 9)]), 3);
}

#[test]
fn what_goes_with_a_fetched_offset_counts_too() {
    let said = |text: &str| Value { offset: 5, metadata: text.into() };
    let history = |found| [call(Op::Commit { token: 1, seq: 1, value: said("a") }, 0, 1), call(Op::Fetch { found: Some(found) }, 2, 3)];
    fine(&history(said("a")));
    not(&history(said("b")), 1);
}

#[test]
fn topics_grow_and_go() {
    use super::topics::Op::*;
    let fine = |calls: &[Call<topics::Op>]| check::<Topics>(calls, STEPS) == Checked::Linearizable;
    assert!(fine(&[call(Declare { partitions: 3 }, 0, 1), call(Get { found: Some(3) }, 2, 3), open(Declare { partitions: 5 }, 4), call(Get { found: Some(5) }, 6, 7), call(Delete, 8, 9), call(Get { found: None }, 10, 11)]));
    assert!(!fine(&[call(Declare { partitions: 3 }, 0, 1), call(Declare { partitions: 4 }, 2, 3), call(Get { found: Some(3) }, 4, 5)]));
    assert!(!fine(&[call(Declare { partitions: 4 }, 0, 1), call(Declare { partitions: 3 }, 2, 3)]));
    assert!(!fine(&[call(Declare { partitions: 4 }, 0, 1), call(Delete, 2, 3), call(Get { found: Some(4) }, 4, 5)]));
}

/// Small numbers, that repeat.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Every order of every choice of unknown calls, tried one by one.
fn brute_force<M: Model>(calls: &[Call<M::Op>], state: &M::State, taken: u32) -> bool {
    let returned = |k: usize| if let End::Returned(at) = calls[k].end { at } else { u64::MAX };
    let open: Vec<usize> = (0..calls.len()).filter(|k| taken & 1 << k == 0).collect();
    if open.iter().all(|k| returned(*k) == u64::MAX) { return true; }
    // Whoever was called after an open one had returned must wait for it.
    let first = open.iter().map(|k| returned(*k)).min().unwrap_or(u64::MAX);
    open.iter().filter(|k| calls[**k].invoked <= first).any(|k| M::step(state, &calls[*k].op).is_some_and(|s| {
        let again = calls[*k].end == End::Repeats;
        // One that repeats is not used up; where it changes nothing there is nothing to try.
        if again { s != *state && brute_force::<M>(calls, &s, taken) } else { brute_force::<M>(calls, &s, taken | 1 << k) }
    }))
}

#[test]
fn small_histories_are_judged_as_brute_force_judges_them() {
    let mut dice = Dice(7);
    let (mut yes, mut no) = (0, 0);
    for round in 0..30_000 {
        let calls: Vec<Call<Op>> = (0..1 + dice.roll(6)).map(|_| {
            let op = match dice.roll(10) {
                0..=3 => commit(1 + dice.roll(2), dice.roll(3), dice.roll(3) as i64),
                4 => Op::Set { value: v(dice.roll(3) as i64) },
                5 => Op::Clear,
                _ => fetch(dice.roll(4) as i64 - 1),
            };
            let invoked = dice.roll(12);
            let end = match dice.roll(4) {
                0 if !Offsets::reads(&op) => End::Unknown,
                1 if op == Op::Clear => End::Repeats,
                _ => End::Returned(invoked + 1 + dice.roll(5)),
            };
            Call { op, invoked, end }
        }).collect();
        let truth = brute_force::<Offsets>(&calls, &Offsets::start(), 0);
        match check::<Offsets>(&calls, STEPS) {
            Checked::Linearizable => assert!(truth, "round {round}: taken for fine: {calls:?}"),
            Checked::Not { why, .. } => assert!(!truth, "round {round}: {why}: {calls:?}"),
            Checked::Undecided => panic!("round {round}: undecided: {calls:?}"),
        }
        if truth { yes += 1 } else { no += 1 }
    }
    assert!(yes > 5_000 && no > 5_000, "{yes} linearizable, {no} not: the histories are one-sided");
}

#[test]
fn small_histories_of_a_topic_too() {
    use super::topics::Op::*;
    let mut dice = Dice(11);
    let (mut yes, mut no) = (0, 0);
    for round in 0..20_000 {
        let calls: Vec<Call<topics::Op>> = (0..1 + dice.roll(6)).map(|_| {
            let op = match dice.roll(5) {
                0 | 1 => Declare { partitions: 1 + dice.roll(3) as i32 },
                2 => Delete,
                _ => Get { found: Some(dice.roll(4) as i32).filter(|n| *n > 0) },
            };
            let invoked = dice.roll(12);
            let end = if dice.roll(3) == 0 && !Topics::reads(&op) { End::Unknown } else { End::Returned(invoked + 1 + dice.roll(5)) };
            Call { op, invoked, end }
        }).collect();
        let truth = brute_force::<Topics>(&calls, &None, 0);
        assert_eq!(check::<Topics>(&calls, STEPS) == Checked::Linearizable, truth, "round {round}: {calls:?}");
        if truth { yes += 1 } else { no += 1 }
    }
    assert!(yes > 3_000 && no > 3_000, "{yes} linearizable, {no} not: the histories are one-sided");
}

/// A history as a busy partition would leave it: some clients, some answers lost. True to a register, so it must be found fine.
fn long(calls: u64, clients: u64, lost_of_ten: u64) -> Vec<Call<Op>> {
    let mut dice = Dice(calls * 31 + clients);
    let (mut free, mut made, mut value, mut seq) = (vec![0u64; clients as usize], Vec::new(), None, 0);
    let mut now = 0u64;
    for n in 0..calls {
        // The effect happens at `now`, somewhere between call and answer; each client does one thing at a time.
        now += 10;
        let client = dice.roll(clients) as usize;
        let invoked = free[client].max(now.saturating_sub(dice.roll(60)));
        let returned = now + dice.roll(60);
        if invoked > now { continue; }
        free[client] = returned + 1;
        if n % 3 == 0 {
            seq += 1;
            let op = commit(1, seq, seq as i64);
            let lost = dice.roll(10) < lost_of_ten;
            // Of the lost ones half took effect.
            if !lost || dice.roll(2) == 0 { value = Some(v(seq as i64)); }
            made.push(if lost { open(op, invoked) } else { call(op, invoked, returned) });
        } else {
            made.push(call(Op::Fetch { found: value.clone() }, invoked, returned));
        }
    }
    made
}

#[test]
fn hundreds_of_calls_take_few_steps() {
    for (calls, clients, lost) in [(600, 3, 0), (600, 6, 3), (2_000, 4, 5), (900, 8, 2)] {
        let history = long(calls, clients, lost);
        assert!(history.len() > 200);
        // Not a clock but the work itself: 100,000 steps are some tens of ms.
        assert_eq!(check::<Offsets>(&history, 100_000), Checked::Linearizable, "{calls} calls of {clients} clients");
        // One answer that is too old, in the midst of it, is found.
        let mut wrong = history;
        let at = wrong.iter().rposition(|c| Offsets::reads(&c.op)).unwrap();
        wrong[at].op = fetch(1);
        assert!(matches!(check::<Offsets>(&wrong, 100_000), Checked::Not { call, .. } if call == at));
    }
}

#[test]
fn a_group_that_is_deleted_is_gone_until_somebody_makes_it_again() {
    use groups::Op::*;
    let check = |calls: &[Call<groups::Op>]| check::<Groups>(calls, STEPS);
    let (yes, no) = (Look { found: true }, Look { found: false });
    assert_eq!(check(&[call(no.clone(), 0, 1), call(Make, 2, 3), call(yes.clone(), 4, 5), call(Delete, 6, 7), call(no.clone(), 8, 9)]), Checked::Linearizable);
    assert!(matches!(check(&[call(Make, 0, 1), call(Delete, 2, 3), call(yes.clone(), 4, 5)]), Checked::Not { call: 2, .. }));
    assert!(matches!(check(&[call(Make, 0, 1), call(no.clone(), 2, 3)]), Checked::Not { call: 1, .. }));
    assert!(matches!(check(&[call(Delete, 0, 1)]), Checked::Not { call: 0, .. }));
    // A join without an answer may have made it again, and a deletion without one may have ended it.
    assert_eq!(check(&[call(Make, 0, 1), open(Make, 1), call(Delete, 2, 3), call(yes.clone(), 4, 5)]), Checked::Linearizable);
    assert_eq!(check(&[call(Make, 0, 1), open(Delete, 1), call(no, 4, 5)]), Checked::Linearizable);
    // A crowd that joins at once is cheap.
    let crowd: Vec<Call<groups::Op>> = (0..40).map(|n| call(Make, 0, 100 + n)).chain((0..40).map(|n| call(yes.clone(), 50, 100 + n))).collect();
    assert_eq!(super::check::<Groups>(&crowd, 10_000), Checked::Linearizable);
}

#[test]
fn a_setting_is_what_was_written_last() {
    use settings::Op::*;
    let check = |calls: &[Call<settings::Op>]| check::<Settings>(calls, STEPS);
    assert_eq!(check(&[call(Get { found: 45 }, 0, 1), call(Set(6), 2, 3), call(Get { found: 6 }, 4, 5)]), Checked::Linearizable);
    assert!(matches!(check(&[call(Set(6), 0, 1), call(Set(4), 2, 3), call(Get { found: 6 }, 4, 5)]), Checked::Not { call: 2, .. }));
    assert_eq!(check(&[call(Set(6), 0, 1), open(Set(4), 2), call(Get { found: 6 }, 4, 5), call(Get { found: 4 }, 6, 7)]), Checked::Linearizable);
    assert!(matches!(check(&[call(Set(6), 0, 1), open(Set(4), 2), call(Get { found: 4 }, 4, 5), call(Get { found: 6 }, 6, 7)]), Checked::Not { call: 3, .. }));
}
