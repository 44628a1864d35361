//! Named points of the code where a simulation can stop a node (`faults`). In any other build they are nothing at all.

/// A named point of a task's code, for the simulation. Nothing in any other build.
#[macro_export]
macro_rules! failpoint {
    ($point:literal, $group:expr) => {
        #[cfg(madsim)]
        $crate::faults::pass($point, $group).await;
    };
}
/// The same in code that does not wait.
#[macro_export]
macro_rules! failpoint_sync {
    ($point:literal, $group:expr) => {
        #[cfg(madsim)]
        $crate::faults::reach($point, $group);
    };
}
