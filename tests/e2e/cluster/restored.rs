//! A copy of the streams, made and put back as docs/cluster.md says.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::ServerOptions;
use harness::cluster::Cluster;
use harness::jetstream::Operator;
use serde_json::json;
use tokio::task::JoinSet;

use crate::machine;

/// How long a node may take to stop: `drain.grace`, and more for a busy machine.
const STOPPING: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_is_served_and_who_saw_more_is_told() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let mut ada = cluster.connector(0).extended("ada").await?;
    // In most of the streams, by both nodes.
    let others: Vec<String> = (0..24).map(|number| format!("group {number}")).collect();
    for group in others.iter().map(String::as_str).chain(["Dogs", "Cats"]) {
        ada.join(group).await?;
        for text in ["one", "two"] {
            ada.post(group, text, text).await?;
        }
    }
    let closed = json!({"group_name": "Cats", "reason": "good night", "hold_seconds": 3600});
    cluster.nodes[1].admin("CloseGroup", closed).await?;

    let mut streams: Vec<String> = (0..16).map(|number| format!("tertulia-log-{number}")).collect();
    streams.push("KV_tertulia-notes".to_owned());
    // NATS takes two seconds for each.
    let mut copying = JoinSet::new();
    for stream in streams {
        let mut operator = Operator::connect(cluster.nats.address(0)).await?;
        copying.spawn(async move {
            let copy = operator.back_up(&stream).await?;
            anyhow::Ok((stream, copy))
        });
    }
    let mut copies = Vec::new();
    while let Some(copied) = copying.join_next().await {
        copies.push(copied??);
    }
    // This is not in the copy.
    let seen = ada.post("Dogs", "three", "three").await?;
    drop(ada.cut());

    for node in &mut cluster.nodes {
        node.terminate()?;
        let status = node.wait(STOPPING).await?;
        ensure!(status.success(), "{status}");
    }
    let mut operator = Operator::connect(cluster.nats.address(0)).await?;
    for (stream, _) in &copies {
        operator.delete(stream).await?;
    }
    for (stream, copy) in &copies {
        operator.restore(stream, copy).await?;
    }
    for node in &mut cluster.nodes {
        node.restart().await?;
    }
    cluster.agreed(2).await?;

    let mut ada = cluster.connector(1).extended("ada").await?;
    let joined = ada.join_from("Dogs", Some(seen.seq), None, Some(seen.epoch)).await?;
    ensure!((joined.head, joined.epoch, joined.recovered) == (2, seen.epoch, false), "{joined:?}");
    let log = ada.read_log("Dogs").await?;
    let texts: Vec<_> = log.messages.iter().map(|message| (message.seq, &*message.text)).collect();
    ensure!(texts == [(1, "one"), (2, "two")], "{texts:?}");
    let posted = ada.post("Dogs", "four", "four").await?;
    ensure!(posted.seq == 3, "{posted:?}");
    // What was posted before is still known by its id.
    ensure!(ada.post("Dogs", "two", "two").await?.seq == 2);
    for group in &others {
        ensure!(ada.read_log(group).await?.messages.len() == 2, "{group}");
        ada.join(group).await?;
        ensure!(ada.post(group, "three", "three").await?.seq == 3, "{group}");
    }
    let refusal = ada.refusal(&json!({"Join": {"group_name": "Cats"}})).await?;
    ensure!(refusal.as_deref() == Some("closed"), "{refusal:?}");
    Ok(())
}
