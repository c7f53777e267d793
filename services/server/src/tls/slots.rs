//! Handshakes that are under way: so many at once, and the newest ones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Keeps a bound on handshakes. One more than allowed ends the oldest instead of waiting or being refused: an honest client is through
/// within a few round trips, so those who stall are the ones that have been here longest, and they keep nobody out.
#[derive(Debug)]
pub(super) struct Slots {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// In the order in which they came.
    under_way: BTreeMap<u64, Arc<Notify>>,
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
        Self { most: most.max(1), state: Mutex::default() }
    }

    pub(super) fn take(self: &Arc<Self>) -> Slot {
        let displaced = Arc::new(Notify::new());
        let mut state = self.lock();
        while state.under_way.len() >= self.most {
            let Some((_, oldest)) = state.under_way.pop_first() else { break };
            oldest.notify_one();
        }
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, Arc::clone(&displaced));
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
}
