//! Real nodes, real workers, real kills, on one machine. Three `baton serve` processes on loopback, more than thirty members of the client library
//! in a dozen processes, a few model members beside them, a sink that checks fencing tokens. Workers write down what they believe; the test judges it afterwards.
//! Linux only; takes about 80 s. `BATON_KEEP=1` leaves logs and records behind.

use baton_chaos_tests::processes::*;
use baton_invariants::{belief::{self, End}, records};
use std::{path::PathBuf, sync::Mutex, time::Duration};

/// Two runs at a time would only measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
const PARTITIONS: usize = 200;
/// The session that the group gets, and what a hand-over after a death may take on top of it on a busy machine.
const SESSION: Duration = Duration::from_secs(6);

fn here() -> PathBuf { bins(env!("CARGO_BIN_EXE_worker")) }

/// Whether the client library fences itself.
#[derive(Clone, Copy, PartialEq)]
enum SelfFencing { On, Off }

/// The story: everything until the workers have stopped. Gives when the leader, and when all nodes were killed.
fn sixty_seconds(w: &mut World, fencing: SelfFencing) -> (u64, u64) {
    let off: &[&str] = if fencing == SelfFencing::Off { &["--no-guard"] } else { &[] };
    let args = |own: &[&'static str]| [own, off].concat();
    for i in 0..4 { w.worker(&format!("many{i}"), &args(&["--members", "7"])); }
    for i in 0..6 { w.worker(&format!("one{i}"), &args(&["--members", "1"])); }
    w.model_worker("model", &["--members", "4"]);
    // Its writes are always half sent when it is stopped.
    w.worker("paused", &args(&["--members", "2", "--slow-write-ms", "20"]));
    w.all_owned(Duration::from_secs(30), "40 members are in");
    w.mark_start();

    w.at(3, "one worker is killed, two join");
    w.kill_worker("one0");
    w.worker("one6", &args(&["--members", "1"]));
    w.worker("one7", &args(&["--members", "1"]));
    w.at(6, "a worker is stopped in mid-write, for longer than its lease");
    w.signal_worker("paused", libc::SIGSTOP);
    w.at(9, "seven members leave");
    w.stop_worker("many0");
    w.at(11, "seven members are killed, seven join");
    w.kill_worker("many1");
    w.worker("many4", &args(&["--members", "7"]));
    w.at(18, "the stopped worker goes on");
    w.signal_worker("paused", libc::SIGCONT);

    let leader = w.leader();
    w.at(23, &format!("node {leader}, the leader, is killed"));
    let failover = w.kill_node(leader);
    w.at(27, "and started again");
    w.start_node(leader);
    w.ready(leader, Duration::from_secs(20));
    let leader = w.leader();
    let follower = leader % 3 + 1;
    w.at(33, &format!("node {follower}, a follower, is stopped for 3 s"));
    w.signal_node(follower, libc::SIGSTOP);
    w.at(36, "and goes on");
    w.signal_node(follower, libc::SIGCONT);

    w.at(40, "all three nodes are killed at once, and started");
    let mut outage = 0;
    for n in 1..=3 { outage = w.kill_node(n); }
    for n in 1..=3 { w.start_node(n); }
    for n in 1..=3 { w.ready(n, Duration::from_secs(20)); }
    w.at(48, "workers come and go");
    w.stop_worker("one1");
    w.worker("one8", &args(&["--members", "1"]));
    w.kill_worker("one2");
    w.at(60, "the end");
    w.all_owned(SESSION * 3, "every partition has an owner");
    w.no_node_died();
    w.stop_workers();
    (failover, outage)
}

#[test]
fn sixty_seconds_of_kills() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let mut w = World::start(&here(), "kills", PARTITIONS, SESSION);
    let (failover, outage) = sixty_seconds(&mut w, SelfFencing::On);

    let j = records::judge(&w.processes(), &w.committed());
    let (beliefs, acks, sink) = (&j.beliefs, &j.acks, w.sink());
    let gap = |from: u64| acks.windows(2).filter(|p| p[1] > from && p[0] < from + 10_000_000_000).map(|p| p[1] - p[0]).max().unwrap_or(0) / 1_000_000;
    let (handed, taken) = belief::gaps(beliefs);
    let count = |end: End| beliefs.iter().filter(|b| b.end == end).count();
    println!("beliefs {}: stopped {}, lapsed {}, killed {}", beliefs.len(), count(End::Stopped), count(End::Lapsed), count(End::Killed));
    println!("hand-over, stop to next grant: {}", spread(&handed));
    println!("after a death or a lapse: {}", spread(&taken));
    println!("longest time without any acknowledged commit after the leader's kill: {} ms; after all three: {} ms", gap(failover), gap(outage));
    println!("sink: {} writes taken, {} registrations, {} stale refused; answered heartbeats seen {}, commits {}", sink.writes, sink.registered, sink.refused, j.answers, acks.len());

    println!("commits and fetches that were put in order: {}", j.order);
    for v in j.wrong.iter().take(20) { println!("VIOLATION {v}"); }
    for v in sink.wrong.iter().take(20) { println!("VIOLATION {v}"); }
    assert!(j.wrong.is_empty() && sink.wrong.is_empty(), "{} in the records, {} at the sink", j.wrong.len(), sink.wrong.len());
    assert!(j.order.undecided.is_empty() && j.order.calls > 1_000, "{}", j.order);
    assert!(beliefs.len() > PARTITIONS && j.committed >= PARTITIONS / 2 && count(End::Killed) > 0, "the run did too little to say anything");
    // Its guard may have stopped the write before it left; then there is nothing to refuse. That the sink does refuse is the canary's to show.
    println!("the stopped worker's write was {}", if sink.refused > 0 { "refused by the sink" } else { "never sent" });
    assert!(count(End::Lapsed) > 0, "the stopped worker's lease did not lapse: the run did not test fencing");
    w.fine();
}

/// The same run without self-fencing must fail: a check that cannot is worth nothing.
#[test]
fn sixty_seconds_without_self_fencing_are_found_out() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let mut w = World::start(&here(), "unfenced", PARTITIONS, SESSION);
    sixty_seconds(&mut w, SelfFencing::Off);
    let (_, wrong) = belief::judged(&w.processes());
    let two = wrong.iter().filter(|v| matches!(v, belief::Violation::TwoOwners { .. })).count();
    println!("without self-fencing: {two} times two owners, {} stale writes refused by the sink", w.sink().refused);
    assert!(two > 0, "nobody believed too long: the run does not test self-fencing");
    w.fine();
}

/// The canary: a worker that works on without asking its guard must be seen by the judge and be fenced by the sink.
#[test]
fn a_worker_without_a_guard_is_found_out() {
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
    let mut w = World::start(&here(), "canary", 20, Duration::from_secs(3));
    w.worker("paused", &["--members", "1", "--no-guard"]);
    w.worker("other", &["--members", "1"]);
    w.all_owned(Duration::from_secs(20), "both are in");
    w.mark_start();
    w.at(2, "the worker without a guard is stopped");
    w.signal_worker("paused", libc::SIGSTOP);
    w.at(9, "and goes on");
    w.signal_worker("paused", libc::SIGCONT);
    w.at(11, "the end");
    w.stop_workers();
    let (_, wrong) = belief::judged(&w.processes());
    println!("found {}, refused by the sink {}", wrong.len(), w.sink().refused);
    assert!(wrong.iter().any(|v| matches!(v, belief::Violation::TwoOwners { first, .. } if first.end == End::UsedAfter)), "the judge is blind: {wrong:?}");
    assert!(w.sink().refused > 0, "the sink took a stale token");
    w.fine();
}

fn spread(sorted_ns: &[u64]) -> String {
    let at = |q: usize| sorted_ns.get((sorted_ns.len() * q / 100).min(sorted_ns.len().saturating_sub(1))).map_or(0, |n| n / 1_000_000);
    format!("{} times, median {} ms, 99th percentile {} ms, longest {} ms", sorted_ns.len(), at(50), at(99), at(100))
}
