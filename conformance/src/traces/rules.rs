//! Where Baton differs from the recorded Kafka on purpose. A rule is a predicate and a prediction: from what Kafka did it says exactly what Baton does
//! instead; any other difference stays unexplained. At most ten.

use super::trace::{partitions, ranges};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Kafka 4.3.1 leaves the target epoch of a group behind when its last member goes; Kafka 4.4 and Baton keep it level with the group epoch (KAFKA-20442).
/// A member that joins before a new target is computed is therefore told the one epoch or the other.
pub const EMPTY_TARGET_EPOCH: &str = "empty-target-epoch";
/// A commit at the current epoch for a partition that another member holds: Kafka takes it, Baton refuses it (`docs/safety.md` 17).
pub const COMMIT_FOR_ANOTHERS_PARTITION: &str = "commit-for-anothers-partition";
/// A commit for a topic that does not exist: Kafka refuses it in front of the recorded part, so that there it is taken; Baton refuses it in the shard.
pub const UNKNOWN_TOPIC: &str = "unknown-topic";
/// A topic that was deleted and made again under its name: to Kafka it is another topic at once. Baton keeps ownership by name, so a partition of the new
/// one is given to nobody while another member still has that of the old one (`docs/safety.md` 13).
pub const TOPIC_MADE_AGAIN: &str = "topic-made-again";

/// The rules, with what they remember of a trace. Two more are in `slips`.
#[derive(Clone, Default)]
pub struct Rules {
    /// Epochs of Kafka's that Baton's run has another number for.
    epochs: BTreeMap<i64, i64>,
    /// What was committed where Kafka took a commit that Baton refused, as Baton has it.
    offsets: BTreeMap<(String, i64), i64>,
    refused: BTreeSet<(String, i64)>,
    /// Partitions that Kafka has given to a member and Baton has not yet: member, topic's label, partition.
    withheld: BTreeSet<(String, String, i32)>,
    /// Members whose previous epoch Baton has moved while something was withheld: Kafka's epochs then, and Baton's previous epoch.
    moved: BTreeMap<String, (Value, Value)>,
    /// Kafka's group and Baton's, as of the step before.
    kafka: Value,
    last: Value,
    used: BTreeSet<&'static str>,
}

/// What a heartbeat was, as far as rules need to know.
pub struct Beat<'a> {
    pub member: &'a str,
    /// It is answered with the whole assignment in any case.
    pub full: bool,
}

impl Rules {
    /// The rules that explained something in this trace.
    pub fn used(&self) -> &BTreeSet<&'static str> { &self.used }

    /// A rule that was worked out elsewhere explained something.
    pub fn explained_by(&mut self, rule: &'static str) { self.used.insert(rule); }

    /// Kafka's group after the step before.
    pub fn kafkas(&self) -> &Value { &self.kafka }

    /// The epoch that a client of Baton's would send where Kafka's sends `epoch`: another one, if it was told that.
    pub fn asked_epoch(&self, member: &str, epoch: i64) -> i64 {
        let m = &self.kafka["members"][member];
        let told = m["e"] == epoch || m["pe"] == epoch;
        self.epochs.get(&epoch).copied().filter(|_| told).unwrap_or(epoch)
    }

    /// Baton's group after the step before.
    pub fn last(&self) -> &Value { &self.last }

    /// Whether Baton's client has a partition that Kafka's has.
    pub fn has(&self, member: &str, label: &str, partition: i32) -> bool { !self.withheld.contains(&(member.to_string(), label.to_string(), partition)) }

    /// What Baton's group is, when Kafka's is this after a step (an accepted heartbeat, if `beat` is given).
    pub fn group(&mut self, kafka: &Value, beat: Option<&Beat>) -> Value {
        let numbered = self.numbered(kafka);
        let g = self.withholding(numbered, beat);
        (self.kafka, self.last) = (kafka.clone(), g.clone());
        g
    }

    /// Takes out what Baton has not given yet.
    fn withholding(&mut self, mut g: Value, beat: Option<&Beat>) -> Value {
        let Some(members) = g["members"].as_object().cloned() else { return g };
        let own = |m: &Value| partitions(&m["own"]);
        self.withheld.retain(|(m, label, p)| members.get(m).is_some_and(|m| own(m).contains(&(label.clone(), *p))));
        if let Some((b, m)) = beat.and_then(|b| members.get(b.member).map(|m| (b, m))) {
            let had = self.withheld.iter().any(|(m, ..)| m == b.member);
            let before = &self.last["members"][b.member];
            let name = |label: &str| label.split('~').next().unwrap_or(label).to_string();
            for (label, p) in own(m).into_iter().filter(|x| !own(before).contains(x)) {
                let taken = members.iter().filter(|(id, _)| *id != b.member).any(|(id, other)| {
                    let same = |x: &(String, i32)| name(&x.0) == name(&label) && x.1 == p;
                    own(other).iter().any(|x| same(x) && self.has(id, &x.0, x.1)) || partitions(&other["rev"]).iter().any(same)
                });
                let key = (b.member.to_string(), label, p);
                // A step that asks something back gives nothing.
                let waits = m["st"] == "UNREVOKED_PARTITIONS" && self.withheld.contains(&key);
                if taken { self.withheld.insert(key) } else if waits { true } else { self.withheld.remove(&key) };
            }
            // A member that waits goes its step again at each heartbeat, and so its previous epoch becomes its epoch.
            let epochs = json!([m["e"], m["pe"]]);
            if had && self.kafka["members"][b.member] == *m {
                self.moved.insert(b.member.to_string(), (epochs, m["e"].clone()));
            }
        }
        self.moved.retain(|id, (epochs, _)| members.get(id).is_some_and(|m| m["pe"] == epochs[1] && (m["e"] == epochs[0] || m["e"] == -2)));
        for (id, (_, previous)) in &self.moved {
            g["members"][id]["pe"] = previous.clone();
        }
        for (id, m) in &members {
            let kept: BTreeSet<(String, i32)> = own(m).into_iter().filter(|(label, p)| self.has(id, label, *p)).collect();
            if kept.len() < own(m).len() {
                self.used.insert(TOPIC_MADE_AGAIN);
                g["members"][id]["own"] = ranges(&kept);
                if m["st"] == "STABLE" {
                    g["members"][id]["st"] = json!("UNRELEASED_PARTITIONS");
                }
                if g["state"] == "Stable" {
                    g["state"] = json!("Reconciling");
                }
            }
        }
        g
    }

    /// Gives Baton's numbers to the epochs of Kafka's group.
    fn numbered(&mut self, kafka: &Value) -> Value {
        let mut g = kafka.clone();
        // Made anew, or of the other protocol for a while: its epochs are others that may have the same numbers.
        let goes_on = self.kafka["type"] == "consumer" && g["epoch"].as_i64() >= self.kafka["epoch"].as_i64();
        if g["type"] != "consumer" || !goes_on {
            self.epochs.clear();
        }
        if g["type"] != "consumer" {
            return g;
        }
        let (epoch, target) = (g["epoch"].as_i64().unwrap_or(0), g["aepoch"].as_i64().unwrap_or(0));
        if g["state"] == "Empty" && epoch != target {
            self.epochs.insert(target, epoch);
        }
        self.renumber(&mut g, "aepoch");
        for m in g["members"].as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
            self.renumber(m, "e");
            self.renumber(m, "pe");
        }
        g
    }

    /// What Baton's answer to a heartbeat is, when Kafka's is this. `before` is Baton's group before the step; that after it has been worked out.
    pub fn heartbeat(&mut self, kafka: &Value, before: &Value, beat: &Beat) -> Value {
        let mut res = kafka.clone();
        self.renumber(&mut res, "e");
        let (had, has) = (&before["members"][beat.member]["own"], &self.last["members"][beat.member]["own"]);
        let kafkas = &self.kafka["members"][beat.member]["own"];
        if self.used.contains(TOPIC_MADE_AGAIN) && res["err"] == "NONE" && res["e"].as_i64() > Some(0) && (has != kafkas || had != has) {
            match beat.full || had != has {
                true => res["asg"] = has.clone(),
                false => drop(res.as_object_mut().and_then(|r| r.remove("asg"))),
            }
        }
        res
    }

    fn renumber(&mut self, of: &mut Value, field: &str) {
        if let Some(other) = of[field].as_i64().and_then(|e| self.epochs.get(&e)) {
            of[field] = json!(other);
            self.used.insert(EMPTY_TARGET_EPOCH);
        }
    }

    /// What Baton's answer to a commit is. `owner` is who holds the partition in Kafka's consumer group; `exists`: there is such a partition; `speaks_classic`: so the
    /// member does.
    #[allow(clippy::too_many_arguments)] // what a commit's answer depends on
    pub fn commit(&mut self, kafka: &Value, member: &str, owner: Option<&str>, exists: bool, speaks_classic: bool, place: (&str, i64), offset: i64) -> Value {
        let place = (place.0.to_string(), place.1);
        if kafka["err"] == "NONE" && !exists {
            self.used.insert(UNKNOWN_TOPIC);
            self.refused.insert(place);
            return json!({"err": "UNKNOWN_TOPIC_OR_PARTITION"});
        }
        if kafka["err"] == "NONE" && !member.is_empty() && owner.is_some_and(|o| o != member) {
            self.used.insert(COMMIT_FOR_ANOTHERS_PARTITION);
            self.refused.insert(place);
            return json!({"err": if speaks_classic { "ILLEGAL_GENERATION" } else { "STALE_MEMBER_EPOCH" }});
        }
        if kafka["err"] == "NONE" {
            self.offsets.insert(place, offset);
        }
        kafka.clone()
    }

    /// What Baton's answer to a fetch is.
    pub fn fetch(&self, kafka: &Value, place: (&str, i64)) -> Value {
        let place = (place.0.to_string(), place.1);
        if self.refused.contains(&place) { json!({"err": "NONE", "offset": self.offsets.get(&place).copied().unwrap_or(-1)}) } else { kafka.clone() }
    }

    /// The topic is gone, and its offsets with it.
    pub fn deleted(&mut self, topic: &str) {
        self.offsets.retain(|(t, _), _| t != topic);
        self.refused.retain(|(t, _)| t != topic);
    }
}
