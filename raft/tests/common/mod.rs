//! A small state machine that remembers everything, and how to start a node on a simulated disk.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use baton_raft::{Cuts, FrozenChanges, RaftConfig, RaftNode, StateMachine, Stored};
use baton_storage::{SimDisk, SimKv};
use baton_storage::wal::{Options, Wal};

/// State of one group on one node, shared with the test.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub index: u64,
    pub chain: u64,
    pub payloads: Vec<Vec<u8>>,
    /// So many of them are in a cut.
    pub frozen: usize,
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

    /// One pair per payload, so that a cut is written piece by piece.
    fn freeze(&mut self) -> FrozenChanges {
        let mut s = self.state.lock().unwrap();
        let from = s.frozen;
        s.frozen = s.payloads.len();
        let (new, head) = (s.payloads[from..].to_vec(), bincode::serialize(&(s.index, s.chain)).unwrap());
        Box::new(move || {
            let pairs = new.into_iter().enumerate().map(|(i, p)| ([b"p", &(from + i).to_be_bytes()[..]].concat(), Some(p)));
            pairs.chain([(b"head".to_vec(), Some(head))]).collect()
        })
    }

    fn load(&mut self, stored: &Stored) -> Result<(), String> {
        let head = stored.get(b"head").map_err(|e| e.to_string())?.ok_or("no head")?;
        let (index, chain) = bincode::deserialize(&head).map_err(|e| e.to_string())?;
        let mut payloads = Vec::new();
        stored
            .visit(b"p", b"p", &mut |_, p| {
                payloads.push(p.to_vec());
                Ok(())
            })
            .map_err(|e| e.to_string())?;
        let frozen = payloads.len();
        let mut s = self.state.lock().unwrap();
        *s = State { index, chain, payloads, frozen, restored: s.restored + 1 };
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
pub async fn start(config: RaftConfig, (wal, snapshots, state): (SimDisk, SimDisk, SimKv), peers: &BTreeMap<u64, String>, machines: [Machine; 2]) -> RaftNode {
    let machines = machines.into_iter().enumerate().map(|(no, m)| (no as u16, Box::new(m) as Box<dyn StateMachine>)).collect();
    let node = config.node;
    let forward: baton_raft::ForwardHandler = Arc::new(move |from, body| {
        Box::pin(async move {
            let mut reply = format!("{from} to {node}: ").into_bytes();
            reply.extend_from_slice(&body);
            reply
        })
    });
    let cuts = Cuts::open(&state, [7; 24], 0..2).unwrap();
    RaftNode::start(config, open(wal), snapshots, cuts, machines, peers.clone(), forward).await.unwrap()
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
