//! What must hold, whatever happened: asked of applied state, of the sink, of answers, of leases. Beliefs are judged in `belief`.

use super::Broken;
use baton_coordinator::{ids::{Epoch, GroupId}, shard::Shard};
use baton_core_sim::check::{Verdict, broken, one_owner};
use std::collections::BTreeMap;

/// A place is a partition of a group, as text.
#[derive(Default)]
pub struct Judge {
    /// (shard, entries applied) → digest of the state there.
    digests: BTreeMap<(u16, u64), u64>,
    /// (node, shard) → entries applied at the last look.
    looked: BTreeMap<(u64, u16), u64>,
    epochs: BTreeMap<(u16, GroupId), (u64, Epoch, Epoch)>,
    /// (shard, term) → the node that leads it.
    leaders: BTreeMap<(u16, u64), u64>,
    /// What is worth a line in the story.
    pub news: Vec<String>,
    sinks: BTreeMap<String, u64>,
    sent: BTreeMap<String, i64>,
    acked: BTreeMap<String, i64>,
}

/// What was acknowledged when a question was asked.
pub struct Asked(Option<i64>);

impl Judge {
    /// The state of a shard at one node. Replicas that have applied as many entries are equal.
    pub fn applied(&mut self, node: u64, no: u16, shard: &Shard) -> Verdict {
        if shard.stats().refused_batches > 0 {
            return broken("replay", format!("shard {no}: node {node} refused or undid a batch that broke an invariant"));
        }
        let applied = shard.state().sequence;
        if self.looked.insert((node, no), applied) == Some(applied) { return Ok(()); }
        let digest = shard.digest();
        match self.digests.insert((no, applied), digest) {
            Some(d) if d == digest => return Ok(()),
            Some(_) => return broken("replicas-agree", format!("shard {no}: node {node} differs from another after entry {applied}")),
            None => {}
        }
        for (id, g) in &shard.state().groups {
            if let Some(why) = &g.quarantined {
                return broken("replay", format!("{id} is quarantined: {why}"));
            }
            one_owner(id, g)?;
            let seen = self.epochs.entry((no, id.clone())).or_insert((applied, g.epoch, g.target_epoch));
            let (older, newer) = if seen.0 <= applied { ((seen.1, seen.2), (g.epoch, g.target_epoch)) } else { ((g.epoch, g.target_epoch), (seen.1, seen.2)) };
            if newer.0 < older.0 || newer.1 < older.1 || g.target_epoch > g.epoch {
                return broken("epochs", format!("{id}: (group, target) epoch {older:?} → {newer:?}"));
            }
            if seen.0 < applied { *seen = (applied, g.epoch, g.target_epoch); }
        }
        Ok(())
    }

    /// A node says that it leads.
    pub fn leads(&mut self, node: u64, shard: u16, term: u64) -> Verdict {
        if !self.leaders.contains_key(&(shard, term)) { self.news.push(format!("node {node} leads shard {shard} in term {term}")); }
        let first = *self.leaders.entry((shard, term)).or_insert(node);
        if first == node { Ok(()) } else { broken("one-leader", format!("shard {shard}: nodes {first} and {node} both lead term {term}")) }
    }
    /// The latest term that has been led.
    pub fn newest_term(&self, shard: u16) -> u64 { self.leaders.range((shard, 0)..=(shard, u64::MAX)).next_back().map_or(0, |((_, t), _)| *t) }
    /// A node that was asked when `newest` was led already says that it holds the lease of `term`.
    pub fn leased(&mut self, node: u64, shard: u16, term: u64, newest: u64) -> Verdict {
        self.leads(node, shard, term)?;
        if term < newest { broken("lease", format!("shard {shard}: node {node} holds the lease of term {term} after another began to lead term {newest}")) } else { Ok(()) }
    }

    /// A write under a guard that said yes.
    pub fn sink(&mut self, place: &str, token: u64, who: &str) -> Verdict {
        let highest = self.sinks.entry(place.into()).or_default();
        if token < *highest {
            return broken("fencing", format!("the sink of {place} knows token {highest} and refuses {who}, whose guard of {token} says yes"));
        }
        *highest = token;
        Ok(())
    }

    pub fn next_offset(&mut self, place: &str) -> i64 {
        let n = self.sent.entry(place.into()).or_default();
        *n += 1;
        *n
    }
    pub fn acked(&mut self, place: &str, offset: i64) {
        let a = self.acked.entry(place.into()).or_insert(offset);
        *a = (*a).max(offset);
    }
    pub fn ask(&self, place: &str) -> Asked { Asked(self.acked.get(place).copied()) }
    /// An answer is not older than what was acknowledged before its question, and was sent by somebody.
    pub fn fetched(&self, place: &str, asked: &Asked, found: Option<i64>) -> Verdict {
        if found < asked.0 {
            return broken("durable", format!("{place}: {:?} was acknowledged before the fetch, which found {found:?}", asked.0));
        }
        if found > self.sent.get(place).copied() {
            return broken("durable", format!("{place}: the fetch found {found:?}, which nobody committed"));
        }
        Ok(())
    }
    /// Everything that was ever acknowledged.
    pub fn all_acked(&self) -> BTreeMap<String, i64> { self.acked.clone() }
}

/// A verdict of the state alone, as the core's simulation gives it.
pub fn complete(shard: &Shard, group: &str, topics: &BTreeMap<baton_coordinator::ids::TopicName, i32>) -> Result<(), Broken> {
    let id = GroupId::from(group);
    match shard.group(&id) {
        Some(g) => baton_core_sim::check::complete(&id, g, topics),
        None => broken("live", format!("{group} does not exist")),
    }
}
