//! A thousand members of whom fifty do not read: the others notice nothing, the server's memory stays bounded, and the fifty
//! are caught up whole when they read again, or closed with a reason that operators see.

use std::time::Duration;

use anyhow::{Context, Result};
use harness::deadline::poll_until;
use harness::metrics::Metrics;
use harness::{Client, Connector, Recording, ServerOptions, check};
use tokio::task::JoinSet;

use crate::machine;

const GROUP: &str = "Dogs";
const HEALTHY: usize = 950;
const SLOW: usize = 50;
const POSTS: usize = 600;
const MESSAGE_BYTES: usize = 2_000;
/// What one connection may have waiting.
const OUTBOUND_BYTES: u64 = 32 * 1024;
/// The most memory that the server may take for all of this: what is kept of the group, what waits for the slow ones (and one
/// delivery more each), 24 KiB for every connection, and 48 MiB for the process itself.
const MEMORY_BOUND: u64 = (POSTS * 2 * MESSAGE_BYTES) as u64
    + SLOW as u64 * (OUTBOUND_BYTES + 1024 * 1024)
    + (HEALTHY + SLOW) as u64 * 24 * 1024
    + 48 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);

const LAST: &str = "that was all";

/// Small bounds, so that they are met soon.
fn options() -> ServerOptions {
    // In memory, so that a post is an append and a delivery of its own: what an fsync gathers is few large deliveries, which wait for a slow
    // member in the group's broadcast without it having fallen behind.
    let options = ServerOptions::new().in_memory().set("limits.outbound_bytes", OUTBOUND_BYTES);
    options.set("limits.line_bytes", OUTBOUND_BYTES).set("limits.message_bytes", 2 * MESSAGE_BYTES)
}

/// A member of either dialect; it is one when this returns.
async fn member(connector: &Connector, number: usize) -> Result<Client> {
    let name = format!("m{number}");
    if number.is_multiple_of(2) {
        let mut client = connector.extended(&name).await?;
        client.join(GROUP).await?;
        return Ok(client);
    }
    let mut client = connector.classic(&name).await?;
    let text = format!("{name} is in");
    client.writer.join(GROUP).await?;
    client.writer.post(GROUP, &text, None).await?;
    client.reader.until_text(GROUP, &text).await?;
    Ok(client)
}

async fn members(connector: &Connector, numbers: std::ops::Range<usize>) -> Result<Vec<Client>> {
    let mut members = Vec::new();
    for number in numbers {
        members.push(member(connector, number).await?);
    }
    Ok(members)
}

/// Everybody reads up to the last message, and stays.
async fn read_all(members: Vec<Client>) -> Result<Vec<Client>> {
    let mut reading = JoinSet::new();
    for mut member in members {
        reading.spawn(async move {
            member.reader.until_text(GROUP, LAST).await?;
            anyhow::Ok(member)
        });
    }
    let mut members = Vec::new();
    while let Some(member) = reading.join_next().await {
        members.push(member??);
    }
    Ok(members)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_of_a_thousand_do_not_read() -> Result<()> {
    let _machine = machine().await;
    let server = options().set("limits.write_stall", "10m").start().await?;
    let connector = server.connector().patience(PATIENCE);
    // The slow ones come last, so that there is little for them to read before they stop.
    let healthy = members(&connector, 0..HEALTHY).await?;
    let slow = members(&connector.clone().small_buffers(), HEALTHY..HEALTHY + SLOW).await?;
    let healthy = tokio::spawn(read_all(healthy));

    let mut poster = connector.extended("poster").await?;
    let filling = "x".repeat(MESSAGE_BYTES);
    for number in 0..POSTS {
        poster.writer.post(GROUP, &format!("{number} {filling}"), Some(&format!("p{number}"))).await?;
    }
    poster.post(GROUP, LAST, "last").await?;
    let healthy = healthy.await??;
    assert_eq!(healthy.len(), HEALTHY);

    // The healthy ones have everything, and the slow ones nothing of it: they lag, and that is seen.
    // A healthy one counts as lagging until its task has seen that nothing is left: after its client has the last message.
    poll_until(PATIENCE, "just the slow ones to lag", async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let lagging = metrics.sum("tertulia_members_lagging", &[]);
        Ok((lagging != Some(SLOW as f64)).then(|| metrics.describe("tertulia_members_lagging")))
    })
    .await?;
    let metrics = Metrics::scrape(server.http()).await?;
    assert_eq!(metrics.sum("tertulia_members", &[]), Some((HEALTHY + SLOW) as f64));
    let waiting = metrics.sum("tertulia_outbound_bytes", &[]).context("no outbound bytes")?;
    println!("{waiting} bytes wait in the server for {SLOW} members");
    let peak = server.process().peak_resident_bytes()?;
    println!("the server's peak memory: {peak} bytes, its bound {MEMORY_BOUND}");
    assert!(peak < MEMORY_BOUND, "{peak} of {MEMORY_BOUND}");

    // They wake up, and nothing is missing.
    let slow = read_all(slow).await?;
    poll_until(PATIENCE, "nobody to lag", async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let lagging = metrics.sum("tertulia_members_lagging", &[]);
        Ok((lagging != Some(0.0)).then(|| metrics.describe("tertulia_members_lagging")))
    })
    .await?;
    let log = poster.read_log(GROUP).await?;
    let all = healthy.into_iter().chain(slow).chain([poster]);
    let recordings: Vec<Recording> = all.map(Client::settled).collect();
    let verdict = check(&recordings, &[log]);
    println!("{:?}", verdict.facts);
    verdict.assert_clean();
    assert_eq!(verdict.facts.told_losses, 0);
    assert!(verdict.facts.deliveries >= ((HEALTHY + SLOW) * (POSTS + 1)) as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_takes_nothing_for_too_long_is_closed_with_a_reason() -> Result<()> {
    const STUCK: usize = 10;
    const BEFORE: usize = 1_000;
    let _machine = machine().await;
    let server = options().set("limits.write_stall", "1s").start().await?;
    let connector = server.connector().patience(PATIENCE);
    // Nobody can tell them where in a line the end comes.
    let stuck = members(&connector.clone().small_buffers().may_be_torn(), 0..STUCK).await?;
    let healthy = tokio::spawn(read_all(members(&connector, STUCK..STUCK + 10).await?));
    let mut poster = connector.extended("poster").await?;
    let filling = "x".repeat(MESSAGE_BYTES);
    for number in 0..BEFORE {
        poster.writer.post(GROUP, &format!("{number} {filling}"), Some(&format!("p{number}"))).await?;
    }
    let stalled = ("reason", "write_stall");
    poll_until(PATIENCE, "the stuck ones to be closed", async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let closed = metrics.sum("tertulia_connections_closed_total", &[stalled]);
        Ok((closed != Some(STUCK as f64)).then(|| metrics.describe("tertulia_connections_closed_total")))
    })
    .await?;
    poster.post(GROUP, LAST, "last").await?;
    let mut recordings: Vec<_> = healthy.await??.into_iter().map(Client::settled).collect();
    // What they got before is right as far as it goes.
    for mut client in stuck {
        client.reader.until_closed().await?;
        recordings.push(client.cut());
    }
    let log = poster.read_log(GROUP).await?;
    recordings.push(poster.settled());
    check(&recordings, &[log]).assert_clean();
    Ok(())
}
