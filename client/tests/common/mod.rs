//! A small scripted server on loopback: it answers every request as the script says, on a real socket.
#![allow(dead_code)] // each test file uses its part

use serde_json::{Value, json};
use std::sync::Arc;
use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};

/// Status, extra header lines (each with its line end), body; None: never answers.
pub type Answer = Option<(u16, String, Value)>;
/// (method, path, body) → answer.
pub type Script = dyn Fn(&str, &str, &Value) -> Answer + Send + Sync;

pub fn ok(body: Value) -> Answer { Some((200, String::new(), body)) }
pub fn no_content() -> Answer { Some((204, String::new(), Value::Null)) }
pub fn problem(status: u16, code: &str) -> Answer {
    let body = serde_json::to_value(baton_wire::Problem::new(code, "said by the script")).expect("a problem is JSON");
    Some((status, String::new(), body))
}

/// A heartbeat's answer about partitions (with tokens) of one topic.
pub fn picture(topic: &str, epoch: i32, revision: u64, assigned: &[(i32, u64)], pending: &[i32], lease_ms: u64) -> Value {
    let partitions: Vec<Value> = assigned.iter().map(|(p, t)| json!({"partition": p, "token": t})).collect();
    let pending = if pending.is_empty() { json!([]) } else { json!([{"topic": topic, "partitions": pending}]) };
    json!({"member_id": "m", "member_epoch": epoch, "group_epoch": epoch, "member_state": "stable", "heartbeat_interval_ms": 50, "session_timeout_ms": lease_ms,
        "lease_ms": lease_ms, "assignment_revision": revision, "assignment": [{"topic": topic, "topic_id": "", "partitions": partitions}],
        "pending_revocation": pending, "taken": [], "waited_at_most_ms": 0})
}

/// Serves until the test ends; its address.
pub async fn serve(script: impl Fn(&str, &str, &Value) -> Answer + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound").to_string();
    let script: Arc<Script> = Arc::new(script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await { tokio::spawn(connection(stream, script.clone())); }
    });
    address
}

/// An address at which nobody listens.
pub async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    listener.local_addr().expect("it is bound").to_string()
}

async fn connection(mut stream: TcpStream, script: Arc<Script>) -> Option<()> {
    let mut buffer: Vec<u8> = Vec::new();
    loop {
        let (head, length) = loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&buffer[..end]).to_string();
                let length: usize = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length:").map(|v| v.trim().parse().expect("the client sends a number"))).unwrap_or(0);
                if buffer.len() >= end + 4 + length { break (head, length); }
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await { Ok(0) | Err(_) => return None, Ok(n) => buffer.extend_from_slice(&chunk[..n]) }
        };
        let body = serde_json::from_slice(&buffer[head.len() + 4..head.len() + 4 + length]).unwrap_or(Value::Null);
        buffer.drain(..head.len() + 4 + length);
        let mut words = head.split(' ');
        let (method, path) = (words.next()?, words.next()?);
        let Some((status, headers, answer)) = script(method, path, &body) else { return std::future::pending().await };
        let answer = if answer.is_null() { String::new() } else { answer.to_string() };
        let text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n{headers}\r\n{answer}", answer.len());
        stream.write_all(text.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}
