//! The assignors that run in the coordinator.

use super::{
    Ran,
    case::{Assigned, Case},
};
use anyhow::Result;
use baton_coordinator::{
    assign::{ASSIGNORS, Assignment, Input, assign},
    ids::{MemberId, Partition},
};
use std::collections::BTreeMap;

/// Runs the assignor that the case names. Topics that do not exist are not part of our input: the coordinator leaves them out.
pub fn run(case: &Case) -> Result<Ran> {
    if !ASSIGNORS.contains(&case.assignor.as_str()) {
        return Ok(Ran::Unknown);
    }
    let input = Input {
        subscriptions: case.members.iter().map(|m| (m.id.as_str().into(), case.subscription(m).iter().map(|t| t.as_str().into()).collect())).collect(),
        topics: case.topics.iter().filter(|t| t.parts >= 0).map(|t| (t.name.as_str().into(), t.parts)).collect(),
        previous: assignment(&case.current()?),
        instances: case.members.iter().filter_map(|m| Some((m.id.as_str().into(), m.inst.as_deref()?.into()))).collect(),
        mixed: !case.homogeneous,
        ..Input::default()
    };
    Ok(Ran::Gave(assign(&case.assignor, &input).into_iter().map(|(m, ps)| (m.to_string(), ps.into_iter().map(|p| (p.topic.to_string(), p.partition)).collect())).collect()))
}

fn assignment(a: &Assigned) -> Assignment {
    let partitions = |tps: &std::collections::BTreeSet<(String, i32)>| tps.iter().map(|(t, p)| Partition::new(t.as_str(), *p)).collect();
    a.iter().map(|(m, tps)| (MemberId::from(m.as_str()), partitions(tps))).collect::<BTreeMap<_, _>>()
}
