//! How long a partition is nobody's when it changes hands, and how long everything takes: two members of the client library, one of which comes and goes.

use anyhow::{Result, bail};
use baton_client::{Event, Member};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Milliseconds of every hand-over.
#[derive(Default)]
pub struct Times {
    /// From "the old owner has stopped" (it confirms at once) to "the new owner was told".
    pub between: Vec<f64>,
    /// From the start of the newcomer to its last grant.
    pub join: Vec<f64>,
    /// From the wish to leave to the last grant of who stays.
    pub leave: Vec<f64>,
}

#[derive(Default)]
struct Seen { granted: BTreeMap<i32, u64>, stopped: BTreeMap<i32, u64> }
type Log = Arc<Mutex<Seen>>;

fn look<T>(log: &Log, f: impl FnOnce(&mut Seen) -> T) -> T { f(&mut log.lock().unwrap_or_else(PoisonError::into_inner)) }

async fn member(nodes: &[String], group: &str, topic: &str) -> Result<(Member, Log)> {
    let log = Log::default();
    let heard = log.clone();
    let hook = move |e: &Event| look(&heard, |s| match e {
        Event::Granted { partition, at, .. } => { s.granted.insert(partition.partition, *at); }
        Event::Stopped { partition, at, .. } => { s.stopped.insert(partition.partition, *at); }
        _ => {}
    });
    let m = Member::builder(nodes.to_vec(), group).topics([topic]).long_poll(Duration::from_secs(10)).on_event(hook).spawn().await?;
    Ok((m, log))
}

/// Waits until so many partitions were granted since the log was emptied.
async fn granted(log: &Log, count: usize) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(20);
    while look(log, |s| s.granted.len()) < count {
        if Instant::now() > end { bail!("{} of {count} partitions were granted in 20 s", look(log, |s| s.granted.len())); }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    Ok(())
}

/// So many times a second member joins and leaves.
pub async fn run(nodes: &[String], group: &str, topic: &str, partitions: usize, rounds: usize) -> Result<Times> {
    let mut times = Times::default();
    let (stays, old) = member(nodes, group, topic).await?;
    granted(&old, partitions).await?;
    for _ in 0..rounds {
        // Longer than the assignment interval, and not in step with anything.
        tokio::time::sleep(Duration::from_millis(400)).await;
        look(&old, |s| *s = Seen::default());
        let start = Instant::now();
        let (comes, new) = member(nodes, group, topic).await?;
        granted(&new, partitions / 2).await?;
        times.join.push(ms(start.elapsed()));
        times.between.extend(between(&old, &new));
        tokio::time::sleep(Duration::from_millis(400)).await;
        look(&old, |s| *s = Seen::default());
        let start = Instant::now();
        comes.leave().await?;
        granted(&old, partitions / 2).await?;
        times.leave.push(ms(start.elapsed()));
        times.between.extend(between(&new, &old));
    }
    stays.leave().await?;
    Ok(times)
}

/// For each partition that changed hands.
fn between(from: &Log, to: &Log) -> Vec<f64> {
    let stopped = look(from, |s| s.stopped.clone());
    look(to, |s| s.granted.iter().filter_map(|(p, at)| stopped.get(p).map(|stop| at.saturating_sub(*stop) as f64 / 1e6)).collect())
}

fn ms(d: Duration) -> f64 { d.as_secs_f64() * 1e3 }
