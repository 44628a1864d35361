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

/// No heartbeat is answered from applied state while a batch of its group is in flight (held ones, which end by time, aside).
pub fn not_in_flight(group: &GroupId, command: &Command, result: &Result<Response, GroupError>, in_flight: bool) -> Verdict {
    let held = matches!(command, Command::Heartbeat(h) if h.wait_ms > 0);
    if in_flight && !held && matches!(result, Ok(Response::Heartbeat(_) | Response::Consumer(_) | Response::Classic(ClassicAnswer::Heartbeat))) {
        return broken("answers-committed", format!("a heartbeat is answered while a batch of {group} is in flight"));
    }
    Ok(())
}

/// A node that does not lead only says that it cannot answer.
pub fn without_leading(result: &Result<Response, GroupError>) -> Verdict {
    if matches!(result, Err(GroupError::Unavailable { .. })) { Ok(()) } else { broken("answers-committed", format!("a shard that does not lead answers {result:?}")) }
}
