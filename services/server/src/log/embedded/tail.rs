//! What is in memory of the groups: heads, the messages that the tables do not hold yet, and the newest ones that they do.
//!
//! A group with unapplied operations is always here, so that its head here is the truth; of the others, those used last are, as
//! far as the budget goes. A group that is not here is as the tables say.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::FixedState;
use tertulia_protocol::GroupName;

use super::record::Operation;
use super::retention::Rules;
use crate::log::{Batch, Head, Range};

/// Locks over which groups are spread.
const SHELVES: usize = 64;
/// What an entry counts for besides its messages.
const ENTRY_BYTES: usize = 384;

/// What is known of a group's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// Somebody is asking the tables.
    Loading,
    /// There is no such group.
    Absent,
    /// There is.
    Present(Head),
}

#[derive(Debug)]
struct Kept {
    batch: Arc<Batch>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    /// Dense up to the head, oldest first; all that is not applied, after some of what is.
    recent: VecDeque<Kept>,
    /// How many of `recent`, from the front, are applied.
    applied: usize,
    applied_records: usize,
    /// What the entry takes of the budget: itself and what of `recent` is applied.
    cost: usize,
    /// Operations that are not applied.
    unapplied: usize,
    /// Messages whose texts were removed and are in the tables all the same, until so many more operations are applied.
    redacted: BTreeMap<u64, usize>,
    /// When it was last used.
    stamp: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    entries: HashMap<GroupName, Entry, FixedState>,
    /// Groups without unapplied operations by when they were used; outdated where the stamps differ.
    clean: VecDeque<(GroupName, u64)>,
    cost: usize,
    stamps: u64,
}

impl Entry {
    /// Removes the text of a message, here and for those who read the tables.
    fn redact(&mut self, seq: u64) {
        self.redacted.insert(seq, self.unapplied);
        let place = self.recent.partition_point(|kept| kept.batch.last() < seq);
        if let Some(kept) = self.recent.get_mut(place) {
            kept.batch.redact(seq);
        }
    }
}

/// A group as memory has it: the head, and the newest messages.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) head: Head,
    /// Dense up to the head; only what the range may need.
    pub(crate) recent: Vec<Arc<Batch>>,
    /// The oldest `seq` in memory; the head's successor if none is.
    pub(crate) memory_first: u64,
    /// Messages whose texts were removed, which the tables may not know yet.
    pub(crate) redacted: BTreeSet<u64>,
}

impl View {
    /// A group of which memory has nothing but the head.
    pub(crate) fn bare(head: Head) -> Self {
        Self { head, recent: Vec::new(), memory_first: head.seq + 1, redacted: BTreeSet::new() }
    }
}

/// What is in memory of the groups.
#[derive(Debug)]
pub(crate) struct Tail {
    shelves: Vec<Mutex<Shelf>>,
    hasher: FixedState,
    rules: Arc<Rules>,
    budget: usize,
    keep_records: usize,
}

impl Tail {
    pub(crate) fn new(rules: Arc<Rules>, cache_bytes: usize, keep_records: usize) -> Self {
        let shelves = (0..SHELVES).map(|_| Mutex::default()).collect();
        Self { shelves, hasher: FixedState::default(), rules, budget: cache_bytes / SHELVES, keep_records }
    }

    fn shelf(&self, group: &GroupName) -> MutexGuard<'_, Shelf> {
        let mut state = self.hasher.build_hasher();
        group.hash(&mut state);
        let index = std::hash::Hasher::finish(&state) as usize >> 32;
        self.shelves[index % SHELVES].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of a group; `None` if it is not here.
    pub(crate) fn known(&self, group: &GroupName) -> Option<Known> {
        self.shelf(group).entries.get(group).map(|entry| entry.known)
    }

    /// Says that the caller is about to ask the tables for a group. Answers with what to give to [`Tail::end_load`]; `None`
    /// if the group is here.
    pub(crate) fn begin_load(&self, group: &GroupName) -> Option<Loading> {
        let mut shelf = self.shelf(group);
        match shelf.entries.get(group) {
            Some(entry) => (entry.known == Known::Loading).then_some(Loading(entry.stamp)),
            None => Some(Loading(shelf.insert(group, Known::Loading))),
        }
    }

    /// What the tables said, read after [`Tail::begin_load`]. It changes nothing if somebody else knew more by then: all
    /// changes since go through the entry that `begin_load` made, and the stamp tells that it is still the same.
    pub(crate) fn end_load(&self, group: &GroupName, loading: Loading, head: Option<Head>) {
        let mut shelf = self.shelf(group);
        if let Some(entry) = shelf.entries.get_mut(group)
            && entry.known == Known::Loading
            && entry.stamp == loading.0
        {
            entry.known = head.map_or(Known::Absent, |head| Known::Present(self.rules.seen(group, head)));
        }
        shelf.evict(self.budget);
    }

    /// The tables could not be asked.
    pub(crate) fn abort_load(&self, group: &GroupName) {
        let mut shelf = self.shelf(group);
        if shelf.entries.get(group).is_some_and(|entry| entry.known == Known::Loading) {
            shelf.remove(group);
        }
    }

    /// Takes in what the commit log now holds; `head` is what the operation makes of the group.
    pub(crate) fn publish(&self, operation: &Operation, head: Option<Head>) {
        let group = operation.group();
        let mut shelf = self.shelf(group);
        let shelf = &mut *shelf;
        if !shelf.entries.contains_key(group) {
            shelf.insert(group, Known::Absent);
        }
        let Some(entry) = shelf.entries.get_mut(group) else { return };
        entry.unapplied += 1;
        entry.known = match (head, entry.known) {
            (None, _) => Known::Absent,
            // Retention may have gone on since the writer looked.
            (Some(head), Known::Present(known)) if known.epoch == head.epoch => {
                Known::Present(self.rules.seen(group, Head { first: head.first.max(known.first), ..head }))
            }
            (Some(head), _) => Known::Present(self.rules.seen(group, head)),
        };
        match operation {
            Operation::Append { batch, bytes } => {
                entry.recent.push_back(Kept { batch: Arc::clone(batch), bytes: *bytes });
            }
            Operation::Purge { .. } => {}
            Operation::Redact { seq, .. } => {
                // Of those asked for together some may not be there yet: what comes in their places is not meant.
                if head.is_some_and(|head| *seq <= head.seq) {
                    entry.redact(*seq);
                }
            }
            Operation::Delete { .. } => {
                entry.recent.clear();
                entry.redacted.clear();
                (entry.applied, entry.applied_records) = (0, 0);
                shelf.cost -= entry.cost - ENTRY_BYTES;
                entry.cost = ENTRY_BYTES;
            }
        }
    }

    /// Learns that the tables hold `operations` more operations of a group, and what they say of it now.
    pub(crate) fn applied(&self, group: &GroupName, operations: usize, head: Option<Head>) {
        let mut shelf = self.shelf(group);
        let shelf = &mut *shelf;
        let Some(entry) = shelf.entries.get_mut(group) else { return };
        entry.unapplied = entry.unapplied.saturating_sub(operations);
        entry.redacted.retain(|_, left| {
            *left = left.saturating_sub(operations);
            *left > 0
        });
        if let (Known::Present(known), Some(head)) = (&mut entry.known, head)
            && known.epoch == head.epoch
        {
            known.first = known.first.max(head.first);
            while let Some(kept) = entry.recent.get(entry.applied)
                && kept.batch.last() <= head.seq
            {
                entry.applied += 1;
                entry.applied_records += kept.batch.records.len();
                entry.cost += kept.bytes;
                shelf.cost += kept.bytes;
            }
        }
        let over = shelf.cost > self.budget;
        while entry.applied > 0 && (over || entry.applied_records > self.keep_records) {
            let Some(kept) = entry.recent.pop_front() else { break };
            entry.applied -= 1;
            entry.applied_records -= kept.batch.records.len();
            entry.cost -= kept.bytes;
            shelf.cost -= kept.bytes;
        }
        if entry.unapplied == 0 {
            shelf.stamps += 1;
            entry.stamp = shelf.stamps;
            shelf.clean.push_back((group.clone(), entry.stamp));
            shelf.evict(self.budget);
        }
    }

    /// The group and what of its messages a read needs; `None` if the group is not here. `Err` if there is none.
    pub(crate) fn view(&self, group: &GroupName, range: Range, records: usize) -> Option<Result<View, NoGroup>> {
        let shelf = self.shelf(group);
        let entry = shelf.entries.get(group)?;
        let head = match entry.known {
            Known::Loading => return None,
            Known::Absent => return Some(Err(NoGroup)),
            Known::Present(head) => head,
        };
        let memory_first = entry.recent.front().map_or(head.seq + 1, |kept| kept.batch.first());
        let batches = entry.recent.iter().map(|kept| &kept.batch);
        let mut wanted = 0;
        let mut more = |batch: &Arc<Batch>, part: usize| {
            let more = wanted < records;
            wanted += part.min(batch.records.len());
            more
        };
        let recent = match range {
            Range::After(after) => {
                let after = after.max(head.first.saturating_sub(1));
                let skip = entry.recent.partition_point(|kept| kept.batch.last() <= after);
                let of = |batch: &Arc<Batch>| batch.last().saturating_sub(after) as usize;
                batches.skip(skip).take_while(|batch| more(batch, of(batch))).cloned().collect()
            }
            Range::Before(before) => {
                let end = entry.recent.partition_point(|kept| kept.batch.first() < before);
                let of = |batch: &Arc<Batch>| before.saturating_sub(batch.first()).min(usize::MAX as u64) as usize;
                let newest = batches.take(end).rev().take_while(|batch| more(batch, of(batch)));
                let mut recent: Vec<_> = newest.cloned().collect();
                recent.reverse();
                recent
            }
        };
        Some(Ok(View { head, recent, memory_first, redacted: entry.redacted.keys().copied().collect() }))
    }
}

/// A question to the tables that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Loading(u64);

/// There is no such group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoGroup;

impl Shelf {
    fn insert(&mut self, group: &GroupName, known: Known) -> u64 {
        self.stamps += 1;
        let entry = Entry {
            known,
            recent: VecDeque::new(),
            applied: 0,
            applied_records: 0,
            cost: ENTRY_BYTES,
            unapplied: 0,
            redacted: BTreeMap::new(),
            stamp: self.stamps,
        };
        self.cost += ENTRY_BYTES;
        self.clean.push_back((group.clone(), entry.stamp));
        self.entries.insert(group.clone(), entry);
        self.stamps
    }

    fn remove(&mut self, group: &GroupName) {
        if let Some(entry) = self.entries.remove(group) {
            self.cost -= entry.cost;
        }
    }

    /// Lets go of the groups used longest ago that are applied, until the rest is in the budget.
    fn evict(&mut self, budget: usize) {
        while self.cost > budget
            && let Some((group, stamp)) = self.clean.pop_front()
        {
            let current = self.entries.get(&group);
            let idle = current.is_some_and(|entry| entry.stamp == stamp && entry.unapplied == 0);
            if idle {
                self.remove(&group);
            }
        }
        if self.clean.len() > 2 * self.entries.len() + 64 {
            let entries = &self.entries;
            self.clean.retain(|(group, stamp)| entries.get(group).is_some_and(|entry| entry.stamp == *stamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::config::Config;
    use crate::log::conformance::{batch, group};

    fn tail(budget: usize, keep_records: usize) -> Tail {
        Tail::new(Arc::new(Rules::new(&Config::default())), budget * SHELVES, keep_records)
    }

    fn publish(tail: &Tail, first: u64, last: u64) {
        let head = Head { epoch: 1, seq: last, first: 1, at: 0 };
        tail.publish(&Operation::append(batch("Dogs", 1, first, last)), Some(head));
    }

    fn memory_first(tail: &Tail) -> u64 {
        tail.view(&group("Dogs"), Range::After(0), usize::MAX).unwrap().unwrap().memory_first
    }

    #[test]
    fn what_is_not_applied_stays_whatever_the_budget_is() {
        let tail = tail(0, 0);
        publish(&tail, 1, 5);
        publish(&tail, 6, 9);
        assert_eq!(memory_first(&tail), 1);
        tail.applied(&group("Dogs"), 1, Some(Head { epoch: 1, seq: 5, first: 1, at: 0 }));
        assert_eq!(memory_first(&tail), 6);
        tail.applied(&group("Dogs"), 1, Some(Head { epoch: 1, seq: 9, first: 1, at: 0 }));
        assert_eq!(tail.known(&group("Dogs")), None, "all is applied and the budget is used up");
    }

    #[test]
    fn the_newest_records_stay_after_they_are_applied() {
        let tail = tail(1 << 20, 4);
        publish(&tail, 1, 5);
        publish(&tail, 6, 9);
        tail.applied(&group("Dogs"), 2, Some(Head { epoch: 1, seq: 9, first: 1, at: 0 }));
        assert_eq!(memory_first(&tail), 6);
    }

    #[test]
    fn a_removal_is_remembered_until_it_is_applied_also_where_there_is_always_more() {
        let tail = tail(1 << 20, 0);
        let head = |seq| Head { epoch: 1, seq, first: 1, at: 0 };
        let remembered = || tail.view(&group("Dogs"), Range::After(0), usize::MAX).unwrap().unwrap().redacted;
        publish(&tail, 1, 5);
        for seq in 1..=5 {
            tail.publish(&Operation::Redact { group: group("Dogs"), epoch: 1, seq }, Some(head(5)));
            assert_eq!(remembered(), [seq].into());
            publish(&tail, 5 + seq, 5 + seq);
            // What came before it, then the removal itself; the message behind it waits.
            tail.applied(&group("Dogs"), 1, Some(head(4 + seq)));
            assert_eq!(remembered(), [seq].into());
            tail.applied(&group("Dogs"), 1, Some(head(4 + seq)));
            assert_eq!(remembered(), [].into());
        }
    }

    #[test]
    fn an_answer_of_the_tables_changes_nothing_that_is_newer() {
        let tail = tail(1 << 20, 4);
        let loading = tail.begin_load(&group("Dogs")).unwrap();
        publish(&tail, 1, 5);
        tail.end_load(&group("Dogs"), loading, None);
        assert!(matches!(tail.known(&group("Dogs")), Some(Known::Present(head)) if head.seq == 5));
        assert_eq!(tail.begin_load(&group("Dogs")), None);
    }
}
