//! What can be done to a cluster or by its users, the names under which it is counted, and what must have happened in a batch of stories.

use super::plan::Ms;

/// Something that is done. Numbers choose a victim among those there are at the time.
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
    /// All nodes stand still, or only hear nothing of each other (`links`), for longer than any session.
    PauseAll { ms: Ms, links: bool },
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
    /// A voter loses its power just after its answer, and two nodes that know nothing of that vote elect again.
    ForgetVote { shard: u64 },
    Loss { per_mille: u64, ms: Ms },
    Latency { most: Ms, ms: Ms },
    Transfer { shard: u64, to: u64 },
    RollingRestart { down: Ms },
    /// It comes back with other settings.
    Reconfigure { node: u64, snapshot_every: u64, checkpoint_ms: Ms, down: Ms },
    /// For a while the node runs a version that does not know what the others write.
    OldVersion { node: u64, ms: Ms },
    /// A node (0: the leader of shard 0) dies at a named point of the code, or stands still there.
    Trap { node: u64, point: &'static str, passes: u64, pause: Ms, down: Ms },
    /// A node that was cut off for long is given a snapshot, and dies at a point of its installation.
    CrashInstall { node: u64, point: &'static str, ms: Ms, down: Ms },
    /// The wall clock of a shard's leader jumps.
    WallClock { shard: u64, by_ms: i64 },
    SlowDisk { node: u64, by_ms: Ms, ms: Ms },
    FullDisk { node: u64, ms: Ms },
    /// The next sync of the log, or of a snapshot file, fails; what it should have written may be lost for good (`clean`).
    FailSync { node: u64, files: bool, clean: bool, down: Ms },
    /// One bit of the log (0), of a snapshot (1) turns over, or the store of checkpoints is no good any more (2).
    FlipBit { node: u64, of: u64, at: u64, down: Ms },
    /// All disks of a node are put back from a copy of some time ago.
    OldCopy { node: u64, age: Ms },
    /// A node starts with an empty folder under its id.
    EmptyDisk { node: u64, ms: Ms },
    /// The shard's leader learns nothing of topics and settings for a while.
    OldMetadata { shard: u64, ms: Ms },
    /// A member's answers come later than the ones after them, while others join.
    LateAnswers { member: u64, by: Ms },
    /// A member whose clock is slow hears nothing and is not heard, while the clocks of the nodes are fast, both by as much as the margins allow for.
    CutAtBound { member: u64, ms: Ms },
    /// The log has a record that cannot be replayed: the group that it is about is quarantined, all others go on, and all nodes start again with it.
    Poison { group: u64 },
    /// An administrator resets offsets while members hold the partitions, and again as soon as the last of them is going.
    ResetOffsets { group: u64, to: i64 },
    /// A process with an instance id leaves or dies, and another takes its place under another member id.
    StaticRestart { group: u64, how: u64, ms: Ms },
    /// The followers have the newest entries and have not applied them yet when the leader dies; everybody asks the next one at once.
    LaggingHeir { shard: u64, ms: Ms },
    /// A node forwards a reset of offsets, and the link dies before it hears the answer; another reset follows before the link is well again.
    LostReply,
    /// A leader stands still with answers in its hand until others have another leader.
    HeldAnswer { shard: u64, ms: Ms },
    /// A node whose disk is slow loses its power as soon as it has written a checkpoint.
    AheadOfDisk { node: u64, down: Ms },
    /// The leader of the metadata is cut off, others lead and change topics and settings; all the while it is asked for them.
    DeposedMeta { ms: Ms },
    /// A node forwards a change of topics, and the link dies before it hears the answer; another change follows before the link is well again.
    LostChange,
    /// A group is deleted for good; a node writes a checkpoint after that, loses its power and starts from it.
    Forgotten { node: u64, all: bool, down: Ms },
    /// A member is cut off, another process takes its id and dies; the first, which was replaced, is the member from then on.
    Outlived { member: u64, ms: Ms },
    /// A request waits behind an entry that cannot be committed, for longer than its timeout.
    Overdue,
    /// A node that has not applied the newest changes of topics is asked for them.
    BehindMeta { ms: Ms },
    /// A leader's lease check passes on what it heard before it was cut off, and the answer stands still until nobody is bound by that any more.
    AgedCheck { shard: u64, hears: Ms, stop: Ms },
    /// A leader has asked another node to take over, and is cut off at once; its members ask it all the while.
    GivenAway,
    /// All nodes lose their power while the disks of a leader's followers are behind, and it comes back after they have elected again.
    HalfWritten { shard: u64 },
    /// A node, perhaps the leader, loses its vote in a shard and gets it back; it dies at once, and the leader is cut off.
    OutAndIn { shard: u64, leads: bool, ms: Ms },
    /// A leader loses its vote while it is asked all the time.
    LeaderOut,
    /// Nodes take their time between the steps of keeping their state while one of them is given a snapshot, and lose their power.
    Dawdle { node: u64, ms: Ms, most: Ms },
    /// A follower's disk fails while the other is cut off; the two elect again.
    FailsAlone { shard: u64, clean: bool },
    /// A node is stopped as an operator stops it: its leaderships are given away, then it ends in order.
    Stop { node: u64, down: Ms },
    /// Two processes are started under one instance id.
    TwoInstances { group: u64, ms: Ms },
    Join { group: u64 },
    JoinStorm { group: u64, members: u64 },
    /// Joins, dies, joins, dies.
    FlapMember { group: u64, times: u64, ms: Ms },
    Leave { member: u64 },
    KillMember { member: u64 },
    CutMember { member: u64, how: u64, ms: Ms },
    PauseMember { member: u64, ms: Ms },
    /// Its clock stands still while it works on: beyond what leases can bear; the sink must refuse it.
    StopClock { member: u64, ms: Ms },
    /// A second process starts under a member's id while the first hears nothing.
    Twin { member: u64, ms: Ms },
    GrowTopic { group: u64 },
    /// Gone, and made again under its name after `gone` ms.
    DeleteTopic { group: u64, gone: Ms },
    DeleteGroup { group: u64 },
    RemoveMember { member: u64 },
    Session { group: u64, ms: Ms },
    /// A long session is cut to a quarter, and the leader dies at once.
    ChangeSession { group: u64, from: Ms, down: Ms },
}

/// Where a node can be stopped (`failpoint!` in the crates).
pub const POINTS: [&str; 17] = [
    "records durable, nobody told", "vote durable, not answered", "vote granted", "log about to be purged", "entry about to be applied", "entry applied, nobody told",
    "checkpoint about to be written", "checkpoint written", "snapshot about to be saved", "snapshot file written", "snapshot file named", "snapshot saved", "installation announced",
    "installation saved", "installation in the store", "shard about to be served", "answer about to leave",
];
/// The way of a leader's snapshot at its receiver.
pub const INSTALL: [&str; 5] = ["installation announced", "snapshot file written", "snapshot file named", "installation saved", "installation in the store"];
/// Those that every node passes again and again.
pub const OFTEN: [&str; 6] = ["records durable, nobody told", "entry about to be applied", "entry applied, nobody told", "checkpoint about to be written", "checkpoint written", "answer about to leave"];
/// Everything that must happen in a batch of stories: a fault that never fires proves nothing.
pub const KINDS: [&str; 88] = [
    "vote taken from a leader that is asked",
    "power lost in the gaps of keeping the state",
    "disk fails under a lone follower",
    "vote taken from a node and given back",
    "power lost everywhere while the followers' disks are behind",
    "leader cut off that has given the leadership away",
    "request that waits for too long", "node behind in metadata asked", "answer under a check that has aged",
    "deposed leader of metadata asked", "forwarded change of topics without an answer", "checkpoint after a group was deleted for good", "replaced process lives on",
    "leader stands still with an answer", "power lost after a checkpoint on a slow disk",
    "leader dies before its followers have applied", "forwarded request without an answer", "node stopped in order",
    "answer late", "answer behind later ones", "member cut off at the bound of clocks", "poison record", "poisoned group repaired", "offsets reset under live members", "static member restarted", "two processes under one instance id",
    "leader killed", "node killed", "all nodes killed", "node killed in mid-write", "node paused", "leader paused", "all nodes paused", "nodes deaf to each other", "leader alone cut off", "network split",
    "link cut one way", "link flaps", "follower bounced under a lease", "vote forgotten", "messages lost", "messages late", "leadership transferred", "rolling restart", "restart with other settings",
    "earlier version among later ones", "node killed at a point", "node paused at a point", "wall clock jumps", "leader whose wall clock is a month ahead", "slow disk", "full disk", "sync failed",
    "bit flipped in the log", "bit flipped in a snapshot", "store of checkpoints damaged", "old copy refused", "empty disk refused", "leader with old metadata",
    "member joins", "join storm", "member flaps", "member leaves", "member killed", "member cut off", "member not heard", "member hears nothing", "member paused", "member whose clock stands still",
    "second process under one id", "topic grown", "topic deleted and made again", "group deleted", "member removed by an administrator", "session changed", "leader killed after a session change",
    "clocks drift", "request twice", "request twice, more than a minute late", "connection half open", "message of a peer twice", "timer late", "sync on a slow disk", "zombie refused by the sink",
    "snapshot installed", "snapshot installed in a rebalance", "log purged", "log purged in a rebalance",
];
/// So many stories make a batch.
pub const BATCH: u64 = 200;

impl Act {
    /// How long its effect may last.
    pub fn lasts(&self) -> Ms {
        match self {
            Act::LateAnswers { by, .. } => by + 4_000,
            Act::Poison { .. } => 9_000,
            Act::LaggingHeir { .. } => 7_000,
            Act::OutAndIn { ms, .. } => ms + 9_000,
            Act::LeaderOut => 8_000,
            Act::Dawdle { ms, .. } => ms + 8_000,
            Act::FailsAlone { .. } => 20_000,
            Act::Stop { .. } | Act::HalfWritten { .. } => 8_000,
            Act::DeposedMeta { ms } | Act::BehindMeta { ms } => ms + 4_000,
            Act::Forgotten { down, .. } => down + 12_000,
            Act::Outlived { ms, .. } => ms + 16_000,
            Act::HeldAnswer { ms, .. } => ms + 4_000,
            Act::AheadOfDisk { .. } => 10_000,
            Act::ResetOffsets { .. } => 8_000,
            Act::StaticRestart { ms, .. } | Act::TwoInstances { ms, .. } => ms + 3_000,
            Act::CutAtBound { ms, .. } => *ms + 4_000,
            Act::CutLeader { ms, .. } | Act::Split { ms, .. } | Act::CutMember { ms, .. } => *ms,
            Act::KillAll { down } => down + 2_000,
            Act::PauseAll { ms, .. } => ms + 4_000,
            Act::ForgetVote { .. } => 9_000,
            Act::OldCopy { age, .. } => age + 8_000,
            Act::CrashInstall { ms, .. } => ms + 8_000,
            Act::EmptyDisk { ms, .. } | Act::OldVersion { ms, .. } | Act::OldMetadata { ms, .. } | Act::Twin { ms, .. } => ms + 4_000,
            _ => 4_000,
        }
    }
    /// Left half done it would leave the cluster, or what is known of it, in disorder.
    pub fn must_end(&self) -> bool {
        matches!(self, Act::FlipBit { .. } | Act::EmptyDisk { .. } | Act::OldCopy { .. } | Act::OldVersion { .. } | Act::ForgetVote { .. } | Act::DeleteTopic { .. } | Act::DeleteGroup { .. }
            | Act::StopClock { .. } | Act::FailSync { .. } | Act::ChangeSession { .. } | Act::Trap { .. } | Act::CrashInstall { .. } | Act::JoinStorm { .. } | Act::FlapMember { .. } | Act::GrowTopic { .. }
            | Act::LaggingHeir { .. } | Act::LostReply | Act::Overdue | Act::BehindMeta { .. } | Act::AgedCheck { .. } | Act::GivenAway | Act::HalfWritten { .. } | Act::OutAndIn { .. } | Act::LeaderOut | Act::Dawdle { .. } | Act::FailsAlone { .. } | Act::DeposedMeta { .. } | Act::LostChange | Act::Forgotten { .. } | Act::Outlived { .. } | Act::RollingRestart { .. } | Act::Stop { .. } | Act::HeldAnswer { .. } | Act::AheadOfDisk { .. } | Act::LateAnswers { .. } | Act::Poison { .. } | Act::ResetOffsets { .. } | Act::StaticRestart { .. } | Act::TwoInstances { .. })
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
            Act::PauseAll { links: false, .. } => "all nodes paused",
            Act::PauseAll { .. } => "nodes deaf to each other",
            Act::CutLeader { .. } => "leader alone cut off",
            Act::Split { .. } => "network split",
            Act::CutOneWay { .. } => "link cut one way",
            Act::Flap { .. } => "link flaps",
            Act::Bounce { .. } => "follower bounced under a lease",
            Act::ForgetVote { .. } => "vote forgotten",
            Act::Loss { .. } => "messages lost",
            Act::Latency { .. } => "messages late",
            Act::Transfer { .. } => "leadership transferred",
            Act::RollingRestart { .. } => "rolling restart",
            Act::Reconfigure { .. } => "restart with other settings",
            Act::OldVersion { .. } => "earlier version among later ones",
            Act::CrashInstall { .. } => "node killed while it installs a snapshot",
            Act::Trap { pause: 0, .. } => "node killed at a point",
            Act::Trap { .. } => "node paused at a point",
            Act::WallClock { by_ms, .. } if *by_ms > 86_400_000 => "leader whose wall clock is a month ahead",
            Act::WallClock { .. } => "wall clock jumps",
            Act::SlowDisk { .. } => "slow disk",
            Act::FullDisk { .. } => "full disk",
            Act::FailSync { .. } => "sync failed",
            Act::FlipBit { of: 0, .. } => "bit flipped in the log",
            Act::FlipBit { of: 1, .. } => "bit flipped in a snapshot",
            Act::FlipBit { .. } => "store of checkpoints damaged",
            Act::OldCopy { .. } => "old copy refused",
            Act::EmptyDisk { .. } => "empty disk refused",
            Act::OldMetadata { .. } => "leader with old metadata",
            Act::LateAnswers { .. } => "answer behind later ones",
            Act::CutAtBound { .. } => "member cut off at the bound of clocks",
            Act::Poison { .. } => "poison record",
            Act::ResetOffsets { .. } => "offsets reset under live members",
            Act::StaticRestart { .. } => "static member restarted",
            Act::LaggingHeir { .. } => "leader dies before its followers have applied",
            Act::LostReply => "forwarded request without an answer",
            Act::HeldAnswer { .. } => "leader stands still with an answer",
            Act::AheadOfDisk { .. } => "power lost after a checkpoint on a slow disk",
            Act::Stop { .. } => "node stopped in order",
            Act::DeposedMeta { .. } => "deposed leader of metadata asked",
            Act::LostChange => "forwarded change of topics without an answer",
            Act::Forgotten { .. } => "checkpoint after a group was deleted for good",
            Act::Outlived { .. } => "replaced process lives on",
            Act::Overdue => "request that waits for too long",
            Act::BehindMeta { .. } => "node behind in metadata asked",
            Act::AgedCheck { .. } => "answer under a check that has aged",
            Act::HalfWritten { .. } => "power lost everywhere while the followers' disks are behind",
            Act::OutAndIn { .. } => "vote taken from a node and given back",
            Act::LeaderOut => "vote taken from a leader that is asked",
            Act::Dawdle { .. } => "power lost in the gaps of keeping the state",
            Act::FailsAlone { .. } => "disk fails under a lone follower",
            Act::GivenAway => "leader cut off that has given the leadership away",
            Act::TwoInstances { .. } => "two processes under one instance id",
            Act::Join { .. } => "member joins",
            Act::JoinStorm { .. } => "join storm",
            Act::FlapMember { .. } => "member flaps",
            Act::Leave { .. } => "member leaves",
            Act::KillMember { .. } => "member killed",
            Act::CutMember { how: 0, .. } => "member cut off",
            Act::CutMember { how: 1, .. } => "member not heard",
            Act::CutMember { .. } => "member hears nothing",
            Act::PauseMember { .. } => "member paused",
            Act::StopClock { .. } => "member whose clock stands still",
            Act::Twin { .. } => "second process under one id",
            Act::GrowTopic { .. } => "topic grown",
            Act::DeleteTopic { .. } => "topic deleted and made again",
            Act::DeleteGroup { .. } => "group deleted",
            Act::RemoveMember { .. } => "member removed by an administrator",
            Act::Session { .. } => "session changed",
            Act::ChangeSession { .. } => "leader killed after a session change",
        }
    }
}
