//! What a node keeps on disk: the Raft log (`wal`) over a synchronous `Disk`, and the materialised state over a key-value trait (`kv`).
//! A simulated twin of each. Bytes and indexes only; nothing here knows what a group of members is.

mod disk;
mod kv;
// One source for the three crates that have switches; each has its own copy of the switch.
#[doc(hidden)]
#[path = "../../coordinator/src/seeded.rs"]
pub mod seeded;
mod sim;
pub mod wal;

pub use disk::{Disk, DiskFile, RealDisk, RealFile};
pub use kv::{Kv, KvHome, KvOp, Pair, SimKv, SledHome, SledKv, Visitor};
pub use sim::{Crash, SimDisk, SimFile};
