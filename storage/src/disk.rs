//! The seam to the file system: one flat folder of files, synchronous on purpose, so that the log can run inside a simulation.

use std::{
    fs, io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// A flat folder of files. Names survive a crash only after `sync_dir`.
pub trait Disk: Send + 'static {
    type File: DiskFile;
    /// Makes an empty file, replacing one of the same name.
    fn create(&self, name: &str) -> io::Result<Self::File>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Self::File>;
    /// The names of all files, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Renames, replacing `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes earlier creations, renames and removals durable.
    fn sync_dir(&self) -> io::Result<()>;
}

/// An open file. Writes survive a crash only after `sync_data`.
pub trait DiskFile: Send + 'static {
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> { Ok(self.len()? == 0) }
    /// Fills the whole buffer or fails.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
    /// Writes all bytes or fails; grows the file where needed.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync_data(&self) -> io::Result<()>;
}

/// A real folder.
#[derive(Clone, Debug)]
pub struct RealDisk {
    folder: PathBuf,
}
impl RealDisk {
    /// Opens the folder, making it if it is missing.
    pub fn open(folder: &Path) -> io::Result<RealDisk> {
        fs::create_dir_all(folder)?;
        Ok(RealDisk { folder: folder.to_path_buf() })
    }
}
impl Disk for RealDisk {
    type File = RealFile;
    fn create(&self, name: &str) -> io::Result<RealFile> { Ok(RealFile(fs::File::options().create(true).truncate(true).read(true).write(true).open(self.folder.join(name))?)) }
    fn open(&self, name: &str) -> io::Result<RealFile> { Ok(RealFile(fs::File::options().read(true).write(true).open(self.folder.join(name))?)) }
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> { fs::rename(self.folder.join(from), self.folder.join(to)) }
    fn remove(&self, name: &str) -> io::Result<()> { fs::remove_file(self.folder.join(name)) }
    fn sync_dir(&self) -> io::Result<()> { fs::File::open(&self.folder)?.sync_all() }
}

/// A file in a real folder.
#[derive(Debug)]
pub struct RealFile(fs::File);
impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> { Ok(self.0.metadata()?.len()) }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> { self.0.read_exact_at(buffer, offset) }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> { self.0.write_all_at(bytes, offset) }
    fn sync_data(&self) -> io::Result<()> { self.0.sync_data() }
}
