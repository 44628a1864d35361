//! The consensus library's own conformance suite against our log store and snapshot files.
#![cfg(not(madsim))]

mod common;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use baton_raft::internal::{GroupCut, GroupStore, LogWriter, MachineHost, SnapshotDir, TypeConfig};
use baton_storage::{
    Disk, Kv, RealDisk, SimDisk, SimKv, SledKv,
    wal::{Options, Wal},
};
use common::Machine;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

type Built = Result<((), GroupStore, MachineHost), StorageError<TypeConfig>>;

fn built<D: Disk + Clone + Sync>(log: D, snapshots: D, state: Arc<dyn Kv>) -> Built {
    let (wal, logs) = Wal::open(log, Options::new(64 << 10, [7; 24])).unwrap();
    let writer = LogWriter::start(wal, 4, Arc::default()).unwrap();
    let store = GroupStore::open(0, &logs.get(&0).cloned().unwrap_or_default(), writer).unwrap();
    let cut = GroupCut::open(state, 0, [7; 24]).unwrap();
    let host = MachineHost::open(0, Box::new(Machine::default()), cut, Arc::new(SnapshotDir::new(snapshots, 0)), store.clone()).unwrap();
    Ok(((), store, host))
}

struct Simulated;
impl StoreBuilder<TypeConfig, GroupStore, MachineHost> for Simulated {
    async fn build(&self) -> Built { built(SimDisk::new(), SimDisk::new(), Arc::new(SimKv::default())) }
}

/// Each store in a folder of its own.
struct Real(PathBuf, AtomicU64);
impl StoreBuilder<TypeConfig, GroupStore, MachineHost> for Real {
    async fn build(&self) -> Built {
        let folder = self.0.join(self.1.fetch_add(1, Relaxed).to_string());
        let disk = |name: &str| {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).unwrap();
            RealDisk::open(&path).unwrap()
        };
        let (log, snapshots) = (disk("wal"), disk("snapshots"));
        built(log, snapshots, Arc::new(SledKv::open(&folder.join("state")).unwrap()))
    }
}

#[tokio::test]
async fn simulated_stores_conform() { Suite::test_all(Simulated).await.unwrap(); }

#[tokio::test]
async fn stores_on_real_files_and_sled_conform() {
    let folder = std::env::temp_dir().join(format!("baton-suite-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    Suite::test_all(Real(folder.clone(), AtomicU64::new(0))).await.unwrap();
    let _ = std::fs::remove_dir_all(&folder);
}
