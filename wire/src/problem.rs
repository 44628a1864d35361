//! The one shape of every error (RFC 9457).

use crate::code;
use serde::{Deserialize, Serialize};

/// The content type of a problem.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What every request that was not carried out is answered with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    #[serde(rename = "type")]
    pub kind: String,
    pub title: String,
    pub status: u16,
    /// One of `code::TABLE`.
    pub code: String,
    pub detail: String,
    /// What to do about it.
    pub action: String,
    /// The same request, unchanged, may succeed later.
    pub retriable: bool,
    /// When to try again at the earliest; also the `Retry-After` header.
    #[serde(default)]
    pub retry_after_ms: Option<u64>,
    /// The limit that was reached.
    #[serde(default)]
    pub limit: Option<String>,
}

impl Problem {
    /// A problem with everything that the table says of `code`. A code that is not in the table becomes INTERNAL: a fault of ours, shown as one.
    pub fn new(code: &str, detail: impl Into<String>) -> Problem {
        let row = code::row(code).or_else(|| code::row(code::INTERNAL)).expect("INTERNAL is in the table: a test walks it");
        Problem {
            kind: format!("urn:baton:problem:{}", row.code.to_ascii_lowercase().replace('_', "-")),
            title: row.title.into(),
            status: row.status,
            code: row.code.into(),
            detail: detail.into(),
            action: row.action.into(),
            retriable: row.retriable,
            retry_after_ms: None,
            limit: None,
        }
    }
    /// With the time after which another try makes sense.
    pub fn after(mut self, ms: u64) -> Problem { self.retry_after_ms = Some(ms); self }
    /// With the name of the limit that was reached.
    pub fn at_limit(mut self, limit: impl Into<String>) -> Problem { self.limit = Some(limit.into()); self }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{}: {} {}", self.code, self.detail, self.action) }
}
impl std::error::Error for Problem {}
