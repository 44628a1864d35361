//! What a node does as a leader, for its own callers and for those that other nodes forward: requests to its shards, meta commands, transfers.
//! An answer leaves here only while the lease it was decided under holds (`safety.md` 3).

use crate::{
    driver::{Decided, Mail, Outcome},
    forward::CallError,
    machine::{Checked, ShardSlot, decode_meta_reply, encode_meta, lock},
    node::{Inner, META},
};
use baton_coordinator::{
    command::{Command, GroupError, OffsetView, Request, Response},
    ids::{Millis, Partition, Term},
    metadata::{MetaCommand, MetaError},
    seeded,
    shard::shard_of,
    state::CommittedOffset,
};
use baton_raft::NodeId;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

impl Inner {
    /// Has a shard of this node carry out a request.
    pub async fn local(&self, request: Request, wait: Duration) -> Outcome {
        let shard = shard_of(&request.group, self.config.shards);
        match self.at_once(shard, &request) {
            Some(decided) => self.let_go(shard, decided).await,
            None => self.in_turn(shard, request, wait).await,
        }
    }
    /// As `local`, for a request that `at_once` has left to the driver.
    pub async fn in_turn(&self, shard: u16, request: Request, wait: Duration) -> Outcome {
        let decided = self.by_its_driver(shard, request, wait).await;
        self.let_go(shard, decided).await
    }

    /// A heartbeat with nothing new in it, decided here: under the driver's last lease check while that binds a majority, if the leadership was not about to be given away
    /// since. Then nobody else can have led at the moment of the decision (`safety.md` 3). None: it is the driver's.
    pub fn at_once(&self, shard: u16, request: &Request) -> Option<Decided> {
        if !matches!(request.command, Command::Heartbeat(_)) || seeded::on(7) {
            return None;
        }
        let (slot, now) = (self.shards.get(usize::from(shard))?, self.config.clock.now());
        let checked = *lock(&slot.lease);
        let Checked { term, at, transfers } = checked.filter(|c| self.binds(c.at, now.mono_ms))?;
        let response = {
            let mut shard = slot.shard();
            if shard.leading() != Some(term) {
                return None;
            }
            shard.steady(request, now)?
        };
        // Looked at after the decision. That the check still binds then is looked at when the answer leaves, or the lease is asked again.
        if self.raft.get()?.transfers(shard + 1)? != transfers && !seeded::on(223) {
            return None;
        }
        slot.times.purgatory.record(0);
        Some(Decided { outcome: Outcome::Done(Ok(response)), under: Some((term, at)) })
    }

    /// Hands a request to the shard's driver, and waits for what becomes of it.
    async fn by_its_driver(&self, shard: u16, request: Request, wait: Duration) -> Decided {
        let Some(mail) = self.mail.get().and_then(|m| m.get(usize::from(shard))) else { return Outcome::NotTaken("this node is starting".into()).into() };
        let (reply, answer) = oneshot::channel();
        let history = if let Command::History { since } = request.command { Some((request.group.clone(), since)) } else { None };
        if let Err(e) = mail.try_send(Mail { request, arrived: self.now(), reply }) {
            let why = match e {
                mpsc::error::TrySendError::Full(_) => "the shard has too many requests waiting".into(),
                mpsc::error::TrySendError::Closed(_) => "this node is stopping".to_string(),
            };
            return Outcome::NotTaken(why).into();
        }
        let Decided { outcome, under } = match tokio::time::timeout(wait, answer).await {
            Ok(Ok(decided)) => decided,
            Ok(Err(_)) => unknown("this node is stopping").into(),
            Err(_) => unknown("the request was not decided in its time").into(),
        };
        let outcome = match outcome {
            Outcome::Done(Ok(Response::HistoryAt { first, next })) if let Some((group, since)) = history => {
                let look = lock(&self.shards[usize::from(shard)].history).look(&group, first, next);
                let read = baton_raft::blocking(move || look.read(since)).await;
                Outcome::Done(read.and_then(|r| r).map(Response::History).map_err(|e| GroupError::Unavailable { reason: format!("the history cannot be read: {e}") }))
            }
            outcome => outcome,
        };
        Decided { outcome, under }
    }

    /// Lets an answer go, if the lease it was decided under holds. That check saw a quorum's word of at most the lease age; what the election time has over that, less the
    /// drift of clocks, is how long it lasts. After that the lease is asked again.
    pub async fn let_go(&self, shard: u16, decided: Decided) -> Outcome {
        let Decided { outcome, under } = decided;
        baton_raft::failpoint!("answer about to leave", shard + 1);
        #[cfg(madsim)]
        let known = baton_raft::faults::known(shard + 1);
        let Some((term, checked)) = under else { return outcome };
        if !self.binds(checked, self.now()) && !seeded::on(84) && !Box::pin(self.still_leads(shard + 1, term)).await {
            return unknown("the node that answers lost its lease before the answer could leave");
        }
        #[cfg(madsim)]
        baton_raft::faults::answer_leaves(shard + 1, term, known);
        outcome
    }

    /// Whether the lease is given for this term, at a moment after this call.
    async fn still_leads(&self, no: u16, term: Term) -> bool {
        let Some(group) = self.group(no) else { return false };
        matches!(tokio::time::timeout(Duration::from_secs(1), group.lease()).await, Ok(Ok(t)) if t == term)
    }

    /// Whether a lease check that began at `checked` still counts.
    fn binds(&self, checked: Millis, now: Millis) -> bool {
        let raft = &self.config.raft;
        let lasts = drift_bounded(raft.election_max_ms).saturating_sub(if seeded::on(169) { 0 } else { raft.lease_age_ms });
        within(now, checked, lasts)
    }

    /// Proposes a meta command as the leader. A result, refusals too, is a committed one.
    pub async fn propose_meta(&self, command: &MetaCommand) -> Result<Result<u64, MetaError>, CallError> {
        let group = self.group(META).ok_or_else(|| CallError::NotTaken("this node is starting".into()))?;
        match tokio::time::timeout(Duration::from_secs(4), group.propose(encode_meta(command))).await {
            Ok(Ok((_, reply))) => decode_meta_reply(&reply).map_err(CallError::Unknown),
            Ok(Err(e)) if e.outcome_unknown => Err(CallError::Unknown(e.to_string())),
            Ok(Err(e)) => Err(CallError::NotTaken(e.to_string())),
            Err(_) => Err(CallError::Unknown("the command was not committed in time".into())),
        }
    }

    /// The committed revision as the leader knows it at a moment after this call.
    pub async fn meta_revision(&self) -> Result<u64, String> {
        let group = self.group(META).ok_or("this node is starting")?;
        if seeded::on(105) {
            return Ok(self.meta.image().revision);
        }
        match tokio::time::timeout(Duration::from_secs(1), group.barrier()).await {
            Ok(Ok(_)) => Ok(self.meta.image().revision),
            Ok(Err(e)) => Err(e.to_string()),
            Err(_) => Err("a majority of the nodes did not answer in time".into()),
        }
    }

    /// Gives the leadership of a shard to `to`, if this node has it.
    pub async fn transfer_local(&self, shard: u16, to: NodeId) -> Result<(), String> {
        let group = self.group(shard + 1).ok_or_else(|| format!("shard {shard} does not exist"))?;
        let status = group.status();
        if !status.is_leader {
            return Err(format!("node {} does not lead shard {shard}: try again", self.config.node));
        }
        if !status.voters.contains(&to) {
            return Err(format!("node {to} is no voter of shard {shard}: {:?} are", status.voters));
        }
        if to == self.config.node { Ok(()) } else { group.transfer(to).await }
    }
}

/// Nobody can say what became of it.
fn unknown(reason: &str) -> Outcome { Outcome::Done(Err(GroupError::Unavailable { reason: reason.into() })) }

/// Seeded bugs 8 and 50: committed offsets as they are applied here, whoever leads. None for every other request, and without the bug.
pub fn applied_offsets(bug: u8, slot: &ShardSlot, request: &Request) -> Option<Response> {
    let Command::FetchOffsets { topic: Some(topic), partition: Some(number) } = &request.command else { return None };
    if !seeded::on(bug) { return None; }
    let (shard, place) = (slot.shard(), Partition::new(topic.clone(), *number));
    let found = shard.group(&request.group).and_then(|g| g.offsets.get(&place));
    let view = |o: &CommittedOffset| OffsetView { partition: place.clone(), offset: o.offset, metadata: o.metadata.clone(), leader_epoch: o.leader_epoch, committed_at_ms: o.committed_at_ms };
    Some(Response::Offsets(found.map(view).into_iter().collect()))
}

/// Whether less than `lasts` ms have surely passed. Both readings are cut to whole ms: at the last one the time may be over.
fn within(now: Millis, checked: Millis, lasts: Millis) -> bool { now < checked + lasts }

/// What is left of a promised time when the leader's clock is slow and the voters' clocks are fast by the bound of 5 % (`safety.md` 10).
fn drift_bounded(promised_ms: u64) -> u64 { promised_ms * 95 / 105 }

#[cfg(test)]
mod tests {
    use super::*;

    /// Found by reading: with `<=` an answer could leave up to 1 ms after its check had aged out.
    #[test]
    fn a_check_is_never_used_for_longer_than_it_lasts() {
        const LASTS: u64 = 3;
        let (mut longest, cut) = (0, |us: u64| us / 1_000);
        for checked in (0..1_000).step_by(50) {
            for now in (checked..checked + 8_000).step_by(50) {
                let passed = now - checked;
                if within(cut(now), cut(checked), LASTS) {
                    assert!(passed < LASTS * 1_000, "checked at {checked} us, used at {now}");
                    longest = longest.max(passed);
                }
            }
        }
        assert!(longest > (LASTS - 1) * 1_000, "it is used for nearly as long");
        assert_eq!([drift_bounded(600), drift_bounded(0)], [542, 0]);
    }
}
