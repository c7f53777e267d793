//! A node that leaves as planned, and one that comes, under load: no post fails, and none waits for long.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::deadline::{PATIENCE, within};
use harness::{ServerOptions, check};
use tokio::sync::{mpsc, watch};

use crate::machine;
use crate::talker::{CURTAIN, Places, Talker};

/// How much longer than without a handover an answer may take, on a machine that has the time.
const LATENCY: Duration = Duration::from_secs(1);

/// How many want to run for each that can, since a minute: with ten others each step of a handover waits for its turn. At least 1, at
/// most 3.
fn crowd() -> Result<f64> {
    let load = std::fs::read_to_string("/proc/loadavg").context("read the load of the machine")?;
    let load: f64 = load.split(' ').next().context("no load")?.parse()?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    Ok((load / cores).clamp(1.0, 3.0))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_leave_fails_no_post_and_delays_none_for_long() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let groups: Vec<String> = (0..12).map(|number| format!("leaving-{number}")).collect();
    // Nobody is connected to the node that leaves, so that only its shards move.
    let places: Places = Arc::new(Mutex::new(vec![Some(cluster.chat(0)), Some(cluster.chat(1))]));
    let connector = cluster.connector(0);
    let (hush, quiet) = watch::channel(false);
    let (calm, mut calmed) = mpsc::unbounded_channel();
    let talkers: Vec<_> = (0..8)
        .map(|number| Talker::start(&format!("user-{number}"), number, &places, &connector, &groups, &quiet, &calm))
        .collect();
    drop(calm);
    let mut observer = connector.extended("observer").await?;
    for group in &groups {
        observer.join(group).await?;
    }
    let began = Instant::now();
    let talk_for = async |seconds: u64| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    talk_for(1).await;
    let terminated = began.elapsed();
    cluster.nodes[2].terminate()?;
    ensure!(cluster.nodes[2].wait(Duration::from_secs(30)).await?.success());
    cluster.agreed(2).await?;
    talk_for(1).await;
    cluster.add().await?;
    cluster.agreed(3).await?;
    talk_for(1).await;
    hush.send_replace(true);
    for _ in &talkers {
        within(PATIENCE, "the talkers to have all their answers", async { calmed.recv().await.context("one failed") })
            .await?;
    }
    for group in &groups {
        observer.post(group, CURTAIN, CURTAIN).await?;
    }
    let mut recordings = Vec::new();
    let mut slow = Vec::new();
    for talker in talkers {
        let story = talker.await??;
        ensure!(story.refused == 0, "{} posts were refused", story.refused);
        slow.extend(story.slow.iter().map(|(when, took, group)| (when.duration_since(began), *took, group.clone())));
        recordings.extend(story.recordings);
    }
    let mut logs = Vec::new();
    for group in &groups {
        observer.reader.until_text(group, CURTAIN).await?;
        logs.push(observer.read_log(group).await?);
    }
    recordings.push(observer.settled());
    let verdict = check(&recordings, &logs);
    verdict.assert_clean();
    slow.sort();
    println!("{:?}, slow answers (when, how long, where): {slow:?}", verdict.facts);
    ensure!(verdict.facts.acknowledged > 300, "{verdict}");
    // What the machine needs anyway, busy as it may be, is not the handover's.
    let slowest = |while_leaving: bool| {
        let when = |when: &Duration| (*when >= terminated) == while_leaving;
        slow.iter().filter(|(at, ..)| when(at)).map(|(_, took, _)| *took).max().unwrap_or_default()
    };
    let (before, slowest) = (slowest(false), slowest(true));
    println!(
        "the slowest answer took {slowest:?}, before it was {before:?}; {:.1} times too many want to run",
        crowd()?
    );
    ensure!(slowest < LATENCY.mul_f64(crowd()?) + before, "an answer took {slowest:?}, before it was {before:?}");
    Ok(())
}
