//! Evidence that a partition never has two owners. `core_sim` is the simulation of the protocol core (a crate of its own, so that it compiles in
//! seconds); `cluster` simulates whole nodes; `processes` runs real ones. All three feed the judges of `baton_invariants`. Never part of the product.

#[cfg(madsim)]
pub mod cluster;
pub mod processes;
pub use baton_core_sim as core_sim;
