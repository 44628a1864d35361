//! Baton's HTTP front: translates requests into commands and answers into JSON. It decides nothing and keeps nothing.
//!
//! `router` makes the paths over any `Backend` (a node; a fake in tests), `serve` accepts connections for them.
//! Every error is a problem document; every answer names the leader that answers directly (`x-baton-leader`), once one is known.
pub mod backend;
mod convert;
mod error;
mod extract;
mod groups;
mod member;
mod node;
mod offsets;
mod openapi;
mod ops;
#[cfg(madsim)]
mod quiet;
mod routes;
mod serve;
mod topics;

pub use backend::{Backend, GroupItem, GroupList, Refused};
pub use error::problem_of;
pub use openapi::document as openapi_document;
pub use routes::{ROUTES, router};
pub use serve::{CONNECTIONS_MAX, serve, serve_limited};

use std::time::Duration;

/// Bytes of a request's body.
pub const BODY_MAX: usize = 1 << 20;
/// Bytes of a request's headers.
pub const HEADERS_MAX: usize = 16 << 10;
/// Offsets of one commit.
pub const OFFSETS_MAX: usize = 10_000;
/// Items on a page of a list.
pub const PAGE_MAX: usize = 1_000;
/// `timeout_ms` when a request gives none.
pub const TIMEOUT_MS: u64 = 5_000;
/// The longest `timeout_ms` that is used.
pub const TIMEOUT_MS_MAX: u64 = 30_000;
/// On the answer to a change of topics or settings: the revision at which it holds.
pub const META_REVISION_HEADER: &str = "x-baton-meta-revision";
/// The longest `wait_ms` that any session allows.
const WAIT_MS_MAX: u64 = 10_000;

/// The budget of a request (how late it may be taken up) and its deadline (when the caller is answered at the latest), which has the wait on top.
fn times(timeout_ms: Option<u64>, wait_ms: u64) -> (u64, Duration) {
    let budget = timeout_ms.unwrap_or(TIMEOUT_MS).clamp(1, TIMEOUT_MS_MAX);
    (budget, Duration::from_millis(budget + wait_ms.min(WAIT_MS_MAX)))
}
