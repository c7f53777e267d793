//! The `memory` engine: nothing survives the process. For tests, and for those who ask for it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::ready;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use futures_util::future::BoxFuture;
use tertulia_protocol::GroupName;

use super::clock::Clock;
use super::metrics::{Removed, set_limit};
use super::retention::Rules;
use super::{AppendError, Batch, Config, Head, Log, Page, PageLimit, Range, ReadError, Record, Retention, Stats};

/// What a batch takes beside its records, in bytes, with its places in the lists: most are of one message.
const BATCH: u64 = 192;

/// The engine. Every shard has a lock of its own; what is global is the order in which batches came, by which the oldest
/// go first when all groups together hold too much.
#[derive(Debug)]
pub struct Memory {
    rules: Rules,
    max_bytes: u64,
    shards: Box<[Mutex<HashMap<GroupName, Stored, RandomState>>]>,
    /// Names in order, for lists. Always locked after a shard, never before.
    names: Mutex<BTreeMap<GroupName, u16>>,
    /// Where each batch is, by the number it came with. Always locked after a shard, never before.
    arrivals: Mutex<BTreeMap<u64, (u16, GroupName)>>,
    next_arrival: AtomicU64,
    /// What ages are counted to. Locked last.
    clock: Mutex<Clock>,
    /// Size of all records that are kept, and of the batches they came in.
    bytes: AtomicU64,
    closed: AtomicBool,
    removed: Removed,
}

#[derive(Debug)]
struct Stored {
    head: Head,
    /// Oldest first; only the front one may hold records before `head.first`, which are gone for readers.
    batches: VecDeque<(u64, Arc<Batch>)>,
    /// Size of the records from `head.first` on.
    bytes: u64,
}

impl Memory {
    /// An empty log for `shards` shards.
    #[must_use]
    pub fn new(config: &Config, shards: u16) -> Self {
        set_limit(config.memory_bytes as u64);
        Self {
            rules: Rules::new(config),
            max_bytes: config.memory_bytes as u64,
            shards: (0..shards.max(1)).map(|_| Mutex::default()).collect(),
            names: Mutex::default(),
            arrivals: Mutex::default(),
            next_arrival: AtomicU64::new(0),
            clock: Mutex::new(Clock::believed()),
            bytes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            removed: Removed::new(),
        }
    }

    fn shard(&self, shard: u16) -> MutexGuard<'_, HashMap<GroupName, Stored, RandomState>> {
        lock(&self.shards[usize::from(shard) % self.shards.len()])
    }

    fn append_now(&self, shard: u16, batches: Vec<Arc<Batch>>) -> Result<(), AppendError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendError::Unavailable { reason: "the log is closed".into() });
        }
        let mut groups = self.shard(shard);
        for batch in &batches {
            let found =
                groups.get(&batch.group).map_or((batch.epoch, 0), |stored| (stored.head.epoch, stored.head.seq));
            if found != (batch.epoch, batch.first().saturating_sub(1)) {
                let expected = batch.first().saturating_sub(1);
                return Err(AppendError::Fenced { group: batch.group.clone(), expected, found: found.1 });
            }
        }
        for batch in batches {
            let arrival = self.next_arrival.fetch_add(1, Ordering::Relaxed);
            lock(&self.arrivals).insert(arrival, (shard, batch.group.clone()));
            let stored = groups.entry(batch.group.clone()).or_insert_with(|| {
                lock(&self.names).insert(batch.group.clone(), shard);
                let head = Head { epoch: batch.epoch, seq: 0, first: 1, at: 0 };
                Stored { head, batches: VecDeque::new(), bytes: 0 }
            });
            let size: u64 = batch.records.iter().map(|record| record.size() as u64).sum();
            stored.head.seq = batch.last();
            stored.head.at = batch.records.last().map_or(stored.head.at, |record| record.at);
            let group = batch.group.clone();
            stored.batches.push_back((arrival, batch));
            stored.bytes += size;
            self.bytes.fetch_add(BATCH + size, Ordering::Relaxed);
            self.retain(&group, stored);
        }
        drop(groups);
        self.shed();
        Ok(())
    }

    /// Applies the group's own bounds.
    fn retain(&self, group: &GroupName, stored: &mut Stored) {
        let Retention { messages, bytes, age } = *self.rules.of(group.as_str());
        let now = if age.is_zero() { None } else { lock(&self.clock).now() };
        let oldest = now.map_or(0, |now| now.saturating_sub(age.as_millis() as u64));
        let over = |stored: &Stored| {
            let kept = stored.head.seq + 1 - stored.head.first;
            (messages > 0 && kept > messages)
                || (bytes > 0 && stored.bytes > bytes && kept > 1)
                || (oldest > 0 && stored.oldest().is_some_and(|record| record.at < oldest))
        };
        while over(stored) {
            self.removed.retention.increment(self.remove_through(stored, stored.head.first));
        }
    }

    /// Lets the oldest messages of all groups go while they hold too much together.
    fn shed(&self) {
        let over = || self.bytes.load(Ordering::Relaxed).saturating_sub(self.max_bytes);
        loop {
            if over() == 0 {
                return;
            }
            let Some((shard, group)) = lock(&self.arrivals).first_key_value().map(|(_, place)| place.clone()) else {
                return;
            };
            let mut groups = self.shard(shard);
            // Whoever had the lock before us may have seen to it, or to a part of it.
            let over = over();
            if over == 0 {
                return;
            }
            let Some(stored) = groups.get_mut(&group) else { continue };
            let Some((_, batch)) = stored.batches.front() else { continue };
            let (first, mut freed, mut through) = (stored.head.first, 0, stored.head.first);
            for record in batch.records.iter().filter(|record| record.seq >= first) {
                if freed >= over {
                    break;
                }
                freed += record.size() as u64;
                through = record.seq;
            }
            self.removed.memory.increment(self.remove_through(stored, through));
        }
    }

    /// Removes records up to and including `through`, and answers how many.
    fn remove_through(&self, stored: &mut Stored, through: u64) -> u64 {
        let through = through.min(stored.head.seq);
        let mut removed = 0;
        while stored.head.first <= through {
            let Some(record) = stored.oldest() else { break };
            let size = record.size() as u64;
            stored.bytes -= size;
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            stored.head.first += 1;
            removed += 1;
            while stored.batches.front().is_some_and(|(_, batch)| batch.last() < stored.head.first) {
                if let Some((arrival, _)) = stored.batches.pop_front() {
                    lock(&self.arrivals).remove(&arrival);
                    self.bytes.fetch_sub(BATCH, Ordering::Relaxed);
                }
            }
        }
        stored.trim();
        removed
    }

    fn read_now(&self, shard: u16, group: &GroupName, range: Range, limit: PageLimit) -> Option<Page> {
        let mut groups = self.shard(shard);
        let stored = groups.get_mut(group)?;
        self.retain(group, stored);
        let mut bytes = 0;
        let mut fits = |records: usize, record: &Record| {
            let fits = records == 0 || (records < limit.records && bytes + record.size() <= limit.bytes);
            bytes += record.size();
            fits
        };
        let mut records = Vec::new();
        match range {
            Range::After(after) => {
                let from = after.saturating_add(1).max(stored.head.first);
                let start = stored.batches.partition_point(|(_, batch)| batch.last() < from);
                let all = stored.batches.range(start..).flat_map(|(_, batch)| &batch.records);
                for record in all.filter(|record| record.seq >= from) {
                    if !fits(records.len(), record) {
                        break;
                    }
                    records.push(record.clone());
                }
            }
            Range::Before(before) => {
                let end = stored.batches.partition_point(|(_, batch)| batch.first() < before);
                let all = stored.batches.range(..end).rev().flat_map(|(_, batch)| batch.records.iter().rev());
                let kept = all.skip_while(|record| record.seq >= before).take_while(|r| r.seq >= stored.head.first);
                for record in kept {
                    if !fits(records.len(), record) {
                        break;
                    }
                    records.push(record.clone());
                }
                records.reverse();
            }
        }
        Some(Page { head: stored.head, records })
    }

    fn groups_now(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(GroupName, Head)> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let names: Vec<(GroupName, u16)> = lock(&self.names)
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .take(limit)
            .map(|(name, shard)| (name.clone(), *shard))
            .collect();
        let head = |(name, shard): (GroupName, u16)| {
            let mut groups = self.shard(shard);
            let stored = groups.get_mut(&name)?;
            self.retain(&name, stored);
            Some((name, stored.head))
        };
        names.into_iter().filter_map(head).collect()
    }

    fn redact_now(&self, shard: u16, group: &GroupName, epoch: u64, seqs: &[u64]) -> u64 {
        let mut groups = self.shard(shard);
        let Some(stored) = groups.get_mut(group).filter(|stored| stored.head.epoch == epoch) else { return 0 };
        self.retain(group, stored);
        let kept = stored.head.first..=stored.head.seq;
        let mut redacted = 0;
        for seq in seqs.iter().filter(|seq| kept.contains(seq)) {
            let place = stored.batches.partition_point(|(_, batch)| batch.last() < *seq);
            let Some((_, batch)) = stored.batches.get_mut(place) else { continue };
            // A short text may take less than the id that tells of its removal.
            let before = batch.size() as u64;
            redacted += u64::from(batch.redact(*seq));
            let after = batch.size() as u64;
            stored.bytes = stored.bytes + after - before;
            self.bytes.fetch_add(after, Ordering::Relaxed);
            self.bytes.fetch_sub(before, Ordering::Relaxed);
        }
        redacted
    }

    fn delete_now(&self, shard: u16, group: &GroupName) -> bool {
        let mut groups = self.shard(shard);
        let Some(mut stored) = groups.remove(group) else { return false };
        let last = stored.head.seq;
        self.removed.moderator.increment(self.remove_through(&mut stored, last));
        lock(&self.names).remove(group);
        true
    }
}

impl Stored {
    /// Lets go of the removed part of a batch that is mostly removed, so that what is held stays within twice what is counted.
    fn trim(&mut self) {
        let Some((_, batch)) = self.batches.front_mut() else { return };
        let removed = usize::try_from(self.head.first.saturating_sub(batch.first())).unwrap_or(usize::MAX);
        if removed > batch.records.len() / 2
            && let Some(kept) = batch.records.get(removed..)
        {
            *batch = Arc::new(Batch { group: batch.group.clone(), epoch: batch.epoch, records: kept.to_vec() });
        }
    }

    fn oldest(&self) -> Option<&Record> {
        let (_, batch) = self.batches.front()?;
        batch.records.get(usize::try_from(self.head.first - batch.first()).ok()?)
    }
}

impl Log for Memory {
    fn append(&self, shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>> {
        Box::pin(ready(self.append_now(shard, batches)))
    }

    fn head(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        let head = self.shard(shard).get_mut(group).map(|stored| {
            self.retain(group, stored);
            stored.head
        });
        Box::pin(ready(Ok(head)))
    }

    fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        Box::pin(ready(Ok(self.read_now(shard, group, range, limit))))
    }

    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>> {
        Box::pin(ready(Ok(self.groups_now(prefix, after, limit))))
    }

    fn purge(&self, shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>> {
        let removed = self.shard(shard).get_mut(group).map_or(0, |stored| self.remove_through(stored, through));
        self.removed.moderator.increment(removed);
        Box::pin(ready(Ok(removed)))
    }

    fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>> {
        Box::pin(ready(Ok(self.redact_now(shard, group, epoch, seqs))))
    }

    fn delete(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>> {
        Box::pin(ready(Ok(self.delete_now(shard, group))))
    }

    fn stats(&self) -> Stats {
        Stats { groups: lock(&self.names).len() as u64, bytes: self.bytes.load(Ordering::Relaxed) }
    }

    fn trouble(&self) -> Option<String> {
        None
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        self.closed.store(true, Ordering::Release);
        Box::pin(ready(()))
    }
}

/// A panic while a lock was held left the maps whole: every change is made after its checks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod suite {
    use std::sync::Arc;

    use super::{Config, Log, Memory};
    use crate::log::conformance::{Engine, conformance};

    struct InMemory;

    impl Engine for InMemory {
        const DURABLE: bool = false;

        fn new() -> Self {
            Self
        }

        async fn open(&self) -> Arc<dyn Log> {
            Arc::new(Memory::new(&Config::default(), 4))
        }
    }

    conformance!(InMemory);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tertulia_protocol::UserName;

    use super::*;
    use crate::log::config::{RetentionOverride, RetentionOverrides};
    use crate::log::now_ms;

    fn batch(group: &str, first: u64, count: u64) -> Arc<Batch> {
        let record = |seq| Record {
            seq,
            at: now_ms(),
            sender: UserName::new("ada").unwrap(),
            id: None,
            message: format!("{group} {seq}").into(),
        };
        let records = (first..first + count).map(record).collect();
        Arc::new(Batch { group: GroupName::new(group).unwrap(), epoch: 7, records })
    }

    fn seqs(page: &Page) -> Vec<u64> {
        page.records.iter().map(|record| record.seq).collect()
    }

    const ALL: PageLimit = PageLimit { records: 1000, bytes: usize::MAX };

    #[test]
    fn the_newest_messages_of_a_group_are_kept_to_the_record() {
        let retention = Retention { messages: 5, ..Retention::default() };
        let memory = Memory::new(&Config { retention, ..Config::default() }, 4);
        memory.append_now(1, vec![batch("G", 1, 4)]).unwrap();
        memory.append_now(1, vec![batch("G", 5, 3)]).unwrap();
        let group = GroupName::new("G").unwrap();
        let page = memory.read_now(1, &group, Range::After(0), ALL).unwrap();
        assert_eq!((page.head.first, page.head.seq, seqs(&page)), (3, 7, vec![3, 4, 5, 6, 7]));
        let page = memory.read_now(1, &group, Range::Before(6), PageLimit { records: 2, bytes: usize::MAX }).unwrap();
        assert_eq!(seqs(&page), [4, 5]);
    }

    #[test]
    fn a_prefix_has_bounds_of_its_own() {
        let fewer = RetentionOverride { messages: Some(2), ..RetentionOverride::default() };
        let retention_overrides = RetentionOverrides([("G/".to_owned(), fewer)].into());
        let memory = Memory::new(&Config { retention_overrides, ..Config::default() }, 4);
        for name in ["G", "G/a"] {
            memory.append_now(1, vec![batch(name, 1, 5)]).unwrap();
        }
        let first = |name| memory.read_now(1, &GroupName::new(name).unwrap(), Range::After(0), ALL).unwrap().head.first;
        assert_eq!((first("G"), first("G/a")), (1, 4));
    }

    #[test]
    fn what_two_see_that_is_too_much_goes_once() {
        let all = batch("A", 1, 100);
        let one = all.records.iter().map(|record| record.size() as u64).max().unwrap();
        let held = BATCH + all.records.iter().map(|record| record.size() as u64).sum::<u64>();
        let memory = Memory::new(&Config { memory_bytes: held as usize, ..Config::default() }, 1);
        memory.append_now(0, vec![all]).unwrap();
        let guard = memory.shard(0);
        // As if much had come into other shards.
        memory.bytes.fetch_add(10 * one, Ordering::Relaxed);
        std::thread::scope(|scope| {
            let sheds = [scope.spawn(|| memory.shed()), scope.spawn(|| memory.shed())];
            // Both have seen it, and wait.
            std::thread::sleep(Duration::from_millis(200));
            drop(guard);
            sheds.into_iter().for_each(|shed| shed.join().unwrap());
        });
        let left = memory.bytes.load(Ordering::Relaxed);
        assert!(left <= held && left + one >= held, "{left} of {held}, in records of up to {one}");
    }

    #[test]
    fn all_groups_together_stay_under_the_bound_and_the_oldest_go_first() {
        let one = batch("A", 1, 1).records[0].size() as u64;
        let size: u64 = BATCH + batch("A", 1, 10).records.iter().map(|record| record.size() as u64).sum::<u64>();
        let memory =
            Memory::new(&Config { memory_bytes: (size * 2 + 2 * one + BATCH) as usize, ..Config::default() }, 4);
        memory.append_now(0, vec![batch("A", 1, 10)]).unwrap();
        memory.append_now(1, vec![batch("B", 1, 10)]).unwrap();
        memory.append_now(0, vec![batch("A", 11, 10)]).unwrap();
        assert!(memory.stats().bytes <= size * 2 + 2 * one + BATCH);
        let first = |shard, group| {
            memory.read_now(shard, &GroupName::new(group).unwrap(), Range::After(0), ALL).unwrap().head.first
        };
        // No more than must.
        assert!((8..=10).contains(&first(0, "A")) && first(1, "B") == 1, "{}", first(0, "A"));
        assert_eq!(lock(&memory.arrivals).len(), 3);
        // Of one batch that is too large by itself the newest messages stay.
        memory.append_now(2, vec![batch("C", 1, 40)]).unwrap();
        let page = memory.read_now(2, &GroupName::new("C").unwrap(), Range::After(0), ALL).unwrap();
        assert!(page.head.seq == 40 && (15..=30).contains(&page.records.len()), "{}", page.records.len());
    }

    #[test]
    fn batches_of_one_count_for_what_they_take() {
        let memory = Memory::new(&Config::default(), 4);
        let posts = 100;
        for seq in 1..=posts {
            memory.append_now(0, vec![batch("A", seq, 1)]).unwrap();
        }
        // A record of 64 bytes, its text and name, the batch, and its places in the two lists.
        assert!(memory.stats().bytes >= posts * 256, "{}", memory.stats().bytes);
        assert!(memory.delete_now(0, &GroupName::new("A").unwrap()));
        assert_eq!(memory.stats().bytes, 0);
    }

    #[test]
    fn what_retention_removes_of_a_batch_is_let_go() {
        let retention = Retention { messages: 3, ..Retention::default() };
        let memory = Memory::new(&Config { retention, ..Config::default() }, 4);
        let batch = batch("G", 1, 100);
        let (oldest, newest) = (Arc::downgrade(&batch.records[0].message), Arc::downgrade(&batch.records[99].message));
        memory.append_now(0, vec![batch]).unwrap();
        assert!(oldest.upgrade().is_none() && newest.upgrade().is_some());
        let page = memory.read_now(0, &GroupName::new("G").unwrap(), Range::After(0), ALL).unwrap();
        assert_eq!((page.head.first, seqs(&page)), (98, vec![98, 99, 100]));
    }

    #[tokio::test]
    async fn a_head_tells_what_age_has_left() {
        let retention = Retention { age: Duration::from_millis(20), ..Retention::default() };
        let memory = Memory::new(&Config { retention, ..Config::default() }, 4);
        let group = GroupName::new("G").unwrap();
        memory.append_now(0, vec![batch("G", 1, 3)]).unwrap();
        let over = async {
            while memory.head(0, &group).await.unwrap().unwrap().first != 4 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), over).await.expect("messages grow old without a read or a post");
        assert_eq!(memory.groups("", None, 10).await.unwrap()[0].1.first, 4);
    }

    #[test]
    fn a_deleted_group_leaves_nothing() {
        let memory = Memory::new(&Config::default(), 4);
        memory.append_now(0, vec![batch("A", 1, 10)]).unwrap();
        assert!(memory.delete_now(0, &GroupName::new("A").unwrap()));
        assert_eq!(memory.stats(), Stats::default());
        assert!(lock(&memory.arrivals).is_empty());
    }
}
