//! Whether a peer is who it says it is: of this cluster, and with the data directory that its node id is registered with (`safety.md` 22).
//! Knows no connection; `raft` asks in every handshake.

use crate::{
    machine::lock,
    node::Inner,
};
use baton_raft::{Claim, Identity, NodeId};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, Weak},
};

/// The judgement of one node.
pub struct Known {
    node: Weak<Inner>,
    /// Who refuses this node at the moment, and why.
    refusals: Mutex<BTreeMap<NodeId, String>>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("Known") }
}

impl Known {
    pub fn of(inner: &Arc<Inner>) -> Arc<Known> { Arc::new(Known { node: Arc::downgrade(inner), refusals: Mutex::default() }) }
}

impl Identity for Known {
    fn claim(&self) -> Claim {
        let Some(inner) = self.node.upgrade() else { return Claim { cluster: 0, directory: 0 } };
        let cluster = inner.meta.image().cluster_id;
        Claim { cluster: if cluster == 0 { inner.config.cluster } else { cluster }, directory: inner.config.directory }
    }

    fn judge(&self, peer: NodeId, claim: &Claim) -> Result<(), String> {
        let Some(inner) = self.node.upgrade() else { return Err("this node has stopped".into()) };
        let own = self.claim().cluster;
        if own != 0 && claim.cluster != 0 && own != claim.cluster {
            return Err(format!("node {} belongs to cluster {own:032x}, not to {:032x}", inner.config.node, claim.cluster));
        }
        // An empty folder may ask whether there is a cluster; it takes part in nothing.
        match inner.meta.image().directories.get(&peer) {
            Some(d) if claim.cluster != 0 && *d != claim.directory => Err(format!("node id {peer} is registered with another data directory")),
            _ => Ok(()),
        }
    }

    /// One mistaken peer must not stop a node; a majority of its cluster that refuses it means that the mistake is its own.
    fn refused(&self, by: NodeId, reason: &str) {
        let Some(inner) = self.node.upgrade() else { return };
        let mut refusals = lock(&self.refusals);
        if refusals.insert(by, reason.to_string()).is_none() {
            tracing::warn!(by, reason, "a peer refuses this node");
        }
        let against = refusals.len();
        if against * 2 > inner.config.peers.len() {
            inner.fail(format!(
                "{against} of the nodes it was told of refuse it: {reason}. Its data folder is not that of node {} of this cluster: correct --data or --peers, or join under a new node id with an empty folder",
                inner.config.node
            ));
        }
    }

    fn met(&self, peer: NodeId) { lock(&self.refusals).remove(&peer); }
}
