//! The clock and a very small blocking HTTP client, shared by the test and its worker processes.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// The clock that the client's leases run on.
pub fn boottime_ns() -> u64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `t` is a valid timespec for the call to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Status, head in lower case, body.
pub fn call(address: &str, method: &str, path: &str, body: &str, within: Duration) -> std::io::Result<(u16, String, String)> {
    let bad = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut s = TcpStream::connect_timeout(&address.parse().map_err(|_| bad())?, within)?;
    s.set_read_timeout(Some(within))?;
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    s.write_all(format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{kind}content-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).as_bytes())?;
    let mut raw = String::new();
    s.read_to_string(&mut raw)?;
    let (head, body) = raw.split_once("\r\n\r\n").ok_or_else(bad)?;
    let status = head.split(' ').nth(1).and_then(|w| w.parse().ok()).ok_or_else(bad)?;
    if !head.to_lowercase().contains("transfer-encoding: chunked") { return Ok((status, head.to_lowercase(), body.into())); }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, more)) = rest.split_once("\r\n") {
        let n = usize::from_str_radix(size.trim(), 16).map_err(|_| bad())?;
        if n == 0 { break; }
        whole.push_str(more.get(..n).ok_or_else(bad)?);
        rest = more.get(n + 2..).ok_or_else(bad)?;
    }
    Ok((status, head.to_lowercase(), whole))
}
