//! Nodes whose clocks differ by an hour: messages keep their order, posts their ids, and nodes their places.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::deadline::PATIENCE;
use harness::nats::Nats;
use harness::{ServerOptions, check, environment};

use crate::machine;

/// By how much the clock of the second node is ahead, in seconds.
const AHEAD: u64 = 3_600;
/// How far the times of one clock may be from what is expected, in seconds.
const ABOUT: u64 = 120;

/// Where the library is that gives a process another clock; `None`, which is said, if it is not there.
fn library() -> Result<Option<PathBuf>> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/bin/libfaketime");
    let fetched = std::path::absolute(fetched)?;
    if fetched.is_file() {
        return Ok(Some(fetched));
    }
    let missing = "there is no libfaketime: run `tests/tools/fetch libfaketime`";
    ensure!(!environment::is_all_required(), "{missing}");
    environment::announce(&format!("skipped: {missing}"));
    Ok(None)
}

fn now_ms() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

fn is_about(at: u64, wanted: u64) -> bool {
    at.abs_diff(wanted) < ABOUT * 1_000
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_between_two_nodes_costs_no_order_and_no_post() -> Result<()> {
    let _machine = machine().await;
    let Some(library) = library()? else { return Ok(()) };
    let mut cluster = Cluster::start_on(Nats::start(1).await?, 1, ServerOptions::new()).await?;
    let ahead = |options: ServerOptions| {
        options
            .environment("LD_PRELOAD", library.display())
            .environment("FAKETIME", format!("+{AHEAD}s"))
            .environment("FAKETIME_DONT_FAKE_MONOTONIC", 1)
    };
    let other = cluster.add_with(ahead, None).await?;
    cluster.agreed(2).await?;
    let connector = cluster.connector(0);
    let groups: Vec<String> = (0..8).map(|number| format!("clock-{number}")).collect();
    let mut ada = connector.extended("ada").await?;
    let mut bob = connector.at(cluster.chat(other)).extended("bob").await?;
    let (mut of_here, mut of_ahead) = (Vec::new(), Vec::new());
    let mut last = Vec::new();
    for group in &groups {
        ada.join(group).await?;
        bob.join(group).await?;
        let first = ada.post(group, "one", "1").await?;
        let second = bob.post(group, "two", "2").await?;
        ensure!(first.at <= second.at, "{first:?}, {second:?}");
        let now = now_ms()?;
        match (is_about(second.at, now), is_about(second.at, now + AHEAD * 1_000)) {
            (true, false) => of_here.push(group.clone()),
            (false, true) => of_ahead.push(group.clone()),
            _ => anyhow::bail!("now is {now}, and {second:?}"),
        }
        last.push(second.at);
    }
    ensure!(!of_here.is_empty() && !of_ahead.is_empty(), "one node owns all of {groups:?}");

    // All groups go to the node that is an hour ahead: what was posted before is known there by its id, though it seems an hour old,
    // also after something newer was posted, be it by somebody who gives no ids.
    cluster.nodes[0].terminate()?;
    ensure!(cluster.nodes[0].wait(PATIENCE).await?.success());
    let recorded = ada.cut();
    let connector = connector.at(cluster.chat(other));
    let (mut ada, mut eve) = (connector.extended("ada").await?, connector.classic("eve").await?);
    for group in &groups {
        ada.join(group).await?;
        eve.writer.post(group, "three", None).await?;
        ada.reader.until_text(group, "three").await?;
        ensure!(ada.post(group, "one", "1").await?.seq == 1);
        ensure!(bob.post(group, "two", "2").await?.seq == 2);
        let fourth = ada.post(group, "four", "4").await?;
        ensure!(fourth.seq == 4 && is_about(fourth.at, now_ms()? + AHEAD * 1_000), "{fourth:?}");
    }

    // And to a node whose clock is right: the times of a group wait for its clock, and never decrease. There too all ids are known, of what
    // was stored before the hour as of what was stored after it.
    let third = cluster.add().await?;
    cluster.agreed(2).await?;
    cluster.nodes[other].terminate()?;
    ensure!(cluster.nodes[other].wait(PATIENCE).await?.success());
    let (recorded_too, bob, eve) = (ada.cut(), bob.cut(), eve.cut());
    let mut ada = connector.at(cluster.chat(third)).extended("ada").await?;
    let mut logs = Vec::new();
    for group in &groups {
        ada.join(group).await?;
        ensure!(ada.post(group, "one", "1").await?.seq == 1);
        ensure!(ada.post(group, "four", "4").await?.seq == 4);
        let fifth = ada.post(group, "five", "5").await?;
        ensure!(fifth.seq == 5 && is_about(fifth.at, now_ms()? + AHEAD * 1_000), "{fifth:?}");
        ada.reader.until_text(group, "five").await?;
        let log = ada.read_log(group).await?;
        ensure!(log.messages.iter().map(|message| message.at).is_sorted(), "{log:?}");
        ensure!(log.messages.len() == 5, "{log:?}");
        logs.push(log);
    }
    let lapsed = harness::metrics::Metrics::scrape(cluster.nodes[third].http()).await?;
    let expired = lapsed.sum("tertulia_cluster_expired_nodes_total", &[]).context("no metric of expired nodes")?;
    ensure!(expired == 0.0, "{expired} nodes were taken for dead");
    check(&[recorded, recorded_too, bob, eve, ada.settled()], &logs).assert_clean();
    Ok(())
}
