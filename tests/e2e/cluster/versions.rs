//! Nodes of two versions side by side, as while one replaces the other, and nodes of versions that do not go together.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use harness::cluster::Cluster;
use harness::deadline::PATIENCE;
use harness::{Client, Event, ServerOptions, check, newer};
use tertulia_protocol::code::Code;
use tokio::sync::{mpsc, watch};

use crate::machine;
use crate::talker::{Places, Talker, conclude, observer};

/// How long it is talked while nodes come and go no more.
const TALK: Duration = Duration::from_millis(1_500);

/// Nodes are replaced by those of a later version, one at a time, and one of these by one of this version again, while everybody talks.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_version_replaces_this_one_and_this_one_replaces_it_under_load() -> Result<()> {
    let _machine = machine().await;
    let mut cluster = Cluster::start(2, 1, ServerOptions::new()).await?;
    let rewrite = newer::compatible();
    let newer = cluster.add_with(|options| options, Some(rewrite.clone())).await?;
    cluster.agreed(3).await?;
    let groups: Vec<String> = (0..12).map(|number| format!("upgrade-{number}")).collect();
    // Nobody is connected to the nodes that leave.
    let places: Places = Arc::new(Mutex::new(vec![Some(cluster.chat(1)), Some(cluster.chat(newer))]));
    let connector = cluster.connector(1);
    let (hush, quiet) = watch::channel(false);
    let (calm, calmed) = mpsc::unbounded_channel();
    let start = |number: usize, places: &Places| {
        Talker::start((number, fastrand::Rng::new()), places, &connector, &groups, &quiet, &calm)
    };
    let mut talkers: Vec<_> = (0..6).map(|number| start(number, &places)).collect();
    let observer = observer(&connector, &groups).await?;
    tokio::time::sleep(TALK).await;
    // One of each is left, and each has groups of which members are at the other.
    cluster.nodes[0].terminate()?;
    ensure!(cluster.nodes[0].wait(PATIENCE).await?.success());
    cluster.agreed(2).await?;
    let alone = rewrite.changed();
    tokio::time::sleep(TALK).await;
    ensure!(rewrite.changed() > alone + 50, "the later version says little: {} of {alone}", rewrite.changed());
    // The upgrade is taken back.
    let again = cluster.add().await?;
    cluster.agreed(3).await?;
    places.lock().unwrap_or_else(PoisonError::into_inner).push(Some(cluster.chat(again)));
    talkers.extend((6..8).map(|number| start(number + 1, &places)));
    tokio::time::sleep(TALK).await;
    hush.send_replace(true);
    drop(calm);
    let (verdict, _) = conclude(talkers, calmed, observer, &groups).await?;
    println!("{:?}, {} messages of the later version", verdict.facts, rewrite.changed());
    Ok(())
}

/// What it says to a post to each group: whether it was stored.
async fn posts(client: &mut Client, groups: &[String], text: &str) -> Result<Vec<bool>> {
    let mut stored = Vec::new();
    for group in groups {
        let id = format!("{text} {group}");
        client.writer.post(group, text, Some(&id)).await?;
        let answer = client.reader.until("an answer", |event| match event {
            Event::Posted(posted) if posted.id.as_deref() == Some(&*id) => Some(None),
            Event::Rejected(refusal) if refusal.id.as_deref() == Some(&*id) => Some(Some((**refusal).clone())),
            _ => None,
        });
        let refusal = answer.await?;
        ensure!(refusal.as_ref().is_none_or(|refusal| refusal.code == Code::Unavailable), "{refusal:?}");
        stored.push(refusal.is_none());
    }
    Ok(stored)
}

/// A node that only its own kind understands serves nobody else's groups, and says why; a node that comes and would not understand it
/// does not start.
#[tokio::test(flavor = "multi_thread")]
async fn versions_that_do_not_go_together_are_refused_with_a_reason() -> Result<()> {
    let _machine = machine().await;
    let options = ServerOptions::new().set("cluster.patience", "1s");
    let mut cluster = Cluster::start(1, 1, options).await?;
    let groups: Vec<String> = (0..8).map(|number| format!("stranger-{number}")).collect();
    let mut ada = cluster.connector(0).extended("ada").await?;
    for group in &groups {
        ada.join(group).await?;
    }
    ensure!(posts(&mut ada, &groups, "before").await? == [true; 8]);

    let stranger = cluster.add_with(|options| options, Some(newer::incompatible())).await?;
    cluster.agreed(2).await?;
    let stored = posts(&mut ada, &groups, "beside").await?;
    let kept = stored.iter().filter(|stored| **stored).count();
    ensure!((1..8).contains(&kept), "those whose groups are the other node's are refused, and no others: {stored:?}");
    let needed = "needs version 9 of the messages between nodes, and this build speaks 1: upgrade it";
    cluster.nodes[0].until_logged(needed).await?;

    let said = cluster.add_refused().await?;
    ensure!(said.contains("node 'node-1' (version 9.0.0) and this one do not understand each other"), "{said}");
    ensure!(said.contains("Upgrade one version at a time"), "{said}");

    // Once it has gone all is as before, and what was refused is stored once at most.
    cluster.nodes[stranger].terminate()?;
    ensure!(cluster.nodes[stranger].wait(PATIENCE).await?.success());
    cluster.agreed(1).await?;
    ensure!(posts(&mut ada, &groups, "beside").await? == [true; 8]);
    let mut logs = Vec::new();
    for group in &groups {
        let log = ada.read_log(group).await?;
        ensure!(log.messages.len() == 2, "{log:?}");
        logs.push(log);
    }
    check(&[ada.settled()], &logs).assert_clean();
    Ok(())
}
