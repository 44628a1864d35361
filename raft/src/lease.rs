//! The leader lease: may this node answer for the group without asking the others?
//!
//! One check at a time per group. All questions that arrive during a check share the next one, never the running one:
//! a check must begin after the question. The check goes through the consensus core, because only the core knows of a
//! leadership transfer under way.

use std::time::Duration;

use openraft::LinearizerOption;
use tokio::sync::{mpsc, oneshot};

use crate::api::NoLease;
use crate::types::Raft;

type Question = oneshot::Sender<Result<u64, NoLease>>;

/// Asks for the lease of one group. Clones share the checks.
#[derive(Clone)]
pub struct Lease {
    questions: mpsc::UnboundedSender<Question>,
}

impl Lease {
    /// `age` is how old a quorum's acknowledgement may be; the rest up to the election timeout is for clock drift.
    pub fn start(raft: Raft, age: Duration) -> Lease {
        let (questions, queue) = mpsc::unbounded_channel();
        tokio::spawn(check(raft, age, queue));
        Lease { questions }
    }

    /// The term in which this node held the lease at a moment after this call began.
    pub async fn ask(&self) -> Result<u64, NoLease> {
        let (tx, rx) = oneshot::channel();
        // Either error means that the group has stopped.
        self.questions.send(tx).map_err(|_| NoLease { leader: None })?;
        rx.await.map_err(|_| NoLease { leader: None })?
    }
}

async fn check(raft: Raft, age: Duration, mut queue: mpsc::UnboundedReceiver<Question>) {
    let age = if baton_storage::seeded::on(91) { age * 4 } else { age };
    let option = LinearizerOption::new(Some(age), false).with_wait_timeout(Duration::ZERO);
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(question) = queue.try_recv() {
            waiting.push(question);
        }
        let answer = match raft.ensure_linearizable(option.clone()).await {
            // The position belongs to the term that passed the check; the metrics could be of another.
            Ok(position) => Ok(position.log_id().leader_id.term),
            Err(e) => Err(NoLease { leader: e.forward_to_leader().and_then(|f| f.leader_id) }),
        };
        for question in waiting {
            // A dropped receiver has given up: nobody to tell.
            let _ = question.send(answer.clone());
        }
    }
}
