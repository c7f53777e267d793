//! The time that ages of messages are counted to, by a clock that may be wrong.
//!
//! What is removed for its age does not come back, and a clock that jumps ahead makes everything too old at once: set by hand, by a time
//! server that is wrong, or by a battery that was empty at boot. So the clock is held against the time that passes, and after a jump it is
//! not believed until it has gone on evenly for long enough that somebody could have put it right.

use std::time::{Duration, Instant};

use super::now_ms;

/// How far the clock may run ahead of the time that passes between two looks.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// How long after a jump the clock is believed again. What should have gone meanwhile goes then.
const AFTER_JUMP: Duration = Duration::from_secs(24 * 3600);
/// How long after a start it is believed: by then a time server has put right what a boot began with.
const AFTER_START: Duration = Duration::from_secs(10 * 60);

/// The clock, as far as it is believed.
#[derive(Debug)]
pub(crate) struct Clock {
    /// When it was looked at last.
    seen: Instant,
    /// What it said then, in milliseconds since 1970.
    said: u64,
    believed_from: Instant,
}

impl Clock {
    /// For an engine that holds messages from before the start.
    pub(crate) fn starting() -> Self {
        Self::new(Instant::now(), now_ms(), AFTER_START)
    }

    /// For an engine that holds none: it is believed until it jumps.
    pub(crate) fn believed() -> Self {
        Self::new(Instant::now(), now_ms(), Duration::ZERO)
    }

    fn new(seen: Instant, said: u64, believed_after: Duration) -> Self {
        Self { seen, said, believed_from: seen + believed_after }
    }

    /// The time in milliseconds since 1970; none while nothing is to be removed for its age.
    pub(crate) fn now(&mut self) -> Option<u64> {
        self.look(Instant::now(), now_ms())
    }

    fn look(&mut self, seen: Instant, says: u64) -> Option<u64> {
        let passed = millis(seen.saturating_duration_since(self.seen));
        let ahead = says.saturating_sub(self.said.saturating_add(passed));
        if ahead > millis(TOLERANCE) {
            self.believed_from = self.believed_from.max(seen + AFTER_JUMP);
            tracing::warn!(
                ahead = ?Duration::from_millis(ahead),
                "the clock of this machine has jumped ahead: for a day, or until a restart, no message is removed for its age"
            );
        }
        (self.seen, self.said) = (seen, says);
        (seen >= self.believed_from).then_some(says)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_000;
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    #[test]
    fn a_clock_that_has_jumped_ahead_is_believed_a_day_later() {
        let begun = Instant::now();
        let mut clock = Clock::new(begun, NOW, Duration::ZERO);
        let mut look =
            |passed: Duration, ahead: Duration| clock.look(begun + passed, NOW + millis(passed + ahead)).is_some();
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert!(look(minutes(1), Duration::ZERO));
        assert!(look(minutes(2), minutes(4)), "a little is put right now and then");
        assert!(look(minutes(3), Duration::ZERO));
        assert!(!look(minutes(4), YEAR));
        assert!(!look(minutes(5), YEAR), "it goes on evenly, and may still be wrong");
        assert!(!look(minutes(60), Duration::ZERO), "that it was put right, it cannot tell from a jump back");
        assert!(!look(minutes(4) + AFTER_JUMP - minutes(1), Duration::ZERO));
        assert!(look(minutes(4) + AFTER_JUMP, Duration::ZERO));
        // Nobody looked for long: that is no jump.
        assert!(look(YEAR, Duration::ZERO));
    }

    #[test]
    fn what_is_put_right_soon_after_a_start_was_never_believed() {
        let begun = Instant::now();
        let mut clock = Clock::new(begun, NOW + millis(YEAR), AFTER_START);
        let second = Duration::from_secs(1);
        assert_eq!(clock.look(begun + second, NOW + millis(YEAR + second)), None);
        // The time server was reached.
        assert_eq!(clock.look(begun + 2 * second, NOW), None);
        let passed = AFTER_START - 2 * second;
        assert_eq!(clock.look(begun + AFTER_START, NOW + millis(passed)), Some(NOW + millis(passed)));
    }
}
