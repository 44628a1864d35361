//! Kafka's reconciliation with Baton's ownership: Kafka keeps it by the id of a topic, so that a topic made again under its name is another at once; Baton by the name. What Baton
//! gives to whom is worked out here from Kafka's group and target, by the rules of KIP-848 and with owners looked up by name, for as long as it differs.

use super::{rules::arrived, trace::{partitions, ranges}};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Topic's label and partition.
pub type Part = (String, i32);
type Parts = BTreeSet<Part>;

/// A member's present assignment.
#[derive(Clone, Debug, PartialEq)]
struct Has {
    e: i64,
    pe: i64,
    st: String,
    own: Parts,
    rev: Parts,
}
impl Has {
    fn of(m: &Value) -> Option<Has> {
        Some(Has { e: m["e"].as_i64()?, pe: m["pe"].as_i64()?, st: m["st"].as_str()?.into(), own: partitions(&m["own"]), rev: partitions(&m["rev"]) })
    }
    fn write(&self, m: &mut Value) {
        (m["e"], m["pe"], m["st"], m["own"]) = (json!(self.e), json!(self.pe), json!(self.st), ranges(&self.own));
        match self.rev.is_empty() {
            true => drop(m.as_object_mut().and_then(|m| m.remove("rev"))),
            false => m["rev"] = ranges(&self.rev),
        }
    }
}

/// What a heartbeat was, as far as a member's next assignment depends on it.
#[derive(Clone, Debug, Default)]
pub struct Beat {
    pub member: String,
    /// It is answered with the whole assignment in any case.
    pub full: bool,
    /// It says an instance id.
    pub names_instance: bool,
    /// What it says to own; None: nothing is said.
    pub own: Option<Parts>,
    /// Its subscription changed.
    pub resubscribed: bool,
    /// Its target among the partitions that exist of topics that it subscribes to, and those topics.
    pub target: Parts,
    pub topics: BTreeSet<String>,
}

/// The members whose assignment in Baton's group is another than in Kafka's.
#[derive(Clone, Debug, Default)]
pub struct ByName { apart: BTreeMap<String, Has> }

fn name(label: &str) -> &str { label.split('~').next().unwrap_or(label) }

/// Partitions without the marks of their topics' lives.
pub fn names(parts: &Value) -> Value { ranges(&partitions(parts).into_iter().map(|(label, p)| (name(&label).to_string(), p)).collect()) }
/// Names as the labels under which a member has them.
pub fn labelled(member: &Value, own: Parts) -> Parts {
    let has: Parts = partitions(&member["own"]).into_iter().chain(partitions(&member["rev"])).collect();
    own.into_iter().map(|(t, p)| has.iter().find(|(label, q)| name(label) == name(&t) && *q == p).cloned().unwrap_or((t, p))).collect()
}

impl ByName {
    pub fn is_empty(&self) -> bool { self.apart.is_empty() }
    pub fn has(&self, member: &str) -> bool { self.apart.contains_key(member) }

    /// The member was taken out.
    pub fn went(&mut self, member: &str) { self.apart.remove(member); }

    /// The epoch that a client of Baton's would send where Kafka's sends `epoch`. Who says nothing of what it owns (`says` is false) is refused at an earlier epoch, and so is to be here; a commit says nothing.
    pub fn asked_epoch(&self, kafkas: &Value, member: &str, epoch: i64, says: bool) -> Option<i64> {
        let (b, k) = (self.apart.get(member)?, &kafkas["members"][member]);
        if k["e"] == epoch { Some(b.e) } else if k["pe"] == epoch && (says || b.pe != b.e) { Some(b.pe) } else { None }
    }
    /// What a client of Baton's would say to own where Kafka's says `own`: it does not have what it has not been given yet, and has what it was given earlier.
    pub fn claims(&self, kafkas: &Value, member: &str, own: Parts) -> Parts {
        let Some(b) = self.apart.get(member) else { return own };
        let told = partitions(&kafkas["members"][member]["own"]);
        let mut out: Parts = b.own.iter().filter(|p| own.contains(*p) || !told.contains(*p)).cloned().collect();
        out.extend(b.rev.intersection(&own).cloned());
        out
    }

    /// Baton's group, when Kafka's is this after a step (an accepted heartbeat, if `beat` is given), and was `before` in Baton.
    pub fn group(&mut self, mut kafka: Value, before: &Value, beat: Option<&Beat>) -> Value {
        let Some(members) = kafka["members"].as_object().cloned().filter(|_| kafka["type"] == "consumer") else {
            self.apart.clear();
            return kafka;
        };
        self.apart.retain(|id, _| members.contains_key(id));
        for (id, b) in &mut self.apart {
            // It left for a while, and gave back what it was asked for.
            if members[id]["e"] == -2 && b.e != -2 {
                (b.e, b.rev) = (-2, Parts::new());
            }
        }
        if let Some((beat, now)) = beat.and_then(|b| members.get(&b.member).and_then(Has::of).map(|now| (b, now)))
            && let Some(has) = self.place(before, beat, &members[&beat.member])
        {
            let others = self.others(&members, &beat.member);
            let taken = |p: &Part| others.iter().any(|o| name(&o.0) == name(&p.0) && o.1 == p.1);
            if !self.apart.is_empty() || now.own.difference(&has.own).any(taken) {
                let next = has.next(beat, kafka["aepoch"].as_i64().unwrap_or(0), taken);
                match next == now {
                    true => drop(self.apart.remove(&beat.member)),
                    false => drop(self.apart.insert(beat.member.clone(), next)),
                }
            }
        }
        self.apart.retain(|id, b| Has::of(&members[id]).as_ref() != Some(b));
        if self.apart.is_empty() {
            return kafka;
        }
        for (id, b) in &self.apart {
            b.write(&mut kafka["members"][id]);
        }
        if kafka["state"] == "Stable" || kafka["state"] == "Reconciling" {
            kafka["state"] = json!(if arrived(&kafka) { "Stable" } else { "Reconciling" });
        }
        kafka
    }

    /// What a member, or the one whose place it takes, had before.
    fn place(&self, before: &Value, beat: &Beat, now: &Value) -> Option<Has> {
        let left_for_a_while = |m: &Value| m["e"] == -2;
        let all = before["members"].as_object();
        let own = all.and_then(|all| all.get(&beat.member));
        let holder = all.into_iter().flatten().find(|(_, m)| left_for_a_while(m) && !now["inst"].is_null() && m["inst"] == now["inst"]).map(|(_, m)| m);
        match holder.or(own) {
            // One that is back without a word of its instance id takes nobody's place, not even its own: it goes on from -2.
            Some(m) if left_for_a_while(m) && beat.names_instance => Has::of(m).map(|h| Has { e: 0, pe: 0, ..h }),
            Some(m) => Has::of(m),
            None => Some(Has { e: 0, pe: 0, st: "STABLE".into(), own: Parts::new(), rev: Parts::new() }),
        }
    }
    /// What the other members have in Baton's group, to give back or not.
    fn others(&self, members: &serde_json::Map<String, Value>, member: &str) -> Parts {
        let others = members.iter().filter(|(id, _)| *id != member).filter_map(|(id, m)| self.apart.get(id).cloned().or_else(|| Has::of(m)));
        others.flat_map(|h| h.own.into_iter().chain(h.rev)).collect()
    }
}

impl Has {
    fn next(&self, beat: &Beat, target_epoch: i64, taken: impl Fn(&Part) -> bool) -> Has {
        let says = |parts: &Parts| beat.own.as_ref().is_none_or(|own| !own.is_disjoint(parts));
        match self.st.as_str() {
            "STABLE" if self.e != target_epoch => self.towards(beat, target_epoch, taken),
            "STABLE" if beat.resubscribed => self.unsubscribed(beat),
            "STABLE" => self.clone(),
            "UNREVOKED_PARTITIONS" if !self.rev.is_empty() && says(&self.rev) => if beat.resubscribed { self.unsubscribed(beat) } else { self.clone() },
            _ => Has { rev: Parts::new(), ..self.clone() }.towards(beat, target_epoch, taken),
        }
    }
    fn towards(&self, beat: &Beat, target_epoch: i64, taken: impl Fn(&Part) -> bool) -> Has {
        let kept: Parts = self.own.intersection(&beat.target).cloned().collect();
        let revoke: Parts = self.own.difference(&beat.target).cloned().collect();
        if !revoke.is_empty() && beat.own.as_ref().is_none_or(|own| !own.is_disjoint(&revoke)) {
            return Has { pe: self.e, st: "UNREVOKED_PARTITIONS".into(), own: kept, rev: revoke, ..*self };
        }
        let (waits, free): (Parts, Parts) = beat.target.difference(&kept).cloned().partition(|p| taken(p));
        let st = if waits.is_empty() { "STABLE" } else { "UNRELEASED_PARTITIONS" };
        Has { e: target_epoch, pe: self.e, st: st.into(), own: kept.into_iter().chain(free).collect(), rev: Parts::new() }
    }
    fn unsubscribed(&self, beat: &Beat) -> Has {
        let (kept, gone): (Parts, Parts) = self.own.iter().cloned().partition(|(label, _)| beat.topics.contains(label));
        let all: Parts = gone.union(&self.rev).cloned().collect();
        let says = beat.own.as_ref().is_none_or(|own| !own.is_disjoint(&all));
        match (gone.is_empty(), says) {
            (true, _) if self.rev.is_empty() && beat.topics.is_empty() => Has { pe: self.e, ..self.clone() },
            (true, _) => self.clone(),
            (false, true) => Has { pe: self.e, st: "UNREVOKED_PARTITIONS".into(), own: kept, rev: all, ..*self },
            (false, false) => Has { pe: self.e, own: kept, ..self.clone() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: Value) -> Parts { partitions(&text) }
    fn member(e: i64, st: &str, own: Value) -> Value { json!({"e": e, "pe": 0, "st": st, "own": own}) }

    /// Kafka gives `b` the new topic's partition while `a` has that of the old one. Baton's `b` waits, goes on with each heartbeat, and gets it when `a` has given it back.
    #[test]
    fn a_partition_of_a_topic_made_again_waits_for_the_one_of_the_old() {
        let group = |a: Value, b: Value, state: &str| json!({"type": "consumer", "state": state, "epoch": 5, "aepoch": 5, "members": {"a": a, "b": b}});
        let before = group(member(4, "STABLE", json!({"t": "0"})), member(4, "STABLE", json!({})), "Reconciling");
        let beat = Beat { member: "b".into(), own: Some(Parts::new()), target: parts(json!({"t~2": "0"})), topics: ["t~2".to_string()].into(), ..Beat::default() };
        let mut rule = ByName::default();
        let kafka = group(member(4, "STABLE", json!({"t": "0"})), json!({"e": 5, "pe": 4, "st": "STABLE", "own": {"t~2": "0"}}), "Reconciling");
        let baton = rule.group(kafka.clone(), &before, Some(&beat));
        assert_eq!(baton["members"]["b"], json!({"e": 5, "pe": 4, "st": "UNRELEASED_PARTITIONS", "own": {}}));
        assert!(rule.claims(&kafka, "b", parts(json!({"t~2": "0"}))).is_empty(), "Baton's client has not been given it");
        let again = rule.group(kafka.clone(), &baton, Some(&beat));
        assert_eq!(again["members"]["b"]["pe"], 5);
        let freed = group(member(5, "STABLE", json!({})), kafka["members"]["b"].clone(), "Stable");
        let waits = rule.group(freed.clone(), &again, None);
        assert_eq!((waits["state"].as_str(), rule.has("b")), (Some("Reconciling"), true), "it has not asked yet");
        let given = rule.group(freed, &waits, Some(&beat));
        assert_eq!((given["members"]["b"]["own"].clone(), given["state"].as_str()), (json!({"t~2": "0"}), Some("Stable")));
    }

    /// Kafka asks back what Baton has not given: Baton's member has nothing to give back, and goes on at once.
    #[test]
    fn what_was_not_given_is_not_asked_back() {
        let mut rule = ByName { apart: [("b".to_string(), Has { e: 5, pe: 4, st: "UNRELEASED_PARTITIONS".into(), own: Parts::new(), rev: Parts::new() })].into() };
        let kafka = json!({"type": "consumer", "state": "Reconciling", "epoch": 6, "aepoch": 6, "members": {
            "a": member(4, "STABLE", json!({"t": "0"})), "b": {"e": 5, "pe": 5, "st": "UNREVOKED_PARTITIONS", "own": {}, "rev": {"t~2": "0"}}}});
        let before = json!({"type": "consumer", "members": {"b": member(5, "UNRELEASED_PARTITIONS", json!({}))}});
        let beat = Beat { member: "b".into(), own: Some(Parts::new()), target: parts(json!({"u": "1"})), ..Beat::default() };
        let baton = rule.group(kafka.clone(), &before, Some(&beat));
        assert_eq!(baton["members"]["b"], json!({"e": 6, "pe": 5, "st": "STABLE", "own": {"u": "1"}}));
        assert_eq!((rule.asked_epoch(&kafka, "b", 5, true), rule.asked_epoch(&kafka, "b", 3, true)), (Some(6), None));
        assert_eq!(rule.claims(&kafka, "b", parts(json!({"t~2": "0"}))), parts(json!({"u": "1"})));
    }
}
