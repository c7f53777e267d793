//! Room for connections to ports that few use. Who has not shown that it may call gives way to who comes: otherwise anybody who reaches
//! the port could keep others out, by connections that say nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// As many connections as may be.
#[derive(Debug)]
pub struct Places {
    max: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: usize,
    next: u64,
    /// Those that no call was let in from yet, the oldest first, and what ends them.
    unproven: BTreeMap<u64, CancellationToken>,
}

/// Room for one connection, until it is dropped.
#[derive(Debug)]
pub struct Place {
    number: u64,
    proven: AtomicBool,
    given_up: CancellationToken,
    places: Arc<Places>,
}

impl Places {
    /// Room for `max` connections.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, state: Mutex::default() })
    }

    /// A place, if need be that of the oldest connection from which no call was let in; `None` if there is none.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let mut state = self.lock();
        if state.taken < self.max {
            state.taken += 1;
        } else {
            let (_, oldest) = state.unproven.pop_first()?;
            oldest.cancel();
        }
        let number = state.next;
        state.next += 1;
        let given_up = CancellationToken::new();
        state.unproven.insert(number, given_up.clone());
        Some(Place { number, proven: AtomicBool::new(false), given_up, places: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A call was let in: the place is kept to the end.
    pub fn prove(&self) {
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.places.lock().unproven.remove(&self.number);
        }
    }

    /// Cancelled when another one has taken it.
    #[must_use]
    pub fn given_up(&self) -> &CancellationToken {
        &self.given_up
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        // It is the other one's.
        if !self.given_up.is_cancelled() {
            state.unproven.remove(&self.number);
            state.taken -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_proved_nothing_gives_way() {
        let places = Places::new(3);
        let [one, two, three] = [(); 3].map(|()| places.take().unwrap());
        one.prove();
        let four = places.take().unwrap();
        let given_up = [&one, &two, &three, &four].map(|place| place.given_up().is_cancelled());
        assert_eq!(given_up, [false, true, false, false]);
        drop(two);
        three.prove();
        four.prove();
        assert!(places.take().is_none(), "all are in use");
        drop(one);
        let five = places.take().unwrap();
        drop((three, four, five));
        let state = places.lock();
        assert!(state.taken == 0 && state.unproven.is_empty(), "{state:?}");
    }

    #[test]
    fn who_proves_itself_too_late_has_lost_its_place() {
        let places = Places::new(1);
        let one = places.take().unwrap();
        let two = places.take().unwrap();
        one.prove();
        two.prove();
        assert!(places.take().is_none());
        drop(one);
        assert!(places.take().is_none());
        drop(two);
        assert!(places.take().is_some());
    }
}
