//! Consensus on tokio, with a clock that counts suspended time (`safety.md` 9).
//!
//! A lease is judged by this clock: a leader whose machine slept must find its lease over, and a follower that slept its promise kept. The
//! usual monotonic clock stands still meanwhile. Timers are tokio's and are late by a sleep; what is decided when they fire goes by this clock.

use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant, OptionalSend};
use openraft_rt_tokio::TokioRuntime;

#[derive(Debug)]
pub struct BootRuntime(TokioRuntime);

/// Time since the machine was booted, sleep included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootInstant(Duration);

impl Add<Duration> for BootInstant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        BootInstant(self.0 + d)
    }
}
impl AddAssign<Duration> for BootInstant {
    fn add_assign(&mut self, d: Duration) {
        self.0 += d;
    }
}
impl Sub<Duration> for BootInstant {
    type Output = Self;
    /// Not below the boot: consensus asks for "long ago" on a machine that has just come up.
    fn sub(self, d: Duration) -> Self {
        BootInstant(self.0.saturating_sub(d))
    }
}
impl Sub for BootInstant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}
impl SubAssign<Duration> for BootInstant {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}
impl Instant for BootInstant {
    fn now() -> Self {
        let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the pointer is to a live timespec that the call only writes.
        let rc = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
        // It can fail only on a kernel without this clock, and then at the very first call.
        assert_eq!(rc, 0, "this kernel has no CLOCK_BOOTTIME: leases cannot be kept");
        BootInstant(Duration::new(t.tv_sec as u64, t.tv_nsec as u32))
    }
}

/// Every group of a process has its own ticks, and each tick by itself wakes the process. Those that are not due at once come at multiples of this, together.
const STEP: Duration = Duration::from_millis(20);

/// The first step at or after `t`, unless `t` is nearer than a step.
fn in_step(t: BootInstant, now: BootInstant) -> BootInstant {
    if t - now < STEP / 2 {
        return t;
    }
    let over = t.0.as_nanos() % STEP.as_nanos();
    if over == 0 { t } else { t + (STEP - Duration::from_nanos(over as u64)) }
}

impl AsyncRuntime for BootRuntime {
    type JoinError = tokio::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = tokio::task::JoinHandle<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = BootInstant;
    type TimeoutError = tokio::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = tokio::time::Timeout<T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = openraft_rt_tokio::TokioMpsc;
    type Watch = openraft_rt_tokio::TokioWatch;
    type Oneshot = openraft_rt_tokio::TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = openraft_rt_tokio::TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        TokioRuntime::spawn(future)
    }
    fn sleep(d: Duration) -> Self::Sleep {
        TokioRuntime::sleep(d)
    }
    fn sleep_until(t: BootInstant) -> Self::Sleep {
        let now = BootInstant::now();
        TokioRuntime::sleep(in_step(t, now) - now)
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(d: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(d, future)
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(t: BootInstant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(t - BootInstant::now(), future)
    }
    fn is_panic(e: &Self::JoinError) -> bool {
        e.is_panic()
    }
    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }
    fn new(threads: usize) -> Self {
        BootRuntime(TokioRuntime::new(threads))
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
    fn spawn_blocking<F, T>(f: F) -> impl Future<Output = Result<T, io::Error>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let task = tokio::task::spawn_blocking(f);
        async { task.await.map_err(io::Error::other) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library's own suite of what a runtime must do.
    #[test]
    fn the_runtime_conforms() {
        openraft_rt::testing::Suite::<BootRuntime>::test_all();
    }

    #[test]
    fn ticks_of_many_groups_come_in_step_and_what_is_near_is_not_put_off() {
        let at = |ms: u64| BootInstant(Duration::from_millis(ms));
        assert_eq!([61, 70, 80, 81].map(|t| in_step(at(t), at(41))), [80, 80, 80, 100].map(at));
        assert_eq!([30, 41, 45, 50].map(|t| in_step(at(t), at(41))), [30, 41, 45, 50].map(at));
    }

    /// It is the clock that goes on in a sleep, not the one that does not.
    #[test]
    fn it_is_the_boot_clock() {
        let read = |clock| {
            let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the pointer is to a live timespec that the call only writes.
            assert_eq!(unsafe { libc::clock_gettime(clock, &mut t) }, 0);
            Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
        };
        let (before, now, after) = (read(libc::CLOCK_BOOTTIME), BootInstant::now(), read(libc::CLOCK_BOOTTIME));
        assert!(before <= now.0 && now.0 <= after);
        assert_eq!(BootInstant(Duration::from_secs(1)) - Duration::from_secs(5), BootInstant(Duration::ZERO));
    }
}
