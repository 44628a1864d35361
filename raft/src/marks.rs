//! What a node's disk has been seen to hold, remembered by its peers (`safety.md` 22).
//!
//! A data folder that was put back from an old copy has forgotten votes and entries, and does not know it. Its peers do: at every connection, and every
//! second after, each side states what is durable in its folder, and who saw more from that folder refuses it. A term never falls, and an entry that
//! was durable and known to be committed never goes; of entries beyond that nothing is concluded, because a new leader may cut them off.
//! The memory is that of the running processes: it is of use as long as one of the peers stayed up.
//!
//! Statements overtake each other: there are several connections, and links that hold a message back. So only the statement of a handshake is judged,
//! which is no older than the handshake, and not one that the same process made before another that was heard already. All others only add to the memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use openraft::AsyncRuntime;
use rand_core::Rng;
use serde::{Deserialize, Serialize};

use crate::api::{GroupNo, NodeId};
use crate::checkpoint::Failure;
use crate::cut::Ident;
use crate::types::{decode, encode};
use crate::rt::Rt;
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
    /// Drawn at each start of the process.
    life: u64,
    number: u64,
    marks: BTreeMap<GroupNo, Mark>,
}

#[derive(Default)]
struct Folder {
    marks: BTreeMap<GroupNo, Mark>,
    /// The newest statement heard.
    life: u64,
    number: u64,
}

type Seen = BTreeMap<(NodeId, Ident), Folder>;

/// States this node's marks and remembers those of others. Clones share the memory.
#[derive(Clone)]
pub struct Marks {
    folder: Ident,
    life: u64,
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
        Marks { folder, life: Rt::thread_rng().next_u64(), writer, seen: Arc::default(), failure }
    }

    /// This node's statement.
    pub async fn state(&self) -> io::Result<Vec<u8>> {
        let (number, marks) = self.writer.marks().await?;
        encode(&Statement { folder: self.folder, life: self.life, number, marks })
    }

    /// Takes the statement of a peer's handshake. An error is for the peer: it is refused.
    pub fn judge(&self, from: NodeId, statement: &[u8]) -> Result<(), String> {
        let statement: Statement = decode(statement).map_err(|e| format!("the statement cannot be read: {e}"))?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.entry((from, statement.folder)).or_default().judge(statement).map_err(|what| {
            tracing::error!(node = from, what, "this node's folder was restored from an old copy: it is refused");
            format!("the data folder was restored from an old copy: {what}")
        })
    }

    /// Remembers what a peer says now and then.
    pub fn hear(&self, from: NodeId, statement: &[u8]) {
        // One that cannot be read is of another version, and that is found out in the handshake.
        if let Ok(statement) = decode::<Statement>(statement) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.entry((from, statement.folder)).or_default().remember(statement);
        }
    }

    /// A peer refused this node.
    pub fn refused(&self, by: NodeId, why: &str) {
        self.failure.tell(format!("node {by} refuses this node: {why}. It must not vote again: remove it from the cluster and add it again under a new node id with an empty folder"));
    }
}

impl Folder {
    fn judge(&mut self, s: Statement) -> Result<(), String> {
        // Made by the same process before one that overtook it: no news.
        let overtaken = s.life == self.life && s.number <= self.number;
        if !overtaken {
            follows(&self.marks, &s.marks)?;
        }
        if !overtaken {
            (self.life, self.number) = (s.life, s.number);
        }
        self.remember(s);
        Ok(())
    }

    /// What was true of the folder once adds up, in whatever order it is heard.
    fn remember(&mut self, s: Statement) {
        for (group, new) in s.marks {
            let old = self.marks.entry(group).or_default();
            *old = Mark { term: old.term.max(new.term), last: old.last.max(new.last), kept: old.kept.max(new.kept) };
        }
        if s.life == self.life {
            self.number = self.number.max(s.number);
        }
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

    #[test]
    fn a_statement_that_was_overtaken_proves_nothing() {
        let says = |life, number, term| Statement { folder: [0; 24], life, number, marks: BTreeMap::from([(1, Mark { term, last: 9, kept: 9 })]) };
        let mut folder = Folder::default();
        assert_eq!(folder.judge(says(7, 2, 4)), Ok(()));
        assert_eq!(folder.judge(says(7, 1, 3)), Ok(()), "of the same process, and older");
        folder.remember(says(7, 3, 5));
        assert!(folder.judge(says(7, 4, 4)).is_err(), "a process does not go back");
        assert!(folder.judge(says(8, 1, 4)).is_err(), "nor does a folder");
        assert_eq!(folder.judge(says(8, 2, 5)), Ok(()));
    }
}
