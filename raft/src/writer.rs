//! The one writer of the process's log: it commits everything that waits in one frame and one sync, then reports to all of it.
//!
//! It never goes on after a failed write: it answers every later record with the error, and consensus stops. A full disk is no failure:
//! entries wait, in order, until there is room; votes and purges go past them, because they are small and because a purge makes room.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_storage::Disk;
use baton_storage::wal::{Rec, Wal};
use openraft::storage::IOFlushed;
use tokio::sync::{Notify, oneshot};

use crate::api::GroupNo;
use crate::checkpoint::Failure;
use crate::log::mark;
use crate::marks::Mark;
use crate::types::TypeConfig;

/// One commit takes so many bytes of entries; the rest waits for the next.
const COMMIT_BYTES: usize = 4 << 20;
/// How fast the next segment is made when there is nothing else to do, and how often a full disk is tried.
const IDLE: Duration = Duration::from_millis(20);
const FULL: Duration = Duration::from_millis(500);
const PIECE: usize = 1 << 20;
/// So many segments beyond those that a group may keep, and new entries are held up.
const CROWDED: u64 = 4;
const ROOM_WITHIN_MS: u64 = 600;
const ROOM_EVERY_MS: u64 = 10;

/// Who waits for a record to be durable.
pub enum Done {
    Nobody,
    Append(IOFlushed<TypeConfig>),
    Reply(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, result: &Result<(), (io::ErrorKind, String)>) {
        let result = result.clone().map_err(|(kind, text)| io::Error::new(kind, text));
        match self {
            Done::Nobody => {}
            Done::Append(callback) => callback.io_completed(result),
            // A dropped receiver has shut down: nobody to tell.
            Done::Reply(tx) => drop(tx.send(result)),
        }
    }
}

struct Write {
    group: GroupNo,
    recs: Vec<Rec>,
    done: Done,
}

impl Write {
    fn bytes(&self) -> usize {
        self.recs.iter().map(|r| if let Rec::Entry { body, .. } | Rec::Meta { body, .. } = r { body.len() } else { 0 }).sum()
    }
}

/// Marks, and how many were asked for before: their order.
type Numbered = (u64, BTreeMap<GroupNo, Mark>);

enum Job {
    Write(Write),
    /// Asks what is durable.
    Marks(oneshot::Sender<io::Result<Numbered>>),
    /// Ends the writer and drops the log, so that its files can be opened again.
    Stop(oneshot::Sender<()>),
}

/// How the log does, for those who keep it small and for the metrics.
#[derive(Default)]
pub struct Health {
    full: AtomicBool,
    bytes: AtomicU64,
    crowded: AtomicBool,
    /// Groups that keep more old segments than they may.
    pinning: Mutex<BTreeSet<GroupNo>>,
    pub changed: Notify,
}

impl Health {
    /// The disk is full: no new entries should be brought.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }
    /// Bytes of the log on disk.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }
    /// Waits while the log is larger than it should be, until the snapshots that make it smaller are done; not for ever, because one of them may hang.
    pub async fn room(&self) {
        for _ in 0..ROOM_WITHIN_MS / ROOM_EVERY_MS {
            if !self.crowded.load(Ordering::Acquire) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(ROOM_EVERY_MS)).await;
        }
    }
    pub fn is_pinning(&self, group: GroupNo) -> bool {
        self.pinning.lock().unwrap_or_else(PoisonError::into_inner).contains(&group)
    }
}

/// Handle to the writer. Clones share it.
#[derive(Clone)]
pub struct LogWriter {
    #[cfg(not(madsim))]
    jobs: std::sync::mpsc::Sender<Job>,
    #[cfg(madsim)]
    jobs: tokio::sync::mpsc::UnboundedSender<Job>,
    health: Arc<Health>,
}

impl LogWriter {
    /// Starts the writer on its own OS thread: a sync blocks. A group may keep `pin_segments` segments before the current one.
    #[cfg(not(madsim))]
    pub fn start<D: Disk>(wal: Wal<D>, pin_segments: u64, failure: Arc<Failure>) -> io::Result<LogWriter> {
        use std::sync::mpsc::RecvTimeoutError;
        let (jobs, queue) = std::sync::mpsc::channel();
        let health = Arc::<Health>::default();
        let mut writer = Writer::new(wal, pin_segments, failure, health.clone());
        std::thread::Builder::new().name("baton-wal".into()).spawn(move || {
            loop {
                let first = match writer.patience() {
                    None => queue.recv().map_err(|_| RecvTimeoutError::Disconnected),
                    Some(d) => queue.recv_timeout(d),
                };
                let first = match first {
                    Err(RecvTimeoutError::Disconnected) => return,
                    Err(RecvTimeoutError::Timeout) => None,
                    Ok(job) => Some(job),
                };
                if writer.round(first, || queue.try_recv().ok()).is_break() {
                    return;
                }
            }
        })?;
        Ok(LogWriter { jobs, health })
    }

    /// Starts the writer as a task: the simulation has no threads, and a sync there is a short sleep.
    #[cfg(madsim)]
    pub fn start<D: Disk>(wal: Wal<D>, pin_segments: u64, failure: Arc<Failure>) -> io::Result<LogWriter> {
        use madsim::rand::Rng;
        let (jobs, mut queue) = tokio::sync::mpsc::unbounded_channel();
        let health = Arc::<Health>::default();
        let mut writer = Writer::new(wal, pin_segments, failure, health.clone());
        tokio::spawn(async move {
            loop {
                let first = match writer.patience() {
                    None => queue.recv().await,
                    Some(d) => match tokio::time::timeout(d, queue.recv()).await {
                        Ok(job) => job,
                        Err(_) => {
                            let _ = writer.round(None, || None);
                            continue;
                        }
                    },
                };
                let Some(first) = first else { return };
                let slow = madsim::rand::thread_rng().gen_bool(0.02);
                let us = if slow { madsim::rand::thread_rng().gen_range(5_000..60_000) } else { madsim::rand::thread_rng().gen_range(200..3_000) };
                tokio::time::sleep(Duration::from_micros(us) + crate::faults::slow_disk()).await;
                if writer.round(Some(first), || queue.try_recv().ok()).is_break() {
                    return;
                }
            }
        });
        Ok(LogWriter { jobs, health })
    }

    /// Hands over records of one group. Without records it waits for what was handed over before.
    pub fn submit(&self, group: GroupNo, recs: Vec<Rec>, done: Done) -> io::Result<()> {
        self.jobs.send(Job::Write(Write { group, recs, done })).map_err(|_| stopped())
    }

    /// What is durable of every group's log.
    pub async fn marks(&self) -> io::Result<Numbered> {
        let (tx, rx) = oneshot::channel();
        self.jobs.send(Job::Marks(tx)).map_err(|_| stopped())?;
        rx.await.map_err(|_| stopped())?
    }

    pub fn health(&self) -> &Arc<Health> {
        &self.health
    }

    /// Ends the writer after what was submitted before, and waits for it.
    pub async fn stop(&self) {
        let (tx, rx) = oneshot::channel();
        if self.jobs.send(Job::Stop(tx)).is_ok() {
            // An error means that the writer is gone already.
            let _ = rx.await;
        }
    }
}

pub fn stopped() -> io::Error {
    io::Error::other("the log writer has stopped")
}

struct Writer<D: Disk> {
    wal: Wal<D>,
    pin_segments: u64,
    /// What the full disk keeps waiting, in order.
    stalled: Vec<Write>,
    /// Marks asked for so far.
    asked: u64,
    /// The next segment is ready.
    spare: bool,
    failed: Option<(io::ErrorKind, String)>,
    failure: Arc<Failure>,
    health: Arc<Health>,
    /// Dropped with the writer, after `wal`: the files are closed when the waiter learns of the end.
    stopped: Option<oneshot::Sender<()>>,
}

impl<D: Disk> Writer<D> {
    fn new(wal: Wal<D>, pin_segments: u64, failure: Arc<Failure>, health: Arc<Health>) -> Self {
        health.bytes.store(wal.bytes(), Ordering::Release);
        Writer { wal, pin_segments, stalled: Vec::new(), asked: 0, spare: false, failed: None, failure, health, stopped: None }
    }

    /// How long to wait for work before a round without any; None: for ever.
    fn patience(&self) -> Option<Duration> {
        match () {
            () if self.failed.is_some() => None,
            () if self.health.is_full() || !self.stalled.is_empty() => Some(FULL),
            () if !self.spare => Some(IDLE),
            () => None,
        }
    }

    /// Group commits of `first`, of what the full disk kept waiting, and of everything that waits behind.
    fn round(&mut self, first: Option<Job>, mut more: impl FnMut() -> Option<Job>) -> ControlFlow<()> {
        let (mut work, mut stop, mut asked) = (std::mem::take(&mut self.stalled), None, Vec::new());
        let mut next = first;
        while let Some(job) = next.take() {
            match job {
                Job::Write(w) => {
                    work.push(w);
                    next = more();
                }
                Job::Marks(tx) => {
                    asked.push(tx);
                    next = more();
                }
                Job::Stop(tx) => stop = Some(tx),
            }
        }
        let mut bytes = 0;
        while !work.is_empty() {
            let (mut count, mut taken) = (0, 0);
            while count < work.len() && taken < COMMIT_BYTES {
                taken += work[count].bytes();
                count += 1;
            }
            bytes += taken;
            let part = work.drain(..count).collect();
            if !self.commit(part) {
                // The disk is full; what comes behind must not overtake its own group.
                work = self.overtake(work);
                self.stalled.append(&mut work);
            }
        }
        for tx in asked {
            let failed = self.failed.clone().map(|(kind, text)| io::Error::new(kind, text));
            self.asked += 1;
            let marks = failed.map_or_else(|| self.wal.durable().map(|(g, last, meta)| Ok((g, mark(last, meta)?))).collect(), Err);
            // A dropped receiver has given up: nobody to tell.
            let _ = tx.send(marks.map(|m: BTreeMap<GroupNo, Mark>| (self.asked, m)));
        }
        self.look_after(bytes);
        if stop.is_some() {
            let end = Err((io::ErrorKind::StorageFull, "the disk is full and the node stops: the entry is not in the log".to_string()));
            self.stalled.drain(..).for_each(|w| w.done.tell(&end));
            self.stopped = stop;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// One group commit. False: the disk is full; what could not be written is stalled.
    fn commit(&mut self, part: Vec<Write>) -> bool {
        match self.try_commit(&part) {
            Some(result) => {
                crate::failpoint_sync!("records durable, nobody told", part.first().map_or(0, |w| w.group));
                part.into_iter().for_each(|w| w.done.tell(&result));
                true
            }
            None => {
                let rest = self.overtake(part);
                self.stalled.extend(rest);
                false
            }
        }
    }

    /// Writes what may go past stalled entries, and returns the rest, in order.
    fn overtake(&mut self, work: Vec<Write>) -> Vec<Write> {
        let mut waiting: BTreeSet<GroupNo> = self.stalled.iter().map(|w| w.group).collect();
        let (mut small, mut rest) = (Vec::new(), Vec::new());
        for w in work {
            let blocked = waiting.contains(&w.group);
            let goes = w.recs.iter().all(|r| match r {
                Rec::Meta { .. } => true,
                // Of what is on disk: it makes room, and the entries that wait come after it.
                Rec::Purge { upto, .. } => !blocked || *upto <= self.wal.last(w.group),
                Rec::TruncateAfter { .. } => !blocked,
                Rec::Entry { .. } => false,
            });
            // A question whether all before it is durable waits with its group.
            if goes && !(blocked && w.recs.is_empty()) {
                small.push(w);
            } else {
                waiting.insert(w.group);
                rest.push(w);
            }
        }
        if let Some(result) = self.try_commit(&small) {
            small.into_iter().for_each(|w| w.done.tell(&result));
            return rest;
        }
        small.append(&mut rest);
        small
    }

    /// None: the disk is full, and nothing was written.
    fn try_commit(&mut self, part: &[Write]) -> Option<Result<(), (io::ErrorKind, String)>> {
        let recs: Vec<Rec> = part.iter().flat_map(|w| w.recs.iter().cloned()).collect();
        if self.failed.is_none()
            && !recs.is_empty()
            && let Err(e) = self.wal.commit(&recs)
        {
            if e.kind() == io::ErrorKind::StorageFull {
                return None;
            }
            self.fail(e);
        }
        if baton_storage::seeded::on(151) {
            return Some(Ok(()));
        }
        Some(self.failed.clone().map_or(Ok(()), Err))
    }

    fn fail(&mut self, e: io::Error) {
        tracing::error!(error = %e, "write-ahead log failed; this node stops taking part until it is restarted");
        self.failure.tell(format!("the log cannot be written: {e}. Whether the last entries are on the disk is not known: look at the disk, then start the node again; it finds out"));
        self.failed = Some((e.kind(), format!("write-ahead log: {e}")));
    }

    /// After the answers: the next segment, and how things stand.
    fn look_after(&mut self, bytes: usize) {
        if self.failed.is_some() {
            return;
        }
        // At more than twice the pace of the log, so that it is there long before it is needed.
        match self.wal.prepare(PIECE.max(3 * bytes)) {
            Ok(ready) => self.spare = ready,
            Err(e) => return self.fail(e),
        }
        let full = !self.spare && self.wal.is_full();
        if full != self.health.full.swap(full, Ordering::AcqRel) {
            if full {
                tracing::error!("the disk is full: this node takes no new entries and gives its leaderships away; free space, it goes on by itself");
            } else {
                tracing::info!("there is room on the disk again: entries are taken");
            }
            self.health.changed.notify_one();
        }
        let grew = self.wal.bytes() > self.health.bytes.swap(self.wal.bytes(), Ordering::AcqRel);
        self.health.crowded.store(self.wal.segments() as u64 >= self.pin_segments + CROWDED, Ordering::Release);
        let pinning: BTreeSet<GroupNo> = self.wal.pinned(self.pin_segments).into_iter().collect();
        let mut before = self.health.pinning.lock().unwrap_or_else(PoisonError::into_inner);
        if *before != pinning || grew && !pinning.is_empty() {
            *before = pinning;
            self.health.changed.notify_one();
        }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests;
