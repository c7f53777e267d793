//! What nodes remember of NATS is not there any more, or another process has the name of one: it ends, says why, and works again once it is
//! started again.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cluster::Cluster;
use harness::jetstream::Operator;
use harness::{Server, ServerOptions};

use crate::machine;

/// How soon a node notices at most. It looks every 5 s and believes the third look; the rest is for a busy machine, and for its end.
const NOTICED: Duration = Duration::from_secs(60);

/// Waits until a node has ended by itself, and said why.
async fn ended(node: &mut Server, why: &[&str]) -> Result<()> {
    let status = node.wait(NOTICED).await?;
    let log = node.log()?;
    ensure!(status.code() == Some(1), "{status}: {log}");
    let told = log.lines().any(|line| line.contains("ERROR") && why.iter().all(|text| line.contains(text)));
    ensure!(told, "it does not say {why:?}: {log}");
    Ok(())
}

async fn delete(cluster: &Cluster, stream: &str) -> Result<()> {
    Operator::connect(cluster.nats.address(0)).await?.delete(stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_whose_list_was_deleted_end_and_make_it_when_they_are_started_again() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let mut client = cluster.connector(0).extended("ada").await?;
    client.join("Dogs").await?;
    client.post("Dogs", "before", "before").await?;
    drop(client.cut());
    delete(&cluster, "KV_tertulia-nodes").await?;
    for node in &mut cluster.nodes {
        ended(node, &["stream 'KV_tertulia-nodes'", "start it again"]).await?;
    }
    for node in &mut cluster.nodes {
        node.restart().await?;
    }
    cluster.agreed(2).await?;
    let mut client = cluster.connector(1).extended("ada").await?;
    client.join("Dogs").await?;
    client.post("Dogs", "after", "after").await?;
    ensure!(client.read_log("Dogs").await?.messages.len() == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ends_whose_stream_another_one_has_made_anew() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    cluster.nodes[1].kill().await?;
    delete(&cluster, "tertulia-log-0").await?;
    cluster.nodes[1].restart().await?;
    ended(&mut cluster.nodes[0], &["stream 'tertulia-log-0'", "start it again"]).await?;
    cluster.nodes[0].restart().await?;
    cluster.agreed(2).await?;
    for place in 0..2 {
        let mut client = cluster.connector(place).extended("ada").await?;
        // Of all streams, and of both nodes.
        for number in 0..64 {
            let group = format!("anew-{number}");
            client.join(&group).await?;
            client.post(&group, "hello", &format!("{place} {number}")).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_with_one_name_the_older_ends() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    cluster.nodes[0].pause()?;
    // The other one removes it from the list, and it is not there to be refused.
    cluster.agreed_among([1], 1).await?;
    let place = cluster.add_with(|options| options.set("cluster.node_id", "node-0"), None).await?;
    cluster.nodes[0].resume()?;
    ended(&mut cluster.nodes[0], &["'node-0'", "--node-id"]).await?;
    cluster.agreed(2).await?;
    let mut client = cluster.connector(place).extended("ada").await?;
    client.join("Dogs").await?;
    client.post("Dogs", "hello", "1").await?;
    Ok(())
}
