//! Handshakes that are under way: so many at once, and those who stall keep nobody out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a handshake may take, whoever waits: the few round trips that it needs, to anywhere on earth.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// Keeps a bound on handshakes. Beyond it others wait a little, so that all of a burst of honest clients get through; then one more ends
/// the oldest, for those who stall are the ones that have been here longest.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order in which they came.
    under_way: BTreeMap<u64, Handshake>,
}

#[derive(Debug)]
struct Handshake {
    since: Instant,
    displaced: Arc<Notify>,
}

/// A place among the handshakes, until it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    displaced: Arc<Notify>,
}

impl Slots {
    pub(super) fn new(most: usize) -> Self {
        Self { most: most.max(1), state: Mutex::default(), freed: Notify::new() }
    }

    /// Returns when another handshake may begin. For one caller at a time, the one that begins them. Cancel-safe.
    pub(super) async fn room(&self) {
        loop {
            let until = {
                let state = self.lock();
                match state.under_way.first_key_value() {
                    Some((_, oldest)) if state.under_way.len() >= self.most => oldest.since + UNDISTURBED,
                    _ => return,
                }
            };
            if timeout_at(until, self.freed.notified()).await.is_err() {
                return;
            }
        }
    }

    pub(super) fn take(self: &Arc<Self>) -> Slot {
        let displaced = Arc::new(Notify::new());
        let mut state = self.lock();
        while state.under_way.len() >= self.most {
            let Some((_, oldest)) = state.under_way.pop_first() else { break };
            oldest.displaced.notify_one();
        }
        let number = state.next;
        state.next += 1;
        let handshake = Handshake { since: Instant::now(), displaced: Arc::clone(&displaced) };
        state.under_way.insert(number, handshake);
        Slot { slots: Arc::clone(self), number, displaced }
    }

    /// How many are under way.
    pub(super) fn taken(&self) -> usize {
        self.lock().under_way.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Returns when a newer handshake has taken the place. Cancel-safe.
    pub(super) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.lock().under_way.remove(&self.number);
        self.slots.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn the_oldest_makes_room_for_the_newest() {
        let slots = Arc::new(Slots::new(2));
        let (first, second) = (slots.take(), slots.take());
        assert!(first.displaced().now_or_never().is_none());
        let third = slots.take();
        assert!(first.displaced().now_or_never().is_some());
        assert!(second.displaced().now_or_never().is_none() && third.displaced().now_or_never().is_none());
        drop(first);
        assert_eq!(slots.taken(), 2, "who was displaced has no place to give back");
        drop((second, third));
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_waits_until_one_is_through_or_the_oldest_has_had_its_time() {
        let slots = Arc::new(Slots::new(2));
        slots.room().await;
        let (first, second) = (slots.take(), slots.take());
        let begun = Instant::now();
        let mut waiting = Box::pin(slots.room());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(second);
        waiting.await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        let second = slots.take();
        slots.room().await;
        assert_eq!(begun.elapsed(), UNDISTURBED);
        let third = slots.take();
        assert!(first.displaced().now_or_never().is_some() && second.displaced().now_or_never().is_none());
        drop((first, second, third));
        slots.room().await;
    }
}
