//! `/v1/groups`: list, describe, delete, assignment, history, settings.

use crate::{
    PAGE_MAX,
    backend::Backend,
    convert,
    error::Failure,
    extract::{InBody, InPath, InQuery},
    offsets::{ask, ask_at},
    topics::{self, Changed},
};
use axum::{Json, extract::State, http::StatusCode};
use baton_coordinator::{
    command::{Command, GroupView as View, Response},
    ids::GroupId,
    metadata::MetaCommand,
};
use baton_wire::*;

pub async fn list<B: Backend>(State(node): State<B>, InQuery(q): InQuery<ListQuery>) -> Result<Json<Page<GroupSummary>>, Failure> {
    let mut all = node.list_groups().await;
    all.groups.sort_by(|a, b| a.group.cmp(&b.group));
    let wanted = all.groups.into_iter().map(|g| GroupSummary {
        group: g.group.to_string(),
        kind: if g.classic { GroupType::Classic } else { GroupType::Consumer },
        state: convert::group_state(g.state),
        members: g.members,
        revision: g.revision,
    });
    let wanted = wanted.filter(|g| q.state.is_none_or(|s| s == g.state) && q.kind.is_none_or(|k| k == g.kind));
    Ok(Json(page(wanted, |g| &g.group, &q, all.as_of_index)))
}

/// One page of what comes in the order of its names: those with the prefix, after the name that `page` gives.
pub(crate) fn page<T>(all: impl Iterator<Item = T>, name: impl Fn(&T) -> &str, q: &ListQuery, as_of_index: Option<u64>) -> Page<T> {
    let prefix = q.prefix.as_deref().unwrap_or("");
    let mut items: Vec<T> = all.filter(|t| name(t).starts_with(prefix) && q.page.as_deref().is_none_or(|p| name(t) > p)).take(PAGE_MAX + 1).collect();
    let more = items.len() > PAGE_MAX;
    items.truncate(PAGE_MAX);
    let next = if more { items.last().map(|t| name(t).to_string()) } else { None };
    Page { items, next, as_of_index }
}

async fn view<B: Backend>(node: &B, group: String, q: MetaQuery) -> Result<View, Failure> {
    match ask_at(node, group, Command::Describe, None, q).await? {
        Response::Group(view) => Ok(*view),
        _ => Err(Failure::misfit()),
    }
}

pub async fn describe<B: Backend>(State(node): State<B>, InPath(group): InPath<String>, InQuery(q): InQuery<MetaQuery>) -> Result<Json<GroupView>, Failure> {
    Ok(Json(convert::group(view(&node, group, q).await?)))
}

pub async fn assignment<B: Backend>(State(node): State<B>, InPath(group): InPath<String>, InQuery(q): InQuery<MetaQuery>) -> Result<Json<AssignmentResponse>, Failure> {
    let partitions = view(&node, group, q).await?.partitions.into_iter().map(convert::owner).collect();
    Ok(Json(AssignmentResponse { partitions }))
}

pub async fn delete<B: Backend>(State(node): State<B>, InPath(group): InPath<String>, InQuery(q): InQuery<DeleteGroupQuery>) -> Result<StatusCode, Failure> {
    match ask(&node, group, Command::DeleteGroup { force: q.force.unwrap_or(false) }, None).await? {
        Response::Deleted => Ok(StatusCode::NO_CONTENT),
        _ => Err(Failure::misfit()),
    }
}

/// Lifts a quarantine.
pub async fn repair<B: Backend>(State(node): State<B>, InPath(group): InPath<String>) -> Result<StatusCode, Failure> {
    match ask(&node, group, Command::Repair, None).await? {
        Response::Repaired => Ok(StatusCode::NO_CONTENT),
        _ => Err(Failure::misfit()),
    }
}

pub async fn history<B: Backend>(State(node): State<B>, InPath(group): InPath<String>, InQuery(q): InQuery<HistoryQuery>) -> Result<Json<HistoryResponse>, Failure> {
    let partition = q.partition.as_deref().map(topic_and_number).transpose()?;
    let since = q.since.unwrap_or(0);
    let Response::History(records) = ask(&node, group, Command::History { since }, None).await? else { return Err(Failure::misfit()) };
    // `next` counts what was seen, not what passed the filters: else a filtered reader would read the same records again.
    let next = records.last().map_or(since, |r| r.revision.saturating_add(1));
    let records = records.into_iter().map(convert::history).filter(|r| {
        let moves = |(topic, number): &(&str, i32)| r.moved.iter().any(|m| m.topic == *topic && m.partition == *number);
        let about = |member: &str| r.member_id.as_deref() == Some(member) || r.moved.iter().any(|m| m.from.as_deref() == Some(member) || m.to.as_deref() == Some(member));
        q.member.as_deref().is_none_or(about) && partition.as_ref().is_none_or(moves)
    });
    Ok(Json(HistoryResponse { records: records.collect(), next }))
}

fn topic_and_number(text: &str) -> Result<(&str, i32), Failure> {
    let parts = text.rsplit_once(':').and_then(|(topic, n)| Some((topic, n.parse().ok()?)));
    parts.ok_or_else(|| Failure::field("partition", "topic:number is expected"))
}

pub async fn config<B: Backend>(State(node): State<B>, InPath(group): InPath<String>) -> Result<Json<GroupConfig>, Failure> {
    Ok(Json(convert::config(&node.fresh_metadata().await?.config_of(&GroupId::from(group)))))
}

/// Writes the settings it names and no other, so two patches at the same moment do not undo each other.
pub async fn patch_config<B: Backend>(
    State(node): State<B>, InPath(group): InPath<String>, InBody(patch): InBody<GroupConfigPatch>,
) -> Result<Changed<Json<GroupConfig>>, Failure> {
    let group = GroupId::from(group);
    let image = topics::change(&node, MetaCommand::SetGroupConfig { group: group.clone(), settings: convert::patch(&patch) }).await?;
    Ok(topics::changed(&image, Json(convert::config(&image.config_of(&group)))))
}
