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
#[derive(Clone, Debug, Default)]
pub struct Timers {
    deadlines: BTreeMap<Timer, Millis>,
    queue: BTreeSet<(Millis, Timer)>,
}

impl Timers {
    /// Sets or moves a timer.
    pub fn arm(&mut self, timer: Timer, at: Millis) {
        if let Some(old) = self.deadlines.insert(timer.clone(), at) {
            self.queue.remove(&(old, timer.clone()));
        }
        self.queue.insert((at, timer));
    }
    /// Forgets a timer.
    pub fn cancel(&mut self, timer: &Timer) {
        if let Some(at) = self.deadlines.remove(timer) {
            self.queue.remove(&(at, timer.clone()));
        }
    }
    /// Forgets every timer from `from` to `to`, both included.
    pub fn cancel_between(&mut self, from: Timer, to: Timer) {
        let gone: Vec<Timer> = self.deadlines.range(from..=to).map(|(t, _)| t.clone()).collect();
        gone.iter().for_each(|t| self.cancel(t));
    }
    /// When the last timer from `from` to `to`, both included and in the order of timers, is due.
    pub fn last_between(&self, from: &Timer, to: &Timer) -> Option<Millis> { self.deadlines.range(from..=to).next_back().map(|(_, at)| *at) }
    /// When a timer is due.
    pub fn deadline(&self, timer: &Timer) -> Option<Millis> { self.deadlines.get(timer).copied() }
    /// The next deadline of all.
    pub fn next(&self) -> Option<Millis> { self.queue.first().map(|(at, _)| *at) }
    /// All that are due, in the order in which they fire.
    pub fn due(&self, now: Millis) -> impl Iterator<Item = &(Millis, Timer)> { self.queue.iter().take_while(move |(at, _)| *at <= now) }
    /// Takes one timer that is due.
    pub fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        if self.next()? > now {
            return None;
        }
        let (_, timer) = self.queue.pop_first()?;
        self.deadlines.remove(&timer);
        Some(timer)
    }
    /// Moves every deadline later by `by` ms (a timer loop that was late).
    pub fn postpone(&mut self, by: Millis) {
        self.deadlines.values_mut().for_each(|at| *at += by);
        self.queue = self.deadlines.iter().map(|(t, at)| (*at, t.clone())).collect();
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
