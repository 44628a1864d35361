//! Connections between nodes: one per peer for all groups, and a second one for snapshots, which would hold up the rest.
//!
//! A connection opens with a handshake (`handshake`), then it carries frames: length, request id, group, kind, body. A request is written at most once; whether a lost one may have
//! arrived is told to the caller. Bodies are neither encrypted nor authenticated one by one: the peer network is private.

mod handshake;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::api::{GroupNo, NodeId, PeerError};
pub use handshake::Own;
use handshake::{compare, greet, welcome};

const MAX_FRAME: usize = 256 << 20;
const HEADER: usize = 11;
const CONNECT: Duration = Duration::from_millis(500);
const HANDSHAKE: Duration = Duration::from_millis(1000);
/// After so much silence with a reply out, the peer is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_millis(300);
/// After so much silence with a reply out, the connection is given up: TCP itself would wait for minutes.
const STALL: Duration = Duration::from_millis(800);
const PING: u8 = 255;

type Reply = oneshot::Sender<Result<Vec<u8>, PeerError>>;

struct Request {
    group: GroupNo,
    kind: u8,
    body: Vec<u8>,
    reply: Reply,
}

/// Answers the frames of peers: sender, group, kind, body.
pub type Handler = Arc<dyn Fn(NodeId, GroupNo, u8, Vec<u8>) -> Pin<Box<dyn Future<Output = Vec<u8>> + Send>> + Send + Sync>;

// ---- frames

fn put_frame(out: &mut BytesMut, id: u64, group: GroupNo, kind: u8, body: &[u8]) {
    out.put_u32((HEADER + body.len()) as u32);
    out.put_u64(id);
    out.put_u16(group);
    out.put_u8(kind);
    out.put_slice(body);
}

struct Frame {
    id: u64,
    group: GroupNo,
    kind: u8,
    body: BytesMut,
}

/// The next whole frame; an error if the peer breaks the format.
fn take_frame(input: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some(length) = input.first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if !(HEADER..=MAX_FRAME).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame length"));
    }
    if input.len() < 4 + length {
        return Ok(None);
    }
    input.advance(4);
    let mut body = input.split_to(length);
    let (id, group, kind) = (body.get_u64(), body.get_u16(), body.get_u8());
    Ok(Some(Frame { id, group, kind, body }))
}

async fn write_out(to: &mut (impl AsyncWrite + Unpin), out: &mut BytesMut) -> io::Result<()> {
    // A dead link blocks the write; a slow one may carry a large snapshot at 1 MB/s.
    let patience = STALL + Duration::from_micros(out.len() as u64);
    let written = timeout(patience, async {
        to.write_all(out).await?;
        to.flush().await
    });
    written.await.map_err(|_| io::ErrorKind::TimedOut)??;
    out.clear();
    Ok(())
}

// ---- outgoing

#[derive(Clone)]
struct Peer {
    queue: mpsc::Sender<Request>,
}

impl Peer {
    async fn call(&self, group: GroupNo, kind: u8, body: Vec<u8>) -> Result<Vec<u8>, PeerError> {
        if body.len() > MAX_FRAME - HEADER {
            return Err(PeerError::NotSent("the message is too large".into()));
        }
        let (reply, answer) = oneshot::channel();
        self.queue.try_send(Request { group, kind, body, reply }).map_err(|_| PeerError::NotSent("the queue to the peer is full".into()))?;
        answer.await.unwrap_or_else(|_| Err(PeerError::Unknown("the connection broke".into())))
    }
}

struct Shared {
    own: Own,
    addresses: BTreeMap<NodeId, String>,
    /// By node and by use (true: snapshots).
    open: BTreeMap<(NodeId, bool), Peer>,
}

/// All outgoing connections of this node. Clones share them.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Mutex<Shared>>,
}

impl Peers {
    pub fn new(own: Own, addresses: BTreeMap<NodeId, String>) -> Peers {
        Peers { shared: Arc::new(Mutex::new(Shared { own, addresses, open: BTreeMap::new() })) }
    }

    /// Notes where a node listens; connections to another address end after their last reply.
    pub fn learn(&self, node: NodeId, address: &str) {
        let mut shared = self.lock();
        if shared.addresses.get(&node).is_none_or(|a| a != address) {
            shared.addresses.insert(node, address.to_string());
            shared.open.retain(|(n, _), _| *n != node);
        }
    }

    /// Sends one request and waits for its reply, at most `patience`.
    pub async fn call(&self, to: NodeId, group: GroupNo, kind: u8, body: Vec<u8>, bulk: bool, patience: Duration) -> Result<Vec<u8>, PeerError> {
        let peer = self.peer(to, bulk).ok_or_else(|| PeerError::NotSent(format!("no address of node {to}")))?;
        timeout(patience, peer.call(group, kind, body)).await.unwrap_or_else(|_| Err(PeerError::Unknown("no reply in time".into())))
    }

    /// All other nodes that this one has an address of.
    pub fn known(&self) -> Vec<NodeId> {
        let shared = self.lock();
        shared.addresses.keys().filter(|n| **n != shared.own.node).copied().collect()
    }

    /// Ends all connections.
    pub fn close(&self) {
        self.lock().open.clear();
    }

    fn peer(&self, to: NodeId, bulk: bool) -> Option<Peer> {
        let mut shared = self.lock();
        if let Some(peer) = shared.open.get(&(to, bulk)) {
            return Some(peer.clone());
        }
        let address = shared.addresses.get(&to)?.clone();
        let (queue, requests) = mpsc::channel(4096);
        tokio::spawn(run(address, shared.own.clone(), to, !bulk, requests));
        let peer = Peer { queue };
        shared.open.insert((to, bulk), peer.clone());
        Some(peer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps one connection for as long as somebody has requests for it. With `tell`, an operator hears once that a node is out of reach, and once that it is back.
async fn run(address: String, own: Own, to: NodeId, tell: bool, mut requests: mpsc::Receiver<Request>) {
    let mut out_of_reach = false;
    while let Some(first) = requests.recv().await {
        // The caller may have given up while the connection was down.
        if first.reply.is_closed() {
            continue;
        }
        match connect(&address, &own, to).await {
            Ok(stream) => {
                if tell && std::mem::take(&mut out_of_reach) {
                    tracing::info!(node = to, address, "a node is reached again");
                }
                if let Err(e) = converse(stream, first, &mut requests).await {
                    tracing::debug!(peer = to, error = %e, "peer connection ended");
                }
            }
            Err(e) => {
                if tell && !std::mem::replace(&mut out_of_reach, true) {
                    tracing::warn!(node = to, address, error = %e, "a node is out of reach; it is tried again and again");
                }
                let mut failed = Some(first);
                while let Some(request) = failed.take() {
                    // A dropped receiver has given up: nobody to tell.
                    let _ = request.reply.send(Err(PeerError::NotSent(e.to_string())));
                    failed = requests.try_recv().ok();
                }
            }
        }
    }
}

async fn connect(address: &str, own: &Own, to: NodeId) -> io::Result<TcpStream> {
    let mut stream = timeout(CONNECT, TcpStream::connect(address)).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connect timed out"))??;
    // Without it a heartbeat may wait for the acknowledgement of the one before; the connection works all the same.
    let _ = stream.set_nodelay(true);
    let handshake = async {
        greet(&mut stream, own, to).await?;
        compare(&mut stream, &own.marks, to).await
    };
    timeout(HANDSHAKE, handshake).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "handshake timed out"))??;
    Ok(stream)
}

/// Sends requests and hands out replies until the connection breaks. What is unanswered then has an unknown outcome.
async fn converse(stream: TcpStream, first: Request, requests: &mut mpsc::Receiver<Request>) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(stream);
    let (mut input, mut out) = (BytesMut::with_capacity(8192), BytesMut::new());
    let mut pending: BTreeMap<u64, Reply> = BTreeMap::new();
    let mut last_id = 0u64;
    let (mut heard, mut pinged) = (Instant::now(), false);
    let mut next = Some(first);
    loop {
        if next.is_some() && pending.is_empty() {
            (heard, pinged) = (Instant::now(), false);
        }
        while let Some(request) = next.take() {
            last_id += 1;
            put_frame(&mut out, last_id, request.group, request.kind, &request.body);
            pending.insert(last_id, request.reply);
            next = requests.try_recv().ok();
        }
        if !out.is_empty() {
            let large = out.len() > 1 << 20;
            write_out(&mut write, &mut out).await?;
            if large {
                (heard, pinged) = (Instant::now(), false);
            }
        }
        let wake = heard + if pinged { STALL } else { PING_AFTER };
        tokio::select! { biased;
            n = read.read_buf(&mut input) => {
                if n? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                (heard, pinged) = (Instant::now(), false);
                while let Some(frame) = take_frame(&mut input)? {
                    let of = if baton_storage::seeded::on(141) && frame.id > 0 { pending.keys().next().copied().unwrap_or(0) } else { frame.id };
                    if let Some(reply) = pending.remove(&of) {
                        // A dropped receiver has given up: nobody to tell.
                        let _ = reply.send(Ok(frame.body.to_vec()));
                    }
                }
            }
            request = requests.recv() => match request {
                Some(request) => next = Some(request),
                None => return Ok(()),
            },
            _ = tokio::time::sleep_until(wake), if !pending.is_empty() => {
                if pinged {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent"));
                }
                pending.retain(|_, reply| !reply.is_closed());
                put_frame(&mut out, 0, 0, PING, &[]);
                pinged = true;
            }
        }
    }
}

// ---- incoming

/// Accepts peers until the task is aborted. Open connections end at their next frame once `closing` is set.
pub async fn serve(listener: TcpListener, own: Own, handler: Handler, closing: Arc<AtomicBool>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Mostly a lack of file descriptors, which passes; without the pause this would spin.
                tracing::warn!(error = %e, "cannot accept a peer");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (own, handler, closing) = (own.clone(), handler.clone(), closing.clone());
        tokio::spawn(async move {
            if let Err(e) = answer(stream, &own, handler, closing).await {
                tracing::debug!(error = %e, "connection of a peer ended");
            }
        });
    }
}

async fn answer(mut stream: TcpStream, own: &Own, handler: Handler, closing: Arc<AtomicBool>) -> io::Result<()> {
    // See connect().
    let _ = stream.set_nodelay(true);
    let handshake = async {
        let from = welcome(&mut stream, own).await?;
        compare(&mut stream, &own.marks, from).await?;
        Ok::<_, io::Error>(from)
    };
    let from = match timeout(HANDSHAKE, handshake).await.map_err(|_| io::ErrorKind::TimedOut)? {
        Ok(from) => from,
        Err(e) => {
            if own.is_news(&e.to_string()) {
                tracing::warn!(error = %e, "peer refused");
            }
            return Err(e);
        }
    };
    let (mut read, mut write) = tokio::io::split(stream);
    let (replies, mut ready) = mpsc::channel::<(u64, Vec<u8>)>(1024);
    tokio::spawn(async move {
        let mut out = BytesMut::new();
        while let Some((id, body)) = ready.recv().await {
            put_frame(&mut out, id, 0, 0, &body);
            while let Ok((id, body)) = ready.try_recv() {
                put_frame(&mut out, id, 0, 0, &body);
            }
            if write_out(&mut write, &mut out).await.is_err() {
                return;
            }
        }
    });
    let mut input = BytesMut::with_capacity(8192);
    while read.read_buf(&mut input).await? > 0 {
        while let Some(frame) = take_frame(&mut input)? {
            if closing.load(Ordering::SeqCst) {
                return Ok(());
            }
            if frame.kind == PING {
                // A full queue is a sign of life, too: its replies come.
                let _ = replies.try_send((frame.id, Vec::new()));
                continue;
            }
            #[cfg(madsim)]
            if frame.kind <= crate::net::TRANSFER
                && let Some(later) = crate::faults::copy()
            {
                let again = handler(from, frame.group, frame.kind, frame.body.to_vec());
                tokio::spawn(async move {
                    tokio::time::sleep(later).await;
                    again.await
                });
            }
            let (work, replies) = (handler(from, frame.group, frame.kind, frame.body.to_vec()), replies.clone());
            tokio::spawn(async move {
                // A closed channel means that the connection is gone; the peer asks again.
                let _ = replies.send((frame.id, work.await)).await;
            });
        }
    }
    Ok(())
}

#[cfg(all(test, not(madsim)))]
mod tests;
