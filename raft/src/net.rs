//! Consensus messages over the peer connections, both directions.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::v2::RaftNetworkV2;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, OptionalSend};
use tokio::time::Instant;

use crate::api::{GroupNo, NodeId, PeerError};
use crate::campaign::Heard;
use crate::marks::Marks;
use crate::peer::Peers;
use crate::types::{Payload, Raft, Snapshot, SnapshotMeta, TypeConfig, Vote, decode, encode};
use crate::writer::Health;

const APPEND: u8 = 0;
const VOTE: u8 = 1;
const PRE_VOTE: u8 = 2;
const SNAPSHOT: u8 = 3;
pub const TRANSFER: u8 = 4;
/// An opaque call of the node crate; not for consensus.
pub const FORWARD: u8 = 5;
/// What the sender's disk holds.
pub const MARKS: u8 = 6;

const MARKS_EVERY: Duration = Duration::from_millis(1000);

const APPEND_PATIENCE: Duration = Duration::from_millis(1000);

/// Makes the senders of one group.
pub struct Factory {
    pub peers: Peers,
    pub group: GroupNo,
}

/// Sends one group's messages to one peer.
pub struct Client {
    peers: Peers,
    group: GroupNo,
    to: NodeId,
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = Client;

    async fn new_client(&mut self, to: NodeId, node: &BasicNode) -> Client {
        self.peers.learn(to, &node.addr);
        Client { peers: self.peers.clone(), group: self.group, to }
    }
}

fn unreachable(e: impl std::error::Error + 'static) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&e))
}

impl Client {
    async fn rpc<Q: serde::Serialize, R: serde::de::DeserializeOwned>(&self, kind: u8, request: &Q, patience: Duration) -> Result<R, RPCError<TypeConfig>> {
        let body = encode(request).map_err(unreachable)?;
        let answer = self.peers.call(self.to, self.group, kind, body, kind == SNAPSHOT, patience).await;
        let answer = answer.map_err(|e| match e {
            PeerError::NotSent(_) => unreachable(e),
            PeerError::Unknown(_) => RPCError::Network(NetworkError::new(&e)),
        })?;
        let answer: Result<R, String> = decode(&answer).map_err(unreachable)?;
        answer.map_err(|e| unreachable(io::Error::other(e)))
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Vec<u8>;

    async fn append_entries(&mut self, q: AppendEntriesRequest<TypeConfig>, o: RPCOption) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        // The library allows one heartbeat interval. Entries wait for the peer's disk, which may take longer; asking again
        // would only send them twice.
        let patience = if q.entries.is_empty() { o.hard_ttl() } else { o.hard_ttl().max(APPEND_PATIENCE) };
        self.rpc(APPEND, &q, patience).await
    }

    async fn vote(&mut self, q: VoteRequest<TypeConfig>, o: RPCOption) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(VOTE, &q, o.hard_ttl()).await
    }

    async fn pre_vote(&mut self, q: VoteRequest<TypeConfig>, o: RPCOption) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(PRE_VOTE, &q, o.hard_ttl()).await
    }

    async fn transfer_leader(&mut self, q: TransferLeaderRequest<TypeConfig>, o: RPCOption) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.rpc(TRANSFER, &q, o.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        o: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let request = (vote, snapshot.meta, Payload(snapshot.snapshot.into()));
        tokio::select! { biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.rpc(SNAPSHOT, &request, o.hard_ttl()) => answer.map_err(|e| StreamingError::Unreachable(Unreachable::new(&e))),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(Duration::from_millis(100))))
    }
}

/// Tells all peers every second what is durable here, so that they would know an old copy of it.
pub async fn tell_marks(marks: Marks, peers: Peers, closing: Arc<AtomicBool>) {
    loop {
        tokio::time::sleep(MARKS_EVERY).await;
        if closing.load(Ordering::SeqCst) {
            return;
        }
        // A log that cannot be asked has failed, and that is reported elsewhere.
        let Ok(statement) = marks.state().await else { return };
        for to in peers.known() {
            let (peers, statement) = (peers.clone(), statement.clone());
            // The next one says more: a lost one is no loss.
            tokio::spawn(async move { peers.call(to, 0, MARKS, statement, false, MARKS_EVERY).await });
        }
    }
}

/// Answers one consensus message of a peer. A node with a full disk takes no entries and no snapshot, but votes and hears its leader.
pub async fn handle(raft: &Raft, leader: &Heard, #[cfg_attr(not(madsim), allow(unused_variables))] group: GroupNo, kind: u8, body: &[u8], health: &Health) -> Vec<u8> {
    #[cfg(madsim)]
    let heard = crate::faults::now_ns();
    macro_rules! request {
        () => {
            match decode(body) {
                Ok(request) => request,
                Err(e) => return refuse(e),
            }
        };
    }
    match kind {
        APPEND => {
            let request: AppendEntriesRequest<TypeConfig> = request!();
            if !request.entries.is_empty() {
                if health.is_full() {
                    return refuse("the disk is full");
                }
                health.room().await;
            }
            #[cfg(madsim)]
            let term = request.vote.leader_id.term;
            let answer = raft.append_entries(request).await;
            if answer.as_ref().is_ok_and(|a| !matches!(a, AppendEntriesResponse::HigherVote(_))) {
                leader.note(Instant::now());
                #[cfg(madsim)]
                promise(raft, group, term, heard);
            }
            reply(answer)
        }
        VOTE => {
            let answer = raft.vote(request!()).await;
            #[cfg(madsim)]
            if answer.as_ref().is_ok_and(|a| a.vote_granted) {
                crate::faults::pass("vote granted", group).await;
            }
            reply(answer)
        }
        PRE_VOTE => reply(raft.pre_vote(request!()).await),
        TRANSFER => reply(raft.handle_transfer_leader(request!()).await),
        SNAPSHOT if health.is_full() => refuse("the disk is full"),
        SNAPSHOT => {
            let (vote, meta, data): (Vote, SnapshotMeta, Payload) = request!();
            let answer = raft.install_full_snapshot(vote, Snapshot { meta, snapshot: data.0.to_vec() }).await;
            #[cfg(madsim)]
            if answer.as_ref().is_ok_and(|a| a.vote == vote) {
                promise(raft, group, vote.leader_id.term, heard);
            }
            reply(answer)
        }
        _ => refuse("unknown kind of message"),
    }
}

/// For the simulation: this node has heard its leader, and elects nobody else for an election time from then on.
#[cfg(madsim)]
fn promise(raft: &Raft, group: GroupNo, term: u64, heard: u64) {
    crate::faults::promised(group, term, heard, Duration::from_millis(raft.config().election_timeout_max));
}

/// An answer that says why there is none.
pub fn refuse(why: impl std::fmt::Display) -> Vec<u8> {
    reply(Err::<(), _>(why))
}

fn reply<T: serde::Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Vec<u8> {
    // Encoding into memory fails for no type of ours; an empty reply would be refused by the decoder there.
    encode(&result.map_err(|e| e.to_string())).unwrap_or_default()
}
