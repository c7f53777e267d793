//! The posts of one group.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tertulia_protocol::Code;

use super::{FIRST_WAIT, LONGEST_WAIT, MOST_BROKEN, PATIENCE};

/// A post that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Makes a retry harmless.
    pub(crate) id: String,
    /// Its place among all that was typed.
    pub(crate) number: u64,
    /// The group.
    pub(crate) group: String,
    /// The text.
    pub(crate) text: String,
    /// Whether it was sent, and it is not known what became of that.
    in_doubt: bool,
    /// Whether it was so when the connection began: then the messages that were missed tell.
    of_before: bool,
    sent: bool,
    /// How often the connection broke before its answer, and when first.
    broken: u32,
    broken_since: Option<Instant>,
    /// How often it was refused for now, other than for the number of posts, and since when. It counts from the last one of
    /// the group that was stored, and on one connection.
    refusals: u32,
    refused_since: Option<Instant>,
    /// When it was first sent, of all the times that may have come through.
    first_sent: Option<Instant>,
    /// For how long the machine was asleep since.
    asleep: Duration,
}

impl Pending {
    pub(super) fn new(id: String, number: u64, group: String, text: String) -> Self {
        Self {
            id,
            number,
            group,
            text,
            in_doubt: false,
            of_before: false,
            sent: false,
            broken: 0,
            broken_since: None,
            refusals: 0,
            refused_since: None,
            first_sent: None,
            asleep: Duration::ZERO,
        }
    }

    /// Whether an earlier attempt may have come through, whatever becomes of the present one.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Whether it may be in the log.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.sent || self.in_doubt
    }

    /// Whether it was in doubt when the connection began, and was not sent on it.
    pub(crate) fn is_of_before(&self) -> bool {
        self.of_before && !self.sent
    }

    /// For how long it may be in the log, if it is in doubt.
    pub(super) fn in_doubt_for(&self, now: Instant) -> Option<Duration> {
        let since = self.first_sent.filter(|_| self.in_doubt)?;
        Some(now.saturating_duration_since(since) + self.asleep)
    }

    /// Whether it was sent on so many connections that broke, for so long, that it may be the reason.
    pub(super) fn breaks_connections(&self, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= PATIENCE;
        self.broken >= MOST_BROKEN && self.broken_since.is_some_and(is_over)
    }

    fn is_not_refused(&mut self) {
        (self.refusals, self.refused_since) = (0, None);
    }

    fn is_not_stored(&mut self) {
        (self.in_doubt, self.of_before) = (false, false);
        (self.first_sent, self.asleep) = (None, Duration::ZERO);
    }
}

/// The posts of one group that wait, in the order in which they were typed.
#[derive(Debug, Default)]
pub(super) struct Lane {
    posts: VecDeque<Pending>,
    in_flight: usize,
    /// Nothing is sent before.
    hold: Option<Instant>,
    /// One was refused for now and none was stored since: one at a time, so that the next does not overtake it.
    careful: bool,
    /// The refusal for now that the person was told.
    told: Option<Code>,
}

impl Lane {
    pub(super) fn posts(&self) -> impl Iterator<Item = &Pending> {
        self.posts.iter()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn hold(&self) -> Option<Instant> {
        self.hold
    }

    pub(super) fn push(&mut self, post: Pending) {
        self.posts.push_back(post);
    }

    /// The post that may be sent now, where `most` may be in flight.
    pub(super) fn next(&self, most: usize) -> Option<&Pending> {
        let most = if self.careful { 1 } else { most };
        if self.hold.is_some() || self.in_flight >= most {
            return None;
        }
        self.posts.iter().find(|post| !post.sent)
    }

    pub(super) fn send(&mut self, id: &str, now: Instant) -> Option<&Pending> {
        let post = self.posts.iter_mut().find(|post| post.id == id)?;
        post.sent = true;
        post.first_sent.get_or_insert(now);
        self.in_flight += 1;
        Some(post)
    }

    pub(super) fn take(&mut self, id: &str) -> Option<Pending> {
        let at = self.posts.iter().position(|post| post.id == id)?;
        let post = self.posts.remove(at)?;
        self.in_flight -= usize::from(post.sent);
        Some(post)
    }

    pub(super) fn stored_one(&mut self) {
        if std::mem::take(&mut self.careful) {
            // Posts are taken again: those that wait are not given up for how long that was not so.
            self.posts.iter_mut().for_each(Pending::is_not_refused);
        }
    }

    /// There were too many posts: it is sent again.
    pub(super) fn slowed(&mut self, id: &str) -> Option<&mut Pending> {
        self.careful = true;
        let post = self.posts.iter_mut().find(|post| post.id == id)?;
        self.in_flight -= usize::from(std::mem::take(&mut post.sent));
        if !post.in_doubt {
            post.is_not_stored();
        }
        Some(post)
    }

    /// The post was refused for now: it is sent again after `wait`, or longer if it was refused before. Returns after how
    /// long; `None` if that was so for too long.
    pub(super) fn refused(&mut self, id: &str, now: Instant, wait: Duration) -> Option<Duration> {
        let post = self.slowed(id)?;
        let grown = FIRST_WAIT.saturating_mul(1 << post.refusals.min(16)).min(LONGEST_WAIT);
        post.refusals = post.refusals.saturating_add(1);
        let since = *post.refused_since.get_or_insert(now);
        let wait = wait.max(grown);
        self.hold = self.hold.max(Some(now + wait));
        (now.saturating_duration_since(since) < PATIENCE).then_some(wait)
    }

    /// Whether it is news to the person that something is refused so.
    pub(super) fn is_news(&mut self, code: Code) -> bool {
        self.told.replace(code) != Some(code)
    }

    pub(super) fn doubt(&mut self, id: &str) {
        if let Some(post) = self.posts.iter_mut().find(|post| post.id == id) {
            // What was sent on this connection may be stored behind the messages that were missed.
            (post.in_doubt, post.of_before) = (true, false);
        }
    }

    pub(super) fn not_stored(&mut self) {
        self.posts.iter_mut().filter(|post| post.is_of_before()).for_each(Pending::is_not_stored);
    }

    pub(super) fn disconnected(&mut self, now: Instant) {
        self.hold = None;
        self.in_flight = 0;
        for post in &mut self.posts {
            if std::mem::take(&mut post.sent) {
                post.in_doubt = true;
                post.broken = post.broken.saturating_add(1);
                post.broken_since.get_or_insert(now);
            }
            post.of_before = post.in_doubt;
            post.is_not_refused();
        }
    }

    pub(super) fn slept(&mut self, time: Duration) {
        for post in self.posts.iter_mut().filter(|post| post.first_sent.is_some()) {
            post.asleep += time;
        }
    }

    pub(super) fn drain_if(&mut self, gone: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let (out, kept): (Vec<_>, Vec<_>) = self.posts.drain(..).partition(|post| gone(post));
        self.posts = kept.into();
        self.in_flight = self.posts.iter().filter(|post| post.sent).count();
        out
    }

    pub(super) fn end_hold(&mut self, now: Instant) {
        self.hold = self.hold.filter(|until| now < *until);
    }
}
