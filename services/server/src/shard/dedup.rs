//! The window of post ids of one group: what makes a retry harmless.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use foldhash::fast::RandomState;
use tertulia_protocol::{PostId, UserName};

use super::session::Stored;

/// Remembers where the newest posts with an id were stored, bounded by count and by age.
#[derive(Debug)]
pub(super) struct Dedup {
    max: usize,
    max_age_ms: u64,
    places: HashMap<Key, Stored, RandomState>,
    /// Oldest first, with when each was taken in by this machine's clock. The times of what is stored are of the clocks of whoever
    /// stored it, and on another node that may be another.
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

    /// Where the post of that sender and id is, if it is in the window at the time `now` (ms).
    pub(super) fn get(&mut self, sender: &UserName, id: &PostId, now: u64) -> Option<Stored> {
        self.expire(now);
        self.places.get(&(sender.clone(), id.clone())).copied()
    }

    /// Remembers a post that is taken in at the time `now` (ms), or was.
    pub(super) fn insert(&mut self, sender: UserName, id: PostId, stored: Stored, now: u64) {
        self.expire(now);
        self.order.push_back((now, (sender.clone(), id.clone())));
        self.places.insert((sender, id), stored);
        while self.order.len() > self.max {
            self.forget_oldest();
            self.evicted_by = stored.seq;
        }
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

    fn stored(seq: u64, at: u64) -> Stored {
        Stored { epoch: 1, seq, at }
    }

    fn key(id: &str) -> Key {
        (UserName::new("ada").unwrap(), PostId::new(id).unwrap())
    }

    #[test]
    fn the_window_is_bounded_by_count_and_age() {
        let mut dedup = Dedup::new(2, Duration::from_millis(100));
        for (seq, id) in ["a", "b", "c"].iter().enumerate() {
            let (user, id) = key(id);
            dedup.insert(user, id, stored(seq as u64 + 1, 1000), 1000);
        }
        let mut get = |id: &str, now| dedup.get(&key(id).0, &key(id).1, now).map(|stored| stored.seq);
        assert_eq!((get("a", 1000), get("b", 1000), get("c", 1100)), (None, Some(2), Some(3)));
        assert_eq!(get("c", 1101), None);
        assert!(dedup.places.is_empty() && dedup.order.is_empty());
    }

    #[test]
    fn who_had_to_go_for_what_failed_is_missed() {
        let mut dedup = Dedup::new(2, Duration::from_millis(100));
        for (seq, id) in ["a", "b", "c", "d"].iter().enumerate() {
            let (user, id) = key(id);
            dedup.insert(user, id, stored(seq as u64 + 1, 1000), 1000);
        }
        assert!(!dedup.roll_back(4), "nothing failed");
        assert!(dedup.roll_back(2), "a and b are in the log, and not here");
    }

    #[test]
    fn the_age_is_by_this_machines_clock() {
        let mut dedup = Dedup::new(10, Duration::from_millis(100));
        let hour = 3_600_000;
        for (seq, id) in ["ahead", "behind"].iter().enumerate() {
            let (user, id) = key(id);
            let at = if seq == 0 { 2 * hour } else { 0 };
            dedup.insert(user, id, stored(seq as u64 + 1, at), hour);
        }
        let mut get = |id: &str, now| dedup.get(&key(id).0, &key(id).1, now).map(|stored| stored.seq);
        assert_eq!((get("ahead", hour + 100), get("behind", hour + 100)), (Some(1), Some(2)));
        assert_eq!((get("ahead", hour + 101), get("behind", hour + 101)), (None, None));
    }

    #[test]
    fn a_failed_append_is_forgotten() {
        let mut dedup = Dedup::new(10, Duration::from_secs(1));
        for (seq, id) in ["a", "b", "c"].iter().enumerate() {
            let (user, id) = key(id);
            dedup.insert(user, id, stored(seq as u64 + 1, 1000), 1000);
        }
        dedup.roll_back(1);
        let mut get = |id: &str| dedup.get(&key(id).0, &key(id).1, 1000).map(|stored| stored.seq);
        assert_eq!((get("a"), get("b"), get("c")), (Some(1), None, None));
    }
}
