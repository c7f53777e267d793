//! Posts that were not answered yet: kept, sent, sent again with the same `id`. Pure.

use std::collections::VecDeque;
use std::time::Instant;

/// As many posts wait at most.
const MOST_POSTS: usize = 1_000;
/// As many bytes of text wait at most; one post is always taken.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A post that was sent so often without an answer is given up.
const MOST_TRIES: u32 = 20;

/// A post that waits for its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    /// Makes a retry harmless.
    pub(crate) id: String,
    /// The group.
    pub(crate) group: String,
    /// The text.
    pub(crate) text: String,
    /// Whether it was sent once, and it is not known what became of that.
    pub(crate) in_doubt: bool,
    sent: bool,
    tries: u32,
}

/// The posts that wait, in the order in which they were typed.
#[derive(Debug)]
pub(crate) struct Outbox {
    prefix: String,
    count: u64,
    posts: VecDeque<Pending>,
    bytes: usize,
    /// Nothing is sent before.
    hold: Option<Instant>,
}

impl Outbox {
    /// An empty outbox. `random` must differ between all clients of one user, for it makes the ids differ.
    pub(crate) fn new(random: u64) -> Self {
        Self { prefix: format!("{random:016x}"), count: 0, posts: VecDeque::new(), bytes: 0, hold: None }
    }

    /// Whether there is no room for another post.
    pub(crate) fn is_full(&self) -> bool {
        self.posts.len() >= MOST_POSTS || self.bytes >= MOST_BYTES
    }

    /// How many posts wait.
    pub(crate) fn len(&self) -> usize {
        self.posts.len()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.posts.is_empty()
    }

    /// Whether no answer is due.
    pub(crate) fn nothing_in_flight(&self) -> bool {
        self.posts.iter().all(|post| !post.sent)
    }

    /// Takes a post in. The caller asks [`Outbox::is_full`] first.
    pub(crate) fn push(&mut self, group: String, text: String) {
        self.count += 1;
        let id = format!("{}-{}", self.prefix, self.count);
        self.bytes += text.len();
        self.posts.push_back(Pending { id, group, text, in_doubt: false, sent: false, tries: 0 });
    }

    /// The next post to send, taken as sent; `window` posts are in flight at most.
    pub(crate) fn next(&mut self, now: Instant, window: usize) -> Option<&Pending> {
        if self.hold.is_some_and(|until| now < until) {
            return None;
        }
        self.hold = None;
        let in_flight = self.posts.iter().filter(|post| post.sent).count();
        if in_flight >= window {
            return None;
        }
        let post = self.posts.iter_mut().find(|post| !post.sent)?;
        post.sent = true;
        post.tries += 1;
        Some(post)
    }

    /// When [`Outbox::next`] is worth asking again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.hold
    }

    /// The post with that id is done with, for better or worse.
    pub(crate) fn take(&mut self, id: &str) -> Option<Pending> {
        let at = self.posts.iter().position(|post| post.id == id)?;
        let post = self.posts.remove(at)?;
        self.bytes -= post.text.len();
        Some(post)
    }

    /// The post was refused for now. It keeps its place, and nothing is sent before `at`. Returns it if it was tried
    /// too often.
    pub(crate) fn retry(&mut self, id: &str, at: Instant) -> Option<Pending> {
        let post = self.posts.iter_mut().find(|post| post.id == id)?;
        if post.tries >= MOST_TRIES {
            return self.take(id);
        }
        post.sent = false;
        self.hold = Some(self.hold.map_or(at, |hold| hold.max(at)));
        None
    }

    /// It is not known what became of the post with that id.
    pub(crate) fn doubt(&mut self, id: &str) {
        if let Some(post) = self.posts.iter_mut().find(|post| post.id == id) {
            post.in_doubt = true;
        }
    }

    /// The connection broke: what was sent is sent again. Returns the posts that were tried too often.
    pub(crate) fn disconnected(&mut self) -> Vec<Pending> {
        self.hold = None;
        for post in &mut self.posts {
            post.in_doubt |= post.sent;
            post.sent = false;
        }
        self.drain_if(|post| post.tries >= MOST_TRIES)
    }

    /// Takes out the posts that may be in the log already: they were sent and not answered.
    pub(crate) fn take_uncertain(&mut self) -> Vec<Pending> {
        self.drain_if(|post| post.tries > 0)
    }

    fn drain_if(&mut self, gone: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let (out, kept): (Vec<_>, Vec<_>) = self.posts.drain(..).partition(|post| gone(post));
        self.posts = kept.into();
        self.bytes -= out.iter().map(|post| post.text.len()).sum::<usize>();
        out
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn outbox(texts: &[&str]) -> Outbox {
        let mut outbox = Outbox::new(0xa1);
        for text in texts {
            outbox.push("Dogs".into(), (*text).into());
        }
        outbox
    }

    fn sent(outbox: &mut Outbox, now: Instant, window: usize) -> Vec<(String, String)> {
        let mut all = Vec::new();
        while let Some(post) = outbox.next(now, window) {
            all.push((post.id.clone(), post.text.clone()));
        }
        all
    }

    #[test]
    fn what_was_sent_and_not_answered_is_sent_again_in_order_with_its_id() {
        let now = Instant::now();
        let mut outbox = outbox(&["one", "two", "three"]);
        let first = sent(&mut outbox, now, 9);
        assert_eq!(first[0], ("00000000000000a1-1".into(), "one".into()));
        assert_eq!(outbox.take(&first[1].0).unwrap().text, "two");
        assert!(outbox.disconnected().is_empty());
        assert_eq!(sent(&mut outbox, now, 9), [first[0].clone(), first[2].clone()]);
    }

    #[test]
    fn a_window_is_kept() {
        let now = Instant::now();
        let mut outbox = outbox(&["one", "two"]);
        let first = sent(&mut outbox, now, 1);
        assert_eq!(first.len(), 1);
        outbox.take(&first[0].0).unwrap();
        assert_eq!(sent(&mut outbox, now, 1)[0].1, "two");
    }

    #[test]
    fn a_refused_post_holds_those_behind_it() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut outbox = outbox(&["one", "two"]);
        let id = outbox.next(now, 1).unwrap().id.clone();
        assert_eq!(outbox.retry(&id, later), None);
        assert_eq!(outbox.deadline(), Some(later));
        assert_eq!(sent(&mut outbox, now, 9), []);
        let texts: Vec<_> = sent(&mut outbox, later, 9).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["one", "two"]);
    }

    #[test]
    fn a_post_that_breaks_every_connection_is_given_up() {
        let now = Instant::now();
        let mut outbox = outbox(&["poison"]);
        for _ in 1..MOST_TRIES {
            outbox.next(now, 9).unwrap();
            assert!(outbox.disconnected().is_empty());
        }
        outbox.next(now, 9).unwrap();
        assert_eq!(outbox.disconnected().len(), 1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn room_is_bounded_by_count_and_bytes() {
        let mut many = outbox(&[""; MOST_POSTS]);
        assert!(many.is_full());
        let id = many.next(Instant::now(), 9).unwrap().id.clone();
        many.take(&id).unwrap();
        assert!(!many.is_full());
        assert!(outbox(&[&"x".repeat(MOST_BYTES)]).is_full());
    }

    #[test]
    fn only_what_was_sent_is_uncertain() {
        let mut outbox = outbox(&["one", "two"]);
        outbox.next(Instant::now(), 1).unwrap();
        outbox.disconnected();
        assert_eq!(outbox.take_uncertain().len(), 1);
        assert_eq!(outbox.len(), 1);
    }
}
