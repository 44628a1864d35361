//! The register of fencing tokens that a sink keeps, and what it may never have to see.

use crate::{Broken, broken};
use std::{collections::BTreeMap, fmt::Debug};

/// The newest token of each place and whose it is.
#[derive(Clone, Debug)]
pub struct Sink<P: Ord>(BTreeMap<P, (u64, String)>);
impl<P: Ord> Default for Sink<P> { fn default() -> Self { Sink(BTreeMap::new()) } }

impl<P: Ord + Clone + Debug> Sink<P> {
    /// Somebody names its token before any work. Taken if it is the newest so far, or that one again; one token is never of two.
    pub fn register(&mut self, place: &P, token: u64, who: &str) -> Result<bool, Broken> {
        match self.0.get(place) {
            Some((t, w)) if *t == token && w != who => broken("fencing", format!("the sink of {place:?} is told token {token} by {who}, and it is {w}'s")),
            Some((t, _)) if *t > token => Ok(false),
            _ if token == 0 => Ok(false),
            _ => {
                self.0.insert(place.clone(), (token, who.into()));
                Ok(true)
            }
        }
    }
    /// A write is taken only under the token that was registered last, and only from the one who registered it.
    pub fn write(&self, place: &P, token: u64, who: &str) -> bool { self.0.get(place).is_some_and(|(t, w)| *t == token && w == who) }
    /// A write of somebody who conforms: it asked its guard at this very instant, and the guard said yes. The sink never refuses it.
    pub fn guarded(&mut self, place: &P, token: u64, who: &str) -> Result<(), Broken> {
        if self.register(place, token, who)? { return Ok(()) }
        let highest = self.highest(place);
        broken("fencing", format!("the sink of {place:?} refused {who}, who believes it owns it under {token}; it knows {highest}"))
    }
    /// The newest token of a place; 0: none yet.
    pub fn highest(&self, place: &P) -> u64 { self.0.get(place).map_or(0, |h| h.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_token_is_refused_and_a_conforming_owner_never() {
        let mut s = Sink::default();
        assert_eq!(s.register(&"t:0", 5, "a"), Ok(true));
        assert!(s.write(&"t:0", 5, "a") && !s.write(&"t:0", 5, "b") && !s.write(&"t:0", 6, "a") && !s.write(&"t:1", 5, "a"));
        assert_eq!(s.register(&"t:0", 7, "b"), Ok(true));
        assert_eq!(s.register(&"t:0", 5, "a"), Ok(false));
        assert!(!s.write(&"t:0", 5, "a"));
        assert!(s.guarded(&"t:0", 5, "a").is_err_and(|b| b.invariant == "fencing"));
        assert_eq!(s.guarded(&"t:0", 8, "a"), Ok(()));
        assert_eq!(s.highest(&"t:0"), 8);
    }

    #[test]
    fn one_token_of_two_fires() {
        let mut s = Sink::default();
        assert_eq!(s.register(&"t:0", 5, "a"), Ok(true));
        assert!(s.register(&"t:0", 5, "b").is_err_and(|b| b.invariant == "fencing"));
    }
}
