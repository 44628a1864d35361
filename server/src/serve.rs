//! `baton serve`: one node. Takes the data folder, binds, starts the node, serves HTTP until SIGTERM or SIGINT, drains and ends.

use crate::{args::{self, Args, Opt}, folder::Folder, signals};
use anyhow::{Context, Result, bail};
use baton_coordinator::config::Limits;
use baton_node::{Node, NodeConfig};
use baton_raft::RaftConfig;
use baton_storage::{RealDisk, SledHome};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

pub static OPTIONS: &[Opt] = &[
    Opt { name: "config", value: "FILE", default: "", help: "these options as a TOML file; flags and the environment win over it" },
    Opt { name: "node-id", value: "N", default: "", help: "this node's id, 1 and above; never given to another node or an empty folder again" },
    Opt { name: "data", value: "DIR", default: "", help: "this node's data folder, on a local disk" },
    Opt { name: "http", value: "HOST:PORT", default: "127.0.0.1:7600", help: "where workers and operators reach it" },
    Opt { name: "advertise", value: "HOST:PORT", default: "", help: "the HTTP address told to others, if it is not that of --http" },
    Opt { name: "peer", value: "HOST:PORT", default: "", help: "where the other nodes reach it; default: its own entry of --peers" },
    Opt { name: "peers", value: "ID=H:P,...", default: "", help: "all first nodes, itself included; the same on each" },
    Opt { name: "secret-file", value: "FILE", default: "", help: "the cluster's secret, the same on all nodes; may be left out on loopback only" },
    Opt { name: "shards", value: "N", default: "8", help: "shards of a new cluster, fixed for its life" },
    Opt { name: "wal-segment-mib", value: "N", default: "64", help: "size of a log file, for a new folder" },
    Opt { name: "group-max-size", value: "N", default: "100000", help: "members that a group may have" },
    Opt { name: "group-initial-rebalance-delay-ms", value: "MS", default: "3000", help: "how long the first join of an empty classic group waits for more members" },
    Opt { name: "group-migration-policy", value: "POLICY", default: "bidirectional", help: "which groups change their protocol with their members: bidirectional, upgrade, downgrade or disabled" },
    Opt { name: "insecure", value: "", default: "", help: "allow addresses that others can reach, although nobody is asked who he is" },
];

/// Shorter than the 10 s that a stop may take.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
const STOP_WITHIN: Duration = Duration::from_secs(9);
/// For nodes on loopback only, where no secret file is needed.
const LOOPBACK_SECRET: &[u8] = b"baton on loopback";

pub fn run(args: Args) -> Result<ExitCode> {
    let stop = signals::stop_signals()?;
    let filter = tracing_subscriber::EnvFilter::try_new(std::env::var("BATON_LOG").unwrap_or_else(|_| "info,openraft=error".into())).context("BATON_LOG")?;
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_env_filter(filter).init();

    let Settings { id, peers, peer, http, advertise, secret, segment_bytes, shards, limits } = settings(&args)?;
    let dir = Path::new(args.need("data")?);
    let folder = Folder::open(dir, id, segment_bytes)?;
    let listener = TcpListener::bind(&http).map_err(|e| in_use("http", &http, e))?;
    // Only a look, so that the message is clear; the node binds it itself once its guard time is over.
    drop(TcpListener::bind(&peer).map_err(|e| in_use("peer", &peer, e))?);

    let raft = RaftConfig { node: id, listen: peer.clone(), secret, ..RaftConfig::default() };
    let (directory, segment_bytes) = (folder.node.directory_id()?, folder.node.wal_segment_bytes);
    let config = NodeConfig { limits, node: id, http_advertise: advertise, peers, shards, raft, directory, cluster: folder.node.cluster_id()?, segment_bytes, ..NodeConfig::default() };
    tracing::info!(node = id, data = %dir.display(), directory = %folder.node.directory, http, peer, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config, &folder, listener, stop));
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

/// What the options say, checked.
struct Settings { id: u64, peers: BTreeMap<u64, String>, peer: String, http: String, advertise: String, secret: Vec<u8>, segment_bytes: u64, shards: u16, limits: Limits }

fn settings(args: &Args) -> Result<Settings> {
    let id = args.number("node-id", 1, u64::MAX)?;
    let peers = args::peers(args.need("peers")?)?;
    let peer = match (args.get("peer"), peers.get(&id)) {
        (Some(_), _) => args.address("peer")?.to_string(),
        (None, Some(own)) => own.clone(),
        (None, None) => bail!("--peers does not name node {id}: it must hold this node too, or give --peer"),
    };
    let http = args.address("http")?;
    let insecure = args.switch("insecure");
    let exposed = |what: &str, address: &str| -> Result<()> {
        if !insecure && !resolve(what, address)?.iter().all(|a| a.ip().is_loopback()) {
            bail!("--{what} {address} can be reached from other machines and nobody is asked who he is: use a loopback address, or --insecure in a network you trust");
        }
        Ok(())
    };
    exposed("http", http)?;
    exposed("peer", &peer)?;
    let advertise = match args.get("advertise") {
        Some(_) => args.address("advertise")?.to_string(),
        None if resolve("http", http)?.iter().any(|a| a.ip().is_unspecified()) => bail!("--http {http} is no address that others can use: say with --advertise how they reach it"),
        None => http.to_string(),
    };
    let secret = match args.get("secret-file") {
        Some(file) => {
            let bytes = std::fs::read(file).with_context(|| format!("cannot read the secret in {file}"))?;
            let bytes = bytes.trim_ascii().to_vec();
            if bytes.len() < 16 { bail!("the secret in {file} is shorter than 16 bytes"); }
            bytes
        }
        None if peers.values().all(|p| resolve("peers", p).is_ok_and(|a| a.iter().all(|a| a.ip().is_loopback()))) => LOOPBACK_SECRET.to_vec(),
        None => bail!("nodes on other machines need a --secret-file, the same on all"),
    };
    let segment_bytes = args.number("wal-segment-mib", 1, 1024)? << 20;
    Ok(Settings { id, peers, peer, http: http.into(), advertise, secret, segment_bytes, shards: args.number("shards", 1, 256)? as u16, limits: limits(args)? })
}

/// What groups may be, beside the settings that each has of its own. To be equal on all nodes: a group follows the leader that it has.
fn limits(args: &Args) -> Result<Limits> {
    let mut limits = Limits::default();
    let members_max = args.number("group-max-size", 1, 100_000)? as usize;
    (limits.members_max, limits.classic.members_max) = (members_max, members_max);
    limits.classic.initial_rebalance_delay_ms = args.number("group-initial-rebalance-delay-ms", 0, 300_000)?;
    limits.classic.migration = args.need("group-migration-policy")?.parse().map_err(|e| anyhow::anyhow!("--group-migration-policy: {e}"))?;
    Ok(limits)
}

/// Everything that is wrong with the options, as far as it can be seen without starting.
pub fn mistakes(args: &Args) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut note = |r: Result<()>| if let Err(e) = r { wrong.push(format!("{e:#}")) };
    note(args.number("node-id", 1, u64::MAX).map(drop));
    note(args.need("data").map(drop));
    note(args.address("http").map(drop));
    note(args.need("peers").and_then(args::peers).map(drop));
    note(args.number("shards", 1, 256).map(drop));
    note(args.number("wal-segment-mib", 1, 1024).map(drop));
    note(limits(args).map(drop));
    if wrong.is_empty() && let Err(e) = settings(args) { wrong.push(format!("{e:#}")); }
    wrong
}

async fn serve(config: NodeConfig, folder: &Folder, listener: TcpListener, stop: std::sync::mpsc::Receiver<&'static str>) -> Result<ExitCode> {
    let (tx, mut stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let Ok(signal) = stop.recv() else { return };
        tracing::info!(signal, "stopping");
        let _ = tx.send(());
        // Whatever hangs: the log is durable, so ending here loses nothing.
        std::thread::sleep(STOP_WITHIN);
        tracing::warn!("the stop took too long: ending now");
        std::process::exit(0);
    });
    let open = |path: &Path| RealDisk::open(path).with_context(|| format!("cannot open {}", path.display()));
    let (wal, snapshots) = (open(&folder.wal)?, open(&folder.snapshots)?);
    let state = SledHome(folder.state.clone());
    let began = Instant::now();
    let node = tokio::select! { biased;
        _ = &mut stopped => return Ok(ExitCode::SUCCESS),
        node = Node::start_on(config, wal, snapshots, &state) => node.map_err(|e| anyhow::anyhow!("the node does not start: {e}"))?,
    };
    tracing::info!(ms = began.elapsed().as_millis() as u64, "started");
    let (known, file, dir) = (node.clone(), folder.node.clone(), folder.dir.clone());
    tokio::spawn(async move {
        let cluster = known.cluster_id().await;
        if let Err(e) = file.remember_cluster(&dir, cluster) { tracing::error!("{e:#}: the folder does not know its cluster yet; it is noted at the next start"); }
    });
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (quit, quitting) = tokio::sync::oneshot::channel::<()>();
    let http = tokio::spawn(baton_api::serve(listener, baton_api::router(node.clone()), async move { let _ = quitting.await; }));
    let failed = tokio::select! { biased;
        _ = &mut stopped => None,
        why = node.failed() => Some(why),
    };
    if let Some(why) = failed { bail!("the node cannot go on: {why}"); }
    if tokio::time::timeout(DRAIN_WITHIN, node.drain()).await.is_err() { tracing::warn!("leaderships could not all be handed over in time"); }
    let _ = quit.send(());
    let _ = tokio::time::timeout(Duration::from_secs(1), http).await;
    // With a last checkpoint, so that the next start replays little. Without it nothing is lost.
    let _ = tokio::time::timeout(Duration::from_secs(2), node.shutdown()).await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

fn resolve(what: &str, address: &str) -> Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs().with_context(|| format!("--{what} {address} cannot be resolved"))?.collect())
}

fn in_use(what: &str, address: &str, e: std::io::Error) -> anyhow::Error {
    match e.kind() {
        std::io::ErrorKind::AddrInUse => anyhow::anyhow!("--{what} {address} is in use: stop what listens there, or choose another port"),
        _ => anyhow::anyhow!("cannot listen on --{what} {address}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_coordinator::classic::Migration;

    fn args(more: &[&str]) -> Args {
        let argv: Vec<String> = more.iter().map(|a| a.to_string()).collect();
        Args::parse("serve", OPTIONS, &argv, |_| None).expect("options").expect("no help")
    }

    #[test]
    fn limits_of_groups_come_from_the_options() {
        let l = limits(&args(&[])).expect("the defaults");
        assert_eq!((l.members_max, l.classic.members_max, l.classic.initial_rebalance_delay_ms, l.classic.migration), (100_000, 100_000, 3_000, Migration::Bidirectional));
        let l = limits(&args(&["--group-max-size", "2", "--group-initial-rebalance-delay-ms", "0", "--group-migration-policy", "upgrade"])).expect("in range");
        assert_eq!((l.members_max, l.classic.members_max, l.classic.initial_rebalance_delay_ms, l.classic.migration), (2, 2, 0, Migration::Upgrade));
        for (wrong, word) in [(["--group-max-size", "0"], "group-max-size"), (["--group-initial-rebalance-delay-ms", "300001"], "delay-ms"), (["--group-migration-policy", "both"], "migration-policy")] {
            assert!(mistakes(&args(&wrong)).join("; ").contains(word), "{wrong:?}");
        }
    }
}
