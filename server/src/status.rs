//! `baton status`: a running cluster as text. Reads the HTTP API like any other client.

use crate::{args::{Args, Opt}, http, say};
use anyhow::{Result, bail};
use serde_json::Value;
use std::{process::ExitCode, time::Duration};

pub static OPTIONS: &[Opt] = &[Opt { name: "http", value: "HOST:PORT", default: "127.0.0.1:7600", help: "any node of the cluster" }];

pub fn run(args: Args) -> Result<ExitCode> {
    let address = args.address("http")?;
    say(&render(&get(address, "/v1/cluster")?));
    let mut page = String::new();
    let mut groups = Vec::new();
    loop {
        let list = get(address, &format!("/v1/groups{page}"))?;
        groups.extend(list["items"].as_array().cloned().unwrap_or_default());
        match text(&list["next"]) { next if next.is_empty() || groups.len() > 100_000 => break, next => page = format!("?page={next}") }
    }
    say(&format!("\ngroups ({})", groups.len()));
    say(&table(&groups, &["group", "type", "state", "members", "revision"]));
    Ok(ExitCode::SUCCESS)
}

fn get(address: &str, path: &str) -> Result<Value> {
    match http::call(address, "GET", path, "", Duration::from_secs(5))? {
        (200, body) => Ok(serde_json::from_str(&body)?),
        (status, body) => {
            let problem: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
            let what = [text(&problem["title"]), text(&problem["detail"]), text(&problem["action"])].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join("; ");
            bail!("{address} answers {path} with {status} {}", if what.is_empty() { body } else { what })
        }
    }
}

fn render(cluster: &Value) -> String {
    let mut out = vec![format!("cluster {}, seen from node {}", text(&cluster["cluster_id"]), text(&cluster["node_id"]))];
    for (part, columns) in [("nodes", &["node_id", "http", "leads"][..]), ("shards", &["shard", "leader", "term", "applied", "voters"][..])] {
        let rows = cluster[part].as_array().cloned().unwrap_or_default();
        out.push(format!("\n{part} ({})\n{}", rows.len(), table(&rows, columns)));
    }
    out.join("\n")
}

/// The columns that at least one row has, aligned.
fn table(rows: &[Value], columns: &[&str]) -> String {
    let columns: Vec<&str> = columns.iter().copied().filter(|c| rows.iter().any(|r| r.get(c).is_some())).collect();
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|c| c.to_string()).collect()];
    lines.extend(rows.iter().map(|r| columns.iter().map(|c| text(&r[*c])).collect()));
    let widths: Vec<usize> = (0..columns.len()).map(|i| lines.iter().map(|l| l[i].chars().count()).max().unwrap_or(0)).collect();
    if rows.is_empty() { return "  none".into(); }
    lines.iter().map(|l| l.iter().zip(&widths).fold(String::from(" "), |s, (c, w)| format!("{s} {c:<w$} ")).trim_end().to_string()).collect::<Vec<_>>().join("\n")
}

fn text(v: &Value) -> String {
    match v {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        Value::Array(a) => a.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn rows_are_aligned_and_unknown_columns_left_out() {
        let rows = [serde_json::json!({"group":"a","members":3}), serde_json::json!({"group":"longer","members":12})];
        assert_eq!(table(&rows, &["group", "state", "members"]), "  group   members\n  a       3\n  longer  12");
        assert_eq!(table(&[], &["group"]), "  none");
    }
}
