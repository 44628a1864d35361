//! When something may fire.

use crate::{Verdict, broken};
use baton_coordinator::{ids::{GroupId, MemberId}, state::Member};

/// Nobody is expired before its promised session has passed since it was last heard, or since this leader began. `passed_ms` may count in the
/// drift of the leader's clock.
pub fn expired_in_time(group: &GroupId, m: &MemberId, promised_ms: u64, passed_ms: u64) -> Verdict {
    if passed_ms < promised_ms {
        return broken("timers", format!("{group}: {m} is expired {passed_ms} ms after it was last heard (or its leader began), promised were {}", promised_ms));
    }
    Ok(())
}

/// The rebalance timeout removes only a member that has something to give back, or one of the classic protocol, which it gives to join and to sync.
pub fn fenced_with_cause(group: &GroupId, m: &MemberId, member: Option<&Member>) -> Verdict {
    if member.is_some_and(|x| x.pending.is_empty() && x.classic.is_none()) {
        return broken("timers", format!("{group}: {m} is fenced for its rebalance timeout and has nothing to give back"));
    }
    Ok(())
}
