//! Command line, environment and configuration file. A flag wins over `BATON_…` in the environment, that over the file, that over the default.
//! Knows nothing of what the options mean; `serve`, `dev` and `status` declare theirs and read them here.

use crate::config;
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// One option of a subcommand.
pub struct Opt {
    /// `node-id` stands for `--node-id` and `BATON_NODE_ID`.
    pub name: &'static str,
    /// What its value is called in the help; empty for a switch.
    pub value: &'static str,
    /// What is used when it is not given; empty: nothing.
    pub default: &'static str,
    pub help: &'static str,
}

/// The options of one call.
#[derive(Debug, PartialEq)]
pub struct Args(BTreeMap<&'static str, String>);

impl Args {
    /// Reads the arguments behind the subcommand. None: help was asked for.
    pub fn parse(command: &str, opts: &'static [Opt], argv: &[String], env: impl Fn(&str) -> Option<String>) -> Result<Option<Args>> {
        let mut found = BTreeMap::new();
        let mut rest = argv.iter();
        while let Some(arg) = rest.next() {
            if arg == "--help" || arg == "-h" { return Ok(None); }
            let (name, inline) = match arg.strip_prefix("--") {
                Some(a) => a.split_once('=').map_or((a, None), |(n, v)| (n, Some(v.to_string()))),
                None => bail!("{arg:?} is not an option: `baton {command} --help` lists them"),
            };
            let Some(opt) = opts.iter().find(|o| o.name == name) else { bail!("--{name} is not known: `baton {command} --help` lists the options") };
            let value = match (opt.value.is_empty(), inline) {
                (true, None) => "true".to_string(),
                (true, Some(_)) => bail!("--{name} takes no value"),
                (false, Some(v)) => v,
                (false, None) => match rest.next() { Some(v) => v.clone(), None => bail!("--{name} needs a value: --{name} {}", opt.value) },
            };
            if found.insert(opt.name, value).is_some() { bail!("--{name} is given twice"); }
        }
        // Only a node is configured by a file; to `config check` the same word is what to look at.
        let file = match found.get("config").cloned().or_else(|| env(&env_name("config")).filter(|v| !v.is_empty())).filter(|_| command == "serve") {
            Some(path) => config::read(&path, opts)?,
            None => BTreeMap::new(),
        };
        for opt in opts {
            if found.contains_key(opt.name) { continue; }
            let from_env = env(&env_name(opt.name)).filter(|v| !v.is_empty());
            if let Some(v) = &from_env && opt.value.is_empty() && v != "true" && v != "false" { bail!("{}={v}: true or false", env_name(opt.name)); }
            match from_env {
                Some(v) => { found.insert(opt.name, v); }
                None if file.contains_key(opt.name) => { found.insert(opt.name, file[opt.name].clone()); }
                None if !opt.default.is_empty() => { found.insert(opt.name, opt.default.to_string()); }
                None => {}
            }
        }
        Ok(Some(Args(found)))
    }

    pub fn get(&self, name: &str) -> Option<&str> { self.0.get(name).map(String::as_str) }
    pub fn switch(&self, name: &str) -> bool { self.get(name) == Some("true") }
    /// A value that must be there.
    pub fn need(&self, name: &str) -> Result<&str> {
        match self.get(name) { Some(v) => Ok(v), None => bail!("--{name} (or {}) is needed", env_name(name)) }
    }
    /// A number in `lo..=hi`.
    pub fn number(&self, name: &str, lo: u64, hi: u64) -> Result<u64> {
        let text = self.need(name)?;
        match text.parse::<u64>() { Ok(n) if (lo..=hi).contains(&n) => Ok(n), _ => bail!("--{name} {text}: a number from {lo} to {hi} is needed") }
    }
    /// `host:port` as text, checked for its form.
    pub fn address(&self, name: &str) -> Result<&str> {
        let text = self.need(name)?;
        check_address(text).map_err(|e| anyhow::anyhow!("--{name} {text}: {e}"))?;
        Ok(text)
    }
}

/// `BATON_NODE_ID` for `node-id`.
pub fn env_name(name: &str) -> String { format!("BATON_{}", name.replace('-', "_").to_uppercase()) }

/// `host:port` with a port from 1 to 65535.
pub fn check_address(text: &str) -> Result<()> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0) => Ok(()),
        _ => bail!("host:port is needed, as 127.0.0.1:7600"),
    }
}

/// `1=h:p,2=h:p` → id → address.
pub fn peers(text: &str) -> Result<BTreeMap<u64, String>> {
    let mut all = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let Some((id, address)) = part.split_once('=') else { bail!("--peers: {part:?} is not id=host:port") };
        let id: u64 = match id.parse() { Ok(n) if n > 0 => n, _ => bail!("--peers: {id:?} is not a node id (1 and above)") };
        check_address(address).map_err(|e| anyhow::anyhow!("--peers: {part}: {e}"))?;
        if all.values().any(|a| a == address) { bail!("--peers: {address} is given twice"); }
        if all.insert(id, address.to_string()).is_some() { bail!("--peers: node {id} is given twice"); }
    }
    if all.is_empty() { bail!("--peers: at least one id=host:port is needed"); }
    Ok(all)
}

/// The lines of `--help` for these options.
pub fn help(opts: &[Opt]) -> String {
    let mut out = String::new();
    for o in opts {
        let left = if o.value.is_empty() { format!("--{}", o.name) } else { format!("--{} {}", o.name, o.value) };
        let default = if o.default.is_empty() { String::new() } else { format!(" [{}]", o.default) };
        out.push_str(&format!("  {left:<26} {}{default}\n", o.help));
    }
    out.push_str("  --help                     this text\n\nEvery option can also be given in the environment: --node-id as BATON_NODE_ID. A flag wins.\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    static OPTS: &[Opt] = &[
        Opt { name: "node-id", value: "N", default: "", help: "" },
        Opt { name: "http", value: "H:P", default: "127.0.0.1:7600", help: "" },
        Opt { name: "insecure", value: "", default: "", help: "" },
    ];
    fn parse(argv: &[&str], env: &'static [(&str, &str)]) -> Result<Option<Args>> {
        let argv: Vec<String> = argv.iter().map(|a| a.to_string()).collect();
        Args::parse("serve", OPTS, &argv, |n| env.iter().find(|(k, _)| *k == n).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn flag_over_environment_over_default() {
        let a = parse(&["--node-id", "3", "--insecure"], &[("BATON_NODE_ID", "2"), ("BATON_HTTP", "127.0.0.1:9")]).unwrap().unwrap();
        assert_eq!((a.number("node-id", 1, 9).unwrap(), a.address("http").unwrap(), a.switch("insecure")), (3, "127.0.0.1:9", true));
        let a = parse(&["--http=h:1"], &[]).unwrap().unwrap();
        assert_eq!((a.get("http"), a.switch("insecure"), a.get("node-id")), (Some("h:1"), false, None));
        assert!(a.need("node-id").unwrap_err().to_string().contains("BATON_NODE_ID"));
    }

    #[test]
    fn mistakes_are_named() {
        let wrong = |argv: &[&str], word: &str| assert!(parse(argv, &[]).unwrap_err().to_string().contains(word), "{argv:?}");
        wrong(&["--nope"], "--nope");
        wrong(&["serve"], "serve");
        wrong(&["--node-id"], "needs a value");
        wrong(&["--insecure=yes"], "takes no value");
        wrong(&["--http", "a:1", "--http", "a:2"], "twice");
        assert!(parse(&[], &[("BATON_INSECURE", "1")]).is_err());
        assert!(parse(&["--help"], &[]).unwrap().is_none());
        assert!(parse(&["--node-id", "x"], &[]).unwrap().unwrap().number("node-id", 1, 5).is_err());
    }

    #[test]
    fn peers_are_checked() {
        assert_eq!(peers("1=a:1,2=b:2").unwrap().len(), 2);
        for bad in ["", "1", "0=a:1", "1=a", "1=a:0", "1=a:1,1=b:2", "1=a:1,2=a:1", "x=a:1"] { assert!(peers(bad).is_err(), "{bad}"); }
    }
}
