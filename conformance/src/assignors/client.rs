//! The assignors that Kafka's clients run.

use super::{
    Ran,
    case::{Case, Member},
};
use anyhow::Result;
use baton_coordinator::{
    assign::client::{self, CLIENT, ClientGroup, ClientMember, ClientTopic},
    embedded::{NO_GENERATION, Subscription},
    ids::Partition,
};
use std::collections::BTreeSet;

/// Runs the assignor that the case names.
pub fn run(case: &Case) -> Result<Ran> {
    let group = ClientGroup {
        members: case.members.iter().map(|m| Ok((m.id.as_str().into(), member(case, m)?))).collect::<Result<_>>()?,
        topics: case.topics.iter().enumerate().filter(|(_, t)| t.parts >= 0).map(|(at, t)| (t.name.as_str().into(), ClientTopic { partitions: t.parts, racks: racks(at, t.racks, t.parts) })).collect(),
    };
    let given = client::assign(&case.assignor, &group);
    Ok(given.map_or(Ran::Unknown, |a| Ran::Gave(a.into_iter().map(|(m, ps)| (m.to_string(), ps.into_iter().map(|p| (p.topic.to_string(), p.partition)).collect())).collect())))
}

/// What a member brings depends on the assignor: sticky has what it owned in the user data, cooperative-sticky in the subscription.
fn member(case: &Case, m: &Member) -> Result<ClientMember> {
    let current: Vec<Partition> = m.cur.partitions()?.into_iter().map(|(t, p)| Partition::new(t.as_str(), p)).collect();
    let cooperative = case.assignor == "cooperative-sticky";
    let assignor = CLIENT.iter().find(|a| a.name() == case.assignor);
    let user_data = if m.r#gen == NO_GENERATION && current.is_empty() { None } else { assignor.and_then(|a| a.user_data(&current, m.r#gen)) };
    Ok(ClientMember {
        instance: m.inst.as_deref().map(Into::into),
        subscription: Subscription {
            topics: case.subscription(m).iter().map(|t| t.as_str().into()).collect(),
            user_data,
            owned: if cooperative { current } else { Vec::new() },
            generation: if cooperative { m.r#gen } else { NO_GENERATION },
            rack: m.rack.clone().filter(|r| !r.is_empty()),
        },
    })
}

/// The racks of the recorded clusters: three, and each partition has replicas on two neighbours.
fn racks(topic_at: usize, has_racks: bool, partitions: i32) -> Vec<BTreeSet<String>> {
    let count = if has_racks { usize::try_from(partitions).unwrap_or(0) } else { 0 };
    (0..count).map(|p| [format!("r{}", (topic_at + p) % 3), format!("r{}", (topic_at + p + 1) % 3)].into()).collect()
}
