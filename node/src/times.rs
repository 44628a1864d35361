//! How long things take, as Prometheus histograms. Milliseconds of the node's clock, which the simulation can replace.

use crate::view::{Kind, Metric};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Upper bounds of the buckets, ms; above the last one only the count knows.
const BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/// Counts of durations. Read while it is written: a scrape may be one observation apart in its parts.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len()],
    count: AtomicU64,
    sum_ms: AtomicU64,
}

impl Histogram {
    pub fn record(&self, ms: u64) {
        if let Some(i) = BOUNDS_MS.iter().position(|b| ms <= *b) {
            self.buckets[i].fetch_add(1, Relaxed);
        }
        self.count.fetch_add(1, Relaxed);
        self.sum_ms.fetch_add(ms, Relaxed);
    }
}

/// What the driver of a shard takes time for, under Kafka's names.
#[derive(Default)]
pub struct Times {
    pub queue: Histogram,
    pub processing: Histogram,
    pub purgatory: Histogram,
    pub flush: Histogram,
    pub load: Histogram,
}

type Part = fn(&Times) -> &Histogram;
const PARTS: [(&str, &str, Part); 5] = [
    ("baton_event_queue_time_ms", "Requests: from their arrival until a shard took them.", |t| &t.queue),
    ("baton_event_processing_time_ms", "Turns of a shard's loop: deciding what had come.", |t| &t.processing),
    ("baton_event_purgatory_time_ms", "Requests: from their arrival until the answer; the time of held heartbeats counts.", |t| &t.purgatory),
    ("baton_batch_flush_time_ms", "Entries: from the proposal until they were committed and applied.", |t| &t.flush),
    ("baton_partition_load_time_ms", "Shards: from the election until they were served.", |t| &t.load),
];

/// The sum over all shards, as samples.
pub fn metrics<'a>(shards: impl Iterator<Item = &'a Times> + Clone) -> Vec<Metric> {
    let mut out = Vec::new();
    for (name, help, part) in PARTS {
        let total = |f: &dyn Fn(&Histogram) -> u64| shards.clone().map(|t| f(part(t))).sum::<u64>() as f64;
        let mut put = |suffix, labels, value| out.push(Metric { name, suffix, help, kind: Kind::Histogram, labels, value });
        let mut below = 0.0;
        for (i, bound) in BOUNDS_MS.iter().enumerate() {
            below += total(&|h| h.buckets[i].load(Relaxed));
            put("_bucket", vec![("le", bound.to_string())], below);
        }
        put("_bucket", vec![("le", "+Inf".into())], total(&|h| h.count.load(Relaxed)));
        put("_sum", vec![], total(&|h| h.sum_ms.load(Relaxed)));
        put("_count", vec![], total(&|h| h.count.load(Relaxed)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_hold_their_upper_bound() {
        let (a, b) = (Times::default(), Times::default());
        for ms in [0, 1, 2, 3, 20_000] { a.queue.record(ms); }
        b.queue.record(5);
        let all = metrics([&a, &b].into_iter());
        let value = |suffix: &str, le: Option<&str>| {
            let of = |m: &&Metric| m.name == "baton_event_queue_time_ms" && m.suffix == suffix && m.labels.first().map(|l| l.1.as_str()) == le;
            all.iter().find(of).map(|m| m.value)
        };
        assert_eq!([value("_bucket", Some("1")), value("_bucket", Some("2")), value("_bucket", Some("5")), value("_bucket", Some("+Inf"))], [2.0, 3.0, 5.0, 6.0].map(Some));
        assert_eq!([value("_sum", None), value("_count", None)], [20_011.0, 6.0].map(Some));
    }
}
