//! Keeps the log small and watches over the groups: tells a group to snapshot and purge when its part of the log is too large or too old,
//! holds a node with a full disk or without a vote back from leading, and reports a group that cannot go on.
//!
//! Consensus itself snapshots by the number of entries. Entries differ in size, and a quiet group would keep the oldest segments for ever.

use std::sync::Arc;
use std::time::Duration;

use crate::checkpoint::Failure;
use crate::group::GroupHandle;
use crate::writer::Health;

const EVERY: Duration = Duration::from_millis(500);
/// While a snapshot that was asked for is on its way.
const SOON: Duration = Duration::from_millis(20);

/// Runs until `groups` gives None.
pub async fn run(groups: impl Fn() -> Option<Vec<GroupHandle>>, health: Arc<Health>, snapshot_bytes: u64, failure: Arc<Failure>) {
    let (mut held_back, mut pause) = (false, EVERY);
    loop {
        tokio::select! { biased;
            _ = health.changed.notified() => {}
            _ = tokio::time::sleep(pause) => {}
        }
        let Some(groups) = groups() else { return };
        let full = health.is_full();
        pause = EVERY;
        for group in groups {
            let status = group.status();
            if let Some(reason) = status.failed {
                failure.tell(format!("group {}: {reason}. Restart the node once its disk is well", group.no()));
                continue;
            }
            if group.keep_small(health.is_pinning(group.no()), snapshot_bytes).await {
                pause = SOON;
            }
            if full != held_back {
                // Whoever leads appends; alone there is nobody else to lead.
                group.may_campaign(!full || status.voters.len() < 2);
            }
            group.give_away_without_vote().await;
            if full && status.is_leader {
                group.give_away().await;
            }
        }
        held_back = full;
    }
}
