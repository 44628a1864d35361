//! The materialised state: an ordered key-value store. A checkpoint, never the truth: losing it costs a replay, not data.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// One change of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum KvOp {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
}
/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Sees one pair; an error ends the visit.
pub type Visitor<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> io::Result<()>;

/// An ordered key-value store with atomic batches.
pub trait Kv: Send + Sync + 'static {
    /// Applies all or nothing; visible at once. After a crash a prefix of the writes survives.
    fn write(&self, ops: Vec<KvOp>) -> io::Result<()>;
    /// Asks for earlier writes to be kept.
    fn flush(&self) -> io::Result<()>;
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>>;
    /// Bytes that are free where the store is.
    fn free(&self) -> io::Result<u64>;
    /// Shows the pairs whose key starts with `prefix` and is not below `from`, ascending.
    fn visit(&self, prefix: &[u8], from: &[u8], each: Visitor) -> io::Result<()>;
    /// All pairs whose key starts with `prefix`, ascending.
    fn scan(&self, prefix: &[u8]) -> io::Result<Vec<Pair>> {
        let mut all = Vec::new();
        self.visit(prefix, prefix, &mut |k, v| {
            all.push((k.to_vec(), v.to_vec()));
            Ok(())
        })?;
        Ok(all)
    }
}

/// Where a node's store is. It can be opened anew, and moved out of the way when it is no good.
pub trait KvHome: Send + Sync + 'static {
    fn open(&self) -> io::Result<Arc<dyn Kv>>;
    /// Renames what is there, so that the next `open` makes an empty store, and says how it is called now. Nothing is ever deleted.
    fn set_aside(&self) -> io::Result<String>;
}

/// A folder with sled in it.
#[derive(Clone, Debug)]
pub struct SledHome(pub PathBuf);
impl KvHome for SledHome {
    fn open(&self) -> io::Result<Arc<dyn Kv>> { Ok(Arc::new(SledKv::open(&self.0)?)) }
    fn set_aside(&self) -> io::Result<String> {
        let stem = self.0.file_name().map_or("state".into(), |n| n.to_string_lossy().into_owned());
        for n in 1.. {
            let to = self.0.with_file_name(format!("{stem}.damaged-{n}"));
            if !to.exists() {
                std::fs::rename(&self.0, &to)?;
                if let Some(parent) = self.0.parent().filter(|p| !p.as_os_str().is_empty()) {
                    std::fs::File::open(parent)?.sync_all()?;
                }
                return Ok(to.display().to_string());
            }
        }
        unreachable!("some number is free")
    }
}

/// sled.
#[derive(Clone, Debug)]
pub struct SledKv {
    db: sled::Db,
    path: PathBuf,
}
impl SledKv {
    /// Opens the store. It flushes only when asked.
    pub fn open(path: &Path) -> io::Result<Self> {
        let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(32 << 20);
        for _ in 0..30 {
            match config.open() {
                // The store of a node that has just stopped in this process is closed when its last task ends.
                Err(sled::Error::Io(e)) if e.to_string().contains("acquire lock") => std::thread::sleep(std::time::Duration::from_millis(100)),
                other => return Ok(Self { db: other?, path: path.to_path_buf() }),
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, format!("{} is open in another process: stop it", path.display())))
    }
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
        Ok(self.db.apply_batch(batch)?)
    }
    fn flush(&self) -> io::Result<()> { self.db.flush().map(|_| ()).map_err(Into::into) }
    fn free(&self) -> io::Result<u64> { free_bytes(&self.path) }
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> { Ok(self.db.get(key)?.map(|v| v.to_vec())) }
    fn visit(&self, prefix: &[u8], from: &[u8], each: Visitor) -> io::Result<()> {
        for pair in self.db.range(from.max(prefix)..) {
            let (k, v) = pair?;
            if !k.starts_with(prefix) {
                break;
            }
            each(&k, &v)?;
        }
        Ok(())
    }
}

/// Bytes that are free on the file system of a path.
fn free_bytes(path: &Path) -> io::Result<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with 0 and the structure is written whole when the call succeeds.
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    Ok(stat.f_bavail * stat.f_frsize)
}

/// The simulated twin: in memory; a crash takes it back to a prefix of its writes. Clones share it; `mount` gives the handle of a new process.
#[derive(Clone, Default, Debug)]
pub struct SimKv {
    state: Arc<Mutex<SimState>>,
    epoch: u64,
}
#[derive(Default, Debug)]
struct SimState {
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    live: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Vec<Vec<KvOp>>,
    /// Writes and flushes so far, and the one at which the process dies (before its effect); 0: none.
    ops: u64,
    crash_at: u64,
    dead: bool,
    epoch: u64,
    /// It does not open, as a damaged store.
    damaged: bool,
    full: bool,
    aside: u64,
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
    /// The store as a newly started process sees it.
    pub fn mount(&self) -> SimKv {
        let epoch = self.state().epoch;
        SimKv { state: self.state.clone(), epoch }
    }
    /// The power goes; of the unsynced writes the first `keep` survive. Older handles are dead from now on.
    pub fn crash(&self, keep: usize) {
        let mut s = self.state();
        let survivors: Vec<_> = std::mem::take(&mut s.unsynced).into_iter().take(keep).collect();
        for ops in survivors {
            apply(&mut s.durable, &ops);
        }
        s.live = s.durable.clone();
        (s.dead, s.crash_at, s.ops) = (false, 0, 0);
        s.epoch += 1;
    }
    /// Writes that a crash may take back.
    pub fn unsynced(&self) -> usize { self.state().unsynced.len() }
    /// The process dies at the `op`-th write or flush from now on, before its effect. 0: never.
    pub fn crash_at(&self, op: u64) {
        let mut s = self.state();
        (s.ops, s.crash_at) = (0, op);
    }
    /// Writes and flushes since the last `crash_at` or crash.
    pub fn ops(&self) -> u64 { self.state().ops }
    /// It does not open any more, until it is set aside.
    pub fn break_it(&self) { self.state().damaged = true; }
    /// Nothing more fits.
    pub fn set_full(&self, full: bool) { self.state().full = full; }
    /// Changes the pairs behind everybody's back.
    pub fn damage(&self, change: impl FnOnce(&mut BTreeMap<Vec<u8>, Vec<u8>>)) {
        let mut s = self.state();
        change(&mut s.live);
        s.durable = s.live.clone();
    }
    /// A copy of the whole store, with nothing unsynced.
    pub fn copy(&self) -> SimKv {
        let s = self.state();
        let state = SimState { durable: s.live.clone(), live: s.live.clone(), ..SimState::default() };
        SimKv { state: Arc::new(Mutex::new(state)), epoch: 0 }
    }
    /// How often it was set aside.
    pub fn set_aside_count(&self) -> u64 { self.state().aside }
    fn state(&self) -> MutexGuard<'_, SimState> { self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    fn alive(&self) -> io::Result<MutexGuard<'_, SimState>> {
        let s = self.state();
        if s.dead || s.epoch != self.epoch { Err(io::Error::other("the process that had this store is dead")) } else { Ok(s) }
    }
    fn change(&self) -> io::Result<MutexGuard<'_, SimState>> {
        let mut s = self.alive()?;
        s.ops += 1;
        s.dead = s.ops == s.crash_at;
        if s.dead { Err(io::Error::other("the process dies here")) } else { Ok(s) }
    }
}
impl Kv for SimKv {
    fn write(&self, ops: Vec<KvOp>) -> io::Result<()> {
        let mut s = self.change()?;
        if s.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        apply(&mut s.live, &ops);
        s.unsynced.push(ops);
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        let mut s = self.change()?;
        s.unsynced.clear();
        s.durable = s.live.clone();
        Ok(())
    }
    fn free(&self) -> io::Result<u64> { Ok(if self.alive()?.full { 0 } else { u64::MAX }) }
    fn get(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> { Ok(self.alive()?.live.get(key).cloned()) }
    fn visit(&self, prefix: &[u8], from: &[u8], each: Visitor) -> io::Result<()> {
        // A copy, so that `each` may use the store.
        let pairs: Vec<Pair> = self.alive()?.live.range(from.max(prefix).to_vec()..).take_while(|(k, _)| k.starts_with(prefix)).map(|(k, v)| (k.clone(), v.clone())).collect();
        pairs.iter().try_for_each(|(k, v)| each(k, v))
    }
}
impl KvHome for SimKv {
    fn open(&self) -> io::Result<Arc<dyn Kv>> {
        if self.alive()?.damaged { Err(io::Error::new(io::ErrorKind::InvalidData, "simulated damage")) } else { Ok(Arc::new(self.clone())) }
    }
    fn set_aside(&self) -> io::Result<String> {
        let mut s = self.alive()?;
        (s.live, s.durable, s.unsynced, s.damaged) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), false);
        s.aside += 1;
        Ok(format!("the simulated store {}", s.aside))
    }
}
