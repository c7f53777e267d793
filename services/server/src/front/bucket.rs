//! Posts per second.

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

#[cfg(test)]
mod tests {
    use super::*;

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
