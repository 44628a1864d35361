//! Who a node is to its peers, beside its number: its cluster and its data directory. What the crate above knows of both decides
//! whether a connection is kept (`safety.md` 22). A node of another cluster, or with another folder under a known number, never gets a frame through.

use std::fmt;

use crate::api::NodeId;

/// What a node says of itself in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// 0: it knows of none yet.
    pub cluster: u128,
    /// The random id of its data folder.
    pub directory: u128,
}

impl Claim {
    pub(crate) const BYTES: usize = 32;
    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..16].copy_from_slice(&self.cluster.to_be_bytes());
        out[16..].copy_from_slice(&self.directory.to_be_bytes());
        out
    }
    pub(crate) fn decode(bytes: &[u8; Self::BYTES]) -> Claim {
        let number = |b: &[u8]| b.iter().fold(0u128, |n, x| n << 8 | u128::from(*x));
        Claim { cluster: number(&bytes[..16]), directory: number(&bytes[16..]) }
    }
}

/// The judgement of the crate above. Called on the way of every handshake: it must not wait.
pub trait Identity: fmt::Debug + Send + Sync {
    /// What this node says of itself now.
    fn claim(&self) -> Claim;
    /// Whether the peer may be what it says; the reason is told to it.
    fn judge(&self, peer: NodeId, claim: &Claim) -> Result<(), String>;
    /// A peer refused this node's claim.
    fn refused(&self, by: NodeId, reason: &str);
    /// A peer took this node's claim, and its own was taken.
    fn met(&self, peer: NodeId);
}

/// Takes everybody who knows the secret: for tests without clusters.
#[derive(Debug)]
pub struct Anybody;

impl Identity for Anybody {
    fn claim(&self) -> Claim { Claim { cluster: 0, directory: 0 } }
    fn judge(&self, _: NodeId, _: &Claim) -> Result<(), String> { Ok(()) }
    fn refused(&self, _: NodeId, _: &str) {}
    fn met(&self, _: NodeId) {}
}
