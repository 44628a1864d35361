//! `/v1/topics`: declare or grow, read, delete, list.

use crate::{
    META_REVISION_HEADER, TIMEOUT_MS,
    backend::{Backend, Refused},
    error::Failure,
    extract::{InBody, InPath, InQuery},
    groups::page,
};
use axum::{Json, extract::State, http::StatusCode};
use baton_coordinator::{
    ids::TopicName,
    metadata::{Layout, MetaCommand, MetaError, Metadata, TopicFacts},
};
use baton_wire::*;
use std::{sync::Arc, time::Duration};

pub async fn put<B: Backend>(State(node): State<B>, InPath(topic): InPath<String>, InBody(b): InBody<TopicRequest>) -> Result<Changed<Json<TopicView>>, Failure> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|e| Failure::new(code::INTERNAL, format!("no random bytes: {e}")))?;
    let name = TopicName::from(topic);
    let command = MetaCommand::DeclareTopic { name: name.clone(), partitions: b.partitions, id_if_new: u128::from_be_bytes(id) };
    let image = change(&node, command).await?;
    Ok(changed(&image, found(&image, &name)?))
}

pub async fn get<B: Backend>(State(node): State<B>, InPath(topic): InPath<String>) -> Result<Json<TopicView>, Failure> {
    found(&*node.fresh_metadata().await?, &TopicName::from(topic))
}

pub async fn delete<B: Backend>(State(node): State<B>, InPath(topic): InPath<String>) -> Result<Changed<StatusCode>, Failure> {
    let image = change(&node, MetaCommand::DeleteTopic { name: TopicName::from(topic) }).await?;
    Ok(changed(&image, StatusCode::NO_CONTENT))
}

/// What is known of the partitions of a topic that exists.
pub async fn layout<B: Backend>(State(node): State<B>, InPath(topic): InPath<String>) -> Result<Json<TopicLayout>, Failure> {
    let (image, name) = (node.fresh_metadata().await?, TopicName::from(topic));
    let _exists = found(&image, &name)?;
    Ok(Json(told(&image, &name)))
}
/// Replaces it as a whole.
pub async fn put_layout<B: Backend>(State(node): State<B>, InPath(topic): InPath<String>, InBody(b): InBody<TopicLayout>) -> Result<Changed<Json<TopicLayout>>, Failure> {
    let name = TopicName::from(topic);
    let layout = Layout { zones: b.zones.into_iter().map(|z| z.into_iter().collect()).collect(), weights: b.weights };
    let image = change(&node, MetaCommand::SetLayout { name: name.clone(), layout }).await?;
    Ok(changed(&image, Json(told(&image, &name))))
}
fn told(image: &Metadata, name: &TopicName) -> TopicLayout {
    let l = image.layouts.get(name).cloned().unwrap_or_default();
    TopicLayout { zones: l.zones.into_iter().map(|z| z.into_iter().collect()).collect(), weights: l.weights }
}

/// An answer to a change, with the revision to be demanded by whoever must not read behind it.
pub(crate) type Changed<T> = ([(&'static str, String); 1], T);
pub(crate) fn changed<T>(image: &Metadata, answer: T) -> Changed<T> { ([(META_REVISION_HEADER, image.revision.to_string())], answer) }

pub async fn list<B: Backend>(State(node): State<B>, InQuery(q): InQuery<ListQuery>) -> Result<Json<Page<TopicView>>, Failure> {
    if q.state.is_some() { return Err(Failure::field("state", "topics have none")); }
    if q.kind.is_some() { return Err(Failure::field("type", "topics have none")); }
    let image = node.metadata();
    Ok(Json(page(image.topics.iter().map(|(name, facts)| view(name, facts)), |t| &t.topic, &q, Some(image.revision))))
}

fn view(name: &TopicName, facts: &TopicFacts) -> TopicView { TopicView { topic: name.to_string(), topic_id: hex128(facts.id), partitions: facts.partitions } }

fn found(image: &Metadata, name: &TopicName) -> Result<Json<TopicView>, Failure> {
    let facts = image.topics.get(name).ok_or_else(|| Failure::from(Refused::Meta(MetaError::UnknownTopic { name: name.clone() })))?;
    Ok(Json(view(name, facts)))
}

/// Carries out a change and waits until this node has applied it, so that a caller who asks here again reads what it wrote.
pub(crate) async fn change<B: Backend>(node: &B, command: MetaCommand) -> Result<Arc<Metadata>, Failure> {
    let work = async {
        let revision = node.meta(command).await?;
        loop {
            let image = node.metadata();
            if image.revision >= revision { return Ok(image); }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let late = || Refused::Unavailable { reason: format!("the change was not confirmed within {TIMEOUT_MS} ms"), leader_http: None, retry_after_ms: 200 };
    tokio::time::timeout(Duration::from_millis(TIMEOUT_MS), work).await.unwrap_or_else(|_| Err(late().into()))
}
