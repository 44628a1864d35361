//! The JSON shapes of Baton's HTTP API, for its server, its client and its command line. Plain data: no rule lives here.
//!
//! Requests refuse fields they do not know (a misspelt field must not be silently ignored); answers do not, so that an older client reads a newer server.
//! Absent means the same as null. Ids of 128 bits (incarnations, topic ids, the cluster id) are strings of 32 hexadecimal digits.
pub mod admin;
pub mod code;
pub mod member;
pub mod offsets;
mod problem;

pub use admin::*;
pub use member::*;
pub use offsets::*;
pub use problem::{PROBLEM_JSON, Problem};

use serde::{Deserialize, Deserializer, Serialize};

/// Names on every answer the node that answers this directly: `host:port`.
pub const LEADER_HEADER: &str = "x-baton-leader";

/// Partitions of one topic, in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPartitions {
    pub topic: String,
    pub partitions: Vec<i32>,
}

/// 128 bits as 32 hexadecimal digits.
pub fn hex128(value: u128) -> String { format!("{value:032x}") }

/// Exactly 32 hexadecimal digits; None for anything else.
pub fn parse_hex128(text: &str) -> Option<u128> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) { return None; }
    u128::from_str_radix(text, 16).ok()
}

/// Null reads as the default, for fields that are not optional in Rust.
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// Tells null (Some(None)) from absent (None, by `serde(default)`).
fn null_is_a_value<'de, D: Deserializer<'de>, T: Deserialize<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> { Option::<T>::deserialize(d).map(Some) }
