//! NATS far away: everything takes longer, and nothing else changes.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::metrics::Metrics;
use harness::proxy::Carriage;
use harness::{Event, ServerOptions, check};
use serde_json::json;

use crate::machine;
use crate::talker::{Places, Talk, observer};

/// What each way takes longer.
const EACH_WAY: Duration = Duration::from_millis(200);
/// How long talk goes on before a node leaves, so that what was on its way while NATS was near has ended.
const SETTLING: Duration = Duration::from_secs(4);
/// How long a node may take to leave.
const LEAVE: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_milliseconds_each_way_cost_time_and_nothing_else() -> Result<()> {
    let _machine = machine().await;
    let cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let connector = cluster.connector(0);
    let groups: Vec<String> = (0..9).map(|number| format!("slow-{number}")).collect();
    let mut clients = Vec::new();
    for place in 0..3 {
        let mut client = connector.at(cluster.chat(place)).extended(&format!("user-{place}")).await?;
        for group in &groups {
            client.join(group).await?;
        }
        clients.push(client);
    }
    (0..3).for_each(|place| cluster.set_carriage(place, Carriage::Slow(EACH_WAY)));
    let mut slowest = Duration::ZERO;
    for group in &groups {
        for (place, client) in clients.iter_mut().enumerate() {
            let began = Instant::now();
            client.post(group, &format!("{place} says it"), &format!("says {group}")).await?;
            slowest = slowest.max(began.elapsed());
        }
    }
    println!("the slowest answer took {slowest:?}");
    // To the owner and back is four ways, and so is its append: two messages that each go to NATS and are answered.
    ensure!(slowest < 12 * EACH_WAY, "an answer took {slowest:?}");

    let mut logs = Vec::new();
    for group in &groups {
        for client in &mut clients {
            for place in 0..3 {
                client.reader.until_text(group, &format!("{place} says it")).await?;
            }
        }
        logs.push(clients[0].read_log(group).await?);
    }
    for place in 0..3 {
        let scrape = Metrics::scrape(cluster.nodes[place].http()).await?;
        for (name, labels) in [
            ("tertulia_cluster_expired_nodes_total", &[][..]),
            ("tertulia_cluster_renewals_total", &[("result", "lapsed")]),
        ] {
            let count = scrape.sum(name, labels).with_context(|| format!("no metric {name} of {labels:?}"))?;
            ensure!(count == 0.0, "a node was taken for dead: {name}");
        }
    }
    let recordings: Vec<_> = clients.into_iter().map(harness::Client::settled).collect();
    check(&recordings, &logs).assert_clean();
    Ok(())
}

/// A third of 1,024 shards changes hands under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_leave_takes_seconds_and_fails_no_post_with_nats_far_away() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(3, 1, ServerOptions::new()).await?;
    let groups: Vec<String> = (0..30).map(|number| format!("far-{number}")).collect();
    // Nobody is connected to the node that leaves, so that only its shards move.
    let places: Places = Arc::new(Mutex::new(vec![Some(cluster.chat(0)), Some(cluster.chat(1))]));
    let connector = cluster.connector(0);
    let talk = Talk::start(6, &places, &connector, &groups);
    let observer = observer(&connector, &groups).await?;
    (0..3).for_each(|place| cluster.set_carriage(place, Carriage::Slow(EACH_WAY)));
    let far = Instant::now();
    tokio::time::sleep(SETTLING).await;
    let terminated = Instant::now();
    cluster.nodes[2].terminate()?;
    ensure!(cluster.nodes[2].wait(Duration::from_secs(60)).await?.success());
    let left = terminated.elapsed();
    cluster.agreed(2).await?;
    let agreed = terminated.elapsed();
    println!("left after {left:?}, agreed after {agreed:?}");
    // What has been shown need not be waited for any longer.
    (0..3).for_each(|place| cluster.set_carriage(place, Carriage::Open));
    let (verdict, slow) = talk.conclude(observer, &groups).await?;
    let slowest = |while_leaving: bool| {
        let is_of = |when: &Instant| *when >= far && (*when >= terminated) == while_leaving;
        slow.iter().filter(|(at, ..)| is_of(at)).map(|(_, took, _)| *took).max().unwrap_or_default()
    };
    let (before, slowest) = (slowest(false), slowest(true));
    println!("{:?}, the slowest answer took {slowest:?}, before it was {before:?}", verdict.facts);
    ensure!(agreed < LEAVE, "the shards moved in {agreed:?}");
    // Three round trips for the shard, three for whoever asked the node that had it just before and asks again, and what gathered.
    ensure!(slowest < before + 20 * EACH_WAY, "an answer took {slowest:?}, before it was {before:?}");
    Ok(())
}

/// Groups of which the nodes know nothing but their names, as after all were started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_groups_that_nobody_has_in_memory_is_told_with_nats_far_away() -> Result<()> {
    const GROUPS: usize = 30;
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let mut client = cluster.connector(0).extended("ada").await?;
    for number in 0..GROUPS {
        let group = format!("listed-{number}");
        client.join(&group).await?;
        client.post(&group, "kept", &group).await?;
    }
    drop(client);
    for place in 0..2 {
        cluster.nodes[place].terminate()?;
        ensure!(cluster.nodes[place].wait(Duration::from_secs(60)).await?.success());
    }
    for place in 0..2 {
        cluster.nodes[place].restart().await?;
    }
    cluster.agreed(2).await?;
    let mut client = cluster.connector(0).at(cluster.chat(0)).extended("bob").await?;
    (0..2).for_each(|place| cluster.set_carriage(place, Carriage::Slow(EACH_WAY)));
    let began = Instant::now();
    client.send_json(&json!({"Groups": {"prefix": "listed-"}})).await?;
    let told = |event: &Event| match event {
        Event::Groups(it) => Some(Ok(it.groups.len())),
        Event::Rejected(refusal) => Some(Err(refusal.code.as_str().to_owned())),
        _ => None,
    };
    let listed = client.reader.until("Groups", told).await?;
    println!("{listed:?} after {:?}", began.elapsed());
    ensure!(listed == Ok(GROUPS), "{listed:?}");
    Ok(())
}
