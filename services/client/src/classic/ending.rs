//! The time after the input of a classic session ended. Pure.

use std::time::{Duration, Instant};

/// After all was sent, the session lasts at most so many times the linger time.
const LINGER_TIMES: u32 = 5;
/// A server that takes nothing of what is left for so long will not take it.
pub(super) const TAKES_NOTHING: Duration = Duration::from_secs(60);

/// The time after the input ended: first the rest is sent, then the server is told, then its last replies are waited for.
#[derive(Debug)]
pub(super) struct Ending {
    /// When this stage began.
    since: Instant,
    /// When the server last took or said something.
    last: Instant,
    linger: Duration,
    /// Whether the server was told that nothing more will come.
    is_told: bool,
    /// Since when the screen is behind: nothing is read then, which is no silence of the server.
    behind: Option<Instant>,
}

impl Ending {
    pub(super) fn new(linger: Duration, now: Instant) -> Self {
        Self { since: now, last: now, linger, is_told: false, behind: None }
    }

    pub(super) fn is_told(&self) -> bool {
        self.is_told
    }

    pub(super) fn told(&mut self, now: Instant) {
        (self.is_told, self.since, self.last) = (true, now, now);
    }

    pub(super) fn wrote(&mut self, now: Instant) {
        self.last = now;
    }

    pub(super) fn heard(&mut self, now: Instant) {
        // Replies are no sign that the server takes what is left for it.
        if self.is_told {
            self.last = now;
        }
    }

    /// The clock stands while the screen is behind; then the server has its time anew.
    pub(super) fn screen(&mut self, now: Instant, is_behind: bool) {
        match self.behind {
            None if is_behind => self.behind = Some(now),
            Some(since) if !is_behind => {
                let stood = now.saturating_duration_since(since);
                (self.since, self.last, self.behind) = (self.since + stood, now, None);
            }
            _ => {}
        }
    }

    /// When the session is over; `None` while the clock stands.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.behind.is_some() {
            return None;
        }
        Some(match self.is_told {
            true => (self.last + self.linger).min(self.since + self.linger * LINGER_TIMES),
            false => self.last + TAKES_NOTHING,
        })
    }

    /// Whether the deadline cuts off a server that still spoke, and not silence. Who does not linger at all waits for nothing.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_told && !self.linger.is_zero() && self.last + self.linger > self.since + self.linger * LINGER_TIMES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_comes_after_silence_or_five_times_that() {
        let (linger, now) = (Duration::from_secs(1), Instant::now());
        let mut ending = Ending::new(linger, now);
        ending.told(now);
        assert_eq!(ending.deadline(), Some(now + linger));
        ending.heard(now + linger * 3);
        assert_eq!(ending.deadline(), Some(now + linger * 4));
        assert!(!ending.is_cut_off());
        ending.heard(now + linger * 9);
        assert_eq!(ending.deadline(), Some(now + linger * 5));
        assert!(ending.is_cut_off());
    }

    #[test]
    fn as_long_as_the_server_takes_what_is_left_there_is_no_end() {
        let (linger, now) = (Duration::from_secs(1), Instant::now());
        let mut ending = Ending::new(linger, now);
        assert_eq!(ending.deadline(), Some(now + TAKES_NOTHING));
        ending.heard(now + linger * 30);
        assert_eq!(ending.deadline(), Some(now + TAKES_NOTHING), "it says much and takes nothing");
        ending.wrote(now + linger * 50);
        assert_eq!(ending.deadline(), Some(now + linger * 50 + TAKES_NOTHING));
        ending.told(now + linger * 80);
        assert_eq!(ending.deadline(), Some(now + linger * 81));
    }

    #[test]
    fn a_screen_that_is_behind_is_no_silence_of_the_server() {
        let (linger, now) = (Duration::from_secs(1), Instant::now());
        let mut ending = Ending::new(linger, now);
        ending.told(now);
        ending.screen(now, true);
        assert_eq!(ending.deadline(), None);
        ending.screen(now + linger * 60, false);
        assert_eq!(ending.deadline(), Some(now + linger * 61));
    }
}
