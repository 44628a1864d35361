//! `/v1/groups/{group}/offsets`: commit, fetch, forget.

use crate::{
    OFFSETS_MAX,
    backend::Backend,
    convert,
    error::Failure,
    extract::{InBody, InPath, InQuery},
    times,
};
use axum::{Json, extract::State};
use baton_coordinator::{
    command::{self as core, Command, CommitMember, Request, Response},
    ids::{FencingToken, GroupId, MemberId, Partition, TopicName},
};
use baton_wire::*;

pub async fn commit<B: Backend>(State(node): State<B>, InPath(group): InPath<String>, InBody(b): InBody<CommitRequest>) -> Result<Json<CommitResponse>, Failure> {
    if b.offsets.len() > OFFSETS_MAX {
        let detail = format!("{} offsets in one request: at most {OFFSETS_MAX}", b.offsets.len());
        return Err(Problem::new(code::LIMIT_REACHED, detail).at_limit("offsets a request").after(0).into());
    }
    let member = match (b.member_id, b.incarnation, b.commit_seq) {
        (None, None, None) => None,
        (Some(m), Some(i), Some(commit_seq)) => Some(CommitMember { member: MemberId::from(m), incarnation: convert::incarnation(&i)?, commit_seq }),
        (None, ..) => return Err(Failure::field("member_id", "member_id, incarnation and commit_seq are given together or not at all")),
        (_, None, _) => return Err(Failure::field("incarnation", "a member gives it with its commit")),
        (_, _, None) => return Err(Failure::field("commit_seq", "a member gives it with its commit")),
    };
    let mut offsets = Vec::with_capacity(b.offsets.len());
    for (i, o) in b.offsets.into_iter().enumerate() {
        let token = match (o.token, &member) {
            (Some(t), Some(_)) => FencingToken(t),
            (None, None) => FencingToken(0),
            (None, Some(_)) => return Err(Failure::field(&format!("offsets[{i}].token"), "a member gives the token under which it holds the partition")),
            (Some(_), None) => return Err(Failure::field(&format!("offsets[{i}].token"), "a token comes with member_id, incarnation and commit_seq")),
        };
        offsets.push(core::CommitOffset {
            partition: Partition::new(o.topic, o.partition),
            token,
            offset: o.offset,
            metadata: o.metadata.unwrap_or_default(),
            leader_epoch: o.leader_epoch,
        });
    }
    match ask(&node, group, Command::Commit(core::Commit { member, offsets }), b.timeout_ms).await? {
        Response::Committed(results) => {
            let one = |(p, r): (Partition, Result<(), core::CommitRefusal>)| CommitResult {
                topic: p.topic.to_string(),
                partition: p.partition,
                code: r.err().map(|e| convert::commit_code(e).to_string()),
            };
            Ok(Json(CommitResponse { results: results.into_iter().map(one).collect() }))
        }
        _ => Err(Failure::misfit()),
    }
}

pub async fn fetch<B: Backend>(State(node): State<B>, InPath(group): InPath<String>, InQuery(q): InQuery<OffsetsQuery>) -> Result<Json<OffsetsResponse>, Failure> {
    if q.partition.is_some() && q.topic.is_none() { return Err(Failure::field("topic", "is needed with partition")); }
    let command = Command::FetchOffsets { topic: q.topic.map(TopicName::from), partition: q.partition };
    match ask(&node, group, command, None).await? {
        Response::Offsets(found) => Ok(Json(OffsetsResponse { offsets: found.into_iter().map(convert::offset).collect() })),
        _ => Err(Failure::misfit()),
    }
}

pub async fn delete<B: Backend>(
    State(node): State<B>, InPath(group): InPath<String>, InQuery(q): InQuery<DeleteOffsetsQuery>,
) -> Result<Json<DeleteOffsetsResponse>, Failure> {
    match ask(&node, group, Command::DeleteOffsets { topic: TopicName::from(q.topic) }, None).await? {
        Response::OffsetsDeleted { count } => Ok(Json(DeleteOffsetsResponse { count })),
        _ => Err(Failure::misfit()),
    }
}

/// Asks a group and waits for the answer.
pub(crate) async fn ask<B: Backend>(node: &B, group: String, command: Command, timeout_ms: Option<u64>) -> Result<Response, Failure> {
    ask_at(node, group, command, timeout_ms, MetaQuery::default()).await
}
/// The same, of a leader that knows the topics and settings as of a revision.
pub(crate) async fn ask_at<B: Backend>(node: &B, group: String, command: Command, timeout_ms: Option<u64>, q: MetaQuery) -> Result<Response, Failure> {
    let (budget_ms, deadline) = times(timeout_ms, 0);
    Ok(node.request(Request { group: GroupId::from(group), command, budget_ms: Some(budget_ms), min_meta_revision: q.min_meta_revision.unwrap_or(0) }, deadline).await?)
}
