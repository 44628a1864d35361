//! A node's data folder: `node.json` says whose it is, `LOCK` that one process has it.
//! Never repairs or clears anything: what does not fit is an error that says what to do.

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// What `node.json` says. Written when the folder is made, and once more when its cluster is known.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct NodeFile {
    /// Format of the folder, 1.
    pub format: u32,
    pub node_id: u64,
    /// 128 random bits: tells this folder from every other that ever had this node id.
    pub directory: String,
    pub wal_segment_bytes: u64,
    /// The cluster it belongs to, once that is known; for ever then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
}

impl NodeFile {
    /// The cluster's id as a number; 0: not known yet.
    pub fn cluster_id(&self) -> Result<u128> {
        match &self.cluster {
            None => Ok(0),
            Some(text) => match u128::from_str_radix(text, 16) { Ok(id) if id != 0 => Ok(id), _ => bail!("node.json: cluster {text:?} is not 32 hexadecimal digits") },
        }
    }
    /// The folder's id as a number.
    pub fn directory_id(&self) -> Result<u128> {
        match u128::from_str_radix(&self.directory, 16) { Ok(id) if id != 0 => Ok(id), _ => bail!("node.json: directory {:?} is not 32 hexadecimal digits", self.directory) }
    }
}

/// An open data folder. The lock goes with it.
pub struct Folder {
    pub node: NodeFile,
    pub dir: PathBuf,
    pub wal: PathBuf,
    pub snapshots: PathBuf,
    /// The checkpoints. Can be lost: it is built anew from snapshots and log.
    pub state: PathBuf,
    _lock: File,
}

/// Takes the lock on `dir`, which is made if missing. `what` names the holder-to-be in the error.
pub fn lock(dir: &Path, what: &str) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make the data folder {}", dir.display()))?;
    let path = dir.join("LOCK");
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    // SAFETY: the descriptor is open for as long as `file` lives.
    if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = if holder.trim().is_empty() { "another process".to_string() } else { format!("process {}", holder.trim()) };
        bail!("{holder} already runs {what} on {}: stop it, or give another folder with --data", dir.display());
    }
    // The pid is for the message above only; the lock itself is the kernel's and goes with the process.
    file.set_len(0).and_then(|()| write!(file, "{}", std::process::id())).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(file)
}

impl Folder {
    /// Opens or makes the folder of node `node_id`.
    pub fn open(dir: &Path, node_id: u64, wal_segment_bytes: u64) -> Result<Folder> {
        let lock = lock(dir, "a node")?;
        let path = dir.join("node.json");
        let (wal, snapshots) = (dir.join("wal"), dir.join("snapshots"));
        let node = match fs::read(&path) {
            Ok(bytes) => {
                let node: NodeFile = serde_json::from_slice(&bytes).with_context(|| format!("{} cannot be read: restore it from a backup, or start with an empty folder and a new node id", path.display()))?;
                if node.format != 1 { bail!("{} has format {}, this version knows 1", path.display(), node.format); }
                if node.node_id != node_id {
                    bail!("{} belongs to node {}, not to node {node_id}: start it with --node-id {}, or give another folder with --data", dir.display(), node.node_id, node.node_id);
                }
                node
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if wal.read_dir().is_ok_and(|mut d| d.next().is_some()) {
                    bail!("{} has a log but no node.json: the folder is not whole; nothing was touched", dir.display());
                }
                let mut random = [0u8; 16];
                getrandom::fill(&mut random).map_err(|e| anyhow::anyhow!("no random numbers: {e}"))?;
                let directory = random.iter().map(|b| format!("{b:02x}")).collect();
                let node = NodeFile { format: 1, node_id, directory, wal_segment_bytes, cluster: None };
                write_new(&path, serde_json::to_string_pretty(&node)?.as_bytes(), 0o644)?;
                node
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        for d in [&wal, &snapshots] { fs::create_dir_all(d).with_context(|| format!("cannot make {}", d.display()))?; }
        Ok(Folder { node, dir: dir.to_path_buf(), wal, snapshots, state: dir.join("state"), _lock: lock })
    }
}

impl NodeFile {
    /// Notes in the folder of `dir` to which cluster it belongs.
    pub fn remember_cluster(mut self, dir: &Path, cluster: u128) -> Result<()> {
        if self.cluster.is_some() { return Ok(()); }
        self.cluster = Some(format!("{cluster:032x}"));
        write_new(&dir.join("node.json"), serde_json::to_string_pretty(&self)?.as_bytes(), 0o644)
    }
}

/// Writes a whole file under another name, syncs it and renames it: after a crash it is there in full or not at all.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let part = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        let mut f = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part)?;
        f.write_all(bytes)?;
        f.sync_all()?;
        fs::rename(&part, path)?;
        match path.parent() { Some(dir) if dir != Path::new("") => File::open(dir)?.sync_all(), _ => Ok(()) }
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    fn fresh(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("baton-folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn is_kept_and_belongs_to_one_node_and_one_process() {
        let dir = fresh("keep");
        let first = Folder::open(&dir, 1, 1 << 20).unwrap();
        let again = Folder::open(&dir, 1, 1 << 20).err().unwrap().to_string();
        assert!(again.contains("already runs a node") && again.contains(&std::process::id().to_string()), "{again}");
        let node = first.node.clone();
        drop(first);
        let wrong = Folder::open(&dir, 2, 1 << 20).err().unwrap().to_string();
        assert!(wrong.contains("belongs to node 1"), "{wrong}");
        // The stored segment size wins: it is part of the log's format.
        assert_eq!(Folder::open(&dir, 1, 2 << 20).unwrap().node, node);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_whole_is_refused() {
        let dir = fresh("half");
        fs::create_dir_all(dir.join("wal")).unwrap();
        fs::write(dir.join("wal/x"), b"x").unwrap();
        assert!(Folder::open(&dir, 1, 1 << 20).err().unwrap().to_string().contains("no node.json"));
        fs::write(dir.join("node.json"), b"{").unwrap();
        assert!(Folder::open(&dir, 1, 1 << 20).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
