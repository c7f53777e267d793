//! The list of nodes is emptied by hand, as it also is by itself when no node has reached NATS for long.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::ServerOptions;
use harness::cluster::Cluster;
use harness::deadline::poll_until;
use harness::jetstream::Operator;
use harness::metrics::{Metrics, get};

use crate::machine;

/// How soon every node is in the list again. Entries, were they to be waited for, would be kept for longer.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_list_was_purged_are_one_server_again_within_seconds() -> Result<()> {
    let _machine = machine().await;
    for nodes in [1, 2] {
        let mut cluster = Cluster::start(nodes, 1, ServerOptions::new()).await?;
        let mut client = cluster.connector(0).extended("ada").await?;
        client.join("Dogs").await?;
        client.post("Dogs", "before", "before").await?;
        let mut operator = Operator::connect(cluster.nats.address(0)).await?;
        let purged = operator.ask("$JS.API.STREAM.PURGE.KV_tertulia-nodes", b"").await?;
        ensure!(purged["success"] == true, "{purged}");
        for node in &cluster.nodes {
            poll_until(SOON, "the node to enter anew", || async {
                let scrape = Metrics::scrape(node.http()).await?;
                let lapsed = scrape.sum("tertulia_cluster_renewals_total", &[("result", "lapsed")]);
                Ok(lapsed.is_none_or(|lapsed| lapsed < 1.0).then(|| format!("{lapsed:?}")))
            })
            .await?;
        }
        cluster.agreed(nodes).await?;
        for node in &cluster.nodes {
            poll_until(SOON, "the node to be ready", || async {
                let answer = get(node.http(), "/readyz").await?;
                Ok((answer.status != 200).then_some(answer.body))
            })
            .await?;
        }
        client.post("Dogs", "after", "after").await?;
    }
    Ok(())
}
