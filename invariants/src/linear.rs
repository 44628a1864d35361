//! Linearizability: is there one order of all calls to an object that fits every answer, and in which a call that had returned comes before one that was
//! made later?
//!
//! The search is Wing and Gong's with Lowe's two improvements: it walks the history forward, and of the configurations (state, calls that took effect
//! before they returned) it keeps a *set*, so that equal ones are looked at once; a call takes effect as late as it can. At a quiescent point, where no
//! call is open, the set holds nothing but states, mostly one. Objects are checked apart (a history is linearizable if that of each object is), so the
//! work grows with the number of calls and with how many are open at a time, not with 2^calls.
//!
//! Calls whose outcome is not known (no answer, or one that says nothing) may take effect at any time after they were made, or never. They stay open to
//! the end of the history, which is what makes other checkers slow: `stateright`'s tester (recursive, without a memory of configurations) and
//! `todc-utils`' want histories in which all calls return, or try every subset of those that did not. Here an object is a register: a call
//! either reads it whole or writes it whole. So an open write needs to be tried only right before a call that the state cannot explain; everywhere else it
//! would be overwritten unseen. That, and a few hundred lines without a dependency, is why this code is our own.
//!
//! Two shortcuts keep crowds cheap and lose nothing: a read that fits the state takes effect at once, since it changes nothing; and of equal calls that are
//! open the one that returns first takes effect first, since they could change places.
//!
//! The work is bounded: a history that needs more is `Undecided`, which is counted and printed, and never taken for fine.

pub mod groups;
pub mod history;
pub mod monotone;
pub mod offsets;
pub mod settings;
pub mod topics;

pub use history::{History, Report};
use std::{collections::BTreeSet, fmt::Debug};

/// The object: what a call does to its state. Every operation either reads the state whole or writes it whole.
pub trait Model {
    type State: Clone + Ord + Debug;
    /// What was called and, if it is known, what was answered.
    type Op: Clone + PartialEq + Debug;
    fn start() -> Self::State;
    /// The state after the operation; None: in this state it cannot have happened.
    fn step(state: &Self::State, op: &Self::Op) -> Option<Self::State>;
    /// It changes nothing.
    fn reads(op: &Self::Op) -> bool;
    /// Whether a write, right before a call that was impossible, may be what makes it possible. Only saves work.
    fn explains(write: &Self::Op, call: &Self::Op) -> bool;
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It took effect, once, before this time.
    Returned(u64),
    /// It takes effect once at any time, or never.
    Unknown,
    /// It takes effect any number of times.
    Repeats,
}

/// One call to one object.
#[derive(Clone, Debug)]
pub struct Call<O> { pub op: O, pub invoked: u64, pub end: End }

/// What the search says.
#[derive(Clone, Debug, PartialEq)]
pub enum Checked {
    Linearizable,
    /// The call (its number in the history) that no order explains, and a sentence.
    Not { call: usize, why: String },
    /// So many steps were not enough.
    Undecided,
}

/// More steps than this for one object are not done.
pub const STEPS: usize = 200_000;

/// A configuration: the state, which of the open calls that will return have taken effect, and which of the unknown ones.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Config<S> { state: S, done: Vec<u32>, used: Vec<u32> }

/// Checks one object's history. Calls may be in any order; two that touch at one instant overlap.
pub fn check<M: Model>(calls: &[Call<M::Op>], steps: usize) -> Checked {
    // At one time invocations come first: calls that touch overlap.
    let mut events: Vec<(u64, bool, u32)> = Vec::new();
    for (n, c) in calls.iter().enumerate() {
        let answered = matches!(c.end, End::Returned(_));
        // A read without an answer says nothing.
        if answered || !M::reads(&c.op) { events.push((c.invoked, false, n as u32)); }
        if let End::Returned(at) = c.end { events.push((at.max(c.invoked), true, n as u32)); }
    }
    events.sort_unstable();
    let mut search = Search::<M> { calls, open: BTreeSet::new(), unknown: Vec::new(), left: steps };
    let mut configs = BTreeSet::from([Config { state: M::start(), done: Vec::new(), used: Vec::new() }]);
    for (_, returns, n) in events {
        match (returns, calls[n as usize].end) {
            (false, End::Returned(_)) => { search.open.insert(n); }
            (false, _) => search.unknown.push(n),
            (true, _) => {
                let Some(next) = search.returned(&configs, n) else { return Checked::Undecided };
                if next.is_empty() { return Checked::Not { call: n as usize, why: search.told(&configs, n) } }
                search.open.remove(&n);
                configs = next;
            }
        }
    }
    Checked::Linearizable
}

struct Search<'a, M: Model> {
    calls: &'a [Call<M::Op>],
    /// Called, and will return later.
    open: BTreeSet<u32>,
    /// Called, and nobody knows what became of it.
    unknown: Vec<u32>,
    left: usize,
}

impl<M: Model> Search<'_, M> {
    /// All configurations after the return of call `n`: it has taken effect by now, after any of the others that are open. None: too much work.
    fn returned(&mut self, configs: &BTreeSet<Config<M::State>>, n: u32) -> Option<BTreeSet<Config<M::State>>> {
        let (mut after, mut seen, mut todo) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        todo.extend(configs.iter().cloned());
        while let Some(c) = todo.pop() {
            self.left = self.left.checked_sub(1)?;
            if let Ok(at) = c.done.binary_search(&n) {
                let mut c = c;
                c.done.remove(at);
                after.insert(c);
                continue;
            }
            if !seen.insert(c.clone()) { continue; }
            let open: Vec<u32> = self.open.iter().copied().filter(|k| c.done.binary_search(k).is_err()).collect();
            let calls = self.calls;
            let op = |k: u32| &calls[k as usize].op;
            let fit: Vec<u32> = open.iter().copied().filter(|k| M::reads(op(*k)) && M::step(&c.state, op(*k)).is_some()).collect();
            if !fit.is_empty() {
                let mut done = [c.done, fit].concat();
                done.sort_unstable();
                todo.push(Config { done, ..c });
                continue;
            }
            let end = |k: u32| if let End::Returned(at) = calls[k as usize].end { (at, k) } else { (u64::MAX, k) };
            // The call that returns now is the first of its kind to return, whatever the numbers say.
            let waits = |k: u32| k != n && open.iter().any(|o| *o != k && op(*o) == op(k) && (*o == n || end(*o) < end(k)));
            for k in open.iter().copied().filter(|k| !waits(*k)) { self.take(&c, k, &mut todo)?; }
        }
        Some(after)
    }

    /// The configurations in which call `k` takes effect next: at once, or, if the state does not explain it, right after an unknown write, or after two of
    /// which the first makes the second possible. None: too much work.
    fn take(&mut self, c: &Config<M::State>, k: u32, todo: &mut Vec<Config<M::State>>) -> Option<()> {
        let calls = self.calls;
        let op = |n: u32| &calls[n as usize].op;
        let mut push = |state: M::State, taken: &[u32]| {
            let (mut done, mut used) = (c.done.clone(), c.used.clone());
            if let Err(at) = done.binary_search(&k) { done.insert(at, k); }
            for u in taken.iter().filter(|u| calls[**u as usize].end == End::Unknown) {
                if let Err(at) = used.binary_search(u) { used.insert(at, *u); }
            }
            todo.push(Config { state, done, used });
        };
        if let Some(state) = M::step(&c.state, op(k)) {
            push(state, &[]);
            return Some(());
        }
        let free = |u: &u32| c.used.binary_search(u).is_err();
        let unknown = &self.unknown;
        let mut left = self.left.checked_sub(unknown.len() / 64)?;
        for w in unknown.iter().copied().filter(|w| M::explains(op(*w), op(k)) && free(w)) {
            left = left.checked_sub(1)?;
            if let Some(s) = M::step(&c.state, op(w)) {
                if let Some(state) = M::step(&s, op(k)) { push(state, &[w]); }
                continue;
            }
            for u in unknown.iter().copied().filter(|u| M::explains(op(*u), op(w)) && free(u)) {
                left = left.checked_sub(1)?;
                let both = M::step(&c.state, op(u)).and_then(|s| M::step(&s, op(w))).and_then(|s| M::step(&s, op(k)));
                if let Some(state) = both { push(state, &[u, w]); }
            }
        }
        self.left = left;
        Some(())
    }

    fn told(&self, configs: &BTreeSet<Config<M::State>>, n: u32) -> String {
        let states: BTreeSet<String> = configs.iter().take(4).map(|c| format!("{:?}", c.state)).collect();
        let others: Vec<String> = self.open.iter().filter(|k| **k != n).take(6).map(|k| format!("{:?}", self.calls[*k as usize].op)).collect();
        let unknown: Vec<String> = self.unknown.iter().rev().take(6).map(|k| format!("{:?}", self.calls[*k as usize].op)).collect();
        let c = &self.calls[n as usize];
        let end = if let End::Returned(at) = c.end { at } else { 0 };
        format!("no order explains {:?} (called at {}, answered at {}): before it the state is {}; others open: [{}]; of unknown outcome, newest first: [{}]", c.op, seconds(c.invoked), seconds(end), states.into_iter().collect::<Vec<_>>().join(" or "), others.join(", "), unknown.join(", "))
    }
}

fn seconds(ns: u64) -> String { format!("{:.3} s", ns as f64 / 1e9) }

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
