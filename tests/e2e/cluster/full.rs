//! Storage of JetStream that is full: posts are refused with a reason, everything else goes on, and all is well once there is room.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::cluster::Cluster;
use harness::deadline::{PATIENCE, poll_until, within};
use harness::jetstream::Operator;
use harness::metrics::{Metrics, get};
use harness::mount::Mount;
use harness::nats::Nats;
use harness::recording::Rejected;
use harness::{Client, Event, ServerOptions, check};
use tertulia_protocol::code::Code;

use crate::machine;

/// Groups enough that each of two nodes owns some of them.
fn groups() -> Vec<String> {
    (0..6).map(|number| format!("full-{number}")).collect()
}

/// What a message of a client is filled with.
fn filling() -> String {
    "x".repeat(4 * 1024)
}

async fn post(client: &mut Client, group: &str, text: &str, id: &str) -> Result<Result<u64, Rejected>> {
    client.writer.post(group, text, Some(id)).await?;
    let answer = client.reader.until("an answer to a post", |event| match event {
        Event::Posted(posted) if posted.id.as_deref() == Some(id) => Some(Ok(posted.seq)),
        Event::Rejected(refusal) if refusal.id.as_deref() == Some(id) => Some(Err((**refusal).clone())),
        _ => None,
    });
    answer.await
}

async fn post_until_taken(client: &mut Client, group: &str, text: &str, id: &str) -> Result<()> {
    within(PATIENCE, "a post to be taken", async {
        while let Err(refusal) = post(client, group, text, id).await? {
            let wait = refusal.retry_after_ms.context("it will never be taken")?;
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        Ok(())
    })
    .await
}

async fn until_writable(cluster: &Cluster, writable: bool) -> Result<()> {
    for node in &cluster.nodes {
        let what = if writable { "the log to be writable" } else { "the log not to be writable" };
        poll_until(PATIENCE, what, async || {
            let found = Metrics::scrape(node.http()).await?.sum("tertulia_log_writable", &[]);
            let found = found.context("no metric tells whether the log can be written")?;
            Ok(((found == 1.0) != writable).then_some(format!("{found}")))
        })
        .await?;
    }
    Ok(())
}

/// What is the same at all nodes keeps clients from none: there is nowhere better to go, and they can read.
async fn ensure_ready(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let answer = get(node.http(), "/readyz").await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.body);
    }
    Ok(())
}

/// Says the last thing in every group, and judges what both saw.
async fn conclude(clients: [Client; 2]) -> Result<()> {
    let [mut ada, mut bob] = clients;
    let mut logs = Vec::new();
    for group in groups() {
        post_until_taken(&mut ada, &group, "the end", &format!("end {group}")).await?;
        ada.reader.until_text(&group, "the end").await?;
        bob.reader.until_text(&group, "the end").await?;
        logs.push(ada.read_log_patiently(&group).await?);
    }
    let verdict = check(&[ada.settled(), bob.settled()], &logs);
    verdict.assert_clean();
    println!("{:?}", verdict.facts);
    Ok(())
}

/// The limit of the server is used up by somebody else, and is not any more.
#[tokio::test(flavor = "multi_thread")]
async fn storage_that_is_used_up_refuses_posts_and_takes_them_again_by_itself() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start_on(Nats::start_with(1, "24MB").await?, 2, ServerOptions::new()).await?;
    let mut operator = Operator::connect(cluster.nats.address(0)).await?;
    let connector = cluster.connector(0);
    let mut clients = [connector.extended("ada").await?, connector.at(cluster.chat(1)).extended("bob").await?];
    for group in groups() {
        for client in &mut clients {
            client.join(&group).await?;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            ensure!(post(client, &group, "before", &format!("before {number} {group}")).await?.is_ok());
        }
    }
    operator.take_all_space().await?;
    let mut refused = Vec::new();
    for (number, client) in clients.iter_mut().enumerate() {
        for group in groups() {
            // What little space is left may take a few.
            let mut refusal = None;
            for attempt in 0..100 {
                let id = format!("full {number} {group} {attempt}");
                match post(client, &group, &filling(), &id).await? {
                    Ok(_) => {}
                    Err(it) => {
                        refusal = Some((it, id));
                        break;
                    }
                }
            }
            let (refusal, id) = refusal.with_context(|| format!("posts to '{group}' are never refused"))?;
            ensure!(refusal.code == Code::Unavailable && refusal.retry_after_ms.is_some(), "{refusal:?}");
            refused.push((number, group, id));
        }
    }
    until_writable(&cluster, false).await?;
    ensure_ready(&cluster).await?;
    operator.give_space_back().await?;
    cluster.agreed(2).await?;
    // What was refused is stored once, under the same id.
    for (number, group, id) in &refused {
        let client = &mut clients[*number];
        post_until_taken(client, group, &filling(), id).await?;
    }
    until_writable(&cluster, true).await?;
    for node in &cluster.nodes {
        let scrape = Metrics::scrape(node.http()).await?;
        let expired = scrape.sum("tertulia_cluster_expired_nodes_total", &[]).context("no metric of expired nodes")?;
        ensure!(expired == 0.0, "{expired} nodes were taken for dead");
    }
    conclude(clients).await
}

/// Bytes of the disk under JetStream.
const DISK: u64 = 64 * 1024 * 1024;
/// How long a request may go unanswered.
const UNANSWERED: Duration = Duration::from_secs(4);
/// What the answer itself may take beside that, on a busy machine.
const TOLD: Duration = Duration::from_secs(4);

/// Writes up to the last byte that there is room for.
fn fill(path: &Path) -> Result<()> {
    let full = std::io::copy(&mut std::io::repeat(1), &mut File::create(path)?);
    ensure!(full.as_ref().is_err_and(|error| error.kind() == ErrorKind::StorageFull), "{full:?}");
    Ok(())
}

/// What is refused is posted under these ids until it is taken: user, group, id.
type Refused = Vec<(usize, String, String)>;

/// Everybody posts in every group until that is refused; nobody is left without an answer. How long the slow ones took goes to `waits`, by
/// group.
async fn post_until_refused(
    clients: &mut [Client],
    round: &str,
    waits: &mut BTreeMap<String, Vec<Duration>>,
) -> Result<Refused> {
    let mut refused = Vec::new();
    for group in groups() {
        for (number, client) in clients.iter_mut().enumerate() {
            let mut attempts = 0..2_000;
            loop {
                let attempt = attempts.next().with_context(|| format!("posts to '{group}' are never refused"))?;
                let id = format!("{round} {number} {group} {attempt}");
                let asked = Instant::now();
                let answer = post(client, &group, &filling(), &id).await?;
                let took = asked.elapsed();
                ensure!(took < UNANSWERED + TOLD, "an answer took {took:?}");
                if took >= UNANSWERED {
                    waits.entry(group.clone()).or_default().push(took);
                }
                let Err(refusal) = answer else { continue };
                ensure!(refusal.code == Code::Unavailable && refusal.retry_after_ms.is_some(), "{refusal:?}");
                refused.push((number, group.clone(), id));
                break;
            }
        }
    }
    Ok(refused)
}

/// JetStream cannot write any more, and cannot say so: what it had begun it answers only when it is started again.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_a_byte_left_under_jetstream_refuses_posts_and_loses_none() -> Result<()> {
    let _machine = machine().await;
    let home = tempfile::tempdir()?;
    let Some(mount) = Mount::new(&home.path().join("disk"), DISK)? else { return Ok(()) };
    let options = ServerOptions::new().set("cluster.patience", "4s");
    let mut cluster = Cluster::start_on(Nats::start_in(mount.path()).await?, 2, options).await?;
    let connector = cluster.connector(0);
    let mut clients = [connector.extended("ada").await?, connector.at(cluster.chat(1)).extended("bob").await?];
    for group in groups() {
        for client in &mut clients {
            client.join(&group).await?;
        }
        for (number, client) in clients.iter_mut().enumerate() {
            ensure!(post(client, &group, "before", &format!("before {number} {group}")).await?.is_ok());
        }
    }
    let ballast = mount.path().join("ballast");
    fill(&ballast)?;
    let mut waits = BTreeMap::new();
    let mut refused = post_until_refused(&mut clients, "full", &mut waits).await?;
    println!("full: {waits:?}");
    ensure!(!waits.is_empty(), "JetStream has answered everybody");
    until_writable(&cluster, false).await?;
    refused.extend(post_until_refused(&mut clients, "still full", &mut waits).await?);
    println!("still full: {waits:?}");
    // One finds it out for its shard: right away, or later if its stream was known not to answer just then. Nobody else waits for it.
    ensure!(waits.values().all(|waits| waits.len() == 1), "it was waited for again: {waits:?}");
    for group in groups() {
        ensure!(clients[0].read_log(&group).await?.messages.len() == clients.len(), "what is there can be read");
    }

    std::fs::remove_file(&ballast)?;
    cluster.nats.kill(0).await?;
    cluster.nats.revive(0)?;
    cluster.nats.healthy(0).await?;
    let healthy = Instant::now();
    until_writable(&cluster, true).await?;
    ensure_ready(&cluster).await?;
    cluster.agreed(2).await?;
    println!("served again {:?} after JetStream", healthy.elapsed());
    for (number, group, id) in &refused {
        post_until_taken(&mut clients[*number], group, &filling(), id).await?;
    }
    conclude(clients).await
}
