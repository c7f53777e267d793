//! Clients that post long messages faster than the log takes them: they wait, all of them get on, and the server does not grow.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::metrics::Metrics;
use harness::{RawClient, Server, ServerOptions};
use serde_json::json;
use tokio::task::JoinSet;

use crate::flood::flood;
use crate::machine;

const CLIENTS: usize = 40;
const MESSAGE: usize = 15_000;
/// Bytes of all posts that may wait.
const ALL: usize = 1024 * 1024;
/// Bytes of a post beside its message that count.
const BESIDE: usize = 128;
const TIME: Duration = Duration::from_secs(4);

async fn poster(server: &Server, number: usize) -> Result<(RawClient, String)> {
    let mut client = server.connector().raw().await?;
    let group = format!("bulk-{number}");
    client.line(&json!({"Join": {"group_name": group}}).to_string()).await?;
    Ok((client, json!({"Post": {"group_name": group, "message": "x".repeat(MESSAGE)}}).to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_that_wait_for_the_log_take_no_more_memory_than_they_may() -> Result<()> {
    let _machine = machine().await;
    let server = ServerOptions::new().set("limits.all_posts_in_flight_bytes", ALL).start().await?;
    let mut floods = JoinSet::new();
    for number in 0..CLIENTS {
        let (mut client, line) = poster(&server, number).await?;
        floods.spawn(async move { flood(&mut client, &line, TIME).await });
    }
    let mut most = 0.0_f64;
    let mut ended = Vec::new();
    while ended.len() < CLIENTS {
        let waiting = Metrics::scrape(server.http()).await?.sum("tertulia_posts_in_flight_bytes", &[]);
        most = most.max(waiting.unwrap_or_default());
        while let Some(flood) = floods.try_join_next() {
            ended.push(flood??);
        }
    }
    println!("at most {most} bytes of {ALL} waited; {ended:?} messages came back");
    ensure!(ended.iter().all(|messages| *messages > 10), "somebody was kept from posting: {ended:?}");
    ensure!(most <= (ALL + CLIENTS * (MESSAGE + BESIDE)) as f64, "{most} bytes waited");
    ensure!(most >= ALL as f64 / 2.0, "the bound was not reached: {most}");
    // The connections are gone; what they sent is stored all the same, and then weighs nothing.
    harness::deadline::poll_until(Duration::from_secs(20), "nothing to wait", async || {
        let left = Metrics::scrape(server.http()).await?.sum("tertulia_posts_in_flight_bytes", &[]);
        Ok((left != Some(0.0)).then(|| format!("{left:?} bytes")))
    })
    .await
}
