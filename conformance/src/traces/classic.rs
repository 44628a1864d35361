//! The classic protocol's requests, answers and groups, between the words of a trace and the coordinator's.

use super::{trace::*, world::*};
use baton_coordinator::{classic::*, command::*, embedded::*, ids::*};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The request of a step.
pub fn command(w: &World, s: &Step) -> Result<Command, String> {
    let (member, instance_id) = (w.names.id(s.text("m")), s.maybe("inst").map(InstanceId::from));
    let generation = s.number("gen") as i32;
    // An id that Kafka made of nothing else than random bits, which were drawn so that it sorts last: Baton's has to be as far behind, for assignors go by the order of ids.
    let client = if s.res.as_ref().and_then(|r| r["m"].as_str()).is_some_and(|m| m.starts_with("zu*")) { "zu" } else { s.text("client") };
    let command = match s.op.as_str() {
        "join" => ClassicCommand::Join(Box::new(Join {
            member, instance_id, client_id: client.into(), client_host: "/127.0.0.1".into(), session_timeout_ms: s.number("session") as u64,
            rebalance_timeout_ms: s.number("rt") as u64, protocol_type: "consumer".into(), protocols: protocols(s)?, version: s.number("v") as i16,
            random: u128::from(s.t) << 32, reason: None,
        })),
        "sync" => {
            let assignments = s.fields.get("assignments").and_then(Value::as_object).into_iter().flatten().map(|(m, p)| Ok((w.names.id(m), assigned(p)?)));
            let assignments = assignments.collect::<Result<_, String>>()?;
            ClassicCommand::Sync(Sync { member, instance_id, generation, protocol_type: Some("consumer".into()), protocol: s.maybe("protocol").map(String::from), assignments })
        }
        "heartbeat" => ClassicCommand::Heartbeat(Beat { member, instance_id, generation }),
        "leave" => ClassicCommand::Leave(vec![Leaver { member, instance_id, reason: None }]),
        other => return Err(format!("the replay does not know the operation {other}")),
    };
    Ok(Command::Classic(command))
}

fn partition_list(ranges: &Value) -> Vec<Partition> { partitions(ranges).into_iter().map(|(t, p)| Partition::new(t, p)).collect() }
fn assigned(ranges: &Value) -> Result<Opaque, String> {
    Assigned { partitions: partition_list(ranges), user_data: None }.encode(VERSION_MAX).map(Opaque::from).map_err(|e| format!("{e:?}"))
}
fn protocols(s: &Step) -> Result<Vec<(String, Opaque)>, String> {
    let one = |p: &Value| {
        let topics = p["subs"].as_array().into_iter().flatten().filter_map(Value::as_str).map(TopicName::from).collect();
        let subscription = Subscription { topics, owned: partition_list(&p["own"]), generation: p["gen"].as_i64().unwrap_or(-1) as i32, ..Subscription::default() };
        let bytes = subscription.encode(VERSION_MAX).map_err(|e| format!("{e:?}"))?;
        Ok((p["name"].as_str().unwrap_or("").to_string(), Opaque::from(bytes)))
    };
    s.fields.get("protocols").and_then(Value::as_array).into_iter().flatten().map(one).collect()
}

fn assignment(o: &Opaque) -> Value {
    let partitions = Assigned::decode(&o.0).map(|a| a.partitions).unwrap_or_default();
    ranges(&partitions.into_iter().map(|p| (p.topic.to_string(), p.partition)).collect::<BTreeSet<_>>())
}

/// The id in an answer to a join.
pub fn made(result: &Result<Response, GroupError>) -> Option<MemberId> {
    match result {
        Ok(Response::Classic(ClassicAnswer::Joined(j))) => Some(j.member.clone()),
        Err(GroupError::Classic { member, .. }) => member.clone(),
        _ => None,
    }
}

/// The answer in the trace's words; None if Kafka gives none: its client is gone or has sent another request.
pub fn answer(names: &mut Names, op: &str, result: &Result<Response, GroupError>) -> Option<Value> {
    Some(match result {
        Ok(Response::Classic(ClassicAnswer::Joined(j))) => {
            let members: BTreeSet<String> = j.members.iter().map(|m| names.symbol(&m.member)).collect();
            let mut out = json!({"err": "NONE", "m": names.symbol(&j.member), "gen": j.generation, "leader": names.symbol(&j.assigning_member), "protocol": j.protocol, "members": members});
            if j.skip_assignment {
                out["skip"] = json!(true);
            }
            out
        }
        Ok(Response::Classic(ClassicAnswer::Synced { assignment: a, .. })) => json!({"err": "NONE", "asg": assignment(a)}),
        Ok(Response::Classic(ClassicAnswer::Heartbeat)) => json!({"err": "NONE"}),
        Ok(Response::Classic(ClassicAnswer::Left(results))) => {
            let of = |r: &Result<(), ClassicCode>| r.map_or_else(ClassicCode::name, |()| "NONE");
            json!({"err": "NONE", "member_err": results.first().map(|(_, r)| of(r))})
        }
        Err(GroupError::Classic { code, member }) => match member {
            Some(m) if op == "join" => json!({"err": code.name(), "m": names.symbol(m)}),
            _ => json!({"err": code.name()}),
        },
        Err(GroupError::Unavailable { .. }) => return None,
        other => json!({"err": format!("{other:?}")}),
    })
}

/// The group as a trace shows it.
pub fn view(names: &mut Names, c: &Classic, soft: Option<&Soft>) -> Value {
    let none = Soft::default();
    let soft = soft.unwrap_or(&none);
    let state = match c.phase {
        Phase::Empty => "Empty",
        Phase::Preparing => "PreparingRebalance",
        Phase::Completing => "CompletingRebalance",
        Phase::Stable => "Stable",
    };
    let mut members = Map::new();
    for (id, m) in &c.members {
        let mut one = json!({"own": assignment(&m.assignment)});
        if let Some(i) = &m.instance_id {
            one["inst"] = json!(i.as_str());
        }
        if soft.joining.contains_key(id) {
            one["joining"] = json!(true);
        }
        if soft.syncing.contains_key(id) {
            one["syncing"] = json!(true);
        }
        members.insert(names.symbol(id), one);
    }
    let leader = c.assigning_member.as_ref().map(|m| names.symbol(m));
    json!({"type": "classic", "state": state, "gen": c.generation, "protocol": c.protocol, "leader": leader, "pending": soft.pending.len(), "members": members})
}
