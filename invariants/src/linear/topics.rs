//! A topic as an object: declared, grown, deleted, looked at.

use super::Model;

/// A call, with its answer if it is a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Op { Declare { partitions: i32 }, Delete, Get { found: Option<i32> } }

/// The object; its state is the number of partitions.
pub struct Topics;
impl Model for Topics {
    type State = Option<i32>;
    type Op = Op;
    fn start() -> Option<i32> { None }
    fn step(s: &Option<i32>, op: &Op) -> Option<Option<i32>> {
        match op {
            // A topic never shrinks: asked for fewer partitions, the declaration is refused.
            Op::Declare { partitions } if s.is_some_and(|have| have > *partitions) => None,
            Op::Declare { partitions } => Some(Some(*partitions)),
            Op::Delete => Some(None),
            Op::Get { found } => (found == s).then_some(*s),
        }
    }
    fn reads(op: &Op) -> bool { matches!(op, Op::Get { .. }) }
    fn explains(write: &Op, call: &Op) -> bool {
        match (call, write) {
            (Op::Get { found: Some(n) }, Op::Declare { partitions }) => n == partitions,
            (Op::Get { found: None } | Op::Declare { .. }, write) => *write == Op::Delete,
            (Op::Get { found: Some(_) } | Op::Delete, _) => false,
        }
    }
}
