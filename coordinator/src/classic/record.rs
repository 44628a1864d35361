//! The decided facts of a classic group, and their replay: the only code that changes `Classic`. A violation undoes the batch.

use super::state::*;
use crate::{command::*, ids::*, metadata::TopicFacts, partition_map::PartitionMap, record::Wish, replay::{Violation, draw}, seeded, state::*};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// A decided fact about a classic group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ClassicRecord {
    /// The group, without members, speaks the classic protocol from now on, starting with generation 0. At this time of the shard.
    Opened { time_ms: u64 },
    /// The group, without members, speaks the consumer protocol again.
    Closed,
    /// A new member, or what a member says now. Its assignment stays.
    Joined { member: MemberId, protocol_type: String, said: Box<ClassicMember> },
    /// A static member came back without its id: the new id stands for the old one from now on.
    Replaced { old: MemberId, new: MemberId },
    /// A member is gone; `assigning_member` is who assigns from now on.
    Removed { member: MemberId, assigning_member: Option<MemberId> },
    /// The join phase begins.
    Preparing,
    /// The join phase has ended, at this time of the shard: the members of now are this generation's.
    Generation { generation: i32, time_ms: u64, protocol: Option<String>, assigning_member: Option<MemberId> },
    /// What a member of a consumer group says for the classic protocol; None: it speaks the consumer protocol from now on.
    Speaks { member: MemberId, part: Option<ClassicPart> },
    /// The group and its members go on as a consumer group, at the epoch of its generation; each member has what it was assigned last, as new grants.
    Upgraded { revision: AssignmentRevision, members: Vec<ConvertedMember>, topics: BTreeMap<TopicName, TopicFacts>, metadata_revision: u64 },
    /// The group and its members, all classic ones, go on as a classic group, in the generation of its epoch.
    Downgraded(Box<ConvertedBack>),
    /// The assignment of this generation. Members that are not named have nothing.
    Assigned { generation: i32, assignments: BTreeMap<MemberId, Opaque> },
}

/// A member of a classic group, as the consumer protocol sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvertedMember {
    pub member: MemberId,
    pub instance_id: Option<InstanceId>,
    pub wish: Wish,
    pub part: ClassicPart,
    /// With the id of its topic and a new token each.
    pub assigned: Vec<(Partition, u128, FencingToken)>,
}
/// See [`ClassicRecord::Downgraded`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ConvertedBack {
    pub members: BTreeMap<MemberId, ClassicMember>,
    pub protocol: String,
    pub assigning_member: MemberId,
    pub time_ms: u64,
}

/// Applies one record.
pub fn replay(g: &mut Group, r: &ClassicRecord, last_token: &mut u64) -> Result<(), Violation> {
    if let ClassicRecord::Opened { time_ms } = r {
        if !g.members.is_empty() || !g.holds.is_empty() || g.classic.is_some() {
            return Err(broken("a group with members, holds or a generation was opened as a classic one"));
        }
        g.classic = Some(Box::new(Classic { empty_since_ms: *time_ms, ..Classic::default() }));
        begin_anew(g);
        return Ok(());
    }
    if let ClassicRecord::Closed = r {
        if g.classic.take().is_none_or(|c| !c.members.is_empty()) {
            return Err(broken("a classic group with members was closed"));
        }
        begin_anew(g);
        return Ok(());
    }
    match r {
        ClassicRecord::Speaks { member, part } => {
            let m = g.members.get_mut(member).filter(|m| !m.conforming()).ok_or_else(|| missing(member))?;
            m.classic = part.clone().map(Box::new);
            return Ok(());
        }
        ClassicRecord::Upgraded { revision, members, topics, metadata_revision } => {
            (g.topics, g.target_topics, g.metadata_revision) = (topics.clone(), topics.clone(), *metadata_revision);
            return upgraded(g, *revision, members, last_token);
        }
        ClassicRecord::Downgraded(back) => return downgraded(g, back),
        _ => {}
    }
    let c = g.classic.as_deref_mut().ok_or_else(|| broken("the group is not a classic one"))?;
    match r {
        ClassicRecord::Opened { .. } | ClassicRecord::Closed | ClassicRecord::Speaks { .. } | ClassicRecord::Upgraded { .. } | ClassicRecord::Downgraded(_) => Ok(()), // done above
        ClassicRecord::Joined { member, protocol_type, said } => joined(c, member, protocol_type, said),
        ClassicRecord::Replaced { old, new } => {
            let m = c.members.remove(old).ok_or_else(|| missing(old))?;
            let instance = m.instance_id.clone().ok_or_else(|| broken(format!("{old} is not a static member")))?;
            c.statics.insert(instance, new.clone());
            if c.is_assigning(old) {
                c.assigning_member = Some(new.clone());
            }
            match c.members.insert(new.clone(), m) {
                None => Ok(()),
                Some(_) => Err(broken(format!("{new} is a member already"))),
            }
        }
        ClassicRecord::Removed { member, assigning_member } => {
            let m = c.members.remove(member).ok_or_else(|| missing(member))?;
            count(c, &m.protocols, false);
            if let Some(i) = &m.instance_id {
                c.statics.remove(i);
            }
            assigning(c, assigning_member)
        }
        ClassicRecord::Preparing => {
            match c.phase {
                Phase::Preparing => return Err(broken("the join phase began twice")),
                // What the unfinished generation would have been assigned was never told to anybody. What a cooperative member goes on with it has said in its join.
                Phase::Completing => c.members.values_mut().for_each(|m| if !m.assignment.0.is_empty() { Arc::make_mut(m).assignment = Opaque::default() }),
                Phase::Empty | Phase::Stable => {}
            }
            c.phase = Phase::Preparing;
            Ok(())
        }
        ClassicRecord::Generation { generation, time_ms, protocol, assigning_member } => {
            if c.phase != Phase::Preparing || *generation != c.generation + 1 {
                return Err(broken(format!("generation {generation} after {} in phase {:?}", c.generation, c.phase)));
            }
            if protocol.is_some() == c.members.is_empty() {
                return Err(broken(format!("generation {generation} with strategy {protocol:?} and {} members", c.members.len())));
            }
            (c.generation, c.protocol) = (*generation, protocol.clone());
            if c.members.is_empty() {
                (c.phase, c.empty_since_ms) = (Phase::Empty, *time_ms);
            } else {
                c.phase = Phase::Completing;
            }
            assigning(c, assigning_member)
        }
        ClassicRecord::Assigned { generation, assignments } => {
            if c.phase != Phase::Completing || *generation != c.generation {
                return Err(broken(format!("an assignment of generation {generation} in phase {:?} of {}", c.phase, c.generation)));
            }
            for (id, m) in &mut c.members {
                let given = assignments.get(id).cloned().unwrap_or_default();
                if m.assignment != given {
                    Arc::make_mut(m).assignment = given;
                }
            }
            c.phase = Phase::Stable;
            Ok(())
        }
    }
}

fn upgraded(g: &mut Group, revision: AssignmentRevision, members: &[ConvertedMember], last_token: &mut u64) -> Result<(), Violation> {
    let c = g.classic.take().ok_or_else(|| broken("a group that is no classic one was converted"))?;
    if members.len() != c.members.len() || !members.iter().all(|m| c.members.contains_key(&m.member)) {
        return Err(broken("a conversion names other members than the group has"));
    }
    draw(revision.0, last_token)?;
    // Without members the next one's join bumps it: nobody is ever told epoch 0.
    let epoch = c.generation.max(i32::from(!members.is_empty()));
    (g.epoch, g.target_epoch) = (epoch, epoch);
    g.target.clear();
    for x in members {
        let mut assigned = PartitionMap::default();
        for (p, topic_id, token) in &x.assigned {
            draw(token.0, last_token)?;
            let owner = Owner { member: x.member.clone(), incarnation: Incarnation::default(), token: *token, state: OwnerState::Assigned };
            if let Some(other) = g.owners.insert(p.clone(), owner) {
                return Err(Violation::SecondOwner { partition: p.clone(), owner: other.member, member: x.member.clone() });
            }
            assigned.insert(p.clone(), Grant { token: *token, granted_at: revision, topic_id: *topic_id, epoch });
        }
        g.target.insert(x.member.clone(), assigned.keys().cloned().collect());
        if let Some(i) = &x.instance_id {
            g.instances.insert(i.clone(), x.member.clone());
        }
        let (w, session) = (x.wish.clone(), x.part.session_timeout_ms);
        let m = Member {
            protocol: Protocol::Consumer, incarnation: Incarnation::default(), instance_id: x.instance_id.clone(), rack: w.rack, capacity: w.capacity, rebalance_timeout_ms: w.rebalance_timeout_ms, subscribed: w.subscribed.into(),
            regex: None, assignor: None, client: w.client, session_told_ms: session, session_promised_ms: session, epoch, previous_epoch: epoch, state: MemberState::Stable, assigned,
            pending: PartitionMap::default(), assignment_revision: revision, joined_at: revision, classic: Some(Box::new(x.part.clone())),
        };
        g.members.insert(x.member.clone(), m.into());
    }
    Ok(())
}

fn downgraded(g: &mut Group, back: &ConvertedBack) -> Result<(), Violation> {
    if g.classic.is_some() || !g.holds.is_empty() || g.members.len() != back.members.len() || g.members.iter().any(|(id, m)| m.classic.is_none() || !back.members.contains_key(id)) {
        return Err(broken("a group with holds or with consumer members was converted to a classic one"));
    }
    let mut c = Classic {
        phase: Phase::Stable, empty_since_ms: back.time_ms, generation: g.epoch - i32::from(seeded::on(29)), protocol_type: Some(crate::decide::CONSUMER.into()), protocol: Some(back.protocol.clone()), ..Classic::default()
    };
    for (id, m) in &back.members {
        count(&mut c, &m.protocols, true);
        if let Some(i) = &m.instance_id {
            c.statics.insert(i.clone(), id.clone());
        }
        c.members.insert(id.clone(), Arc::new(m.clone()));
    }
    assigning(&mut c, &Some(back.assigning_member.clone()))?;
    g.classic = Some(Box::new(c));
    g.target_epoch = g.epoch;
    g.unsettled_since = None;
    g.members.clear();
    g.instances.clear();
    g.said.clear();
    g.regexes.clear();
    g.owners.clear();
    g.target.clear();
    g.target_topics.clear();
    g.topics.clear();
    Ok(())
}

/// Between the protocols an empty group begins a new life: its epochs start again. Offsets, history and fenced processes stay.
fn begin_anew(g: &mut Group) {
    (g.epoch, g.target_epoch) = (1, 1);
    g.target.clear();
    g.topics.clear();
}

fn joined(c: &mut Classic, member: &MemberId, protocol_type: &str, said: &ClassicMember) -> Result<(), Violation> {
    if c.members.is_empty() {
        c.protocol_type = Some(protocol_type.to_string());
    }
    if c.protocol_type.as_deref() != Some(protocol_type) {
        return Err(broken(format!("{member} speaks {protocol_type}, the group {:?}", c.protocol_type)));
    }
    let mut m = said.clone();
    if let Some(old) = c.members.remove(member) {
        count(c, &old.protocols, false);
        m.assignment = old.assignment.clone();
    }
    if let Some(i) = &m.instance_id
        && c.statics.insert(i.clone(), member.clone()).is_some_and(|before| before != *member)
    {
        return Err(broken(format!("instance {i} has another member")));
    }
    count(c, &m.protocols, true);
    c.members.insert(member.clone(), Arc::new(m));
    c.assigning_member.get_or_insert_with(|| member.clone());
    Ok(())
}

/// A strategy named twice by one member counts once.
fn count(c: &mut Classic, protocols: &[(String, Opaque)], more: bool) {
    for (i, (name, _)) in protocols.iter().enumerate() {
        if protocols[..i].iter().any(|(n, _)| n == name) {
            continue;
        }
        let n = c.offered.entry(name.clone()).or_default();
        *n = if more { *n + 1 } else { n.saturating_sub(1) };
        if *n == 0 {
            c.offered.remove(name);
        }
    }
}

fn assigning(c: &mut Classic, member: &Option<MemberId>) -> Result<(), Violation> {
    if member.is_none() != c.members.is_empty() || member.as_ref().is_some_and(|m| !c.members.contains_key(m)) {
        return Err(broken(format!("{member:?} assigns for {} members", c.members.len())));
    }
    c.assigning_member = member.clone();
    Ok(())
}

fn broken(what: impl Into<String>) -> Violation { Violation::Broken { what: what.into() } }
fn missing(member: &MemberId) -> Violation { Violation::Missing { what: format!("classic member {member}") } }

/// What must hold of a classic group, as sentences about what does not.
pub fn check(g: &Group, broken: &mut Vec<String>) {
    let Some(c) = &g.classic else { return };
    if !g.members.is_empty() || !g.owners.is_empty() || !g.holds.is_empty() {
        broken.push("a classic group has members, owners or holds of the consumer protocol".into());
    }
    let empty = c.members.is_empty();
    if (c.phase == Phase::Empty && !empty) || (matches!(c.phase, Phase::Completing | Phase::Stable) && empty) {
        broken.push(format!("classic: {} members in phase {:?}", c.members.len(), c.phase));
    }
    if c.assigning_member.is_none() != empty || c.assigning_member.as_ref().is_some_and(|m| !c.members.contains_key(m)) {
        broken.push(format!("classic: {:?} assigns for {} members", c.assigning_member, c.members.len()));
    }
    let statics: BTreeMap<_, _> = c.members.iter().filter_map(|(id, m)| m.instance_id.clone().map(|i| (i, id.clone()))).collect();
    if statics != c.statics {
        broken.push(format!("classic: the static members are {statics:?}, recorded are {:?}", c.statics));
    }
    if matches!(c.phase, Phase::Completing | Phase::Stable) && c.protocol.as_ref().is_none_or(|p| c.offered.get(p).copied() != Some(c.members.len())) {
        broken.push(format!("classic: not every member has the strategy {:?} of generation {}", c.protocol, c.generation));
    }
}
