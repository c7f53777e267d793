//! NATS far away: everything takes longer, and nothing else changes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::cluster::Cluster;
use harness::metrics::Metrics;
use harness::proxy::Carriage;
use harness::{ServerOptions, check};

use crate::machine;

/// What each way takes longer.
const EACH_WAY: Duration = Duration::from_millis(200);

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
        let value = |name: &str, labels: &[(&str, &str)]| scrape.sum(name, labels).unwrap_or_default();
        ensure!(value("tertulia_cluster_expired_nodes_total", &[]) == 0.0, "a node was taken for dead");
        ensure!(value("tertulia_cluster_renewals_total", &[("result", "lapsed")]) == 0.0, "a node was taken for dead");
    }
    let recordings: Vec<_> = clients.into_iter().map(harness::Client::settled).collect();
    check(&recordings, &logs).assert_clean();
    Ok(())
}
