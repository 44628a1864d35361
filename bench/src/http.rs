//! The load of `serving`: kept connections that send one request after the other.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// One kept connection.
pub struct Connection { sender: SendRequest<Full<Bytes>>, host: String }

impl Connection {
    pub async fn open(address: &str) -> Result<Connection> {
        let stream = tokio::net::TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // It ends with its sender.
        tokio::spawn(async move { let _ = connection.await; });
        Ok(Connection { sender, host: address.into() })
    }
    pub async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Result<(u16, Bytes)> {
        self.sender.ready().await?;
        let request = Request::builder().method(method).uri(path).header("host", &self.host).header("content-type", "application/json").body(Full::new(body))?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok((head.status.as_u16(), body.collect().await?.to_bytes()))
    }
}

/// Sends requests for a time.
pub struct Mill;
impl Mill {
    /// How many were answered with 200. Each connection goes through the requests in turn, from a place of its own.
    pub async fn run(method: &'static str, address: &str, connections: usize, time: Duration, requests: Vec<(String, String)>) -> Result<u64> {
        let requests: Arc<Vec<(String, Bytes)>> = Arc::new(requests.into_iter().map(|(p, b)| (p, Bytes::from(b))).collect());
        let end = Instant::now() + time;
        let tasks: Vec<_> = (0..connections).map(|c| {
            let (address, requests) = (address.to_string(), requests.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await?;
                let (mut done, mut next) = (0u64, c * requests.len() / connections);
                while Instant::now() < end {
                    let (path, body) = &requests[next % requests.len()];
                    let (status, answer) = connection.send(method, path, body.clone()).await?;
                    if status != 200 { bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&answer)); }
                    done += 1;
                    next += 1;
                }
                Ok(done)
            })
        }).collect();
        let mut sum = 0;
        for t in tasks { sum += t.await??; }
        Ok(sum)
    }
}
