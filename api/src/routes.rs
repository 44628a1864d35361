//! The paths, and what every answer has in common.

use crate::{HEADERS_MAX, backend::Backend, error::Failure, groups, member, offsets, ops, topics};
use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{delete, get, post},
};
use baton_coordinator::ids::GroupId;
use baton_wire::{LEADER_HEADER, code};

/// Everything that is served. A test holds the router and the OpenAPI document against it.
pub const ROUTES: &[(&str, &str)] = &[
    ("post", "/v1/groups/{group}/members/{member}/heartbeat"),
    ("delete", "/v1/groups/{group}/members/{member}"),
    ("put", "/v1/groups/{group}/offsets"),
    ("get", "/v1/groups/{group}/offsets"),
    ("delete", "/v1/groups/{group}/offsets"),
    ("get", "/v1/groups"),
    ("get", "/v1/groups/{group}"),
    ("delete", "/v1/groups/{group}"),
    ("post", "/v1/groups/{group}/repair"),
    ("get", "/v1/groups/{group}/assignment"),
    ("get", "/v1/groups/{group}/history"),
    ("get", "/v1/groups/{group}/config"),
    ("patch", "/v1/groups/{group}/config"),
    ("get", "/v1/topics"),
    ("put", "/v1/topics/{topic}"),
    ("get", "/v1/topics/{topic}"),
    ("delete", "/v1/topics/{topic}"),
    ("get", "/v1/topics/{topic}/layout"),
    ("put", "/v1/topics/{topic}/layout"),
    ("get", "/v1/cluster"),
    ("get", "/metrics"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/openapi.json"),
];

/// The whole API over a node.
pub fn router<B: Backend>(node: B) -> Router {
    Router::new()
        .route("/v1/groups", get(groups::list::<B>))
        .route("/v1/groups/{group}", get(groups::describe::<B>).delete(groups::delete::<B>))
        .route("/v1/groups/{group}/assignment", get(groups::assignment::<B>))
        .route("/v1/groups/{group}/history", get(groups::history::<B>))
        .route("/v1/groups/{group}/config", get(groups::config::<B>).patch(groups::patch_config::<B>))
        .route("/v1/groups/{group}/repair", post(groups::repair::<B>))
        .route("/v1/groups/{group}/offsets", get(offsets::fetch::<B>).put(offsets::commit::<B>).delete(offsets::delete::<B>))
        .route("/v1/groups/{group}/members/{member}", delete(member::delete::<B>))
        .route("/v1/groups/{group}/members/{member}/heartbeat", post(member::heartbeat::<B>))
        .route("/v1/topics", get(topics::list::<B>))
        .route("/v1/topics/{topic}/layout", get(topics::layout::<B>).put(topics::put_layout::<B>))
        .route("/v1/topics/{topic}", get(topics::get::<B>).put(topics::put::<B>).delete(topics::delete::<B>))
        .route("/v1/cluster", get(ops::cluster::<B>))
        .route("/metrics", get(ops::metrics::<B>))
        .route("/healthz", get(ops::healthz))
        .route("/readyz", get(ops::readyz::<B>))
        .route("/openapi.json", get(ops::openapi))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(node.clone(), around::<B>))
        .with_state(node)
}

async fn no_such_path(uri: Uri) -> Failure { Failure::new(code::NOT_FOUND, format!("there is no {}", uri.path())) }
async fn no_such_method(method: Method, uri: Uri) -> Failure { Failure::new(code::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path())) }

/// The group that a path is about, if it is about one.
fn group_in(path: &str) -> Option<GroupId> {
    let named = path.strip_prefix("/v1/groups/")?.split('/').next().filter(|n| !n.is_empty())?;
    Some(GroupId::from(&*percent_encoding::percent_decode_str(named).decode_utf8().ok()?))
}

/// Bounds the headers before, names the leader after.
async fn around<B: Backend>(State(node): State<B>, request: Request, next: Next) -> Response {
    let group = group_in(request.uri().path());
    // As on the wire: "name: value\r\n", and the request line.
    let size: usize = request.headers().iter().map(|(k, v)| k.as_str().len() + v.len() + 4).sum::<usize>() + request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    let mut response = if size > HEADERS_MAX {
        Failure::new(code::HEADERS_TOO_LARGE, format!("the headers are {size} bytes: at most {HEADERS_MAX}")).into_response()
    } else {
        next.run(request).await
    };
    // A refusal may know the leader better than this node's own view, or that the one it knows does not answer.
    if response.status() != StatusCode::SERVICE_UNAVAILABLE
        && !response.headers().contains_key(LEADER_HEADER)
        && let Some(leader) = node.leader_http(group.as_ref()).and_then(|l| HeaderValue::try_from(l).ok())
    {
        response.headers_mut().insert(LEADER_HEADER, leader);
    }
    response
}
