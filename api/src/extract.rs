//! Reads path, query and body of a request. Whatever is wrong with them is answered with a problem that names the field.

use crate::{BODY_MAX, error::Failure};
use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{header, request::Parts},
};
use baton_wire::code;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use std::{future::{Future, poll_fn}, pin::pin, task::Poll, time::Duration};

/// How long a body may take to arrive.
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// How much of a body that is too large is read away before the refusal, and for how long.
const AWAY_MAX: usize = 16 * BODY_MAX;
const AWAY_WITHIN: Duration = Duration::from_secs(2);

/// The names in the path.
pub(crate) struct InPath<T>(pub T);
impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(v) = Path::from_request_parts(parts, state).await.map_err(|e| Failure::new(code::INVALID_REQUEST, e.body_text()))?;
        Ok(InPath(v))
    }
}

/// The query.
pub(crate) struct InQuery<T>(pub T);
impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Query(v) = Query::try_from_uri(&parts.uri).map_err(|e| Failure::new(code::INVALID_FIELD, e.body_text()))?;
        Ok(InQuery(v))
    }
}

/// The body, which is JSON whatever its content type says.
pub(crate) struct InBody<T>(pub T);
impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for InBody<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, _: &S) -> Result<Self, Failure> { parse(&bytes(request).await?).map(InBody) }
}

async fn bytes(request: Request<Body>) -> Result<Bytes, Failure> {
    let too_large = || Failure::new(code::BODY_TOO_LARGE, format!("the body is larger than {BODY_MAX} bytes"));
    let told = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()).and_then(|v| v.parse::<u64>().ok());
    // A client that waits for a word before it sends its body has nothing on its way.
    let waits = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    if told.is_some_and(|n| n > BODY_MAX as u64) {
        if !waits { read_away(&mut body).await; }
        return Err(too_large());
    }
    // Most bodies are here with their heads, and need no alarm.
    let whole = {
        let mut whole = pin!(Limited::new(&mut body, BODY_MAX).collect());
        match poll_fn(|cx| Poll::Ready(whole.as_mut().poll(cx))).await {
            Poll::Ready(here) => Ok(here),
            Poll::Pending => tokio::time::timeout(BODY_WITHIN, whole).await,
        }
    };
    match whole {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(e)) if e.downcast_ref::<LengthLimitError>().is_some() => {
            read_away(&mut body).await;
            Err(too_large())
        }
        Ok(Err(e)) => Err(Failure::new(code::INVALID_REQUEST, format!("the body cannot be read: {e}"))),
        Err(_) => Err(Failure::new(code::REQUEST_TIMEOUT, format!("the body did not arrive within {} s", BODY_WITHIN.as_secs()))),
    }
}

/// Reads on and forgets, within bounds. A connection closed over unread bytes is reset, and the client that was still sending would see
/// a broken pipe instead of the refusal.
async fn read_away(body: &mut Body) {
    let _ = tokio::time::timeout(AWAY_WITHIN, async {
        let mut left = AWAY_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            match left.checked_sub(frame.data_ref().map_or(0, |d| d.len())) {
                Some(n) => left = n,
                None => break,
            }
        }
    })
    .await;
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // Where a mistake is costs a tenth of a heartbeat to keep track of: it is looked for only when there is one.
    if let Ok(value) = serde_json::from_slice(bytes) { return Ok(value); }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let (path, e) = (e.path().to_string(), e.into_inner());
        match (e.classify(), path.as_str()) {
            (Category::Data, ".") => Failure::new(code::INVALID_FIELD, e.to_string()),
            (Category::Data, field) => Failure::field(field, e),
            (Category::Io | Category::Syntax | Category::Eof, _) => Failure::new(code::INVALID_JSON, e.to_string()),
        }
    })?;
    json.end().map_err(|e| Failure::new(code::INVALID_JSON, e.to_string()))?;
    Ok(value)
}
