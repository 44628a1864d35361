//! What nodes say to each other beside Raft: forwarded requests (one hop, sent once) and pings.
//!
//! A forwarder holds no lease, cache or timer of a group (`safety.md` 5). The receiving node serves from its own shards and never forwards again.

use crate::{driver::Outcome, node::Inner};
use baton_coordinator::{
    command::{GroupError, Request, Response},
    metadata::{MetaCommand, MetaError},
};
use baton_raft::{NodeId, PeerError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::time::Duration;

/// No forwarded request is worked on for longer.
const LONGEST_MS: u64 = 60_000;

/// How far a node is on its way into a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Its folder is empty and it runs no group: it asks the others.
    Asking,
    /// All others answered that they know no cluster; its groups run and wait for their first voters.
    Forming,
    /// Its groups have voters.
    Member,
}

/// What a node says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub http: String,
    pub phase: Phase,
    pub draining: bool,
    pub shards: u16,
    /// The ids of the first nodes as it was told.
    pub peers: Vec<NodeId>,
}

#[derive(Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // a call is made, sent and forgotten: it is never kept in numbers
pub enum Call {
    Ping(Hello),
    /// The budget in it is what is left.
    Request(Box<Request>),
    Meta(MetaCommand),
    /// The meta group's committed revision, linearizable.
    MetaRevision,
    Transfer {
        shard: u16,
        to: NodeId,
    },
}

#[derive(Serialize, Deserialize)]
pub enum Answer {
    Pong(Hello),
    Done(Result<Response, GroupError>),
    Meta(Result<u64, MetaError>),
    Transferred(Result<(), String>),
    /// Surely not carried out.
    NotTaken(String),
    /// Perhaps carried out.
    Unknown(String),
}

/// Why a call has no answer.
pub enum CallError {
    NotTaken(String),
    Unknown(String),
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> { bincode::serialize(value).expect("a Vec takes every write and the types have no unserialisable value") }
fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> { bincode::deserialize(bytes).ok() }

/// Sends a call once.
pub async fn call(inner: &Inner, to: NodeId, call: &Call, timeout: Duration) -> Result<Answer, CallError> {
    let raft = inner.raft.get().ok_or_else(|| CallError::NotTaken("this node is starting".into()))?;
    let bytes = raft.call(to, encode(call), timeout).await.map_err(|e| match e {
        PeerError::NotSent(_) => CallError::NotTaken(format!("node {to} cannot be reached: {e}")),
        PeerError::Unknown(_) => CallError::Unknown(format!("node {to}: {e}")),
    })?;
    match decode(&bytes) {
        Some(Answer::NotTaken(reason)) => Err(CallError::NotTaken(reason)),
        Some(Answer::Unknown(reason)) => Err(CallError::Unknown(reason)),
        Some(answer) => Ok(answer),
        None => Err(CallError::Unknown(format!("node {to} gave an answer that this version cannot read"))),
    }
}

/// Answers a call of a peer.
pub async fn answer(inner: &Inner, from: NodeId, body: Vec<u8>) -> Vec<u8> {
    let answer = match decode(&body) {
        Some(Call::Ping(hello)) => {
            inner.heard(from, hello);
            Answer::Pong(inner.hello())
        }
        Some(Call::Request(request)) => {
            let wait = Duration::from_millis(request.budget_ms.unwrap_or(LONGEST_MS).min(LONGEST_MS));
            match inner.local(*request, wait).await {
                Outcome::Done(result) => Answer::Done(result),
                Outcome::NotTaken(reason) => Answer::NotTaken(reason),
            }
        }
        Some(Call::Meta(command)) => match inner.propose_meta(&command).await {
            Ok(result) => Answer::Meta(result),
            Err(CallError::NotTaken(reason)) => Answer::NotTaken(reason),
            Err(CallError::Unknown(reason)) => Answer::Unknown(reason),
        },
        Some(Call::MetaRevision) => match inner.meta_revision().await {
            Ok(revision) => Answer::Meta(Ok(revision)),
            Err(reason) => Answer::NotTaken(reason),
        },
        Some(Call::Transfer { shard, to }) => Answer::Transferred(inner.transfer_local(shard, to).await),
        None => Answer::NotTaken("the call cannot be read by this version".into()),
    };
    encode(&answer)
}
