//! The clock that leases run on: nanoseconds of CLOCK_BOOTTIME, which goes on while the machine sleeps and never jumps. One time line for all
//! processes of a machine. Simulations replace `clock_gettime`, so this is simulated time there.

/// Nanoseconds since some fixed moment.
pub type Nanos = u64;
/// Nanoseconds of a millisecond.
pub const MS: Nanos = 1_000_000;

#[cfg(madsim)]
thread_local! { static SOURCE: std::cell::Cell<Option<fn() -> Nanos>> = const { std::cell::Cell::new(None) }; }
/// The simulation's clock of the host that asks, which may drift from the others.
#[cfg(madsim)]
pub fn set_source(source: fn() -> Nanos) { SOURCE.set(Some(source)); }

/// Now.
pub fn now() -> Nanos {
    #[cfg(madsim)]
    if let Some(source) = SOURCE.get() { return source(); }
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid, writable timespec for the whole call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) } != 0;
    // Without the clock no deadline can be kept: the end of time makes every lease lapsed, which is the safe side.
    if failed { Nanos::MAX } else { t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64 }
}
