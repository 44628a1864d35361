//! Replays committed records onto a group: with `places`, the only code that changes `Group`. Called by every node for every committed batch, and by
//! `decide` on its draft, so what was checked is what is applied. Never reads a clock. A violation undoes the batch.

mod places;

use crate::{classic, command::*, ids::*, record::*, seeded, state::*};
use places::*;
use std::{collections::BTreeSet, sync::Arc};
use thiserror::Error;

/// A record that contradicts the state: our own bug, never a member's.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum Violation {
    #[error("I1 one-owner: {partition} is {owner}'s and was granted to {member}")]
    SecondOwner { partition: Partition, owner: MemberId, member: MemberId },
    #[error("I3 fencing: token {token} is not above {last}")]
    TokenNotAbove { token: u64, last: u64 },
    #[error("I4 epochs: {what}")]
    Epochs { what: String },
    #[error("the record names {what}, which the state does not have")]
    Missing { what: String },
    #[error("{what}")]
    Broken { what: String },
}

/// What became of one batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Applied,
    /// Decided on another state: a no-op.
    Skipped,
    /// It broke an invariant: undone, the group is quarantined.
    Quarantined(String),
}

/// A change of a group's history, which is state like any other but is kept on disk: replay hands it out. Records are numbered in the group's life.
#[derive(Clone, Debug, PartialEq)]
pub enum HistoryChange {
    Added { group: GroupId, number: u64, record: HistoryRecord },
    /// The records from `first` to below `next` are no longer part of it.
    Dropped { group: GroupId, first: u64, next: u64 },
}

/// Applies a whole entry. Equal on every node. What it does to the histories is added to `history`, in order.
pub fn entry(state: &mut State, entry: &LogEntry, history_max: usize, history: &mut Vec<HistoryChange>) -> Vec<Outcome> {
    // Compare-and-append for the shard: an entry that a deposed or delayed proposer sent late finds another sequence.
    if entry.base_sequence != state.sequence {
        return vec![Outcome::Skipped; entry.batches.len()];
    }
    state.sequence += 1;
    state.time_ms = state.time_ms.max(entry.time_ms);
    // The batches of a drain share one counter and were decided in any order of groups: each grows from where the entry found it.
    let (floor, mut highest) = (state.last_token, state.last_token);
    let outcomes = entry
        .batches.iter()
        .map(|b| {
            state.last_token = floor;
            let outcome = batch(state, b, history_max, history);
            highest = highest.max(state.last_token);
            outcome
        })
        .collect();
    state.last_token = highest;
    if entry.batches.iter().any(|b| b.records.contains(&Record::Deleted)) && seeded::on(15) {
        state.last_token = 0;
    }
    outcomes
}

fn batch(state: &mut State, b: &Batch, history_max: usize, history: &mut Vec<HistoryChange>) -> Outcome {
    let before = state.groups.get(&b.group).cloned();
    if before.as_ref().map_or(0, |g| g.revision) != b.base_revision {
        return Outcome::Skipped;
    }
    let mut draft = before.clone();
    let mut last_token = state.last_token;
    for r in &b.records {
        if let Err(v) = record(&mut draft, r, &mut last_token) {
            // The batch is undone as a whole; the group keeps its last good state and grants nothing more.
            state.revision += 1;
            let mut g = before.unwrap_or_default();
            if seeded::on(35) {
                g = draft.clone().unwrap_or_default();
            }
            let good = Arc::make_mut(&mut g);
            (good.revision, good.quarantined) = (state.revision, Some(v.to_string()));
            state.groups.insert(b.group.clone(), g);
            return Outcome::Quarantined(v.to_string());
        }
    }
    state.revision += 1;
    state.last_token = last_token;
    hand_out(b, before.map_or(0..0, |g| g.history.first..g.history.next), state.revision, history);
    match draft {
        None => {
            state.groups.remove(&b.group);
        }
        Some(mut g) => {
            let changed = Arc::make_mut(&mut g);
            (changed.revision, changed.changed_at_ms) = (state.revision, state.time_ms);
            trim(&b.group, changed, history_max as u64, history);
            state.groups.insert(b.group.clone(), g);
        }
    }
    Outcome::Applied
}

/// Hands out the history of an applied batch. `kept` are the numbers of the records before it.
fn hand_out(b: &Batch, mut kept: std::ops::Range<u64>, revision: u64, history: &mut Vec<HistoryChange>) {
    for r in &b.records {
        match r {
            Record::Deleted => {
                history.push(HistoryChange::Dropped { group: b.group.clone(), first: kept.start, next: kept.end });
                kept = 0..0;
            }
            Record::History(h) => {
                history.push(HistoryChange::Added { group: b.group.clone(), number: kept.end, record: HistoryRecord { revision, ..(**h).clone() } });
                kept.end += 1;
            }
            _ => {}
        }
    }
}

/// Bounds the history by count, and what is remembered of it by the members that are left.
fn trim(group: &GroupId, g: &mut Group, max: u64, history: &mut Vec<HistoryChange>) {
    let mark = &mut g.history;
    let first = mark.first.max(mark.next.saturating_sub(max));
    if first > mark.first {
        history.push(HistoryChange::Dropped { group: group.clone(), first: mark.first, next: first });
        mark.first = first;
    }
    if mark.named.len() > 2 * (g.members.len() + g.holds.len()) + 16 {
        let holders: BTreeSet<&MemberId> = g.holds.values().map(|h| &h.member).collect();
        mark.named.retain(|m, _| g.members.contains_key(m) || holders.contains(m));
    }
}

/// Applies one record to one group.
pub fn record(slot: &mut Option<Arc<Group>>, r: &Record, last_token: &mut u64) -> Result<(), Violation> {
    if let Record::Created = r {
        if slot.is_some() {
            return Err(Violation::Broken { what: "the group exists already".into() });
        }
        *slot = Some(Arc::new(Group::new()));
        return Ok(());
    }
    if let Record::Deleted = r {
        let g = slot.take().ok_or_else(|| missing("the group"))?;
        return if g.members_count() == 0 { Ok(()) } else { Err(Violation::Broken { what: "a group with members was deleted".into() }) };
    }
    let g = Arc::make_mut(slot.as_mut().ok_or_else(|| missing("the group"))?);
    match r {
        Record::Created | Record::Deleted => Ok(()), // done above
        Record::Joined(j) => joined(g, j, last_token),
        Record::Subscribed { member, wish } => {
            let m = member_mut(g, member)?;
            let before = m.regex.clone();
            wish_of(m, wish);
            say(g, before.as_ref(), wish.regex.as_ref());
            Ok(())
        }
        Record::Away { member } => away(g, member),
        Record::Replaced(r) => replaced(g, r, last_token),
        Record::Instance { member, instance } => {
            let before = member_mut(g, member)?.instance_id.replace(instance.clone());
            forget_instance(g, before.as_ref(), member);
            name_instance(g, Some(instance), member)
        }
        Record::Regranted { member, revision, tokens } => regranted(g, member, *revision, tokens, last_token),
        Record::Regex { regex, resolved: Some(r) } => {
            g.regexes.insert(regex.clone(), r.clone());
            Ok(())
        }
        Record::Regex { regex, resolved: None } => match g.members_with_regex(regex) {
            0 => g.regexes.remove(regex).map(|_| ()).ok_or_else(|| missing(format!("the regular expression {regex}"))),
            n => Err(Violation::Broken { what: format!("{n} members say the regular expression {regex}, which was to be forgotten") }),
        },
        Record::Session { member, told_ms, promised_ms } => {
            if promised_ms < told_ms {
                return Err(Violation::Broken { what: format!("{member} is told {told_ms} ms and promised {promised_ms} ms") });
            }
            let m = member_mut(g, member)?;
            (m.session_told_ms, m.session_promised_ms) = (*told_ms, *promised_ms);
            Ok(())
        }
        Record::Reconciled(r) => reconciled(g, r, last_token),
        Record::Removed { member, freed, held, fence } => removed(g, member, freed, held, *fence),
        Record::HoldReleased { partition, token } => match g.holds.remove(partition) {
            Some(h) if h.token == *token => {
                g.owners.remove(partition);
                Ok(())
            }
            _ => Err(missing(format!("a hold of {partition} under token {}", token.0))),
        },
        Record::Epoch { epoch, time_ms } => {
            if *epoch <= g.epoch {
                return Err(Violation::Epochs { what: format!("group epoch {epoch} after {}", g.epoch) });
            }
            g.epoch = *epoch;
            g.unsettled_since = g.unsettled_since.or(Some(*time_ms));
            // An empty group's target stays level with its epoch (KAFKA-20442).
            if g.members.is_empty() && !seeded::on(37) {
                g.target_epoch = *epoch;
                g.target.clear();
                g.unsettled_since = None;
            }
            Ok(())
        }
        Record::Settled => {
            if g.state() != GroupState::Stable {
                return Err(Violation::Broken { what: format!("the group is {:?} and was said to have settled", g.state()) });
            }
            g.unsettled_since = None;
            Ok(())
        }
        Record::Target { epoch, assignment } => {
            if *epoch > g.epoch || *epoch < g.target_epoch {
                return Err(Violation::Epochs { what: format!("target epoch {epoch} with {} before and group epoch {}", g.target_epoch, g.epoch) });
            }
            if let Some(m) = assignment.keys().find(|m| !g.members.contains_key(*m)) {
                return Err(missing(format!("member {m} of the target")));
            }
            // Most members keep what they had: they keep the set too.
            let set = |m: &MemberId, ps: &BTreeSet<Partition>| g.target.get(m).filter(|t| t.iter().eq(ps)).cloned().unwrap_or_else(|| ps.iter().cloned().collect());
            let target = assignment.iter().map(|(m, ps)| (m.clone(), set(m, ps))).collect();
            (g.target_epoch, g.target, g.target_topics) = (*epoch, target, g.topics.clone());
            Ok(())
        }
        Record::Topics { revision, topics } => {
            (g.metadata_revision, g.topics) = (*revision, topics.clone());
            Ok(())
        }
        Record::Config { config } => {
            g.config = config.clone();
            Ok(())
        }
        Record::Offset(o) => {
            g.offsets.insert(o.partition.clone(), o.committed.clone());
            g.metadata_revision = g.metadata_revision.max(o.metadata_revision);
            Ok(())
        }
        Record::OffsetsExpired { partitions } => {
            for p in partitions {
                g.offsets.remove(p).ok_or_else(|| missing(format!("an offset of {p}")))?;
            }
            Ok(())
        }
        Record::OffsetsRemoved { topic } => {
            g.offsets.retain(|p, _| p.topic != *topic);
            Ok(())
        }
        Record::History(h) => {
            g.history.next += 1;
            if let Some(m) = &h.member {
                g.history.named.insert(m.clone(), h.at_ms);
            }
            Ok(())
        }
        Record::Classic(r) => classic::record::replay(g, r, last_token),
        Record::Quarantined { reason } => {
            g.quarantined = Some(reason.clone());
            Ok(())
        }
        Record::Repaired => {
            g.quarantined.take().map(|_| ()).ok_or_else(|| missing("a quarantine"))
        }
    }
}

fn joined(g: &mut Group, j: &Joined, last_token: &mut u64) -> Result<(), Violation> {
    draw(j.joined_at.0, last_token)?;
    let old = g.members.remove(&j.member);
    let mut m = Member {
        protocol: j.protocol, incarnation: j.incarnation, instance_id: j.instance_id.clone(), rack: None, capacity: None, rebalance_timeout_ms: 0, subscribed: Default::default(), regex: None,
        assignor: None, client: Default::default(), session_told_ms: j.session_told_ms, session_promised_ms: j.session_promised_ms, epoch: 0, previous_epoch: 0,
        state: MemberState::Stable, assigned: Default::default(), pending: Default::default(), assignment_revision: j.joined_at, joined_at: j.joined_at, classic: None,
    };
    wish_of(&mut m, &j.wish);
    if let Some(other) = g.members.values().next().filter(|o| o.subscribed == m.subscribed) {
        m.subscribed = other.subscribed.clone();
    }
    if let Some(old) = old {
        let old = old.take();
        (m.assigned, m.pending, m.previous_epoch) = (old.assigned, old.pending, old.epoch);
        say(g, old.regex.as_ref(), None);
        forget_instance(g, old.instance_id.as_ref(), &j.member);
    }
    name_instance(g, m.instance_id.as_ref(), &j.member)?;
    say(g, None, m.regex.as_ref());
    for p in &j.freed {
        if m.assigned.remove(p).is_none() && m.pending.remove(p).is_none() {
            return Err(missing(format!("{p} of {}", j.member)));
        }
        g.owners.remove(p);
    }
    // What was granted after the join was sent stays the member's, asked back under the join's own revision.
    for (p, x) in std::mem::take(&mut m.assigned) {
        m.pending.insert(p, Pending { grant: x, revoked_at: j.joined_at });
    }
    for (p, x) in m.pending.iter_mut() {
        x.revoked_at = j.joined_at;
        if let Some(o) = g.owners.get_mut(p) {
            o.state = OwnerState::PendingRevocation;
        }
    }
    if !m.pending.is_empty() {
        (m.state, m.epoch) = (MemberState::UnrevokedPartitions, g.target_epoch);
    }
    if j.protocol == Protocol::Consumer {
        g.members.insert(j.member.clone(), m.into());
        return Ok(()); // it has no incarnations
    }
    if let Some(old) = j.replaces {
        fence(g, &j.member, old);
    }
    // Another incarnation of the id is in: those before it are replaced, a late copy of their join must not take its place (`safety.md` 6).
    if g.departed.iter().any(|(id, _)| *id == j.member) {
        for (id, before) in std::mem::take(&mut g.departed) {
            if id != j.member {
                g.departed.push_back((id, before));
            } else if before != j.incarnation {
                fence(g, &j.member, before);
            }
        }
    }
    if seeded::on(60) && j.member.as_str() == "poison" {
        let owner = Owner { member: j.member.clone(), incarnation: j.incarnation, token: FencingToken(1), state: OwnerState::Assigned };
        g.owners.insert(Partition::new("nobody's", 0), owner);
    }
    g.members.insert(j.member.clone(), m.into());
    Ok(())
}

/// Where ownership changes. Order matters: what is released comes before what is granted.
fn reconciled(g: &mut Group, r: &Reconciled, last_token: &mut u64) -> Result<(), Violation> {
    if r.epoch > g.target_epoch {
        return Err(Violation::Epochs { what: format!("member {} at epoch {} above the target's {}", r.member, r.epoch, g.target_epoch) });
    }
    let m = g.members.get_mut(&r.member).ok_or_else(|| missing(format!("member {}", r.member)))?;
    if r.revision != m.assignment_revision {
        draw(r.revision.0, last_token)?;
    }
    for p in &r.released {
        // A Kafka member that says it does not have what it is to give back is not asked: that is released straight from the assigned ones.
        let had = m.pending.remove(p).is_some() || (!m.conforming() && m.assigned.remove(p).is_some());
        if !had {
            return Err(missing(format!("{p}, pending at {}", r.member)));
        }
        g.owners.remove(p);
    }
    for p in &r.revoked {
        let x = m.assigned.remove(p).ok_or_else(|| missing(format!("{p}, assigned to {}", r.member)))?;
        m.pending.insert(p.clone(), Pending { grant: x, revoked_at: r.revision });
        if let Some(o) = g.owners.get_mut(p) {
            o.state = OwnerState::PendingRevocation;
        }
    }
    if !m.conforming() && !r.revoked.is_empty() {
        // Its rebalance timer starts again for all that it is asked for.
        m.pending.values_mut().for_each(|x| x.revoked_at = r.revision);
    }
    for (p, token) in &r.granted {
        draw(token.0, last_token)?;
        let topic_id = g.topics.get(&p.topic).map(|t| t.id).ok_or_else(|| missing(format!("the topic of {p}")))?;
        let given_back = m.pending.remove(p).is_some();
        // one-owner: the record that freed the partition must come first. A batch that grants before it frees is our bug.
        if let Some(o) = g.owners.get(p) {
            let its_own = given_back && o.member == r.member;
            if !its_own && !seeded::on(2) {
                return Err(Violation::SecondOwner { partition: p.clone(), owner: o.member.clone(), member: r.member.clone() });
            }
        }
        let owner = Owner { member: r.member.clone(), incarnation: m.incarnation, token: *token, state: OwnerState::Assigned };
        g.owners.insert(p.clone(), owner);
        if given_back && seeded::on(1) {
            g.owners.remove(p);
        }
        m.assigned.insert(p.clone(), Grant { token: *token, granted_at: r.revision, topic_id, epoch: r.epoch });
    }
    (m.epoch, m.previous_epoch, m.state, m.assignment_revision) = (r.epoch, r.previous_epoch, r.state, r.revision);
    Ok(())
}

fn wish_of(m: &mut Member, w: &Wish) {
    if *m.subscribed != w.subscribed {
        m.subscribed = w.subscribed.clone().into();
    }
    (m.regex, m.assignor, m.rack) = (w.regex.clone(), w.assignor.clone(), w.rack.clone());
    (m.rebalance_timeout_ms, m.client, m.capacity) = (w.rebalance_timeout_ms, w.client.clone(), w.capacity);
}

/// Counts who says which regular expression.
fn say(g: &mut Group, before: Option<&String>, now: Option<&String>) {
    if let Some(n) = before.and_then(|r| g.said.get_mut(r)) {
        *n -= 1;
    }
    g.said.retain(|_, n| *n > 0);
    if let Some(r) = now {
        *g.said.entry(r.clone()).or_default() += 1;
    }
}

/// Tokens and assignment revisions are drawn from one counter that only grows.
pub(crate) fn draw(token: u64, last: &mut u64) -> Result<(), Violation> {
    if token <= *last {
        return Err(Violation::TokenNotAbove { token, last: *last });
    }
    *last = token;
    Ok(())
}
fn member_mut<'a>(g: &'a mut Group, member: &MemberId) -> Result<&'a mut Member, Violation> { g.members.get_mut(member).map(|m| &mut **m).ok_or_else(|| missing(format!("member {member}"))) }
fn missing(what: impl Into<String>) -> Violation { Violation::Missing { what: what.into() } }
