//! When something may fire.

use crate::{Verdict, broken};
use baton_coordinator::{classic::Phase, ids::{GroupId, MemberId}, state::Member};

/// Nobody is expired before its promised session has passed since it was last heard, or since this leader began. `passed_ms` may count in the
/// drift of the leader's clock.
pub fn expired_in_time(group: &GroupId, m: &MemberId, promised_ms: u64, passed_ms: u64) -> Verdict {
    if passed_ms < promised_ms {
        return broken("timers", format!("{group}: {m} is expired {passed_ms} ms after it was last heard (or its leader began), promised were {}", promised_ms));
    }
    Ok(())
}

/// Nobody is expired while a lease that it was told still runs: somebody else could have what it believes to own (`safety.md` 10, 11).
pub fn expired_past_its_lease(group: &GroupId, m: &MemberId, left_ms: u64) -> Verdict {
    if left_ms > 0 { broken("timers", format!("{group}: {m} is expired {left_ms} ms before the lease that it was told ends")) } else { Ok(()) }
}

/// A loop that was late expires nobody who has been heard of meanwhile: what waits in sockets goes first (`safety.md` 19). `waits`: a heartbeat of the member has reached the node and was not taken up yet.
pub fn late_loop_listens(group: &GroupId, m: &MemberId, late_ms: u64, allowed_ms: u64, waits: bool) -> Verdict {
    if waits && late_ms > allowed_ms { broken("timers", format!("{group}: {m} is expired by a loop that is {late_ms} ms late, while its heartbeat waits at the leader")) } else { Ok(()) }
}

/// A session that ends while an entry of the group is in flight is looked at again behind what came meanwhile. `waits`: a heartbeat that the member may send has been taken up before, within its session, and is not answered.
pub fn waiting_is_heard(group: &GroupId, m: &MemberId, waits: bool) -> Verdict {
    if waits { broken("timers", format!("{group}: {m} is expired while its heartbeat, which came before, waits to be decided")) } else { Ok(()) }
}

/// The rebalance timeout removes only a member that has something to give back, or one of the classic protocol, which it gives to join and to sync.
pub fn fenced_with_cause(group: &GroupId, m: &MemberId, member: Option<&Member>) -> Verdict {
    if member.is_some_and(|x| x.pending.is_empty() && x.classic.is_none()) {
        return broken("timers", format!("{group}: {m} is fenced for its rebalance timeout and has nothing to give back"));
    }
    Ok(())
}

/// A phase of a classic group ends by a timer, if not before; so does a member that does not wait itself.
pub fn phase_ends(group: &GroupId, phase: Phase, ends: bool, untimed: Option<&MemberId>) -> Verdict {
    match untimed {
        _ if !ends => broken("timers", format!("{group} is {phase:?}, and no timer ends that")),
        Some(m) => broken("timers", format!("{group}: {m} neither waits nor has a timer of its session")),
        None => Ok(()),
    }
}

/// Whoever is asked for partitions gives them back or is out within its rebalance timeout, whatever else it is told meanwhile. `slack_ms`: the drift of clocks, and what a proposal takes.
pub fn revocation_ends(group: &GroupId, m: &MemberId, asked_ms_ago: u64, timeout_ms: u64, slack_ms: u64) -> Verdict {
    if asked_ms_ago > timeout_ms + slack_ms {
        return broken("timers", format!("{group}: {m} was asked for partitions {asked_ms_ago} ms ago, has not given them back, and is still in; its rebalance timeout is {timeout_ms} ms"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fires_too_early_is_said() {
        let (g, m) = (GroupId::from("g"), MemberId::from("m"));
        let said = |v: Verdict| v.is_err_and(|b| b.invariant == "timers");
        assert_eq!([said(expired_in_time(&g, &m, 10, 9)), said(expired_in_time(&g, &m, 10, 10))], [true, false]);
        assert_eq!([said(expired_past_its_lease(&g, &m, 1)), said(expired_past_its_lease(&g, &m, 0))], [true, false]);
        assert_eq!([said(late_loop_listens(&g, &m, 6, 5, true)), said(late_loop_listens(&g, &m, 5, 5, true)), said(late_loop_listens(&g, &m, 6, 5, false))], [true, false, false]);
        assert_eq!([said(revocation_ends(&g, &m, 16, 10, 5)), said(revocation_ends(&g, &m, 15, 10, 5))], [true, false]);
        assert_eq!([said(waiting_is_heard(&g, &m, true)), said(waiting_is_heard(&g, &m, false))], [true, false]);
    }
}
