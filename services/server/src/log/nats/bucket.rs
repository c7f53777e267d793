//! Key-value buckets of a deployment: made when they are not there, and kept by as many servers as the streams.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{self, kv, stream};

use super::forming::{MAKING, ask, make};
use super::streams::{placement, tags};
use super::{Config, Storage};
use crate::causes::on_one_line;

/// Makes a bucket in which each key has one value, and values may have a time to live; of one that is there only the servers that keep it
/// are changed, and only if `nats.update_streams` allows it. What was removed leaves a marker for the time of `markers`.
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
    if let Ok(found) = ask(client, &stream).await {
        adapt(&context, config, name, &found.cached_info().config).await;
        return Ok(());
    }
    let wanted = kv::Config {
        bucket: name.to_owned(),
        description: description.to_owned(),
        history: 1,
        storage: match config.storage {
            Storage::File => stream::StorageType::File,
            Storage::Memory => stream::StorageType::Memory,
        },
        num_replicas: usize::from(config.replicas),
        placement: placement(config),
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

/// Has a bucket kept by those servers that this configuration asks for. It serves as it is as well, so nothing here is a reason not to
/// start. But a list that one server keeps alone is gone with it, and no node works then: an operator is to hear of it before.
async fn adapt(context: &jetstream::Context, config: &Config, bucket: &str, found: &stream::Config) {
    let (replicas, expected) = (found.num_replicas, usize::from(config.replicas));
    let wanted = stream::Config { placement: placement(config), ..found.clone() };
    let (placed, expected_tags) = (tags(found), tags(&wanted));
    // JetStream does not do both in one change. What is left is done at the next start.
    let wanted = match replicas == expected {
        true if placed == expected_tags => return,
        true => wanted,
        false => stream::Config { num_replicas: expected, ..found.clone() },
    };
    if !config.update_streams {
        tracing::warn!(
            bucket,
            replicas,
            expected,
            tags = placed,
            expected_tags,
            "a bucket is kept by other servers than nats.replicas and nats.placement_tags ask for: set nats.update_streams to \
             have it changed"
        );
        return;
    }
    match context.update_stream(&wanted).await {
        Ok(_) => tracing::info!(
            bucket,
            replicas = wanted.num_replicas,
            tags = tags(&wanted),
            "changed which servers keep a bucket"
        ),
        Err(error) => tracing::warn!(
            bucket,
            replicas,
            expected,
            tags = placed,
            expected_tags,
            error = on_one_line(&error),
            "cannot change which servers keep a bucket: change it by hand with `nats stream edit KV_<bucket>`"
        ),
    }
}
