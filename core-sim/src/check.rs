//! The judges. They look at applied state, at answers and at what members believe; never at how the core came to it.

use crate::plan::Ms;
use baton_coordinator::{command::*, ids::*, record::*, replay::HistoryChange, shard::Shard, state::*};
use std::collections::{BTreeMap, BTreeSet};

/// A broken invariant: its name and a sentence.
#[derive(Clone, Debug)]
pub struct Broken { pub invariant: &'static str, pub what: String }
/// What every check gives.
pub type Verdict = Result<(), Broken>;
/// A broken invariant as a verdict.
pub fn broken<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Broken> { Err(Broken { invariant, what: what.into() }) }

/// A partition of a group.
pub type Place = (GroupId, Partition);

/// What is remembered from entry to entry.
#[derive(Default)]
pub struct Judge {
    /// Applied index → the first replica's digest.
    digests: BTreeMap<usize, u64>,
    /// Applied index → what the first replica did to histories.
    histories: BTreeMap<usize, Vec<HistoryChange>>,
    /// The highest token granted so far, never forgotten.
    tokens: BTreeMap<Place, u64>,
    /// Every grant that was committed.
    granted: BTreeSet<(GroupId, Partition, u64)>,
    epochs: BTreeMap<GroupId, (Epoch, Epoch)>,
    /// The commit that the state must not go below: token, seq, and the offset each such pair stands for.
    acked: BTreeMap<Place, (u64, u64, i64)>,
    seen: BTreeMap<Place, (u64, u64)>,
    /// How often the offsets of a group or topic were deleted: an answer that was on its way meanwhile proves nothing.
    pub deletions: BTreeMap<GroupId, u64>,
    /// Held partitions given up by force: one-believer is waived for these tokens.
    pub waived: BTreeSet<(GroupId, Partition, u64)>,
    sinks: BTreeMap<Place, u64>,
}

impl Judge {
    /// After every entry at every replica.
    pub fn applied(&mut self, index: usize, entry: Option<&LogEntry>, took_effect: bool, force: bool, shard: &Shard) -> Verdict {
        let digest = shard.digest();
        match self.digests.get(&index) {
            Some(d) if *d == digest => return Ok(()),
            Some(_) => return broken("replicas-agree", format!("two replicas differ after entry {index}")),
            None => self.digests.insert(index, digest),
        };
        for b in entry.iter().filter(|_| took_effect).flat_map(|e| &e.batches) {
            for r in &b.records {
                match r {
                    Record::Reconciled(r) => {
                        for (p, token) in &r.granted {
                            let highest = self.tokens.entry((b.group.clone(), p.clone())).or_default();
                            if token.0 <= *highest {
                                return broken("fencing", format!("{} {p}: token {} after {highest}", b.group, token.0));
                            }
                            *highest = token.0;
                            self.granted.insert((b.group.clone(), p.clone(), token.0));
                        }
                    }
                    Record::Deleted => {
                        self.epochs.remove(&b.group);
                        self.forget(&b.group, None);
                        if force {
                            self.waived.extend(self.granted.iter().filter(|(g, ..)| *g == b.group).cloned());
                        }
                    }
                    Record::OffsetsRemoved { topic } => self.forget(&b.group, Some(topic)),
                    Record::OffsetsExpired { partitions } => partitions.iter().for_each(|p| self.forget(&b.group, Some(&p.topic))),
                    _ => {}
                }
            }
        }
        for (id, g) in &shard.state().groups {
            self.group(id, g)?;
        }
        Ok(())
    }

    /// History is kept beside the state, but it is replicated all the same.
    pub fn history(&mut self, index: usize, changes: Vec<HistoryChange>) -> Verdict {
        let first = self.histories.entry(index).or_insert_with(|| changes.clone());
        if *first == changes { Ok(()) } else { broken("replicas-agree", format!("two replicas keep another history after entry {index}")) }
    }

    fn forget(&mut self, group: &GroupId, topic: Option<&TopicName>) {
        *self.deletions.entry(group.clone()).or_default() += 1;
        let stays = |(g, p): &Place| g != group || topic.is_some_and(|t| *t != p.topic);
        self.acked.retain(|k, _| stays(k));
        self.seen.retain(|k, _| stays(k));
    }

    fn group(&mut self, id: &GroupId, g: &Group) -> Verdict {
        if let Some(why) = &g.quarantined {
            return broken("replay", format!("{id} is quarantined: {why}"));
        }
        one_owner(id, g)?;
        if g.history.next - g.history.first > crate::replicas::limits().history_max as u64 {
            return broken("bounded", format!("{id} has {:?}", g.history));
        }
        let (e, t) = self.epochs.get(id).copied().unwrap_or_default();
        if g.epoch < e || g.target_epoch < t || g.target_epoch > g.epoch {
            return broken("epochs", format!("{id}: group epoch {e} → {}, target {t} → {}", g.epoch, g.target_epoch));
        }
        self.epochs.insert(id.clone(), (g.epoch, g.target_epoch));
        for (m, x) in &g.members {
            if x.epoch > g.target_epoch || x.epoch < 0 {
                return broken("epochs", format!("{id}: {m} at {} above the target's {}", x.epoch, g.target_epoch));
            }
            for (p, grant) in &x.assigned {
                let token = grant.token.0;
                if !self.granted.contains(&(id.clone(), p.clone(), token)) {
                    return broken("fencing", format!("{id} {p}: no record granted token {token}"));
                }
            }
        }
        for (p, o) in &g.offsets {
            if g.topics.get(&p.topic).is_some_and(|t| t.id != o.topic_id) {
                return broken("durable", format!("{id} {p}: an offset of a topic that is gone counts for the one that was made again under its name"));
            }
            let place = (id.clone(), p.clone());
            let now = (o.token.0, o.seq);
            let had = self.seen.insert(place.clone(), now).unwrap_or_default();
            let acked = self.acked.get(&place).copied().unwrap_or_default();
            if now < had || now < (acked.0, acked.1) {
                return broken("durable", format!("{id} {p}: the commit went from {had:?} (acknowledged {acked:?}) to {now:?}"));
            }
            if now == (acked.0, acked.1) && o.offset != acked.2 {
                return broken("durable", format!("{id} {p}: {} was acknowledged, {} is kept", acked.2, o.offset));
            }
        }
        if let Some(((_, p), a)) = self.acked.iter().find(|((x, p), _)| x == id && !g.offsets.contains_key(p)) {
            return broken("durable", format!("{id} {p}: the acknowledged commit {a:?} is gone"));
        }
        Ok(())
    }

    /// A commit was acknowledged to its member.
    pub fn commit_acked(&mut self, place: Place, token: u64, seq: u64, offset: i64) -> Verdict {
        let seen = self.seen.get(&place).copied().unwrap_or_default();
        if seen < (token, seq) {
            return broken("durable", format!("{place:?}: ({token}, {seq}) was acknowledged, the state has {seen:?}"));
        }
        let a = self.acked.entry(place).or_default();
        *a = (*a).max((token, seq, offset));
        Ok(())
    }

    /// What was acknowledged for a partition by now.
    pub fn acked(&self, place: &Place) -> Option<i64> { self.acked.get(place).map(|a| a.2) }
    /// An answer to a fetch: not older than what was acknowledged before it was asked.
    pub fn fetched(&self, place: &Place, asked: Option<i64>, found: Option<i64>) -> Verdict {
        if found < asked { broken("linearizable", format!("{place:?}: {asked:?} was acknowledged before the fetch, which found {found:?}")) } else { Ok(()) }
    }

    /// An answer was let go: what it grants must be committed.
    pub fn answered(&self, group: &GroupId, v: &HeartbeatView) -> Verdict {
        match v.assignment.iter().flatten().find(|(p, t)| !self.granted.contains(&(group.clone(), (*p).clone(), t.0))) {
            Some((p, t)) => broken("answers-committed", format!("{} was told of {p} under {}, which nobody committed", v.member, t.0)),
            None => Ok(()),
        }
    }

    /// A write at the sink. A conforming owner is never refused.
    pub fn write(&mut self, place: &Place, token: u64, conforming: bool, who: &str) -> Result<bool, Broken> {
        let highest = self.sinks.entry(place.clone()).or_default();
        if token < *highest && conforming && !self.waived.contains(&(place.0.clone(), place.1.clone(), token)) {
            return broken("fencing", format!("the sink of {place:?} refused {who}, who believes it owns it under {token}; it knows {highest}"));
        }
        let accepted = token >= *highest;
        *highest = (*highest).max(token);
        Ok(accepted)
    }

    /// At one true instant: who believes what, under which token.
    pub fn believers<'a>(&self, now: Ms, beliefs: impl Iterator<Item = (&'a GroupId, &'a Partition, u64, &'a str)>) -> Verdict {
        let mut held: BTreeMap<(&GroupId, &Partition), (&str, u64)> = BTreeMap::new();
        for (g, p, token, who) in beliefs {
            if self.waived.contains(&(g.clone(), p.clone(), token)) {
                continue;
            }
            if let Some((other, t)) = held.insert((g, p), (who, token)) {
                return broken("one-believer", format!("at {now} ms {g} {p} is believed by {other} (token {t}) and {who} (token {token})"));
            }
        }
        Ok(())
    }
}

/// Assigned, pending and held are disjoint, and the owner map says the same.
pub fn one_owner(id: &GroupId, g: &Group) -> Verdict {
    let mut claims: BTreeMap<&Partition, (&MemberId, u64)> = BTreeMap::new();
    let members = g.members.iter().flat_map(|(m, x)| x.holdings().map(move |(p, t, _)| (p, m, t.0)));
    for (p, m, t) in members.chain(g.holds.iter().map(|(p, h)| (p, &h.member, h.token.0))) {
        if let Some((other, _)) = claims.insert(p, (m, t)) {
            return broken("one-owner", format!("{id} {p} is {other}'s and {m}'s"));
        }
    }
    let owners: BTreeMap<&Partition, (&MemberId, u64)> = g.owners.iter().map(|(p, o)| (p, (&o.member, o.token.0))).collect();
    if owners != claims {
        return broken("one-owner", format!("{id}: the owner map has {owners:?}, the members {claims:?}"));
    }
    Ok(())
}

/// Every partition of every subscribed topic that exists is owned exactly once, nothing else is, and the group stands still.
pub fn complete(id: &GroupId, g: &Group, topics: &BTreeMap<TopicName, i32>) -> Verdict {
    if g.state() != GroupState::Stable || g.epoch != g.target_epoch || !g.holds.is_empty() {
        let states: Vec<String> = g.members.iter().map(|(m, x)| format!("{m}: {:?} at {} with {} pending", x.state, x.epoch, x.pending.len())).collect();
        return broken("live", format!("{id} is {:?} (epoch {}, target {}), {} holds, {states:?}", g.state(), g.epoch, g.target_epoch, g.holds.len()));
    }
    let wanted: BTreeSet<Partition> = g.subscribed_topics().iter().filter_map(|t| topics.get(t).map(|n| (t, n))).flat_map(|(t, n)| (0..*n).map(|p| Partition::new(t.clone(), p))).collect();
    let owned: BTreeSet<Partition> = g.members.values().flat_map(|m| m.assigned.keys().cloned()).collect();
    if wanted != owned {
        return broken("complete", format!("{id}: wanted {wanted:?}, owned {owned:?}"));
    }
    Ok(())
}
