//! Model checking of the shipped code: `stateright` walks interleavings of a real `Shard` (its `decide` and `replay`, no model of them) with three members by
//! the client rules and three partitions. Requests and answers are lost, copied and delivered late; sessions run out; the leader changes with an entry in flight.
//!
//! `world` is one state and what can happen in it, `member` a conforming member, `canon` what makes two states the same, `starts` the situations from which the walks begin.

pub mod canon;
pub mod member;
pub mod starts;
pub mod world;

use baton_coordinator::seeded;
use stateright::{Model, Property};
use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use world::{Action, World};

/// How far a walk may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Bounds {
    /// Steps of time, each a third of a session.
    pub ticks: u8,
    pub leader_changes: u8,
    /// Leaves, each followed by a new process of the member.
    pub leaves: u8,
    /// Requests that are posted and delivered at some other time, if ever.
    pub posts: u8,
    /// Answers that are late or lost.
    pub late_answers: u8,
    /// Copies of requests that stay after a delivery.
    pub copies: u8,
}
impl Default for Bounds {
    fn default() -> Self { Self { ticks: 4, leader_changes: 1, leaves: 2, posts: 2, late_answers: 2, copies: 1 } }
}

/// What the walks did, counted over all transitions.
#[derive(Debug, Default)]
pub struct Counters {
    pub delivered: AtomicU64,
    /// Deliveries of a request that had been delivered before.
    pub duplicated: AtomicU64,
    /// Deliveries of a request after a later one of the same member.
    pub stale: AtomicU64,
    /// Requests that nobody will deliver any more, and answers that nobody will read.
    pub lost: AtomicU64,
    pub late_answers: AtomicU64,
    pub expired: AtomicU64,
    pub leader_changes: AtomicU64,
    pub entries_lost: AtomicU64,
    pub handed_over: AtomicU64,
    /// How often the branch of the seeded bug was reached.
    pub reached: AtomicU64,
}
impl Counters {
    pub fn add(counter: &AtomicU64) { counter.fetch_add(1, Relaxed); }
    /// In words.
    pub fn render(&self) -> String {
        let n = |c: &AtomicU64| c.load(Relaxed);
        format!(
            "deliveries {} (duplicated {}, stale {}), lost messages {}, late answers {}, expired sessions {}, leader changes {} (entry lost {}), partitions handed over {}",
            n(&self.delivered), n(&self.duplicated), n(&self.stale), n(&self.lost), n(&self.late_answers), n(&self.expired), n(&self.leader_changes), n(&self.entries_lost),
            n(&self.handed_over)
        )
    }
}

/// The model that is checked.
pub struct Cluster {
    pub bounds: Bounds,
    /// A seeded bug; 0: none.
    pub bug: u8,
    pub counters: Arc<Counters>,
}
impl Cluster {
    pub fn new(bounds: Bounds, bug: u8) -> Self { Self { bounds, bug, counters: Arc::default() } }
    /// The switch belongs to a thread, and the checker has its own threads.
    fn switch(&self) {
        thread_local! { static ON: Cell<Option<u8>> = const { Cell::new(None) } }
        if ON.get() != Some(self.bug) {
            ON.set(Some(self.bug));
            seeded::set(self.bug);
        }
    }
}

/// The invariants that the walks check, by their names in `docs/invariants.md`.
pub const INVARIANTS: [&str; 5] = ["one-owner", "one-believer", "fencing", "answers-committed", "never fenced"];

impl Model for Cluster {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        self.switch();
        starts::all(self.bounds)
    }
    fn actions(&self, state: &World, actions: &mut Vec<Action>) {
        if state.broken.is_none() {
            state.actions(actions);
        }
    }
    fn next_state(&self, state: &World, action: Action) -> Option<World> {
        self.switch();
        let before = seeded::reached();
        let mut next = state.clone();
        next.take(&action, &self.counters);
        self.counters.reached.fetch_add(seeded::reached() - before, Relaxed);
        Some(next)
    }
    fn properties(&self) -> Vec<Property<Self>> {
        fn holds(name: &'static str, s: &World) -> bool { s.broken.as_ref().is_none_or(|b| b.invariant != name) }
        vec![
            Property::always(INVARIANTS[0], |_, s: &World| holds(INVARIANTS[0], s)),
            Property::always(INVARIANTS[1], |_, s: &World| holds(INVARIANTS[1], s)),
            Property::always(INVARIANTS[2], |_, s: &World| holds(INVARIANTS[2], s)),
            Property::always(INVARIANTS[3], |_, s: &World| holds(INVARIANTS[3], s)),
            Property::always(INVARIANTS[4], |_, s: &World| holds(INVARIANTS[4], s)),
        ]
    }
}
