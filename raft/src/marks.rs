//! What a node's disk has been seen to hold, remembered by its peers (`safety.md` 22).
//!
//! A data folder that was put back from an old copy has forgotten votes and entries, and does not know it. Its peers do: at every connection, and every
//! second after, each side states what is durable in its folder, and who saw more from that folder refuses it. A term never falls, and an entry that
//! was durable and known to be committed never goes; of entries beyond that nothing is concluded, because a new leader may cut them off.
//! The memory is that of the running processes: it is of use as long as one of the peers stayed up.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::api::{GroupNo, NodeId};
use crate::checkpoint::Failure;
use crate::cut::Ident;
use crate::types::{decode, encode};
use crate::writer::LogWriter;

/// What is durable of one group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub term: u64,
    /// The last entry, and the last of those that are known to be committed.
    pub last: u64,
    pub kept: u64,
}

#[derive(Serialize, Deserialize)]
struct Statement {
    folder: Ident,
    marks: BTreeMap<GroupNo, Mark>,
}

type Seen = BTreeMap<(NodeId, Ident), BTreeMap<GroupNo, Mark>>;

/// States this node's marks and remembers those of others. Clones share the memory.
#[derive(Clone)]
pub struct Marks {
    folder: Ident,
    writer: LogWriter,
    seen: Arc<Mutex<Seen>>,
    failure: Arc<Failure>,
}

/// Whether the new marks of a folder can follow the old ones.
fn follows(old: &BTreeMap<GroupNo, Mark>, new: &BTreeMap<GroupNo, Mark>) -> Result<(), String> {
    for (group, old) in old {
        let new = new.get(group).copied().unwrap_or_default();
        if new.term < old.term {
            return Err(format!("group {group} is at term {}, and was at {} before", new.term, old.term));
        }
        if new.last < old.kept {
            return Err(format!("the log of group {group} ends with entry {}, and entry {} was on that disk before", new.last, old.kept));
        }
    }
    Ok(())
}

impl Marks {
    pub fn new(folder: Ident, writer: LogWriter, failure: Arc<Failure>) -> Marks {
        Marks { folder, writer, seen: Arc::default(), failure }
    }

    /// This node's statement.
    pub async fn state(&self) -> io::Result<Vec<u8>> {
        encode(&Statement { folder: self.folder, marks: self.writer.marks().await? })
    }

    /// Takes a peer's statement. An error is for the peer: it is refused.
    pub fn hear(&self, from: NodeId, statement: &[u8]) -> Result<(), String> {
        let Statement { folder, marks } = decode(statement).map_err(|e| format!("the statement cannot be read: {e}"))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let old = seen.entry((from, folder)).or_default();
        if let Err(what) = follows(old, &marks) {
            tracing::error!(node = from, what, "this node's folder was restored from an old copy: it is refused");
            return Err(format!("the data folder was restored from an old copy: {what}"));
        }
        for (group, new) in marks {
            let old = old.entry(group).or_default();
            (old.term, old.kept) = (new.term, old.kept.max(new.kept));
            old.last = new.last;
        }
        Ok(())
    }

    /// A peer refused this node.
    pub fn refused(&self, by: NodeId, why: &str) {
        self.failure.tell(format!("node {by} refuses this node: {why}. It must not vote again: remove it from the cluster and add it again under a new node id with an empty folder"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_and_a_committed_entry_never_go_but_a_tail_may() {
        let mark = |term, last, kept| BTreeMap::from([(1, Mark { term, last, kept })]);
        let old = mark(5, 100, 90);
        assert_eq!(follows(&old, &old), Ok(()));
        assert_eq!(follows(&old, &mark(6, 95, 90)), Ok(()), "a new leader cut the tail");
        assert_eq!(follows(&old, &mark(5, 90, 0)), Ok(()), "the committed position is stored late");
        assert!(follows(&old, &mark(4, 200, 200)).unwrap_err().contains("term 4"));
        assert!(follows(&old, &mark(7, 89, 80)).unwrap_err().contains("ends with entry 89"));
        assert!(follows(&old, &BTreeMap::new()).is_err(), "an emptied log");
        assert_eq!(follows(&BTreeMap::new(), &old), Ok(()));
    }
}
