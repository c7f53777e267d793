//! Texts that are removed from streams, in which no message can be changed.

use std::time::Duration;

use super::{EVERYTHING, SHARDS, Servers, config, open, open_and_take, take};
use crate::log::conformance::{ALL, batch, group, record, without_texts};
use crate::log::nats::Nats;
use crate::log::nats::message::{Kind, Message};
use crate::log::{Log, Range, Record, Retention};

/// Records from `first` to `last`, without the texts of some.
fn records_without(first: u64, last: u64, redacted: &[u64]) -> Vec<Record> {
    without_texts((first..=last).map(record), |seq| redacted.contains(seq))
}

fn message(epoch: u64, records: Vec<Record>) -> Message {
    let (seq, at) = records.last().map_or((0, 0), |last| (last.seq, last.at));
    Message { kind: Kind::Records, epoch, floor: 1, bytes: 0, seq, at, records }
}

async fn all(log: &Nats, name: &str) -> Vec<Record> {
    log.read(0, &group(name), Range::After(0), ALL).await.unwrap().unwrap().records
}

async fn redact(log: &Nats, name: &str, seqs: &[u64]) -> u64 {
    log.redact(0, &group(name), 7, seqs).await.unwrap()
}

/// Stores what stands for a message, and no more.
async fn store(log: &Nats, name: &str, message: &Message) {
    log.core.store_substitutes(0, &group(name), &[message]).await.unwrap();
}

/// What stands for messages of a group.
async fn substitutes(log: &Nats, name: &str) -> Vec<String> {
    let names = &log.core.link.names;
    let (_, mut subjects) =
        log.core.link.subjects(names.stream_of(0), &names.substitutes_of(0, &group(name))).await.unwrap();
    subjects.sort();
    subjects.iter().map(|(subject, _)| subject.rsplit('.').next().unwrap().to_owned()).collect()
}

/// As where a node is killed between the two, or has no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_half_removed_is_removed_when_it_is_asked_for_again() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    for (first, last) in [(1, 5), (6, 8)] {
        log.append(0, vec![batch("Dogs", 7, first, last)]).await.unwrap();
    }
    for (seq, last) in [(2, 5), (8, 8)] {
        let first = if last == 5 { 1 } else { 6 };
        store(&log, "Dogs", &message(7, records_without(first, last, &[seq]))).await;
        // Nobody asks for it while the original is there.
        assert_eq!(all(&log, "Dogs").await[usize::try_from(seq).unwrap() - 1], record(seq));
    }
    assert_eq!(redact(&log, "Dogs", &[2, 8]).await, 2);
    assert_eq!(all(&log, "Dogs").await, records_without(1, 8, &[2, 8]));
    assert_eq!(substitutes(&log, "Dogs").await, ["5", "8"]);
    // What is redacted already is left as it is, also where there is no original any more.
    assert_eq!(redact(&log, "Dogs", &[2, 8]).await, 2);
    assert_eq!(redact(&log, "Dogs", &[1, 2]).await, 2);
    assert_eq!(all(&log, "Dogs").await, records_without(1, 8, &[1, 2, 8]));
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_the_shard_next_reads_and_extends_what_was_redacted() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let one = open_and_take(&config).await;
    for (first, last) in [(1, 3), (4, 4), (5, 7)] {
        one.append(0, vec![batch("Dogs", 7, first, last)]).await.unwrap();
    }
    let redacted = [3, 4, 5, 7];
    assert_eq!(redact(&one, "Dogs", &redacted).await, 4);
    // One that has the shard after it was let go of, and one that knows nothing of anybody.
    let other = open(&config).await;
    assert_eq!(all(&other, "Dogs").await, records_without(1, 7, &redacted), "it has no shard");
    take(&other).await;
    assert_eq!(all(&other, "Dogs").await, records_without(1, 7, &redacted));
    let head = other.head(0, &group("Dogs")).await.unwrap().unwrap();
    assert_eq!((head.epoch, head.first, head.seq, head.at), (7, 1, 7, record(7).at));
    other.append(0, vec![batch("Dogs", 7, 8, 9)]).await.unwrap();
    for before in 2..=10 {
        let page = other.read(0, &group("Dogs"), Range::Before(before), ALL).await.unwrap().unwrap();
        assert_eq!(page.records, records_without(1, before - 1, &redacted), "before {before}");
    }
    assert_eq!(redact(&other, "Dogs", &[6, 9]).await, 2);
    assert_eq!(all(&other, "Dogs").await, records_without(1, 9, &[3, 4, 5, 6, 7, 9]));
    one.close().await;
    other.close().await;
}

/// They hold the texts of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_for_messages_goes_when_they_do() {
    let servers = Servers::start(1, "").await;
    let aging = Retention { age: Duration::from_secs(3_600), ..EVERYTHING };
    let log = Nats::open(&config(&servers.urls()), &aging.into(), SHARDS, "a").await.unwrap();
    take(&log).await;
    for name in ["purged", "deleted", "aged"] {
        for (first, last) in [(1, 3), (4, 6), (7, 9)] {
            log.append(0, vec![batch(name, 7, first, last)]).await.unwrap();
        }
        assert_eq!(redact(&log, name, &[2, 5, 9]).await, 3);
        assert_eq!(substitutes(&log, name).await, ["3", "6", "9"]);
    }
    assert_eq!(log.purge(0, &group("purged"), 4).await, Ok(4));
    assert_eq!(substitutes(&log, "purged").await, ["6", "9"]);
    assert_eq!(all(&log, "purged").await, records_without(5, 9, &[5, 9]));
    assert_eq!(log.purge(0, &group("purged"), 9).await, Ok(5));
    assert_eq!(substitutes(&log, "purged").await, [] as [&str; 0]);

    assert!(log.delete(0, &group("deleted")).await.unwrap());
    assert_eq!(substitutes(&log, "deleted").await, [] as [&str; 0]);
    log.append(0, vec![batch("deleted", 8, 1, 6)]).await.unwrap();
    assert_eq!(all(&log, "deleted").await, records_without(1, 6, &[]));

    // Of the time of message 4 on all is young enough.
    log.core.remove_all_old(record(4).at + 3_600_000).await;
    let kept = all(&log, "aged").await;
    assert!(kept.first().is_some_and(|first| first.seq == 4), "{kept:?}");
    assert_eq!(kept, records_without(4, 9, &[5, 9]));
    let names = &log.core.link.names;
    let stream = names.stream_of(0);
    log.core.remove_substitutes(stream, &names.substitutes_of_stream(stream)).await.unwrap();
    assert_eq!(substitutes(&log, "aged").await, ["6", "9"]);
    assert_eq!(all(&log, "aged").await, kept);
    log.close().await;
}

/// What is left of another life says nothing of this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_substitute_of_another_life_stands_for_nothing() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    log.append(0, vec![batch("Dogs", 7, 4, 6)]).await.unwrap();
    assert_eq!(redact(&log, "Dogs", &[2]).await, 1);
    let of_before = message(6, records_without(4, 6, &[4, 5, 6]));
    store(&log, "Dogs", &of_before).await;
    assert_eq!(all(&log, "Dogs").await, records_without(1, 6, &[2]));
    let names = &log.core.link.names;
    log.core.remove_substitutes(names.stream_of(0), &names.substitutes_of(0, &group("Dogs"))).await.unwrap();
    assert_eq!(substitutes(&log, "Dogs").await, ["3"]);
    log.close().await;
}
