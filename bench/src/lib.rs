//! Groups of every size and shape for measuring assignors, in the dense numbers that assignors take: names, maps and allocation of the input are outside
//! of what is timed. Everything is derived from the shape, so that two runs measure the same input.

pub mod crew;
pub mod handover;
pub mod http;
pub mod memory;
pub mod shard;

use baton_coordinator::{
    assign::{
        Assignor, Input, SERVER,
        preferences::{Loads, Zones},
        spec::{NOBODY, Spec},
    },
    ids::{MemberId, TopicName},
};
use std::fmt;

/// How large a group is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub members: u32,
    pub topics: u32,
    /// Per topic.
    pub partitions: u32,
}
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}x{}x{}", self.members, self.topics, self.partitions) }
}

/// Members × topics × partitions per topic.
pub const SIZES: [Size; 5] = [size(100, 100, 10), size(1_000, 100, 10), size(1_000, 1_000, 10), size(10_000, 1_000, 10), size(10_000, 1_000, 100)];
const fn size(members: u32, topics: u32, partitions: u32) -> Size { Size { members, topics, partitions } }

/// Who subscribes to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscriptions {
    /// Everybody to everything.
    Same,
    /// Topics and members fall into five groups; members subscribe to the topics of theirs.
    FiveGroups,
    /// Every member to a random tenth of the topics: no two subscriptions are alike.
    RandomTenth,
    /// Every member to a random half of the topics.
    RandomHalf,
}
impl Subscriptions {
    pub const ALL: [Self; 4] = [Self::Same, Self::FiveGroups, Self::RandomTenth, Self::RandomHalf];
    pub fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::FiveGroups => "five-groups",
            Self::RandomTenth => "random-tenth",
            Self::RandomHalf => "random-half",
        }
    }
}

/// What the assignment is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// There is no target yet.
    Initial,
    /// The target is that of the group without its last member.
    Joining,
}
impl Event {
    pub const ALL: [Self; 2] = [Self::Initial, Self::Joining];
    pub fn name(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Joining => "joining",
        }
    }
}

/// The group to assign for.
pub fn group(assignor: &dyn Assignor, size: Size, subscriptions: Subscriptions, event: Event) -> Spec {
    let whole = spec(size, subscriptions, size.members);
    match event {
        Event::Initial => whole,
        Event::Joining => {
            let before = assignor.assign(&spec(size, subscriptions, size.members - 1)).0;
            assert!(before.iter().any(|o| *o != NOBODY), "somebody has something before");
            whole.with_previous(before).expect("the members before are members now")
        }
    }
}

fn spec(size: Size, subscriptions: Subscriptions, members: u32) -> Spec {
    let counts = vec![size.partitions; size.topics as usize];
    let (distinct, of_member): (Vec<Vec<u32>>, Vec<u32>) = match subscriptions {
        Subscriptions::Same => (vec![(0..size.topics).collect()], vec![0; members as usize]),
        Subscriptions::FiveGroups => ((0..5).map(|g| (0..size.topics).filter(|t| t % 5 == g).collect()).collect(), (0..members).map(|m| m % 5).collect()),
        Subscriptions::RandomTenth => (random(size.topics, members, 10), (0..members).collect()),
        Subscriptions::RandomHalf => (random(size.topics, members, 2), (0..members).collect()),
    };
    let partitions = size.topics * size.partitions;
    // Three zones, replicas in two of them; weights of 1 to 7 and capacities of 1 to 3. Kafka's assignors look at none of this.
    let zones = Zones { of_member: (0..members).map(|m| m % 3).collect(), sets: vec![vec![0, 1], vec![1, 2], vec![0, 2]], set_of: (0..partitions).map(|p| p % 3).collect() };
    let loads = Loads { weights: (0..partitions).map(|p| p % 7 + 1).collect(), capacities: (0..members).map(|m| m % 3 + 1).collect(), moves_max: usize::MAX };
    Spec::new(&counts, distinct, of_member).and_then(|s| s.with_zones(zones)).and_then(|s| s.with_loads(loads)).expect("numbers of one group")
}

/// The same group by name, as the coordinator has it, without a target.
pub fn input(size: Size, subscriptions: Subscriptions) -> Input {
    let (group, topics) = (spec(size, subscriptions, size.members), (0..size.topics).map(|t| TopicName::from(format!("topic-{t:04}"))).collect::<Vec<_>>());
    let of_member = |m: u32| group.subscription(m).iter().map(|t| topics[*t as usize].clone()).collect();
    Input {
        subscriptions: (0..size.members).map(|m| (MemberId::from(format!("member-{m:05}")), of_member(m))).collect(),
        topics: topics.iter().map(|t| (t.clone(), i32::try_from(size.partitions).unwrap_or(i32::MAX))).collect(),
        ..Input::default()
    }
}

/// All assignors of the coordinator.
pub fn assignors() -> impl Iterator<Item = &'static dyn Assignor> { SERVER.into_iter() }

/// Each member takes each topic with a chance of one in `one_in`.
fn random(topics: u32, members: u32, one_in: u64) -> Vec<Vec<u32>> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
    };
    (0..members).map(|_| (0..topics).filter(|_| next() % one_in == 0).collect()).collect()
}
