//! The leader's soft state: when what is due. Derived from the replicated state, never in the log; only their effects are commands.

use crate::{decide::TimerCommand, ids::*};
use std::collections::{BTreeMap, BTreeSet};

/// One timer of one group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// Becomes a command when due.
    Command(GroupId, TimerCommand),
    /// A held heartbeat is answered when due.
    Wait(GroupId, MemberId),
}

/// All timers of a shard, by deadline.
///
/// A session is re-armed at each heartbeat and hardly ever runs out. So a timer that moves later keeps its place in the queue; when that comes up it is put
/// where it belongs by then. What is due is decided by deadlines alone.
#[derive(Clone, Debug, Default)]
pub struct Timers {
    deadlines: BTreeMap<Timer, Armed>,
    queue: BTreeSet<(Millis, Timer)>,
}
/// When a timer is due, and where in the queue it is: not later.
#[derive(Clone, Copy, Debug)]
struct Armed { at: Millis, queued: Millis }

impl Timers {
    /// Sets or moves a timer.
    pub fn arm(&mut self, timer: Timer, at: Millis) {
        match self.deadlines.get_mut(&timer) {
            Some(old) if old.queued <= at => return old.at = at,
            Some(old) => {
                self.queue.remove(&(old.queued, timer.clone()));
                *old = Armed { at, queued: at };
            }
            None => { self.deadlines.insert(timer.clone(), Armed { at, queued: at }); }
        }
        self.queue.insert((at, timer));
    }
    /// Forgets a timer.
    pub fn cancel(&mut self, timer: &Timer) {
        if let Some(old) = self.deadlines.remove(timer) {
            self.queue.remove(&(old.queued, timer.clone()));
        }
    }
    /// Forgets every timer from `from` to `to`, both included.
    pub fn cancel_between(&mut self, from: Timer, to: Timer) {
        let gone: Vec<Timer> = self.deadlines.range(from..=to).map(|(t, _)| t.clone()).collect();
        gone.iter().for_each(|t| self.cancel(t));
    }
    /// When the last timer from `from` to `to`, both included and in the order of timers, is due.
    pub fn last_between(&self, from: &Timer, to: &Timer) -> Option<Millis> { self.deadlines.range(from..=to).next_back().map(|(_, x)| x.at) }
    /// When a timer is due.
    pub fn deadline(&self, timer: &Timer) -> Option<Millis> { self.deadlines.get(timer).map(|x| x.at) }
    /// When to look again: not after the next deadline of all, and perhaps before it.
    pub fn next(&self) -> Option<Millis> { self.queue.first().map(|(at, _)| *at) }
    /// All that are due, in the order in which they fire.
    pub fn due(&self, now: Millis) -> impl Iterator<Item = (Millis, &Timer)> {
        let mut due: Vec<(Millis, &Timer)> = self.queue.iter().take_while(|(queued, _)| *queued <= now).filter_map(|(_, t)| self.deadline(t).filter(|at| *at <= now).map(|at| (at, t))).collect();
        due.sort_unstable();
        due.into_iter()
    }
    /// Takes one timer that is due.
    pub fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        while self.next()? <= now {
            let (queued, timer) = self.queue.pop_first()?;
            match self.deadlines.get_mut(&timer) {
                Some(x) if x.at > queued => {
                    x.queued = x.at;
                    self.queue.insert((x.at, timer));
                }
                _ => {
                    self.deadlines.remove(&timer);
                    return Some(timer);
                }
            }
        }
        None
    }
    /// Moves every deadline later by `by` ms (a timer loop that was late).
    pub fn postpone(&mut self, by: Millis) {
        for x in self.deadlines.values_mut() { *x = Armed { at: x.at + by, queued: x.at + by }; }
        self.queue = self.deadlines.iter().map(|(t, x)| (x.at, t.clone())).collect();
    }
    /// The timers of one group.
    pub fn of_group<'a>(&'a self, group: &'a GroupId) -> impl Iterator<Item = &'a Timer> {
        self.deadlines.keys().filter(move |t| match t {
            Timer::Command(g, _) | Timer::Wait(g, _) => g == group,
        })
    }
    /// Forgets all.
    pub fn clear(&mut self) {
        self.deadlines.clear();
        self.queue.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(m: &str) -> Timer { Timer::Command("g".into(), TimerCommand::ExpireSession { member: m.into() }) }

    #[test]
    fn a_timer_that_moved_fires_once_and_at_its_last_deadline() {
        let mut t = Timers::default();
        t.arm(session("a"), 10);
        t.arm(session("b"), 12);
        for at in [15, 40, 30] { t.arm(session("a"), at); } // later twice, then earlier than that
        assert_eq!(t.deadline(&session("a")), Some(30));
        assert_eq!(t.pop_due(11), None, "its old place in the queue is not its deadline");
        assert_eq!(t.due(12).collect::<Vec<_>>(), [(12, &session("b"))]);
        assert_eq!((t.pop_due(29), t.pop_due(29), t.next()), (Some(session("b")), None, Some(30)));
        t.arm(session("a"), 20);
        assert_eq!((t.pop_due(19), t.pop_due(20), t.pop_due(99), t.next()), (None, Some(session("a")), None, None));
    }

    #[test]
    fn a_timer_that_moved_is_cancelled_and_postponed_whole() {
        let mut t = Timers::default();
        t.arm(session("a"), 10);
        t.arm(session("a"), 20);
        t.postpone(5);
        assert_eq!((t.pop_due(24), t.deadline(&session("a"))), (None, Some(25)));
        t.arm(session("a"), 50);
        t.cancel(&session("a"));
        assert_eq!((t.pop_due(99), t.next()), (None, None));
    }

    #[test]
    fn all_that_are_due_are_named_in_the_order_in_which_they_fire() {
        let mut t = Timers::default();
        for (m, at) in [("a", 5), ("b", 4), ("c", 1)] { t.arm(session(m), at); }
        t.arm(session("b"), 9);
        let named: Vec<Timer> = t.due(9).map(|(_, x)| x.clone()).collect();
        assert_eq!(named, [session("c"), session("a"), session("b")]);
        assert_eq!(named, std::iter::from_fn(|| t.pop_due(9)).collect::<Vec<_>>());
    }
}
