//! The store of all groups' cuts: opened and checked at start, set aside if it is no good, and kept up to date in the background.
//!
//! Losing it costs a replay, never data: the state comes back from the snapshot files and the log. So damage here is no reason
//! to stop a node; but nothing is deleted, and what was done is said.

use std::collections::BTreeMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_storage::{Kv, KvHome};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::GroupNo;
use crate::cut::{GroupCut, Ident, Stored};
use crate::sm::MachineHost;

/// The store of this node's cuts.
pub struct Cuts {
    kv: Arc<dyn Kv>,
    ident: Ident,
    /// Opened and checked, not yet taken by a group.
    checked: Mutex<BTreeMap<GroupNo, GroupCut>>,
}

impl Cuts {
    /// Opens the store and checks the cuts of `groups` whole. A store that does not open, is damaged or is another node's is set aside, and
    /// an empty one takes its place.
    pub fn open(home: &dyn KvHome, ident: Ident, groups: impl Iterator<Item = GroupNo> + Clone) -> io::Result<Cuts> {
        let why = match Cuts::try_open(home, ident, groups.clone()) {
            Ok(cuts) => return Ok(cuts),
            // Not the store's fault: another process has it, or the disk is full, or the folder may not be touched.
            Err(e) if matches!(e.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::StorageFull | io::ErrorKind::PermissionDenied) => return Err(e),
            Err(e) => e,
        };
        let name = home.set_aside()?;
        tracing::error!(reason = %why, kept_as = name, "the store of checkpoints is damaged: it was set aside and is built anew from the snapshots and the log; nothing is lost. Delete it once it has been looked at");
        Cuts::try_open(home, ident, groups)
    }

    fn try_open(home: &dyn KvHome, ident: Ident, groups: impl Iterator<Item = GroupNo>) -> io::Result<Cuts> {
        // The store of a third party on a damaged file: a panic of it is damage, too.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let kv = home.open()?;
            let mut checked = BTreeMap::new();
            for no in groups {
                checked.insert(no, GroupCut::open(kv.clone(), no, ident)?);
            }
            Ok((kv, checked))
        }));
        let (kv, checked) = opened.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::InvalidData, "opening it panicked")))?;
        Ok(Cuts { kv, ident, checked: Mutex::new(checked) })
    }

    pub(crate) fn ident(&self) -> Ident {
        self.ident
    }

    /// Whether no group has a cut.
    pub fn is_empty(&self) -> bool {
        self.lock().values().all(|c| c.standing().last.is_none())
    }

    /// A group's cut, to be written by its host.
    pub(crate) fn group(&self, no: GroupNo) -> io::Result<GroupCut> {
        match self.lock().remove(&no) {
            Some(cut) => Ok(cut),
            None => GroupCut::open(self.kv.clone(), no, self.ident),
        }
    }

    /// A group's pairs as they are in the store now.
    pub fn stored(&self, no: GroupNo) -> io::Result<Stored> {
        self.lock().get(&no).map_or_else(|| GroupCut::open(self.kv.clone(), no, self.ident).map(|c| c.stored()), |c| Ok(c.stored()))
    }

    // Whole after every statement.
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<GroupNo, GroupCut>> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells that this node cannot go on, and why. The first reason counts.
#[derive(Default)]
pub struct Failure {
    reason: Mutex<Option<String>>,
    told: Notify,
}

impl Failure {
    pub fn tell(&self, reason: String) {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(reason);
        self.told.notify_waiters();
    }

    pub async fn wait(&self) -> String {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            // Registered before the look, so that nothing falls between.
            told.as_mut().enable();
            if let Some(reason) = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone() {
                return reason;
            }
            told.await;
        }
    }
}

/// Writes cuts of all groups until `stop`, one group after the other. It takes at most a tenth of the time: large states are cut less often.
pub async fn run(hosts: impl Fn() -> Option<Vec<(GroupNo, MachineHost)>>, every: Duration, stop: Arc<Notify>, failure: Arc<Failure>) {
    let mut pause = every;
    loop {
        tokio::select! { biased;
            _ = stop.notified() => return,
            _ = tokio::time::sleep(pause) => {}
        }
        let began = Instant::now();
        let Some(hosts) = hosts() else { return };
        for (no, host) in hosts {
            if let Err(e) = host.checkpoint().await {
                failure.tell(format!("group {no}: the checkpoint cannot be written: {e}. Restart the node once the disk is well; nothing is lost"));
                return;
            }
        }
        pause = every.max(began.elapsed() * 9);
    }
}
