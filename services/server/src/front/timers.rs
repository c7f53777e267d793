//! When a silent, slow or stuck connection is spoken to or closed.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// One timer for all deadlines of a connection. It is moved only to an earlier time; when it fires early, it is set again.
#[derive(Debug)]
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// When it fires, which is looked at more often than the timer itself.
    set_for: Instant,
    /// Whether it will wake the task at that time.
    armed: bool,
}

impl Timer {
    pub(super) fn new(deadline: Instant) -> Self {
        Self { sleep: Box::pin(tokio::time::sleep_until(deadline)), set_for: deadline, armed: false }
    }

    /// Whether `deadline` has come; if not, the task will be woken at that time, or before.
    pub(super) fn poll(&mut self, deadline: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if deadline < self.set_for {
            self.reset(deadline);
        }
        if self.armed && Instant::now() < self.set_for {
            return Poll::Pending;
        }
        while self.sleep.as_mut().poll(cx).is_ready() {
            if deadline <= self.set_for {
                return Poll::Ready(());
            }
            self.reset(deadline);
        }
        self.armed = true;
        Poll::Pending
    }

    fn reset(&mut self, deadline: Instant) {
        self.sleep.as_mut().reset(deadline);
        (self.set_for, self.armed) = (deadline, false);
    }
}

/// What the clock says about a connection.
#[derive(Debug)]
pub(super) struct Clocks {
    pub(super) opened: Instant,
    /// When bytes last came, or it was taken out of its last group; of a connection that a moderator ends, since when it waits for its answers,
    /// or to have taken them.
    pub(super) heard: Instant,
    /// When the line that is not whole yet was begun, or, if it was begun before its connection was held back, since when that is read again.
    pub(super) partial: Option<Instant>,
    /// When the socket last took bytes, or the first that wait were put there.
    pub(super) wrote: Instant,
    /// When the server asked for a sign of life, or, if the connection had not taken that yet, when it last took something.
    pub(super) pinged: Option<Instant>,
}

/// When a moderator ends a connection: how long it may take until what it asked is answered, and then to take the answers.
const DISMISSAL: Duration = Duration::from_secs(2);

/// What to do when a deadline has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Hello,
    Line,
    Idle,
    Ping,
    Dead,
    Stall,
    Dismissal,
    Unserved,
    Untaken,
    Paced,
    Expired,
}

/// What a connection is doing, as far as deadlines depend on it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doing {
    pub(super) introduced: bool,
    /// Its password is not checked yet.
    pub(super) proving: bool,
    pub(super) extended: bool,
    /// The server reads from it; one that is held back cannot give a sign of life.
    pub(super) reading: bool,
    /// In no group, and nothing under way.
    pub(super) idle: bool,
    pub(super) writing: bool,
    /// A moderator ends it.
    pub(super) dismissed: bool,
    /// It takes no more lines, and is answered and served to its end.
    pub(super) finishing: bool,
    /// What waits is written, then it ends.
    pub(super) closing: bool,
    /// Until when its lines wait because there were too many.
    pub(super) paced: Option<Instant>,
    /// Until when it is known who it is.
    pub(super) known: Option<Instant>,
}

/// The limits of section `limits` and `chat.heartbeat`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub(super) hello: Duration,
    pub(super) line: Duration,
    pub(super) idle: Duration,
    pub(super) heartbeat: Duration,
    pub(super) stall: Duration,
}

impl Clocks {
    pub(super) fn new(now: Instant) -> Self {
        Self { opened: now, heard: now, partial: None, wrote: now, pinged: None }
    }

    /// The next deadline and what it is for.
    pub(super) fn next(&self, doing: Doing, patience: &Patience) -> Option<(Instant, Due)> {
        let hello =
            (!doing.introduced && (doing.reading || doing.proving)).then(|| (self.opened + patience.hello, Due::Hello));
        let line = self.partial.filter(|_| doing.reading).map(|since| (since + patience.line, Due::Line));
        let idle = (doing.introduced && doing.idle && doing.reading).then(|| (self.heard + patience.idle, Due::Idle));
        let alive = (doing.introduced && doing.extended && doing.reading).then_some(self.pinged);
        let alive = alive.and_then(|pinged| match pinged {
            None => Some((self.heard + patience.heartbeat, Due::Ping)),
            // The question waits behind what the connection is slow to take, which has a limit of its own.
            Some(_) if doing.writing => None,
            Some(pinged) => Some((pinged + patience.heartbeat, Due::Dead)),
        });
        let stall = doing.writing.then(|| (self.wrote + patience.stall, Due::Stall));
        let usual = earliest([hello, line, idle, alive, stall]);
        // It is asked for at every delivery, and hardly ever is there any of these.
        let is_ending = doing.dismissed || doing.finishing || doing.closing;
        if !is_ending && doing.paced.is_none() && doing.known.is_none() {
            return usual;
        }
        let dismissal = doing.dismissed.then(|| (self.heard + DISMISSAL, Due::Dismissal));
        let unserved = doing.finishing.then(|| (self.heard.max(self.wrote) + patience.stall, Due::Unserved));
        // However little it takes at a time.
        let untaken = doing.closing.then(|| (self.heard + 2 * patience.stall, Due::Untaken));
        let paced = doing.paced.map(|until| (until, Due::Paced));
        let expired = doing.known.map(|until| (until, Due::Expired));
        earliest([usual, dismissal, unserved, untaken, paced, expired])
    }
}

fn earliest(deadlines: impl IntoIterator<Item = Option<(Instant, Due)>>) -> Option<(Instant, Due)> {
    deadlines.into_iter().flatten().min_by_key(|(at, _)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        hello: Duration::from_secs(5),
        line: Duration::from_secs(3),
        idle: Duration::from_secs(60),
        heartbeat: Duration::from_secs(10),
        stall: Duration::from_secs(20),
    };
    const DOING: Doing = Doing {
        introduced: true,
        proving: false,
        extended: true,
        reading: true,
        idle: false,
        writing: false,
        dismissed: false,
        finishing: false,
        closing: false,
        paced: None,
        known: None,
    };

    #[test]
    fn deadlines_follow_what_the_connection_does() {
        let now = Instant::now();
        let mut clocks = Clocks::new(now);
        let due = |clocks: &Clocks, doing| clocks.next(doing, &PATIENCE).map(|(at, due)| ((at - now).as_secs(), due));
        let stranger = Doing { introduced: false, ..DOING };
        assert_eq!(due(&clocks, stranger), Some((5, Due::Hello)));
        assert_eq!(due(&clocks, Doing { reading: false, proving: true, ..stranger }), Some((5, Due::Hello)));
        let ending = Doing { reading: false, writing: true, ..stranger };
        assert_eq!(due(&clocks, ending), Some((20, Due::Stall)), "it is told once");
        assert_eq!(due(&clocks, DOING), Some((10, Due::Ping)));
        clocks.pinged = Some(now + Duration::from_secs(10));
        assert_eq!(due(&clocks, DOING), Some((20, Due::Dead)));
        assert_eq!(due(&clocks, Doing { reading: false, ..DOING }), None, "who is held back is not dead");
        let slow = Doing { writing: true, ..DOING };
        assert_eq!(due(&clocks, slow), Some((20, Due::Stall)), "nor is who has not been able to read the question");
        clocks.wrote = now + Duration::from_secs(15);
        assert_eq!(due(&clocks, slow), Some((35, Due::Stall)));
        clocks.wrote = now;
        assert_eq!(due(&clocks, Doing { extended: false, idle: true, ..DOING }), Some((60, Due::Idle)));
        assert_eq!(due(&clocks, Doing { extended: false, ..DOING }), None, "a classic member may listen for ever");
        clocks.partial = Some(now);
        assert_eq!(due(&clocks, DOING), Some((3, Due::Line)));
        clocks.partial = None;
        assert_eq!(due(&clocks, Doing { writing: true, extended: false, ..DOING }), Some((20, Due::Stall)));
        let known = |seconds| Doing { known: Some(now + Duration::from_secs(seconds)), ..DOING };
        assert_eq!((due(&clocks, known(9)), due(&clocks, known(30))), (Some((9, Due::Expired)), Some((20, Due::Dead))));
        assert_eq!(due(&clocks, Doing { writing: true, dismissed: true, ..DOING }), Some((2, Due::Dismissal)));
        let finishing = Doing { reading: false, finishing: true, ..DOING };
        assert_eq!(
            due(&clocks, finishing),
            Some((20, Due::Unserved)),
            "it does not wait for ever for what does not come"
        );
        clocks.wrote = now + Duration::from_secs(30);
        let closing = Doing { reading: false, writing: true, closing: true, ..DOING };
        assert_eq!(due(&clocks, closing), Some((40, Due::Untaken)), "nor for who takes a little now and then");
        clocks.wrote = now;
        let paced = Some(now + Duration::from_secs(1));
        assert_eq!(due(&clocks, Doing { reading: false, paced, ..DOING }), Some((1, Due::Paced)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_timer_fires_at_the_latest_deadline_it_was_asked_for() {
        let start = Instant::now();
        let mut timer = Timer::new(start + Duration::from_secs(1));
        let later = start + Duration::from_secs(5);
        std::future::poll_fn(|cx| timer.poll(later, cx)).await;
        assert_eq!(Instant::now(), later);
        let sooner = later + Duration::from_secs(1);
        std::future::poll_fn(|cx| {
            assert!(timer.poll(later + Duration::from_secs(9), cx).is_pending());
            timer.poll(sooner, cx)
        })
        .await;
        assert_eq!(Instant::now(), sooner);
    }
}
