//! LeaveGroup: a batch of members, by id or by instance id. One rebalance for all of them.

use super::{command::*, rebalance, soft::*, state::*};
use crate::{ids::*, shard::Ticket};

pub fn leave(turn: &mut Turn, ticket: Ticket, leavers: &[Leaver]) {
    if turn.draft.group().is_none_or(crate::state::Group::is_blank) {
        return turn.refuse(ticket, ClassicCode::UnknownMemberId, None);
    }
    let results: Vec<(Leaver, Result<(), ClassicCode>)> = leavers.iter().map(|l| (l.clone(), one(turn, l))).collect();
    let gone: Vec<&str> = results.iter().filter(|(_, r)| r.is_ok()).map(|(l, _)| l.instance_id.as_ref().map_or(l.member.as_str(), InstanceId::as_str)).collect();
    if !gone.is_empty() {
        let reason = format!("{} left", gone.join(", "));
        match turn.phase() {
            Phase::Stable | Phase::Completing => rebalance::prepare(turn, reason),
            Phase::Preparing => rebalance::end_if_complete(turn),
            Phase::Empty => {}
        }
    }
    turn.answer(ticket, ClassicAnswer::Left(results));
}

fn one(turn: &mut Turn, l: &Leaver) -> Result<(), ClassicCode> {
    if turn.soft.pending.remove(&l.member).is_some() {
        turn.cancel(Due::Session { member: l.member.clone() });
        return Ok(());
    }
    let c = turn.classic().ok_or(ClassicCode::UnknownMemberId)?;
    let id = if l.member.as_str().is_empty() {
        // An administrator removes whoever has the instance id.
        l.instance_id.as_ref().and_then(|i| c.statics.get(i)).cloned().ok_or(ClassicCode::UnknownMemberId)?
    } else {
        c.validate(&l.member, l.instance_id.as_ref())?;
        l.member.clone()
    };
    let why = l.reason.as_deref().filter(|r| !r.is_empty()).map(|r| format!(" ({r})")).unwrap_or_default();
    turn.note("left", format!("{id} left{why}"), Some(&id));
    rebalance::remove(turn, &id, ClassicCode::UnknownMemberId);
    Ok(())
}
