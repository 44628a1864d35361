//! A small HTTP/1.1 client: a few kept connections per node, one request at a time on each, made anew after an error, a timeout for each request.
//!
//! `try_once` never repeats a request; `call` does.
use crate::Error;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper::Method;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::select;

/// No answer of Baton is larger.
const MAX_BODY: usize = 64 << 20;
type Sender = SendRequest<Full<Bytes>>;
/// Connections to one node that are kept while they have nothing to do; more are closed after their request.
const IDLE_MAX: usize = 4;

/// An answer of any status.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// The node that answers directly, as the answer says.
    pub leader: Option<String>,
    pub body: Bytes,
}

impl Reply {
    pub fn is_success(&self) -> bool { (200..300).contains(&self.status) }
    /// The problem of an answer that is none of 2xx. What is no problem comes from something between us and the cluster: it may pass.
    pub fn problem(&self) -> baton_wire::Problem {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| baton_wire::Problem::new(baton_wire::code::UNAVAILABLE, format!("status {} without a problem", self.status)))
    }
}

/// The nodes and the idle connections to them. Cheap to share. Requests at the same time go over connections of their own: none waits for another.
#[derive(Clone)]
pub struct Http { nodes: Arc<Vec<String>>, idle: Arc<Mutex<BTreeMap<String, Vec<Sender>>>>, aim: Arc<Mutex<Aim>> }
/// Whether a request that is dropped half way says something about the node.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Answered {
    /// It should have answered: the next try goes to another node.
    AtOnce,
    /// It was asked to hold the answer back; a later request replaces this one.
    Held,
}
/// Whom to ask next: the leader that an answer named, else the nodes in turn.
#[derive(Default)]
struct Aim { leader: Option<String>, turn: usize }

impl Http {
    pub fn new(nodes: Vec<String>) -> Result<Http, Error> {
        if nodes.is_empty() || nodes.iter().any(|n| !n.contains(':')) { return Err(Error::Invalid("nodes are given as host:port, at least one".into())); }
        Ok(Http { nodes: Arc::new(nodes), idle: Arc::default(), aim: Arc::default() })
    }
    fn aim(&self) -> MutexGuard<'_, Aim> { self.aim.lock().unwrap_or_else(PoisonError::into_inner) }
    fn idle(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Sender>>> { self.idle.lock().unwrap_or_else(PoisonError::into_inner) }
    fn target(&self) -> String {
        let aim = self.aim();
        aim.leader.clone().unwrap_or_else(|| self.nodes[aim.turn % self.nodes.len()].clone())
    }
    /// Learns from what became of a request to `addr`.
    fn learn(&self, addr: &str, result: &Result<Reply, Error>) {
        let mut aim = self.aim();
        match result {
            Ok(r) if r.leader.as_deref().is_some_and(|l| l != addr) => aim.leader.clone_from(&r.leader),
            Ok(r) if r.status != 503 => aim.leader = Some(addr.to_string()),
            _ => { aim.leader = None; aim.turn = aim.turn.wrapping_add(1); }
        }
    }
    /// Sends to one node, once.
    pub(crate) async fn try_once(&self, method: Method, path: &str, body: Option<Vec<u8>>, limit: Duration, answered: Answered) -> Result<Reply, Error> {
        let addr = self.target();
        let mut turn = Turn((answered == Answered::AtOnce).then_some(self));
        let result = self.send(&addr, method, path, body, limit).await;
        turn.0 = None;
        self.learn(&addr, &result);
        result
    }
    /// Like `try_once`, but does not wait for a node that says nothing: after a quarter of `limit`, and at once after an error or a 503, one more node is asked,
    /// the leader that an answer named before others. The first answer that is no 503 counts. Only for requests that may arrive more than once.
    pub(crate) async fn try_spread(&self, method: Method, path: &str, body: Option<Vec<u8>>, limit: Duration) -> Result<Reply, Error> {
        let end = crate::clock::now().saturating_add(limit.as_nanos() as u64);
        let turn = self.aim().turn;
        let mut left: Vec<String> = (0..self.nodes.len()).rev().map(|i| self.nodes[(turn + i) % self.nodes.len()].clone()).collect();
        let (mut answers, mut asked) = (FuturesUnordered::new(), BTreeSet::new());
        let mut next = Some(self.target());
        let (mut alive, mut last) = (None, Err(Error::Unreachable("no node was asked".into())));
        loop {
            if let Some(addr) = next.take().filter(|a| !asked.contains(a)).or_else(|| left.pop()) {
                left.retain(|n| *n != addr);
                asked.insert(addr.clone());
                let (method, body, rest) = (method.clone(), body.clone(), Duration::from_nanos(end.saturating_sub(crate::clock::now())));
                answers.push(async move {
                    let result = self.send(&addr, method, path, body, rest).await;
                    (addr, result)
                });
            }
            let result = select! { biased;
                answer = answers.next() => answer,
                _ = tokio::time::sleep(limit / 4), if !left.is_empty() => continue,
            };
            match result {
                Some((addr, Ok(r))) if r.status != 503 => {
                    let result = Ok(r);
                    self.learn(&addr, &result);
                    return result;
                }
                Some((addr, result)) => {
                    if let Ok(r) = &result {
                        next.clone_from(&r.leader);
                        alive = Some(addr);
                    }
                    last = result;
                }
                // Every node has been asked, and none could do it: the next try begins with one that at least answered.
                None => {
                    let mut aim = self.aim();
                    aim.turn = aim.turn.wrapping_add(1);
                    aim.leader = alive;
                    return last;
                }
            }
        }
    }
    /// Tries nodes until one carries the request out or refuses it for good, or `limit` has passed. Only for requests that may be repeated.
    pub async fn call(&self, method: Method, path: &str, body: Option<Vec<u8>>, limit: Duration) -> Result<Reply, Error> {
        let end = crate::clock::now().saturating_add(limit.as_nanos() as u64);
        loop {
            let addr = self.target();
            let left = Duration::from_nanos(end.saturating_sub(crate::clock::now()));
            let result = self.send(&addr, method.clone(), path, body.clone(), left.min(Duration::from_millis(1_500))).await;
            self.learn(&addr, &result);
            let error = match result {
                Ok(r) if r.is_success() => return Ok(r),
                Ok(r) => {
                    let problem = r.problem();
                    // Other retriable refusals (an id in use, a draining group) last for as long as the caller has to decide on.
                    if r.status != 503 { return Err(Error::Refused(Box::new(problem))); }
                    Error::Refused(Box::new(problem))
                }
                Err(e) => e,
            };
            let pause = Duration::from_millis(50 + (crate::entropy() % 50) as u64);
            if crate::clock::now().saturating_add(pause.as_nanos() as u64) >= end { return Err(error); }
            tokio::time::sleep(pause).await;
        }
    }

    /// Sends once. An error says nothing about whether the request was carried out.
    async fn send(&self, addr: &str, method: Method, path: &str, body: Option<Vec<u8>>, timeout: Duration) -> Result<Reply, Error> {
        #[cfg(madsim)]
        let noted = {
            use crate::tap::{self, Fate, Sent};
            let sent = Sent { addr, method: &method, path, body: body.as_deref() };
            match tap::ask(&sent) {
                Fate::Carried => tap::asked(&sent),
                Fate::Late(by) => {
                    let noted = tap::asked(&sent);
                    let late = async {
                        let answer = self.carry(addr, method, path, body, timeout).await;
                        tokio::time::sleep(by).await;
                        answer
                    };
                    let answer = tokio::time::timeout(timeout, late).await.unwrap_or_else(|_| Err(Error::Unreachable(format!("{addr}: no answer in {} ms", timeout.as_millis()))));
                    tap::answered(noted, &answer);
                    return answer;
                }
                fate => {
                    if fate == Fate::Unheard { tokio::spawn(tap::copy(addr.into(), method, path.into(), body)); }
                    tokio::time::sleep(timeout).await;
                    return Err(Error::Unreachable(format!("{addr}: no answer in {} ms", timeout.as_millis())));
                }
            }
        };
        let answer = self.carry(addr, method, path, body, timeout).await;
        #[cfg(madsim)]
        crate::tap::answered(noted, &answer);
        answer
    }
    pub(crate) async fn carry(&self, addr: &str, method: Method, path: &str, body: Option<Vec<u8>>, timeout: Duration) -> Result<Reply, Error> {
        let work = async {
            // Taken out for the time of the request: dropped half way, the connection is closed and never reused out of step.
            let mut sender = self.connection(addr).await?;
            let request = hyper::Request::builder()
                .method(method).uri(path).header("host", addr).header("content-type", "application/json")
                .body(Full::new(Bytes::from(body.unwrap_or_default())))
                .map_err(|e| Error::Invalid(e.to_string()))?;
            let gone = |e: &dyn std::fmt::Display| Error::Unreachable(format!("{addr}: {e}"));
            let (head, body) = sender.send_request(request).await.map_err(|e| gone(&e))?.into_parts();
            let body = Limited::new(body, MAX_BODY).collect().await.map_err(|e| gone(&e))?.to_bytes();
            let mut idle = self.idle();
            let kept = idle.entry(addr.to_string()).or_default();
            if kept.len() < IDLE_MAX { kept.push(sender); }
            drop(idle);
            let leader = head.headers.get(baton_wire::LEADER_HEADER).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty()).map(String::from);
            Ok(Reply { status: head.status.as_u16(), leader, body })
        };
        match tokio::time::timeout(timeout, work).await {
            Ok(r) => r,
            Err(_) => Err(Error::Unreachable(format!("{addr}: no answer in {} ms", timeout.as_millis()))),
        }
    }

    /// A kept connection that still works, or a new one.
    async fn connection(&self, addr: &str) -> Result<Sender, Error> {
        loop {
            let kept = self.idle().get_mut(addr).and_then(Vec::pop);
            match kept {
                Some(mut s) => if s.ready().await.is_ok() { return Ok(s); },
                None => return connect(addr).await,
            }
        }
    }
}

async fn connect(addr: &str) -> Result<SendRequest<Full<Bytes>>, Error> {
    let stream = tokio::net::TcpStream::connect(addr).await.map_err(|e| Error::Unreachable(format!("{addr}: {e}")))?;
    let _ = stream.set_nodelay(true);
    #[cfg(madsim)]
    let stream = crate::quiet::Quiet::new(stream);
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|e| Error::Unreachable(format!("{addr}: {e}")))?;
    // It ends with its sender.
    tokio::spawn(async move { let _ = connection.await; });
    Ok(sender)
}

/// A try that was given up half way counts as unanswered: the next one goes to another node.
struct Turn<'a>(Option<&'a Http>);
impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(http) = self.0 { let mut aim = http.aim(); aim.leader = None; aim.turn = aim.turn.wrapping_add(1); }
    }
}

/// A name as one segment of a path or one value of a query.
pub fn escape(name: &str) -> String {
    let mut out = String::new();
    for b in name.bytes() {
        if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) { out.push(b as char) } else { out.push_str(&format!("%{b:02X}")) }
    }
    out
}
