//! Connections between nodes: one per peer for all groups, and a second one for snapshots, which would hold up the rest.
//!
//! A connection opens with a mutual proof of the cluster secret (HMAC over both nonces, node ids and claims), each side judges the other's
//! claim of cluster and data directory (`identity`) and what it says that its disk holds (`marks`), then it carries
//! frames: length, request id, group, kind, body. A request is written at most once; whether a lost one may have
//! arrived is told to the caller. Bodies are neither encrypted nor authenticated one by one: the peer network is private.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use openraft::AsyncRuntime;
use rand_core::Rng;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

use crate::api::{GroupNo, NodeId, PeerError, RaftConfig};
use crate::identity::{Claim, Identity};
use crate::marks::Marks;
use crate::rt::Rt;

/// Also the version of the frames and of all bodies.
const MAGIC: &[u8; 8] = b"BATPEER3";
const MAX_FRAME: usize = 256 << 20;
const HEADER: usize = 11;
const CONNECT: Duration = Duration::from_millis(500);
const HANDSHAKE: Duration = Duration::from_millis(1000);
/// After so much silence with a reply out, the peer is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_millis(300);
/// After so much silence with a reply out, the connection is given up: TCP itself would wait for minutes.
const STALL: Duration = Duration::from_millis(800);
const PING: u8 = 255;
const LOG_AGAIN: Duration = Duration::from_secs(10);
const STATEMENT_MAX: usize = 1 << 20;

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

// ---- handshake

fn hmac(secret: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut key = [0u8; 64];
    if secret.len() > 64 {
        key[..32].copy_from_slice(&Sha256::digest(secret));
    } else {
        key[..secret.len()].copy_from_slice(secret);
    }
    let pad = |x: u8| Sha256::new_with_prefix(key.map(|b| b ^ x));
    let mut inner = pad(0x36);
    parts.iter().for_each(|p| inner.update(p));
    let mut outer = pad(0x5c);
    outer.update(inner.finalize());
    outer.finalize().into()
}

/// Compares without telling by its duration where the difference is.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

fn nonce() -> [u8; 16] {
    let mut bytes = [0; 16];
    Rt::thread_rng().fill_bytes(&mut bytes);
    bytes
}

fn refused(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.into())
}

/// Who this node is: what every handshake needs.
#[derive(Clone)]
pub struct Own {
    node: NodeId,
    secret: Arc<[u8]>,
    identity: Arc<dyn Identity>,
    marks: Marks,
    /// The last refusal that was logged, and when.
    logged: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Own {
    pub fn of(config: &RaftConfig, marks: Marks) -> Own {
        Own { node: config.node, secret: config.secret.clone().into(), identity: config.identity.clone(), marks, logged: Arc::default() }
    }

    /// Peers that are refused come back many times a second: the same reason is logged every ten seconds.
    fn is_news(&self, reason: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known = logged.as_ref().is_some_and(|(last, at)| last == reason && now < *at + LOG_AGAIN);
        if !known {
            *logged = Some((reason.into(), now));
        }
        !known
    }
}

const HELLO: usize = 8 + 8 + 8 + 16 + Claim::BYTES;
/// A verdict: 0 and nothing, or 1 and the reason.
const REASON: usize = 255;

/// The connecting side. The acceptor speaks first, so that no proof can be replayed; its verdict on our claim is the last word but ours.
async fn greet(s: &mut (impl AsyncRead + AsyncWrite + Unpin), own: &Own, to: NodeId) -> io::Result<()> {
    let mut hello = [0u8; 24];
    s.read_exact(&mut hello).await?;
    let (magic, theirs) = hello.split_at(8);
    if magic != MAGIC {
        return Err(refused("the peer speaks another format version"));
    }
    let mine = nonce();
    let (from, peer, claim) = (own.node.to_be_bytes(), to.to_be_bytes(), own.identity.claim().encode());
    let mut message = MAGIC.to_vec();
    for part in [&from[..], &peer, &mine, &claim, &hmac(&own.secret, &[b"connect", theirs, &mine, &from, &peer, &claim])] {
        message.extend_from_slice(part);
    }
    s.write_all(&message).await?;
    s.flush().await?;
    let mut answer = [0u8; Claim::BYTES + 2];
    s.read_exact(&mut answer).await.map_err(|_| refused("the peer refused: other secret, format version or node id"))?;
    let mut reason = vec![0u8; usize::from(answer[Claim::BYTES + 1])];
    s.read_exact(&mut reason).await?;
    let mut proof = [0u8; 32];
    s.read_exact(&mut proof).await?;
    if !same(&proof, &hmac(&own.secret, &[b"accept", theirs, &mine, &from, &peer, &answer, &reason])) {
        return Err(refused("the peer does not know the cluster secret"));
    }
    if answer[Claim::BYTES] != 0 {
        let reason = String::from_utf8_lossy(&reason).into_owned();
        own.identity.refused(to, &reason);
        return Err(refused(format!("node {to} refused: {reason}")));
    }
    let (claim, _) = answer.split_first_chunk().expect("the answer is longer than a claim");
    own.identity.judge(to, &Claim::decode(claim)).map_err(refused)?;
    own.identity.met(to);
    Ok(())
}

/// The accepting side. Returns the node id of the peer.
async fn welcome(s: &mut (impl AsyncRead + AsyncWrite + Unpin), own: &Own) -> io::Result<NodeId> {
    let mine = nonce();
    let mut hello = MAGIC.to_vec();
    hello.extend_from_slice(&mine);
    s.write_all(&hello).await?;
    s.flush().await?;
    let mut message = [0u8; HELLO + 32];
    s.read_exact(&mut message).await?;
    let mut rest = &message[..];
    let mut take = |n: usize| {
        let (head, tail) = rest.split_at(n);
        rest = tail;
        head
    };
    let (magic, from, to, theirs, claim) = (take(8), take(8), take(8), take(16), take(Claim::BYTES));
    let mut proof = [0u8; 32];
    proof.copy_from_slice(take(32));
    if magic != MAGIC {
        return Err(refused("another format version"));
    }
    if !same(&proof, &hmac(&own.secret, &[b"connect", &mine, theirs, from, to, claim])) {
        return Err(refused("wrong cluster secret"));
    }
    let number = |b: &[u8]| b.iter().fold(0u64, |n, x| n << 8 | u64::from(*x));
    if number(to) != own.node {
        return Err(refused("meant for another node"));
    }
    let peer = number(from);
    let claimed = Claim::decode(claim.first_chunk().expect("a claim was cut off above"));
    let verdict = own.identity.judge(peer, &claimed);
    let reason = verdict.as_ref().err().map(|r| &r.as_bytes()[..r.len().min(REASON)]).unwrap_or_default();
    let mut answer = own.identity.claim().encode().to_vec();
    answer.extend_from_slice(&[u8::from(verdict.is_err()), reason.len() as u8]);
    answer.extend_from_slice(reason);
    answer.extend_from_slice(&hmac(&own.secret, &[b"accept", &mine, theirs, from, to, &answer]));
    s.write_all(&answer).await?;
    s.flush().await?;
    verdict.map(|()| peer).map_err(|r| refused(format!("node {peer}: {r}")))
}

// ---- statements of what is on disk

async fn put(s: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    s.write_all(&(bytes.len() as u32).to_be_bytes()).await?;
    s.write_all(bytes).await?;
    s.flush().await
}

async fn take(s: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    s.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    if length > STATEMENT_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "statement length"));
    }
    let mut bytes = vec![0; length];
    s.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Both sides state what their disk holds, then say what they think of it; nothing of consensus passes before. An empty verdict is none.
async fn compare(s: &mut (impl AsyncRead + AsyncWrite + Unpin), marks: &Marks, peer: NodeId) -> io::Result<()> {
    put(s, &marks.state().await?).await?;
    let verdict = marks.judge(peer, &take(s).await?);
    put(s, verdict.as_ref().err().map_or(&[][..], |e| e.as_bytes())).await?;
    let theirs = take(s).await?;
    if !theirs.is_empty() {
        marks.refused(peer, &String::from_utf8_lossy(&theirs));
        return Err(refused("the peer refuses what is on this disk"));
    }
    verdict.map_err(|_| refused("the peer's folder was restored from an old copy"))
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
                    if let Some(reply) = pending.remove(&frame.id) {
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
