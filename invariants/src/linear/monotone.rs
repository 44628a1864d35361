//! Answers to heartbeats: what a member is told never goes back. The object is a register that the coordinator moves forward on its own, so every call is
//! a read and no search is needed: a call that is made after another was answered must not show less.

use crate::{Verdict, broken};
use std::{collections::BTreeMap, fmt::Debug};

/// The greatest answer so far, by object: a member's (assignment revision, epoch), say.
#[derive(Clone, Debug)]
pub struct Monotone<K, V>(BTreeMap<K, V>);
impl<K, V> Default for Monotone<K, V> { fn default() -> Self { Monotone(BTreeMap::new()) } }

/// What had been answered when a question was asked.
#[derive(Clone, Debug)]
pub struct Floor<V>(Option<V>);
/// Of a question that is not judged.
impl<V> Default for Floor<V> { fn default() -> Self { Floor(None) } }

impl<K: Ord + Clone + Debug, V: Ord + Clone + Debug> Monotone<K, V> {
    /// A question is about to be asked.
    pub fn ask(&self, object: &K) -> Floor<V> { Floor(self.0.get(object).cloned()) }
    /// It was answered.
    pub fn answered(&mut self, object: &K, asked: &Floor<V>, found: V) -> Verdict {
        if asked.0.as_ref().is_some_and(|floor| found < *floor) {
            return broken("linearizable", format!("{object:?} is told {found:?}, and had been told {:?} before it asked", asked.0));
        }
        if self.0.get(object).is_none_or(|v| *v < found) { self.0.insert(object.clone(), found); }
        Ok(())
    }
    /// The object begins anew: a group was deleted.
    pub fn forget(&mut self, which: impl Fn(&K) -> bool) { self.0.retain(|k, _| !which(k)); }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_question_must_not_be_answered_with_less() {
        let mut m: Monotone<&str, u64> = Monotone::default();
        let (first, second) = (m.ask(&"m"), m.ask(&"m"));
        assert_eq!((m.answered(&"m", &second, 5), m.answered(&"m", &first, 3)), (Ok(()), Ok(())));
        let later = m.ask(&"m");
        assert_eq!(m.answered(&"m", &later, 5), Ok(()));
        assert!(m.answered(&"m", &later, 4).is_err_and(|b| b.invariant == "linearizable"));
        assert_eq!(m.answered(&"other", &m.ask(&"other"), 1), Ok(()));
        m.forget(|k| *k == "m");
        assert_eq!(m.answered(&"m", &m.ask(&"m"), 1), Ok(()));
    }
}
