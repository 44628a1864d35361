//! What one seed draws: which faults are on and how strong (a "swarm": every seed another mix).

use crate::rng::Rng;
use std::collections::BTreeMap;

/// True time, ms since the story began.
pub type Ms = u64;
/// One step of the simulation.
pub const TICK: Ms = 10;
/// By then after the faults have ended everything must have settled: a promised session, a hold of one more, a rebalance timeout, and slack.
pub const SETTLE: Ms = 90_000;
/// How old an answer's lease may be, on the leader's clock; elections take longer than this.
pub const LEASE_AGE: Ms = 480;

/// Which kinds of members a group has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix { Http, Consumer, Classic, /** All kinds in one group, with conversions both ways. */ All }

/// The faults of one story. Rates are per million ticks, unless they say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Faults happen until here; then the world is calm.
    pub chaos_ms: Ms,
    /// Positions are kept for a minute, not for a week.
    pub forgets: bool,
    pub groups: usize,
    pub members: usize,
    pub session_ms: u64,
    pub partitions: i32,
    pub drift: bool,
    pub loss_pct: u64,
    pub delay_ms: u64,
    pub copies_pct: u64,
    /// Copies come up to so much later.
    pub copies_late_ms: u64,
    pub commit_ms: u64,
    pub leader: u64,
    pub lapse: u64,
    pub node_crash: u64,
    pub member_crash: u64,
    pub member_cut: u64,
    pub member_pause: u64,
    pub member_leave: u64,
    pub twin: u64,
    pub zombies: bool,
    pub slow_pct: u64,
    pub topics: u64,
    pub subscription: u64,
    pub admin_remove: u64,
    pub delete_group: u64,
    pub force: bool,
    pub config: u64,
    pub commits: u64,
    pub meta_lag_ms: u64,
    pub wait: bool,
    pub aimed: bool,
    /// Of the first group and of the second.
    pub mixes: [Mix; 2],
    /// Classic clients are cooperative ones; else eager.
    pub cooperative: bool,
    pub static_pct: u64,
    pub regex_pct: u64,
    pub admin: u64,
    /// Targets are computed beside the shard, and it takes time.
    pub slow_work: bool,
    /// Some requests say that they are worth nothing so much later.
    pub timeout_ms: u64,
}

impl Plan {
    /// Draws a mix.
    pub fn draw(r: &mut Rng) -> Plan {
        let mut on = |pct: u64, n: u64| if r.pct(pct) { r.range(n / 4 + 1, n) } else { 0 };
        let (loss_pct, copies_pct, leader, lapse, node_crash) = (on(60, 15), on(60, 20), on(75, 2_000), on(40, 1_000), on(40, 600));
        let (member_crash, member_cut, member_pause, member_leave, twin) = (on(60, 3_000), on(60, 3_000), on(40, 2_000), on(50, 2_000), on(40, 2_000));
        let (slow_pct, topics, subscription, admin_remove, delete_group, config) = (on(50, 60), on(50, 1_500), on(50, 1_500), on(50, 1_500), on(30, 1_500), on(40, 800));
        let (commits, meta_lag_ms) = (on(60, 20_000), on(50, 3_000));
        let (static_pct, regex_pct, admin) = (on(50, 80), on(40, 80), on(50, 6_000));
        let mixes = [(); 2].map(|()| match r.below(100) { 0..45 => Mix::Http, 45..60 => Mix::Consumer, 60..75 => Mix::Classic, _ => Mix::All });
        // A minute is the shortest retention, and nothing is forgotten before a leader is elected after it: that takes a longer story.
        let forgets = r.pct(5);
        Plan {
            chaos_ms: if forgets { 150_000 } else { 60_000 }, forgets,
            groups: r.range(1, 2) as usize, members: r.range(2, 5) as usize, session_ms: *r.pick(&[3_000, 4_000, 6_000, 12_000]).unwrap_or(&6_000), partitions: r.range(2, 6) as i32,
            drift: r.pct(60), loss_pct, delay_ms: *r.pick(&[20, 100, 600, 2_000]).unwrap_or(&100), copies_pct, copies_late_ms: *r.pick(&[500, 5_000, 40_000]).unwrap_or(&500),
            commit_ms: *r.pick(&[10, 50, 300, 900]).unwrap_or(&50), leader, lapse, node_crash, member_crash, member_cut, member_pause, member_leave, twin, zombies: r.pct(30),
            slow_pct, topics, subscription, admin_remove, delete_group, force: r.pct(20), config, commits, meta_lag_ms, wait: r.pct(40), aimed: r.pct(60), mixes, cooperative: r.pct(50), static_pct, regex_pct, admin, slow_work: r.pct(40), timeout_ms: *r.pick(&[5_000, 5_000, 1_000, 300]).unwrap_or(&5_000),
        }
    }
}

/// Everything that must happen in a batch of stories: a fault that never fires proves nothing.
pub const KINDS: [&str; 95] = [
    "join of before a wish comes again",
    "slow member is told things",
    "member removed unheard after its session was lowered",
    "administrator removes a member", "answered at once", "answers withheld: no lease", "commits", "copies",
    "elections", "expired", "fetches", "follower crashed",
    "group emptied and deleted", "heartbeat during its own removal", "lapses", "leader crashed",
    "leader cut off", "leader handed over", "leader killed after a session change", "leader paused within its lease",
    "leader whose wall clock is a month ahead", "lease lapsed, same term", "lost requests", "member cut: both",
    "member cut: in", "member cut: out", "member killed", "member killed with the leader",
    "member leaves", "member paused", "old heartbeat after a revocation", "rebalance timeout",
    "second process under one id", "session changed", "snapshot of another node installed", "subscription changed",
    "topic deleted", "topic grown", "topic made again at once", "writes",
    "zombie writes refused by a sink", "offsets set by an administrator", "offsets deleted by an administrator", "group of an administrator deleted", "everything fetched after an election",
    "follower falls behind",
    // Kafka's clients, static members, expressions, conversions, work, administrators.
    "administrator deletes offsets", "administrator removes a classic member", "administrator empties a static place", "administrator resets an offset",
    "assigning member sees other topics", "assignor failed", "classic client gives itself up",
    "classic group became a consumer group", "client cut off", "client killed",
    "client leaves", "client paused", "commit for a partition of somebody else's",
    "consumer group became a classic one", "cooperative classic client starts", "described",
    "eager classic client starts", "epoch -1 sent", "epoch -2 sent",
    "epoch commits", "expression changed", "expressions resolved beside the shard",
    "generation commits", "kafka consumer starts", "result of work comes twice",
    "static classic client stops", "static client killed and started again", "static consumer leaves for a while",
    "static place taken up again", "target computed beside the shard", "topic made",
    "two clients under one instance id",
    // Static HTTP members, their expressions, timeouts of requests.
    "static member starts", "static member leaves for a while", "static member's place taken up again", "two processes in one static place", "join comes again when its place is another's",
    "member with an expression starts", "expression of a member changed", "topics change while an expression is resolved", "request taken up too late",
    "classic client paused before its sync", "consumer joins in mid-rebalance", "positions past their retention", "classic client sleeps through a join phase",
    "join of a removed member comes again", "leader paused just before a member expires", "entry takes long just before a member expires", "leader behind with its metadata",
];
/// So many stories make a batch.
pub const BATCH: u64 = 200;

/// How often each fault really happened.
#[derive(Clone, Debug, Default)]
pub struct Fired(pub BTreeMap<&'static str, u64>);
impl Fired {
    /// Counts one.
    pub fn hit(&mut self, what: &'static str) { *self.0.entry(what).or_default() += 1; }
    /// Adds another story's.
    pub fn add(&mut self, other: &Fired) {
        for (k, n) in &other.0 {
            *self.0.entry(k).or_default() += n;
        }
    }
}
