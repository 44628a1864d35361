//! The simulator sends a packet at every flush, even if nothing was written since the last. An HTTP connection flushes whenever it looks at its
//! stream, so the two ends of an idle one would wake each other for ever. Compiled only under `--cfg madsim`, here and in the client.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A stream that passes a flush on only where something was written.
pub struct Quiet { stream: TcpStream, written: bool }
impl Quiet {
    pub fn new(stream: TcpStream) -> Quiet { Quiet { stream, written: false } }
}
impl AsyncRead for Quiet {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> { Pin::new(&mut self.stream).poll_read(cx, buf) }
}
impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !std::mem::take(&mut self.written) { return Poll::Ready(Ok(())); }
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> { Pin::new(&mut self.stream).poll_shutdown(cx) }
}
