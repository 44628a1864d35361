//! What one seed draws: sizes, and a schedule of acts. Every seed takes another mix of kinds ("swarm"). The schedule is plain data, so that a
//! failing one can be shrunk by leaving acts out.

use baton_core_sim::rng::Rng;

/// Simulated ms.
pub type Ms = u64;

/// Something that is done to the cluster or by its users. Numbers choose a victim among those there are at the time.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// The leader of a shard loses its power.
    KillLeader { shard: u64, down: Ms },
    KillNode { node: u64, down: Ms },
    KillAll { down: Ms },
    /// The node dies at its disk's `op`-th operation from now on.
    DieAtOperation { node: u64, op: u64, down: Ms },
    PauseNode { node: u64, ms: Ms },
    PauseLeader { shard: u64, ms: Ms },
    /// A shard's leader hears no other node and is heard by none, while its callers reach it.
    CutLeader { shard: u64, ms: Ms },
    /// The net falls into two parts: the leader with half of the members, the other nodes with the other half.
    Split { shard: u64, odd: bool, ms: Ms },
    /// One direction only.
    CutOneWay { from: u64, to: u64, ms: Ms },
    /// Cut, heal, cut, heal.
    Flap { a: u64, b: u64, times: u64, ms: Ms },
    /// The leader loses one follower; once that one's promise has lapsed, the other is cut and restarted at once: the attack that the restart guard is for.
    Bounce { shard: u64 },
    Loss { per_mille: u64, ms: Ms },
    Latency { most: Ms, ms: Ms },
    Transfer { shard: u64, to: u64 },
    RollingRestart { down: Ms },
    Join { group: u64 },
    Leave { member: u64 },
    KillMember { member: u64 },
    CutMember { member: u64, how: u64, ms: Ms },
    PauseMember { member: u64, ms: Ms },
    GrowTopic { group: u64 },
    RemoveMember { member: u64 },
    Session { group: u64, ms: Ms },
}

/// Everything that must happen in a batch of stories: an act that never fires proves nothing.
pub const KINDS: [&str; 25] = [
    "leader killed", "node killed", "all nodes killed", "node killed in mid-write", "node paused", "leader paused", "leader alone cut off", "network split", "link cut one way", "link flaps",
    "follower bounced under a lease", "messages lost", "messages late", "leadership transferred", "rolling restart", "member joins", "member leaves", "member killed", "member cut off",
    "member not heard", "member hears nothing", "member paused", "topic grown", "member removed by an administrator", "session changed",
];
/// So many stories make a batch.
pub const BATCH: u64 = 40;

impl Act {
    /// How long its effect may last.
    fn lasts(&self) -> Ms {
        match self {
            Act::CutLeader { ms, .. } | Act::Split { ms, .. } | Act::CutMember { ms, .. } => *ms,
            Act::KillAll { down } => down + 2_000,
            _ => 4_000,
        }
    }
    /// The name under which it is counted.
    pub fn kind(&self) -> &'static str {
        match self {
            Act::KillLeader { .. } => "leader killed",
            Act::KillNode { .. } => "node killed",
            Act::KillAll { .. } => "all nodes killed",
            Act::DieAtOperation { .. } => "node killed in mid-write",
            Act::PauseNode { .. } => "node paused",
            Act::PauseLeader { .. } => "leader paused",
            Act::CutLeader { .. } => "leader alone cut off",
            Act::Split { .. } => "network split",
            Act::CutOneWay { .. } => "link cut one way",
            Act::Flap { .. } => "link flaps",
            Act::Bounce { .. } => "follower bounced under a lease",
            Act::Loss { .. } => "messages lost",
            Act::Latency { .. } => "messages late",
            Act::Transfer { .. } => "leadership transferred",
            Act::RollingRestart { .. } => "rolling restart",
            Act::Join { .. } => "member joins",
            Act::Leave { .. } => "member leaves",
            Act::KillMember { .. } => "member killed",
            Act::CutMember { how: 0, .. } => "member cut off",
            Act::CutMember { how: 1, .. } => "member not heard",
            Act::CutMember { .. } => "member hears nothing",
            Act::PauseMember { .. } => "member paused",
            Act::GrowTopic { .. } => "topic grown",
            Act::RemoveMember { .. } => "member removed by an administrator",
            Act::Session { .. } => "session changed",
        }
    }
}

/// The story of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub shards: u16,
    pub groups: u64,
    pub members: u64,
    pub partitions: i32,
    pub session_ms: Ms,
    /// How long `on_revoked` may take in a member, and how often in a hundred it takes that long.
    pub slow_ms: Ms,
    pub slow_pct: u64,
    pub long_poll_ms: Ms,
    /// How often in a hundred rounds a worker commits. 0: quiet groups, whose heartbeats never wait for a batch.
    pub commit_pct: u64,
    pub snapshot_every: u64,
    pub guard_ms: Ms,
    /// In order of time.
    pub acts: Vec<(Ms, Act)>,
    /// Nothing is done to anybody from here on.
    pub calm_at: Ms,
}

/// The cluster and its first members come up before the first act.
const BEGIN: Ms = 6_000;
const ACTS: u64 = 23;
/// The kinds that stories are aimed at: all nodes killed, a leader cut off alone, a follower bounced, a member that hears nothing, a split.
const AIMED: [u64; 5] = [2, 6, 9, 17, 21];

impl Plan {
    /// Draws the story of a seed.
    pub fn draw(seed: u64) -> Plan {
        let mut r = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xc1u64);
        let mut plan = Plan {
            shards: r.range(1, 3) as u16, groups: r.range(1, 2), members: r.range(2, 5), partitions: r.range(2, 7) as i32, session_ms: *r.pick(&[3_000, 4_000, 6_000]).unwrap_or(&4_000),
            slow_ms: *r.pick(&[20, 300, 2_000]).unwrap_or(&20), slow_pct: r.below(50), long_poll_ms: *r.pick(&[0, 0, 700]).unwrap_or(&0), commit_pct: *r.pick(&[0, 3, 40]).unwrap_or(&40),
            snapshot_every: r.range(20, 400),
            guard_ms: 660, acts: Vec::new(), calm_at: BEGIN + r.range(15_000, 35_000),
        };
        if r.pct(35) {
            plan.aim(&mut r);
            return plan;
        }
        let kinds: Vec<u64> = (0..ACTS).filter(|_| r.pct(40)).collect();
        let mut at = BEGIN;
        while at < plan.calm_at {
            if let Some(kind) = r.pick(&kinds).copied() {
                let act = plan.act(kind, &mut r);
                plan.acts.push((at, act));
            }
            at += r.range(50, 3_000);
        }
        plan
    }

    /// One thing at a time, undisturbed by others, while members come and go: what a random mix nearly never leaves in peace for long enough.
    fn aim(&mut self, r: &mut Rng) {
        let kind = *r.pick(&AIMED).unwrap_or(&AIMED[0]);
        let mut at = BEGIN;
        for _ in 0..r.range(2, 4) {
            let act = self.act(kind, r);
            let lasts = act.lasts();
            self.acts.push((at, act));
            for _ in 0..r.range(1, 4) {
                let kind = *r.pick(&[14, 14, 15, 16, 19]).unwrap_or(&14);
                let (when, act) = (at + r.below(lasts), self.act(kind, r));
                self.acts.push((when, act));
            }
            at += lasts + r.range(500, 4_000);
        }
        self.acts.sort_by_key(|(at, _)| *at);
        self.calm_at = at;
    }

    fn act(&self, kind: u64, r: &mut Rng) -> Act {
        let (any, node) = (r.below(1_000), r.range(1, 3));
        let (down, pause) = (r.range(1, 4_000), r.range(100, 4_000));
        let long = r.range(self.session_ms / 2, self.session_ms * 5 / 2);
        match kind {
            0 => Act::KillLeader { shard: any, down },
            1 => Act::KillNode { node, down },
            2 => Act::KillAll { down },
            3 => Act::DieAtOperation { node, op: r.range(1, 30), down },
            4 => Act::PauseNode { node, ms: pause },
            5 => Act::PauseLeader { shard: any, ms: pause },
            6 => Act::CutLeader { shard: any, ms: long * 2 },
            7 => Act::CutOneWay { from: node, to: node % 3 + 1, ms: pause },
            8 => Act::Flap { a: node, b: node % 3 + 1, times: r.range(2, 6), ms: r.range(50, 900) },
            9 => Act::Bounce { shard: any },
            10 => Act::Loss { per_mille: r.range(10, 250), ms: pause },
            11 => Act::Latency { most: r.range(20, 400), ms: pause },
            12 => Act::Transfer { shard: any, to: node },
            13 => Act::RollingRestart { down: down / 4 },
            14 => Act::Join { group: any },
            15 => Act::Leave { member: any },
            16 => Act::KillMember { member: any },
            17 => Act::CutMember { member: any, how: r.below(3), ms: long },
            18 => Act::PauseMember { member: any, ms: long },
            19 => Act::GrowTopic { group: any },
            20 => Act::RemoveMember { member: any },
            21 => Act::Split { shard: any, odd: r.pct(50), ms: long * 2 },
            _ => Act::Session { group: any, ms: *r.pick(&[3_000, 4_000, 6_000]).unwrap_or(&3_000) },
        }
    }
}
