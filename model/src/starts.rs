//! The situations from which the walks begin, each reached by the shipped code itself: so the walks need not spend their depth on the way there.

use crate::{Bounds, Counters, world::*};

fn reach(bounds: Bounds, actions: &[Action]) -> World {
    let mut w = World::new(Bounds { ticks: u8::MAX, leader_changes: u8::MAX, leaves: u8::MAX, posts: u8::MAX, late_answers: u8::MAX, copies: u8::MAX });
    let n = Counters::default();
    for a in actions {
        w.take(a, &n);
    }
    w.left = bounds;
    w
}

/// From an empty group to one whose partitions are changing hands.
pub fn all(bounds: Bounds) -> Vec<World> {
    use Action::*;
    let pair = [Exchange(0), Exchange(1), Exchange(0), Settle(0), Exchange(0), Exchange(1)];
    let with = |more: &[Action]| pair.iter().cloned().chain(more.iter().cloned()).collect::<Vec<_>>();
    vec![
        reach(bounds, &[]),
        // One member has everything, a second has just joined.
        reach(bounds, &[Exchange(0), Exchange(1)]),
        // A copy of its join is still on its way.
        reach(bounds, &[Post(0), Deliver { letter: 0, copy: true }, Commit, Answer(0), Exchange(0), Exchange(1)]),
        // Two share; the third has just joined.
        reach(bounds, &with(&[])),
        reach(bounds, &with(&[Exchange(2)])),
        // A heartbeat of a member is late; the other has left, so that it has everything.
        reach(bounds, &with(&[Post(0), Leave(1), Exchange(0)])),
    ]
}
