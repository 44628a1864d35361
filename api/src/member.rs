//! `/v1/groups/{group}/members/{member}`: heartbeat, leave, removal.

use crate::{
    backend::Backend,
    convert,
    error::Failure,
    extract::{InBody, InPath, InQuery},
    times,
};
use axum::{Json, extract::State, http::StatusCode};
use baton_coordinator::{
    command::{Command, Heartbeat, Leave, Request, Response},
    ids::{AssignmentRevision, GroupId, InstanceId, MemberId, TopicName},
};
use baton_wire::{HeartbeatRequest, HeartbeatResponse, LeaveQuery, MetaQuery};

pub async fn heartbeat<B: Backend>(
    State(node): State<B>, InPath((group, member)): InPath<(String, String)>, InQuery(q): InQuery<MetaQuery>, InBody(b): InBody<HeartbeatRequest>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    let capacity = b.capacity.map(|c| u32::try_from(c).map_err(|_| Failure::field("capacity", format!("{c} is not in 0 to 1000000")))).transpose()?;
    let (budget_ms, deadline) = times(b.timeout_ms, b.wait_ms);
    let command = Heartbeat {
        member: MemberId::from(member),
        incarnation: convert::incarnation(&b.incarnation)?,
        epoch: b.member_epoch,
        predecessor_dead: b.predecessor_dead,
        instance_id: b.instance_id.map(InstanceId::from),
        rack: b.rack,
        capacity,
        rebalance_timeout_ms: b.rebalance_timeout_ms,
        subscribed_topics: b.subscribed_topics.map(|t| t.into_iter().map(TopicName::from).collect()),
        subscribed_regex: b.subscribed_regex,
        assignor: b.assignor,
        owned: b.owned.map(convert::owned),
        assignment_revision: AssignmentRevision(b.assignment_revision.unwrap_or(0)),
        wait_ms: b.wait_ms,
    };
    let request = Request { group: GroupId::from(group), command: Command::Heartbeat(command), budget_ms: Some(budget_ms), min_meta_revision: q.min_meta_revision.unwrap_or(0) };
    match node.request(request, deadline).await? {
        Response::Heartbeat(view) => Ok(Json(convert::heartbeat(view))),
        _ => Err(Failure::misfit()),
    }
}

/// A leave proves who leaves; a removal is forced; a mixture is a mistake.
pub async fn delete<B: Backend>(
    State(node): State<B>, InPath((group, member)): InPath<(String, String)>, InQuery(q): InQuery<LeaveQuery>,
) -> Result<StatusCode, Failure> {
    let member = MemberId::from(member);
    let is_static = q.static_member == Some(true);
    let command = match (q.force.unwrap_or(false), q.incarnation, q.assignment_revision) {
        (true, ..) if is_static => return Err(Failure::field("static", "is a member's own word for coming back soon; an administrator's removal does not take it")),
        (true, None, None) => Command::RemoveMember { member },
        (true, ..) => return Err(Failure::field("force", "an administrator's removal takes neither incarnation nor assignment_revision")),
        (false, Some(i), Some(r)) => Command::Leave(Leave { member, incarnation: convert::incarnation(&i)?, assignment_revision: AssignmentRevision(r), is_static }),
        (false, Some(_), None) => return Err(Failure::field("assignment_revision", "a leave gives it together with incarnation")),
        (false, None, _) => return Err(Failure::field("incarnation", "a leave gives incarnation and assignment_revision; an administrator's removal gives force=true")),
    };
    let (budget_ms, deadline) = times(None, 0);
    match node.request(Request { group: GroupId::from(group), command, budget_ms: Some(budget_ms), min_meta_revision: 0 }, deadline).await? {
        Response::Left | Response::Removed => Ok(StatusCode::NO_CONTENT),
        _ => Err(Failure::misfit()),
    }
}
