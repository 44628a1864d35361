//! Whether a group exists, as an object: made by whoever joins first or commits from outside, deleted, looked for.

use super::Model;

/// A call, with its answer if it is a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Op { Make, Delete, Look { found: bool } }

/// The object; its state is whether the group is there.
pub struct Groups;
impl Model for Groups {
    type State = bool;
    type Op = Op;
    fn start() -> bool { false }
    fn step(s: &bool, op: &Op) -> Option<bool> {
        match op {
            Op::Make => Some(true),
            // What is not there cannot be deleted: that is answered with "unknown".
            Op::Delete => s.then_some(false),
            Op::Look { found } => (found == s).then_some(*s),
        }
    }
    fn reads(op: &Op) -> bool { matches!(op, Op::Look { .. }) }
    fn explains(write: &Op, call: &Op) -> bool {
        match call {
            Op::Look { found: false } => *write == Op::Delete,
            Op::Look { found: true } | Op::Delete => *write == Op::Make,
            Op::Make => false,
        }
    }
}
