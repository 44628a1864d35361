//! When something may fire.

use crate::{Verdict, broken};
use baton_coordinator::{ids::{GroupId, MemberId}, state::Member};

/// Nobody is expired before its promised session has passed since it was last heard, or since this leader began. `passed_ms` may count in the
/// drift of the leader's clock.
pub fn expired_in_time(group: &GroupId, m: &MemberId, member: &Member, passed_ms: u64) -> Verdict {
    if passed_ms < member.session_promised_ms {
        return broken("timers", format!("{group}: {m} is expired {passed_ms} ms after it was last heard (or its leader began), promised were {}", member.session_promised_ms));
    }
    Ok(())
}

/// The rebalance timeout removes only a member that has something to give back.
pub fn fenced_with_cause(group: &GroupId, m: &MemberId, member: Option<&Member>) -> Verdict {
    if member.is_none_or(|x| x.pending.is_empty()) {
        return broken("timers", format!("{group}: {m} is fenced for its rebalance timeout and has nothing to give back"));
    }
    Ok(())
}
