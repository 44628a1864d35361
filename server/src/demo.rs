//! `baton dev --demo`: a topic, a few workers as threads of this process, and a picture of who owns what.
//! All of it goes over the HTTP API, as any program would; one worker comes and goes so that there is something to see. The workers do no work.

use crate::{http, say};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
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
    for name in ["ann", "ben", "cem", "dan"] {
        let servers = servers.clone();
        std::thread::spawn(move || for life in 1.. {
            let stays = (name == "dan").then_some(TURN);
            if let Err(e) = Worker::new(&servers, format!("{name}-{life}")).and_then(|w| w.live(stays)) { say(&format!("demo: {name}: {e:#}")); }
            std::thread::sleep(stays.unwrap_or(Duration::from_secs(1)));
        });
    }
    show(&servers)
}

/// The least that a member must do: keep its lease, take what it is given, give back what it is asked for.
struct Worker<'a> { servers: &'a [String], server: usize, name: String, incarnation: String, epoch: i64, revision: u64, owned: Vec<i64> }
impl<'a> Worker<'a> {
    fn new(servers: &'a [String], name: String) -> Result<Worker<'a>> {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
        let incarnation: String = random.iter().map(|b| format!("{b:02x}")).collect();
        // The demo's group outlives this process: a name alone could be in use still.
        Ok(Worker { servers, server: 0, name: format!("{name}-{}", &incarnation[..4]), incarnation, epoch: 0, revision: 0, owned: vec![] })
    }

    /// Until `stays` is over (it leaves then) or it is not a member any more.
    fn live(mut self, stays: Option<Duration>) -> Result<()> {
        let (began, mut deadline) = (Instant::now(), Instant::now() + Duration::from_secs(30));
        let path = format!("/v1/groups/{GROUP}/members/{}", self.name);
        loop {
            if stays.is_some_and(|s| began.elapsed() > s) {
                let _ = http::call(&self.servers[self.server], "DELETE", &format!("{path}?incarnation={}&assignment_revision={}", self.incarnation, self.revision), "", Duration::from_secs(2));
                return Ok(());
            }
            if Instant::now() > deadline { return Ok(()); }
            let owned = if self.owned.is_empty() { json!([]) } else { json!([{"topic": TOPIC, "partitions": self.owned}]) };
            let mut body = json!({"member_epoch": self.epoch, "incarnation": self.incarnation, "owned": owned, "assignment_revision": self.revision, "timeout_ms": 1_500});
            if self.epoch == 0 { body["subscribed_topics"] = json!([TOPIC]); }
            let sent = Instant::now();
            let answer = match http::call(&self.servers[self.server], "POST", &format!("{path}/heartbeat"), &body.to_string(), Duration::from_millis(1_500)) {
                Ok((200, body)) => serde_json::from_str::<Value>(&body)?,
                Ok((status, body)) if status < 500 => bail!("{status} {body}"),
                _ => {
                    self.server = (self.server + 1) % self.servers.len();
                    std::thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            deadline = sent + Duration::from_millis(answer["lease_ms"].as_u64().unwrap_or(0));
            std::thread::sleep(self.apply(&answer));
        }
    }

    /// Takes over what the answer says. How long until the next heartbeat: at once when something is to be confirmed.
    fn apply(&mut self, answer: &Value) -> Duration {
        let before = (self.revision, self.owned.clone());
        let numbers = |v: &Value| -> Vec<i64> { v.as_array().into_iter().flatten().flat_map(|t| t["partitions"].as_array().into_iter().flatten()).filter_map(|p| p.as_i64().or(p["partition"].as_i64())).collect() };
        if answer["assignment"].is_array() { self.owned = numbers(&answer["assignment"]); }
        let gone = [numbers(&answer["pending_revocation"]), numbers(&answer["taken"])].concat();
        self.owned.retain(|p| !gone.contains(p));
        self.epoch = answer["member_epoch"].as_i64().unwrap_or(0);
        self.revision = answer["assignment_revision"].as_u64().unwrap_or(0);
        if before == (self.revision, self.owned.clone()) { Duration::from_millis(answer["heartbeat_interval_ms"].as_u64().unwrap_or(1_000)) } else { Duration::ZERO }
    }
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
