//! `baton dev --demo`: a topic, a few workers of the client library in this process, and a picture of who owns what.
//! One worker comes and goes so that there is something to see. The workers do no work.

use crate::{http, say};
use anyhow::{Context, Result, bail};
use baton_client::Member;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 12;
const GROUP: &str = "demo";
/// Between two looks at the assignment.
const LOOK: Duration = Duration::from_millis(300);
/// How long a worker that comes and goes stays, and stays away.
const TURN: Duration = Duration::from_secs(8);

/// Runs until the process ends. `servers` are the nodes' HTTP addresses; any of them may be down at any time.
pub fn run(servers: Vec<String>) -> Result<()> {
    let mut declared = Ok(());
    for server in &servers {
        declared = match http::call(server, "PUT", &format!("/v1/topics/{TOPIC}"), &format!("{{\"partitions\":{PARTITIONS}}}"), Duration::from_secs(5)) {
            Ok((200 | 201, _)) => Ok(()),
            Ok((status, body)) => Err(anyhow::anyhow!("{server} does not declare the topic: {status} {body}")),
            Err(e) => Err(e),
        };
        if declared.is_ok() { break; }
    }
    declared?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("the demo's workers cannot be started")?;
    for name in ["ann", "ben", "cem", "dan"] {
        let servers = servers.clone();
        runtime.spawn(async move {
            for life in 1.. {
                let stays = (name == "dan").then_some(TURN);
                if let Err(e) = live(&servers, &format!("{name}-{life}"), stays).await { say(&format!("demo: {name}: {e:#}")); }
                tokio::time::sleep(stays.unwrap_or(Duration::from_secs(1))).await;
            }
        });
    }
    show(&servers)
}

/// One life of a worker: until `stays` is over, when it leaves, or for ever.
async fn live(servers: &[String], name: &str, stays: Option<Duration>) -> Result<()> {
    let mut random = [0u8; 2];
    getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
    // The demo's group outlives this process: a name alone could be in use still.
    let id = format!("{name}-{:02x}{:02x}", random[0], random[1]);
    let member = Member::builder(servers.to_vec(), GROUP).member_id(id).topics([TOPIC]).long_poll(Duration::from_secs(2)).spawn().await?;
    match stays {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
    Ok(member.leave().await?)
}

/// Draws the assignment whenever it changes.
fn show(servers: &[String]) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let (mut last, mut drawn, began) = (String::new(), 0, Instant::now());
    loop {
        std::thread::sleep(LOOK);
        let picture = match servers.iter().find_map(|s| look(s).ok()) {
            Some(rows) => rows,
            None => vec!["no node answers".to_string()],
        };
        if picture.join("\n") == last { continue; }
        last = picture.join("\n");
        let head = format!("{:>6.1} s  topic {TOPIC}, group {GROUP}", began.elapsed().as_secs_f32());
        if terminal {
            // Back to the head of the last picture, and clear down from there.
            let up = if drawn > 0 { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            drawn = picture.len() + 1;
            say(&format!("{up}{head}\n{last}"));
        } else {
            say(&format!("{head}: {}", picture.iter().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(" | ")));
        }
    }
}

/// One line per worker, then what nobody may use at the moment.
fn look(server: &str) -> Result<Vec<String>> {
    let (status, body) = http::call(server, "GET", &format!("/v1/groups/{GROUP}/assignment"), "", Duration::from_secs(2))?;
    if status != 200 { bail!("{status}"); }
    let answer: Value = serde_json::from_str(&body)?;
    Ok(rows(answer["partitions"].as_array().context("no partitions")?))
}

fn rows(partitions: &[Value]) -> Vec<String> {
    let mut by_owner: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for p in partitions {
        let owner = p["owner"].as_str().unwrap_or("(nobody)").to_string();
        let mark = match p["state"].as_str().unwrap_or("") { "assigned" | "free" => "", "pending_revocation" => " giving back", _ => " held" };
        by_owner.entry(owner).or_default().push(format!("{}{mark}", p["partition"]));
    }
    by_owner.into_iter().map(|(owner, list)| format!("  {owner:<28} {}", list.join(", "))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_picture_names_owners_and_what_is_in_between() {
        let all = [serde_json::json!({"partition":0,"owner":"w","state":"assigned"}), serde_json::json!({"partition":1,"owner":"w","state":"pending_revocation"}), serde_json::json!({"partition":2,"owner":null,"state":"free"})];
        let lines = rows(&all);
        assert!(lines[0].contains("(nobody)") && lines[0].ends_with("2") && lines[1].ends_with("0, 1 giving back"), "{lines:?}");
    }
}
