//! Disks that fail in ways a test can ask for: a small one that can be filled, and one whose every sync takes its time.

use std::{
    fs, io::{Error, Result, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A small file system in memory; taken away with this.
pub struct Small(PathBuf);
impl Small {
    /// None if this machine does not let us mount one.
    pub fn mount(dir: &Path, mib: u32) -> Option<Small> {
        fs::create_dir_all(dir).ok()?;
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(dir).stderr(Stdio::null()).status();
        done.is_ok_and(|s| s.success()).then(|| Small(dir.to_path_buf()))
    }
    fn ballast(&self) -> PathBuf { self.0.join("ballast") }
    /// Writes until there is no room.
    pub fn fill(&self) -> Result<()> {
        let mut file = fs::File::create(self.ballast())?;
        for size in [1 << 20, 4_096] {
            while file.write_all(&vec![7; size]).and_then(|()| file.sync_data()).is_ok() {}
        }
        Ok(())
    }
    /// There is room again.
    pub fn free(&self) -> Result<()> { fs::remove_file(self.ballast()) }
}
impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a node that a failed test left behind may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Makes every sync of a process wait, as long as this lives. Needs `strace` and the right to trace.
pub struct Slow(Child);
impl Slow {
    pub fn possible() -> bool { Command::new("strace").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success()) }
    pub fn down(pid: u32, each: Duration) -> Result<Slow> {
        let inject = format!("inject=fdatasync,fsync,sync_file_range:delay_enter={}", each.as_micros());
        let mut child = Command::new("strace").args(["-f", "-q", "-o", "/dev/null", "-p", &pid.to_string(), "-e", "trace=fdatasync,fsync,sync_file_range", "-e", &inject])
            .stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        // It ends at once if it may not trace.
        std::thread::sleep(Duration::from_millis(100));
        match child.try_wait()? {
            Some(status) => Err(Error::other(format!("strace ended with {status}"))),
            None => Ok(Slow(child)),
        }
    }
}
impl Drop for Slow {
    fn drop(&mut self) {
        // Asked, not killed: it lets go of the process before it ends.
        // SAFETY: no memory is involved; the child has not been waited for, so its pid is still its own.
        unsafe { libc::kill(self.0.id() as i32, libc::SIGTERM) };
        let _ = self.0.wait();
    }
}
