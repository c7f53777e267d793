//! What a thread has seen.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Microseconds up to two minutes, to three digits.
#[must_use]
pub fn latencies() -> Histogram<u32> {
    // The bounds are right, so there is no error; an automatic histogram is the same, only slower at first.
    Histogram::new_with_bounds(1, 120_000_000, 3).unwrap_or_else(|_| empty())
}

fn empty() -> Histogram<u32> {
    match Histogram::new(3) {
        Ok(histogram) => histogram,
        Err(_) => unreachable!("three digits are possible"),
    }
}

/// What should not have happened. One of these and the run has failed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Messages that did not come although later ones of the same poster did.
    pub missing: u64,
    /// Messages that had not come in the end.
    pub missing_at_end: u64,
    /// Messages that came again or too late.
    pub repeated: u64,
    /// Gaps or repeats in the server's own numbers that the posters' numbers do not show.
    pub misnumbered: u64,
    /// Messages that were changed, or not posted by this run, or of another group.
    pub foreign: u64,
    /// Members that saw their group in another order than the first of them.
    pub other_order: u64,
    /// Messages that the server said are lost.
    pub told_lost: u64,
    /// Posts that were due while it was measured, and that the server had not taken in the end: it was offered more than it can do.
    pub untaken: u64,
    /// Bytes that the server had not taken in the end.
    pub unsent: u64,
    /// Members that have not got all of the history that they asked for.
    pub unread: u64,
    /// Members that went away and had not come back in the end.
    pub away: u64,
    /// Posts that were not acknowledged, where the protocol does.
    pub unacknowledged: u64,
    /// Refusals.
    pub refused: u64,
    /// Connections that the server closed.
    pub closed: u64,
    /// What the first of them said.
    pub first: Option<String>,
}

impl Faults {
    /// Whether there is none.
    #[must_use]
    pub fn none(&self) -> bool {
        *self == Self::default()
    }

    /// Remembers a text, if it is the first.
    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.first.is_none() {
            self.first = Some(text());
        }
    }

    fn add(&mut self, other: Self) {
        self.missing += other.missing;
        self.missing_at_end += other.missing_at_end;
        self.repeated += other.repeated;
        self.misnumbered += other.misnumbered;
        self.foreign += other.foreign;
        self.other_order += other.other_order;
        self.told_lost += other.told_lost;
        self.untaken += other.untaken;
        self.unsent += other.unsent;
        self.unread += other.unread;
        self.away += other.away;
        self.unacknowledged += other.unacknowledged;
        self.refused += other.refused;
        self.closed += other.closed;
        self.first = self.first.take().or(other.first);
    }
}

/// What a thread has seen, and then all of them.
#[derive(Debug)]
pub struct Tally {
    /// Posts that sockets have taken.
    pub posts: u64,
    /// Messages that members got who read all the time.
    pub deliveries: u64,
    /// Messages that the others got.
    pub late_deliveries: u64,
    /// Acknowledgements of posts.
    pub acks: u64,
    /// From when a post was due to when a member had it, in microseconds.
    pub latency: Histogram<u32>,
    /// From when a post was due to when the socket had taken it: how late we are ourselves, or the server is with what was sent before.
    pub lateness: Histogram<u32>,
    /// From when a member left or lost its connection to when it was a member again.
    pub rejoins: Histogram<u32>,
    /// From a join after an older message to the last message that there was at the join.
    pub catchups: Histogram<u32>,
    /// What should not have happened.
    pub faults: Faults,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            posts: 0,
            deliveries: 0,
            late_deliveries: 0,
            acks: 0,
            latency: latencies(),
            lateness: latencies(),
            rejoins: latencies(),
            catchups: latencies(),
            faults: Faults::default(),
        }
    }
}

impl Tally {
    /// Adds what another thread has seen.
    pub fn add(&mut self, other: Self) {
        self.posts += other.posts;
        self.deliveries += other.deliveries;
        self.late_deliveries += other.late_deliveries;
        self.acks += other.acks;
        for (mine, theirs) in [
            (&mut self.latency, other.latency),
            (&mut self.lateness, other.lateness),
            (&mut self.rejoins, other.rejoins),
            (&mut self.catchups, other.catchups),
        ] {
            // Both have the same bounds, so that nothing is refused.
            if mine.add(theirs).is_err() {
                self.faults.say(|| "a histogram could not be added".to_owned());
            }
        }
        self.faults.add(other.faults);
    }
}
