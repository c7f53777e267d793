//! Space whose end does not show: a quota is met by the write that it refuses, and what is free on the file system says nothing of it.

use std::io;
use std::time::{Duration, Instant};

/// How long space is not asked for after it was refused once.
const SHORTEST: Duration = Duration::from_millis(250);
/// The same, after it was refused many times: each attempt takes, for a moment, what the tables may need.
const LONGEST: Duration = Duration::from_secs(30);

/// That space was refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused {
    kind: io::ErrorKind,
    at: Instant,
    pause: Duration,
}

impl Refused {
    /// It was refused `at` this moment, and perhaps before.
    pub(crate) fn again(before: Option<Self>, error: &io::Error, at: Instant) -> Self {
        let pause = before.map_or(SHORTEST, |before| (before.pause * 2).min(LONGEST));
        Self { kind: error.kind(), at, pause }
    }

    /// Whether it is too early to ask again.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.pause
    }

    /// What it was refused with.
    pub(crate) fn error(&self) -> io::Error {
        self.kind.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_again_and_again_is_asked_for_more_and_more_rarely() {
        let begun = Instant::now();
        let refusal = io::ErrorKind::QuotaExceeded.into();
        let (mut refused, mut now, mut attempts) = (Refused::again(None, &refusal, begun), begun, 1);
        while now < begun + Duration::from_secs(600) {
            now += Duration::from_millis(250);
            if !refused.holds(now) {
                refused = Refused::again(Some(refused), &refusal, now);
                attempts += 1;
            }
        }
        // 1/4 + 1/2 + … + 16 s, then each 30 s.
        assert_eq!(attempts, 1 + 7 + 18);
        assert!(refused.holds(now + Duration::from_secs(1)) && !refused.holds(now + LONGEST));
        assert_eq!(refused.error().kind(), io::ErrorKind::QuotaExceeded);
    }
}
