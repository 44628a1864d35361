//! Real nodes under a nemesis, for as long as one likes: kills, stops, restarts, cuts, slow and full disks, clocks. Episode after episode, each with a fresh
//! cluster, judged as the process test is judged; results go to a file, line by line, so that a run can be stopped and gone on with.
//! `cargo xtask chaos --kills 100` is the usual call. Every choice of an episode follows from its number.

use anyhow::{Context, Result, bail};
use baton_chaos_tests::{
    processes::{
        Host, World,
        disk::{Slow, Small},
        namespaces::{HUB, Network, address},
    },
};
use baton_client::clock;
use baton_invariants::records;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

const USAGE: &str = "nemesis --kills N [--state FILE] [--first EPISODE] [--old BATON] [--plain]
  --kills N      go on until the state file counts so many SIGKILLs of nodes
  --state FILE   where episodes are noted; a later call goes on behind them [target/nemesis.jsonl]
  --old BATON    an older build of the server: every episode begins with it and is upgraded node by node
  --plain        loopback only: no namespaces, so no cuts";
/// Faults of one episode.
const FAULTS: usize = 24;
const PARTITIONS: usize = 24;
/// Of the disk that is filled.
const DISK_MIB: u32 = 48;
const SESSION: Duration = Duration::from_secs(6);
/// The last acknowledgement before a fault is at most so much older, ns: twelve members commit all the time.
const NEXT_FAULT: u64 = 100_000_000;
/// Set for the process that runs inside the namespaces.
const TAG: &str = "BATON_NEMESIS_TAG";

/// What became of one episode.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Episode {
    number: u64,
    kills: u64,
    leader_kills: u64,
    faults: BTreeMap<String, u64>,
    /// Longest time without any acknowledged commit after each kill of the leader, and of another, ms.
    gaps_leader_ms: Vec<u64>,
    gaps_other_ms: Vec<u64>,
    beliefs: u64,
    acknowledged: u64,
    writes: u64,
    /// Commits and fetches that were put in order.
    #[serde(default)]
    ordered: u64,
    /// Members that lost something without being asked first.
    fenced: Vec<String>,
    violations: Vec<String>,
}

fn main() -> Result<()> {
    let (mut kills, mut state, mut first, mut old, mut plain) = (100u64, PathBuf::from("target/nemesis.jsonl"), None, None, false);
    let argv: Vec<String> = std::env::args().collect();
    let mut args = argv.iter().skip(1).cloned();
    while let Some(a) = args.next() {
        if a == "--plain" { plain = true; continue; }
        if a == "--help" { println!("{USAGE}"); return Ok(()); }
        let v = args.next().with_context(|| format!("{a} needs a value\n{USAGE}"))?;
        match a.as_str() {
            "--kills" => kills = v.parse()?,
            "--state" => state = v.into(),
            "--first" => first = Some(v.parse()?),
            "--old" => old = Some(PathBuf::from(v)),
            _ => bail!("{a} is not known\n{USAGE}"),
        }
    }
    let tag = std::env::var(TAG).ok();
    if tag.is_none() && !plain && Network::possible() {
        return inside(&argv);
    }
    if tag.is_none() && !plain { println!("network namespaces cannot be made here: no cuts"); }
    let net = tag.as_deref().map(Network::made);
    let bins = std::env::current_exe()?.parent().context("no folder")?.to_path_buf();
    let mut done = read(&state)?;
    let mut number = first.unwrap_or_else(|| done.iter().map(|e| e.number).max().map_or(1, |n| n + 1));
    while done.iter().map(|e| e.kills).sum::<u64>() < kills {
        let e = episode(number, &bins, net.as_deref(), old.as_deref())?;
        let mut file = OpenOptions::new().create(true).append(true).open(&state).with_context(|| state.display().to_string())?;
        writeln!(file, "{}", serde_json::to_string(&e)?)?;
        println!("episode {number}: {} kills, {} of leaders, {} beliefs, {} commits, fenced {:?}, violations {:?}", e.kills, e.leader_kills, e.beliefs, e.acknowledged, e.fenced, e.violations);
        done.push(e);
        number += 1;
    }
    summary(&done)
}

/// Runs this program again in the hub of a network of its own, and takes the network away afterwards.
fn inside(argv: &[String]) -> Result<()> {
    let tag = format!("bn{}", std::process::id());
    let net = Network::make(&tag)?;
    let exec = net.exec(HUB);
    let mut c = Command::new(&exec[0]);
    c.args(&exec[1..]).arg(std::env::current_exe()?).args(&argv[1..]).env(TAG, &tag);
    // SAFETY: prctl is async-signal-safe.
    unsafe { c.pre_exec(|| { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL); Ok(()) }) };
    let status = c.status()?;
    drop(net);
    if status.success() { Ok(()) } else { bail!("the run ended with {status}") }
}

fn read(state: &Path) -> Result<Vec<Episode>> {
    match std::fs::read_to_string(state) {
        Ok(text) => text.lines().map(|l| serde_json::from_str(l).with_context(|| format!("{}: {l}", state.display()))).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| state.display().to_string()),
    }
}

/// The totals; an error if anything was wrong.
fn summary(done: &[Episode]) -> Result<()> {
    let sum = |f: fn(&Episode) -> u64| done.iter().map(f).sum::<u64>();
    let spread = |f: fn(&Episode) -> &Vec<u64>| {
        let mut all: Vec<u64> = done.iter().flat_map(|e| f(e).iter().copied()).collect();
        all.sort_unstable();
        let at = |per_mille: usize| all.get((all.len() * per_mille / 1_000).min(all.len().saturating_sub(1))).copied().unwrap_or(0);
        format!("{} gaps: median {} ms, p90 {} ms, p99 {} ms, longest {} ms", all.len(), at(500), at(900), at(990), at(1_000))
    };
    let mut faults: BTreeMap<&str, u64> = BTreeMap::new();
    for (name, n) in done.iter().flat_map(|e| &e.faults) { *faults.entry(name).or_default() += n; }
    println!("{} episodes, {} kills of nodes, {} of them of leaders; {} beliefs, {} acknowledged commits, {} writes", done.len(), sum(|e| e.kills), sum(|e| e.leader_kills), sum(|e| e.beliefs), sum(|e| e.acknowledged), sum(|e| e.writes));
    println!("faults: {faults:?}");
    println!("after a leader's kill, {}", spread(|e| &e.gaps_leader_ms));
    println!("after another's kill, {}", spread(|e| &e.gaps_other_ms));
    let wrong: Vec<String> = done.iter().flat_map(|e| e.violations.iter().chain(&e.fenced).map(move |v| format!("episode {}: {v}", e.number))).collect();
    for w in &wrong { println!("WRONG {w}"); }
    if wrong.is_empty() { Ok(()) } else { bail!("{} things are wrong", wrong.len()) }
}

/// A small generator: choices need to repeat, not to be good.
struct Dice(u64);
impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn pause(ms: u64) { std::thread::sleep(Duration::from_millis(ms)); }

/// One cluster, its workers, and a number of faults. Faults that may fence nobody: none lasts as long as a session.
fn episode(number: u64, bins: &Path, net: Option<&Network>, old: Option<&Path>) -> Result<Episode> {
    let mut dice = Dice(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut hosts: Vec<Host> = (1..=3).map(|n| Host {
        ip: net.map_or("127.0.0.1".into(), |_| address(n)), prefix: net.map(|t| t.exec(n)).unwrap_or_default(), baton: old.map_or(bins.join("baton"), Path::to_path_buf), ..Host::loopback(bins)
    }).collect();
    // A wall clock that is 30 days ahead must not matter (`safety.md` 16, 18).
    let faketime = faketime();
    if let (Some(lib), true) = (&faketime, number.is_multiple_of(3)) {
        hosts[2].env = vec![("LD_PRELOAD".into(), lib.display().to_string()), ("FAKETIME".into(), "+30d".into()), ("FAKETIME_DONT_FAKE_MONOTONIC".into(), "1".into())];
    }
    // One node keeps its data on a file system of its own, small enough to be filled.
    let mut disk = None;
    if number.is_multiple_of(2) {
        let (n, dir) = (1 + (number / 2 % 3) as usize, std::env::temp_dir().join(format!("baton-nemesis-disk-{}", std::process::id())));
        disk = Small::mount(&dir, DISK_MIB).map(|d| (n, d));
        if disk.is_some() { hosts[n - 1].data = Some(dir.join("node")); }
    }
    let slow = Slow::possible();
    let here = net.map_or("127.0.0.1".to_string(), |_| address(HUB));
    let ahead = !hosts[2].env.is_empty();
    let mut w = World::start_on(bins, &format!("nemesis-{number}"), PARTITIONS, SESSION, hosts, &here);
    let mut e = Episode { number, ..Episode::default() };
    if ahead { e.faults.insert("wall clock 30 days ahead".into(), 1); }
    for i in 0..3 { w.worker(&format!("w{i}"), &["--members", "4", "--turn-ms", "50", "--commit-every-ms", "50"]); }
    w.all_owned(Duration::from_secs(30), "12 members are in");
    let (mut leader_kills, mut other_kills, mut begun) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..FAULTS {
        pause(300 + dice.roll(900));
        let leader = w.leader();
        begun.push(clock::now());
        let other = (leader + dice.roll(2) as usize) % 3 + 1;
        let victim = if dice.roll(10) < 6 { leader } else { other };
        let kind = if turn < 3 && old.is_some() { 0 } else { 1 + dice.roll(18) };
        let name = match kind {
            0 => {
                // Upgraded one after the other.
                w.stop_node(turn + 1);
                w.hosts[turn].baton = bins.join("baton");
                w.start_node(turn + 1);
                "upgrade"
            }
            8 if slow => {
                let each = Duration::from_millis(20 + dice.roll(300));
                let down = Slow::down(w.pid(victim), each).context("slow disk")?;
                pause(1_000 + dice.roll(2_000));
                drop(down);
                if victim == leader { "slow disk of the leader" } else { "slow disk of a follower" }
            }
            9 if disk.is_some() => {
                let (n, disk) = disk.as_ref().context("a small disk")?;
                disk.fill()?;
                pause(700 + dice.roll(1_500));
                disk.free()?;
                if *n == leader { "full disk of the leader" } else { "full disk of a follower" }
            }
            1 => {
                for n in 1..=3 {
                    w.stop_node(n);
                    w.start_node(n);
                    w.ready(n, Duration::from_secs(30));
                }
                "rolling restart"
            }
            2 => {
                for n in 1..=3 { w.kill_node(n); }
                e.kills += 3;
                e.leader_kills += 1;
                for n in 1..=3 { w.start_node(n); }
                "all killed"
            }
            3 | 4 => {
                w.signal_node(victim, libc::SIGSTOP);
                pause(700 + dice.roll(2_300));
                w.signal_node(victim, libc::SIGCONT);
                if victim == leader { "leader stopped past its lease" } else { "follower stopped" }
            }
            5 | 6 if net.is_some() => {
                let net = net.context("a network")?;
                for n in (1..=3).filter(|n| *n != victim) { net.cut(victim, n)?; net.cut(n, victim)?; }
                pause(700 + dice.roll(2_300));
                for n in (1..=3).filter(|n| *n != victim) { net.heal(victim, n)?; net.heal(n, victim)?; }
                if victim == leader { "leader cut off from the nodes" } else { "follower cut off from the nodes" }
            }
            7 if net.is_some() => {
                let net = net.context("a network")?;
                for n in (1..=3).filter(|n| *n != victim) { net.cut(victim, n)?; }
                pause(700 + dice.roll(2_300));
                for n in (1..=3).filter(|n| *n != victim) { net.heal(victim, n)?; }
                "cut one way"
            }
            _ => {
                let at = w.kill_node(victim);
                e.kills += 1;
                if victim == leader { e.leader_kills += 1; leader_kills.push(at); } else { other_kills.push(at); }
                pause(dice.roll(1_500));
                w.start_node(victim);
                if victim == leader { "leader killed" } else { "follower killed" }
            }
        };
        *e.faults.entry(name.into()).or_default() += 1;
        for n in 1..=3 { w.ready(n, Duration::from_secs(30)); }
        // The kill's gap ends here at the latest.
        pause(300);
    }
    w.all_owned(SESSION * 3, "every partition has an owner");
    w.no_node_died();
    w.stop_workers();
    judge(&mut e, &w, &leader_kills, &other_kills, &begun);
    if e.violations.is_empty() && e.fenced.is_empty() { w.fine() }
    Ok(e)
}

fn judge(e: &mut Episode, w: &World, leader_kills: &[u64], other_kills: &[u64], begun: &[u64]) {
    let j = records::judge(&w.processes(), &w.committed());
    let sink = w.sink();
    e.violations.extend(j.wrong.iter().map(ToString::to_string).chain(sink.wrong.iter().cloned()));
    e.fenced.extend(j.fenced);
    e.ordered = j.order.calls as u64;
    e.violations.extend(j.order.undecided.iter().map(|o| format!("not decided whether it has an order: {o}")));
    let acks = j.acks;
    // The window of a kill is 4 s, less if the next fault comes before. A gap that begins where the next fault does is that one's.
    let within = |at: &u64| {
        let end = begun.iter().filter(|b| *b > at).min().copied().unwrap_or(u64::MAX).min(at + 4_000_000_000);
        acks.windows(2).filter(|p| p[1] > *at && p[0] + NEXT_FAULT < end).map(|p| p[1] - p[0].max(*at)).max().unwrap_or(0) / 1_000_000
    };
    e.gaps_leader_ms = leader_kills.iter().map(within).collect();
    e.gaps_other_ms = other_kills.iter().map(within).collect();
    (e.beliefs, e.acknowledged, e.writes) = (j.beliefs.len() as u64, acks.len() as u64, sink.writes);
    if j.beliefs.len() < PARTITIONS || j.committed < PARTITIONS / 2 { e.violations.push("the episode did too little to say anything".into()); }
}

/// The library that shifts a process's wall clock, if this machine has it.
fn faketime() -> Option<PathBuf> {
    ["/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"].iter().map(PathBuf::from).find(|p| p.exists())
}
