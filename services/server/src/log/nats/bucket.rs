//! Key-value buckets of a deployment, made when they are not there.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, kv, stream};

use super::forming::{MAKING, ask, make};
use super::{Config, Storage};

/// Makes a bucket in which each key has one value, and values may have a time to live; leaves one that is there as it is. What was
/// removed leaves a marker for the time of `markers`.
///
/// # Errors
/// What NATS said.
pub(crate) async fn ensure(
    client: &Client,
    config: &Config,
    name: &str,
    description: &str,
    markers: Duration,
) -> Result<(), String> {
    let context = jetstream::ContextBuilder::new().timeout(MAKING).build(client.clone());
    // The stream behind the bucket.
    let stream = format!("KV_{name}");
    if ask(client, &stream).await.is_ok() {
        return Ok(());
    }
    let tags: Vec<String> = config.placement_tags.split(',').map(|tag| tag.trim().to_owned()).collect();
    let tags: Vec<String> = tags.into_iter().filter(|tag| !tag.is_empty()).collect();
    let wanted = kv::Config {
        bucket: name.to_owned(),
        description: description.to_owned(),
        history: 1,
        storage: match config.storage {
            Storage::File => stream::StorageType::File,
            Storage::Memory => stream::StorageType::Memory,
        },
        num_replicas: usize::from(config.replicas),
        placement: (!tags.is_empty()).then_some(stream::Placement { cluster: None, tags }),
        limit_markers: Some(markers),
        ..kv::Config::default()
    };
    let making = || async { context.create_key_value(wanted.clone()).await.map(drop) };
    match make(client, &stream, making, drop).await {
        Ok(()) => Ok(()),
        // Another node may have been quicker.
        Err(error) => ask(client, &stream).await.map(drop).map_err(|_| error.to_string()),
    }
}
