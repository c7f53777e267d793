//! Power cuts at random moments: what was acknowledged is there, what was refused is not, and nothing is there in part.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::log::AppendError;
use crate::log::config::Durability;
use crate::log::conformance::without_texts;
use crate::log::embedded::simulated::{Faults, Random};
use crate::random::seed_of_tests;

const ROUNDS: u64 = 120;
const CUTS_PER_ROUND: u64 = 4;
const WRITERS: u64 = 3;

/// What is known of a group: its life, oldest and newest message, and those whose texts were removed; `None` if there is none.
type State = Option<(u64, u64, u64, BTreeSet<u64>)>;
type States = BTreeMap<String, State>;

/// What one writer did to its own groups.
#[derive(Debug, Clone, Default)]
struct Model {
    /// After all that was acknowledged.
    certain: States,
    /// After what was under way when the power went, if it happened.
    possible: Option<States>,
    epochs: u64,
}

enum Action {
    Append(Vec<Arc<Batch>>),
    Purge(String, u64),
    Redact(String, u64, Vec<u64>),
    Delete(String),
}

impl Model {
    fn choose(&mut self, writer: u64, random: &mut Random) -> (Action, States) {
        let mut next = self.certain.clone();
        let name = |n: u64| format!("writer {writer} group {n}");
        let chosen = name(random.below(4));
        let state = next.get(&chosen).cloned().flatten();
        match (random.below(12), state) {
            (0, Some((epoch, first, last, mut redacted))) => {
                let through = random.below(last + 2);
                let first = first.max(through + 1).min(last + 1);
                redacted.retain(|seq| *seq >= first);
                next.insert(chosen.clone(), Some((epoch, first, last, redacted)));
                (Action::Purge(chosen, through), next)
            }
            (2 | 3, Some((epoch, first, last, redacted))) => {
                let seqs: BTreeSet<u64> = (0..1 + random.below(4)).map(|_| random.below(last + 2)).collect();
                let kept: BTreeSet<u64> = seqs.iter().copied().filter(|seq| (first..=last).contains(seq)).collect();
                next.insert(chosen.clone(), Some((epoch, first, last, &redacted | &kept)));
                (Action::Redact(chosen, epoch, seqs.into_iter().collect()), next)
            }
            (1, Some(_)) => {
                next.insert(chosen.clone(), None);
                (Action::Delete(chosen), next)
            }
            _ => {
                let mut batches = Vec::new();
                let mut names = vec![chosen, name(random.below(4))];
                names.dedup();
                for name in names {
                    let (epoch, first, last, redacted) = next.get(&name).cloned().flatten().unwrap_or_else(|| {
                        self.epochs += 1;
                        (self.epochs, 1, 0, BTreeSet::new())
                    });
                    let end = last + 1 + random.below(6);
                    batches.push(batch(&name, epoch, last + 1, end));
                    next.insert(name, Some((epoch, first, end, redacted)));
                }
                (Action::Append(batches), next)
            }
        }
    }
}

/// Writes until the power goes.
async fn write(log: Arc<Embedded>, disk: SimulatedDisk, writer: u64, mut model: Model, seed: u64) -> Model {
    let mut random = Random::new(seed);
    while !disk.is_off() {
        let (action, next) = model.choose(writer, &mut random);
        let result = match action {
            Action::Append(batches) => log.append(writer as u16, batches).await,
            Action::Purge(name, through) => log.purge(writer as u16, &group(&name), through).await.map(drop),
            Action::Redact(name, epoch, seqs) => log.redact(writer as u16, &group(&name), epoch, &seqs).await.map(drop),
            Action::Delete(name) => log.delete(writer as u16, &group(&name)).await.map(drop),
        };
        match result {
            Ok(()) => model.certain = next,
            Err(AppendError::Fenced { .. }) => panic!("nobody else writes: {result:?}"),
            // Refused when the power was gone: nobody was told for sure.
            Err(_) if disk.is_off() => model.possible = Some(next),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    model
}

/// What the log holds of a writer's groups; checks that each is dense and right in every record.
async fn found(log: &Embedded, model: &Model) -> States {
    let mut found = States::new();
    let names = model.certain.keys().chain(model.possible.iter().flat_map(BTreeMap::keys));
    for name in names {
        let mut state = None;
        if let Some(head) = log.head(0, &group(name)).await.unwrap() {
            let whole = batch(name, head.epoch, head.first, head.seq);
            let mut redacted = BTreeSet::new();
            for range in [Range::After(0), Range::Before(u64::MAX)] {
                let page = log.read(0, &group(name), range, ALL).await.unwrap().unwrap();
                redacted = page.records.iter().filter(|record| record.is_removed()).map(|record| record.seq).collect();
                let expected = without_texts(whole.records.iter().cloned(), |seq| redacted.contains(seq));
                assert_records(&page.records, &expected, &format!("{name} {range:?}"));
            }
            state = Some((head.epoch, head.first, head.seq, redacted));
        }
        found.insert(name.clone(), state);
    }
    found
}

async fn round(seed: u64) {
    let mut random = Random::new(seed);
    let mut disk = SimulatedDisk::default();
    let mut models: Vec<Model> = vec![Model::default(); WRITERS as usize];
    for _ in 0..CUTS_PER_ROUND {
        let config = Config {
            segment_bytes: 4096 * (4 + random.below(12)),
            spare_segments: 1 + random.below(2) as usize,
            apply_interval: Duration::from_millis(1 + random.below(20)),
            apply_records: 1 + random.below(40) as usize,
            unapplied_bytes: 4096 * (1 + random.below(64)) as usize,
            cache_bytes: 64 * random.below(8192) as usize,
            ..config()
        };
        // The power may go during the start as well.
        let operations_left = random.below(300);
        let mut faults = Faults { operations_left: Some(operations_left), ..Faults::default() };
        if random.below(3) == 0 {
            faults.failing_syncs = Some((["commit-", "messages", "spare-"][random.below(3) as usize], 1));
            faults.failed_sync_keeps = random.below(2) == 0;
        }
        if random.below(4) == 0 {
            faults.failing_writes = Some((["commit-", "messages"][random.below(2) as usize], 1));
        }
        disk.set_faults(faults);
        if let Ok(log) = start(Arc::new(disk.clone()) as Arc<dyn Disk>, &config) {
            let mut writers = Vec::new();
            for (writer, model) in models.drain(..).enumerate() {
                let seed = random.next();
                writers.push(tokio::spawn(write(Arc::clone(&log), disk.clone(), writer as u64, model, seed)));
            }
            for writer in writers {
                models.push(writer.await.unwrap());
            }
            tokio::task::block_in_place(|| log.crash());
        }
        disk.power_off();
        disk = disk.after_power_cut(&mut random);

        let checked = disk.copy();
        let log = start_on(&checked, &config);
        for model in &mut models {
            let found = found(&log, model).await;
            let matches =
                |states: &States| found.iter().all(|(name, state)| states.get(name).cloned().flatten() == *state);
            let possible = model.possible.take().filter(|possible| matches(possible));
            match possible {
                Some(possible) => model.certain = possible,
                None => assert!(matches(&model.certain), "found {found:?}, expected {:?}", model.certain),
            }
        }
        tokio::task::block_in_place(|| log.crash());
        if random.below(2) == 0 {
            disk = checked.copy();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_survive_power_cuts() {
    let first = seed_of_tests();
    for seed in (0..ROUNDS).map(|n| first.wrapping_add(n)) {
        let result = tokio::spawn(round(seed)).await;
        assert!(result.is_ok(), "failed with TERTULIA_TEST_SEED={seed}: add it to seeds_that_failed_before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seeds_that_failed_before() {
    for seed in [1, 2, 3] {
        round(seed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_fsync_a_kill_loses_nothing_and_a_power_cut_leaves_a_beginning() {
    for seed in 0..20 {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::default();
        let config = Config { durability: Durability::Os, ..config() };
        let log = start_on(&disk, &config);
        for seq in 1..=60 {
            log.append(0, vec![batch("Dogs", 7, seq, seq)]).await.unwrap();
        }
        log.crash();
        let killed = start_on(&disk.copy(), &config);
        assert_holds(&*killed, "Dogs", 7, 1, 60).await;
        killed.close().await;

        let cut = start_on(&disk.after_power_cut(&mut random), &config);
        if let Some(head) = cut.head(0, &group("Dogs")).await.unwrap() {
            assert_holds(&*cut, "Dogs", 7, 1, head.seq).await;
        }
        cut.close().await;
    }
}
