//! How a connection between two nodes opens: a mutual proof of the cluster secret (HMAC over both nonces, node ids and claims), each side's judgement of
//! the other's cluster and data directory (`identity`), and of what it says that its disk holds (`marks`).

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::AsyncRuntime;
use hmac::{Hmac, Mac};
use rand_core::Rng;
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::api::{NodeId, RaftConfig};
use crate::identity::{Claim, Identity};
use crate::marks::Marks;
use crate::rt::Rt;

/// Also the version of the frames and of all bodies.
const MAGIC: &[u8; 8] = b"BATPEER3";
const LOG_AGAIN: Duration = Duration::from_secs(10);
const STATEMENT_MAX: usize = 1 << 20;

fn hmac(secret: &[u8], parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = <Hmac<Sha256>>::new_from_slice(secret).expect("HMAC takes keys of every length");
    parts.iter().for_each(|p| mac.update(p));
    mac
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
    pub(super) node: NodeId,
    secret: Arc<[u8]>,
    identity: Arc<dyn Identity>,
    pub(super) marks: Marks,
    /// The last refusal that was logged, and when.
    logged: Arc<Mutex<Option<(String, Instant)>>>,
}

impl Own {
    pub fn of(config: &RaftConfig, marks: Marks) -> Own {
        Own { node: config.node, secret: config.secret.clone().into(), identity: config.identity.clone(), marks, logged: Arc::default() }
    }

    /// Peers that are refused come back many times a second: the same reason is logged every ten seconds.
    pub(super) fn is_news(&self, reason: &str) -> bool {
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let known = logged.as_ref().is_some_and(|(last, at)| last == reason && now < *at + LOG_AGAIN);
        if !known {
            *logged = Some((reason.into(), now));
        }
        !known
    }

    /// For tests: as if the last refusal had been logged so much earlier.
    #[cfg(test)]
    pub(super) fn age_the_last_refusal(&self, by: Duration) {
        if let Some((_, at)) = self.logged.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            *at -= by;
        }
    }
}

const HELLO: usize = 8 + 8 + 8 + 16 + Claim::BYTES;
/// A verdict: 0 and nothing, or 1 and the reason.
const REASON: usize = 255;

/// The connecting side. The acceptor speaks first, so that no proof can be replayed; its verdict on our claim is the last word but ours.
pub(super) async fn greet(s: &mut (impl AsyncRead + AsyncWrite + Unpin), own: &Own, to: NodeId) -> io::Result<()> {
    let mut hello = [0u8; 24];
    s.read_exact(&mut hello).await?;
    let (magic, theirs) = hello.split_at(8);
    if magic != MAGIC {
        return Err(refused("the peer speaks another format version"));
    }
    let mine = nonce();
    let (from, peer, claim) = (own.node.to_be_bytes(), to.to_be_bytes(), own.identity.claim().encode());
    let mut message = MAGIC.to_vec();
    for part in [&from[..], &peer, &mine, &claim, &hmac(&own.secret, &[b"connect", theirs, &mine, &from, &peer, &claim]).finalize().into_bytes()] {
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
    if hmac(&own.secret, &[b"accept", theirs, &mine, &from, &peer, &answer, &reason]).verify_slice(&proof).is_err() {
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
pub(super) async fn welcome(s: &mut (impl AsyncRead + AsyncWrite + Unpin), own: &Own) -> io::Result<NodeId> {
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
    if hmac(&own.secret, &[b"connect", &mine, theirs, from, to, claim]).verify_slice(&proof).is_err() {
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
    let proof = hmac(&own.secret, &[b"accept", &mine, theirs, from, to, &answer]).finalize().into_bytes();
    answer.extend_from_slice(&proof);
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
pub(super) async fn compare(s: &mut (impl AsyncRead + AsyncWrite + Unpin), marks: &Marks, peer: NodeId) -> io::Result<()> {
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
