//! The time, by a clock that may be wrong.
//!
//! What is removed for its age does not come back, and a clock that jumps ahead makes everything too old at once: set by hand, by a time
//! server that is wrong, or by a battery that was empty at boot. So the clock is held against the time that passes, and after a jump it is
//! not believed until it has gone on evenly for long enough that somebody could have put it right.
//!
//! The same holds for the times that messages get, which never decrease within a group: after a moment in the next year all that is posted
//! would have that date for a year. There less is at stake, and the clock is believed sooner.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::now_ms;

/// How far the clock may run ahead of the time that passes between two looks.
const TOLERANCE: Duration = Duration::from_secs(5 * 60);
/// How long after a jump the clock is believed again. What should have gone meanwhile goes then.
const AFTER_JUMP: Duration = Duration::from_secs(24 * 3600);
/// How long after a start it is believed: by then a time server has put right what a boot began with.
const AFTER_START: Duration = Duration::from_secs(10 * 60);

/// How long after a jump posts get the time that the clock tells.
const SETTLED: Duration = Duration::from_secs(10 * 60);

/// How often the clock is looked at while nobody posts.
const LOOK: Duration = Duration::from_secs(60);

/// When something is taken in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TakenIn {
    /// By the clock: milliseconds since 1970, as in [`Record::at`](super::Record::at).
    pub(crate) at: u64,
    /// By [`running`], in milliseconds: how long ago it was is told by this alone, for the clock may be set meanwhile.
    pub(crate) running: u64,
}

/// When what is taken in now is taken in.
pub(crate) fn taken_in() -> TakenIn {
    static CLOCK: PostClock = PostClock::new();
    let running = millis(running());
    TakenIn { at: CLOCK.look(running, now_ms()), running }
}

/// As [`taken_in`], by the clock alone.
pub(crate) fn taken_in_ms() -> u64 {
    taken_in().at
}

/// Looks at the clock from the start on, until `stop`.
pub(crate) async fn watch(stop: CancellationToken) {
    loop {
        taken_in_ms();
        if stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}

/// The clock as posts go by it, which has to be looked at also while nobody posts: of a jump it is known only that it came between two looks. It
/// is asked for each post, by many tasks at once: which of two that see a jump tells of it is all the same.
#[derive(Debug)]
struct PostClock {
    /// The clock's distance from the time that passes, in milliseconds, when it was believed last.
    distance: AtomicI64,
    /// When it was looked at first.
    since: AtomicU64,
    /// When it was first seen to be ahead; 0 if it is not.
    ahead_since: AtomicU64,
    /// The distance that it had before it was last set back, and when that was seen: to be back there soon is no jump.
    left: AtomicI64,
    left_at: AtomicU64,
}

impl PostClock {
    const NEVER: u64 = u64::MAX;

    const fn new() -> Self {
        Self {
            distance: AtomicI64::new(0),
            since: AtomicU64::new(Self::NEVER),
            ahead_since: AtomicU64::new(0),
            left: AtomicI64::new(i64::MIN),
            left_at: AtomicU64::new(0),
        }
    }

    /// The time, where `passed` has passed and the clock says `says`.
    fn look(&self, passed: u64, says: u64) -> u64 {
        let distance = says.cast_signed().wrapping_sub(passed.cast_signed());
        let believe = || {
            self.distance.store(distance, Ordering::Relaxed);
            if self.ahead_since.load(Ordering::Relaxed) != 0 {
                self.ahead_since.store(0, Ordering::Relaxed);
            }
            says
        };
        let since = self.since.load(Ordering::Relaxed);
        if since == Self::NEVER {
            self.since.store(passed, Ordering::Relaxed);
            return believe();
        }
        let before = self.distance.load(Ordering::Relaxed);
        let exceeds = |one: i64, other: i64| u64::try_from(one.saturating_sub(other)).unwrap_or(0);
        // A time server puts right what a boot began with.
        let has_just_begun = || passed.saturating_sub(since) < millis(AFTER_START);
        if exceeds(before, distance) > millis(TOLERANCE) && !has_just_begun() {
            self.left.store(before, Ordering::Relaxed);
            self.left_at.store(passed, Ordering::Relaxed);
        }
        let ahead = exceeds(distance, before);
        if ahead <= millis(TOLERANCE) || has_just_begun() || self.is_back(distance, passed) {
            return believe();
        }
        let ahead_since = match self.ahead_since.load(Ordering::Relaxed) {
            0 => {
                self.ahead_since.store(passed.max(1), Ordering::Relaxed);
                let ahead = Duration::from_millis(ahead);
                tracing::warn!(
                    ?ahead,
                    "the clock of this machine has jumped ahead: unless it is put right, posts go by it in {SETTLED:?}"
                );
                passed
            }
            since => since,
        };
        if passed.saturating_sub(ahead_since) >= millis(SETTLED) {
            return believe();
        }
        passed.saturating_add_signed(before)
    }

    /// Whether the clock was there a while ago, and was set back then.
    fn is_back(&self, distance: i64, passed: u64) -> bool {
        let left_for = passed.saturating_sub(self.left_at.load(Ordering::Relaxed));
        left_for < millis(AFTER_JUMP) && distance.abs_diff(self.left.load(Ordering::Relaxed)) <= millis(TOLERANCE)
    }
}

/// The clock, as far as it is believed for removing.
#[derive(Debug)]
pub(crate) struct Clock {
    /// When it was looked at last, by [`running`].
    seen: Duration,
    /// What it said then, in milliseconds since 1970.
    said: u64,
    believed_from: Duration,
}

/// The time that passes whatever the clock says, also while the machine sleeps: one that wakes up hours later has no clock that jumped.
#[cfg(target_os = "linux")]
pub(crate) fn running() -> Duration {
    let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(since_boot).unwrap_or_default()
}

/// The time that passes whatever the clock says.
#[cfg(not(target_os = "linux"))]
pub(crate) fn running() -> Duration {
    static FIRST: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    FIRST.elapsed()
}

impl Clock {
    /// For an engine that holds messages from before the start.
    pub(crate) fn starting() -> Self {
        Self::new(running(), now_ms(), AFTER_START)
    }

    /// For an engine that holds none: it is believed until it jumps.
    pub(crate) fn believed() -> Self {
        Self::new(running(), now_ms(), Duration::ZERO)
    }

    fn new(seen: Duration, said: u64, believed_after: Duration) -> Self {
        Self { seen, said, believed_from: seen + believed_after }
    }

    /// The time in milliseconds since 1970; none while nothing is to be removed for its age.
    pub(crate) fn now(&mut self) -> Option<u64> {
        self.look(running(), now_ms())
    }

    fn look(&mut self, seen: Duration, says: u64) -> Option<u64> {
        let passed = millis(seen.saturating_sub(self.seen));
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
        let begun = running();
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
    fn posts_get_no_date_that_the_clock_had_for_a_moment() {
        let clock = PostClock::new();
        let (minute, year) = (60_000, millis(YEAR));
        let boot = 1_000_000;
        let look = |passed: u64, ahead: u64| clock.look(boot + passed, NOW + passed + ahead).checked_sub(NOW + passed);
        assert_eq!(look(0, 0), Some(0));
        assert_eq!(look(1, year), Some(year), "what a boot began with is put right");
        let look = |passed: u64, ahead: u64| look(passed, year + ahead).and_then(|time| time.checked_sub(year));
        assert_eq!(look(10 * minute, 4 * minute), Some(4 * minute), "a little is put right now and then");
        assert_eq!(look(11 * minute, 0), Some(0), "also back");
        assert_eq!(look(20 * minute, year), Some(0));
        assert_eq!(look(29 * minute, year), Some(0));
        assert_eq!(look(29 * minute + 1, 0), Some(0), "it was put right");
        assert_eq!(look(40 * minute, 2 * year), Some(0));
        assert_eq!(look(50 * minute - 1, 2 * year), Some(0));
        assert_eq!(look(50 * minute, 2 * year), Some(2 * year), "nobody has put it right");
        assert_eq!(look(51 * minute, 2 * year), Some(2 * year));
        assert_eq!(look(60 * minute, 0), Some(0), "it is set back");
        assert_eq!(look(61 * minute, 2 * year), Some(2 * year), "and was right before");
    }

    #[test]
    fn where_a_clock_was_before_it_was_set_back_is_no_place_to_jump_to_later() {
        let (minute, year) = (60_000, millis(YEAR));
        let boot = 1_000_000;
        let ahead =
            |clock: &PostClock, passed: u64, ahead: u64| clock.look(boot + passed, NOW + passed + ahead) - NOW - passed;
        // A boot began with it, and it was put right.
        let clock = PostClock::new();
        assert_eq!(ahead(&clock, 0, year), year);
        assert_eq!(ahead(&clock, minute, 0), 0);
        assert_eq!(ahead(&clock, 40 * minute, year / 2), 0);
        assert_eq!(ahead(&clock, 41 * minute, year), 0);
        assert_eq!(ahead(&clock, 42 * minute, 0), 0);
        // It went by the wrong time for long enough to be believed.
        assert_eq!(ahead(&clock, 50 * minute, year), 0);
        assert_eq!(ahead(&clock, 60 * minute, year), year);
        assert_eq!(ahead(&clock, 70 * minute, 0), 0);
        assert_eq!(ahead(&clock, 71 * minute, year / 2), 0, "it was never there");
        assert_eq!(ahead(&clock, 72 * minute, year), year, "it is back");
        assert_eq!(ahead(&clock, 80 * minute, 0), 0);
        let day_later = 80 * minute + millis(AFTER_JUMP);
        assert_eq!(ahead(&clock, day_later, year), 0, "that it was there is long ago");
    }

    #[test]
    fn what_is_put_right_soon_after_a_start_was_never_believed() {
        let begun = running();
        let mut clock = Clock::new(begun, NOW + millis(YEAR), AFTER_START);
        let second = Duration::from_secs(1);
        assert_eq!(clock.look(begun + second, NOW + millis(YEAR + second)), None);
        // The time server was reached.
        assert_eq!(clock.look(begun + 2 * second, NOW), None);
        let passed = AFTER_START - 2 * second;
        assert_eq!(clock.look(begun + AFTER_START, NOW + millis(passed)), Some(NOW + millis(passed)));
    }
}
