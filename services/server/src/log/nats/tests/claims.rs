//! Takeovers whose answers are lost.

use std::sync::Arc;
use std::time::Duration;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::proxy::Proxy;
use super::{PATIENCE, Servers, config, open, well};
use crate::log::Log;
use crate::log::conformance::batch;
use crate::log::nats::TakeOverError;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_came_through_unseen_is_recognised() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (log, other) = (open(&config).await, open(&config).await);
    let fence = log.take_over(0).await.unwrap().fence;
    // As if the answer to the first had been lost, and whoever asked had given up.
    let unseen = log.core.claim(0, Some(fence), "one").await.unwrap();
    assert_eq!(log.core.claim(0, Some(fence), "one").await.unwrap(), unseen);
    for (log, takeover) in [(&log, "another"), (&other, "one")] {
        let taken = log.core.claim(0, Some(fence), takeover).await.unwrap_err();
        assert_eq!(taken.to_string(), "shard 0 was taken by 'a'");
    }
    log.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_does_not_take_our_own_new_message_for_that_of_another() {
    let servers = Servers::start(1, "").await;
    let log = open(&config(&servers.urls())).await;
    let fence = log.take_over(0).await.unwrap().fence;
    log.core.shard(0).state().is_claiming = true;
    log.core.claim(0, Some(fence), "to find out how an append ended").await.unwrap();
    let dogs = GroupName::new("Dogs").unwrap();
    log.head(0, &dogs).await.unwrap_err();
    assert!(log.holds(0));
    log.core.shard(0).state().is_claiming = false;
    assert_eq!(log.head(0, &dogs).await.unwrap(), None);
    assert!(!log.holds(0), "this time it is another's");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_let_go_of_while_an_append_is_unanswered_is_not_ours_afterwards() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    let log = open(&config(&proxy.url())).await;
    log.take_over(0).await.unwrap();
    proxy.cut_after_next_append();
    let mut appending = Box::pin(log.append(0, vec![batch("Dogs", 7, 1, 1)]));
    let begun = Instant::now();
    while log.trouble().is_none() {
        assert!(begun.elapsed() < PATIENCE, "a connection that was cut is not noticed");
        assert!(futures_util::poll!(&mut appending).is_pending());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log.let_go(0);
    // Which of the two is a matter of moments, but it is one.
    let stored = appending.await;
    assert!(!log.holds(0));
    well(&log).await;
    let taken = log.take_over(0).await.unwrap();
    assert_eq!(taken.groups, usize::from(stored.is_ok()));
    log.close().await;
}

/// What a takeover says while it waits for a stream or a writer that others do not need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_shard_says_at_once_that_it_waits_and_does_not_wait_for_ever() {
    let servers = Servers::start(1, "").await;
    let log = open(&config(&servers.urls())).await;
    let context = async_nats::jetstream::new(log.client());
    context.delete_stream("tertulia-log-0").await.unwrap();
    let holder = Arc::clone(&log.core.shard(1).locks.alone);
    let _writer = holder.lock().await;
    // The stream of the one is gone, the other has an append that is not answered.
    for shard in [0, 1] {
        let (begun, mut waited) = (Instant::now(), None);
        let mut wait = || {
            waited.get_or_insert_with(|| begun.elapsed());
        };
        let taken = tokio::time::timeout(PATIENCE, log.take(shard, None, &mut wait)).await.expect("it waits for ever");
        let took = begun.elapsed();
        assert!(matches!(taken, Err(TakeOverError::Unavailable { .. })), "{taken:?}");
        assert!(waited.is_some_and(|waited| waited < took / 2), "{waited:?} of {took:?}");
    }
    assert!(!log.can_take(0) && log.can_take(1));
    let mut waited = false;
    log.take(3, None, &mut || waited = true).await.unwrap();
    assert!(!waited);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_that_cannot_be_understood_keeps_nobody_from_other_shards() {
    let servers = Servers::start(1, "").await;
    let log = open(&config(&servers.urls())).await;
    let shards = u16::try_from(log.core.shards.len()).unwrap();
    let stream = log.core.link.names.stream_of(0);
    let other = (1..shards).find(|shard| log.core.link.names.stream_of(*shard) == stream).unwrap();
    log.take_over(other).await.unwrap();
    log.client().publish(log.core.link.names.fence(0), "{}".into()).await.unwrap();
    log.client().flush().await.unwrap();
    let failed = log.take_over(0).await.unwrap_err();
    assert!(failed.to_string().contains("the fence of shard 0 is not one"), "{failed}");
    assert!(log.can_take(other) && log.trouble().is_none(), "{:?}", log.trouble());
    log.append(other, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_survives_cut_connections() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    let log = open(&config(&proxy.url())).await;
    for seq in 1..=6 {
        proxy.cut_after_next_append();
        let taken = log.take_over(0).await;
        assert!(taken.is_ok(), "{taken:?}");
        well(&log).await;
        log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
    }
    log.close().await;
}
