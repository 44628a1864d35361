//! The consensus library's own conformance suite against our log store and snapshot files.
#![cfg(not(madsim))]

mod common;

use std::sync::Arc;

use baton_raft::internal::{GroupCut, GroupStore, LogWriter, MachineHost, SnapshotDir, TypeConfig};
use baton_storage::{SimDisk, SimKv};
use common::{Machine, open};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

struct Builder;

impl StoreBuilder<TypeConfig, GroupStore, MachineHost> for Builder {
    async fn build(&self) -> Result<((), GroupStore, MachineHost), StorageError<TypeConfig>> {
        let (wal, logs) = open(SimDisk::new());
        let writer = LogWriter::start(wal, 4, Arc::default()).unwrap();
        let store = GroupStore::open(0, &logs.get(&0).cloned().unwrap_or_default(), writer).unwrap();
        let file = Arc::new(SnapshotDir::new(SimDisk::new(), 0));
        let cut = GroupCut::open(Arc::new(SimKv::default()), 0, [7; 24]).unwrap();
        let host = MachineHost::open(0, Box::new(Machine::default()), cut, file, store.clone()).unwrap();
        Ok(((), store, host))
    }
}

#[tokio::test]
async fn log_store_conforms() {
    Suite::test_all(Builder).await.unwrap();
}
