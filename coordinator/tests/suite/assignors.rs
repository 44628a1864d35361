//! Properties of the coordinator's assignors: complete, disjoint, subscribed only, balanced as each promises, sticky, and the same whatever the order in
//! which subscriptions are listed. Groups are small and odd on purpose: few members, unequal topics, members without subscriptions.
use baton_coordinator::{
    assign::{preferences::*, spec::*, *},
    ids::*,
};
use proptest::{prelude::*, sample::Index};
use std::collections::{BTreeMap, BTreeSet};

const ALL: [&str; 4] = ["uniform", "range", "rack-aware", "weighted"];

/// Subscriptions of members: all alike, or each its own.
fn subscriptions(members: usize, topics: usize) -> impl Strategy<Value = Vec<BTreeSet<usize>>> {
    let one = prop::collection::btree_set(0..topics, 0..=topics);
    prop_oneof![one.clone().prop_map(move |s| vec![s; members]), prop::collection::vec(one, members)]
}

prop_compose! {
    /// A group with everything that an assignor may look at, without a target.
    fn groups()(members in 1usize..9, topics in 1usize..6)
        (subs in subscriptions(members, topics), parts in prop::collection::vec(1i32..15, topics),
         places in prop::collection::vec((prop::option::of(0..3u8), prop::option::of(0..9u8), 0..4u32), members),
         facts in prop::collection::vec((prop::collection::btree_set(0..3u8, 0..3), prop_oneof![Just(1u32), 1..9u32]), 15 * 6)) -> Input {
        let member = |i: usize| MemberId::from(format!("m{i}"));
        let topic = |i: usize| TopicName::from(format!("t{i}"));
        let partitions: Vec<Partition> = parts.iter().enumerate().flat_map(|(t, n)| (0..*n).map(move |p| Partition::new(format!("t{t}"), p))).collect();
        Input {
            subscriptions: subs.iter().enumerate().map(|(m, ts)| (member(m), ts.iter().map(|t| topic(*t)).collect())).collect(),
            topics: parts.iter().enumerate().map(|(t, n)| (topic(t), *n)).collect(),
            racks: places.iter().enumerate().filter_map(|(m, p)| Some((member(m), format!("r{}", p.0?)))).collect(),
            instances: places.iter().enumerate().filter_map(|(m, p)| Some((member(m), format!("i{}", p.1?).into()))).collect(),
            capacities: places.iter().enumerate().map(|(m, p)| (member(m), p.2)).collect(),
            zones: partitions.iter().zip(&facts).map(|(p, f)| (p.clone(), f.0.iter().map(|z| format!("r{z}")).collect())).collect(),
            weights: partitions.iter().zip(&facts).map(|(p, f)| (p.clone(), f.1)).collect(),
            ..Input::default()
        }
    }
}

prop_compose! {
    /// A group whose target is any nonsense: strangers, lost subscriptions, partitions that are gone.
    fn disturbed()(input in groups(), owners in prop::collection::vec(0..12u8, 15 * 6)) -> Input {
        let mut previous = Assignment::new();
        for (p, o) in (0..6).flat_map(|t| (0..15).map(move |p| Partition::new(format!("t{t}"), p))).zip(owners) {
            previous.entry(format!("m{o}").into()).or_default().insert(p);
        }
        Input { previous, ..input }
    }
}

fn valid(input: &Input, out: &Assignment) -> Result<(), TestCaseError> {
    let mut seen = BTreeSet::new();
    for (m, parts) in out {
        for p in parts {
            prop_assert!(seen.insert(p.clone()), "{p} twice");
            prop_assert!(input.subscriptions[m].contains(&p.topic), "{p} at {m}, which is not subscribed");
            prop_assert!((0..input.topics[&p.topic]).contains(&p.partition), "{p} does not exist");
        }
    }
    let wanted: usize = input.topics.iter().filter(|(t, _)| input.subscriptions.values().any(|s| s.contains(*t))).map(|(_, n)| *n as usize).sum();
    prop_assert_eq!(seen.len(), wanted, "every partition of every subscribed topic has an owner");
    prop_assert_eq!(out.len(), input.subscriptions.len(), "every member is listed");
    Ok(())
}

fn same_subscriptions(input: &Input) -> bool { input.subscriptions.values().collect::<BTreeSet<_>>().len() == 1 }
fn spread(sizes: impl Iterator<Item = usize> + Clone) -> usize { sizes.clone().max().unwrap_or(0) - sizes.min().unwrap_or(0) }
fn owners(a: &Assignment) -> BTreeMap<&Partition, &MemberId> { a.iter().flat_map(|(m, ps)| ps.iter().map(move |p| (p, m))).collect() }
fn near(input: &Input, m: &MemberId, p: &Partition) -> bool {
    match (input.racks.get(m), input.zones.get(p)) {
        (Some(rack), Some(zones)) => zones.is_empty() || zones.contains(rack),
        _ => true,
    }
}
fn near_count(input: &Input, a: &Assignment) -> usize { owners(a).iter().filter(|(p, m)| near(input, m, p)).count() }
/// Partitions that an owner who may keep them loses.
fn moves(input: &Input, after: &Assignment) -> usize {
    let now = owners(after);
    let kept = |(p, m): (&Partition, &MemberId)| match now.get(p) {
        Some(owner) => input.subscriptions.get(m).is_some_and(|s| s.contains(&p.topic)) && *owner != m,
        None => false,
    };
    owners(&input.previous).into_iter().filter(|(p, m)| kept((p, m))).count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, max_global_rejects: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn every_assignor_is_valid_whatever_the_target_before(input in disturbed(), moves_max in prop::option::of(0..5usize)) {
        let input = Input { moves_max, ..input };
        for name in ALL { valid(&input, &assign(name, &input))?; }
    }

    #[test]
    fn a_second_run_moves_nothing(input in groups()) {
        for name in ALL {
            // With unequal subscriptions rack-aware may go on where exchanges let uniform become more even.
            if name == "rack-aware" && !same_subscriptions(&input) { continue; }
            let first = assign(name, &input);
            prop_assert_eq!(&assign(name, &Input { previous: first.clone(), ..input.clone() }), &first, "{} is not stable", name);
        }
    }

    #[test]
    fn uniform_and_rack_aware_differ_by_at_most_one_with_equal_subscriptions(input in disturbed()) {
        prop_assume!(same_subscriptions(&input));
        for name in ["uniform", "rack-aware"] { prop_assert!(spread(assign(name, &input).values().map(BTreeSet::len)) <= 1, "{}", name); }
    }

    #[test]
    fn uniform_leaves_no_move_within_a_topic_that_would_even_out_two_members(input in disturbed()) {
        let out = assign("uniform", &input);
        for (p, a) in owners(&out) {
            for (b, _) in input.subscriptions.iter().filter(|(_, topics)| topics.contains(&p.topic)) {
                prop_assert!(out[a].len() <= out[b].len() + 1, "{} of {} would be better off with {}", p, a, b);
            }
        }
    }

    #[test]
    fn range_is_contiguous_and_even_within_each_topic(input in disturbed()) {
        let out = assign("range", &input);
        for t in input.topics.keys() {
            let of_topic: Vec<Vec<i32>> = input.subscriptions.iter().filter(|(_, s)| s.contains(t)).map(|(m, _)| out[m].iter().filter(|p| p.topic == *t).map(|p| p.partition).collect()).collect();
            prop_assert!(spread(of_topic.iter().map(Vec::len)) <= 1);
            for ps in of_topic { prop_assert!(ps.windows(2).all(|w| w[1] == w[0] + 1), "{:?} is not a range", ps); }
        }
    }

    #[test]
    fn uniform_moves_only_what_a_leaver_had_and_only_to_a_joiner(input in groups(), who in any::<Index>()) {
        prop_assume!(same_subscriptions(&input) && input.subscriptions.len() > 1);
        let one = input.subscriptions.keys().nth(who.index(input.subscriptions.len())).unwrap().clone();
        let mut without = input.clone();
        without.subscriptions.remove(&one);
        let (with_one, without_one) = (assign("uniform", &input), assign("uniform", &without));
        let left = assign("uniform", &Input { previous: with_one.clone(), ..without.clone() });
        for (m, parts) in &left { prop_assert!(with_one[m].is_subset(parts), "{} lost something although nobody joined", m); }
        let joined = assign("uniform", &Input { previous: without_one.clone(), ..input.clone() });
        for (m, parts) in &joined { prop_assert!(*m == one || parts.is_subset(&without_one[m]), "{} won something although nobody left", m); }
    }

    #[test]
    fn rack_aware_costs_no_balance_and_two_moves_per_partition_brought_near(input in disturbed()) {
        let (plain, near_ones) = (assign("uniform", &input), assign("rack-aware", &input));
        let sizes = |a: &Assignment| { let mut s: Vec<usize> = a.values().map(BTreeSet::len).collect(); s.sort_unstable(); s };
        if same_subscriptions(&input) {
            prop_assert_eq!(sizes(&plain), sizes(&near_ones));
            let gain = near_count(&input, &near_ones).checked_sub(near_count(&input, &plain));
            prop_assert!(gain.is_some_and(|g| moves(&input, &near_ones) <= moves(&input, &plain) + 2 * g), "gain {:?}", gain);
        } else {
            prop_assert!(spread(near_ones.values().map(BTreeSet::len)) <= spread(plain.values().map(BTreeSet::len)), "{:?} {:?}", sizes(&plain), sizes(&near_ones));
        }
    }

    #[test]
    fn rack_aware_leaves_no_exchange_that_would_bring_a_partition_nearer(input in disturbed()) {
        prop_assume!(same_subscriptions(&input));
        let out = assign("rack-aware", &input);
        let by_partition = owners(&out);
        for (p, a) in &by_partition {
            for (b, has) in &out {
                if near(&input, a, p) || !near(&input, b, p) { continue; }
                prop_assert!(has.len() >= out[*a].len(), "{} of {} could simply go to {}", p, a, b);
                for q in has {
                    prop_assert!(near(&input, b, q) && !near(&input, a, q), "{} of {} and {} of {} could change places", p, a, q, b);
                }
            }
        }
    }

    #[test]
    fn weighted_keeps_to_the_bound_on_moves(input in disturbed(), moves_max in 0..6usize) {
        let out = assign("weighted", &Input { moves_max: Some(moves_max), ..input.clone() });
        prop_assert!(moves(&input, &out) <= moves_max);
    }

    #[test]
    fn weighted_leaves_no_move_that_would_even_out_two_members(input in disturbed()) {
        let out = assign("weighted", &input);
        let load = |m: &MemberId| out[m].iter().map(|p| u64::from(input.weights[p])).sum::<u64>();
        let capacity = |m: &MemberId| u64::from(input.capacities[m]);
        for (p, a) in owners(&out) {
            for (b, topics) in &input.subscriptions {
                if b == a || !topics.contains(&p.topic) { continue; }
                let with = load(b) + u64::from(input.weights[p]);
                // with / capacity(b) < load(a) / capacity(a), where everything on capacity 0 is above all else.
                let better = match (capacity(b), capacity(a)) { (0, 0) => with < load(a), (0, _) => false, (_, 0) => true, (cb, ca) => with * ca < load(a) * cb };
                prop_assert!(!better, "{} of {} ({}/{}) would be better off with {} ({}/{})", p, a, load(a), capacity(a), b, load(b), capacity(b));
            }
        }
    }

    #[test]
    fn weighted_without_weights_is_even(input in disturbed()) {
        prop_assume!(same_subscriptions(&input));
        let out = assign("weighted", &Input { weights: BTreeMap::new(), capacities: BTreeMap::new(), ..input });
        prop_assert!(spread(out.values().map(BTreeSet::len)) <= 1);
    }

    #[test]
    fn the_order_in_which_subscriptions_are_listed_does_not_matter(
        counts in prop::collection::vec(1u32..8, 1..6), picks in prop::collection::vec(prop::collection::btree_set(0..6u32, 0..6), 1..9), before in prop::collection::vec(0..12u32, 40),
        zones in prop::collection::vec(0..3u32, 9 + 40),
    ) {
        let topics = counts.len() as u32;
        let of_member: Vec<Vec<u32>> = picks.iter().map(|s| s.iter().copied().filter(|t| *t < topics).collect()).collect();
        let total: u32 = counts.iter().sum();
        let spec = |reversed: bool| {
            let mut distinct: Vec<Vec<u32>> = of_member.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
            if reversed { distinct.reverse(); }
            let number = |s: &Vec<u32>| distinct.iter().position(|d| d == s).unwrap() as u32;
            let places = Zones { of_member: zones[..of_member.len()].to_vec(), sets: (0..3).map(|z| vec![z]).collect(), set_of: zones[9..9 + total as usize].to_vec() };
            let previous = before[..total as usize].iter().map(|m| if (*m as usize) < of_member.len() { *m } else { NOBODY }).collect();
            Spec::new(&counts, distinct.clone(), of_member.iter().map(number).collect()).and_then(|s| s.with_previous(previous)).and_then(|s| s.with_zones(places)).unwrap()
        };
        for assignor in &SERVER {
            prop_assert_eq!(assignor.assign(&spec(false)), assignor.assign(&spec(true)), "{}", assignor.name());
        }
    }
}
