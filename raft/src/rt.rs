//! The async runtime that consensus runs on: tokio, or the simulator under `--cfg madsim`.
//!
//! The alias is the only place where the two builds differ, apart from the log writer's thread.

#[cfg(not(madsim))]
pub type Rt = openraft_rt_tokio::TokioRuntime;
#[cfg(madsim)]
pub type Rt = crate::sim_rt::SimRuntime;
