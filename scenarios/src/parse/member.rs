//! What a scenario says of a member, with its defaults.

use super::{Mistake, Words, duration};
use crate::{Ms, parse::words::TIME};
use baton_coordinator::assign::client::CLIENT;
use std::{collections::BTreeSet, fmt};

/// What a member speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Baton's own, over HTTP.
    Http,
    /// Kafka's consumer protocol (KIP-848).
    Consumer,
    /// Kafka's classic protocol; eager or cooperative by its strategies.
    Classic,
}
impl Protocol {
    pub const ALL: &str = "http, consumer or classic";
    pub fn named(name: &str) -> Option<Protocol> {
        match name {
            "http" => Some(Protocol::Http),
            "consumer" => Some(Protocol::Consumer),
            "classic" => Some(Protocol::Classic),
            _ => None,
        }
    }
}
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Http => "http",
            Protocol::Consumer => "consumer",
            Protocol::Classic => "classic",
        })
    }
}

/// A member as it was set up.
#[derive(Clone, Debug)]
pub struct Spec {
    pub protocol: Protocol,
    pub topics: BTreeSet<String>,
    pub regex: Option<String>,
    /// Of the classic protocol: what it offers, best first.
    pub strategies: Vec<String>,
    /// Of the other two: the assignor that it asks for.
    pub assignor: Option<String>,
    /// Set: a static member.
    pub instance: Option<String>,
    /// Of the classic protocol; the others are told by the group's settings.
    pub heartbeat_ms: Ms,
    pub session_ms: Ms,
    /// Within so long it must give up what is asked back (classic: join again).
    pub rebalance_ms: Ms,
    /// From being told to stop until it has stopped: what is in its hands is finished and its position is stored.
    pub give_up_ms: Ms,
    /// Kafka's `max.poll.interval.ms`: it leaves by itself once its application has been stuck for so long.
    pub poll_timeout_ms: Ms,
    /// Of Baton's own: how long the answer may be held.
    pub long_poll_ms: Ms,
    /// Of the classic protocol: how often the assigning member looks whether topics have grown (`metadata.max.age.ms`).
    pub metadata_age_ms: Ms,
}
impl Default for Spec {
    fn default() -> Self {
        Spec {
            protocol: Protocol::Http, topics: BTreeSet::new(), regex: None, strategies: Vec::new(), assignor: None, instance: None, heartbeat_ms: 3_000, session_ms: 45_000,
            rebalance_ms: 60_000, give_up_ms: 200, poll_timeout_ms: 300_000, long_poll_ms: 0, metadata_age_ms: 300_000,
        }
    }
}

const KEYS: &str = "http, consumer or classic, or one of: topics, regex, strategies, assignor, instance, heartbeat, session, rebalance, give-up, poll-timeout, long-poll, metadata-age";

/// `consumer, topics a b, give-up 300ms`
pub fn says(spec: &mut Spec, text: &str, w: &Words) -> Result<(), Mistake> {
    for part in text.split(',') {
        let words: Vec<&str> = part.split_whitespace().collect();
        let Some((key, values)) = words.split_first() else { return Err(w.mistake_at(part, KEYS)) };
        let one = |what: &str| match values {
            [one] => Ok(one.to_string()),
            _ => Err(w.mistake_at(part, what)),
        };
        let time = || one(TIME).and_then(|v| duration(&v).ok_or_else(|| w.mistake_at(&v, TIME)));
        match *key {
            "topics" if !values.is_empty() => spec.topics = values.iter().map(|t| t.to_string()).collect(),
            "strategies" if !values.is_empty() => spec.strategies = strategies(values, w)?,
            "regex" => spec.regex = Some(one("`regex EXPRESSION`")?),
            "assignor" => spec.assignor = Some(one("`assignor NAME`")?),
            "instance" => spec.instance = Some(one("`instance NAME`")?),
            "heartbeat" => spec.heartbeat_ms = time()?,
            "session" => spec.session_ms = time()?,
            "rebalance" => spec.rebalance_ms = time()?,
            "give-up" => spec.give_up_ms = time()?,
            "poll-timeout" => spec.poll_timeout_ms = time()?,
            "long-poll" => spec.long_poll_ms = time()?,
            "metadata-age" => spec.metadata_age_ms = time()?,
            protocol if values.is_empty() => spec.protocol = Protocol::named(protocol).ok_or_else(|| w.mistake_at(part, KEYS))?,
            _ => return Err(w.mistake_at(part, KEYS)),
        }
    }
    Ok(())
}

fn strategies(values: &[&str], w: &Words) -> Result<Vec<String>, Mistake> {
    let known: Vec<&str> = CLIENT.iter().map(|a| a.name()).collect();
    match values.iter().find(|v| !known.contains(v)) {
        Some(unknown) => Err(w.mistake_at(unknown, &format!("strategies out of {}", known.join(", ")))),
        None => Ok(values.iter().map(|v| v.to_string()).collect()),
    }
}

impl Spec {
    /// Whether it can be played.
    pub fn check(&self, w: &Words) -> Result<(), Mistake> {
        if self.topics.is_empty() && self.regex.is_none() {
            return Err(w.mistake_at("a member without a subscription", "`topics NAME …` or `regex EXPRESSION`"));
        }
        if self.protocol == Protocol::Classic && self.regex.is_some() {
            return Err(w.mistake_at("regex", "`topics …` for a classic member: its client matches regular expressions itself, the group sees only names"));
        }
        if self.heartbeat_ms == 0 {
            return Err(w.mistake_at("heartbeat 0", "a heartbeat interval above 0"));
        }
        Ok(())
    }
    /// Its strategies, `range` if none are said (as Kafka's clients without the cooperative one).
    pub fn offered(&self) -> Vec<String> { if self.strategies.is_empty() { vec!["range".into()] } else { self.strategies.clone() } }
    /// A classic client rebalances cooperatively only if every strategy it offers can.
    pub fn cooperative(&self) -> bool { self.offered().iter().all(|s| s == "cooperative-sticky") }
}
