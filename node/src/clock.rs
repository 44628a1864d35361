//! The clocks of a node. The core gets time as an argument; it is read here and nowhere else.
//!
//! Leases and sessions go by a clock that counts suspended time (`CLOCK_BOOTTIME`): a machine that slept must find its leases over.

use baton_coordinator::{ids::Millis, shard::Now};
use std::{fmt, sync::Arc};

/// Reads both clocks. Tests give their own.
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Fn() -> Now + Send + Sync>>);

impl Clock {
    /// The machine's clocks, or the simulated ones.
    pub fn system() -> Clock { Clock(None) }
    /// A clock of the caller's, such as one that drifts. `mono_ms` must never go back.
    pub fn custom(read: impl Fn() -> Now + Send + Sync + 'static) -> Clock { Clock(Some(Arc::new(read))) }
    /// Now.
    pub fn now(&self) -> Now { self.0.as_ref().map_or_else(|| Now { mono_ms: mono_ms(), wall_us: wall_us() }, |read| read()) }
    /// The clock of leases and sessions alone: half of the price.
    pub fn mono_ms(&self) -> Millis { self.0.as_ref().map_or_else(mono_ms, |read| read().mono_ms) }
}
impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("Clock") }
}

#[cfg(not(madsim))]
fn wall_us() -> u64 { std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX)) }

#[cfg(not(madsim))]
fn mono_ms() -> Millis {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec that the call only writes.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
    // It can fail only on a kernel without this clock, and then at the very first call.
    assert_eq!(rc, 0, "this kernel has no CLOCK_BOOTTIME: leases cannot be kept");
    t.tv_sec as u64 * 1_000 + t.tv_nsec as u64 / 1_000_000
}

// The clocks of the simulated host, which may drift and jump.
#[cfg(madsim)]
fn wall_us() -> u64 { baton_raft::faults::wall_us() }
#[cfg(madsim)]
fn mono_ms() -> Millis { baton_raft::faults::now_ns() / 1_000_000 }
