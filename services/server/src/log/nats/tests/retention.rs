//! What is removed, by itself and by whom it is asked for, and that the heads stay.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::{Config, EVERYTHING, Nats, SHARDS, Servers, config, told_of_room};
use crate::log::config::{RetentionOverride, RetentionOverrides};
use crate::log::conformance::{ALL, batch, group, record};
use crate::log::retention::Rules;
use crate::log::{Batch, Log, Page, Range, Retention};

async fn open(config: &Config, rules: impl Into<Rules>) -> Nats {
    let log = Nats::open(config, &rules.into(), SHARDS, "a").await.unwrap();
    log.take_over(0).await.unwrap();
    log
}

async fn oldest(log: &Nats) -> Page {
    log.read(0, &group("Dogs"), Range::After(0), ALL).await.unwrap().unwrap()
}

/// Messages that the stream still has.
async fn stored(log: &Nats, config: &Config) -> u64 {
    let context = async_nats::jetstream::new(log.client());
    let name = format!("{}-log-0", config.prefix);
    context.get_stream(name).await.unwrap().cached_info().state.messages
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_messages_are_kept_to_the_record_and_the_rest_goes() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let log = open(&config, Retention { messages: 1_000, ..EVERYTHING }).await;
    let room = log.core.room.notified();
    for round in 0..200 {
        log.append(0, vec![batch("Dogs", 7, 50 * round + 1, 50 * round + 50)]).await.unwrap();
    }
    told_of_room(room).await;
    let page = oldest(&log).await;
    assert_eq!((page.head.first, page.head.seq, page.records.len()), (9_001, 10_000, 1_000));
    assert_eq!(page.records[0], record(9_001));
    until("what nobody can read is removed", async || stored(&log, &config).await < 60).await;
    log.close().await;
    let log = open(&config, Retention { messages: 1_000, ..EVERYTHING }).await;
    assert_eq!(oldest(&log).await, page);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_too_many_bytes_loses_its_oldest() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let size = record(1_000).size() as u64;
    let bytes = 200 * size;
    let log = open(&config, Retention { bytes, ..EVERYTHING }).await;
    for round in 0..100 {
        log.append(0, vec![batch("Dogs", 7, 10 * round + 1, 10 * round + 10)]).await.unwrap();
    }
    let kept = async || oldest(&log).await.records.iter().map(|record| record.size() as u64).sum::<u64>();
    until("what is too much is removed", async || kept().await <= bytes + bytes / 8 + 10 * size).await;
    assert!(kept().await > bytes / 2, "and no more than that");
    let page = oldest(&log).await;
    assert_eq!((page.head.seq, page.head.first), (1_000, page.records[0].seq));
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newest_message_that_alone_is_too_much_stays_and_nobody_is_busy_with_it() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let bytes = 10 * record(1_000).size() as u64;
    let log = open(&config, Retention { bytes, ..EVERYTHING }).await;
    log.append(0, vec![batch("Dogs", 7, 1, 5)]).await.unwrap();
    let idle = log.core.tasks.len();
    log.append(0, vec![batch("Dogs", 7, 6, 105)]).await.unwrap();
    until("the oldest go", async || oldest(&log).await.head.first == 6).await;
    until("nobody looks at it any more", async || log.core.tasks.len() <= idle).await;
    log.append(0, vec![batch("Dogs", 7, 106, 106)]).await.unwrap();
    until("it goes as soon as it is not the newest", async || oldest(&log).await.head.first == 106).await;
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_messages_go_and_the_head_stays() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let age = Duration::from_secs(2);
    let log = open(&config, Retention { age, ..EVERYTHING }).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let aged = |first: u64, last: u64, at: u64| {
        let records = (first..=last).map(|seq| crate::log::Record { at, ..record(seq) }).collect();
        Arc::new(Batch { group: group("Dogs"), epoch: 7, records })
    };
    log.append(0, vec![aged(1, 5, now() - 60_000)]).await.unwrap();
    log.append(0, vec![aged(6, 9, now() - 50_000)]).await.unwrap();
    log.append(0, vec![aged(10, 12, now() + 4_000)]).await.unwrap();
    let newest = Instant::now();
    until("the old ones go", async || oldest(&log).await.head.first >= 10).await;
    // Where nobody looked for so long that all are old, they may all have gone.
    assert!(oldest(&log).await.head.first == 10 || newest.elapsed() > Duration::from_secs(5), "what is not old stays");
    until("all are old", async || oldest(&log).await.head.first == 13).await;
    let page = oldest(&log).await;
    assert_eq!((page.head.epoch, page.head.seq, page.records.len()), (7, 12, 0));
    until("a fence and a mark are left", async || stored(&log, &config).await == 2).await;
    log.append(0, vec![aged(13, 13, now() + 60_000)]).await.unwrap();
    assert_eq!(oldest(&log).await.records.len(), 1);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mark_stays_behind_that_a_later_message_follows() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let log = open(&config, EVERYTHING).await;
    for seq in 1..=30 {
        log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
    }
    for round in 1..=10 {
        log.purge(0, &group("Dogs"), 2 * round - 1).await.unwrap();
        log.purge(0, &group("Dogs"), 2 * round).await.unwrap();
        log.append(0, vec![batch("Dogs", 7, 30 + round, 30 + round)]).await.unwrap();
    }
    until("a fence and the messages are left", async || stored(&log, &config).await == 1 + 20).await;
    // Also where another one goes on after a mark.
    log.purge(0, &group("Dogs"), 21).await.unwrap();
    let other = Nats::open(&config, &EVERYTHING.into(), SHARDS, "b").await.unwrap();
    let left = log.release(0).await.unwrap();
    other.take_over_from(0, left).await.unwrap();
    other.append(0, vec![batch("Dogs", 7, 41, 41)]).await.unwrap();
    until("two fences and the messages are left", async || stored(&other, &config).await == 2 + 20).await;
    let page = oldest(&other).await;
    assert_eq!((page.head.first, page.head.seq, page.records.len()), (22, 41, 20));
    log.close().await;
    other.close().await;
}

/// JetStream's bound on the messages of a subject may drop what is still in the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_goes_on_where_the_oldest_messages_are_gone_already() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let log = open(&config, EVERYTHING).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let aged = |first: u64, last: u64, at: u64| {
        let records = (first..=last).map(|seq| crate::log::Record { at, ..record(seq) }).collect();
        Arc::new(Batch { group: group("Dogs"), epoch: 7, records })
    };
    for (first, last, at) in [(1, 8, now - 60_000), (9, 10, now - 50_000), (11, 12, now + 600_000)] {
        log.append(0, vec![aged(first, last, at)]).await.unwrap();
    }
    // The fence is the first message.
    log.core.link.remove(0, 2).await.unwrap();
    log.close().await;
    let log = open(&config, Retention { age: Duration::from_secs(2), ..EVERYTHING }).await;
    until("the old ones go", async || log.head(0, &group("Dogs")).await.unwrap().is_some_and(|head| head.first == 11))
        .await;
    assert_eq!(oldest(&log).await.records.len(), 2);
    log.close().await;
}

/// Looking at a group takes questions to NATS, and meanwhile a moderator may delete it and somebody post there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_works_out_of_one_life_removes_nothing_of_the_next() {
    let servers = Servers::start(1, "").await;
    let log = open(&Config { streams: 1, ..config(&servers.urls()) }, EVERYTHING).await;
    log.append(0, vec![batch("Dogs", 7, 1, 9)]).await.unwrap();
    log.delete(0, &group("Dogs")).await.unwrap();
    log.append(0, vec![batch("Dogs", 8, 1, 9)]).await.unwrap();
    let purge_life = async |epoch: u64| {
        let mut remover = log.core.shard(0).locks.remover().await;
        log.core.purge_life(0, &group("Dogs"), Some(epoch), 5, &mut remover).await
    };
    assert_eq!(purge_life(7).await, Ok(0));
    assert_eq!(oldest(&log).await.head.first, 1);
    assert_eq!(purge_life(8).await, Ok(5));
    assert_eq!(oldest(&log).await.head.first, 6);
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prefix_has_bounds_of_its_own() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let more = RetentionOverride { messages: Some(500), ..RetentionOverride::default() };
    let overrides = RetentionOverrides([("keep/".to_owned(), more)].into());
    let retention = Retention { messages: 10, ..EVERYTHING };
    let rules =
        Rules::new(&crate::log::Config { retention, retention_overrides: overrides, ..crate::log::Config::default() });
    let log = open(&config, rules).await;
    for round in 0..100 {
        let batches = ["Dogs", "keep/Dogs"].map(|name| batch(name, 7, 10 * round + 1, 10 * round + 10));
        log.append(0, batches.to_vec()).await.unwrap();
    }
    let page = |name| {
        let read = log.read(0, &group(name), Range::After(0), ALL);
        async { read.await.unwrap().unwrap() }
    };
    assert_eq!((page("Dogs").await.head.first, page("keep/Dogs").await.head.first), (991, 501));
    assert_eq!(page("keep/Dogs").await.records.len(), 500, "the stream still has all of them");
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_kept_of_deleted_groups_and_who_lacks_their_end_is_not_believed() {
    let servers = Servers::start(1, "").await;
    let config = Config { streams: 1, ..config(&servers.urls()) };
    let log = open(&config, EVERYTHING).await;
    let names: Vec<String> = (0..20).map(|number| format!("g{number}")).collect();
    for name in &names {
        log.append(0, vec![batch(name, 7, 1, 3)]).await.unwrap();
        assert!(log.delete(0, &group(name)).await.unwrap());
    }
    assert!(log.core.shard(0).state().groups.is_empty());
    for name in &names {
        assert_eq!(log.head(0, &group(name)).await.unwrap(), None);
    }
    log.append(0, vec![batch("g3", 9, 1, 2)]).await.unwrap();
    assert_eq!(log.head(0, &group("g3")).await.unwrap().map(|head| (head.epoch, head.seq)), Some((9, 2)));
    // A replica that has our fence and is one message behind the end of a group.
    let last = { std::mem::replace(&mut log.core.shard(0).state().deleted, u64::MAX) };
    let error = log.head(0, &group("g4")).await.unwrap_err();
    assert!(error.reason.contains("the replicas are behind"), "{error}");
    log.core.shard(0).state().deleted = last;
    assert_eq!(log.head(0, &group("g4")).await.unwrap(), None);
    log.close().await;
}
