//! How many shards are taken at a time.
//!
//! A shard that changes hands is served by nobody for a moment. The more of them do so at once, the longer that moment is wherever they
//! wait for the same processor and the same disks; the fewer, the longer it takes until all have moved, above all where NATS is far away.
//! So their number grows while that costs no time, and shrinks when it does.

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

    fn took(&mut self, moment: Duration) {
        // What was possible once may not be any more.
        self.shortest = (self.shortest + self.shortest / 64).min(moment);
        let is_long = moment > self.shortest * FACTOR + SLACK;
        let next = if is_long { self.limit * 0.8 } else { self.limit + 1.0 };
        self.limit = next.clamp(LEAST, MOST);
    }
}

impl Pace {
    pub(super) fn new() -> Self {
        let state = State { limit: FIRST, under_way: 0, shortest: Duration::MAX / 4 };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), room: Notify::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its turn.
    pub(super) async fn turn(&self) -> Turn {
        loop {
            let room = self.inner.room.notified();
            {
                let mut state = self.state();
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

    #[tokio::test]
    async fn no_more_than_the_limit_go_on_at_a_time() {
        let pace = Pace::new();
        let mut turns = Vec::new();
        for _ in 0..8 {
            turns.push(pace.turn().await);
        }
        let next = tokio::spawn({
            let pace = pace.clone();
            async move { drop(pace.turn().await) }
        });
        tokio::task::yield_now().await;
        assert!(!next.is_finished());
        drop(turns.pop());
        next.await.unwrap();
        assert_eq!(pace.state().under_way, 7);
    }
}
