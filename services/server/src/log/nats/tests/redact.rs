//! Texts that are removed from streams, in which no message can be changed.

use std::time::Duration;

use std::collections::BTreeSet;

use super::proxy::Proxy;
use super::{Config, EVERYTHING, PATIENCE, SHARDS, Servers, config, open, open_and_take, take, well};
use crate::log::conformance::{ALL, batch, group, record, without_texts};
use crate::log::nats::Nats;
use crate::log::nats::link::Get;
use crate::log::nats::message::{Kind, Message};
use crate::log::{AppendError, Log, PageLimit, Range, Record, Retention};

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

/// Without all of them in the report.
fn same(found: &[Record], wanted: &[Record], which: &str) {
    let differs = found.iter().zip(wanted).find(|(found, wanted)| found != wanted);
    assert_eq!(differs, None, "{which}");
    assert_eq!(found.len(), wanted.len(), "{which}");
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

/// How many messages stand for the one that ends with a record.
async fn standing(log: &Nats, name: &str, last: u64) -> u64 {
    let names = &log.core.link.names;
    let filter = names.substitute(0, &group(name), last);
    let (_, subjects) = log.core.link.subjects(names.stream_of(0), &filter).await.unwrap();
    subjects.first().map_or(0, |(_, count)| *count)
}

/// Removes those of a group that nobody needs any more.
async fn sweep(log: &Nats, name: &str) {
    let names = &log.core.link.names;
    log.core.remove_substitutes(names.stream_of(0), &names.substitutes_of(0, &group(name))).await.unwrap();
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
    sweep(&log, "Dogs").await;
    assert_eq!(substitutes(&log, "Dogs").await, ["3"]);
    log.close().await;
}

/// As where a replica that is behind still has the original, or a removal ended midway.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_was_removed_is_not_brought_back_by_an_original_that_still_has_it() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    for (first, last) in [(1, 3), (4, 6)] {
        log.append(0, vec![batch("Dogs", 7, first, last)]).await.unwrap();
    }
    store(&log, "Dogs", &message(7, records_without(1, 3, &[1]))).await;
    store(&log, "Dogs", &message(7, records_without(4, 6, &[6]))).await;
    assert_eq!(redact(&log, "Dogs", &[2, 5]).await, 2);
    assert_eq!(all(&log, "Dogs").await, records_without(1, 6, &[1, 2, 5, 6]));
    assert_eq!((standing(&log, "Dogs", 3).await, standing(&log, "Dogs", 6).await), (1, 1));
    log.close().await;
}

/// What stood for a message before has texts that what stands for it now has not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removal_that_ended_midway_left_goes_with_the_next_or_with_time() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    for name in ["again", "more", "swept"] {
        log.append(0, vec![batch(name, 7, 1, 4)]).await.unwrap();
        log.append(0, vec![batch(name, 7, 5, 5)]).await.unwrap();
        assert_eq!(redact(&log, name, &[1]).await, 1);
        store(&log, name, &message(7, records_without(1, 4, &[1, 2]))).await;
        assert_eq!(standing(&log, name, 4).await, 2);
    }
    assert_eq!(redact(&log, "again", &[2]).await, 1);
    assert_eq!(redact(&log, "more", &[3]).await, 1);
    sweep(&log, "swept").await;
    for (name, redacted) in [("again", &[1, 2][..]), ("more", &[1, 2, 3]), ("swept", &[1, 2])] {
        assert_eq!(all(&log, name).await, records_without(1, 5, redacted), "{name}");
        assert_eq!(standing(&log, name, 4).await, 1, "{name}");
    }
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_know_that_the_shard_is_lost_leaves_what_stands_for_messages_of_the_next_life() {
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (one, other) = (open_and_take(&config).await, open(&config).await);
    one.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    assert_eq!(redact(&one, "Dogs", &[2]).await, 1);
    let known = one.core.shard(0).state().groups.get(&group("Dogs")).cloned().unwrap();
    let fence = one.core.shard(0).fence();
    take(&other).await;
    assert!(other.delete(0, &group("Dogs")).await.unwrap());
    other.append(0, vec![batch("Dogs", 8, 1, 3)]).await.unwrap();
    assert_eq!(other.redact(0, &group("Dogs"), 8, &[1]).await, Ok(1));
    // It may have noticed by now: as if it had not.
    {
        let mut state = one.core.shard(0).state();
        state.fence = fence;
        state.groups.insert(group("Dogs"), known);
    }
    sweep(&one, "Dogs").await;
    assert_eq!(all(&other, "Dogs").await, records_without(1, 3, &[1]));
    one.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_whose_answer_is_lost_is_not_done_later_in_the_place_of_another() {
    let servers = Servers::start(1, "").await;
    let proxy = Proxy::start(servers.port(0)).await;
    let log = open_and_take(&Config { timeout: Duration::from_millis(500), ..config(&proxy.url()) }).await;
    for (first, last) in [(1, 3), (4, 4), (5, 9)] {
        log.append(0, vec![batch("Dogs", 7, first, last)]).await.unwrap();
    }
    for (round, seqs) in [&[2, 4, 6][..], &[9], &[2, 3]].into_iter().enumerate() {
        let fence = log.core.shard(0).fence();
        proxy.cut_after_next_append();
        let lost = log.redact(0, &group("Dogs"), 7, seqs).await;
        assert!(matches!(lost, Err(AppendError::Unavailable { .. })), "{lost:?}");
        assert_eq!(proxy.cuts(), round + 1);
        assert!(log.core.shard(0).fence() > fence, "what is under way has no fence any more");
        well(&log).await;
        let begun = tokio::time::Instant::now();
        while let Err(error) = log.redact(0, &group("Dogs"), 7, seqs).await {
            assert!(begun.elapsed() < PATIENCE, "{error}");
        }
    }
    assert_eq!(all(&log, "Dogs").await, records_without(1, 9, &[2, 3, 4, 6, 9]));
    for last in [3, 4, 9] {
        assert_eq!(standing(&log, "Dogs", last).await, 1, "{last}");
    }
    log.close().await;
}

/// Whatever is removed, in whichever messages it lies and however it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_pages_have_all_records_whatever_was_removed() {
    const GROUPS: usize = 12;
    let servers = Servers::start(1, "").await;
    let config = config(&servers.urls());
    let (log, other) = (open_and_take(&config).await, open(&config).await);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for number in 0..GROUPS {
        let name = format!("group-{number}");
        let (mut head, mut first, mut redacted) = (0, 1, BTreeSet::new());
        for _ in 0..random.usize(2..5) {
            for _ in 0..random.usize(1..12) {
                // In all no more than fit into one page.
                let count = if random.u8(..8) == 0 && head < 500 { random.u64(1..300) } else { random.u64(1..4) };
                log.append(0, vec![batch(&name, 7, head + 1, head + count)]).await.unwrap();
                head += count;
            }
            let seqs: Vec<u64> = match random.u8(..4) {
                0 => (1..=head).collect(),
                1 => (head.saturating_sub(random.u64(..5)).max(1)..=head).collect(),
                _ => (0..random.u64(1..=head)).map(|_| random.u64(1..=head)).collect(),
            };
            let seqs: BTreeSet<u64> = seqs.into_iter().collect();
            let asked: Vec<u64> = seqs.iter().copied().collect();
            let kept = seqs.range(first..).count() as u64;
            assert_eq!(redact(&log, &name, &asked).await, kept, "{name}");
            redacted.extend(seqs);
            if random.bool() {
                let through = random.u64(..head.min(first + 3));
                log.purge(0, &group(&name), through).await.unwrap();
                first = first.max(through + 1);
            }
            for reader in [&log, &other] {
                let wanted = |from: u64, upto: u64| {
                    without_texts((from.max(first)..=upto).map(record), |seq| redacted.contains(seq))
                };
                same(&all(reader, &name).await, &wanted(1, head), &name);
                let limit = PageLimit { records: random.usize(1..500), ..ALL };
                let (after, before) = (random.u64(..=head), random.u64(1..=head + 1));
                let read = async |range| reader.read(0, &group(&name), range, limit).await.unwrap().unwrap().records;
                let records = limit.records as u64;
                let upto = head.min(after.max(first - 1) + records);
                same(&read(Range::After(after)).await, &wanted(after + 1, upto), &format!("{name}: after {after}"));
                let from = before.saturating_sub(records).max(1);
                let which = format!("{name}: before {before}");
                same(&read(Range::Before(before)).await, &wanted(from, before - 1), &which);
            }
        }
    }
    log.close().await;
    other.close().await;
}

/// A replica that is behind does not have the last originals yet, and what stands for later ones another one tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_says_whether_a_message_is_there_and_a_message_that_is_gone_counts_as_removed() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    log.append(0, vec![batch("Dogs", 7, 1, 3)]).await.unwrap();
    let (link, stream) = (&log.core.link, log.core.link.names.stream_of(0));
    let subject = link.names.group(0, &group("Dogs"));
    let position = link.last(stream, &subject).await.unwrap().unwrap().position;
    let next = |seq| Get { seq, next_by_subj: subject.clone(), ..Get::default() };
    assert!(link.has(stream, &next(position)).await.unwrap() && !link.has(stream, &next(position + 1)).await.unwrap());
    assert!(link.newest(stream).await.unwrap() >= position);
    for _ in 0..2 {
        link.erase(stream, position).await.unwrap();
        link.remove(stream, position).await.unwrap();
    }
    link.remove(stream, 1_000_000).await.unwrap();
    assert!(!link.has(stream, &next(1)).await.unwrap());
    log.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_purged_up_to_a_message_for_which_something_stands_takes_no_space() {
    let servers = Servers::start(1, "").await;
    let log = open_and_take(&config(&servers.urls())).await;
    for first in [1, 4, 7, 10] {
        log.append(0, vec![batch("Dogs", 7, first, first + 2)]).await.unwrap();
    }
    assert_eq!(redact(&log, "Dogs", &[8]).await, 1);
    assert_eq!(log.purge(0, &group("Dogs"), 7).await, Ok(7));
    assert_eq!(all(&log, "Dogs").await, records_without(8, 12, &[8]));
    let names = &log.core.link.names;
    let (_, subjects) = log.core.link.subjects(names.stream_of(0), &names.group(0, &group("Dogs"))).await.unwrap();
    // The last message, and what tells of the purge.
    assert_eq!(subjects.first().map(|(_, count)| *count), Some(2));
    log.close().await;
}
