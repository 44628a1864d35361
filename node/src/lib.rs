//! One node of a Baton cluster: the imperative shell around the protocol core.
//!
//! It drives the shards (mailbox, gate, proposals, lease checks, timers), forwards a request to the node that leads its shard, keeps the meta state,
//! forms a cluster at first start and spreads leaderships. It decides nothing about groups: that is the coordinator's. The HTTP front calls [`Node`].

mod balance;
mod bootstrap;
mod clock;
mod config;
mod driver;
mod forward;
mod identity;
mod local;
mod times;
mod history;
mod machine;
mod metrics;
mod node;
mod view;

pub use clock::Clock;
pub use config::NodeConfig;
pub use node::Node;
pub use view::{ClusterView, GroupSummary, Kind, MetaRefusal, Metric, NodeView, Refusal, ShardView, StartError};
