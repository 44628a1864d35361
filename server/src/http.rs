//! A very small blocking HTTP/1.1 client for `dev` and `status`: one request, one connection, a limit on time and size.

use anyhow::{Context, Result, bail};
use std::{
    io::{Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

const BODY_MAX: u64 = 32 << 20;

/// Status and body.
pub fn call(address: &str, method: &str, path: &str, body: &str, timeout: Duration) -> Result<(u16, String)> {
    let target = address.to_socket_addrs().with_context(|| format!("{address} cannot be resolved"))?.next().with_context(|| format!("{address} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&target, timeout).with_context(|| format!("no connection to {address}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let length = body.len();
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    stream.write_all(format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\n{kind}content-length: {length}\r\nconnection: close\r\n\r\n{body}").as_bytes())?;
    let mut raw = Vec::new();
    stream.take(BODY_MAX).read_to_end(&mut raw).with_context(|| format!("no answer from {address}"))?;
    parse(&raw).with_context(|| format!("{address} did not answer in HTTP"))
}

fn parse(raw: &[u8]) -> Result<(u16, String)> {
    let Some(end) = raw.windows(4).position(|w| w == b"\r\n\r\n") else { bail!("no end of the head") };
    let head = String::from_utf8_lossy(&raw[..end]).to_lowercase();
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    let mut body = &raw[end + 4..];
    if !head.contains("transfer-encoding: chunked") { return Ok((status, String::from_utf8_lossy(body).into_owned())); }
    let mut out = Vec::new();
    loop {
        let Some(line) = body.windows(2).position(|w| w == b"\r\n") else { bail!("a chunk without length") };
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..line]).split(';').next().unwrap_or("").trim(), 16)?;
        body = &body[line + 2..];
        if size == 0 { return Ok((status, String::from_utf8_lossy(&out).into_owned())); }
        if size > body.len() || body.len() - size < 2 { bail!("a chunk that is cut short"); }
        out.extend_from_slice(&body[..size]);
        body = &body[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn reads_plain_and_chunked() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhi").unwrap(), (200, "hi".into()));
        assert_eq!(parse(b"HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n1;x\r\n!\r\n0\r\n\r\n").unwrap(), (503, "hi!".into()));
        for bad in [&b""[..], b"HTTP/1.1 200 OK", b"HTTP/1.1 x\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhi\r\n"] { assert!(parse(bad).is_err()); }
    }
}
