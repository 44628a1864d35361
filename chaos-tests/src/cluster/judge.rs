//! Feeds the judges with what is seen of the cluster. Beliefs are judged at the end, from the records of the workers.

use baton_coordinator::{ids::{GroupId, TopicName}, shard::Shard};
use baton_invariants::{Verdict, broken, durable::Commits, leaders::Leaders, sink::Sink, state};
use std::collections::BTreeMap;

/// A place is a partition of a group, as text.
#[derive(Default)]
pub struct Judge {
    pub state: state::Judge,
    leaders: Leaders,
    pub sink: Sink<String>,
    pub commits: Commits,
    /// What is worth a line in the story.
    pub news: Vec<String>,
}

impl Judge {
    /// A node says that it leads.
    pub fn leads(&mut self, node: u64, shard: u16, term: u64) -> Verdict {
        if self.leaders.leads(node, shard, term)? { self.news.push(format!("node {node} leads shard {shard} in term {term}")); }
        Ok(())
    }
    pub fn newest_term(&self, shard: u16) -> u64 { self.leaders.newest_term(shard) }
    /// A node that was asked when `newest` was led already says that it holds the lease of `term`.
    pub fn leased(&mut self, node: u64, shard: u16, term: u64, newest: u64) -> Verdict {
        self.leads(node, shard, term)?;
        self.leaders.leased(node, shard, term, newest)
    }
    /// See `Leaders::backed`.
    pub fn backed(&self, node: u64, shard: u16, term: u64, asked_ns: u64, until_ns: Option<u64>) -> Verdict { self.leaders.backed(node, shard, term, asked_ns, until_ns) }
}

/// The group is there and complete.
pub fn complete(shard: &Shard, group: &str, topics: &BTreeMap<TopicName, i32>) -> Verdict {
    let id = GroupId::from(group);
    match shard.group(&id) {
        Some(g) => state::complete(&id, g, topics),
        None => broken("live", format!("{group} does not exist")),
    }
}
