//! How long the machine was asleep.
//!
//! The steady clock stands still meanwhile, on most systems; the other one goes on, and may be set as well. What it is
//! ahead of the steady one is taken for sleep: to count too much of it is safe, to count too little is not.

use std::time::{Duration, Instant, SystemTime};

/// Less than that between the two clocks is none.
const LEAST: Duration = Duration::from_secs(1);

/// Both clocks, as they were looked at last.
#[derive(Debug)]
pub(super) struct Clock {
    steady: Instant,
    wall: SystemTime,
}

impl Clock {
    pub(super) fn new(steady: Instant, wall: SystemTime) -> Self {
        Self { steady, wall }
    }

    /// For how long the machine was asleep since the last look, if it was.
    pub(super) fn slept(&mut self, steady: Instant, wall: SystemTime) -> Option<Duration> {
        let passed = steady.saturating_duration_since(self.steady);
        // An error is a clock that was set back.
        let slept = wall.duration_since(self.wall).unwrap_or_default().saturating_sub(passed);
        *self = Self { steady, wall };
        (slept >= LEAST).then_some(slept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_steady_clock_did_not_count_is_sleep() {
        let (steady, wall) = (Instant::now(), SystemTime::now());
        let second = Duration::from_secs(1);
        let mut clock = Clock::new(steady, wall);
        assert_eq!(clock.slept(steady + 5 * second, wall + 305 * second), Some(300 * second));
        assert_eq!(clock.slept(steady + 6 * second, wall + 306 * second), None, "it is told once");
        assert_eq!(clock.slept(steady + 16 * second, wall + 16 * second), None, "the clock was set back");
        assert_eq!(clock.slept(steady + 17 * second, wall + 17 * second + second / 2), None, "the clock was corrected");
    }
}
