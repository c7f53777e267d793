//! The engine against real servers.

mod server;

mod conformance_on_one_server;

use std::sync::Arc;

use tertulia_protocol::GroupName;

use self::server::Servers;
use super::{Config, Nats};
use crate::log::{Batch, Log, Retention};

/// Shards of a log under test.
const SHARDS: u16 = 16;

fn config(urls: &str) -> Config {
    Config { urls: urls.to_owned(), streams: 2, ..Config::default() }
}

async fn open(config: &Config) -> Nats {
    Nats::open(config, &Retention::default(), SHARDS, "a").await.unwrap()
}

/// A log that may extend all shards.
async fn open_and_take(config: &Config) -> Nats {
    let log = open(config).await;
    let taken = futures_util::future::join_all((0..SHARDS).map(|shard| log.take_over(shard))).await;
    taken.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
    log
}
