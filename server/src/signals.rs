//! SIGINT and SIGTERM as a channel. They are blocked in every thread and one thread waits for them, so no handler ever runs.

use std::sync::mpsc::{Receiver, channel};

/// Must be called before any other thread exists: threads inherit the mask. A second signal ends the process at once.
pub fn stop_signals() -> std::io::Result<Receiver<&'static str>> {
    // SAFETY: the set is initialised by sigemptyset before use; both calls only touch it and this thread's mask.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGINT);
        libc::sigaddset(&mut set, libc::SIGTERM);
        if libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 { return Err(std::io::Error::last_os_error()); }
        set
    };
    let (tx, rx) = channel();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for turn in 0.. {
            let mut signal = 0;
            // SAFETY: both pointers live through the call.
            if unsafe { libc::sigwait(&set, &mut signal) } != 0 { continue; }
            if turn > 0 { std::process::exit(130); }
            let _ = tx.send(if signal == libc::SIGINT { "SIGINT" } else { "SIGTERM" });
        }
    })?;
    Ok(rx)
}
