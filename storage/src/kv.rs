//! The materialised state: an ordered key-value store. A checkpoint, never the truth: losing it costs a replay, not data.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

/// One change of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum KvOp {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}
/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered key-value store with atomic batches.
pub trait Kv: Clone + Send + Sync + 'static {
    /// Applies all or nothing; visible at once. After a crash a prefix of the writes survives.
    fn write(&self, ops: Vec<KvOp>) -> io::Result<()>;
    /// Asks for earlier writes to be kept.
    fn flush(&self) -> io::Result<()>;
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// All pairs whose key starts with `prefix`, ascending.
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<Pair>>;
}

/// sled.
#[derive(Clone, Debug)]
pub struct SledKv(sled::Db);
impl SledKv {
    /// Opens the store. It flushes only when asked.
    pub fn open(path: &Path) -> io::Result<Self> { Ok(Self(sled::Config::new().path(path).flush_every_ms(None).cache_capacity(32 << 20).open()?)) }
}
impl Kv for SledKv {
    fn write(&self, ops: Vec<KvOp>) -> io::Result<()> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                KvOp::Put(k, v) => batch.insert(k, v),
                KvOp::Delete(k) => batch.remove(k),
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }
    fn flush(&self) -> io::Result<()> { self.0.flush().map(|_| ()).map_err(Into::into) }
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> { Ok(self.0.get(key)?.map(|v| v.to_vec())) }
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<Pair>> { self.0.scan_prefix(prefix).map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec())).map_err(Into::into)).collect() }
}

/// The simulated twin: in memory; a crash takes it back to a prefix of its writes.
#[derive(Clone, Default, Debug)]
pub struct SimKv(Arc<Mutex<SimState>>);
#[derive(Default, Debug)]
struct SimState {
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Vec<Vec<KvOp>>,
}
fn apply(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, ops: &[KvOp]) {
    for op in ops {
        match op {
            KvOp::Put(k, v) => drop(map.insert(k.clone(), v.clone())),
            KvOp::Delete(k) => drop(map.remove(k)),
        }
    }
}
impl SimKv {
    /// The power goes; of the unsynced writes the first `keep` survive.
    pub fn crash(&self, keep: usize) {
        let mut s = self.state();
        let survivors: Vec<_> = std::mem::take(&mut s.unsynced).into_iter().take(keep).collect();
        for ops in survivors {
            apply(&mut s.durable, &ops);
        }
        s.live = s.durable.clone();
    }
    fn state(&self) -> std::sync::MutexGuard<'_, SimState> { self.0.lock().unwrap_or_else(PoisonError::into_inner) }
}
impl Kv for SimKv {
    fn write(&self, ops: Vec<KvOp>) -> io::Result<()> {
        let mut s = self.state();
        apply(&mut s.live, &ops);
        s.unsynced.push(ops);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        let mut s = self.state();
        s.unsynced.clear();
        s.durable = s.live.clone();
        Ok(())
    }
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> { Ok(self.state().live.get(key).cloned()) }
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<Pair>> {
        Ok(self.state().live.range(prefix.to_vec()..).take_while(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect())
    }
}
