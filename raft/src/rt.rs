//! The async runtime that consensus runs on: tokio, or the simulator under `--cfg madsim`.
//!
//! The alias is the only place where the two builds differ, apart from the log writer's thread.

#[cfg(not(madsim))]
pub type Rt = crate::boot_rt::BootRuntime;
#[cfg(madsim)]
pub type Rt = crate::sim_rt::SimRuntime;

/// Runs what blocks off the async threads. In the simulation, which has no threads, it runs at once.
pub async fn blocking<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> std::io::Result<T> {
    <Rt as openraft::AsyncRuntime>::spawn_blocking(f).await
}
