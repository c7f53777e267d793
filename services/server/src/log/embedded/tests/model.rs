//! Random actions against a simple model, with restarts in between; and retention.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::log::config::{RetentionOverride, RetentionOverrides};
use crate::log::conformance::without_texts;
use crate::log::embedded::simulated::Random;
use crate::log::{AppendError, PageLimit};
use crate::random::seed_of_tests;

/// A group of the model: epoch, oldest and newest `seq`, and the messages whose texts were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Group {
    epoch: u64,
    first: u64,
    last: u64,
    redacted: BTreeSet<u64>,
}

impl Group {
    fn records(&self, name: &str, first: u64, last: u64) -> Vec<Record> {
        let batch = batch(name, self.epoch, first, last);
        without_texts(batch.records.iter().cloned(), |seq| self.redacted.contains(seq))
    }
}

async fn check(log: &Embedded, model: &BTreeMap<String, Group>, random: &mut Random) {
    let listed = log.groups("", None, usize::MAX).await.unwrap();
    let listed: BTreeMap<_, _> =
        listed.into_iter().map(|(name, head)| (name.as_str().to_owned(), (head.epoch, head.first, head.seq))).collect();
    let known = model.iter().map(|(name, state)| (name.clone(), (state.epoch, state.first, state.last)));
    assert_eq!(listed, known.collect());
    assert_eq!(log.stats().groups, model.len() as u64);
    for (name, state) in model {
        let records = 1 + random.below(20);
        let limit = PageLimit { records: records as usize, bytes: usize::MAX };
        let at = random.below(state.last + 3);
        let page = log.read(0, &group(name), Range::After(at), limit).await.unwrap().unwrap();
        let from = state.first.max(at + 1);
        let expected = state.records(name, from, state.last.min(from + records - 1));
        assert_records(&page.records, &expected, &format!("{name} after {at}: {state:?}"));

        let page = log.read(0, &group(name), Range::Before(at), limit).await.unwrap().unwrap();
        let to = state.last.min(at.saturating_sub(1));
        let from = state.first.max((to + 1).saturating_sub(records)).max(1);
        let expected = state.records(name, from, to);
        assert_records(&page.records, &expected, &format!("{name} before {at}: {state:?}"));
    }
}

async fn round(seed: u64) {
    let mut random = Random::new(seed);
    let mut disk = SimulatedDisk::default();
    let mut model: BTreeMap<String, Group> = BTreeMap::new();
    let mut epochs = 0;
    for _ in 0..5 {
        let messages = 40;
        let config = Config {
            segment_bytes: 4096 * (4 + random.below(30)),
            apply_interval: Duration::from_millis(1 + random.below(10)),
            apply_records: 1 + random.below(100) as usize,
            cache_bytes: 64 * random.below(65_536) as usize,
            cache_records: random.below(50) as usize,
            retention: Retention { messages, bytes: 0, age: Duration::ZERO },
            ..config()
        };
        let log = start_on(&disk, &config);
        check(&log, &model, &mut random).await;
        for _ in 0..60 {
            let name = format!("group {}", random.below(6));
            let known = model.get(&name).cloned();
            match (random.below(20), known.clone()) {
                (0, _) => {
                    assert_eq!(log.delete(0, &group(&name)).await, Ok(known.is_some()));
                    model.remove(&name);
                }
                (1, Some(state)) => {
                    let through = random.below(state.last + 3);
                    let first = state.first.max(through + 1).min(state.last + 1);
                    assert_eq!(log.purge(0, &group(&name), through).await, Ok(first - state.first));
                    model.insert(name, Group { first, ..state });
                }
                (2, Some(state)) => {
                    let stale = log.append(0, vec![batch(&name, state.epoch, state.last, state.last)]).await;
                    assert!(
                        matches!(stale, Err(AppendError::Fenced { found, .. }) if found == state.last),
                        "{stale:?}"
                    );
                }
                (5 | 6, Some(state)) => {
                    let seqs: BTreeSet<u64> = (0..1 + random.below(4)).map(|_| random.below(state.last + 3)).collect();
                    let kept: BTreeSet<u64> =
                        seqs.iter().copied().filter(|seq| (state.first..=state.last).contains(seq)).collect();
                    let seqs: Vec<u64> = seqs.into_iter().collect();
                    assert_eq!(log.redact(0, &group(&name), state.epoch + 1, &seqs).await, Ok(0));
                    assert_eq!(log.redact(0, &group(&name), state.epoch, &seqs).await, Ok(kept.len() as u64));
                    let redacted = &state.redacted | &kept;
                    model.insert(name, Group { redacted, ..state });
                }
                (3, _) => check(&log, &model, &mut random).await,
                (4, _) => assert!(log.flush().await),
                _ => {
                    let state = known.unwrap_or_else(|| {
                        epochs += 1;
                        Group { epoch: epochs, first: 1, last: 0, redacted: BTreeSet::new() }
                    });
                    let last = state.last + 1 + random.below(8);
                    log.append(0, vec![batch(&name, state.epoch, state.last + 1, last)]).await.unwrap();
                    let first = state.first.max((last + 1).saturating_sub(messages));
                    model.insert(name, Group { first, last, ..state });
                }
            }
        }
        check(&log, &model, &mut random).await;
        match random.below(2) {
            0 => log.close().await,
            _ => tokio::task::block_in_place(|| log.crash()),
        }
        disk = disk.copy();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_engine_does_what_the_model_does() {
    let first = seed_of_tests();
    for seed in (0..60).map(|n| first.wrapping_add(n)) {
        let result = tokio::spawn(round(seed)).await;
        assert!(result.is_ok(), "failed with TERTULIA_TEST_SEED={seed}");
    }
}

/// What is to be removed is, far sooner than this.
const REMOVAL: Duration = Duration::from_secs(30);

async fn first_of(log: &Embedded, name: &str) -> u64 {
    assert!(log.flush().await);
    log.head(0, &group(name)).await.unwrap().unwrap().first
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_goes_by_bytes_and_age_and_prefix() {
    let disk = SimulatedDisk::default();
    let forever = Retention { messages: 0, bytes: 0, age: Duration::ZERO };
    let small = RetentionOverride { bytes: Some(20_000), ..RetentionOverride::default() };
    let young = RetentionOverride { age: Some(Duration::from_secs(3600)), ..RetentionOverride::default() };
    let overrides = [("small/".to_owned(), small), ("young/".to_owned(), young)];
    let kept = Config { retention: forever, retention_overrides: RetentionOverrides(overrides.into()), ..config() };
    let log = start_on(&disk, &kept);
    for first in (1..=991).step_by(10) {
        let names = ["small/a", "young/a", "other"];
        let batches = names.map(|name| batch(name, 7, first, first + 9));
        log.append(0, batches.to_vec()).await.unwrap();
    }
    // A large removal goes in slices.
    let begun = std::time::Instant::now();
    while first_of(&log, "small/a").await < 980 {
        assert!(begun.elapsed() < REMOVAL, "what is too much stays");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let first = first_of(&log, "small/a").await;
    let size = |first| batch("small/a", 7, first, 1000).records.iter().map(Record::size).sum::<usize>();
    assert!(size(first) <= 20_000 && size(first - 1) > 20_000, "kept from {first} on: {} bytes", size(first));
    assert_holds(&*log, "small/a", 7, first, 1000).await;
    // All are as old as the numbers that `batch` gives them: too old.
    let begun = std::time::Instant::now();
    while first_of(&log, "young/a").await < 1001 {
        assert!(begun.elapsed() < REMOVAL, "what is too old stays");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_holds(&*log, "other", 7, 1, 1000).await;
    log.close().await;

    // A group in which nothing happens is found by the sweep.
    let old = RetentionOverride { age: Some(Duration::from_secs(1)), ..RetentionOverride::default() };
    let rules = RetentionOverrides([("other".to_owned(), old)].into());
    let swept = Config { retention_overrides: rules, apply_interval: Duration::from_millis(1), ..config() };
    let log = start_on(&disk.copy(), &swept);
    let begun = std::time::Instant::now();
    while log.head(0, &group("other")).await.unwrap().unwrap().first != 1001 {
        assert!(begun.elapsed() < REMOVAL, "the sweep never came");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    log.append(0, vec![batch("other", 7, 1001, 1001)]).await.unwrap();
    log.close().await;
}
