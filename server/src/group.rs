//! `baton group`: what an operator does to one group. Goes over the HTTP API like any other client.

use crate::{args::{Args, Opt}, http, say};
use anyhow::{Result, bail};
use baton_client::http::escape;
use serde_json::Value;
use std::{process::ExitCode, time::Duration};

pub static OPTIONS: &[Opt] = &[
    Opt { name: "http", value: "HOST:PORT", default: "127.0.0.1:7600", help: "any node of the cluster" },
    Opt { name: "group", value: "GROUP", default: "", help: "the group's id" },
];

/// Lifts the quarantine of a group whose records broke an invariant. Its members go on from what is stored.
pub fn repair(args: Args) -> Result<ExitCode> {
    let (address, group) = (args.address("http")?, args.need("group")?);
    let (status, body) = http::call(address, "POST", &format!("/v1/groups/{}/repair", escape(group)), "", Duration::from_secs(10))?;
    if (200..300).contains(&status) {
        say(&format!("group {group} serves again; its history says why it had stopped"));
        return Ok(ExitCode::SUCCESS);
    }
    let problem: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    let text = |f: &str| problem[f].as_str().unwrap_or("").to_string();
    if text("title").is_empty() { bail!("{address} answers {status} {body}") } else { bail!("{}: {}. {}", text("title"), text("detail"), text("action")) }
}

#[test]
fn a_name_stays_one_segment() { assert_eq!(escape("a/b c"), "a%2Fb%20c"); }
