//! The decided facts of a classic group, and their replay: the only code that changes `Classic`. A violation undoes the batch.

use super::state::*;
use crate::{ids::*, replay::Violation, state::Group};
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
    /// The assignment of this generation. Members that are not named have nothing.
    Assigned { generation: i32, assignments: BTreeMap<MemberId, Opaque> },
}

/// Applies one record.
pub fn replay(g: &mut Group, r: &ClassicRecord) -> Result<(), Violation> {
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
    let c = g.classic.as_deref_mut().ok_or_else(|| broken("the group is not a classic one"))?;
    match r {
        ClassicRecord::Opened { .. } | ClassicRecord::Closed => Ok(()), // done above
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
                // What the unfinished generation would have been assigned was never told to anybody.
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
