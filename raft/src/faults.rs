//! What a simulation does to a host below everything that runs there: its clock, its timers, the pace of its disk, copies of what its peers
//! say, and named points of the code where it can be stopped. Compiled only under `--cfg madsim`: the product has none of it.
//!
//! One table per thread, because a simulated world is one thread. A host that is not in the table is well.

use madsim::{
    rand::{Rng, thread_rng},
    task::NodeId,
};
use std::{
    cell::RefCell,
    collections::BTreeMap,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

const MILLION: i128 = 1_000_000;
/// Every clock shows this at the start, so that "long ago" is not before the beginning.
const BEGIN_NS: i128 = 1_000_000 * MILLION;

/// How a host is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Host {
    /// Its monotonic clock gains so many parts per million; -1,000,000: it stands still. Set by `drift` alone.
    drift_ppm: i64,
    /// True and shown nanoseconds since the beginning when that was set.
    since: (i128, i128),
    /// Its wall clock is so far from the true one.
    pub wall_us: i64,
    /// So many timers of a thousand come late, by at most so many ms.
    pub late: (u32, u64),
    /// A sync takes so many ms more.
    pub slow_disk_ms: u64,
    /// So many messages of a thousand come a second time, at most so many ms later.
    pub copies: (u32, u64),
    /// Entries of a feature level above this are unknown here; None: all are known.
    pub knows_level: Option<u16>,
    /// Entries of this Raft group are not applied for now: what is known of it grows old.
    pub holds_back: Option<u16>,
    /// At these points of its code it goes on only after a while, at most so many ms; 0: at once.
    pub dawdles: (&'static [&'static str], u64),
    /// What it proposes for this group of members has a record that does not fit: a leader with a bug.
    pub poisons: Option<&'static str>,
}

/// Where a host is stopped: the name of the point, the Raft group (none: any), and how often it is passed before.
#[derive(Clone, Debug)]
pub struct Trap { pub point: &'static str, pub group: Option<u16>, pub passes: u64 }

type OnTrap = Rc<dyn Fn(NodeId, &'static str)>;

/// Who looks at answers that leave under a lease.
#[derive(Clone)]
pub struct AnswerJudge {
    /// The newest term of a group that anybody is known to lead.
    pub newest: Rc<dyn Fn(u16) -> u64>,
    /// An answer leaves a host under the lease of a term; what was known when it was last looked whether it may.
    pub leaves: Rc<dyn Fn(NodeId, u16, u64, Known)>,
}
/// What was known when somebody asked for a lease: the newest term, and the time on the clock without drift.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known { pub newest: u64, pub at_ns: u64 }

#[derive(Default)]
struct Table {
    hosts: BTreeMap<NodeId, Host>,
    traps: BTreeMap<NodeId, Trap>,
    on_trap: Option<OnTrap>,
    answers: Option<AnswerJudge>,
    /// Whom the hosts have promised to follow, by group and term, and until when on their own clocks. Those of earlier terms too: an answer to who asked long ago may come late.
    promises: BTreeMap<(u16, u64), BTreeMap<NodeId, u64>>,
    counts: BTreeMap<&'static str, u64>,
}

thread_local! { static TABLE: RefCell<Table> = RefCell::default(); }

fn with<T>(f: impl FnOnce(&mut Table) -> T) -> T { TABLE.with_borrow_mut(f) }

/// Forgets everything: a new story begins on this thread.
pub fn reset() { with(|t| *t = Table::default()); }
/// Changes how a host is doing.
pub fn change(host: NodeId, f: impl FnOnce(&mut Host)) { with(|t| f(t.hosts.entry(host).or_default())); }
/// How a host is doing.
pub fn host(host: NodeId) -> Host { with(|t| t.hosts.get(&host).cloned().unwrap_or_default()) }
fn here<T>(f: impl FnOnce(&Host) -> T) -> Option<T> {
    with(|t| if t.hosts.is_empty() { None } else { t.hosts.get(&madsim::plugin::node()).map(f) })
}

// ---- clocks

fn true_ns() -> i128 { madsim::time::TimeHandle::current().elapsed().as_nanos() as i128 }
fn rate(drift_ppm: i64) -> i128 { (MILLION + i128::from(drift_ppm)).max(0) }
impl Host {
    fn shows(&self, true_ns: i128) -> i128 { self.since.1 + (true_ns - self.since.0) * rate(self.drift_ppm) / MILLION }
}

/// From now on the clock of a host gains so much. It does not jump.
pub fn drift(host: NodeId, ppm: i64) {
    let now = true_ns();
    change(host, |h| (h.since, h.drift_ppm) = ((now, h.shows(now)), ppm));
}
/// Nanoseconds that the clock of this task's host shows.
pub fn now_ns() -> u64 {
    let now = true_ns();
    (BEGIN_NS + here(|h| h.shows(now)).unwrap_or(now)) as u64
}
/// Nanoseconds of a clock without drift.
pub fn true_now_ns() -> u64 { (BEGIN_NS + true_ns()) as u64 }
/// Milliseconds since the beginning, of nanoseconds of the clock without drift.
pub fn true_ms(ns: u64) -> u64 { (i128::from(ns) - BEGIN_NS).max(0) as u64 / 1_000_000 }
/// When a host's clock shows, or showed since its drift was set, so many nanoseconds: on the clock without drift. A clock that stands still never does.
pub fn to_true_ns(at: NodeId, local_ns: u64) -> u64 {
    let h = host(at);
    match rate(h.drift_ppm) {
        0 => u64::MAX,
        r => (BEGIN_NS + h.since.0 + (i128::from(local_ns) - BEGIN_NS - h.since.1) * MILLION / r).clamp(0, i128::from(u64::MAX)) as u64,
    }
}
/// Microseconds of this host's wall clock.
pub fn wall_us() -> u64 {
    let us = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i128);
    (us + i128::from(here(|h| h.wall_us).unwrap_or(0))).max(0) as u64
}
/// True time that passes until this host's clock has gone on by `d`, and a timer that may be late has noticed.
pub fn until(d: Duration) -> Duration {
    let (rate, late) = here(|h| (rate(h.drift_ppm).max(1), h.late)).unwrap_or((MILLION, (0, 0)));
    let mut d = if rate == MILLION { d } else { Duration::from_nanos((d.as_nanos() as i128 * MILLION / rate) as u64) };
    if late.0 > 0 && thread_rng().gen_range(0..1_000) < late.0 {
        count("timer late");
        d += Duration::from_millis(thread_rng().gen_range(1..=late.1.max(1)));
    }
    d
}

// ---- disk and network

/// How much longer a sync takes here.
pub fn slow_disk() -> Duration {
    let ms = here(|h| h.slow_disk_ms).unwrap_or(0);
    if ms > 0 { count("sync on a slow disk"); }
    Duration::from_millis(ms)
}
/// Whether the message that has just come will come again, and after how long.
pub fn copy() -> Option<Duration> {
    let (often, most) = here(|h| h.copies)?;
    if often == 0 || thread_rng().gen_range(0..1_000) >= often { return None; }
    count("message of a peer twice");
    Some(Duration::from_millis(thread_rng().gen_range(0..=most)))
}
/// Whether this host's version knows a feature level.
pub fn knows(level: u16) -> bool {
    let known = here(|h| h.knows_level.is_none_or(|known| level <= known)).unwrap_or(true);
    if !known { count("entry of a later version"); }
    known
}

/// The group for which this host proposes what cannot be replayed.
pub fn poisons() -> Option<&'static str> { here(|h| h.poisons).flatten() }
/// Waits as long as this host holds the entries of a group back.
pub async fn hold_back(group: u16) {
    while here(|h| h.holds_back == Some(group)).unwrap_or(false) {
        count("entry held back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// ---- leases

/// A host has heard its leader at `heard_ns` of its own clock: for so long it helps nobody else to lead.
pub fn promised(group: u16, term: u64, heard_ns: u64, lasts: Duration) {
    let until = heard_ns + lasts.as_nanos() as u64;
    with(|t| {
        let promise = t.promises.entry((group, term)).or_default().entry(madsim::plugin::node()).or_default();
        *promise = (*promise).max(until);
    });
}
/// The end of the last promise that any host has given to the leader of this term, on the clock without drift.
pub fn promised_until(group: u16, term: u64) -> Option<u64> {
    let all = with(|t| t.promises.get(&(group, term)).cloned().unwrap_or_default());
    all.into_iter().map(|(host, until)| to_true_ns(host, until)).max()
}
/// Shows `judge` every answer that leaves under a lease.
pub fn judge_answers(judge: AnswerJudge) { with(|t| t.answers = Some(judge)); }
/// What is known of a group now.
pub fn known(group: u16) -> Known {
    let judge = with(|t| t.answers.clone());
    Known { newest: judge.map_or(0, |j| (j.newest)(group)), at_ns: true_now_ns() }
}
/// An answer leaves this host under the lease of a term; `known` when it was last looked whether it may.
pub fn answer_leaves(group: u16, term: u64, known: Known) {
    // Outside of the table: the judge may look into it.
    if let Some(judge) = with(|t| t.answers.clone()) { (judge.leaves)(madsim::plugin::node(), group, term, known); }
}

// ---- points of the code

/// Notes that something happened.
pub fn count(what: &'static str) { with(|t| *t.counts.entry(what).or_default() += 1); }
/// How often something was noted.
pub fn counted(what: &'static str) -> u64 { with(|t| t.counts.get(what).copied().unwrap_or(0)) }
/// Everything that was noted.
pub fn counts() -> BTreeMap<&'static str, u64> { with(|t| t.counts.clone()) }
/// What is done to a host that comes to its trap.
pub fn on_trap(f: impl Fn(NodeId, &'static str) + 'static) { with(|t| t.on_trap = Some(Rc::new(f))); }
/// Sets a host's one trap; None takes it away.
pub fn set_trap(host: NodeId, trap: Option<Trap>) {
    with(|t| match trap {
        Some(trap) => drop(t.traps.insert(host, trap)),
        None => drop(t.traps.remove(&host)),
    });
}
/// The code has come to a named point. True: the host was stopped there, and nothing after it should run before it goes on.
pub fn reach(point: &'static str, group: u16) -> bool {
    let sprung = with(|t| {
        *t.counts.entry(point).or_default() += 1;
        if t.traps.is_empty() { return None; }
        let here = madsim::plugin::node();
        let trap = t.traps.get_mut(&here).filter(|trap| trap.point == point && trap.group.is_none_or(|g| g == group))?;
        if trap.passes > 0 {
            trap.passes -= 1;
            return None;
        }
        t.traps.remove(&here);
        Some((here, t.on_trap.clone()?))
    });
    // Outside of the table: what is done may look into it.
    let Some((here, on_trap)) = sprung else { return false };
    on_trap(here, point);
    true
}
/// The same in a task, which stops at this very point.
pub async fn pass(point: &'static str, group: u16) {
    if reach(point, group) { tokio::task::yield_now().await; }
    let most = here(|h| if h.dawdles.0.contains(&point) { h.dawdles.1 } else { 0 }).unwrap_or(0);
    if most > 0 {
        count("node dawdles");
        tokio::time::sleep(Duration::from_millis(thread_rng().gen_range(0..=most))).await;
    }
}
