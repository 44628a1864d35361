//! Where Baton differs from the recorded Kafka on purpose. A rule is a predicate and a prediction: from what Kafka did it says exactly what Baton does
//! instead; any other difference stays unexplained. At most ten.

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Kafka 4.3.1 leaves the target epoch of a group behind when its last member goes; Kafka 4.4 and Baton keep it level with the group epoch (KAFKA-20442).
/// A member that joins before a new target is computed is therefore told the one epoch or the other.
pub const EMPTY_TARGET_EPOCH: &str = "empty-target-epoch";
/// A commit at the current epoch for a partition that another member holds: Kafka takes it, Baton refuses it (`docs/safety.md` 17).
pub const COMMIT_FOR_ANOTHERS_PARTITION: &str = "commit-for-anothers-partition";
/// A commit for a topic that does not exist: Kafka refuses it in front of the recorded part, so that there it is taken; Baton refuses it in the shard.
pub const UNKNOWN_TOPIC: &str = "unknown-topic";

/// The rules, with what they remember of a trace.
#[derive(Default)]
pub struct Rules {
    /// Epochs of Kafka's that Baton's run has another number for.
    epochs: BTreeMap<i64, i64>,
    /// What was committed where Kafka took a commit that Baton refused, as Baton has it.
    offsets: BTreeMap<(String, i64), i64>,
    refused: BTreeSet<(String, i64)>,
    used: BTreeSet<&'static str>,
}

impl Rules {
    /// The rules that explained something in this trace.
    pub fn used(&self) -> &BTreeSet<&'static str> { &self.used }

    /// The epoch that a client of Baton's would send where Kafka's sends `epoch`.
    pub fn asked_epoch(&self, epoch: i64) -> i64 { self.epochs.get(&epoch).copied().unwrap_or(epoch) }

    /// What Baton's group is, when Kafka's is this.
    pub fn group(&mut self, kafka: &Value) -> Value {
        let mut g = kafka.clone();
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

    /// What Baton's answer to a heartbeat is, when Kafka's is this.
    pub fn heartbeat(&mut self, kafka: &Value) -> Value {
        let mut res = kafka.clone();
        self.renumber(&mut res, "e");
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
