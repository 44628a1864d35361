//! Accepts connections and speaks HTTP/1 on them. Our own loop, because it must run over the simulated network too.
//! Never waits for one connection on behalf of another. The caller owns the listener's address and says when to stop.

use axum::Router;
use baton_wire::{PROBLEM_JSON, Problem, code};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{future::Future, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

/// Connections open at one time.
pub const CONNECTIONS_MAX: usize = 10_000;
/// How long requests under way may take once the server stops.
const GRACE: Duration = Duration::from_secs(5);
/// What hyper buffers of a request's head. Above `HEADERS_MAX`, so that we answer, not hyper, unless it is far beyond.
const HEAD_BUFFER: usize = 64 << 10;

/// How long a head may take, and a kept connection may be idle, and how often a connection looks whether that is over.
/// Not in the simulation: there nobody is slow on purpose.
#[derive(Clone, Copy)]
#[cfg_attr(madsim, expect(dead_code))]
struct Patience { head: Duration, look: Duration }
/// Above the longest heartbeat interval.
const PATIENCE: Patience = Patience { head: Duration::from_secs(75), look: Duration::from_secs(15) };

/// Serves until `shutdown` resolves, then lets requests under way end (at most 5 s) and closes every connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>) { serve_limited(listener, router, shutdown, CONNECTIONS_MAX).await }

/// As `serve`, with another limit of connections.
pub async fn serve_limited(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()>, connections_max: usize) {
    let slots = Arc::new(Semaphore::new(connections_max));
    let stop = Stop::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! { biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => match slots.clone().try_acquire_owned() {
                Ok(slot) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    tokio::spawn(async move {
                        connection(stream, router, stop, PATIENCE).await;
                        drop(slot);
                    });
                }
                Err(_) => { tokio::spawn(turn_away(stream, connections_max)); }
            },
            // Out of file handles, or the peer was gone already. The pause keeps the first from spinning.
            Err(e) => {
                tracing::warn!(error = %e, "accept failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    drop(listener);
    stop.gently.close();
    let all = u32::try_from(connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(GRACE, slots.acquire_many(all)).await.is_err() {
        stop.now.close();
        let _ = tokio::time::timeout(Duration::from_secs(1), slots.acquire_many(all)).await;
    }
}

/// Two signals, each sent by closing a semaphore that never has a permit: whoever asks later still sees it.
#[derive(Clone)]
struct Stop { gently: Arc<Semaphore>, now: Arc<Semaphore> }
impl Stop {
    fn new() -> Stop { Stop { gently: Arc::new(Semaphore::new(0)), now: Arc::new(Semaphore::new(0)) } }
}

async fn connection(stream: TcpStream, router: Router, stop: Stop, patience: Patience) {
    let _ = stream.set_nodelay(true);
    let mut http = hyper::server::conn::http1::Builder::new();
    http.max_buf_size(HEAD_BUFFER);
    #[cfg(not(madsim))]
    http.timer(timer::Coarse).header_read_timeout(patience.head);
    #[cfg(madsim)]
    let stream = crate::quiet::Quiet::new(stream);
    let mut conn = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let mut gently = pin!(stop.gently.acquire());
    let mut look = pin!(next_look(patience));
    loop {
        tokio::select! { biased;
            _ = gently.as_mut() => break,
            // Its errors are the peer's: it went away or did not speak HTTP.
            _ = conn.as_mut() => return,
            // The server's own deadlines (`timer`) are asked whenever this task is woken.
            () = look.as_mut() => look.set(next_look(patience)),
        }
    }
    conn.as_mut().graceful_shutdown();
    tokio::select! { biased;
        _ = stop.now.acquire() => {}
        _ = conn.as_mut() => {}
    }
}

/// Says why before it closes, so that a client can tell it from a crash.
async fn turn_away(mut stream: TcpStream, connections_max: usize) {
    let problem = Problem::new(code::TOO_MANY_CONNECTIONS, format!("{connections_max} connections are open")).at_limit("connections").after(1_000);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    let head = format!("HTTP/1.1 503 Service Unavailable\r\ncontent-type: {PROBLEM_JSON}\r\ncontent-length: {}\r\nretry-after: 1\r\nconnection: close\r\n\r\n", body.len());
    let write = async {
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        stream.flush().await?;
        stream.shutdown().await
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), write).await;
}

#[cfg(not(madsim))]
async fn next_look(patience: Patience) { tokio::time::sleep(patience.look).await }
#[cfg(madsim)]
async fn next_look(_: Patience) { std::future::pending().await }

/// hyper's timer, for deadlines that need not be met to the second. hyper makes one for every request and hardly ever lets it come to its end: an alarm
/// of the runtime for each costs more than these, which only look at the clock, and rely on `next_look` to be asked.
#[cfg(not(madsim))]
mod timer {
    use hyper::rt::Sleep;
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll},
        time::{Duration, Instant},
    };

    #[derive(Clone, Copy)]
    pub struct Coarse;
    struct Wait(Instant);
    impl Future for Wait {
        type Output = ();
        fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> { if Instant::now() < self.0 { Poll::Pending } else { Poll::Ready(()) } }
    }
    impl Sleep for Wait {}
    impl hyper::rt::Timer for Coarse {
        fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> { self.sleep_until(Instant::now() + duration) }
        fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> { Box::pin(Wait(deadline)) }
    }
}

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// What the peer reads from a connection that has sent `sent` and then nothing more.
    async fn told(sent: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        peer.write_all(sent.as_bytes()).await.unwrap();
        let patience = Patience { head: Duration::from_millis(50), look: Duration::from_millis(20) };
        let router = Router::new().route("/", axum::routing::get(|| async { "here" }));
        let (mut read, server) = (String::new(), connection(stream, router, Stop::new(), patience));
        let both = async { tokio::join!(server, peer.read_to_string(&mut read)).1.unwrap() };
        tokio::time::timeout(Duration::from_secs(60), both).await.expect("the connection is closed");
        read
    }

    #[tokio::test]
    async fn who_says_nothing_or_half_a_head_is_not_waited_for() {
        assert_eq!(told("").await, "");
        assert_eq!(told("GET / HTTP/1.1\r\nho").await, "");
        assert!(told("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.ends_with("here"), "a kept connection ends after its answer");
    }
}
