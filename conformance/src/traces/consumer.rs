//! The consumer protocol's requests, answers and groups, between the words of a trace and the coordinator's.

use super::{rules::Rules, trace::*, world::*};
use baton_coordinator::{command::*, ids::*, state::*};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A hyphen and 36 characters, as long as a UUID: what the front draws for a member without an id. It sorts last, as in the traces.
fn made_id(t: u64) -> MemberId { MemberId::from(format!("zu-{t:036}").as_str()) }

/// ConsumerGroupHeartbeat.
pub fn heartbeat(w: &World, rules: &Rules, s: &Step) -> Command {
    let owned = s.fields.get("own").map(|o| {
        let mut out = PartitionsById::new();
        for (label, p) in if s.number("e") == 0 { partitions(o) } else { rules.claims(s.text("m"), partitions(o)) } {
            out.entry(w.topic_id(&label)).or_default().insert(p);
        }
        out
    });
    let names = s.fields.get("subs").and_then(Value::as_array).map(|a| a.iter().filter_map(Value::as_str).map(TopicName::from).collect());
    Command::Consumer(Box::new(ConsumerHeartbeat {
        version: s.fields.get("v").and_then(Value::as_i64).unwrap_or(1) as i16,
        member: w.names.id(s.text("m")),
        made_id: made_id(s.t),
        epoch: rules.asked_epoch(s.text("m"), s.number("e"), owned.is_some()) as i32,
        instance_id: s.maybe("inst").map(InstanceId::from),
        rack: s.maybe("rack").map(String::from),
        rebalance_timeout_ms: s.fields.get("rt").and_then(Value::as_i64).unwrap_or(-1) as i32,
        subscribed_topics: names,
        subscribed_regex: s.maybe("regex").map(String::from),
        assignor: s.maybe("assignor").map(String::from),
        owned,
        client: ClientInfo::default(),
    }))
}

/// OffsetCommit, of whatever kind of group.
pub fn commit(w: &World, rules: &Rules, s: &Step) -> Command {
    let partition = Partition::new(s.text("topic"), s.number("p") as i32);
    let offset = CommitOffset { partition, token: FencingToken(0), offset: s.number("offset"), metadata: String::new(), leader_epoch: None };
    let epoch = rules.asked_epoch(s.text("m"), s.number("e"), false) as i32;
    Command::KafkaCommit(KafkaCommit { version: 9, member: w.names.id(s.text("m")), instance_id: s.maybe("inst").map(InstanceId::from), epoch, offsets: vec![offset] })
}
/// OffsetFetch without a member.
pub fn fetch(s: &Step) -> Command {
    let partition = Partition::new(s.text("topic"), s.number("p") as i32);
    Command::KafkaFetch(KafkaFetch { member: None, epoch: -1, partitions: Some([partition].into()) })
}

/// The answer in the trace's words; None for those of the classic protocol.
pub fn answer(w: &mut World, asked: &Step, result: &Result<Response, GroupError>) -> Option<Value> {
    Some(match result {
        Ok(Response::Consumer(v)) => {
            let mut out = json!({"err": "NONE", "e": v.epoch});
            if v.epoch >= 0 {
                out["hb"] = json!(v.heartbeat_interval_ms);
            }
            if asked.text("m").is_empty() {
                out["m"] = json!(w.names.symbol(&v.member));
            }
            if let Some(a) = &v.assignment {
                let all = a.iter().flat_map(|(t, ps)| ps.iter().map(|p| (w.label(*t), *p)));
                out["asg"] = ranges(&all.collect());
            }
            out
        }
        Ok(Response::Committed(results)) => json!({"err": results.first().and_then(|(_, r)| r.err()).map_or("NONE", |r| r.kafka().name)}),
        Ok(Response::Offsets(offsets)) => json!({"err": "NONE", "offset": offsets.first().map_or(-1, |o| o.offset)}),
        Err(e) if matches!(asked.op.as_str(), "hb" | "commit" | "fetch") => json!({"err": e.kafka().name}),
        _ => return None,
    })
}

fn granted<'a>(w: &World, grants: impl Iterator<Item = (&'a Partition, &'a Grant)>) -> Value {
    ranges(&grants.map(|(p, x)| (w.label(x.topic_id), p.partition)).collect::<BTreeSet<_>>())
}

/// The group as a trace shows it.
pub fn view(w: &mut World, g: &Group) -> Value {
    let mut members = Map::new();
    for (id, m) in &g.members {
        let state = match m.state {
            MemberState::Stable => "STABLE",
            MemberState::UnrevokedPartitions => "UNREVOKED_PARTITIONS",
            MemberState::UnreleasedPartitions => "UNRELEASED_PARTITIONS",
        };
        let mut one = json!({"e": m.epoch, "pe": m.previous_epoch, "st": state, "own": granted(w, m.assigned.iter())});
        if !m.pending.is_empty() {
            one["rev"] = granted(w, m.pending.iter().map(|(p, x)| (p, &x.grant)));
        }
        if let Some(i) = &m.instance_id {
            one["inst"] = json!(i.as_str());
        }
        if m.classic.is_some() {
            one["classic"] = json!(true);
        }
        members.insert(w.names.symbol(id), one);
    }
    json!({"type": "consumer", "state": format!("{:?}", g.state()), "epoch": g.epoch, "aepoch": g.target_epoch, "members": members})
}

/// The target assignment; members without partitions are left out.
pub fn target(w: &mut World, g: &Group) -> Value {
    let mut out: BTreeMap<String, Value> = BTreeMap::new();
    for (m, ps) in g.target.iter().filter(|(_, ps)| !ps.is_empty()) {
        let named = ps.iter().map(|p| (g.target_topics.get(&p.topic).map_or_else(|| p.topic.to_string(), |t| w.label(t.id)), p.partition));
        let text = ranges(&named.collect());
        out.insert(w.names.symbol(m), text);
    }
    json!(out)
}
