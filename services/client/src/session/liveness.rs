//! Whether the server still lives.

use std::time::{Duration, Instant};

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// One heartbeat went by in silence: ask with `Ping`.
    Ping,
    /// Two heartbeats went by in silence: the connection is dead.
    Dead,
}

/// Measures the silence of the server.
#[derive(Debug)]
pub(crate) struct Liveness {
    heartbeat: Duration,
    heard: Instant,
    pinged: bool,
}

impl Liveness {
    /// Starts to listen. A `heartbeat` below a second is taken as one second, so that a server cannot ask for a storm.
    pub(crate) fn new(heartbeat: Duration, now: Instant) -> Self {
        let mut liveness = Self { heartbeat, heard: now, pinged: false };
        liveness.set_heartbeat(heartbeat);
        liveness
    }

    /// The server said how often it wants to hear something.
    pub(crate) fn set_heartbeat(&mut self, heartbeat: Duration) {
        self.heartbeat = heartbeat.clamp(Duration::from_secs(1), Duration::from_secs(24 * 3600));
    }

    /// Something came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = false;
    }

    /// When to look again.
    pub(crate) fn deadline(&self) -> Instant {
        self.heard + if self.pinged { self.heartbeat * 2 } else { self.heartbeat }
    }

    /// Looks. `Ping` is told once per silence.
    pub(crate) fn check(&mut self, now: Instant) -> Due {
        let silence = now.saturating_duration_since(self.heard);
        if silence >= self.heartbeat * 2 {
            return Due::Dead;
        }
        if silence >= self.heartbeat && !self.pinged {
            self.pinged = true;
            return Due::Ping;
        }
        Due::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_asked_about_once_and_then_taken_as_death() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut liveness = Liveness::new(10 * second, start);
        assert_eq!(liveness.deadline(), start + 10 * second);
        assert_eq!(liveness.check(start + 9 * second), Due::Nothing);
        assert_eq!(liveness.check(start + 10 * second), Due::Ping);
        assert_eq!(liveness.check(start + 11 * second), Due::Nothing);
        assert_eq!(liveness.deadline(), start + 20 * second);
        assert_eq!(liveness.check(start + 20 * second), Due::Dead);
    }

    #[test]
    fn any_line_is_a_sign_of_life() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut liveness = Liveness::new(10 * second, start);
        assert_eq!(liveness.check(start + 15 * second), Due::Ping);
        liveness.heard(start + 16 * second);
        assert_eq!(liveness.check(start + 25 * second), Due::Nothing);
        assert_eq!(liveness.check(start + 26 * second), Due::Ping, "it is asked anew");
    }

    #[test]
    fn a_heartbeat_of_nothing_is_no_storm() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Duration::ZERO, start);
        assert_eq!(liveness.check(start + Duration::from_millis(999)), Due::Nothing);
        liveness.set_heartbeat(Duration::MAX);
        assert_eq!(liveness.deadline(), start + Duration::from_secs(24 * 3600));
    }
}
