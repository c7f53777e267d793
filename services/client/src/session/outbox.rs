//! Posts that were not answered yet: kept, sent, sent again with the same `id`. Pure.
//!
//! Each group has a lane of its own, so that one whose posts are refused for now holds up no other. Posts of a lane go in
//! the order in which they were typed, several in flight at once; after a refusal for now they go one at a time until one
//! is stored. What was in flight behind the refused one may be stored before it all the same.
//!
//! A post is *in doubt* when it was sent and nobody said what became of it. The server stores a repeat once, but only as
//! long as it remembers the id. So it is looked for in the stream of its group first, where there is one, and given up
//! where that cannot be told any more; see [`Next::Forgotten`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tertulia_protocol::Code;

use lane::Lane;
pub(crate) use lane::Pending;

mod lane;

/// As many posts wait at most.
const MOST_POSTS: usize = 1_000;
/// As many bytes of text wait at most; one post is always taken.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A post that was refused for now for so long, on one connection, is given up; so is one whose connection broke for so
/// long before its answer, and [`MOST_BROKEN`] times.
const PATIENCE: Duration = Duration::from_secs(600);
/// So many connections that a post broke may have had other reasons.
const MOST_BROKEN: u32 = 20;
/// The wait after the first refusal for now, unless the server asks for a longer one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// No wait is longer, unless the server asks for it.
const LONGEST_WAIT: Duration = Duration::from_secs(10);
/// For how long after it was first sent a post in doubt is repeated. A server remembers ids for `shard.dedup_time`, 5
/// minutes by default, and does not tell clients for how long; this leaves a minute for the way and for slow clocks.
const REMEMBERED: Duration = Duration::from_secs(240);
/// So many messages of a group may have gone by meanwhile. A server remembers the newest `shard.dedup_window` ids of a group, 4096 by default;
/// this leaves a quarter for what went by before the connection broke.
const REMEMBERED_POSTS: u64 = 3_072;

/// How many posts may be in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Window {
    /// One of all.
    One,
    /// So many of each group.
    OfEach(usize),
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Send this one; it is taken as sent.
    Send(&'a Pending),
    /// This one is in doubt for so long that the server may have forgotten its id: a repeat could be stored twice.
    Forgotten(Pending),
}

/// What comes of a post that was refused for now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Again {
    /// There is no such post.
    Nothing,
    /// It keeps its place and is sent again; `news` if it is the first refusal of its kind for a while.
    Later {
        /// Whether the person does not know yet.
        news: bool,
        /// After how long.
        wait: Duration,
    },
    /// It was tried for too long.
    Never(Pending),
}

/// The posts that wait, in the order in which they were typed.
#[derive(Debug)]
pub(crate) struct Outbox {
    prefix: String,
    count: u64,
    lanes: BTreeMap<String, Lane>,
    len: usize,
    bytes: usize,
    /// Nothing is sent before.
    hold: Option<Instant>,
}

impl Outbox {
    /// An empty outbox. `random` must differ between all clients of one user, for it makes the ids differ.
    pub(crate) fn new(random: u64) -> Self {
        let prefix = format!("{random:016x}");
        Self { prefix, count: 0, lanes: BTreeMap::new(), len: 0, bytes: 0, hold: None }
    }

    /// Whether there is no room for another post.
    pub(crate) fn is_full(&self) -> bool {
        self.len >= MOST_POSTS || self.bytes >= MOST_BYTES
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All that wait, in the order in which they were typed.
    pub(crate) fn posts(&self) -> Vec<&Pending> {
        let mut posts: Vec<_> = self.lanes.values().flat_map(Lane::posts).collect();
        posts.sort_by_key(|post| post.number);
        posts
    }

    /// Whether no answer is due.
    pub(crate) fn nothing_in_flight(&self) -> bool {
        self.lanes.values().all(|lane| lane.in_flight() == 0)
    }

    /// The number of the post that was typed last.
    pub(crate) fn last_number(&self) -> u64 {
        self.count
    }

    /// Whether a post in that group waits that was typed before the one after `number`.
    pub(crate) fn has_before(&self, group: &str, number: u64) -> bool {
        self.lanes.get(group).is_some_and(|lane| lane.posts().any(|post| post.number <= number))
    }

    /// Takes a post in. The caller asks [`Outbox::is_full`] first.
    pub(crate) fn push(&mut self, group: String, text: String) {
        self.count += 1;
        let id = format!("{}-{}", self.prefix, self.count);
        self.bytes += text.len();
        self.len += 1;
        let post = Pending::new(id, self.count, group.clone(), text);
        self.lanes.entry(group).or_default().push(post);
    }

    /// What to do now: of all posts that are the next of their group, and of which `may_go` is true, the one typed first.
    pub(crate) fn next(&mut self, now: Instant, window: Window, may_go: impl Fn(&Pending) -> bool) -> Option<Next<'_>> {
        self.end_holds(now);
        let most = match window {
            Window::One if !self.nothing_in_flight() => return None,
            Window::One => 1,
            Window::OfEach(most) => most,
        };
        if self.hold.is_some() {
            return None;
        }
        let next = self.lanes.values().filter_map(|lane| lane.next(most)).filter(|post| may_go(post));
        let post = next.min_by_key(|post| post.number)?;
        let (group, id) = (post.group.clone(), post.id.clone());
        if post.in_doubt_for(now).is_some_and(|age| age >= REMEMBERED) {
            return self.take(&id).map(Next::Forgotten);
        }
        self.lanes.get_mut(&group)?.send(&id, now).map(Next::Send)
    }

    /// When [`Outbox::next`] is worth asking again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.lanes.values().filter_map(Lane::hold).chain(self.hold).min()
    }

    /// The post with that id is in the log.
    pub(crate) fn stored(&mut self, id: &str) -> Option<Pending> {
        if let Some(lane) = self.lane_of(id) {
            lane.stored_one();
        }
        self.take(id)
    }

    /// The post with that id is done with, for better or worse.
    pub(crate) fn take(&mut self, id: &str) -> Option<Pending> {
        let lane = self.lane_of(id)?;
        let post = lane.take(id)?;
        self.forget(std::slice::from_ref(&post));
        Some(post)
    }

    /// In which group the post with that id is to be.
    pub(crate) fn group_of(&self, id: &str) -> Option<&str> {
        self.lanes.values().flat_map(Lane::posts).find(|post| post.id == id).map(|post| &*post.group)
    }

    /// The post was refused for now. It keeps its place, and nothing of its group is sent before `wait` is over, or a
    /// longer time if it was refused before; nothing at all if there were too many posts.
    pub(crate) fn refused_for_now(&mut self, id: &str, code: Code, now: Instant, wait: Duration) -> Again {
        // Who is asked to slow down is held up in all groups, and not asked to give up.
        let is_slowed = code == Code::RateLimited;
        if is_slowed {
            self.hold = self.hold.max(Some(now + wait));
        }
        let Some(lane) = self.lane_of(id) else { return Again::Nothing };
        if is_slowed {
            lane.slowed(id);
            return Again::Later { news: lane.is_news(code), wait };
        }
        match lane.refused(id, now, wait) {
            Some(wait) => Again::Later { news: lane.is_news(code), wait },
            None => self.take(id).map_or(Again::Nothing, Again::Never),
        }
    }

    /// It is not known what became of the post with that id.
    pub(crate) fn doubt(&mut self, id: &str) {
        if let Some(lane) = self.lane_of(id) {
            lane.doubt(id);
        }
    }

    /// What was in doubt in that group when the connection began is not in its log.
    pub(crate) fn not_stored(&mut self, group: &str) {
        if let Some(lane) = self.lanes.get_mut(group) {
            lane.not_stored();
        }
    }

    /// So many messages of that group were missed, and what was in doubt when the connection began may be among those of them that are gone.
    /// Takes out the posts whose ids the server may have forgotten since.
    pub(crate) fn passed_by(&mut self, group: &str, messages: u64) -> Vec<Pending> {
        if messages <= REMEMBERED_POSTS {
            return Vec::new();
        }
        self.drain_if(|post| post.group == group && post.is_of_before())
    }

    /// The connection broke: what was sent is sent again. Returns the posts that were tried for too long.
    pub(crate) fn disconnected(&mut self, now: Instant) -> Vec<Pending> {
        self.hold = None;
        self.lanes.values_mut().for_each(|lane| lane.disconnected(now));
        self.drain_if(|post| post.breaks_connections(now))
    }

    /// The machine was asleep for that long, while servers forgot.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.lanes.values_mut().for_each(|lane| lane.slept(time));
    }

    /// Takes out the posts that may be in the log already: they were sent and not answered.
    pub(crate) fn take_uncertain(&mut self) -> Vec<Pending> {
        self.drain_if(Pending::is_uncertain)
    }

    fn drain_if(&mut self, gone: impl Fn(&Pending) -> bool) -> Vec<Pending> {
        let out: Vec<_> = self.lanes.values_mut().flat_map(|lane| lane.drain_if(&gone)).collect();
        self.forget(&out);
        out
    }

    fn forget(&mut self, gone: &[Pending]) {
        self.len -= gone.len();
        self.bytes -= gone.iter().map(|post| post.text.len()).sum::<usize>();
        self.lanes.retain(|_, lane| lane.posts().next().is_some());
    }

    fn lane_of(&mut self, id: &str) -> Option<&mut Lane> {
        self.lanes.values_mut().find(|lane| lane.posts().any(|post| post.id == id))
    }

    fn end_holds(&mut self, now: Instant) {
        self.hold = self.hold.filter(|until| now < *until);
        self.lanes.values_mut().for_each(|lane| lane.end_hold(now));
    }
}

#[cfg(test)]
mod tests;
