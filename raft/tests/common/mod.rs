//! A small state machine that remembers everything, and how to start a node on a simulated disk.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use baton_raft::{RaftConfig, RaftNode, StateMachine};
use baton_storage::SimDisk;
use baton_storage::wal::{Options, Wal};

/// State of one group on one node, shared with the test.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub index: u64,
    pub chain: u64,
    pub payloads: Vec<Vec<u8>>,
    pub restored: u64,
}

type Hook = Arc<dyn Fn(u64, u64) + Send + Sync>;

#[derive(Clone, Default)]
pub struct Machine {
    pub state: Arc<Mutex<State>>,
    /// Sees index and chain hash after each entry.
    pub hook: Option<Hook>,
}

fn mix(h: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(h ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl StateMachine for Machine {
    fn apply(&mut self, index: u64, term: u64, payload: &[u8]) -> Vec<u8> {
        let mut s = self.state.lock().unwrap();
        assert!(index > s.index, "entry {index} applied after {}", s.index);
        s.chain = mix(mix(s.chain, &term.to_be_bytes()), payload);
        s.payloads.push(payload.to_vec());
        let mut reply = b"did ".to_vec();
        reply.extend_from_slice(payload);
        reply
    }

    fn snapshot(&self) -> Vec<u8> {
        let s = self.state.lock().unwrap();
        bincode::serialize(&(s.index, s.chain, &s.payloads)).unwrap()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        let (index, chain, payloads) = bincode::deserialize(bytes).map_err(|e| e.to_string())?;
        let mut s = self.state.lock().unwrap();
        *s = State { index, chain, payloads, restored: s.restored + 1 };
        Ok(())
    }

    fn applied(&mut self, index: u64, _term: u64) {
        let mut s = self.state.lock().unwrap();
        s.index = index;
        if let Some(hook) = &self.hook {
            hook(index, s.chain);
        }
    }
}

pub fn open(disk: SimDisk) -> (Wal<SimDisk>, BTreeMap<u16, baton_storage::wal::GroupLog>) {
    Wal::open(disk, Options::new(1 << 16, [7; 24])).unwrap()
}

/// Starts groups 0 and 1 with the two machines.
pub async fn start(config: RaftConfig, wal: SimDisk, snapshots: SimDisk, peers: &BTreeMap<u64, String>, machines: [Machine; 2]) -> RaftNode {
    let machines = machines.into_iter().enumerate().map(|(no, m)| (no as u16, Box::new(m) as Box<dyn StateMachine>)).collect();
    let node = config.node;
    let forward: baton_raft::ForwardHandler = Arc::new(move |from, body| {
        Box::pin(async move {
            let mut reply = format!("{from} to {node}: ").into_bytes();
            reply.extend_from_slice(&body);
            reply
        })
    });
    RaftNode::start(config, open(wal), snapshots, machines, peers.clone(), forward).await.unwrap()
}

/// Cuts the power of a disk: what was not synced survives in part.
#[cfg(madsim)]
pub fn crash(disk: &SimDisk) {
    use baton_storage::Crash;
    use madsim::rand::{Rng, thread_rng};
    let kinds = [Crash::LoseUnsynced, Crash::KeepAll, Crash::KeepPrefix, Crash::KeepSuffix, Crash::KeepSome, Crash::KillProcess];
    let kind = kinds[thread_rng().gen_range(0..kinds.len())];
    disk.crash(kind, &mut |n| thread_rng().gen_range(0..n));
}
