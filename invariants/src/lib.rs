//! What must hold, and the judges that see when it does not. One library for every net: the simulation of the core, the simulated cluster and the runs
//! with real processes feed it with what they see, and none of them has rules of its own.
//!
//! `names` lists the invariants and says which net checks which; `state` judges applied state and records, `answers` what a member is told, `timers`
//! when something fires, `leaders` who leads and holds a lease, `belief` what members believed, `sink` the tokens that outside effects carry, `durable`
//! what was acknowledged, `linear` whether the calls to offsets and topics have an order; `records` judges a run of real processes as a whole. The judges look at what happened; never at how it came about, and they never mend.

pub mod answers;
pub mod belief;
mod causes;
pub mod durable;
pub mod leaders;
pub mod linear;
pub mod names;
pub mod records;
pub mod rules;
pub mod sink;
pub mod state;
pub mod timers;

use baton_coordinator::ids::{GroupId, Partition};
use std::fmt;

/// A broken invariant: its name and a sentence.
#[derive(Clone, Debug, PartialEq)]
pub struct Broken { pub invariant: &'static str, pub what: String }
impl fmt::Display for Broken { fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}: {}", self.invariant, self.what) } }
/// What every check gives.
pub type Verdict = Result<(), Broken>;

/// A broken invariant as a verdict. A name that `names` does not have is a mistake of the judge, and said at once.
pub fn broken<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Broken> {
    assert!(names::find(invariant).is_some(), "{invariant} is not in the list of invariants");
    Err(Broken { invariant, what: what.into() })
}

/// A partition of a group.
pub type Place = (GroupId, Partition);
