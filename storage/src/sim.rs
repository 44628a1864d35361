//! The simulated disk: unsynced sectors survive a crash in any subset, directory operations as a prefix, and a handle of a dead process
//! can do nothing more. It is what the crash tests of the log and the simulations run on.

use crate::{Disk, DiskFile};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const SECTOR: usize = 512;

/// What survives a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing that was not synced.
    LoseUnsynced,
    /// Everything, as if it had been synced.
    KeepAll,
    /// The first so many unsynced sectors of each file.
    KeepPrefix,
    /// All but the first so many.
    KeepSuffix,
    /// Any subset.
    KeepSome,
    /// The process was killed; the machine and its cache live.
    KillProcess,
    /// An fsync failed and the kernel marked the pages clean: read back as written, but not on the disk.
    CleanPages,
}
impl Crash {
    /// All kinds.
    pub const ALL: [Crash; 7] = [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepPrefix, Crash::KeepSuffix, Crash::KeepSome, Crash::KillProcess, Crash::CleanPages];
}

#[derive(Clone, Default, Debug)]
struct File {
    durable: Vec<u8>,
    live: Vec<u8>,
    dirty: BTreeSet<usize>,
}
/// An unsynced change of the folder: a name that went, a name that came.
type DirOp = (Option<String>, Option<(String, usize)>);

#[derive(Default, Debug)]
struct State {
    files: Vec<File>,
    durable: BTreeMap<String, usize>,
    live: BTreeMap<String, usize>,
    dir_ops: Vec<DirOp>,
    /// Changing operations so far.
    ops: u64,
    /// The operation at which the process dies (after its effect); 0: none.
    crash_at: u64,
    dead: bool,
    /// Fail the next so many syncs.
    fail_syncs: u64,
    full: bool,
    epoch: u64,
}

/// A simulated disk. Clones share it; `mount` gives the handle of a new process.
#[derive(Clone, Default, Debug)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
    epoch: u64,
}

impl SimDisk {
    pub fn new() -> Self { Self::default() }
    /// The disk as a newly started process sees it.
    pub fn mount(&self) -> SimDisk {
        let epoch = self.lock().epoch;
        SimDisk { state: self.state.clone(), epoch }
    }
    /// The process dies at the `op`-th changing operation from now on (1: the next); its effect may be in the cache. 0: never.
    pub fn crash_at(&self, op: u64) {
        let mut s = self.lock();
        s.ops = 0;
        s.crash_at = op;
    }
    /// Changing operations since the last `crash_at` or crash.
    pub fn ops(&self) -> u64 { self.lock().ops }
    /// The next `n` syncs fail.
    pub fn fail_syncs(&self, n: u64) { self.lock().fail_syncs = n; }
    /// No new bytes fit any more (existing ones can be overwritten).
    pub fn set_full(&self, full: bool) { self.lock().full = full; }
    /// The crash: `random(n)` gives a number in 0..n. Older handles are dead from now on.
    pub fn crash(&self, kind: Crash, random: &mut dyn FnMut(u64) -> u64) {
        let mut guard = self.lock();
        let s = &mut *guard;
        (s.dead, s.crash_at, s.ops, s.fail_syncs, s.full) = (false, 0, 0, 0, false);
        s.epoch += 1;
        match kind {
            Crash::KillProcess => return,
            Crash::CleanPages => return s.files.iter_mut().for_each(|f| f.dirty.clear()),
            _ => {}
        }
        for f in &mut s.files {
            let cut = random(f.dirty.len() as u64 + 1) as usize;
            let growth = f.live.len().saturating_sub(f.durable.len());
            let length = match kind {
                Crash::LoseUnsynced => f.durable.len(),
                Crash::KeepAll => f.live.len(),
                _ => f.durable.len() + random(growth as u64 + 1) as usize / SECTOR * SECTOR,
            };
            if f.durable.len() < length {
                f.durable.resize(length, 0);
            }
            for (i, sector) in std::mem::take(&mut f.dirty).into_iter().enumerate() {
                let keep = match kind {
                    Crash::LoseUnsynced => false,
                    Crash::KeepAll => true,
                    Crash::KeepPrefix => i < cut,
                    Crash::KeepSuffix => i >= cut,
                    _ => random(2) == 1,
                };
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(f.live.len());
                if keep && range.start < range.end && range.end <= f.durable.len() {
                    f.durable[range.clone()].copy_from_slice(&f.live[range]);
                }
            }
            f.live = f.durable.clone();
        }
        let ops = std::mem::take(&mut s.dir_ops);
        let kept = match kind {
            Crash::LoseUnsynced => 0,
            Crash::KeepAll => ops.len(),
            _ => random(ops.len() as u64 + 1) as usize,
        };
        for (gone, came) in ops.into_iter().take(kept) {
            if let Some(name) = gone {
                s.durable.remove(&name);
            }
            if let Some((name, i)) = came {
                s.durable.insert(name, i);
            }
        }
        s.live = s.durable.clone();
    }
    /// A copy of the whole disk, with nothing unsynced: for damage that is tried and undone.
    pub fn copy(&self) -> SimDisk {
        let s = self.lock();
        let files = s.files.iter().map(|f| File { durable: f.live.clone(), live: f.live.clone(), dirty: BTreeSet::new() }).collect();
        let state = State { files, durable: s.live.clone(), live: s.live.clone(), ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)), epoch: 0 }
    }
    /// Changes the bytes of a file behind everybody's back.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut s = self.lock();
        if let Some(i) = s.live.get(name).copied() {
            let f = &mut s.files[i];
            change(&mut f.live);
            f.durable = f.live.clone();
        }
    }
    fn lock(&self) -> MutexGuard<'_, State> { self.state.lock().unwrap_or_else(PoisonError::into_inner) }
    /// A changing operation. With the state comes whether the process dies at its end.
    fn change(&self) -> io::Result<(MutexGuard<'_, State>, bool)> {
        let mut s = self.lock();
        if s.dead || s.epoch != self.epoch {
            return Err(io::Error::other("the process that had this disk is dead"));
        }
        s.ops += 1;
        s.dead = s.ops == s.crash_at;
        let dies = s.dead;
        Ok((s, dies))
    }
    fn read(&self) -> io::Result<MutexGuard<'_, State>> {
        let s = self.lock();
        if s.dead || s.epoch != self.epoch { Err(io::Error::other("the process that had this disk is dead")) } else { Ok(s) }
    }
}
fn end(dies: bool) -> io::Result<()> { if dies { Err(io::Error::other("the process dies here")) } else { Ok(()) } }
fn fail_sync(s: &mut State) -> io::Result<()> {
    if s.fail_syncs == 0 {
        return Ok(());
    }
    s.fail_syncs -= 1;
    Err(io::Error::other("simulated fsync error"))
}

impl Disk for SimDisk {
    type File = SimFile;
    fn create(&self, name: &str) -> io::Result<SimFile> {
        let (mut s, dies) = self.change()?;
        if s.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        s.files.push(File::default());
        let i = s.files.len() - 1;
        s.live.insert(name.into(), i);
        s.dir_ops.push((None, Some((name.into(), i))));
        end(dies)?;
        Ok(SimFile { disk: self.clone(), index: i })
    }
    fn open(&self, name: &str) -> io::Result<SimFile> {
        let index = *self.read()?.live.get(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_string()))?;
        Ok(SimFile { disk: self.clone(), index })
    }
    fn list(&self) -> io::Result<Vec<String>> { Ok(self.read()?.live.keys().cloned().collect()) }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (mut s, dies) = self.change()?;
        let i = s.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        s.live.insert(to.into(), i);
        s.dir_ops.push((Some(from.into()), Some((to.into(), i))));
        end(dies)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        let (mut s, dies) = self.change()?;
        s.live.remove(name);
        s.dir_ops.push((Some(name.into()), None));
        end(dies)
    }
    fn sync_dir(&self) -> io::Result<()> {
        let (mut s, dies) = self.change()?;
        fail_sync(&mut s)?;
        // A crash during the sync leaves its outcome open: the operations stay unsynced.
        if !dies {
            s.durable = s.live.clone();
            s.dir_ops.clear();
        }
        end(dies)
    }
}

/// A file on the simulated disk.
#[derive(Debug)]
pub struct SimFile {
    disk: SimDisk,
    index: usize,
}
impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> { Ok(self.disk.read()?.files[self.index].live.len() as u64) }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let s = self.disk.read()?;
        let from = offset as usize;
        let bytes = s.files[self.index].live.get(from..from + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut s, dies) = self.disk.change()?;
        let (from, to) = (offset as usize, offset as usize + bytes.len());
        if s.full && to > s.files[self.index].live.len() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let f = &mut s.files[self.index];
        if f.live.len() < to {
            f.live.resize(to, 0);
        }
        f.live[from..to].copy_from_slice(bytes);
        f.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        end(dies)
    }
    fn sync_data(&self) -> io::Result<()> {
        let (mut s, dies) = self.disk.change()?;
        if let Err(e) = fail_sync(&mut s) {
            // What Linux does: the pages are marked clean although the disk does not have them.
            s.files[self.index].dirty.clear();
            return Err(e);
        }
        if !dies {
            let f = &mut s.files[self.index];
            f.durable.resize(f.live.len(), 0);
            for sector in std::mem::take(&mut f.dirty) {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(f.live.len());
                f.durable[range.clone()].copy_from_slice(&f.live[range]);
            }
        }
        end(dies)
    }
}
