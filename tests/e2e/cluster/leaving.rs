//! A node that leaves as planned, and one that comes, under load: no post fails, and none waits for long.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::cluster::Cluster;
use harness::deadline::poll_until;
use harness::metrics::Metrics;
use harness::{Event, ServerOptions};

use crate::talker::{Places, Talk, observer};
use crate::{latency, machine};

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_leave_fails_no_post_and_delays_none_for_long() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let groups: Vec<String> = (0..12).map(|number| format!("leaving-{number}")).collect();
    // Nobody is connected to the node that leaves, so that only its shards move.
    let places: Places = Arc::new(Mutex::new(vec![Some(cluster.chat(0)), Some(cluster.chat(1))]));
    let connector = cluster.connector(0);
    let (talk, control) = (Talk::start(8, &places, &connector, &groups), latency::Control::start()?);
    let observer = observer(&connector, &groups).await?;
    let talk_for = async |seconds: u64| {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(seconds) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    talk_for(1).await;
    let terminated = Instant::now();
    cluster.nodes[2].terminate()?;
    ensure!(cluster.nodes[2].wait(Duration::from_secs(30)).await?.success());
    cluster.agreed(2).await?;
    for node in &cluster.nodes[..2] {
        // It has taken itself out of the list: nobody waits for its lease.
        let expired = Metrics::scrape(node.http()).await?.sum("tertulia_cluster_expired_nodes_total", &[]);
        ensure!(expired == Some(0.0), "nodes that were taken for dead: {expired:?}");
    }
    talk_for(1).await;
    cluster.add().await?;
    cluster.agreed(3).await?;
    talk_for(1).await;
    let (verdict, slow) = talk.conclude(observer, &groups).await?;
    println!("{:?}", verdict.facts);
    latency::assert_short(slow, terminated, latency::LATENCY, control)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_node_that_leaves_are_sent_away_in_turn_and_served_until_then() -> Result<()> {
    const CLIENTS: usize = 6;
    let _machine = machine().await;
    // With pauses so long that a busy machine does not blur them, and a grace of which they are less than half.
    let options = ServerOptions::new().set("drain.reconnect_after", "6s").set("drain.linger", "5s");
    let options = options.set("drain.grace", "30s");
    let mut cluster = Cluster::start(2, 1, options).await?;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut client = cluster.connector(0).extended(&format!("user-{number}")).await?;
        client.join("hall").await?;
        clients.push(client);
    }
    cluster.nodes[0].terminate()?;
    let leaving = clients.into_iter().enumerate().map(|(number, mut client)| {
        tokio::spawn(async move {
            let notice = |event: &Event| if let Event::GoingAway(notice) = event { Some(notice.1) } else { None };
            let after = client.reader.until("GoingAway", notice).await?;
            let told = Instant::now();
            client.post("hall", "good-bye", &format!("good-bye-{number}")).await?;
            anyhow::Ok((told, after))
        })
    });
    let mut told = Vec::new();
    for client in leaving.collect::<Vec<_>>() {
        let (when, after) = client.await??;
        ensure!(after == 0, "a client is told to wait for {after} ms, and others are there to take it");
        told.push(when);
    }
    told.sort();
    let spread = told[CLIENTS - 1].duration_since(told[0]);
    ensure!(spread > Duration::from_secs(2), "all are told within {spread:?}");
    ensure!(cluster.nodes[0].wait(Duration::from_secs(30)).await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_hands_over_while_load_balancers_still_send_it_clients() -> Result<()> {
    let _machine = machine().await;
    let options = ServerOptions::new().set("drain.delay", "60s").set("drain.grace", "90s");
    let mut cluster = Cluster::start(2, 1, options).await?;
    cluster.nodes[0].terminate()?;
    let http = [cluster.nodes[0].http(), cluster.nodes[1].http()];
    poll_until(Duration::from_secs(30), "the handover", || async move {
        let mut owned = Vec::new();
        for http in http {
            owned.push(Metrics::scrape(http).await?.sum("tertulia_shards_owned", &[]));
        }
        Ok((owned != [Some(0.0), Some(1024.0)]).then(|| format!("shards owned: {owned:?}")))
    })
    .await?;
    let mut late = cluster.connector(0).extended("late").await?;
    late.join("hall").await?;
    late.post("hall", "still served", "1").await?;
    cluster.nodes[0].kill().await
}

/// Nobody is there to take what they have, and each has what the others' clients ask for.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_all_stop_at_once_answer_what_they_took_for_each_other() -> Result<()> {
    const NODES: usize = 3;
    const POSTS: usize = 36;
    let _machine = machine().await;
    let mut cluster = Cluster::start(NODES, 1, ServerOptions::new()).await?;
    let groups: Vec<String> = (0..12).map(|number| format!("end-{number}")).collect();
    let mut clients = Vec::new();
    for place in 0..NODES {
        let mut client = cluster.connector(place).classic(&format!("classic-{place}")).await?;
        for group in &groups {
            client.writer.join(group).await?;
            client.writer.post(group, &format!("{place} is in"), None).await?;
            client.reader.until_text(group, &format!("{place} is in")).await?;
        }
        clients.push(client);
    }
    for (place, client) in clients.iter_mut().enumerate() {
        for post in 0..POSTS {
            client.writer.post(&groups[post % groups.len()], &format!("{place}: {post}"), None).await?;
        }
    }
    cluster.nodes.iter().try_for_each(|node| node.terminate())?;
    for (place, mut client) in clients.into_iter().enumerate() {
        let mut missing: BTreeSet<String> = (0..POSTS).map(|post| format!("{place}: {post}")).collect();
        let reading = async {
            while let Some(event) = client.reader.next().await? {
                match event {
                    Event::Text(text) => drop(missing.remove(&*text.text)),
                    other => anyhow::bail!("{other:?}"),
                }
            }
            Ok(())
        };
        harness::within(Duration::from_secs(30), "the end of the connection", reading).await?;
        ensure!(missing.is_empty(), "these were taken and did not come: {missing:?}");
    }
    for node in &mut cluster.nodes {
        ensure!(node.wait(Duration::from_secs(30)).await?.success());
        let log = node.log()?;
        ensure!(!log.contains("left unanswered") && !log.contains("does not answer for long"), "{log}");
    }
    Ok(())
}
