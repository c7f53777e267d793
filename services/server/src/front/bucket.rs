//! Posts, and other lines, per second.

use std::time::{Duration, Instant};

/// A token bucket: `rate` tokens a second, at most `burst` of them saved up.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: f64,
    burst: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    /// A full bucket; `None` for a rate of 0, which means no limit.
    pub(super) fn new(rate: u32, burst: u32, now: Instant) -> Option<Self> {
        let burst = f64::from(burst.max(1));
        (rate > 0).then(|| Self { rate: f64::from(rate), burst, tokens: burst, filled: now })
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = self.filled.max(now);
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            Ok(())
        } else {
            Err(Duration::from_secs_f64((1.0 - self.tokens) / self.rate))
        }
    }
}

/// What a connection has taken and not earned yet: it is the only thing to remember, since the rate is the same for all.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all that was taken will have been earned.
    earned: Instant,
}

impl Pace {
    /// Once it must wait it waits for a little more than it must, so that it need not wait for each one that follows.
    const MORE: Duration = Duration::from_millis(10);

    pub(super) fn new(now: Instant) -> Self {
        Self { earned: now }
    }

    /// Takes so many, of which `rate` are earned in a second (0: any number) and `burst` may be taken before they are earned. Answers
    /// until when nothing more may be taken, if it was too much.
    pub(super) fn take(&mut self, count: u32, now: Instant, rate: u32, burst: u32) -> Option<Instant> {
        let each = Duration::from_secs(1).checked_div(rate)?;
        self.earned = self.earned.max(now) + each.saturating_mul(count);
        let ahead = self.earned.saturating_duration_since(now);
        let over = ahead.checked_sub(each.saturating_mul(burst)).filter(|over| !over.is_zero())?;
        Some(now + over + Self::MORE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_after_a_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert!((0..5).all(|_| pace.take(1, start, 100, 5).is_none()));
        let until = pace.take(1, start, 100, 5).unwrap();
        assert_eq!(until - start, Duration::from_millis(10) + Pace::MORE);
        // What was earned meanwhile may be taken at once, and no more.
        let later = until;
        assert_eq!(pace.take(1, later, 100, 5), None);
        assert!(pace.take(1, later, 100, 5).is_some());
        let much_later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| pace.take(1, much_later, 100, 5).is_none()).count(), 5);
    }

    #[test]
    fn over_time_a_pace_is_the_rate() {
        let start = Instant::now();
        let (mut pace, mut now, mut taken) = (Pace::new(start), start, 0);
        while now < start + Duration::from_secs(10) {
            taken += 1;
            now = pace.take(1, now, 1_000, 50).unwrap_or(now);
        }
        assert!((10_000..10_100).contains(&taken), "{taken}");
        assert_eq!(pace.take(1_000_000, now, 0, 1), None, "a rate of 0 is no limit");
    }

    #[test]
    fn a_burst_passes_then_the_rate_holds() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 3, start).unwrap();
        assert!((0..3).all(|_| bucket.take(start).is_ok()));
        assert_eq!(bucket.take(start), Err(Duration::from_millis(100)));
        assert!(bucket.take(start + Duration::from_millis(100)).is_ok());
        assert!(bucket.take(start + Duration::from_millis(150)).is_err());
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| bucket.take(later).is_ok()).count(), 3, "no more than the burst is saved up");
    }

    #[test]
    fn a_rate_of_0_is_no_limit() {
        assert!(Bucket::new(0, 3, Instant::now()).is_none());
    }
}
