//! Streams most of whose replicas are gone: who is left answers questions, and nothing can be stored.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{ELECTIONS, SHARDS, Servers, config, open_and_take, well};
use crate::log::conformance::batch;
use crate::log::nats::{Config, Nats};
use crate::log::{AppendError, Log};

/// Long enough for a dozen questions to each stream.
const WHILE: Duration = Duration::from_secs(3);

/// Waits until it is known of every stream that it has no leader. One that was the leader finds out that it is alone.
async fn leaderless(log: &Nats) {
    let begun = Instant::now();
    let reasons = || (0..log.core.link.names.streams()).map(|stream| log.core.trouble.of_stream(stream));
    while !reasons().all(|reason| reason.is_some_and(|reason| reason.contains("no leader"))) {
        assert!(begun.elapsed() < ELECTIONS, "it is not known: {:?}", reasons().collect::<Vec<_>>());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Watches that the log says all the time that nothing can be written, and why.
async fn stays_out(log: &Nats) {
    let begun = Instant::now();
    while begun.elapsed() < WHILE {
        let (trouble, outage) = (log.trouble(), log.outage());
        assert!(trouble.is_some() && outage.is_some(), "after {:?}: {trouble:?}, {outage:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Posts in all shards again and again, and in vain.
async fn post_in_vain(log: &Nats) {
    loop {
        let posted = join_all((0..SHARDS).map(|shard| log.append(shard, vec![batch("Dogs", 7, 1, 1)]))).await;
        for refusal in posted {
            assert!(matches!(refusal, Err(AppendError::Unavailable { .. })), "{refusal:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_without_a_leader_are_known_not_to_take_anything_whether_or_not_anybody_posts() {
    let mut servers = Servers::start(3, "").await;
    let log = open_and_take(&Config { replicas: 3, ..config(&servers.urls()) }).await;
    servers.kill(0);
    servers.kill(1);
    leaderless(&log).await;
    stays_out(&log).await;
    tokio::select! {
        () = stays_out(&log) => {}
        () = post_in_vain(&log) => {}
    }
    servers.revive(0);
    let begun = Instant::now();
    while log.trouble().is_some() {
        assert!(begun.elapsed() < ELECTIONS, "{:?}", log.trouble());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    well(&log).await;
    while let Err(error) = log.append(0, vec![batch("Dogs", 7, 1, 1)]).await {
        assert!(begun.elapsed() < ELECTIONS, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    log.close().await;
}
