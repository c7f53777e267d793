//! The engine against real servers.

mod claims;
mod faults;
mod fights;
mod full;
mod handover;
mod notes;
mod opening;
mod outage;
pub(crate) mod proxy;
mod quorum;
mod redact;
mod retention;
mod rewound;
pub(crate) mod server;
mod suite;
mod writer;

use std::time::Duration;

use self::server::{ELECTIONS, PATIENCE, Servers};
use super::{Config, Nats};
use crate::log::{Log, Retention};

/// Shards of a log under test.
const SHARDS: u16 = 16;
/// Everything is kept, so that everything can be judged.
const EVERYTHING: Retention = Retention { messages: 0, bytes: 0, age: Duration::ZERO };

fn config(urls: &str) -> Config {
    Config { urls: urls.to_owned(), streams: 2, ..Config::default() }
}

async fn open(config: &Config) -> Nats {
    Nats::open(config, &EVERYTHING.into(), SHARDS, "a").await.unwrap()
}

/// A log that may extend all shards.
async fn open_and_take(config: &Config) -> Nats {
    let log = open(config).await;
    take(&log).await;
    log
}

/// Makes all shards those of a log.
async fn take(log: &Nats) {
    let taken = futures_util::future::join_all((0..SHARDS).map(|shard| log.take_over(shard))).await;
    taken.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
}

/// Waits until those who wait for room are told that something was removed.
async fn told_of_room(room: impl Future<Output = ()>) {
    tokio::time::timeout(PATIENCE, room).await.expect("nobody is told that there may be room");
}

/// Waits until the log says that it can be written.
async fn well(log: &Nats) {
    let begun = tokio::time::Instant::now();
    while let Some(trouble) = log.trouble() {
        assert!(begun.elapsed() < PATIENCE, "{trouble}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
