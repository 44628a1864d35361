//! What a net writes down while it runs: who called what when, and what became of it. Checked object by object at the end.

use super::{Call, Checked, End, Model, STEPS, check};
use crate::{Broken, Verdict, broken};
use std::{collections::BTreeMap, fmt::Debug, ops::AddAssign};

/// Whether a call to many objects concerns this one.
type Which<K> = Box<dyn Fn(&K) -> bool + Send>;
enum Over<K> { One(K), All(Which<K>) }

/// The calls of a run to objects that are named by `K`. Times are stamps of one clock, or numbers that grow with every event.
pub struct History<K, M: Model> { calls: Vec<(Over<K>, Call<M::Op>, bool)> }
impl<K, M: Model> Default for History<K, M> { fn default() -> Self { History { calls: Vec::new() } } }

/// A call, to say later what became of it. Until then its outcome is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallId(usize);

impl<K: Ord + Clone + Debug, M: Model> History<K, M> {
    /// A call is made.
    pub fn called(&mut self, at: u64, object: K, op: M::Op) -> CallId { self.push(Over::One(object), at, op) }
    /// One that concerns every object that `which` names, each for itself.
    pub fn called_for_all(&mut self, at: u64, which: impl Fn(&K) -> bool + Send + 'static, op: M::Op) -> CallId { self.push(Over::All(Box::new(which)), at, op) }
    fn push(&mut self, over: Over<K>, invoked: u64, op: M::Op) -> CallId {
        self.calls.push((over, Call { op, invoked, end: End::Unknown }, true));
        CallId(self.calls.len() - 1)
    }
    /// It was answered: it took effect.
    pub fn returned(&mut self, call: CallId, at: u64) { self.calls[call.0].1.end = End::Returned(at); }
    /// It was answered with something that only now can be said.
    pub fn answered(&mut self, call: CallId, at: u64, op: M::Op) {
        self.calls[call.0].1.op = op;
        self.returned(call, at);
    }
    /// It was refused for good: it had no effect.
    pub fn refused(&mut self, call: CallId) { self.calls[call.0].2 = false; }
    /// It may take effect again and again.
    pub fn repeats(&mut self, call: CallId) { self.calls[call.0].1.end = End::Repeats; }

    /// Judges all objects.
    pub fn check(&self) -> (Report, Verdict) { self.check_within(STEPS) }
    /// With a bound on the work for one object.
    pub fn check_within(&self, steps: usize) -> (Report, Verdict) {
        let counted = || self.calls.iter().filter(|c| c.2);
        let mut by: BTreeMap<&K, Vec<Call<M::Op>>> = BTreeMap::new();
        for (over, ..) in counted() {
            if let Over::One(k) = over { by.entry(k).or_default(); }
        }
        let mut report = Report::default();
        let mut found: Option<Broken> = None;
        let objects: Vec<&K> = by.keys().copied().collect();
        for (over, call, _) in counted() {
            match over {
                Over::One(k) => by.entry(k).or_default().push(call.clone()),
                Over::All(which) => objects.iter().filter(|k| which(k)).for_each(|k| by.entry(k).or_default().push(call.clone())),
            }
        }
        for (object, calls) in by {
            report.objects += 1;
            report.calls += calls.len();
            report.unknown += calls.iter().filter(|c| !matches!(c.end, End::Returned(_))).count();
            match check::<M>(&calls, steps) {
                Checked::Linearizable => {}
                Checked::Undecided => report.undecided.push(format!("{object:?}, {} calls", calls.len())),
                Checked::Not { call, why } => {
                    let at = if let End::Returned(at) = calls[call].end { at } else { calls[call].invoked };
                    if report.broke.is_none_or(|b| at < b) {
                        report.broke = Some(at);
                        found = Some(Broken { invariant: "linearizable", what: format!("{object:?}: {why}") });
                    }
                }
            }
        }
        (report, found.map_or(Ok(()), |b| broken(b.invariant, b.what)))
    }
}

/// How much a check looked at.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub objects: usize,
    pub calls: usize,
    /// Of them, those whose outcome is not known.
    pub unknown: usize,
    /// Objects for which the work was not enough: nothing is known of them.
    pub undecided: Vec<String>,
    /// When the first call was answered that no order explains.
    pub broke: Option<u64>,
}
impl AddAssign for Report {
    fn add_assign(&mut self, other: Report) {
        self.objects += other.objects;
        self.calls += other.calls;
        self.unknown += other.unknown;
        self.undecided.extend(other.undecided);
        self.broke = self.broke.into_iter().chain(other.broke).min();
    }
}
impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} objects, {} calls, {} of them of unknown outcome, {} objects undecided", self.objects, self.calls, self.unknown, self.undecided.len())?;
        if self.undecided.is_empty() { Ok(()) } else { write!(f, ": {}", self.undecided.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::offsets::{Offsets, Op, Value}, *};

    fn set(token: u64, seq: u64, n: i64) -> Op { Op::Commit { token, seq, value: Value::of(n) } }

    #[test]
    fn objects_are_judged_apart_and_a_call_for_all_counts_for_each() {
        let mut h: History<&str, Offsets> = History::default();
        for (at, place) in [(1, "a"), (2, "b")] {
            let call = h.called(at * 10, place, set(1, 1, 7));
            h.returned(call, at * 10 + 1);
        }
        let gone = h.called_for_all(30, |k| *k == "b", Op::Clear);
        h.returned(gone, 31);
        let refused = h.called(32, "a", set(1, 2, 9));
        h.refused(refused);
        for (place, found) in [("a", Some(Value::of(7))), ("b", None)] {
            let call = h.called(40, place, Op::Fetch { found: None });
            h.answered(call, 41, Op::Fetch { found });
        }
        let (report, verdict) = h.check();
        assert_eq!((verdict, report.objects, report.calls, report.unknown), (Ok(()), 2, 5, 0));
        let late = h.called(50, "b", Op::Fetch { found: None });
        h.answered(late, 51, Op::Fetch { found: Some(Value::of(7)) });
        assert!(h.check().1.is_err_and(|b| b.invariant == "linearizable" && b.what.contains("\"b\"")));
    }

    #[test]
    fn too_little_work_is_said() {
        let mut h: History<&str, Offsets> = History::default();
        for n in 0..4 { let call = h.called(0, "a", set(1, n, 1)); h.returned(call, 10); }
        let (report, verdict) = h.check_within(3);
        assert_eq!((report.undecided.len(), verdict), (1, Ok(())));
        assert!(report.to_string().ends_with("1 objects undecided: \"a\", 4 calls"), "{report}");
    }
}
