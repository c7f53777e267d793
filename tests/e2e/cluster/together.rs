//! Nodes that are all started at the same moment, where there is nothing yet: each may be the one that makes the streams and the list,
//! and none may be there too early.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::deadline::poll_until;
use harness::metrics::{self, Metrics};
use harness::nats::Nats;
use harness::{Server, ServerOptions};

use crate::machine;

const ROUNDS: usize = 4;
/// Few, so that a round is short: how many there are has nothing to do with who comes first.
const SHARDS: u16 = 16;
const STREAMS: u16 = 2;
/// How long the nodes of a round may take to be ready.
const READY: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_all_start_at_once_on_an_empty_nats_all_become_ready() -> Result<()> {
    let _machine = machine().await;
    let nats = Nats::start(3).await?;
    for round in 0..ROUNDS {
        start_at_once(&nats, round).await.with_context(|| format!("in round {round}"))?;
    }
    Ok(())
}

async fn start_at_once(nats: &Nats, round: usize) -> Result<()> {
    let options = |place: usize| {
        // Each prefers another server, so that what one of them made may not be known yet to those that the others ask.
        let urls = (0..3).map(|server| format!("nats://{}", nats.address((place + server) % 3)));
        ServerOptions::new()
            .argument("--engine")
            .argument("nats")
            .set("nats.urls", urls.collect::<Vec<_>>().join(","))
            .set("nats.replicas", 3)
            .set("nats.prefix", format!("round-{round}"))
            .set("shard.count", SHARDS)
            .set("nats.streams", STREAMS)
            .set("cluster.node_id", format!("node-{place}"))
    };
    let (first, second, third) = tokio::try_join!(options(0).start(), options(1).start(), options(2).start())?;
    let mut nodes = [first, second, third];
    let ready = poll_until(READY, "all nodes to be ready", async || not_ready(&nodes).await).await;
    // That one has ended says more than that it is not ready.
    for node in &mut nodes {
        ensure!(!node.has_ended()?, "a node has ended: {}", node.log()?);
    }
    ready
}

/// What is still missing, if anything.
async fn not_ready(nodes: &[Server]) -> Result<Option<String>> {
    let mut owned = 0.0;
    for node in nodes {
        match metrics::get(node.http(), "/readyz").await {
            Ok(answer) if answer.status == 200 => {}
            Ok(answer) => return Ok(Some(answer.body)),
            Err(error) => return Ok(Some(format!("{error:#}"))),
        }
        let Ok(scrape) = Metrics::scrape(node.http()).await else { return Ok(Some("no metrics".to_owned())) };
        let known = scrape.sum("tertulia_cluster_nodes", &[]).unwrap_or(-1.0);
        if known != nodes.len() as f64 {
            return Ok(Some(format!("{} knows {known} nodes", node.http())));
        }
        owned += scrape.sum("tertulia_shards_owned", &[]).unwrap_or(0.0);
    }
    Ok((owned != f64::from(SHARDS)).then(|| format!("{owned} shards owned")))
}
