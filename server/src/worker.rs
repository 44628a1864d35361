//! `baton worker`: one member of a group that owns its share of a topic and says so. It does no work; it is there to be watched, stopped and killed.
//! The example of the client library is the one to copy.

use crate::{args::{Args, Opt}, say, signals};
use anyhow::{Context, Result};
use baton_client::{Guard, Listener, Member, Partition};
use std::{process::ExitCode, time::Duration};

pub static OPTIONS: &[Opt] = &[
    Opt { name: "servers", value: "H:P,...", default: "127.0.0.1:7600,127.0.0.1:7601,127.0.0.1:7602", help: "HTTP addresses of some nodes" },
    Opt { name: "group", value: "GROUP", default: "demo", help: "the group to join" },
    Opt { name: "topic", value: "TOPIC", default: "orders", help: "what to subscribe to" },
    Opt { name: "name", value: "NAME", default: "worker", help: "first part of its member id; its process id is the second" },
];

struct Report;
impl Listener for Report {
    async fn on_assigned(&self, granted: &[Guard]) { for g in granted { say(&format!("assigned {} token {}", g.partition(), g.token())); } }
    async fn on_revoked(&self, revoked: &[Guard]) { for g in revoked { say(&format!("revoked  {}", g.partition())); } }
    async fn on_lost(&self, lost: &[Partition]) { for p in lost { say(&format!("lost     {p}")); } }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let stop = signals::stop_signals()?;
    let servers: Vec<String> = args.need("servers")?.split(',').map(|s| s.trim().to_string()).collect();
    let (group, topic) = (args.need("group")?.to_string(), args.need("topic")?.to_string());
    let id = format!("{}-{}", args.need("name")?, std::process::id());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("the worker cannot be started")?;
    runtime.block_on(async {
        let member = Member::builder(servers, group).member_id(id).topics([topic]).long_poll(Duration::from_secs(2)).listener(Report).spawn().await?;
        let (tx, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let _ = stop.recv();
            // A receiver that is gone has ended by itself.
            let _ = tx.send(());
        });
        let _ = stopped.await;
        member.leave().await.context("the worker stops without having left: its partitions come free when its session is over")
    })?;
    Ok(ExitCode::SUCCESS)
}
