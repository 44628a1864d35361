//! Places in a group: who goes, for good or for a while, what becomes of what it has, and who takes its place. Replay's, like its parent: only for records.

use super::*;

/// How many fenced incarnations a group remembers.
const FENCED_MAX: usize = 1_000;

pub(super) fn removed(g: &mut Group, member: &MemberId, freed: &[Partition], held: &[Partition], fence_it: bool) -> Result<(), Violation> {
    let m = g.members.remove(member).ok_or_else(|| missing(format!("member {member}")))?;
    if m.assigned.len() + m.pending.len() != freed.len() + held.len() {
        return Err(Violation::Broken { what: format!("the removal of {member} does not name all its partitions") });
    }
    let granted = |p: &Partition| m.assigned.get(p).map(|x| (x.token, x.granted_at)).or(m.pending.get(p).map(|x| (x.grant.token, x.grant.granted_at)));
    for p in freed {
        granted(p).ok_or_else(|| missing(format!("{p} of {member}")))?;
        g.owners.remove(p);
    }
    for p in held {
        let (token, granted_at) = granted(p).ok_or_else(|| missing(format!("{p} of {member}")))?;
        let hold = Hold { member: member.clone(), incarnation: m.incarnation, token, granted_at, promised_session_ms: if seeded::on(244) { m.session_told_ms } else { m.session_promised_ms } };
        g.holds.insert(p.clone(), hold);
        if let Some(o) = g.owners.get_mut(p) {
            o.state = OwnerState::Held;
        }
    }
    g.target.remove(member);
    forget_instance(g, m.instance_id.as_ref(), member);
    say(g, m.regex.as_ref(), None);
    if !m.conforming() {
        return Ok(()); // it has no incarnations
    }
    if fence_it {
        fence(g, member, m.incarnation);
    } else {
        g.departed.push_back((member.clone(), m.incarnation));
        if g.departed.len() > FENCED_MAX {
            g.departed.pop_front();
        }
    }
    Ok(())
}

pub(super) fn away(g: &mut Group, member: &MemberId) -> Result<(), Violation> {
    let m = g.members.get_mut(member).ok_or_else(|| missing(format!("member {member}")))?;
    if m.instance_id.is_none() {
        return Err(Violation::Broken { what: format!("{member} is no static member and was to keep its place") });
    }
    m.epoch = AWAY;
    // KIP-1251: whoever comes back in its place may commit at any epoch that it was told for what it goes on with. Late commits of the id before are refused by the id.
    for x in m.assigned.values_mut() {
        x.epoch = 0;
    }
    let (conforming, incarnation) = (m.conforming(), m.incarnation);
    for (p, _) in std::mem::take(&mut m.pending) {
        g.owners.remove(&p);
    }
    if conforming {
        fence(g, member, incarnation); // a late copy of one of its messages brings nobody back
    }
    Ok(())
}

pub(super) fn replaced(g: &mut Group, r: &Replaced, last_token: &mut u64) -> Result<(), Violation> {
    let mut m = g.members.remove(&r.old).ok_or_else(|| missing(format!("member {}", r.old)))?;
    if m.epoch != AWAY || (r.old != r.new && g.members.contains_key(&r.new)) {
        return Err(Violation::Broken { what: format!("{} at epoch {} cannot take the place of {}", r.new, m.epoch, r.old) });
    }
    if let Some(t) = g.target.remove(&r.old) {
        g.target.insert(r.new.clone(), t);
    }
    if let Some(i) = &m.instance_id {
        g.instances.insert(i.clone(), r.new.clone());
    }
    (m.epoch, m.previous_epoch, m.joined_at) = (0, 0, r.revision);
    if !seeded::on(252) {
        m.incarnation = r.incarnation;
    }
    (m.session_told_ms, m.session_promised_ms) = (r.session_ms, r.session_ms);
    g.members.insert(r.new.clone(), m);
    regranted(g, &r.new, r.revision, &r.tokens, last_token)
}

pub(super) fn regranted(g: &mut Group, member: &MemberId, revision: AssignmentRevision, tokens: &[(Partition, FencingToken)], last_token: &mut u64) -> Result<(), Violation> {
    draw(revision.0, last_token)?;
    let m = g.members.get_mut(member).ok_or_else(|| missing(format!("member {member}")))?;
    if m.assigned.len() != tokens.len() {
        return Err(Violation::Broken { what: format!("{member} has {} partitions and got {} tokens", m.assigned.len(), tokens.len()) });
    }
    m.assignment_revision = revision;
    for (p, token) in tokens {
        draw(token.0, last_token)?;
        let x = m.assigned.get_mut(p).ok_or_else(|| missing(format!("{p} of {member}")))?;
        (x.token, x.granted_at) = (*token, revision);
        g.owners.insert(p.clone(), Owner { member: member.clone(), incarnation: m.incarnation, token: *token, state: OwnerState::Assigned });
    }
    Ok(())
}

/// A static instance is one member at a time.
pub(super) fn name_instance(g: &mut Group, instance: Option<&InstanceId>, member: &MemberId) -> Result<(), Violation> {
    match instance.map(|i| g.instances.insert(i.clone(), member.clone())) {
        Some(Some(other)) if other != *member => Err(Violation::Broken { what: format!("the instance of {member} is {other}'s") }),
        _ => Ok(()),
    }
}
pub(super) fn forget_instance(g: &mut Group, instance: Option<&InstanceId>, member: &MemberId) {
    if let Some(i) = instance
        && g.instances.get(i) == Some(member)
    {
        g.instances.remove(i);
    }
}

pub(super) fn fence(g: &mut Group, member: &MemberId, incarnation: Incarnation) {
    g.fenced.push_back((member.clone(), incarnation));
    while g.fenced.len() > FENCED_MAX {
        g.fenced.pop_front();
    }
}
