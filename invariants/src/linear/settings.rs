//! A setting as an object: written, read. What it is before anybody has written it is not judged.

use super::Model;

/// A call, with its answer if it is a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Op { Set(u64), Get { found: u64 } }

/// The object; its state is the value, if it is known.
pub struct Settings;
impl Model for Settings {
    type State = Option<u64>;
    type Op = Op;
    fn start() -> Option<u64> { None }
    fn step(s: &Option<u64>, op: &Op) -> Option<Option<u64>> {
        match op {
            Op::Set(value) => Some(Some(*value)),
            Op::Get { found } => s.is_none_or(|s| s == *found).then_some(*s),
        }
    }
    fn reads(op: &Op) -> bool { matches!(op, Op::Get { .. }) }
    fn explains(write: &Op, call: &Op) -> bool { matches!((write, call), (Op::Set(v), Op::Get { found }) if v == found) }
}
