//! The proof in a worker's hand that it may use a partition now, and the table that all guards of a member look at.

use crate::{
    clock::{self, Nanos},
    partition::{Granted, Partition},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

/// The partition may not be used any more under this guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the partition is not ours any more")]
pub struct Lost;

/// One grant of one partition. Clones see the same grant; another grant of the partition has another guard.
#[derive(Clone, Debug)]
pub struct Guard { partition: Partition, cell: Arc<Cell>, lease: Arc<Lease> }

#[derive(Debug)]
struct Cell { token: u64, stopped: AtomicBool, cap: AtomicU64 }
/// The member's deadline; moves with every renewal.
#[derive(Debug)]
struct Lease { deadline: AtomicU64, fences: bool }

impl Guard {
    pub fn partition(&self) -> &Partition { &self.partition }
    /// The token of the grant, whether it still holds or not.
    pub fn token(&self) -> u64 { self.cell.token }
    /// To be asked before *each* use of the partition (each outside effect begun), not once per batch of them.
    pub fn check(&self) -> Result<u64, Lost> {
        // The order matters: a lapse marks its cells before a later join moves the deadline, so who sees the new deadline sees the mark too.
        let deadline = self.lease.deadline.load(SeqCst).min(self.cell.cap.load(SeqCst));
        if self.lease.fences && clock::now() >= deadline { return Err(Lost); }
        if self.cell.stopped.load(SeqCst) { Err(Lost) } else { Ok(self.cell.token) }
    }
    /// When use ends unless the lease is renewed; CLOCK_BOOTTIME nanoseconds.
    pub fn deadline(&self) -> Nanos { self.lease.deadline.load(SeqCst).min(self.cell.cap.load(SeqCst)) }
    /// An offset to commit, under the token of this grant.
    pub fn offset(&self, offset: i64) -> Offset { Offset { partition: self.partition.clone(), token: self.cell.token, offset, metadata: None } }
}

/// An offset to commit. The token is that of the grant under which the work was done, so late work of an earlier grant is refused.
#[derive(Clone, Debug, PartialEq)]
pub struct Offset { pub partition: Partition, pub token: u64, pub offset: i64, pub metadata: Option<String> }

/// All grants of a member.
pub(crate) struct Table { lease: Arc<Lease>, closed: AtomicBool, cells: Mutex<BTreeMap<Partition, Arc<Cell>>> }

impl Table {
    pub fn new(fences: bool) -> Table { Table { lease: Arc::new(Lease { deadline: AtomicU64::new(0), fences }), closed: AtomicBool::new(false), cells: Mutex::default() } }
    pub fn guard(&self, partition: &Partition) -> Option<Guard> {
        self.cells().get(partition).map(|cell| Guard { partition: partition.clone(), cell: cell.clone(), lease: self.lease.clone() })
    }
    pub fn guards(&self) -> Vec<Guard> { self.cells().iter().map(|(p, cell)| Guard { partition: p.clone(), cell: cell.clone(), lease: self.lease.clone() }).collect() }
    pub fn renew(&self, deadline: Nanos) { self.lease.deadline.store(deadline, SeqCst); }
    pub fn grant(&self, granted: &[Granted]) -> Vec<Guard> {
        let mut cells = self.cells();
        granted.iter().map(|(p, token)| {
            let cell = Arc::new(Cell { token: *token, stopped: AtomicBool::new(self.closed.load(SeqCst)), cap: AtomicU64::new(Nanos::MAX) });
            if let Some(old) = cells.insert(p.clone(), cell.clone()) { old.stopped.store(true, SeqCst); }
            Guard { partition: p.clone(), cell, lease: self.lease.clone() }
        }).collect()
    }
    pub fn cap(&self, granted: &Granted, at: Nanos) {
        if let Some(cell) = self.cells().get(&granted.0).filter(|c| c.token == granted.1) { cell.cap.store(at, SeqCst); }
    }
    pub fn stop(&self, granted: &[Granted]) {
        let mut cells = self.cells();
        for (p, token) in granted {
            if cells.get(p).is_some_and(|c| c.token == *token)
                && let Some(cell) = cells.remove(p)
            {
                cell.stopped.store(true, SeqCst);
            }
        }
    }
    /// Ends everything, now and later; gives what was held.
    pub fn stop_all(&self) -> Vec<Granted> {
        let mut cells = self.cells();
        self.closed.store(true, SeqCst);
        std::mem::take(&mut *cells).into_iter().map(|(p, cell)| {
            cell.stopped.store(true, SeqCst);
            (p, cell.token)
        }).collect()
    }
    fn cells(&self) -> MutexGuard<'_, BTreeMap<Partition, Arc<Cell>>> { self.cells.lock().unwrap_or_else(PoisonError::into_inner) }
}
