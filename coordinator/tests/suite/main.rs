//! The core given–when–then, and over random inputs: one binary, because linking a dozen took longer than running them.
mod common;
mod assignors;
mod chosen;
mod classic;
mod classic_walks;
mod client_assignors;
mod consumer;
mod convert;
mod drains;
mod edges;
mod embedded;
mod exact;
mod handover;
mod members;
mod mixed_walks;
mod traps;
mod upkeep;
