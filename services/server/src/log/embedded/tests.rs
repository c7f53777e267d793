//! The engine as a whole, on real files and on a disk that fails.

mod backup;
mod damage;
mod displaced;
mod faults;
mod files;
mod forget;
mod model;
mod notes;
mod power;
mod renewal;
mod retention;
mod unreadable;

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tertulia_protocol::UserName;

use super::disk::Disk;
use super::frame::random_step;
use super::simulated::{self, SimulatedDisk};
use super::tail::View;
use super::{Embedded, open, open::start, open::start_with, read};
use crate::log::clock::Clock;
use crate::log::config::{Config, Retention};
use crate::log::conformance::{ALL, Engine, conformance, group};
use crate::log::{Batch, Log, Range, Record};

/// Small files and large patience, so that tests decide what happens.
fn config() -> Config {
    Config {
        segment_bytes: 64 * 1024,
        spare_segments: 1,
        apply_interval: Duration::from_secs(3600),
        table_cache_bytes: 1024 * 1024,
        reserve_bytes: 0,
        retention: Retention { messages: 0, bytes: 0, age: Duration::ZERO },
        ..Config::default()
    }
}

fn start_on(disk: &SimulatedDisk, config: &Config) -> Arc<Embedded> {
    start_with(Arc::new(disk.clone()) as Arc<dyn Disk>, config, random_step, Clock::believed()).unwrap()
}

/// As [`start_on`], with files that are numbered 1, 2, 3 … so that tests know their names.
fn start_counting(disk: &SimulatedDisk, config: &Config) -> Arc<Embedded> {
    start_with(Arc::new(disk.clone()) as Arc<dyn Disk>, config, || 1, Clock::believed()).unwrap()
}

/// Records whose content follows from group, epoch and `seq`; of different sizes, up to some pages.
fn batch(name: &str, epoch: u64, first: u64, last: u64) -> Arc<Batch> {
    let record = |seq: u64| Record {
        seq,
        at: 1_700_000_000_000 + seq,
        sender: UserName::new("ada").unwrap(),
        id: None,
        message: format!("{name}/{epoch}/{seq}/{}", "x".repeat((seq * 977 % 2500) as usize)).into(),
    };
    Arc::new(Batch { group: group(name), epoch, records: (first..=last).map(record).collect() })
}

/// Compares records, without printing all their text.
fn assert_records(found: &[Record], expected: &[Record], what: &str) {
    let seqs = |records: &[Record]| records.iter().map(|record| record.seq).collect::<Vec<_>>();
    assert_eq!(seqs(found), seqs(expected), "{what}");
    let other: Vec<_> = found.iter().zip(expected).filter(|(found, expected)| found != expected).collect();
    let other = other.iter().map(|(found, expected)| (found.seq, found.is_removed(), expected.is_removed()));
    let other: Vec<_> = other.collect();
    assert!(other.is_empty(), "{what}: the right numbers with other content: {other:?}");
}

/// Checks that a group holds just these records, forward and backward.
async fn assert_holds(log: &dyn Log, name: &str, epoch: u64, first: u64, last: u64) {
    assert_holds_of(log, name, &[(epoch, first, last)]).await;
}

/// As [`assert_holds`], for records of several epochs, in the last of which the group is.
async fn assert_holds_of(log: &dyn Log, name: &str, parts: &[(u64, u64, u64)]) {
    let (&(_, first, _), &(epoch, _, last)) = (parts.first().unwrap(), parts.last().unwrap());
    let expected = parts.iter().flat_map(|&(epoch, first, last)| batch(name, epoch, first, last).records.clone());
    let expected: Vec<Record> = expected.collect();
    for range in [Range::After(0), Range::Before(u64::MAX)] {
        let page = log.read(0, &group(name), range, ALL).await.unwrap().unwrap();
        assert_eq!((page.head.epoch, page.head.first, page.head.seq), (epoch, first, last), "{name}");
        assert_records(&page.records, &expected, &format!("{name} {range:?}"));
    }
}

/// The epoch that a group is in now.
async fn epoch_of(log: &dyn Log, name: &str) -> u64 {
    log.head(0, &group(name)).await.unwrap().unwrap().epoch
}

/// On real files; `INTERVAL` decides how soon messages go into the tables.
struct OnFiles<const INTERVAL: u64>(TempDir);

impl<const INTERVAL: u64> Engine for OnFiles<INTERVAL> {
    const DURABLE: bool = true;

    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    async fn open(&self) -> Arc<dyn Log> {
        let config = Config {
            data_dir: self.0.path().to_owned(),
            apply_interval: Duration::from_millis(INTERVAL),
            // Read from the tables what can be.
            cache_bytes: if INTERVAL == 1 { 0 } else { 1024 * 1024 },
            ..config()
        };
        open(&config).unwrap()
    }
}

/// A log whose 50 messages of a group nobody finds in memory, and which two may read at once.
async fn in_the_tables() -> (tempfile::TempDir, Arc<Embedded>) {
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: directory.path().to_owned(),
        apply_interval: Duration::from_millis(1),
        cache_bytes: 0,
        readers: 2,
        ..config()
    };
    let log = open(&config).unwrap();
    log.append(0, vec![batch("A", 7, 1, 50)]).await.unwrap();
    assert!(log.flush().await);
    (directory, log)
}

/// A future that is made and polled once, then left alone, keeps nobody else from reading.
#[tokio::test]
async fn whoever_leaves_a_read_alone_holds_up_nobody() {
    let (_directory, log) = in_the_tables().await;
    let mut left_alone: Vec<_> = (0..20).map(|_| log.read(0, &group("A"), Range::After(0), ALL)).collect();
    for read in &mut left_alone {
        drop(futures_util::poll!(read));
    }
    let head = tokio::time::timeout(Duration::from_secs(30), log.head(0, &group("unknown"))).await;
    assert_eq!(head.expect("others are served").unwrap(), None);
    assert_holds(&*log, "A", 7, 1, 50).await;
    for read in left_alone {
        assert_eq!(read.await.unwrap().unwrap().records.len(), 50);
    }
    log.close().await;
}

/// What members read may be much, and take long.
#[tokio::test]
async fn owners_do_not_wait_behind_what_members_read() {
    let (_directory, log) = in_the_tables().await;
    let taken = Arc::clone(&log.core.readers).acquire_many_owned(2).await.unwrap();
    let mut page = log.read(0, &group("A"), Range::After(0), ALL);
    assert!(futures_util::poll!(&mut page).is_pending());
    let owners = async {
        assert_eq!(log.head(0, &group("B")).await.unwrap(), None);
        let ids = log.read_for_owner(0, &group("A"), Range::Before(51), ALL).await.unwrap().unwrap();
        assert_eq!(ids.records.len(), 50);
        log.append(0, vec![batch("C", 8, 1, 1)]).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(30), owners).await.expect("owners are served");
    assert!(futures_util::poll!(&mut page).is_pending());
    drop(taken);
    assert_eq!(page.await.unwrap().unwrap().records.len(), 50);
    log.close().await;
}

/// Retention moves on in the tables before memory hears of it: who reads in between must not get a page with a hole before it.
#[tokio::test]
async fn a_page_says_where_it_begins_though_retention_was_quicker_than_memory() {
    let directory = tempfile::tempdir().unwrap();
    let retention = Retention { bytes: 20_000, ..config().retention };
    let config = Config { data_dir: directory.path().to_owned(), retention, ..config() };
    let log = open(&config).unwrap();
    log.append(0, vec![batch("A", 7, 1, 100)]).await.unwrap();
    let before = log.head(0, &group("A")).await.unwrap().unwrap();
    assert_eq!((before.first, before.seq), (1, 100));
    assert!(log.flush().await);
    for range in [Range::After(0), Range::After(3), Range::Before(u64::MAX)] {
        let stale = View::bare(before);
        let page = read::from_tables(&log.core.tables, &log.core.holes, &group("A"), &stale, range, ALL).unwrap();
        let first = page.records.first().unwrap().seq;
        assert!(first > 4, "retention removed what the old head still has");
        assert_eq!((page.head.first, page.head.seq), (first, 100), "{range:?}");
        assert_eq!(page.records.len() as u64, 101 - first);
        // What did not go into the page is in memory, and none of it is lost.
        let stale = View { recent: vec![batch("A", 7, 3, 4)], memory_first: 3, ..View::bare(before) };
        let page = read::from_tables(&log.core.tables, &log.core.holes, &group("A"), &stale, Range::After(1), ALL);
        assert_eq!(page.unwrap().head.first, first);
    }
    log.close().await;
}

/// The file of the tables never gets smaller; what is free in it must do.
#[tokio::test]
async fn a_directory_that_was_full_takes_messages_again_when_some_have_gone() {
    const LIMIT: u64 = 4 * 1024 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        data_dir: directory.path().to_owned(),
        apply_interval: Duration::from_millis(1),
        disk_bytes: LIMIT,
        ..config()
    };
    let log = open(&config).unwrap();
    let mut last = 0;
    let refusal = loop {
        // So much at once that the tables alone take more than the bound when it is noticed.
        match log.append(0, vec![batch("A", 7, last + 1, last + 2_000)]).await {
            Ok(()) => last += 2_000,
            Err(error) => break error,
        }
        // It is looked at now and then, and meanwhile appends go on as fast as they can.
        assert!(last < 2_000_000, "the bound is not kept");
    };
    assert!(refusal.to_string().contains("log.disk_bytes"), "{refusal}");
    assert!(log.flush().await);
    assert!(log.core.tables.disk_bytes() > LIMIT);
    assert!(log.delete(0, &group("A")).await.unwrap());
    assert_takes_again(&log).await;
    log.close().await;
}

/// Waits until a log that had no space takes messages.
async fn assert_takes_again(log: &Embedded) {
    let again = async {
        while log.append(0, vec![batch("B", 8, 1, 20)]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("posts are taken again");
    assert_holds(log, "B", 8, 1, 20).await;
}

/// What was removed leaves no more free on the disk than before.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_full_up_to_the_reserve_takes_messages_again_when_some_have_gone() {
    const MIB: u64 = 1024 * 1024;
    let disk = SimulatedDisk::default();
    disk.set_faults(simulated::Faults { capacity: Some(96 * MIB), ..simulated::Faults::default() });
    let config = Config { apply_interval: Duration::from_millis(1), reserve_bytes: 64 * MIB, ..config() };
    let log = start_on(&disk, &config);
    let mut last = 0;
    loop {
        match log.append(0, vec![batch("A", 7, last + 1, last + 20)]).await {
            Ok(()) => last += 20,
            Err(error) if error.to_string().contains("log.reserve_bytes") => break,
            // The next file of the commit log was not made, and one before it is used again.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        // Nothing waits for the tables, so that all that is short is the reserve.
        assert!(log.flush().await && last < 100_000, "the reserve is not kept");
    }
    assert!(log.delete(0, &group("A")).await.unwrap());
    assert_takes_again(&log).await;
    log.close().await;
}

mod conformance_from_memory {
    use super::{OnFiles, conformance};
    conformance!(OnFiles<3_600_000>);
}

mod conformance_from_tables {
    use super::{OnFiles, conformance};
    conformance!(OnFiles<1>);
}
