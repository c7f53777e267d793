//! How long to wait before the next attempt to connect.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// The wait after the first failure, before jitter.
const FIRST: Duration = Duration::from_millis(250);
/// No wait is longer, before jitter.
const LONGEST: Duration = Duration::from_secs(30);
/// A server that goes away cannot keep a client waiting for longer than this.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// Doubles the wait with each failure and spreads it, so that the clients of a server that comes back do not all
/// arrive at once.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait before the next attempt: between half and all of `250 ms * 2^failures`, at most 30 s. `random` is any
    /// number, evenly spread.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(16)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = whole / 2;
        // 32 bits are spread enough, and the product stays exact.
        half + half.mul_f64(f64::from((random >> 32) as u32) / f64::from(u32::MAX))
    }

    /// Whether the wait before this one was in vain.
    pub(crate) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// A connection held: the next failure is the first one again.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The wait that a server asked for, within reason.
pub(crate) fn asked(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(LONGEST_ASKED)
}

/// A number that no other process draws: the standard library's hasher keys come from the operating system.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_again() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..9).map(|_| backoff.next(u64::MAX).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(125), "half of the first wait is certain");
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.next(u64::MAX), LONGEST);
    }

    #[test]
    fn a_server_cannot_ask_for_ever() {
        assert_eq!(asked(1_500), Duration::from_millis(1_500));
        assert_eq!(asked(u64::MAX), LONGEST_ASKED);
    }

    #[test]
    fn draws_differ() {
        assert_ne!(random(), random());
    }
}
