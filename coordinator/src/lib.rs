//! Baton's protocol core: `command` in; `record`s, `response`s and timers out.
//!
//! Pure: time and randomness are arguments; no I/O, no async, no clocks, no hash maps. `decide` reads state and writes records, `replay` alone
//! changes state, `reconcile` is the revoke-before-assign rule, `shard` is the object that a node drives, `invariants` has one function per invariant.

pub mod assign;
pub mod classic;
pub mod codes;
pub mod command;
pub mod config;
pub mod decide;
pub mod draft;
pub mod embedded;
pub mod ids;
pub mod invariants;
pub mod metadata;
pub mod partition_map;
pub mod reconcile;
pub mod record;
pub mod regexes;
pub mod replay;
pub mod seeded;
pub mod shard;
pub mod shared;
pub mod state;
pub mod timers;
pub mod work;
