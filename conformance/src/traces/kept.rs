//! What members keep when their group is converted. Baton predicts nobody's stop: what a member may be using stays its own until it has been asked for it. Kafka goes by the last
//! assignment alone. As in `slips`, what Baton does is predicted and must come true; then Kafka's is put into Baton's log, so that everything behind it can be compared exactly.

use super::{trace::{Step, partitions, ranges}, world::World};
use baton_coordinator::{
    classic::{Classic, ClassicMember, ClassicRecord, Opaque},
    embedded::{Assigned, Subscription},
    ids::*,
    metadata::Metadata,
    command::MemberState,
    record::{Reconciled, Record},
    replay,
    state::Group,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// A classic group that becomes a consumer group: a member keeps what it said to own when it joined last, if nobody was assigned that since (a cooperative member uses it until
/// it hears otherwise). A consumer group that becomes a classic one: a member keeps what it has beyond its target, and nobody is assigned what another still has. Kafka takes the
/// last assignment, or the target, as it is, without topics that do not exist. Whatever nobody was assigned, Kafka leaves to nobody until the next change; Baton looks for it and gives it
/// to somebody.
pub const KEPT_AT_CONVERSION: &str = "kept-at-conversion";

type Parts = BTreeSet<Partition>;

fn assigned(m: &ClassicMember) -> Result<Parts, String> {
    let a = Assigned::decode(&m.assignment.0).map_err(|e| format!("{e:?}"))?;
    Ok(a.partitions.into_iter().filter(|p| p.partition >= 0).collect())
}

/// What each member says to own and nobody was assigned.
fn claims(c: &Classic) -> Result<BTreeMap<MemberId, Parts>, String> {
    let mut given = Parts::new();
    for m in c.members.values() {
        given.extend(assigned(m)?);
    }
    let mut out = BTreeMap::new();
    for (id, m) in &c.members {
        let Some(said) = c.protocol.as_deref().and_then(|p| m.metadata(p)).or(m.protocols.first().map(|(_, said)| said)) else { continue };
        let owned = Subscription::decode(&said.0).map_err(|e| format!("{e:?}"))?.owned;
        let mine: Parts = owned.into_iter().filter(|p| p.partition >= 0 && given.insert(p.clone())).collect();
        if !mine.is_empty() {
            out.insert(id.clone(), mine);
        }
    }
    Ok(out)
}

/// Before a join that converts the group: tries it on a copy, where everybody must keep what is said above, and makes those who keep more say that they own nothing.
pub fn before_an_upgrade(world: &World, i: usize, step: &Step) -> Result<Option<Vec<Record>>, String> {
    let Some((before, c)) = world.group().and_then(|g| g.classic.clone().map(|c| (g, c))) else { return Ok(None) };
    if step.op != "hb" || step.number("e") != 0 {
        return Ok(None);
    }
    let claims = claims(&c)?;
    let after = world.tried(i, step)?.group();
    let Some(after) = after.filter(|g| g.classic.is_none() && !claims.is_empty()) else { return Ok(None) };
    for (id, m) in c.members.iter().filter(|(id, _)| after.members.get(*id).is_some_and(|m| m.classic.is_some())) {
        // What is of no topic at all is taken out of the record below.
        let all = assigned(m)?.into_iter().chain(claims.get(id).into_iter().flatten().cloned());
        let expected: Parts = all.filter(|p| world.meta.topics.contains_key(&p.topic)).collect();
        let has: Parts = after.members[id].holdings().map(|(p, ..)| p.clone()).collect();
        if has != expected {
            return Err(format!("{id} was to keep {expected:?} at the conversion of {}, and has {has:?}", before.epoch));
        }
    }
    claims.keys().map(|id| says_less(&c, id)).collect::<Result<Vec<_>, _>>().map(Some)
}

/// The member as it would be if it had said to own nothing.
fn says_less(c: &Classic, id: &MemberId) -> Result<Record, String> {
    let mut said = ClassicMember::clone(&c.members[id]);
    for (_, metadata) in &mut said.protocols {
        let version = metadata.0.first_chunk::<2>().map_or(0, |v| i16::from_be_bytes(*v));
        let less = Subscription { owned: Vec::new(), ..Subscription::decode(&metadata.0).map_err(|e| format!("{e:?}"))? };
        *metadata = Opaque::from(less.encode(version).map_err(|e| format!("{e:?}"))?);
    }
    let protocol_type = c.protocol_type.clone().unwrap_or_default();
    Ok(Record::Classic(Box::new(ClassicRecord::Joined { member: id.clone(), protocol_type, said: Box::new(said) })))
}

/// A classic member in a consumer group joins and says to own what it was granted of a topic that is gone by now, or was made again. Kafka does not find the topic, and takes the
/// member for one that does not have it any more; Baton asks it back. Gives the step as Kafka reads it, if that is another.
pub fn told_of_topics_that_are_there(world: &World, i: usize, step: &Step) -> Result<Option<Step>, String> {
    let (Some(g), id) = (world.group().filter(|g| step.op == "join" && g.classic.is_none()), world.names.id(step.text("m"))) else { return Ok(None) };
    let (Some(m), Some(protocols)) = (g.members.get(&id), step.fields.get("protocols").and_then(Value::as_array)) else { return Ok(None) };
    let gone: Parts = m.assigned.iter().filter(|(p, x)| world.meta.topics.get(&p.topic).is_none_or(|t| t.id != x.topic_id)).map(|(p, _)| p.clone()).collect();
    let owned = |p: &Value| partitions(&p["own"]);
    let is_gone = |(t, p): &(String, i32)| gone.contains(&Partition::new(t.as_str(), *p));
    let says: Parts = protocols.first().map(owned).into_iter().flatten().filter(is_gone).map(|(t, p)| Partition::new(t.as_str(), p)).collect();
    if says.is_empty() {
        return Ok(None);
    }
    let after = world.tried(i, step)?.group();
    let keeps = |g: &Group| g.members.get(&id).is_some_and(|m| says.iter().all(|p| m.assigned.contains_key(p) || m.pending.contains_key(p)));
    if after.is_some_and(|g| g.classic.is_none() && !keeps(&g)) {
        return Err(format!("{id} says to own {says:?} of a topic that is gone, and was not asked for it"));
    }
    let mut less = step.clone();
    let read = protocols.iter().map(|p| {
        let mut p = p.clone();
        p["own"] = ranges(&owned(&p).into_iter().filter(|x| !is_gone(x)).collect());
        p
    });
    less.fields.insert("protocols".into(), read.collect());
    Ok(Some(less))
}

/// In a batch that converts a classic group: what was assigned of topics that do not exist is left out, as Kafka does; so are new tokens of it for who comes in the place of a static
/// member. No other record of the batch is about it. True: there was some.
pub fn at_an_upgrade(image: &Metadata, records: &mut [Record]) -> bool {
    let mut differs = false;
    let converts = records.iter().any(|r| matches!(r, Record::Classic(c) if matches!(**c, ClassicRecord::Upgraded { .. })));
    for r in records.iter_mut().filter(|_| converts) {
        if let Record::Replaced(r) = r {
            r.tokens.retain(|(p, _)| image.topics.contains_key(&p.topic));
        }
        let Record::Classic(c) = r else { continue };
        let ClassicRecord::Upgraded { members, .. } = &mut **c else { continue };
        for m in members {
            let all = m.assigned.len();
            m.assigned.retain(|(p, ..)| image.topics.contains_key(&p.topic));
            differs |= m.assigned.len() < all;
        }
    }
    differs
}

/// In a batch that converts a classic group with a join that changes nobody's subscription, or that finds that a regular expression stands for what it stood for: Baton gives out what is
/// left to nobody, and there must be something. Kafka's takes its place: no new epoch, and whoever joined (it is given back) goes on with the target as it is.
pub fn leaves_to_nobody(before: Option<&Arc<Group>>, image: &Metadata, records: &mut Vec<Record>) -> Result<Option<MemberId>, String> {
    let upgraded = |r: &Record| matches!(r, Record::Classic(c) if matches!(**c, ClassicRecord::Upgraded { .. }));
    let (converts, looks) = (records.iter().any(upgraded), records.iter().any(|r| matches!(r, Record::Regex { resolved: Some(_), .. })));
    let Some(at) = records.iter().position(|r| matches!(r, Record::Epoch { .. })).filter(|_| converts || looks) else { return Ok(None) };
    let (mut draft, mut token, mut wanted, mut joiner) = (before.cloned(), 0, None, None);
    for r in &records[..at] {
        let subscribed = |id: &MemberId| draft.as_ref().and_then(|g| g.members.get(id)).map(|m| m.subscribed.clone());
        match r {
            Record::Joined(j) => (wanted, joiner) = (Some(Default::default()), Some(j.member.clone())),
            Record::Replaced(r) => (wanted, joiner) = (subscribed(&r.old), Some(r.new.clone())),
            _ => {}
        }
        if let (Record::Regex { regex, resolved: Some(now) }, Some(g)) = (r, &draft)
            && g.regexes.get(regex).map_or(!now.topics.is_empty(), |b| b.topics != now.topics)
        {
            return Ok(None); // Kafka begins a new epoch for that too
        }
        replay::record(&mut draft, r, &mut token).map_err(|e| e.to_string())?;
    }
    let Some(g) = draft.filter(|g| g.classic.is_none() && g.epoch > 0 && g.epoch == g.target_epoch && (converts || g.members.values().any(|m| m.classic.is_some()))) else { return Ok(None) };
    let joiner = joiner.filter(|_| converts);
    let changed = joiner.as_ref().and_then(|id| g.members.get(id)).is_some_and(|m| wanted != Some(m.subscribed.clone()));
    let news = g.subscribed_topics().iter().any(|t| image.topics.get(t) != g.topics.get(t));
    if changed || news || (converts && joiner.is_none()) {
        return Ok(None);
    }
    let given: BTreeSet<&Partition> = g.target.iter().filter_map(|(id, ps)| g.members.get(id).map(|m| (m, ps))).flat_map(|(m, ps)| ps.iter().filter(|p| g.subscribes(m, &p.topic))).collect();
    let of = g.topics.iter().filter(|(t, _)| g.members.values().any(|m| g.subscribes(m, t)));
    if of.flat_map(|(t, f)| (0..f.partitions).map(|n| Partition::new(t.clone(), n))).all(|p| given.contains(&p)) {
        return Err("a new epoch at a conversion, and nothing was left to nobody".into());
    }
    records.truncate(at);
    if let Some((id, m)) = joiner.as_ref().and_then(|id| g.members.get_key_value(id)) {
        let (member, revision) = (id.clone(), m.assignment_revision);
        let step = Reconciled { member, epoch: g.epoch, previous_epoch: 0, state: MemberState::Stable, revision, released: Vec::new(), revoked: Vec::new(), granted: Vec::new() };
        records.push(Record::Reconciled(Box::new(step)));
    }
    Ok(Some(joiner.unwrap_or_default()))
}

/// In a batch that converts a consumer group: everybody must be assigned what is said above; Kafka's assignment takes its place. True: they differed.
pub fn at_a_downgrade(before: Option<&Arc<Group>>, image: &Metadata, records: &mut [Record]) -> Result<bool, String> {
    let is = |r: &Record| matches!(r, Record::Classic(c) if matches!(**c, ClassicRecord::Downgraded(_)));
    let Some(at) = records.iter().position(is) else { return Ok(false) };
    let (earlier, rest) = records.split_at_mut(at);
    let (mut draft, mut token) = (before.cloned(), 0);
    for r in earlier.iter() {
        replay::record(&mut draft, r, &mut token).map_err(|e| e.to_string())?;
    }
    let (Some(g), Some(Record::Classic(record))) = (draft, rest.first_mut()) else { return Ok(false) };
    let ClassicRecord::Downgraded(back) = &mut **record else { return Ok(false) };
    let mut differs = false;
    for (id, m) in &mut back.members {
        let target: Parts = g.target.get(id).into_iter().flatten().cloned().collect();
        let others = |p: &Partition| g.members.iter().any(|(other, o)| other != id && o.holdings().any(|(x, ..)| x == p));
        let held = g.members.get(id).into_iter().flat_map(|m| m.holdings()).map(|(p, ..)| p.clone());
        let expected: Parts = target.iter().filter(|p| !others(p)).cloned().chain(held).collect();
        let has = assigned(m)?;
        if has != expected {
            return Err(format!("{id} was to be assigned {expected:?} at the conversion, and is {has:?}"));
        }
        let exists = |p: &Partition| image.topics.get(&p.topic).is_some_and(|t| g.target_topics.get(&p.topic).is_some_and(|x| x.id == t.id));
        let target: Parts = target.into_iter().filter(exists).collect();
        if has != target {
            differs = true;
            let version = m.assignment.0.first_chunk::<2>().map_or(0, |v| i16::from_be_bytes(*v));
            m.assignment = Assigned { partitions: target.into_iter().collect(), user_data: None }.encode(version).map(Opaque::from).map_err(|e| format!("{e:?}"))?;
        }
    }
    Ok(differs)
}
