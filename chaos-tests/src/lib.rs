//! Evidence that a partition never has two owners. `core_sim` is the simulation of the protocol core (a crate of its own, so that it compiles in
//! seconds); `belief` judges what real worker processes believed. Never part of the product.

pub mod belief;
#[cfg(madsim)]
pub mod cluster;
pub mod processes;
pub use baton_core_sim as core_sim;
