//! What operators and their tools ask: cluster, metrics, health, the description of the API.

use crate::{
    backend::Backend,
    error::Failure,
    openapi,
};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use baton_node::{Kind, Metric};
use baton_wire::{ClusterView, Problem, code};
use std::{collections::BTreeMap, fmt::Write};

pub async fn cluster<B: Backend>(State(node): State<B>) -> Json<ClusterView> { Json(node.cluster()) }

/// The process lives.
pub async fn healthz() -> &'static str { "ok\n" }

/// The node can serve.
pub async fn readyz<B: Backend>(State(node): State<B>) -> Result<&'static str, Failure> {
    node.ready().map_err(|why| Failure::from(Problem::new(code::NOT_READY, why).after(1_000)))?;
    Ok("ready\n")
}

pub async fn openapi() -> Json<serde_json::Value> { Json(openapi::document()) }

pub async fn metrics<B: Backend>(State(node): State<B>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], exposition(node.metrics())).into_response()
}

/// The text format of Prometheus: all samples of one name together, under one HELP and TYPE line.
fn exposition(samples: Vec<Metric>) -> String {
    let mut by_name: BTreeMap<&'static str, Vec<Metric>> = BTreeMap::new();
    for m in samples { by_name.entry(m.name).or_default().push(m); }
    let mut out = String::new();
    for (name, samples) in by_name {
        if let Some(m) = samples.first() { let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", m.help.replace('\n', " "), kind(m.kind)); }
        for m in samples {
            let escaped = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let labels: Vec<String> = m.labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escaped(v))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            let _ = writeln!(out, "{name}{}{labels} {}", m.suffix, m.value);
        }
    }
    out
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    }
}

#[test]
fn samples_of_one_name_stand_together_and_labels_are_escaped() {
    let m = |name, kind, label: &str, value| Metric { name, suffix: "", help: "h", kind, labels: vec![("g", label.to_string())], value };
    let text = exposition(vec![m("b", Kind::Counter, "x", 1.0), m("a", Kind::Gauge, "q\"\\\n", 2.5), m("b", Kind::Counter, "y", 3.0)]);
    assert_eq!(text, "# HELP a h\n# TYPE a gauge\na{g=\"q\\\"\\\\\\n\"} 2.5\n# HELP b h\n# TYPE b counter\nb{g=\"x\"} 1\nb{g=\"y\"} 3\n");
}
