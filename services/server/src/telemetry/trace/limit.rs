//! How many traces may begin in a second, whoever asks for them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Counts the traces of the present second. Only what is about to be traced is counted.
#[derive(Debug)]
pub(super) struct Limit {
    per_second: u32,
    since: Instant,
    /// The second in the upper half, the traces that began in it in the lower.
    window: AtomicU64,
}

impl Limit {
    pub(super) fn new(per_second: u32) -> Self {
        Self { per_second, since: Instant::now(), window: AtomicU64::new(0) }
    }

    /// Whether one more may begin.
    pub(super) fn admits(&self, now: Instant) -> bool {
        // 136 years fit.
        let second = u64::from(now.saturating_duration_since(self.since).as_secs() as u32) << 32;
        let one_more = |window: u64| {
            if window < second {
                return Some(second + 1);
            }
            // Also for a task that was held up and is still in the second before.
            ((window as u32) < self.per_second).then(|| window + 1)
        };
        self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_second_has_its_number() {
        let limit = Limit::new(3);
        let admitted = |second: u64| {
            let now = limit.since + Duration::from_secs(second);
            (0..10).filter(|_| limit.admits(now)).count()
        };
        assert_eq!([admitted(0), admitted(0), admitted(1), admitted(0), admitted(7)], [3, 0, 3, 0, 3]);
    }
}
