//! What operators and tools ask: plain calls over any node, tried on the next one when a node does not answer.
use crate::{Error, http::{Http, Reply, escape}};
use hyper::Method;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(10);

/// A body.
pub(crate) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, Error> { serde_json::to_vec(value).map_err(|e| Error::Invalid(e.to_string())) }
/// The body of a success.
pub(crate) fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, Error> { serde_json::from_slice(&reply.body).map_err(|e| Error::Unreadable(e.to_string())) }

/// A caller of the admin API.
#[derive(Clone)]
pub struct Admin { http: Http }

impl Admin {
    pub fn new<S: Into<String>>(nodes: impl IntoIterator<Item = S>) -> Result<Admin, Error> { Ok(Admin { http: Http::new(nodes.into_iter().map(Into::into).collect())? }) }

    /// Any request that may be repeated: its status and its body (null if there is none).
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value), Error> {
        let body = body.map(json).transpose()?;
        match self.http.call(method, path, body, PATIENCE).await {
            Ok(r) if r.body.is_empty() => Ok((r.status, Value::Null)),
            Ok(r) => Ok((r.status, read(&r)?)),
            Err(Error::Refused(p)) => Ok((p.status, serde_json::to_value(&*p).map_err(|e| Error::Unreadable(e.to_string()))?)),
            Err(e) => Err(e),
        }
    }
    pub async fn get(&self, path: &str) -> Result<(u16, Value), Error> { self.call(Method::GET, path, None).await }
    pub async fn put(&self, path: &str, body: &Value) -> Result<(u16, Value), Error> { self.call(Method::PUT, path, Some(body)).await }
    pub async fn patch(&self, path: &str, body: &Value) -> Result<(u16, Value), Error> { self.call(Method::PATCH, path, Some(body)).await }
    pub async fn delete(&self, path: &str) -> Result<(u16, Value), Error> { self.call(Method::DELETE, path, None).await }

    /// Declares a topic, or grows it.
    pub async fn declare_topic(&self, name: &str, partitions: i32) -> Result<(), Error> {
        let body = json(&serde_json::json!({ "partitions": partitions }))?;
        self.http.call(Method::PUT, &format!("/v1/topics/{}", escape(name)), Some(body), PATIENCE).await.map(|_| ())
    }
}
