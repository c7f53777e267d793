//! The window of post ids of one group: what makes a retry harmless.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use tertulia_protocol::{PostId, UserName};

use super::session::Stored;
use crate::log::clock::TakenIn;

/// Remembers where the newest posts with an id were stored, bounded by count and by age.
#[derive(Debug)]
pub(super) struct Dedup {
    max: usize,
    max_age_ms: u64,
    places: HashMap<Key, Stored, RandomState>,
    /// Oldest first, with when each came here, by the time that passes whatever a clock says: clocks are set, and what is stored has the times
    /// of whoever stored it.
    order: VecDeque<(u64, Key)>,
    /// The newest post for which an older one had to go.
    evicted_by: u64,
}

type Key = (UserName, PostId);

impl Dedup {
    pub(super) fn new(max: usize, max_age: Duration) -> Self {
        let max_age_ms = u64::try_from(max_age.as_millis()).unwrap_or(u64::MAX);
        Self { max, max_age_ms, places: HashMap::default(), order: VecDeque::new(), evicted_by: 0 }
    }

    /// Ids that are remembered.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// Where the post of that sender and id is, if it is in the window.
    pub(super) fn get(&mut self, sender: &UserName, id: &PostId, now: TakenIn) -> Option<Stored> {
        self.expire(now.running);
        self.places.get(&(sender.clone(), id.clone())).copied()
    }

    /// Remembers a post that is taken in.
    pub(super) fn insert(&mut self, sender: UserName, id: PostId, stored: Stored, now: TakenIn) {
        self.expire(now.running);
        self.order.push_back((now.running, (sender.clone(), id.clone())));
        self.places.insert((sender, id), stored);
        while self.order.len() > self.max {
            self.forget_oldest();
            self.evicted_by = stored.seq;
        }
    }

    /// Remembers a post that is found in the log, older than all that are here: as if it were taken in now, for how old it is nobody can tell.
    /// Of an id that was used again the newer post is the one.
    pub(super) fn insert_older(&mut self, sender: UserName, id: PostId, stored: Stored, now: TakenIn) {
        let key = (sender, id);
        if self.room() > 0 && !self.places.contains_key(&key) {
            self.order.push_front((now.running, key.clone()));
            self.places.insert(key, stored);
        }
    }

    /// How many more ids it has room for, before one has to go for another.
    pub(super) fn room(&self) -> usize {
        self.max.saturating_sub(self.order.len())
    }

    /// Forgets all that was entered with a `seq` above `head`: its append failed. Answers whether ids that belong into the window are missing
    /// now, because they had to go for what is forgotten.
    pub(super) fn roll_back(&mut self, head: u64) -> bool {
        while let Some((_, key)) = self.order.back() {
            if self.places.get(key).is_some_and(|stored| stored.seq <= head) {
                break;
            }
            if let Some((_, key)) = self.order.pop_back() {
                self.places.remove(&key);
            }
        }
        self.evicted_by > head
    }

    fn expire(&mut self, now: u64) {
        while self.order.front().is_some_and(|(at, _)| at.saturating_add(self.max_age_ms) < now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.places.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(seq: u64) -> Stored {
        Stored { epoch: 1, seq, at: 1000 }
    }

    fn key(id: &str) -> Key {
        (UserName::new("ada").unwrap(), PostId::new(id).unwrap())
    }

    const HOUR: u64 = 3_600_000;

    /// So long after the test began, where the clock says something else each time.
    fn after(running: u64) -> TakenIn {
        TakenIn { at: [HOUR, 0, 2 * HOUR][(running % 3) as usize], running }
    }

    fn seq_of(dedup: &mut Dedup, id: &str, now: u64) -> Option<u64> {
        let (user, id) = key(id);
        dedup.get(&user, &id, after(now)).map(|stored| stored.seq)
    }

    /// With posts that came one after the other at the same time, 1000.
    fn window_of(max: usize, ids: &[&str]) -> Dedup {
        let mut dedup = Dedup::new(max, Duration::from_millis(100));
        for (seq, id) in (1..).zip(ids) {
            let (user, id) = key(id);
            dedup.insert(user, id, stored(seq), after(1000));
        }
        dedup
    }

    #[test]
    fn the_window_is_bounded_by_count_and_age() {
        let mut dedup = window_of(2, &["a", "b", "c"]);
        let mut get = |id, now| seq_of(&mut dedup, id, now);
        assert_eq!((get("a", 1000), get("b", 1000), get("c", 1100)), (None, Some(2), Some(3)));
        assert_eq!(get("c", 1101), None);
        assert!(dedup.places.is_empty() && dedup.order.is_empty());
    }

    #[test]
    fn who_had_to_go_for_what_failed_is_missed() {
        let mut dedup = window_of(2, &["a", "b", "c", "d"]);
        assert!(!dedup.roll_back(4), "nothing failed");
        assert!(dedup.roll_back(2), "a and b are in the log, and not here");
    }

    #[test]
    fn the_age_is_not_by_a_clock_that_is_set() {
        let mut dedup = Dedup::new(10, Duration::from_millis(100));
        let (user, id) = key("a");
        dedup.insert(user, id, stored(1), TakenIn { at: HOUR, running: 1000 });
        let (user, id) = key("a");
        for (at, running) in [(2 * HOUR, 1001), (0, 1050), (2 * HOUR, 1100)] {
            assert!(dedup.get(&user, &id, TakenIn { at, running }).is_some(), "{at}");
        }
        assert!(dedup.get(&user, &id, TakenIn { at: 0, running: 1101 }).is_none());
    }

    #[test]
    fn a_failed_append_is_forgotten() {
        let mut dedup = window_of(10, &["a", "b", "c"]);
        dedup.roll_back(1);
        let mut get = |id| seq_of(&mut dedup, id, 1000);
        assert_eq!((get("a"), get("b"), get("c")), (Some(1), None, None));
    }

    #[test]
    fn what_is_found_in_the_log_is_older_than_what_is_here() {
        let mut dedup = Dedup::new(3, Duration::from_millis(100));
        // From the newest on; b was used once more when it was forgotten.
        for (seq, id) in [(9, "b"), (8, "a"), (7, "b"), (6, "c"), (5, "d")] {
            let (user, id) = key(id);
            dedup.insert_older(user, id, stored(seq), after(1000));
        }
        assert_eq!(dedup.room(), 0);
        let get = |dedup: &mut Dedup, id| seq_of(dedup, id, 1100);
        assert_eq!(["a", "b", "c", "d"].map(|id| get(&mut dedup, id)), [Some(8), Some(9), Some(6), None]);
        // They go in the order in which they were stored.
        let (user, id) = key("e");
        dedup.insert(user, id, stored(10), after(1100));
        assert_eq!(["a", "b", "c", "e"].map(|id| get(&mut dedup, id)), [Some(8), Some(9), None, Some(10)]);
        assert_eq!(seq_of(&mut dedup, "b", 1101), None);
        assert_eq!(dedup.len(), 1);
    }
}
