//! Clients that ask without end: they are slowed down, and their neighbours do not notice.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use harness::deadline::poll_until;
use harness::metrics::Metrics;
use harness::{RawClient, Server, ServerOptions};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::latency::{Control, Probe};
use crate::machine;

const RATE: u32 = 500;
const BURST: u32 = 1_000;
/// For how long a flood is measured.
const TIME: Duration = Duration::from_secs(4);

async fn server(rate: u32, burst: u32) -> Result<Server> {
    // In memory: what is measured is who waits for whom, and not how long the disk takes.
    let options =
        ServerOptions::new().in_memory().set("limits.requests_per_second", rate).set("limits.requests_burst", burst);
    options.start().await
}

/// Sends a line again and again, as fast as it is taken, and reads all answers; answers how many lines came back in this time.
pub(crate) async fn flood(client: &mut RawClient, line: &str, time: Duration) -> Result<u64> {
    let many = format!("{line}\n").repeat(1_000);
    let (mut read, mut write) = client.stream().split();
    let sending = async {
        loop {
            write.write_all(many.as_bytes()).await?;
        }
    };
    let reading = async {
        let (mut lines, mut buffer) = (0, vec![0; 64 * 1024]);
        let end = tokio::time::sleep(time);
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                count = read.read(&mut buffer) => match count? {
                    0 => anyhow::bail!("the connection was closed after {lines} lines"),
                    count => lines += buffer[..count].iter().filter(|byte| **byte == b'\n').count() as u64,
                },
                () = &mut end => return Ok(lines),
            }
        }
    };
    tokio::select! {
        lines = reading => lines,
        sent = sending => sent,
    }
}

async fn extended(server: &Server, user: &str) -> Result<RawClient> {
    let mut client = server.connector().raw().await?;
    client.line(&json!({"Hello": {"version": 1, "user": user}}).to_string()).await?;
    client.json().await?;
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_slowed_to_its_rate_and_stays_connected() -> Result<()> {
    let _machine = machine().await;
    let server = server(RATE, BURST).await?;
    let mut other = server.connector().extended("other").await?;
    for group in ["Dogs", "Cats"] {
        other.join(group).await?;
        other.post(group, "woof", "1").await?;
    }
    let rate = f64::from(RATE) * TIME.as_secs_f64() + f64::from(BURST);
    for line in [
        json!({"Ping": {}}),
        json!({"History": {"group_name": "Dogs"}}),
        json!({"Members": {"group_name": "Dogs"}}),
        json!({"Groups": {}}),
        json!({"Join": {"group_name": "Dogs"}}),
        json!({"Leave": {"group_name": "Cats"}}),
        json!({"Post": {"group_name": "no such group\u{7}", "message": "refused at once"}}),
    ] {
        let mut client = extended(&server, "flood").await?;
        let answered = flood(&mut client, &line.to_string(), TIME).await? as f64;
        ensure!(answered < 1.25 * rate, "{line}: {answered} of at most {rate}");
        ensure!(answered > 0.2 * rate, "{line}: only {answered} of {rate}");
        // It is still served: all that it sent is.
        println!("{line}: {answered} answers in {TIME:?}");
    }
    let mut classic = server.connector().raw().await?;
    // A classic join has no answer but when it is refused.
    classic.line(&json!({"Join": {"group_name": "Dogs"}}).to_string()).await?;
    let refused = json!({"Join": {"group_name": "\u{7}"}}).to_string();
    let answered = flood(&mut classic, &refused, TIME).await? as f64;
    ensure!(answered < 1.25 * rate && answered > 0.2 * rate, "classic: {answered} of {rate}");
    let paced = Metrics::scrape(server.http()).await?.sum("tertulia_requests_paced_total", &[]);
    ensure!(paced.is_some_and(|paced| paced > 8.0), "{paced:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn posts_are_not_slowed_by_the_limit_of_other_lines() -> Result<()> {
    let _machine = machine().await;
    let server = server(RATE, BURST).await?;
    let mut client = server.connector().extended("ada").await?;
    client.join("Dogs").await?;
    let began = Instant::now();
    let posts = 4 * BURST;
    for number in 0..posts {
        client.writer.post("Dogs", "x", Some(&number.to_string())).await?;
    }
    let last = (posts - 1).to_string();
    client
        .reader
        .until("the last answer", |event| match event {
            harness::Event::Posted(posted) if posted.id.as_deref() == Some(&*last) => Some(()),
            _ => None,
        })
        .await?;
    let paced = Metrics::scrape(server.http()).await?.sum("tertulia_requests_paced_total", &[]);
    ensure!(paced == Some(0.0), "{paced:?} after {:?}", began.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_of_floods_do_not_wait() -> Result<()> {
    const FLOODS: usize = 8;
    /// What a server of a debug build has done with before it is noticed.
    const RATE: u32 = 50;
    const BURST: u32 = 100;
    const PROBES: usize = 300;
    let _machine = machine().await;
    let server = server(RATE, BURST).await?;
    let mut probe = Probe::new(&server.connector()).await?;
    let mut control = Control::new().await?;
    probe.p99(100).await?;
    let lines = [json!({"Ping": {}}), json!({"History": {"group_name": "latency"}}), json!({"Groups": {}})];
    let mut floods = JoinSet::new();
    for number in 0..FLOODS {
        let mut client = extended(&server, &format!("flood-{number}")).await?;
        let line = lines[number % lines.len()].to_string();
        floods.spawn(async move { flood(&mut client, &line, Duration::MAX).await });
    }
    // The bursts pass first.
    poll_until(Duration::from_secs(30), "all floods to wait for their turn", async || {
        let paced = Metrics::scrape(server.http()).await?.sum("tertulia_requests_paced_total", &[]);
        Ok(paced.is_none_or(|paced| paced < FLOODS as f64).then(|| format!("{paced:?}")))
    })
    .await?;
    let (mut probes, mut controls) = (Vec::new(), Vec::new());
    for _ in 0..PROBES {
        probes.push(probe.once().await?);
        controls.push(control.once().await?);
    }
    if let Some(ended) = floods.try_join_next() {
        anyhow::bail!("a flood ended: {ended:?}");
    }
    let (took, machine) = (crate::latency::p99(probes), crate::latency::p99(controls));
    println!(
        "99 of 100 of {PROBES} messages beside {FLOODS} floods took at most {took:?}, a byte of the machine's own {machine:?}"
    );
    ensure!(took < Duration::from_millis(100) + 4 * machine, "{took:?}, the machine {machine:?}");
    Ok(())
}
