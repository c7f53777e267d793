//! Whether the server still lives, and, before that, whether it lets the client in.

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
    /// Whether its welcome came.
    welcomed: bool,
}

impl Liveness {
    /// Starts to wait for a welcome, which may take that long.
    pub(crate) fn new(welcome: Duration, now: Instant) -> Self {
        Self { heartbeat: welcome / 2, heard: now, pinged: false, welcomed: false }
    }

    /// The server let the client in, and said how often it wants to hear something. A `heartbeat` below a second is taken as
    /// one second, so that a server cannot ask for a storm.
    pub(crate) fn welcomed(&mut self, heartbeat: Duration, now: Instant) {
        self.heartbeat = heartbeat.clamp(Duration::from_secs(1), Duration::from_secs(24 * 3600));
        self.welcomed = true;
        self.begin_anew(now);
    }

    /// Something came. Before the welcome it counts for nothing: else a peer that says anything but that is heard for ever.
    pub(crate) fn heard(&mut self, now: Instant) {
        if self.welcomed {
            self.begin_anew(now);
        }
    }

    /// Until now nobody listened.
    pub(crate) fn begin_anew(&mut self, now: Instant) {
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
    fn a_peer_that_says_anything_but_a_welcome_has_no_more_time_than_a_silent_one() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut liveness = Liveness::new(10 * second, start);
        for at in 1..10 {
            liveness.heard(start + at * second);
            assert_ne!(liveness.check(start + at * second), Due::Dead);
        }
        assert_eq!(liveness.deadline(), start + 10 * second);
        assert_eq!(liveness.check(start + 10 * second), Due::Dead);
        liveness.begin_anew(start + 10 * second);
        liveness.welcomed(30 * second, start + 15 * second);
        assert_eq!(liveness.deadline(), start + 45 * second);
    }

    /// One that was welcomed.
    fn alive(heartbeat: Duration, now: Instant) -> Liveness {
        let mut liveness = Liveness::new(Duration::from_secs(10), now);
        liveness.welcomed(heartbeat, now);
        liveness
    }

    #[test]
    fn silence_is_asked_about_once_and_then_taken_as_death() {
        let start = Instant::now();
        let second = Duration::from_secs(1);
        let mut liveness = alive(10 * second, start);
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
        let mut liveness = alive(10 * second, start);
        assert_eq!(liveness.check(start + 15 * second), Due::Ping);
        liveness.heard(start + 16 * second);
        assert_eq!(liveness.check(start + 25 * second), Due::Nothing);
        assert_eq!(liveness.check(start + 26 * second), Due::Ping, "it is asked anew");
    }

    #[test]
    fn a_heartbeat_of_nothing_is_no_storm() {
        let start = Instant::now();
        let mut liveness = alive(Duration::ZERO, start);
        assert_eq!(liveness.check(start + Duration::from_millis(999)), Due::Nothing);
        liveness.welcomed(Duration::MAX, start);
        assert_eq!(liveness.deadline(), start + Duration::from_secs(24 * 3600));
    }
}
