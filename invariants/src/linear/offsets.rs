//! The committed offset of one partition of one group as an object. Commits of members carry a token and a sequence number; an administrator's need
//! neither. A deletion, of offsets, of the group or of the topic, is a call to each partition that it covers: that all of them go at one instant is not judged.

use super::Model;

/// What is committed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value { pub offset: i64, pub metadata: String }
impl Value { pub fn of(offset: i64) -> Value { Value { offset, metadata: String::new() } } }
impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { if self.metadata.is_empty() { write!(f, "{}", self.offset) } else { write!(f, "{} {:?}", self.offset, self.metadata) } }
}

/// A call, with its answer if it is a fetch.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// A member's.
    Commit { token: u64, seq: u64, value: Value },
    /// Somebody's who needs no token: an administrator, a Kafka member.
    Set { value: Value },
    Clear,
    Fetch { found: Option<Value> },
}

/// What is there, and the token and sequence of the newest commit of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct State { value: Option<Value>, token: u64, seq: u64 }

/// The object.
pub struct Offsets;
impl Model for Offsets {
    type State = State;
    type Op = Op;
    fn start() -> State { State::default() }
    fn step(s: &State, op: &Op) -> Option<State> {
        match op {
            // A commit under an earlier token than one that was accepted, or older under the same one, is never accepted.
            Op::Commit { token, seq, .. } if (*token, *seq) < (s.token, s.seq) => None,
            Op::Commit { token, seq, value } => Some(State { value: Some(value.clone()), token: *token, seq: *seq }),
            Op::Set { value } => Some(State { value: Some(value.clone()), token: s.token, seq: 0 }),
            // What is gone has no sequence any more; tokens are never used again.
            Op::Clear => Some(State { value: None, token: s.token, seq: 0 }),
            Op::Fetch { found } => (*found == s.value).then(|| s.clone()),
        }
    }
    fn reads(op: &Op) -> bool { matches!(op, Op::Fetch { .. }) }
    fn explains(write: &Op, call: &Op) -> bool {
        match (call, write) {
            (Op::Fetch { found: Some(found) }, Op::Commit { value, .. } | Op::Set { value }) => found == value,
            (Op::Fetch { found: Some(_) }, Op::Clear | Op::Fetch { .. }) => false,
            (Op::Fetch { found: None }, write) => *write == Op::Clear,
            // A commit that was too old for its sequence.
            (Op::Commit { .. } | Op::Set { .. } | Op::Clear, write) => matches!(write, Op::Set { .. } | Op::Clear),
        }
    }
}
