//! What one seed draws: sizes, how unwell everything is, and a schedule of acts. Every seed takes another mix of kinds ("swarm"). The schedule is
//! plain data, so that a failing one can be shrunk by leaving acts out. The acts themselves are in `act`.

use super::act::{Act, INSTALL, OFTEN, POINTS};
use baton_core_sim::rng::Rng;

/// Simulated ms.
pub type Ms = u64;

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
    /// Clocks gain or lose at most so many parts per million.
    pub drift_ppm: i64,
    /// So many requests of members in a thousand come again, at most so much later; so many meet a connection that is dead at the other end.
    pub copies: (u64, Ms),
    pub half_open: u64,
    /// So many answers of a thousand come late, by at most so much.
    pub slow_answers: (u64, Ms),
    /// The same of messages between nodes, and of their timers: how many in a thousand, and at most how late.
    pub peer_copies: (u32, Ms),
    pub late_timers: (u32, Ms),
    /// So many processes in a hundred write on with a token that they have lost.
    pub zombie_pct: u64,
    /// People who look up offsets all the time.
    pub readers: u64,
    /// The copies that are still out at the end come when they are so old.
    pub quiet_ms: Ms,
    /// Clocks of members lose, and those of nodes gain, as much as the margins allow for.
    pub at_bound: bool,
    /// Only one thing is done at a time, and what should come of it must.
    pub aimed: bool,
    /// In order of time.
    pub acts: Vec<(Ms, Act)>,
    /// Nothing is done to anybody from here on.
    pub calm_at: Ms,
}

/// The cluster and its first members come up before the first act.
pub const BEGIN: Ms = 6_000;
/// The bound of clocks that the margins are made for (`safety.md` 10).
pub const DRIFT_PPM: i64 = 50_000;
/// What a random mix is made of: one number for each kind of `draw_act`.
const ACTS: u64 = 44;
/// The kinds that stories are aimed at, one at a time while members come and go.
const AIMED: [u64; 28] = [2, 6, 9, 17, 21, 34, 35, 36, 36, 37, 37, 38, 39, 39, 40, 31, 24, 30, 30, 43, 44, 44, 45, 45, 46, 47, 48, 49];
/// Those that came later, drawn by a generator of their own, so that all other stories stay as they are.
const LATER: [u64; 10] = [50, 50, 51, 51, 52, 53, 53, 54, 54, 46];
/// So many aimed stories of a hundred take one of them.
const LATER_PCT: u64 = 25;
/// And those after them, each lot again by a generator of its own: what that is made with, so many stories of a hundred that would be a random mix, and what they are aimed at instead.
const LOTS: [(u64, u64, &[u64]); 8] = [(0x1a57, 22, &[55, 56, 57, 58]), (0x4e37, 20, &[59, 60, 61, 62]), (0xd15c, 10, &[63]), (0x70e5, 10, &[64]), (0x6a95, 10, &[65]), (0xfa12, 12, &[66]), (0x0b7e, 10, &[67]), (0xb0d5, 12, &[45])];
/// More rarely drawn in a random mix: they take a node away for long.
const HEAVY: [u64; 5] = [2, 34, 37, 39, 43];

impl Plan {
    /// Draws the story of a seed.
    pub fn draw(seed: u64) -> Plan {
        let mut r = Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xc1u64);
        let rate = |r: &mut Rng, often: u64, most: u64| if r.pct(often) { r.range(1, most) } else { 0 };
        let crowd = r.pct(6);
        let mut plan = Plan {
            shards: if r.pct(4) { 8 } else { r.range(1, 2) as u16 }, groups: r.range(1, 2), members: if crowd { r.range(12, 15) } else { r.range(2, 5) }, partitions: r.range(2, 7) as i32 * if crowd { 3 } else { 1 },
            session_ms: *r.pick(&[3_000, 4_000, 6_000]).unwrap_or(&4_000), slow_ms: *r.pick(&[20, 300, 2_000]).unwrap_or(&20), slow_pct: r.below(50),
            long_poll_ms: *r.pick(&[0, 0, 700]).unwrap_or(&0), commit_pct: *r.pick(&[0, 3, 40]).unwrap_or(&40), snapshot_every: r.range(20, 400), guard_ms: 660,
            drift_ppm: *r.pick(&[0, 0, 10_000, DRIFT_PPM, DRIFT_PPM]).unwrap_or(&0),
            copies: (rate(&mut r, 50, 60), *r.pick(&[300, 3_000, 20_000, 120_000]).unwrap_or(&300)), half_open: rate(&mut r, 40, 15), slow_answers: (rate(&mut r, 40, 500), *r.pick(&[100, 1_300]).unwrap_or(&100)),
            peer_copies: (rate(&mut r, 40, 40) as u32, *r.pick(&[20, 400, 4_000]).unwrap_or(&20)), late_timers: (rate(&mut r, 40, 50) as u32, *r.pick(&[20, 200]).unwrap_or(&20)),
            zombie_pct: rate(&mut r, 40, 60), readers: r.below(3), quiet_ms: 0, at_bound: false, aimed: r.pct(45), acts: Vec::new(), calm_at: BEGIN + r.range(12_000, 28_000),
        };
        if plan.copies.1 == 120_000 && plan.copies.0 > 0 && r.pct(25) { plan.quiet_ms = 100_000; }
        let lot = LOTS.iter().find_map(|(salt, pct, kinds)| {
            let mut own = Rng(r.0 ^ salt);
            own.pct(*pct).then(|| own.pick(kinds).copied())?
        });
        if let (false, Some(kind)) = (plan.aimed, lot) {
            plan.aimed = true;
            plan.aim_at(kind, &mut r);
        } else if plan.aimed {
            plan.aim(&mut r);
        } else {
            plan.mix(&mut r);
        }
        plan
    }

    fn mix(&mut self, r: &mut Rng) {
        let kinds: Vec<u64> = (0..ACTS).filter(|k| r.pct(if HEAVY.contains(k) { 8 } else { 25 })).collect();
        let mut at = BEGIN;
        while at < self.calm_at {
            if let Some(kind) = r.pick(&kinds).copied() {
                let act = self.draw_act(kind, r);
                self.acts.push((at, act));
            }
            at += r.range(50, 3_000);
        }
    }

    /// One thing at a time, undisturbed by others, while members come and go: what a random mix nearly never leaves in peace for long enough.
    fn aim(&mut self, r: &mut Rng) {
        let (kind, mut later) = (*r.pick(&AIMED).unwrap_or(&AIMED[0]), Rng(r.0 ^ 0x1a7e));
        let kind = if later.pct(LATER_PCT) { *later.pick(&LATER).unwrap_or(&kind) } else { kind };
        self.aim_at(kind, r);
    }
    fn aim_at(&mut self, kind: u64, r: &mut Rng) {
        // Only those who missed more than the log keeps are given a snapshot.
        if kind == 43 || kind == 65 { (self.snapshot_every, self.commit_pct) = (r.range(15, 40), 40); }
        // Few members with many partitions: somebody has to give one to whoever joins.
        if kind == 44 { (self.members, self.partitions, self.long_poll_ms, self.session_ms) = (2, 7, 0, 6_000); }
        if kind == 54 { self.commit_pct = 40; }
        // Whoever comes back has something to do, and is seen to do it.
        if kind == 58 { (self.members, self.partitions, self.commit_pct) = (2, 7, 40); }
        // The answer before the cut was on its way for as long as a member waits.
        if kind == 45 { (self.at_bound, self.long_poll_ms, self.session_ms) = (true, 700, 6_000); }
        // Something is acknowledged all the time, and everybody asks for it.
        if [50, 53, 61, 63, 64, 66].contains(&kind) { (self.commit_pct, self.slow_answers, self.half_open) = (40, (0, 0), 0); }
        let mut at = BEGIN;
        for _ in 0..r.range(1, 3) {
            let act = self.draw_act(kind, r);
            let lasts = act.lasts();
            self.acts.push((at, act));
            for _ in 0..r.range(1, 4) {
                let kind = *r.pick(&[14, 14, 15, 16, 19]).unwrap_or(&14);
                let (when, act) = (at + r.below(lasts), self.draw_act(kind, r));
                self.acts.push((when, act));
            }
            at += lasts + r.range(500, 4_000);
        }
        self.acts.sort_by_key(|(at, _)| *at);
        self.calm_at = at;
    }

    fn draw_act(&self, kind: u64, r: &mut Rng) -> Act {
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
            22 => Act::Session { group: any, ms: *r.pick(&[3_000, 4_000, 6_000]).unwrap_or(&3_000) },
            23 => Act::Reconfigure { node, snapshot_every: r.range(15, 60), checkpoint_ms: r.range(100, 5_000), down: down / 8 },
            24 | 25 | 41 | 42 => {
                // Half of them where every node comes by all the time.
                let point = if r.pct(50) { r.pick(&OFTEN) } else { r.pick(&POINTS) };
                Act::Trap { node: r.below(4), point: point.unwrap_or(&POINTS[0]), passes: *r.pick(&[0, 0, 1, 5]).unwrap_or(&0), pause: if r.pct(25) { pause } else { 0 }, down }
            }
            26 => Act::WallClock { shard: any, by_ms: *r.pick(&[-3_600_000, -900, 700, 30 * 86_400_000]).unwrap_or(&700) },
            27 => Act::SlowDisk { node, by_ms: r.range(10, 400), ms: pause * 2 },
            28 => Act::FullDisk { node, ms: pause * 2 },
            29 => Act::FailSync { node, files: r.pct(30), clean: r.pct(50), down },
            30 => Act::FlipBit { node, of: if self.snapshot_every < 100 && r.pct(60) { 1 } else { r.below(3) }, at: r.bits(), down: down / 2 },
            31 => Act::ChangeSession { group: any, from: self.session_ms * 4, down },
            32 => Act::JoinStorm { group: any, members: r.range(4, 9) },
            33 => Act::FlapMember { group: any, times: r.range(2, 5), ms: r.range(100, 1_800) },
            34 => Act::EmptyDisk { node, ms: r.range(2_000, 5_000) },
            35 => Act::ForgetVote { shard: any },
            36 => Act::PauseAll { ms: self.session_ms * 3 / 2, links: r.pct(70) },
            37 => if self.aimed || r.pct(50) { Act::OldCopy { node, age: r.range(6_000, 9_000) } } else { Act::StopClock { member: any, ms: self.session_ms * 3 } },
            38 => Act::Twin { member: any, ms: long },
            43 => Act::CrashInstall { node, point: r.pick(&INSTALL).unwrap_or(&INSTALL[0]), ms: r.range(4_000, 9_000), down: down / 4 },
            44 => Act::LateAnswers { member: any, by: r.range(2_000, self.session_ms * 4 / 5) },
            45 => Act::CutAtBound { member: any, ms: self.session_ms * 2 },
            46 => Act::Poison { group: any },
            47 => Act::ResetOffsets { group: any, to: r.below(40) as i64 },
            48 => Act::StaticRestart { group: any, how: r.below(3), ms: r.range(500, 4_000) },
            50 => Act::LaggingHeir { shard: any, ms: r.range(0, 500) },
            51 => Act::LostReply,
            52 => Act::Stop { node, down },
            53 => Act::HeldAnswer { shard: any, ms: r.range(1_500, 3_500) },
            54 => Act::AheadOfDisk { node, down: down / 4 },
            55 => Act::DeposedMeta { ms: r.range(2_000, 6_000) },
            56 => Act::LostChange,
            57 => Act::Forgotten { node, all: r.pct(30), down: down / 4 },
            58 => Act::Outlived { member: any, ms: r.range(600, 4_000) },
            59 => Act::Overdue,
            60 => Act::BehindMeta { ms: r.range(1_500, 5_000) },
            61 => {
                // Checks pass for a part of the lease age; promises end at the latest 600 ms after the cut, and a bit more by a slow clock.
                let hears = r.range(140, 300);
                Act::AgedCheck { shard: any, hears, stop: r.range(615, hears + 500) - hears }
            }
            62 => Act::GivenAway,
            63 => Act::HalfWritten { shard: any },
            67 => Act::LeaderOut,
            65 => Act::Dawdle { node, ms: r.range(2_500, 6_000), most: r.range(30, 700) },
            66 => Act::FailsAlone { shard: any, clean: r.pct(50) },
            64 => Act::OutAndIn { shard: any, leads: r.pct(50), ms: r.range(200, 5_000) },
            49 => Act::TwoInstances { group: any, ms: r.range(1_000, self.session_ms * 2) },
            39 => Act::OldVersion { node: if r.pct(60) { 0 } else { node }, ms: r.range(2_000, 6_000) },
            _ => match r.below(4) {
                0 => Act::DeleteTopic { group: any, gone: *r.pick(&[0, 30, 2_500]).unwrap_or(&0) },
                1 => Act::OldMetadata { shard: any, ms: if self.aimed { 30_000 } else { long } },
                2 => Act::StopClock { member: any, ms: self.session_ms * 3 },
                _ => Act::DeleteGroup { group: any },
            },
        }
    }
}
