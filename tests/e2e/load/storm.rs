//! Clients that come and go by the thousand leave nothing behind.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::deadline::poll_until;
use harness::metrics::Metrics;
use harness::{Connector, Event, Server};
use serde_json::json;
use tokio::task::JoinSet;

use crate::machine;

const CLIENTS: usize = 2_000;
const GROUPS: usize = 40;
const PATIENCE: Duration = Duration::from_secs(60);

/// What the storm must leave at zero.
const GAUGES: [&str; 4] =
    ["tertulia_connections_open", "tertulia_members", "tertulia_members_lagging", "tertulia_outbound_bytes"];

fn group(number: usize) -> String {
    format!("storm {}", number % GROUPS)
}

/// One client comes, joins, posts, and goes in one of the ways there are.
async fn come_and_go(connector: Connector, number: usize) -> Result<()> {
    let groups = [group(number), group(number * 7 + 1), group(number * 13 + 2)];
    match number % 8 {
        // Does not even say hello.
        0 => drop(connector.raw().await?),
        // Goes before its join is answered.
        1 => {
            let mut client = connector.extended(&format!("u{number}")).await?;
            for group in &groups {
                client.writer.join(group).await?;
            }
        }
        // Classic, and reads what it posted.
        2 | 3 => {
            let mut client = connector.classic(&format!("c{number}")).await?;
            for group in &groups {
                client.writer.join(group).await?;
                client.writer.post(group, &format!("{number} was here"), None).await?;
            }
            client.reader.until_text(&groups[2], &format!("{number} was here")).await?;
        }
        // Goes in the middle of a line.
        4 => {
            let mut client = connector.extended(&format!("u{number}")).await?;
            client.join(&groups[0]).await?;
            client.writer.send_bytes(b"{\"Post\":{\"group_na").await?;
        }
        // Resets the connection.
        5 => {
            let mut raw = connector.raw().await?;
            raw.line(&json!({"Join": {"group_name": groups[0]}}).to_string()).await?;
            raw.reset_on_drop()?;
        }
        // Leaves politely.
        6 => {
            let mut client = connector.extended(&format!("u{number}")).await?;
            for group in &groups {
                client.join(group).await?;
                client.post(group, "hello", &number.to_string()).await?;
                client.writer.leave(group).await?;
                client.reader.until("Left", |event| matches!(event, Event::Left(_)).then_some(())).await?;
            }
        }
        // Joins the same group again and again, and goes.
        _ => {
            let mut client = connector.extended(&format!("u{number}")).await?;
            for after in [None, Some(0), None] {
                client.join_from(&groups[0], after, None, None).await?;
            }
            client.writer.post(&groups[0], "last words", None).await?;
        }
    }
    Ok(())
}

async fn storm(connector: &Connector) -> Result<()> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(come_and_go(connector.clone(), number));
    }
    while let Some(outcome) = clients.join_next().await {
        outcome??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_clients_come_and_go() -> Result<()> {
    let _machine = machine().await;
    let server = Server::start().await?;
    let connector = server.connector().patience(PATIENCE);
    let limit = Metrics::scrape(server.http()).await?.sum("tertulia_connections_limit", &[]).context("no limit")?;
    let room = server.process().descriptor_table()?;
    ensure!(room as f64 >= limit, "{room} descriptors at once, for {limit} connections: threads will pause for more");
    // The first storm makes whatever is made once; the second leaves nothing more behind.
    storm(&connector).await?;
    calm(&server).await?;
    let tasks = tasks(&server).await?;
    storm(&connector).await?;
    calm(&server).await?;
    let left = async || {
        Ok(Some(self::tasks(&server).await?).filter(|now| *now > tasks).map(|now| format!("{now}, not {tasks}")))
    };
    poll_until(PATIENCE, "as many tasks as before the storm", left).await?;

    // Everything still works, and every connection that was let in has been let out.
    let mut client = connector.extended("after").await?;
    let joined = client.join(&group(0)).await?;
    ensure!(joined.members == 1, "{joined:?}");
    let posted = client.post(&group(0), "quiet", "quiet").await?;
    client.reader.until_text(&group(0), "quiet").await?;
    ensure!(posted.seq == joined.head + 1, "{posted:?} after {joined:?}");
    let metrics = Metrics::scrape(server.http()).await?;
    let accepted = metrics.sum("tertulia_connections_accepted_total", &[]).context("no count of connections")?;
    let closed = metrics.sum("tertulia_connections_closed_total", &[]).context("no count of ends")?;
    assert!(accepted > (2 * CLIENTS) as f64);
    assert_eq!(accepted, closed + 1.0, "all but this one");
    Ok(())
}

async fn calm(server: &Server) -> Result<()> {
    poll_until(PATIENCE, "every gauge to be zero", async || {
        let metrics = Metrics::scrape(server.http()).await?;
        let others: Vec<_> = GAUGES.iter().filter(|gauge| metrics.sum(gauge, &[]) != Some(0.0)).collect();
        let described: Vec<_> = others.iter().map(|gauge| metrics.describe(gauge)).collect();
        Ok((!described.is_empty()).then(|| described.join("; ")))
    })
    .await
}

async fn tasks(server: &Server) -> Result<f64> {
    let metrics = Metrics::scrape(server.http()).await?;
    metrics.sum("tertulia_runtime_alive_tasks", &[]).context("no count of tasks")
}
