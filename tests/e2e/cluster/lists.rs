//! Lists of groups while nodes go: they have every group, or they are refused.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use harness::cluster::Cluster;
use harness::{Client, Event, ServerOptions};
use serde_json::json;

use crate::machine;

const GROUPS: usize = 40;

/// The names in the list of groups; `None` if it is refused for the moment.
async fn listed(client: &mut Client) -> Result<Option<BTreeSet<String>>> {
    client.send_json(&json!({"Groups": {}})).await?;
    let answer = |event: &Event| matches!(event, Event::Groups(_) | Event::Rejected(_)).then(|| event.clone());
    match client.reader.until("Groups", answer).await? {
        Event::Groups(it) => Ok(Some(it.groups.iter().map(|group| group.group.to_string()).collect())),
        Event::Rejected(it) => {
            ensure!(it.code.as_str() == "unavailable" && !it.message.contains("the log"), "{it:?}");
            Ok(None)
        }
        other => bail!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_groups_has_all_of_them_while_nodes_go() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let all: BTreeSet<String> = (0..GROUPS).map(|number| format!("listed-{number}")).collect();
    let mut client = cluster.connector(0).extended("lister").await?;
    for group in &all {
        client.join(group).await?;
        client.post(group, "here", "1").await?;
    }
    ensure!(listed(&mut client).await?.as_ref() == Some(&all));

    cluster.nodes[2].terminate()?;
    while !cluster.nodes[2].has_ended()? {
        let seen = listed(&mut client).await?;
        ensure!(seen.as_ref() == Some(&all), "a node leaves as planned: {seen:?}");
        let connections = cluster.nodes[0].admin("ListConnections", json!({})).await?;
        ensure!(connections["connections"].as_array().is_some_and(|all| all.len() == 1), "{connections}");
    }
    cluster.agreed(2).await?;

    cluster.nodes[1].kill().await?;
    let told_again = async {
        loop {
            match listed(&mut client).await? {
                Some(seen) => break Ok(seen),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let seen = harness::within(Duration::from_secs(60), "a list of groups", told_again).await?;
    ensure!(seen == all, "a node is killed: {seen:?}");
    cluster.agreed(1).await?;
    Ok(())
}
