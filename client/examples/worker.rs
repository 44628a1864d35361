//! A worker to copy. It shares the partitions of one topic with the other workers of its group and never works on one that is not its own.
//!
//! Start a cluster (`baton dev --nodes 3`), then this in two or three terminals, and stop one with Ctrl-C or `kill -9`:
//! `cargo run -p baton-client --example worker`
//!
//! Two things are the worker's own duty: ask `guard.check()` before *each* outside effect, and hand the token to whatever receives it. A sink that
//! refuses a smaller token than it has seen for a partition is safe even from a write that was under way when the lease ended.

use baton_client::{Admin, Guard, Listener, Member, Partition};
use std::{sync::Arc, time::Duration};

const NODES: [&str; 3] = ["127.0.0.1:7600", "127.0.0.1:7601", "127.0.0.1:7602"];

/// Tells what comes and goes. A real worker opens and closes what a partition needs here.
struct Report;

impl Listener for Report {
    async fn on_assigned(&self, granted: &[Guard]) {
        for g in granted { println!("assigned {} token {}", g.partition(), g.token()); }
    }
    /// The partitions go to others when this returns: finish, flush and commit before.
    async fn on_revoked(&self, revoked: &[Guard]) {
        for g in revoked { println!("revoked  {}", g.partition()); }
    }
    /// Too late to finish anything: somebody else may have them.
    async fn on_lost(&self, lost: &[Partition]) {
        for p in lost { println!("lost     {p}"); }
    }
}

/// Stands for a database or a queue: it takes the token with every write.
fn write(partition: &Partition, token: u64, value: i64) { println!("write    {partition} token {token} value {value}"); }

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    Admin::new(NODES)?.declare_topic("orders", 6).await?;
    let member = Arc::new(Member::builder(NODES, "order-workers").topics(["orders"]).long_poll(Duration::from_secs(2)).listener(Report).spawn().await?);
    member.joined().await;
    println!("joined   as {}", member.member_id());
    for round in 1i64.. {
        for guard in member.assignment() {
            // Before each effect, not once for all of them: between two lines of a program a machine may sleep for an hour.
            let Ok(token) = guard.check() else { continue };
            write(guard.partition(), token, round);
            if let Err(error) = member.commit(&[guard.offset(round)], Duration::from_secs(5)).await { println!("commit   {} failed: {error}", guard.partition()); }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(())
}
