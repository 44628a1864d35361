//! Properties of the assignors: complete, disjoint, subscribed only, balanced, sticky, the same whatever the order of the input.
use baton_coordinator::{assign::*, ids::*};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn names(prefix: &'static str, n: usize) -> Vec<String> { (0..n).map(|i| format!("{prefix}{i}")).collect() }

prop_compose! {
    fn inputs()(members in 1usize..8, topics in 1usize..6)
        (subs in prop::collection::vec(prop::collection::vec(any::<bool>(), topics), members),
         parts in prop::collection::vec(1i32..20, topics), same in any::<bool>()) -> Input {
        let (ms, ts) = (names("m", subs.len()), names("t", parts.len()));
        let pick = |row: &Vec<bool>| ts.iter().zip(row).filter(|(_, b)| **b).map(|(t, _)| TopicName::from(t.as_str())).collect::<BTreeSet<_>>();
        Input {
            subscriptions: ms.iter().zip(&subs).map(|(m, row)| (MemberId::from(m.as_str()), pick(if same { &subs[0] } else { row }))).collect(),
            topics: ts.iter().zip(&parts).map(|(t, n)| (TopicName::from(t.as_str()), *n)).collect(),
            ..Input::default()
        }
    }
}

fn valid(input: &Input, out: &Assignment) {
    let mut seen = BTreeSet::new();
    for (m, parts) in out {
        for p in parts {
            assert!(seen.insert(p.clone()), "{p} twice");
            assert!(input.subscriptions[m].contains(&p.topic), "{p} at {m}, which is not subscribed");
            assert!(p.partition < input.topics[&p.topic]);
        }
    }
    let wanted: usize = input.topics.iter().filter(|(t, _)| input.subscriptions.values().any(|s| s.contains(*t))).map(|(_, n)| *n as usize).sum();
    assert_eq!(seen.len(), wanted, "every partition of every subscribed topic has an owner");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn both_are_valid_and_a_second_run_moves_nothing(input in inputs()) {
        for name in ASSIGNORS {
            let first = assign(name, &input);
            valid(&input, &first);
            let again = assign(name, &Input { previous: first.clone(), ..input.clone() });
            prop_assert_eq!(&again, &first, "{} is not stable", name);
        }
    }
    #[test]
    fn uniform_is_balanced_and_range_is_balanced_per_topic(input in inputs()) {
        let subs: BTreeSet<_> = input.subscriptions.values().collect();
        if subs.len() == 1 {
            let sizes: Vec<usize> = assign("uniform", &input).values().map(BTreeSet::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
        let out = assign("range", &input);
        for t in input.topics.keys() {
            let sizes: Vec<usize> = input.subscriptions.iter().filter(|(_, s)| s.contains(t)).map(|(m, _)| out[m].iter().filter(|p| p.topic == *t).count()).collect();
            if let (Some(max), Some(min)) = (sizes.iter().max(), sizes.iter().min()) { prop_assert!(max - min <= 1); }
        }
    }
    #[test]
    fn one_leaving_member_moves_only_its_own_share(input in inputs()) {
        let subs: BTreeSet<_> = input.subscriptions.values().collect();
        prop_assume!(subs.len() == 1 && input.subscriptions.len() > 1);
        let before = assign("uniform", &input);
        let mut after_input = Input { previous: before.clone(), ..input.clone() };
        let (gone, _) = after_input.subscriptions.pop_first().unwrap();
        let after = assign("uniform", &after_input);
        valid(&after_input, &after);
        for (m, parts) in &before {
            if *m != gone { prop_assert!(parts.is_subset(&after[m]), "{} lost something although nobody joined", m); }
        }
    }
}
