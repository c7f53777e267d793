//! How many shards are taken at a time.
//!
//! A shard that changes hands is served by nobody for a moment. The more of them do so at once, the longer that moment is wherever they
//! wait for the same processor and the same disks; the fewer, the longer it takes until all have moved, above all where NATS is far away.
//! So their number grows while that costs no time, and shrinks when it does. What is only the way to NATS and back counts for nothing in
//! this, and where it is long many are on it at a time from the beginning: they wait for it and not for each other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// The number to begin with, and the least and the greatest.
const FIRST: f64 = 8.0;
const LEAST: f64 = 4.0;
const MOST: f64 = 48.0;
/// A moment that is longer than the shortest by this factor, and by this time, is longer than it need be.
const FACTOR: u32 = 2;
const SLACK: Duration = Duration::from_millis(10);
/// NATS is far away if an answer takes longer even when nothing else is asked.
const FAR: Duration = Duration::from_millis(50);
/// A shard that changes hands goes that way about so often: to its node and back, which are two, and to its fence.
const TRIPS: u32 = 3;
/// Of shards on a long way one more goes at a time for each such part of it. That is 80 in a second; near it are many hundreds.
const APART: Duration = Duration::from_micros(12_500);
/// The greatest number where NATS is far away.
const MOST_FAR: f64 = 192.0;

/// Lets so many go on at a time as is good for all; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    room: Notify,
}

#[derive(Debug)]
struct State {
    limit: f64,
    under_way: usize,
    /// The shortest moment, as far as is remembered.
    shortest: Duration,
    /// What a moment takes at least because NATS is far away; zero if it is not.
    way: Duration,
}

/// Leave to go on, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    pace: Pace,
}

impl State {
    fn has_room(&self) -> bool {
        (self.under_way as f64) < self.limit
    }

    /// Shards begin to move, and an answer of NATS took so long before they did: what it takes while they do may be for their number.
    fn begin(&mut self, round_trip: Duration) {
        self.way = if round_trip > FAR { round_trip * TRIPS } else { Duration::ZERO };
        self.limit = self.limit.max(self.way.div_duration_f64(APART)).min(self.most());
    }

    fn most(&self) -> f64 {
        if self.way.is_zero() { MOST } else { MOST_FAR }
    }

    fn took(&mut self, moment: Duration) {
        // What was possible once may not be any more.
        self.shortest = (self.shortest + self.shortest / 64).min(moment);
        let is_long = moment > self.shortest.max(self.way) * FACTOR + SLACK;
        let next = if is_long { self.limit * 0.8 } else { self.limit + 1.0 };
        self.limit = next.clamp(LEAST, self.most());
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        let state = State { limit: FIRST, under_way: 0, shortest: Duration::MAX / 4, way: Duration::ZERO };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), room: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn. `round_trip`: how long an answer of NATS takes now.
    pub(super) async fn turn(&self, round_trip: Duration) -> Turn {
        loop {
            let room = self.inner.room.notified();
            {
                let mut state = self.state();
                if state.under_way == 0 {
                    state.begin(round_trip);
                }
                if state.has_room() {
                    state.under_way += 1;
                    if state.has_room() {
                        self.inner.room.notify_one();
                    }
                    return Turn { pace: self.clone() };
                }
            }
            room.await;
        }
    }
}

impl Turn {
    /// Ends it, and says how long the shard was served by nobody.
    pub(super) fn end(self, moment: Duration) {
        self.pace.state().took(moment);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pace.state().under_way -= 1;
        self.pace.inner.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit_after(moments: impl IntoIterator<Item = u64>) -> f64 {
        let pace = Pace::new();
        moments.into_iter().for_each(|millis| pace.state().took(Duration::from_millis(millis)));
        pace.state().limit
    }

    #[test]
    fn the_number_grows_while_that_costs_no_time_and_shrinks_when_it_does() {
        assert_eq!(limit_after([800; 100]), MOST, "far away, but not longer for being many");
        assert_eq!(limit_after([5, 9, 5, 9, 30, 40, 40, 50, 60, 60, 60, 60]), LEAST);
        let recovered = limit_after([5, 60, 60, 60, 60, 60, 60].into_iter().chain([6; 20]));
        assert!((20.0..40.0).contains(&recovered), "{recovered}");
        assert_eq!(limit_after([5].into_iter().chain([300; 400])), MOST, "what was quick once is forgotten");
    }

    #[test]
    fn far_away_many_are_on_the_way_at_once_and_fewer_only_if_they_are_in_each_others_way() {
        let pace = Pace::new();
        let mut state = pace.state();
        let millis = Duration::from_millis;
        // It was near when the last ones moved.
        (0..100).for_each(|_| state.took(millis(5)));
        state.begin(millis(400));
        assert_eq!(state.limit, 96.0);
        (0..200).for_each(|_| state.took(millis(1_200)));
        assert_eq!(state.limit, MOST_FAR);
        (0..40).for_each(|_| state.took(millis(3_000)));
        assert_eq!(state.limit, LEAST);
        state.begin(millis(3));
        (0..4).for_each(|_| state.took(millis(1_200)));
        assert_eq!(state.limit, LEAST, "that is not for the way");
        (0..100).for_each(|_| state.took(millis(5)));
        assert_eq!(state.limit, MOST);
    }

    #[tokio::test]
    async fn no_more_than_the_limit_go_on_at_a_time() {
        let pace = Pace::new();
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(pace.turn(Duration::ZERO).await);
        }
        let next = tokio::spawn({
            let pace = pace.clone();
            async move { drop(pace.turn(Duration::ZERO).await) }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(turns.pop());
        next.await.unwrap();
        assert_eq!(pace.state().under_way, 7);
    }
}
