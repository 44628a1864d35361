//! Whether what we gave is what Kafka gave, as far as Kafka's result can be asked for, and the rules under which we differ on purpose.

use super::case::{Assigned, Case, Det};
use crate::report::Verdict;
use anyhow::{Context, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Kafka's assignor throws when a subscribed topic does not exist; ours leaves the topic out and assigns the rest.
pub const MISSING_TOPIC: &str = "missing-topic: Kafka's assignor throws if a subscribed topic does not exist; ours assigns the others";
/// Kafka's client assignors throw when there is no member at all; ours assign nothing.
pub const NO_MEMBERS: &str = "no-members: Kafka's client assignors throw if there is no member; ours assign nothing";
/// Kafka gave a partition to a member that is not subscribed to it; ours gives a valid assignment.
pub const ASSIGNED_UNSUBSCRIBED: &str = "assigned-unsubscribed: Kafka gave a partition to a member without a subscription to it; ours never does";

/// Judges the assignment `given` for `case`.
pub fn judge(case: &Case, given: &Assigned) -> Result<Verdict> {
    let flaws = flaws(case, given)?;
    if let Some(flaw) = flaws.first() {
        return Ok(Verdict::Unexplained(format!("not a valid assignment: {flaw} ({} flaws)", flaws.len())));
    }
    if let Some(rule) = rule_for_an_error(case) {
        return Ok(Verdict::Explained(rule));
    }
    let Some(expected) = case.expected()? else {
        return Ok(Verdict::Unexplained(format!("Kafka threw {:?}", case.error)));
    };
    match (case.det, case.quirk.as_deref()) {
        (_, Some("assigned-unsubscribed")) => Ok(Verdict::Explained(ASSIGNED_UNSUBSCRIBED)),
        (_, Some(quirk)) => Ok(Verdict::Unexplained(format!("the quirk {quirk:?} is not known here"))),
        (Det::Any | Det::Sorted, None) => Ok(equal(&expected, given)),
        (Det::Props, None) => properties(case, &expected, given),
    }
}

/// The rule under which Kafka's exception and our valid assignment go together.
fn rule_for_an_error(case: &Case) -> Option<&'static str> {
    case.error.as_ref()?;
    if case.members.is_empty() {
        return Some(NO_MEMBERS);
    }
    case.members.iter().flat_map(|m| case.subscription(m)).any(|t| case.partitions(t).is_none()).then_some(MISSING_TOPIC)
}

/// What is wrong with an assignment by itself: partitions twice, at strangers, at members without a subscription, or without an owner.
/// Cooperative-sticky must leave out a partition that somebody still has to give up.
fn flaws(case: &Case, given: &Assigned) -> Result<Vec<String>> {
    let mut flaws = Vec::new();
    let mut owners: BTreeMap<&(String, i32), &str> = BTreeMap::new();
    for (member, partitions) in given {
        let Some(m) = case.members.iter().find(|m| m.id == *member) else {
            flaws.push(format!("{member} is not a member"));
            continue;
        };
        for tp in partitions {
            if let Some(other) = owners.insert(tp, member) {
                flaws.push(format!("{}:{} belongs to {other} and {member}", tp.0, tp.1));
            }
            if !case.subscription(m).contains(&tp.0) {
                flaws.push(format!("{member} has {}:{} without a subscription", tp.0, tp.1));
            }
            if !case.partitions(&tp.0).is_some_and(|n| (0..n).contains(&tp.1)) {
                flaws.push(format!("{}:{} does not exist", tp.0, tp.1));
            }
        }
    }
    // Partition → who says that it owns it.
    let mut claims: BTreeMap<(String, i32), Vec<String>> = BTreeMap::new();
    if case.assignor == "cooperative-sticky" {
        for (member, partitions) in case.current()? {
            for tp in partitions {
                claims.entry(tp).or_default().push(member.clone());
            }
        }
    }
    for (tp, owner) in &owners {
        if let Some([holder]) = claims.get(*tp).map(Vec::as_slice)
            && holder != owner
        {
            flaws.push(format!("{}:{} goes to {owner} before {holder} has given it up", tp.0, tp.1));
        }
    }
    let topics: BTreeSet<&String> = case.members.iter().flat_map(|m| case.subscription(m)).collect();
    for topic in topics {
        for p in 0..case.partitions(topic).unwrap_or(0) {
            let tp = (topic.clone(), p);
            if !owners.contains_key(&tp) && !claims.contains_key(&tp) {
                flaws.push(format!("{topic}:{p} has no owner"));
            }
        }
    }
    flaws.extend(case.members.iter().filter(|m| !given.contains_key(&m.id)).map(|m| format!("{} is left out", m.id)));
    Ok(flaws)
}

fn equal(expected: &Assigned, given: &Assigned) -> Verdict {
    // A group without members or subscriptions: members without partitions may be written or left out.
    let full = |a: &Assigned| a.iter().filter(|(_, p)| !p.is_empty()).map(|(m, p)| (m.clone(), p.clone())).collect::<Assigned>();
    let (e, g) = (full(expected), full(given));
    if e == g {
        return Verdict::Agreed;
    }
    let members: BTreeSet<&String> = e.keys().chain(g.keys()).filter(|m| e.get(*m) != g.get(*m)).collect();
    let first = members.first().copied().cloned().unwrap_or_default();
    let show = |a: &Assigned| a.get(&first).map(|p| p.iter().map(|(t, p)| format!("{t}:{p}")).collect::<Vec<_>>().join(" ")).unwrap_or_default();
    Verdict::Unexplained(format!("{} members differ; {first} has in Kafka [{}], here [{}]", members.len(), show(&e), show(&g)))
}

/// Valid (checked before), equally even where Kafka always is, and no less sticky than Kafka's worst run.
fn properties(case: &Case, expected: &Assigned, given: &Assigned) -> Result<Verdict> {
    let stats = case.stats.as_ref().context("a case without determined result needs stats")?;
    if stats.sizes_same == Some(true) {
        let sizes = |a: &Assigned| {
            let mut sizes: Vec<usize> = case.members.iter().map(|m| a.get(&m.id).map_or(0, BTreeSet::len)).collect();
            sizes.sort_unstable();
            sizes
        };
        let (e, g) = (sizes(expected), sizes(given));
        if e != g {
            return Ok(Verdict::Unexplained(format!("the sizes are {g:?}, in Kafka {e:?}")));
        }
    }
    let current = case.current()?;
    let kept: usize = current.iter().map(|(m, before)| given.get(m).map_or(0, |now| before.intersection(now).count())).sum();
    let least = stats.kept_min.unwrap_or(stats.kept);
    if kept < least {
        return Ok(Verdict::Unexplained(format!("{kept} partitions stayed with their owner, in Kafka at least {least}")));
    }
    Ok(Verdict::Agreed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(extra: &str) -> Case {
        let text = format!(
            r#"{{"id":"x","event":"none","assignor":"sticky","side":"client","topics":[{{"name":"t","parts":4}}],"homogeneous":true,"subs":["t"],
               "members":[{{"id":"a","cur":{{"t":"0-1"}}}},{{"id":"b","cur":{{"t":"2"}}}}],{extra}}}"#
        );
        serde_json::from_str(&text).expect("a case")
    }
    fn given(a: &[i32], b: &[i32]) -> Assigned {
        let set = |ps: &[i32]| ps.iter().map(|p| ("t".to_owned(), *p)).collect();
        [("a".to_owned(), set(a)), ("b".to_owned(), set(b))].into()
    }
    fn unexplained(case: &Case, given: &Assigned) -> String {
        match judge(case, given).expect("readable") {
            Verdict::Unexplained(why) => why,
            other => panic!("{other:?}"),
        }
    }
    const EXACT: &str = r#""det":"any","out":{"a":{"t":"0-1"},"b":{"t":"2-3"}}"#;

    #[test]
    fn an_exact_case_asks_for_equality() {
        assert_eq!(judge(&case(EXACT), &given(&[0, 1], &[2, 3])).expect("readable"), Verdict::Agreed);
        assert!(unexplained(&case(EXACT), &given(&[0, 3], &[2, 1])).contains("2 members differ"));
    }

    #[test]
    fn an_invalid_assignment_is_never_explained() {
        let quirk = case(r#""det":"props","quirk":"assigned-unsubscribed","out":{}"#);
        assert_eq!(judge(&quirk, &given(&[0, 1], &[2, 3])).expect("readable"), Verdict::Explained(ASSIGNED_UNSUBSCRIBED));
        assert!(unexplained(&quirk, &given(&[0, 1], &[2])).contains("t:3 has no owner"));
        assert!(unexplained(&quirk, &given(&[0, 1, 2], &[2, 3])).contains("t:2 belongs to a and b"));
        assert!(unexplained(&quirk, &given(&[0, 1], &[2, 3, 4])).contains("t:4 does not exist"));
        let error = case(r#""det":"any","error":"SomeException""#);
        assert!(unexplained(&error, &given(&[0, 1], &[2, 3])).contains("Kafka threw"), "an exception that no rule knows");
    }

    #[test]
    fn a_case_of_properties_asks_for_sizes_and_stickiness() {
        let props = |kept: usize| case(&format!(r#""det":"props","out":{{"a":{{"t":"0-1"}},"b":{{"t":"2-3"}}}},"stats":{{"kept":{kept},"kept_min":{kept},"sizes_same":true}}"#));
        assert_eq!(judge(&props(2), &given(&[0, 3], &[2, 1])).expect("readable"), Verdict::Agreed);
        assert!(unexplained(&props(3), &given(&[0, 3], &[2, 1])).contains("2 partitions stayed"));
        assert!(unexplained(&props(2), &given(&[0, 1, 3], &[2])).contains("the sizes are [1, 3]"));
    }

    #[test]
    fn a_cooperative_move_has_no_owner_in_the_first_round() {
        let mut cooperative = case(r#""det":"props","out":{"a":{"t":"0"},"b":{"t":"2-3"}},"stats":{"kept":2,"kept_min":2,"sizes_same":true}"#);
        cooperative.assignor = "cooperative-sticky".into();
        assert_eq!(judge(&cooperative, &given(&[0], &[2, 3])).expect("readable"), Verdict::Agreed);
        assert!(unexplained(&cooperative, &given(&[0], &[1, 2, 3])).contains("t:1 goes to b before a has given it up"));
    }
}
