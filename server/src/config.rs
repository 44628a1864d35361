//! The configuration file: the options of `baton serve` as TOML, `node-id` or `node_id`. Flags and the environment win over it.
//! `baton config check` names every mistake at once, before a node is started with it.

use crate::{args::{Args, Opt}, say, serve};
use anyhow::{Context, Result, bail};
use std::{collections::BTreeMap, process::ExitCode};

pub static OPTIONS: &[Opt] = &[Opt { name: "config", value: "FILE", default: "", help: "the file to check" }];

/// Reads a file into option values. Every mistake is named, not only the first.
pub fn read(path: &str, options: &[Opt]) -> Result<BTreeMap<&'static str, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration {path}"))?;
    parse(&text, options).map_err(|wrong| anyhow::anyhow!("{path}: {}", wrong.join("; ")))
}

fn parse(text: &str, options: &[Opt]) -> Result<BTreeMap<&'static str, String>, Vec<String>> {
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| vec![e.to_string().trim().replace('\n', " ")])?;
    let (mut found, mut wrong) = (BTreeMap::new(), Vec::new());
    for (key, value) in table {
        let name = key.replace('_', "-");
        let Some(opt) = options.iter().find(|o| o.name == name && o.name != "config") else {
            wrong.push(format!("{key} is not an option of `baton serve`"));
            continue;
        };
        let value = match (opt.value.is_empty(), value) {
            (true, toml::Value::Boolean(b)) => b.to_string(),
            (true, _) => { wrong.push(format!("{key} is true or false")); continue }
            (false, toml::Value::String(s)) => s,
            (false, toml::Value::Integer(n)) => n.to_string(),
            (false, _) => { wrong.push(format!("{key} is a text or a number")); continue }
        };
        found.insert(opt.name, value);
    }
    if wrong.is_empty() { Ok(found) } else { Err(wrong) }
}

/// `baton config check`.
pub fn check(args: Args) -> Result<ExitCode> {
    let path = args.need("config")?;
    let argv = ["--config".to_string(), path.to_string()];
    let Some(args) = Args::parse("serve", serve::OPTIONS, &argv, |_| None)? else { bail!("{path} asks for help") };
    let wrong = serve::mistakes(&args);
    if wrong.is_empty() {
        say(&format!("{path} is fine"));
        return Ok(ExitCode::SUCCESS);
    }
    for w in &wrong { say(&format!("{path}: {w}")); }
    bail!("{} mistakes", wrong.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named() {
        let good = parse("node_id = 2\nhttp = \"127.0.0.1:1\"\ninsecure = true", serve::OPTIONS).unwrap();
        assert_eq!((good["node-id"].as_str(), good["http"].as_str(), good["insecure"].as_str()), ("2", "127.0.0.1:1", "true"));
        let wrong = parse("colour = 1\ninsecure = \"yes\"\nhttp = [1]", serve::OPTIONS).unwrap_err().join("; ");
        for word in ["colour is not an option", "insecure is true or false", "http is a text or a number"] { assert!(wrong.contains(word), "{wrong}"); }
        assert!(parse("node-id = ", serve::OPTIONS).is_err());
    }
}
