//! When to post: as soon as the window has room, or at fixed times.

use std::sync::atomic::{AtomicU32, Ordering};

/// A closed loop: so many posts are under way at most, in slots that are free again once a post is done.
///
/// The counters are shared, since the members of one group may be served by several threads; the list of free slots is one thread's.
#[derive(Debug)]
pub struct Window {
    first: u32,
    free: Vec<u32>,
    size: u32,
}

impl Window {
    /// The slots `first..first + size`.
    #[must_use]
    pub fn new(first: u32, size: u32) -> Self {
        Self { first, free: (first..first + size).rev().collect(), size }
    }

    /// Takes a slot for a post, if one is free.
    pub fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// The post in `slot` is done.
    pub fn give_back(&mut self, slot: u32) {
        debug_assert!(self.owns(slot));
        self.free.push(slot);
    }

    /// Whether `slot` is one of this window's.
    #[must_use]
    pub fn owns(&self, slot: u32) -> bool {
        (self.first..self.first + self.size).contains(&slot)
    }

    /// Posts under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.size - self.free.len() as u32
    }
}

/// For each slot, how many members have not seen its post.
#[derive(Debug)]
pub struct Remaining(Box<[AtomicU32]>);

impl Remaining {
    /// So many slots.
    #[must_use]
    pub fn new(slots: u32) -> Self {
        Self((0..slots).map(|_| AtomicU32::new(0)).collect())
    }

    /// A post begins that so many must see.
    pub fn begin(&self, slot: u32, members: u32) {
        if let Some(remaining) = self.0.get(slot as usize) {
            remaining.store(members, Ordering::Release);
        }
    }

    /// One of them has seen it; answers whether it was the last.
    #[must_use]
    pub fn seen(&self, slot: u32) -> bool {
        self.0.get(slot as usize).is_some_and(|remaining| remaining.fetch_sub(1, Ordering::AcqRel) == 1)
    }
}

/// An open loop: posts are due at fixed times, whatever became of those before.
///
/// Latency counts from the time at which a post was due. So a stall, be it the server's or ours, shows in every post that
/// should have been sent meanwhile, and not only in the one that met it ("coordinated omission").
#[derive(Debug, Clone)]
pub struct Schedule {
    start: u64,
    rate: f64,
    step: u64,
    index: u64,
}

impl Schedule {
    /// Of `rate` posts a second from `start` (in nanoseconds) on, every `step`-th beginning with the `offset`-th.
    #[must_use]
    pub fn new(start: u64, rate: f64, offset: u64, step: u64) -> Self {
        Self { start, rate, step, index: offset }
    }

    /// When the next post is due.
    #[must_use]
    pub fn next(&self) -> u64 {
        // Not a running sum: rounding would add up.
        self.start.saturating_add((self.index as f64 * 1e9 / self.rate) as u64)
    }

    /// How many posts are due and have not been taken.
    #[must_use]
    pub fn overdue(&self, now: u64) -> u64 {
        if self.next() > now {
            return 0;
        }
        let last = ((now - self.start) as f64 * self.rate / 1e9) as u64;
        last.saturating_sub(self.index) / self.step + 1
    }

    /// The time at which a post was due that has not been sent, if there is one.
    pub fn take_due(&mut self, now: u64) -> Option<u64> {
        let next = self.next();
        if next > now {
            return None;
        }
        self.index += self.step;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_never_exceeded_and_gets_its_slots_back() {
        let mut window = Window::new(10, 3);
        let remaining = Remaining::new(13);
        let slots: Vec<u32> = std::iter::from_fn(|| window.take()).collect();
        assert_eq!(slots, [10, 11, 12]);
        assert_eq!(window.in_flight(), 3);
        remaining.begin(11, 2);
        assert!(!remaining.seen(11));
        assert!(remaining.seen(11));
        assert!(!remaining.seen(1_000), "a slot that does not exist is never done");
        window.give_back(11);
        assert_eq!((window.in_flight(), window.take(), window.take()), (2, Some(11), None));
        assert!(window.owns(12) && !window.owns(13) && !window.owns(9));
    }

    #[test]
    fn a_schedule_does_not_drift_and_is_shared_out_whole() {
        let mut all: Vec<u64> = Vec::new();
        for offset in 0..3 {
            let mut schedule = Schedule::new(1_000, 3_000.0, offset, 3);
            all.extend(std::iter::from_fn(|| schedule.take_due(1_000 + 999_999_999)));
        }
        all.sort_unstable();
        assert_eq!(all.len(), 3_000);
        assert_eq!(all[0], 1_000);
        assert_eq!(all[1_500], 1_000 + 500_000_000);
    }

    #[test]
    fn what_is_due_and_not_taken_is_counted() {
        let mut schedule = Schedule::new(1_000, 1_000.0, 1, 3);
        // The posts 1, 4, 7 and 10 are this schedule's: due after one, four, seven and ten milliseconds.
        let at = |milliseconds: u64| 1_000 + milliseconds * 1_000_000 + 500_000;
        assert_eq!(
            (0..12).map(|now| schedule.overdue(at(now))).collect::<Vec<_>>(),
            [0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
        );
        schedule.take_due(at(8));
        schedule.take_due(at(8));
        assert_eq!((schedule.overdue(at(6)), schedule.overdue(at(8)), schedule.overdue(at(11))), (0, 1, 2));
    }

    #[test]
    fn a_stall_shows_in_every_post_that_was_due_meanwhile() {
        // 1,000 a second for 10 s; the sender stalls for one second and then catches up at once.
        let mut schedule = Schedule::new(0, 1_000.0, 0, 1);
        let mut latencies = crate::tally::latencies();
        let mut now = 0;
        while now < 10_000_000_000 {
            now += if now == 5_000_000_000 { 1_000_000_000 } else { 1_000_000 };
            while let Some(due) = schedule.take_due(now) {
                latencies.saturating_record((now - due) / 1_000);
            }
        }
        assert!((9_999..=10_001).contains(&latencies.len()));
        // A tenth of all posts waited for the stall, half a second on average; without the correction it would be one.
        let p95 = latencies.value_at_quantile(0.95);
        assert!((450_000..=550_000).contains(&p95), "{p95}");
        assert!(latencies.value_at_quantile(0.89) <= 1_001);
        assert!(latencies.max() >= 999_000);
    }
}
