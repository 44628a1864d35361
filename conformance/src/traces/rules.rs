//! Where Baton differs from the recorded Kafka on purpose. A rule is a predicate and a prediction: from what Kafka did it says exactly what Baton does
//! instead; any other difference stays unexplained. At most ten.

use super::by_name::{self, Beat, ByName, Part};
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
    /// Who has something else than in Kafka's group because of a topic made again; and whether the member of this step had before it.
    by_name: ByName,
    was_apart: bool,
    /// Kafka's group and Baton's, as of the step before.
    kafka: Value,
    last: Value,
    used: BTreeSet<&'static str>,
}

/// Whether every member of a group has what its target gives it.
pub fn arrived(group: &Value) -> bool { group["members"].as_object().is_some_and(|all| all.values().all(|m| m["st"] == "STABLE" && m["e"] == group["aepoch"])) }

impl Rules {
    /// The rules that explained something in this trace.
    pub fn used(&self) -> &BTreeSet<&'static str> { &self.used }

    /// A rule that was worked out elsewhere explained something.
    pub fn explained_by(&mut self, rule: &'static str) { self.used.insert(rule); }

    /// Kafka's group after the step before.
    pub fn kafkas(&self) -> &Value { &self.kafka }

    /// The epoch that a client of Baton's would send where Kafka's sends `epoch`: another one, if it was told that.
    pub fn asked_epoch(&self, member: &str, epoch: i64, says: bool) -> i64 {
        if let Some(e) = self.by_name.asked_epoch(&self.kafka, member, epoch, says) {
            return e;
        }
        let m = &self.kafka["members"][member];
        let told = m["e"] == epoch || m["pe"] == epoch;
        if told {
            return self.epochs.get(&epoch).copied().unwrap_or(epoch);
        }
        // One that Kafka never told it: so must it be to Baton.
        let b = &self.last["members"][member];
        (1..=epoch).rev().find(|e| b["e"] != *e && b["pe"] != *e).unwrap_or(epoch)
    }

    /// A member that Kafka has asked for something that Baton never gave it: in Baton nothing runs out for it.
    pub fn is_not_asked(&self, member: &str) -> bool { self.by_name.has(member) && self.last["members"][member].get("rev").is_none() }

    /// Baton's group after the step before.
    pub fn last(&self) -> &Value { &self.last }

    /// What a client of Baton's would say to own where Kafka's says `own`.
    pub fn claims(&self, member: &str, own: BTreeSet<Part>) -> BTreeSet<Part> { self.by_name.claims(&self.kafka, member, own) }

    /// These timers took members out at the beginning of a step: who is in after it came in anew.
    pub fn went(&mut self, fired: &[String]) {
        for member in fired.iter().filter_map(|f| f.split_once("timeout ")).map(|(_, m)| m) {
            self.by_name.went(member);
            self.last["members"].as_object_mut().and_then(|m| m.remove(member));
        }
    }

    /// What Baton's group is, when Kafka's is this after a step (an accepted heartbeat, if `beat` is given).
    pub fn group(&mut self, kafka: &Value, beat: Option<&Beat>) -> Value {
        let numbered = self.numbered(kafka);
        self.was_apart = beat.is_some_and(|b| self.by_name.has(&b.member));
        let g = self.by_name.group(numbered, &self.last, beat);
        if !self.by_name.is_empty() {
            self.used.insert(TOPIC_MADE_AGAIN);
        }
        (self.kafka, self.last) = (kafka.clone(), g.clone());
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
        let before = std::mem::take(&mut self.last);
        for (id, m) in g["members"].as_object_mut().into_iter().flatten() {
            self.renumber(m, "e");
            self.renumber(m, "pe");
            let b = &before["members"][id];
            if m["pe"] == m["e"] && b["e"] == m["e"] && kafka["members"][id]["pe"] != kafka["members"][id]["e"] {
                // Kafka's member went from the one epoch to the other; they are one in Baton, so its member went nowhere.
                m["pe"] = b["pe"].clone();
            }
        }
        self.last = before;
        if g["state"] != "Empty" && g["aepoch"] == g["epoch"] {
            // A target or a member that is behind in Kafka may be level in Baton.
            g["state"] = json!(if arrived(&g) { "Stable" } else { "Reconciling" });
        }
        g
    }

    /// What Baton's answer to a heartbeat is, when Kafka's is this. `before` is Baton's group before the step; that after it has been worked out.
    pub fn heartbeat(&mut self, kafka: &Value, before: &Value, beat: &Beat) -> Value {
        let mut res = kafka.clone();
        self.renumber(&mut res, "e");
        let member = &beat.member;
        if (self.was_apart || self.by_name.has(member)) && res["err"] == "NONE" && res["e"].as_i64() > Some(0) {
            let (had, has) = (&before["members"][member]["own"], &self.last["members"][member]);
            res["e"] = has["e"].clone();
            match beat.full || *had != has["own"] {
                true => res["asg"] = has["own"].clone(),
                false => drop(res.as_object_mut().and_then(|r| r.remove("asg"))),
            }
        }
        res
    }

    /// What Baton's answer to the join of a classic member of a consumer group is.
    pub fn join(&self, kafka: &Value, member: &str) -> Value {
        let mut res = kafka.clone();
        if self.by_name.has(member) {
            res["gen"] = self.last["members"][member]["e"].clone();
        }
        res
    }
    /// And to its sync: topics go by their names.
    pub fn sync(&self, kafka: &Value, member: &str) -> Value {
        let mut res = kafka.clone();
        if self.by_name.has(member) && res["err"] == "NONE" {
            res["asg"] = by_name::names(&self.last["members"][member]["own"]);
        }
        res
    }
    /// What a member says to own by name, with the labels of what it has.
    pub fn named(&self, member: &str, own: BTreeSet<Part>) -> BTreeSet<Part> { by_name::labelled(&self.last["members"][member], own) }

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
