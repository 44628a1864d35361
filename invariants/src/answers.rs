//! What a member may be told: nothing that is not committed, and no refusal that the committed state does not bear out.

use crate::{Verdict, broken};
use baton_coordinator::{classic::ClassicAnswer, command::*, ids::*, state::Member};

/// A refused heartbeat, with what the replica that has applied most knows of its member (of that incarnation) when the answer leaves, and whether the
/// member was in the group, under one and the same join, from the arrival of the request until now, and the epoch that it had when the request arrived: an
/// epoch that a group before this one had already given out, under the same name, may be reached again while the refusal is on its way.
pub fn refused(group: &GroupId, h: &Heartbeat, why: &GroupError, committed: Option<&Member>, member_all_along: bool, epoch_at_arrival: Option<Epoch>) -> Verdict {
    match why {
        GroupError::FencedMemberEpoch { received, stored } if received <= stored => {
            broken("epochs", format!("{group} {} is fenced for epoch {received}, which is not above the stored {stored}", h.member))
        }
        GroupError::FencedMemberEpoch { received, .. } if committed.is_some_and(|m| m.epoch >= *received) && epoch_at_arrival.is_some_and(|e| e >= *received) => {
            broken("answers-committed", format!("{group} {} is refused for epoch {received}, which is committed", h.member))
        }
        GroupError::UnknownMember { .. } | GroupError::UnknownGroup { .. } if member_all_along => {
            broken("answers-committed", format!("{} is told that {group} does not know it, and is a member of it all the time", h.member))
        }
        _ => Ok(()),
    }
}

/// No heartbeat is answered from applied state while a batch of its group is in flight: not a held one either, whose time is over.
pub fn not_in_flight(group: &GroupId, result: &Result<Response, GroupError>, in_flight: bool) -> Verdict {
    if in_flight && matches!(result, Ok(Response::Heartbeat(_) | Response::Consumer(_) | Response::Classic(ClassicAnswer::Heartbeat))) {
        return broken("answers-committed", format!("a heartbeat is answered while a batch of {group} is in flight"));
    }
    Ok(())
}

/// A node that does not lead only says that it cannot answer.
pub fn without_leading(result: &Result<Response, GroupError>) -> Verdict {
    if matches!(result, Err(GroupError::Unavailable { .. })) { Ok(()) } else { broken("answers-committed", format!("a shard that does not lead answers {result:?}")) }
}

/// A commit of a member that is refused for one of its partitions. `held`: from the arrival of the request until now that member holds it under the token that the commit
/// names. `overtaken`: under that token a commit with a greater number has come as well; nothing else makes one stale (`safety.md` 17).
pub fn commit_refused(place: &str, why: CommitRefusal, held: bool, overtaken: bool) -> Verdict {
    match why {
        CommitRefusal::StaleToken if held => broken("answers-committed", format!("a commit of {place} is refused for its token, under which its member holds the partition all the time")),
        CommitRefusal::StaleCommit if !overtaken => broken("answers-committed", format!("a commit of {place} is refused for its number, and none with a greater one has come under its token")),
        _ => Ok(()),
    }
}

/// Who is to divide the partitions of a generation waits to be told so (KIP-345: a static member may be in without being there).
pub fn divided_by_who_is_here(group: &GroupId, generation: i32, member: &MemberId, here: bool) -> Verdict {
    if here { Ok(()) } else { broken("one-generation", format!("{group}: generation {generation} is to be divided by {member}, which does not wait for it")) }
}
/// Nobody is `left` that waits for an assignment of a generation which ended so long ago.
pub fn called_to_join(group: &GroupId, ago_ms: u64, left: Option<&str>) -> Verdict {
    match left {
        Some(who) => broken("one-generation", format!("{group}: a join phase was proposed {ago_ms} ms ago, and {who} still waits for an assignment of the generation before")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_commit_must_be_borne_out() {
        let said = |why, held, overtaken| commit_refused("g/t:0", why, held, overtaken).is_err_and(|b| b.invariant == "answers-committed");
        assert_eq!([said(CommitRefusal::StaleToken, true, false), said(CommitRefusal::StaleToken, false, false)], [true, false]);
        assert_eq!([said(CommitRefusal::StaleCommit, true, false), said(CommitRefusal::StaleCommit, true, true)], [true, false]);
        assert!(!said(CommitRefusal::UnknownPartition, true, false));
    }
}
