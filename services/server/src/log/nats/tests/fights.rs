//! Two writers that both believe they own a shard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::writer::{Writer, content, judge};
use super::{Config, ELECTIONS, PATIENCE, Servers, config, open};
use crate::log::conformance::batch;
use crate::log::{AppendError, Log};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_not_taken_a_shard_cannot_extend_it() {
    let servers = Servers::start(1, "").await;
    let log = open(&config(&servers.urls())).await;
    let error = log.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Fenced { .. }), "{error}");
    let first = log.take_over(0).await.unwrap();
    log.append(0, vec![batch("Dogs", 7, 1, 1)]).await.unwrap();
    log.release(0).await;
    let error = log.append(0, vec![batch("Dogs", 7, 2, 2)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Fenced { found: 1, .. }), "{error}");
    assert_eq!(log.head(0, &crate::log::conformance::group("Dogs")).await.unwrap().unwrap().seq, 1);
    let second = log.take_over(0).await.unwrap();
    assert!(second.fence > first.fence);
    assert_eq!((first.groups, second.groups), (0, 1));
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loser_is_told_and_what_it_sends_is_refused() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (one, other) = (open(&config).await, open(&config).await);
    let mut lost = one.lost();
    one.take_over(3).await.unwrap();
    one.append(3, vec![batch("Dogs", 7, 1, 5)]).await.unwrap();
    other.take_over(3).await.unwrap();
    let error = one.append(3, vec![batch("Dogs", 7, 6, 6), batch("Cats", 7, 1, 1)]).await.unwrap_err();
    assert!(matches!(error, AppendError::Fenced { .. }), "{error}");
    assert!(!one.holds(3));
    assert_eq!(lost.recv().await, Ok(3));
    other.append(3, vec![batch("Dogs", 7, 6, 9), batch("Cats", 7, 1, 1)]).await.unwrap();
    assert_eq!(other.stats().groups, 2);
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loser_is_told_also_if_it_sends_nothing() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (one, other) = (open(&config).await, open(&config).await);
    let mut lost = one.lost();
    one.take_over(3).await.unwrap();
    one.take_over(4).await.unwrap();
    other.take_over(3).await.unwrap();
    assert_eq!(tokio::time::timeout(PATIENCE, lost.recv()).await.unwrap(), Ok(3));
    assert!(!one.holds(3) && one.holds(4) && other.holds(3));
    one.close().await;
    other.close().await;
}

/// Takeovers by each writer after which there was a fight.
const ENOUGH: usize = 4;

/// All take the shard again and again and append as fast as they can: for some time, and until each has had it often enough and was told that
/// something is stored, and one has lost it.
async fn fight(config: &Config, time: Duration) {
    let mut writers = Vec::new();
    for name in ["one", "other", "third"] {
        writers.push(Writer::new(open(config).await, name, "Dogs"));
    }
    let (begun, end) = (Instant::now(), Instant::now() + time);
    // Who has not fought enough, and one more until somebody has lost.
    let left = Arc::new(AtomicUsize::new(writers.len() + 1));
    let lost = Arc::new(AtomicBool::new(false));
    let fights = writers.into_iter().enumerate().map(|(index, mut writer)| {
        let (left, lost) = (Arc::clone(&left), Arc::clone(&lost));
        tokio::spawn(async move {
            let (mut takeovers, mut has_enough) = (0, false);
            while Instant::now() < end || left.load(Ordering::SeqCst) > 0 {
                assert!(begun.elapsed() < ELECTIONS, "{takeovers} takeovers, {} acked", writer.acked.len());
                if !has_enough && takeovers >= ENOUGH && !writer.acked.is_empty() {
                    has_enough = true;
                    left.fetch_sub(1, Ordering::SeqCst);
                }
                if !writer.refused.is_empty() && !lost.swap(true, Ordering::SeqCst) {
                    left.fetch_sub(1, Ordering::SeqCst);
                }
                if writer.log.take_over(writer.shard).await.is_err() {
                    continue;
                }
                takeovers += 1;
                writer.look().await;
                for round in 0..40 {
                    // Of one message, and of several.
                    let count = if round % 5 == 0 { 1_500 } else { 1 + index as u64 };
                    if writer.append(count).await.is_err() {
                        break;
                    }
                }
                tokio::time::sleep(Duration::from_millis(5 + 7 * index as u64)).await;
            }
            (writer, takeovers)
        })
    });
    let mut ended = Vec::new();
    for fight in fights.collect::<Vec<_>>() {
        let (writer, takeovers) = fight.await.unwrap();
        println!("{takeovers} takeovers, {} acked, {} refused", writer.acked.len(), writer.refused.len());
        assert!(takeovers >= ENOUGH && !writer.acked.is_empty());
        ended.push(writer);
    }
    let reader = open(config).await;
    let content = content(&reader, "Dogs").await;
    judge(&content, &ended.iter().collect::<Vec<_>>());
    assert!(ended.iter().any(|writer| !writer.refused.is_empty()), "nobody lost a fight");
    reader.close().await;
    for writer in ended {
        writer.log.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_fight_lose_and_double_nothing() {
    let servers = Servers::start(1, "").await;
    let config = Config { prefix: "fight".to_owned(), ..config(&servers.urls()) };
    fight(&config, Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_fight_over_three_replicas_lose_and_double_nothing() {
    let servers = Servers::start(3, "").await;
    let config = Config { replicas: 3, ..config(&servers.urls()) };
    fight(&config, Duration::from_secs(6)).await;
}
