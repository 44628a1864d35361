//! Consensus on the simulator: task, time and randomness come from the seed of the run.
//!
//! Compiled only under `--cfg madsim`. No OS threads here, and no channel whose wake-up order depends on anything but
//! the order of arrival.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use openraft_rt::{AsyncRuntime, Instant, OptionalSend, OptionalSync, watch};

use crate::faults;

#[derive(Debug)]
pub struct SimRuntime;

/// Nanoseconds that the simulated host's monotonic clock shows; it may drift from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(i128);

impl Add<Duration> for SimInstant {
    type Output = Self;
    fn add(self, d: Duration) -> Self {
        Self(self.0 + d.as_nanos() as i128)
    }
}
impl Sub<Duration> for SimInstant {
    type Output = Self;
    fn sub(self, d: Duration) -> Self {
        Self(self.0 - d.as_nanos() as i128)
    }
}
impl Sub for SimInstant {
    type Output = Duration;
    fn sub(self, other: Self) -> Duration {
        Duration::from_nanos((self.0 - other.0).max(0) as u64)
    }
}
impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, d: Duration) {
        *self = *self + d;
    }
}
impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, d: Duration) {
        *self = *self - d;
    }
}
impl Instant for SimInstant {
    fn now() -> Self {
        Self(i128::from(faults::now_ns()))
    }
}

/// A sleep by the host's own clock. It asks for its wake-up once: the simulator's own sleep does at every look, which fills its
/// queue with wake-ups that nobody needs any more.
pub struct SimSleep {
    inner: madsim::time::Sleep,
    asked: Option<Waker>,
}

impl SimSleep {
    fn new(d: Duration) -> SimSleep {
        SimSleep { inner: madsim::time::sleep(faults::until(d)), asked: None }
    }
}

impl Future for SimSleep {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.inner.is_elapsed() {
            return Poll::Ready(());
        }
        if !self.asked.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            self.asked = Some(cx.waker().clone());
            return Pin::new(&mut self.inner).poll(cx);
        }
        Poll::Pending
    }
}

/// The run's generator, which speaks an older version of the random number traits.
pub struct SimRng(madsim::rand::GlobalRng);

impl rand_core::TryRng for SimRng {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(madsim::rand::RngCore::next_u32(&mut self.0))
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(madsim::rand::RngCore::next_u64(&mut self.0))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        madsim::rand::RngCore::fill_bytes(&mut self.0, bytes);
        Ok(())
    }
}

impl AsyncRuntime for SimRuntime {
    type JoinError = madsim::task::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = madsim::task::JoinHandle<T>;
    type Sleep = SimSleep;
    type Instant = SimInstant;
    type TimeoutError = madsim::time::error::Elapsed;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = SimTimeout<T>;
    type ThreadLocalRng = SimRng;
    type Mpsc = openraft_rt_tokio::TokioMpsc;
    type Watch = SimWatch;
    type Oneshot = openraft_rt_tokio::TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = openraft_rt_tokio::TokioMutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        madsim::task::spawn(future)
    }
    fn sleep(d: Duration) -> Self::Sleep {
        SimSleep::new(d)
    }
    fn sleep_until(t: SimInstant) -> Self::Sleep {
        SimSleep::new(t - SimInstant::now())
    }
    fn timeout<R, F: Future<Output = R> + OptionalSend>(d: Duration, future: F) -> SimTimeout<F> {
        SimTimeout { future, sleep: SimSleep::new(d) }
    }
    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(t: SimInstant, future: F) -> SimTimeout<F> {
        SimTimeout { future, sleep: SimSleep::new(t - SimInstant::now()) }
    }
    fn is_panic(e: &Self::JoinError) -> bool {
        e.is_panic()
    }
    fn thread_rng() -> SimRng {
        SimRng(madsim::rand::thread_rng())
    }
    fn new(_threads: usize) -> Self {
        SimRuntime
    }
    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        madsim::runtime::Runtime::new().block_on(future)
    }
    /// Inline: the simulation has no threads.
    async fn spawn_blocking<F, T>(f: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(f())
    }
}

/// The simulator's own timeout is an async function, whose future has no name to use as an associated type.
pub struct SimTimeout<F> {
    future: F,
    sleep: SimSleep,
}

impl<F: Future> Future for SimTimeout<F> {
    type Output = Result<F::Output, madsim::time::error::Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // SAFETY: `future` is pinned with `self` and never moved out of it; `sleep` may be moved.
        let (future, sleep) = unsafe {
            let this = self.get_unchecked_mut();
            (Pin::new_unchecked(&mut this.future), Pin::new(&mut this.sleep))
        };
        if let Poll::Ready(value) = future.poll(cx) {
            return Poll::Ready(Ok(value));
        }
        sleep.poll(cx).map(|()| Err(madsim::time::error::Elapsed))
    }
}

/// A watch channel that wakes in the order of arrival. The one of tokio chooses among queues by a generator whose seed
/// comes from a process-wide counter, so that a second run in the same process would differ.
pub struct SimWatch;

struct Channel<T> {
    value: RwLock<T>,
    version: AtomicU64,
    senders: AtomicUsize,
    waiting: Mutex<Vec<Waker>>,
}

impl<T> Channel<T> {
    fn read(&self) -> RwLockReadGuard<'_, T> {
        self.value.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn publish(&self) {
        self.version.fetch_add(1, SeqCst);
        self.wake();
    }
    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }
}

pub struct SimSender<T>(Arc<Channel<T>>);
/// The number is the last version seen.
pub struct SimReceiver<T>(Arc<Channel<T>>, u64);

impl<T> Clone for SimSender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, SeqCst);
        SimSender(self.0.clone())
    }
}
impl<T> Drop for SimSender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, SeqCst) == 1 {
            self.0.wake();
        }
    }
}
impl<T> Clone for SimReceiver<T> {
    fn clone(&self) -> Self {
        SimReceiver(self.0.clone(), self.1)
    }
}

impl watch::Watch for SimWatch {
    type Sender<T: OptionalSend + OptionalSync> = SimSender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = SimReceiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = RwLockReadGuard<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (SimSender<T>, SimReceiver<T>) {
        let channel = Channel { value: RwLock::new(init), version: AtomicU64::new(0), senders: AtomicUsize::new(1), waiting: Mutex::new(Vec::new()) };
        let channel = Arc::new(channel);
        (SimSender(channel.clone()), SimReceiver(channel, 0))
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<SimWatch, T> for SimSender<T> {
    fn send(&self, value: T) -> Result<(), watch::SendError<T>> {
        // Every reference that is not a sender is a receiver.
        if Arc::strong_count(&self.0) <= self.0.senders.load(SeqCst) {
            return Err(watch::SendError(value));
        }
        *self.0.value.write().unwrap_or_else(PoisonError::into_inner) = value;
        self.0.publish();
        Ok(())
    }
    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = modify(&mut self.0.value.write().unwrap_or_else(PoisonError::into_inner));
        if modified {
            self.0.publish();
        }
        modified
    }
    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }
    fn subscribe(&self) -> SimReceiver<T> {
        SimReceiver(self.0.clone(), self.0.version.load(SeqCst))
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<SimWatch, T> for SimReceiver<T> {
    async fn changed(&mut self) -> Result<(), watch::RecvError> {
        std::future::poll_fn(|cx| {
            let version = self.0.version.load(SeqCst);
            if version != self.1 {
                self.1 = version;
                return Poll::Ready(Ok(()));
            }
            if self.0.senders.load(SeqCst) == 0 {
                return Poll::Ready(Err(watch::RecvError(())));
            }
            let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if !waiting.iter().any(|w| w.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
    fn borrow_watched(&self) -> RwLockReadGuard<'_, T> {
        self.0.read()
    }
    fn borrow_and_update(&mut self) -> RwLockReadGuard<'_, T> {
        let value = self.0.read();
        self.1 = self.0.version.load(SeqCst);
        value
    }
}
