//! The posts of one group.

use std::collections::VecDeque;
use std::time::Instant;

use tertulia_protocol::Code;

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
    sent: bool,
    /// How often the connection broke before its answer.
    unanswered: u32,
    /// How often it was refused for now, other than for its number.
    refusals: u32,
    /// When it was first sent, of all the times that may have come through.
    first_sent: Option<Instant>,
}

impl Pending {
    pub(super) fn new(id: String, number: u64, group: String, text: String) -> Self {
        let (in_doubt, sent, first_sent) = (false, false, None);
        Self { id, number, group, text, in_doubt, sent, unanswered: 0, refusals: 0, first_sent }
    }

    /// Whether an earlier attempt may have come through, whatever becomes of the present one.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Whether it may be in the log.
    pub(crate) fn is_uncertain(&self) -> bool {
        self.sent || self.in_doubt
    }

    /// Since when it may be in the log, if it is in doubt.
    pub(super) fn in_doubt_since(&self) -> Option<Instant> {
        self.first_sent.filter(|_| self.in_doubt)
    }

    pub(super) fn unanswered(&self) -> u32 {
        self.unanswered
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
        self.careful = false;
    }

    /// The post was refused for now: it is sent again, not before that time if there is one. Returns how often that was
    /// so.
    pub(super) fn refused(&mut self, id: &str, at: Option<Instant>) -> u32 {
        self.careful = true;
        self.hold = self.hold.max(at);
        let Some(post) = self.posts.iter_mut().find(|post| post.id == id) else { return 0 };
        self.in_flight -= usize::from(std::mem::take(&mut post.sent));
        post.refusals += u32::from(at.is_some());
        if !post.in_doubt {
            post.first_sent = None;
        }
        post.refusals
    }

    /// Whether it is news to the person that something is refused so.
    pub(super) fn is_news(&mut self, code: Code) -> bool {
        self.told.replace(code) != Some(code)
    }

    pub(super) fn doubt(&mut self, id: &str) {
        if let Some(post) = self.posts.iter_mut().find(|post| post.id == id) {
            post.in_doubt = true;
        }
    }

    pub(super) fn not_stored(&mut self) {
        for post in self.posts.iter_mut().filter(|post| post.in_doubt && !post.sent) {
            (post.in_doubt, post.first_sent) = (false, None);
        }
    }

    pub(super) fn disconnected(&mut self) {
        self.hold = None;
        self.in_flight = 0;
        for post in &mut self.posts {
            post.in_doubt |= post.sent;
            post.unanswered += u32::from(post.sent);
            post.sent = false;
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
