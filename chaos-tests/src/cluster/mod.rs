//! A whole cluster in one thread: three nodes with the real Raft, log, node, HTTP front and client library on a simulated network, clock and
//! disk. One seed is one story. Only under `--cfg madsim`.
//!
//! `plan` draws sizes and a schedule of `act`s (faults and workload), `play` plays it with `acts`, `disks`, `users` and `stories`, `world` holds the nodes and
//! what is seen of them, `members` runs worker processes, `order` writes down what goes over the wire, `heirs` are short stories about what one leader leaves to the next, `metadata` about topics and settings, `voters` about votes that are taken, `gaps` about what falls between two steps of a disk's work, `judge` and `timers` look at applied state, beliefs, the sink and answers. After the last act
//! everything heals, and the groups must come to rest complete. What befalls a host below the code that runs there is in `baton_raft::faults`.

mod act;
mod acts;
mod disks;
mod gaps;
mod heirs;
mod judge;
mod members;
mod metadata;
mod order;
mod plan;
mod play;
pub mod soak;
mod stories;
mod timers;
mod users;
mod voters;
mod world;

pub use act::{Act, BATCH, KINDS};
pub use baton_invariants::{Broken, linear::Report};
pub use plan::{DRIFT_PPM, Plan};

use baton_core_sim::{plan::Fired, timeline::Timeline};
use baton_raft::faults;
use madsim::runtime::Runtime;
use std::{
    sync::{Arc, Mutex, PoisonError, atomic::{AtomicUsize, Ordering::Relaxed}, mpsc},
    time::Duration,
};
use world::Seen;

/// How a story ended.
pub struct Outcome {
    pub seed: u64,
    pub plan: Plan,
    /// When (simulated ms) and how an invariant broke.
    pub broken: Option<(u64, Broken)>,
    pub fired: Fired,
    /// Equal for two runs of one seed.
    pub digest: u64,
    pub events: u64,
    /// Who did what when.
    pub story: Vec<String>,
    /// How often the branch of the seeded bug that is on was reached.
    pub reached: u64,
    pub simulated_ms: u64,
    pub work: Work,
    /// What the judge of order looked at.
    pub order: Report,
    /// Who believed what when, with the acts beside it.
    pub timeline: Timeline,
}

/// How much happened: a run that did too little says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Work { pub grants: u64, pub uses: u64, pub commits: u64, pub fetches: u64, pub leases: u64, pub answers: u64 }

/// A seeded bug of the shell around the core: its number in `docs/evidence.md`, and the invariants named in advance that may catch it.
pub struct SeededBug { pub number: u8, pub what: &'static str, pub caught_by: &'static [&'static str] }
/// The bugs that the stories of a cluster must find.
pub const BUGS: [SeededBug; 32] = [
    SeededBug { number: 2, what: "assign before the revocation is confirmed (the canary)", caught_by: &["one-owner", "one-believer"] },
    SeededBug { number: 7, what: "leader answers after losing its lease", caught_by: &["lease", "one-believer", "fencing", "durable", "timers"] },
    SeededBug { number: 8, what: "committed offset read from a follower", caught_by: &["linearizable"] },
    SeededBug { number: 50, what: "a new leader answers a fetch before it has applied everything", caught_by: &["linearizable"] },
    SeededBug { number: 51, what: "a commit acknowledged when it is proposed", caught_by: &["linearizable"] },
    SeededBug { number: 12, what: "entry acknowledged before fsync", caught_by: &["durable", "replicas-agree", "epochs", "panic"] },
    SeededBug { number: 11, what: "vote not synced before the answer", caught_by: &["one-leader"] },
    SeededBug { number: 28, what: "a lapsed leader does not re-arm", caught_by: &["timers"] },
    SeededBug { number: 81, what: "snapshot named before its data is synced", caught_by: &["live", "durable"] },
    SeededBug { number: 82, what: "log purged beyond the snapshot", caught_by: &["live", "durable", "replicas-agree", "panic"] },
    SeededBug { number: 86, what: "a node restarts with the vote before its last", caught_by: &["one-leader", "lease"] },
    SeededBug { number: 27, what: "the client applies an older answer", caught_by: &["one-believer", "fencing", "live"] },
    SeededBug { number: 30, what: "the restart guard left out", caught_by: &["lease"] },
    SeededBug { number: 85, what: "the lease counted from the answer's arrival", caught_by: &["one-believer", "fencing", "timers"] },
    SeededBug { number: 91, what: "a lease counts for longer than its quorum promised", caught_by: &["lease"] },
    SeededBug { number: 94, what: "a forwarder sends again what may have been carried out", caught_by: &["linearizable"] },
    SeededBug { number: 98, what: "what was purged is not written down", caught_by: &["live"] },
    SeededBug { number: 102, what: "a cut of the log keeps one entry too many", caught_by: &["live", "panic"] },
    SeededBug { number: 88, what: "a node leads a shard that it has stopped", caught_by: &["live"] },
    SeededBug { number: 105, what: "the meta group's leader answers without asking the others", caught_by: &["linearizable"] },
    SeededBug { number: 117, what: "a replaced process joins again under its old incarnation", caught_by: &["live"] },
    SeededBug { number: 130, what: "a deleted group stays in the checkpoint", caught_by: &["replicas-agree", "linearizable", "live"] },
    SeededBug { number: 136, what: "a change of metadata is sent again although it may have been carried out", caught_by: &["linearizable"] },
    SeededBug { number: 160, what: "a request is carried out past its timeout_ms", caught_by: &["linearizable"] },
    SeededBug { number: 163, what: "timers fire without a lease", caught_by: &["timers"] },
    SeededBug { number: 134, what: "the consensus library gives the leadership of a leader without a vote away by itself", caught_by: &["lease"] },
    SeededBug { number: 145, what: "a snapshot says that it has what was applied while it was written", caught_by: &["replicas-agree", "durable"] },
    SeededBug { number: 151, what: "the log goes on after a write that failed", caught_by: &["replicas-agree", "panic", "durable", "linearizable"] },
    SeededBug { number: 168, what: "topics and settings are told without waiting for what was committed", caught_by: &["linearizable"] },
    SeededBug { number: 172, what: "history is missing from the checkpoint", caught_by: &["replicas-agree"] },
    SeededBug { number: 223, what: "a leader that has given the leadership away answers under an earlier lease check", caught_by: &["lease"] },
    SeededBug { number: 144, what: "a new incarnation commits as the one before", caught_by: &["live"] },
];

/// Bugs with a switch that no test demands: they need more seeds than a test has time for, or another defence stands before them (96). `mutants --bug N` tries.
pub const OPEN: [SeededBug; 12] = [
    SeededBug { number: 84, what: "an answer leaves although its lease has ended since", caught_by: &["lease"] },
    SeededBug { number: 87, what: "a new leader serves before it has applied what was committed before it", caught_by: &["linearizable", "durable", "timers", "epochs"] },
    SeededBug { number: 92, what: "all commits of a process have one number", caught_by: &["durable"] },
    SeededBug { number: 93, what: "the client confirms a revocation that its worker has not finished", caught_by: &["one-believer"] },
    SeededBug { number: 95, what: "an installed snapshot is not announced in the log", caught_by: &["live"] },
    SeededBug { number: 96, what: "an answer leaves under a lease check that began before it was decided", caught_by: &["linearizable"] },
    SeededBug { number: 100, what: "a checkpoint is written ahead of the durable log", caught_by: &["live"] },
    SeededBug { number: 107, what: "a leader learns nothing of new metadata until the next one leads", caught_by: &["live", "complete"] },
    SeededBug { number: 111, what: "an unknown outcome is told as a refusal", caught_by: &["linearizable"] },
    SeededBug { number: 113, what: "guards of lost partitions are not stopped", caught_by: &["fencing", "one-believer"] },
    SeededBug { number: 169, what: "the age of a lease check is not taken off the time it lasts", caught_by: &["lease"] },
    SeededBug { number: 141, what: "replies of a peer are taken in order instead of by their numbers", caught_by: &["live", "linearizable", "panic"] },
];

/// Plays seeds in `jobs` threads, in any order.
pub fn play_seeds(seeds: impl IntoIterator<Item = u64>, jobs: usize, bug: u8, mut each: impl FnMut(Outcome)) {
    let seeds: Vec<u64> = seeds.into_iter().collect();
    let (seeds, next, (tell, told)) = (&seeds, AtomicUsize::new(0), mpsc::channel());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            let (next, tell) = (&next, tell.clone());
            scope.spawn(move || loop {
                let Some(seed) = seeds.get(next.fetch_add(1, Relaxed)) else { return };
                // A closed channel: nobody wants more.
                if tell.send(run(*seed, bug)).is_err() { return; }
            });
        }
        drop(tell);
        for o in told { each(o); }
    });
}
/// CPU time of this process.
pub fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid, writable timespec for the whole call. An error leaves zero, which is shown as it is.
    let _ = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Plays the story of `seed` with seeded bug `bug` (0: none).
pub fn run(seed: u64, bug: u8) -> Outcome {
    let mut plan = Plan::draw(seed);
    if bug == 30 { plan.guard_ms = 0; }
    play_plan(seed, plan, bug)
}

/// Plays a given plan. In a thread of its own: the simulator seeds the hash maps of a thread once.
pub fn play_plan(seed: u64, plan: Plan, bug: u8) -> Outcome {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (inside, drawn) = (seen.clone(), plan.clone());
    let story = std::thread::spawn(move || {
        switch(bug);
        faults::reset();
        let mut runtime = Runtime::with_seed_and_config(seed, madsim::Config::default());
        runtime.set_time_limit(Duration::from_secs(600));
        runtime.block_on(play::story(drawn, inside));
        reached()
    });
    let ended = story.join();
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(panic) = &ended {
        let text = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
        let now = seen.now_ms;
        seen.broken.get_or_insert((now, Broken { invariant: "panic", what: text }));
    }
    let mut timeline = std::mem::take(&mut seen.timeline);
    timeline.broken = seen.broken.as_ref().map(|(at, b)| (*at, format!("{}: {}", b.invariant, b.what)));
    Outcome {
        seed, plan, timeline, broken: seen.broken.take(), fired: std::mem::take(&mut seen.fired), digest: seen.digest, events: seen.events, story: std::mem::take(&mut seen.story),
        reached: ended.unwrap_or(0), simulated_ms: seen.now_ms, work: seen.work, order: std::mem::take(&mut seen.ordered),
    }
}

/// The crates have a switch each, all for the thread of the story.
fn switch(bug: u8) {
    baton_core_sim::seeded::set(bug);
    baton_storage::seeded::set(bug);
    baton_client::seeded::set(bug);
}
fn reached() -> u64 { baton_core_sim::seeded::reached() + baton_storage::seeded::reached() + baton_client::seeded::reached() }
