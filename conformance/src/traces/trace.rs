//! A recorded conversation, as it is in the files.

use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, Deserialize)]
pub struct Trace {
    pub trace: String,
    pub config: Map<String, Value>,
    pub topics: Vec<Topic>,
    pub steps: Vec<Step>,
    pub exact_until: Option<usize>,
    /// Kafka's assignors; the first is the default.
    #[serde(default)]
    pub assignors: Vec<String>,
}
impl Trace {
    /// A setting under Kafka's name.
    pub fn setting(&self, name: &str) -> Option<u64> { self.config.get(name).and_then(Value::as_u64) }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Topic {
    pub name: String,
    pub parts: i32,
}

/// A request (or only time that passes), what came of it, and what changed.
#[derive(Clone, Debug, Deserialize)]
pub struct Step {
    pub t: u64,
    pub op: String,
    #[serde(default)]
    pub fired: Vec<String>,
    #[serde(default)]
    pub done: Vec<Value>,
    pub res: Option<Value>,
    /// Absent: unchanged. Null: no such group.
    #[serde(default, deserialize_with = "present")]
    pub group: Option<Value>,
    /// Absent: unchanged. Null: the group is a classic one, which has none.
    #[serde(default, deserialize_with = "present")]
    pub target: Option<Value>,
    /// The fields of the request.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> { Value::deserialize(d).map(Some) }

impl Step {
    /// A text field; absent is empty.
    pub fn text(&self, name: &str) -> &str { self.fields.get(name).and_then(Value::as_str).unwrap_or("") }
    pub fn maybe(&self, name: &str) -> Option<&str> { self.fields.get(name).and_then(Value::as_str) }
    pub fn number(&self, name: &str) -> i64 { self.fields.get(name).and_then(Value::as_i64).unwrap_or_default() }
}

/// `{"t1": "0-2,5"}` as topic and partition.
pub fn partitions(ranges: &Value) -> BTreeSet<(String, i32)> {
    let mut out = BTreeSet::new();
    for (topic, text) in ranges.as_object().into_iter().flatten() {
        for range in text.as_str().unwrap_or("").split(',').filter(|r| !r.is_empty()) {
            let (a, b) = range.split_once('-').unwrap_or((range, range));
            let (a, b) = (a.parse().expect("golden data holds numbers"), b.parse().expect("golden data holds numbers"));
            out.extend((a..=b).map(|p: i32| (topic.clone(), p)));
        }
    }
    out
}

/// The other way round.
pub fn ranges(partitions: &BTreeSet<(String, i32)>) -> Value {
    let mut by_topic: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for (t, p) in partitions {
        by_topic.entry(t).or_default().push(*p);
    }
    let text = |ps: Vec<i32>| {
        let mut runs: Vec<(i32, i32)> = Vec::new();
        for p in ps {
            match runs.last_mut() {
                Some((_, end)) if *end + 1 == p => *end = p,
                _ => runs.push((p, p)),
            }
        }
        runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect::<Vec<_>>().join(",")
    };
    by_topic.into_iter().map(|(t, ps)| (t.to_string(), Value::String(text(ps)))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn ranges_read_and_write_the_same() {
        for text in [r#"{}"#, r#"{"t1":"0-2,5","t2":"7"}"#] {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(ranges(&partitions(&value)), value);
        }
        assert_eq!(partitions(&serde_json::json!({"t": "1-3"})).len(), 3);
    }
}
