//! Who a connection is to the groups, and how owners answer it.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use serde::{Deserialize, Serialize};
use tertulia_protocol::{GroupName, PostId, UserName};

use super::refusal::Refusal;
use super::request::{JoinFrom, Progress};
use super::{GroupStatus, Subscription};

/// Names a connection for the life of the process, and among all nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c-{}", self.0)
    }
}

impl std::str::FromStr for ConnectionId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.strip_prefix("c-").unwrap_or(text).parse().map(Self)
    }
}

/// A connection that has said who it is.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub id: ConnectionId,
    /// Its user.
    pub user: UserName,
    /// Where it comes from.
    pub address: IpAddr,
    /// Where answers go.
    pub inbox: Arc<Inbox>,
    /// The node that has the connection, unless it is this one. Its answers then go with those to that node.
    pub home: Option<Arc<str>>,
    /// Whether it is to be told the place of each of its posts; if not, only how many were stored.
    pub wants_places: bool,
}

/// What an owner tells a connection.
#[derive(Debug)]
pub enum Event {
    /// The connection is a member now.
    Joined(Box<Joined>),
    /// The connection did not become a member.
    JoinRefused {
        /// The group.
        group: GroupName,
        /// Why.
        refusal: Refusal,
    },
    /// The connection asked to leave; `was_member` tells whether there was something to leave.
    Left {
        /// The group.
        group: GroupName,
        /// Whether it was a member.
        was_member: bool,
    },
    /// Somebody else ended the membership.
    Removed {
        /// The group.
        group: GroupName,
        /// What happened.
        removal: Removal,
        /// What the moderator said.
        detail: Option<Arc<str>>,
    },
    /// Posts were stored or refused, in the order in which they were sent; of a session that wants no places, only those that were
    /// refused.
    Posted(Vec<Ack>),
}

/// A new membership.
#[derive(Debug)]
pub struct Joined {
    /// The group, which keeps its counts up to date.
    pub status: Arc<GroupStatus>,
    /// What is delivered from now on.
    pub subscription: Subscription,
    /// The life of the group.
    pub epoch: u64,
    /// The newest `seq` when it became a member.
    pub head: u64,
    /// The newest `seq` before the subscription: that may be later, where another node has the group.
    pub subscribed_at: u64,
    /// The oldest `seq` that the log holds.
    pub first: u64,
    /// Members, this one included.
    pub members: u64,
    /// Where the connection says how far the member has been served.
    pub progress: Arc<Progress>,
    /// What was asked for.
    pub from: JoinFrom,
}

/// How somebody else ends a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    /// A moderator removed the member.
    Kicked,
    /// A moderator closed the group.
    Closed,
    /// A moderator deleted the group.
    Deleted,
}

/// What became of a post.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The group.
    pub group: GroupName,
    /// The id that the post carried.
    pub id: Option<PostId>,
    /// Its place, or why it was refused.
    pub outcome: Result<Stored, Refusal>,
}

/// A post that is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// The life of the group.
    pub epoch: u64,
    /// The place of the message in its group.
    pub seq: u64,
    /// When it was taken in (milliseconds since 1970-01-01 UTC).
    pub at: u64,
}

/// Answers for one connection. It holds no more than what the connection asked for and has not taken yet, and one removal per
/// membership; an empty one owns no memory beyond itself.
#[derive(Debug, Default)]
pub struct Inbox {
    events: Mutex<VecDeque<Event>>,
    /// Posts that were stored, of a session that wants no places.
    stored: AtomicUsize,
    /// See [`Inbox::weight`].
    weight: AtomicUsize,
    /// Something was put in since the last look.
    news: AtomicBool,
    waker: AtomicWaker,
}

impl Inbox {
    /// Puts an event in and wakes the connection.
    pub fn push(&self, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back(event);
        self.wake();
    }

    /// Says that posts were stored, and wakes the connection.
    pub fn push_stored(&self, posts: usize) {
        self.stored.fetch_add(posts, Ordering::Release);
        self.wake();
    }

    /// Takes the number of posts that [`Inbox::push_stored`] has told of.
    pub fn take_stored(&self) -> usize {
        match self.stored.load(Ordering::Acquire) {
            0 => 0,
            _ => self.stored.swap(0, Ordering::AcqRel),
        }
    }

    /// Bytes of the connection's posts that are not answered yet; see [`Weight`](super::Weight). They are less before it is woken.
    #[must_use]
    pub fn weight(&self) -> &AtomicUsize {
        &self.weight
    }

    /// Wakes the connection to look at what else is shared with it.
    pub fn wake(&self) {
        self.news.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Takes all events; `Ready` also if it was only woken. Otherwise the task will be woken. It is always the same task that looks.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<VecDeque<Event>> {
        if !self.news.load(Ordering::Acquire) {
            // At every look: whoever puts something in says so first and takes the waker after that, so one that was told of already may
            // still take the waker that a later look has left.
            self.waker.register(cx.waker());
        }
        if self.news.load(Ordering::Acquire) {
            // Reads what was put there last, so that all that came with it is seen.
            self.news.swap(false, Ordering::AcqRel);
            let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
            let events = if events.is_empty() { VecDeque::new() } else { std::mem::take(&mut *events) };
            // More may be put in while these are looked at: the next look registers.
            return Poll::Ready(events);
        }
        Poll::Pending
    }
}

/// How long a client waits before it repeats what was refused for a passing reason.
pub const RETRY_SOON: Duration = Duration::from_millis(1_000);

#[cfg(test)]
mod tests {
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_looks_between_the_two_halves_of_a_wake_is_woken_by_the_next() {
        let (inbox, woken) = (Inbox::default(), Arc::new(Counting::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        assert!(inbox.poll_take(&mut cx).is_pending());
        // `wake`, in halves: what came is seen at once, by a task that was awake, which then has nothing more and waits.
        inbox.news.store(true, Ordering::Release);
        assert!(inbox.poll_take(&mut cx).is_ready());
        assert!(inbox.poll_take(&mut cx).is_pending());
        inbox.waker.wake();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(inbox.poll_take(&mut cx).is_pending(), "woken for what it has seen");
        inbox.push_stored(1);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2, "and for what came since");
        assert!(inbox.poll_take(&mut cx).is_ready());
        assert_eq!(inbox.take_stored(), 1);
    }
}
