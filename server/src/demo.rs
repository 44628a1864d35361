//! `baton dev --demo`: a topic, a few `baton worker` processes, and a picture of who owns what.
//! One worker comes and goes so that there is something to see; a worker's name ends in its process id, so that it can be killed.

use crate::{dev::{die_with_parent, ended}, http, say, SAID};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

const TOPIC: &str = "orders";
const PARTITIONS: u32 = 12;
const GROUP: &str = "demo";
/// Between two looks at the assignment.
const LOOK: Duration = Duration::from_millis(300);
/// How long a worker that comes and goes stays, and stays away.
const TURN: Duration = Duration::from_secs(8);
/// After this a killed worker gets a successor.
const AGAIN: Duration = Duration::from_secs(20);

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
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    for name in ["ann", "ben", "cem", "dan"] {
        let (program, servers) = (program.clone(), servers.join(","));
        // The kernel ends a worker with the thread that started it, so the thread stays.
        std::thread::spawn(move || loop {
            let stays = (name == "dan").then_some(TURN);
            let again = match live(&program, &servers, name, stays) {
                Ok(()) => stays,
                Err(e) => { say(&format!("worker {name}: {e:#}; another starts in {} s", AGAIN.as_secs())); None }
            };
            std::thread::sleep(again.unwrap_or(AGAIN));
        });
    }
    show(&servers)
}

/// One life of a worker: until `stays` is over, when it is asked to leave, or until somebody kills it, which is an error.
fn live(program: &Path, servers: &str, name: &str, stays: Option<Duration>) -> Result<()> {
    let mut command = Command::new(program);
    command.args(["worker", "--servers", servers, "--group", GROUP, "--topic", TOPIC, "--name", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    for o in crate::worker::OPTIONS { command.env_remove(crate::args::env_name(o.name)); }
    die_with_parent(&mut command);
    let mut child = command.spawn().context("cannot be started")?;
    let began = Instant::now();
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait()? {
            if asked { return Ok(()); }
            bail!("{name}-{} {}: its partitions move when its session is over", child.id(), ended(status));
        }
        if !asked && stays.is_some_and(|s| began.elapsed() > s) {
            // SAFETY: no memory is involved; the child has not been waited for, so its pid is still its own.
            unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
            asked = true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Draws the assignment whenever it changes.
fn show(servers: &[String]) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    let (mut last, mut drawn, mut said, began) = (String::new(), 0, 0, Instant::now());
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
            let up = if drawn > 0 && said == SAID.load(Ordering::Relaxed) { format!("\x1b[{drawn}A\x1b[J") } else { String::new() };
            drawn = picture.len() + 1;
            say(&format!("{up}{head}\n{last}"));
            said = SAID.load(Ordering::Relaxed);
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
