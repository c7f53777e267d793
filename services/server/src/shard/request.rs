//! What an owner is asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::sync::oneshot;

use super::Listed;
use super::moderation::Target;
use super::peers::Asked;
use super::session::{ConnectionId, Session, Stored};
use super::{Refusal, Removal, Term, Weight};
use crate::telemetry::trace;

/// A request to the owner of a shard. Those of one sender are carried out in their order.
#[derive(Debug)]
pub enum Request {
    /// Become a member; answered by `Event::Joined` or `Event::JoinRefused`.
    Join {
        /// The group.
        group: GroupName,
        /// Who.
        session: Arc<Session>,
        /// Where to begin.
        from: JoinFrom,
    },
    /// Stop being a member; answered by `Event::Left` if `answer` is set.
    Leave {
        /// The group.
        group: GroupName,
        /// Who.
        session: Arc<Session>,
        /// Whether anybody waits for an answer; a connection that ends does not.
        answer: bool,
    },
    /// Store messages; answered by `Event::Posted`.
    Post(Posts),
    /// Users of a group, each once, ordered.
    Members {
        /// The group.
        group: GroupName,
        /// From the first user after this one.
        after: Option<String>,
        /// At most so many.
        limit: usize,
        /// What the owner found.
        reply: oneshot::Sender<Users>,
    },
    /// What the admin API asks, and who takes back a message.
    Admin(Box<Admin>),
    /// What another node asks the owner.
    Asked(Asked),
}

impl Request {
    /// It enters the queue of its shard: traced posts note when.
    pub(super) fn queued(&mut self) {
        if let Self::Post(posts) = self {
            for trace in posts.posts.iter_mut().filter_map(|post| post.trace.as_mut()) {
                trace.queued();
            }
        }
    }

    /// Whether it is known to have been sent to an owner that may have carried it out and did not answer.
    pub(super) fn is_in_doubt(&self) -> bool {
        match self {
            Self::Post(posts) => posts.in_doubt,
            Self::Admin(admin) => match **admin {
                Admin::End { in_doubt, .. } | Admin::Purge { in_doubt, .. } | Admin::Redact { in_doubt, .. } => {
                    in_doubt
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// An owner may have carried it out that did not answer: for whoever carries it out next.
    pub(super) fn doubt(&mut self) {
        match self {
            Self::Post(posts) => posts.in_doubt = true,
            Self::Admin(admin) => {
                if let Admin::End { in_doubt, .. } | Admin::Purge { in_doubt, .. } | Admin::Redact { in_doubt, .. } =
                    &mut **admin
                {
                    *in_doubt = true;
                }
            }
            _ => {}
        }
    }
}

/// Users of a group, and whether there are more; `None` for a group that does not exist.
pub type Users = Result<Option<(Vec<UserName>, bool)>, Refusal>;

/// Posts of one connection to groups of one shard, in order.
#[derive(Debug)]
pub struct Posts {
    /// Who.
    pub session: Arc<Session>,
    /// The posts.
    pub posts: Vec<NewPost>,
    /// When they were read from the socket.
    pub received: Instant,
    /// Whether they were sent to an owner that did not answer: then no refusal tells that they are not stored.
    pub in_doubt: bool,
}

/// A post that has passed the checks of the front.
#[derive(Debug)]
pub struct NewPost {
    /// The group.
    pub group: GroupName,
    /// The text.
    pub message: Arc<str>,
    /// Makes a retry harmless.
    pub id: Option<PostId>,
    /// If it is traced.
    pub trace: Option<Box<trace::Post>>,
    /// What it weighs, and those that were sent with it before it, where that is limited.
    pub weight: Option<Weight>,
}

/// Where a new member begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinFrom {
    /// With what is posted from now on; or, on a second join, where it is.
    Now,
    /// With the newest so many.
    Last(u64),
    /// After a message seen before.
    After {
        /// That message.
        seq: u64,
        /// The life of the group it was seen in.
        epoch: Option<u64>,
    },
}

/// What a moderator asks of one shard. Answers go to `reply`.
#[derive(Debug)]
pub enum Admin {
    /// The members of a group, ordered by user, then connection.
    Members {
        /// The group.
        group: GroupName,
        /// From the first after this one.
        after: Option<(UserName, ConnectionId)>,
        /// At most so many.
        limit: usize,
        /// `None` for a group that does not exist.
        reply: oneshot::Sender<Result<Option<Vec<Member>>, Refusal>>,
    },
    /// As [`Admin::Members`], of those that are connected to this node alone, whichever node has the shard.
    Here {
        /// The group.
        group: GroupName,
        /// From the first after this one.
        after: Option<(UserName, ConnectionId)>,
        /// At most so many.
        limit: usize,
        /// None of a group that is not in memory.
        reply: oneshot::Sender<Vec<Member>>,
    },
    /// One group, be it in memory or only in the log.
    Look {
        /// The group.
        group: GroupName,
        /// `None` for a group that does not exist.
        reply: oneshot::Sender<Result<Option<Listed>, Refusal>>,
    },
    /// Remove members, and keep them out for a while.
    Kick {
        /// The group; all of the shard without one.
        group: Option<GroupName>,
        /// Whom.
        target: Target,
        /// What they are told.
        reason: Option<Arc<str>>,
        /// For how long they may not come back.
        hold: Term,
        /// The connections that were members, once per membership; `None` for a group that does not exist.
        reply: oneshot::Sender<Result<Option<Vec<ConnectionId>>, Refusal>>,
    },
    /// Remove all members and keep everybody out for a while, or delete the group with its messages.
    End {
        /// The group.
        group: GroupName,
        /// [`Removal::Closed`] or [`Removal::Deleted`].
        how: Removal,
        /// What the members are told.
        reason: Option<Arc<str>>,
        /// For how long nobody may join or post; of a group that is deleted, what it is closed by, which ends with it.
        hold: Term,
        /// The life of the group that is meant; another one does not end. `None`: whichever there is.
        epoch: Option<u64>,
        /// Whether an owner may have done it that did not answer: then it tells nothing that there is no such group.
        in_doubt: bool,
        /// What came of it; `None` for a group that does not exist.
        reply: oneshot::Sender<Result<Option<Ended>, Refusal>>,
    },
    /// Remove messages up to and including `through`.
    Purge {
        /// The group.
        group: GroupName,
        /// The last message to remove.
        through: u64,
        /// As in [`Admin::End`].
        epoch: Option<u64>,
        /// As in [`Admin::End`].
        in_doubt: bool,
        /// How many were removed; `None` for a group that does not exist.
        reply: oneshot::Sender<Result<Option<u64>, Refusal>>,
    },
    /// Remove the texts of messages, and tell the group.
    Redact {
        /// The group.
        group: GroupName,
        /// Which.
        selection: Selection,
        /// The life of the group that they are of.
        epoch: u64,
        /// What the group is told.
        telling: Telling,
        /// As in [`Admin::End`].
        in_doubt: bool,
        /// What came of it.
        reply: oneshot::Sender<Result<Redaction, Refusal>>,
    },
    /// Forget a group of which nothing is left: no member, no message, and no use for a while.
    Forget {
        /// The group.
        group: GroupName,
        /// Whether it was forgotten.
        reply: oneshot::Sender<Result<bool, Refusal>>,
    },
    /// Post a message of the system.
    Announce {
        /// The group; all that have members without one.
        group: Option<GroupName>,
        /// The text.
        message: Arc<str>,
        /// Makes a repetition among nodes harmless.
        id: Option<PostId>,
        /// What will have come of it in each group; `None` if the named group does not exist.
        reply: oneshot::Sender<Result<Option<Announced>, Refusal>>,
    },
}

/// Messages of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Only those of this sender; of all, without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
}

impl Selection {
    /// At most so many lie between the first and the last, those counted.
    pub const MOST: u64 = 10_000;
    /// Of so many the texts are removed at a time. Others of the group's shard wait meanwhile.
    pub const STEP: u64 = 100;

    /// Parts of it that are removed one after the other, if it is too much to be removed at a time; else none.
    pub fn steps(&self) -> impl Iterator<Item = Self> + use<'_> {
        let is_small = self.last - self.first < Self::STEP;
        let firsts = (self.first..=self.last).step_by(Self::STEP as usize).filter(move |_| !is_small);
        firsts.map(|first| {
            let last = self.last.min(first.saturating_add(Self::STEP - 1));
            Self { first, last, sender: self.sender.clone() }
        })
    }

    /// What the group is told of it.
    #[must_use]
    pub fn removal(&self) -> tertulia_protocol::Removal<'_> {
        tertulia_protocol::Removal { first: self.first, last: self.last, sender: self.sender.as_deref() }
    }
}

/// Whether and how a group is told of a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Telling {
    /// Why it was.
    pub reason: Option<Arc<str>>,
    /// It is not told: this is a step of a removal of which it is told at the end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quietly: bool,
    /// What the steps have removed: it is told of that, and no more is removed. An older build looks at all of it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed: Option<RemovedBefore>,
}

/// What the steps of a removal have removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedBefore {
    /// Of so many messages the texts are gone.
    pub messages: u64,
    /// The last of them.
    pub last: u64,
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, sender } = self;
        write!(f, "{first}")?;
        if last > first {
            write!(f, " to {last}")?;
        }
        sender.as_ref().map_or(Ok(()), |sender| write!(f, " of '{sender}'"))
    }
}

/// What came of the removal of texts.
#[derive(Debug)]
pub enum Redaction {
    /// There is no such group, or it has another life.
    NoSuchGroup,
    /// The log has no such message.
    NoSuchMessage,
    /// The texts are gone.
    Removed {
        /// Of so many messages, those counted whose texts were gone already.
        messages: u64,
        /// What will have come of it that the group is told.
        told: oneshot::Receiver<Result<Stored, Refusal>>,
    },
    /// The same, and the group is not told.
    RemovedQuietly(RemovedBefore),
}

impl Redaction {
    /// Whether there was nothing to be removed.
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, Self::NoSuchGroup | Self::NoSuchMessage)
    }
}

/// For each group that an announcement goes to, what comes of it.
pub type Announced = Vec<oneshot::Receiver<Result<Stored, Refusal>>>;

/// What closing or deleting a group did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Members that were removed.
    pub members: u64,
    /// Messages that were removed from the log.
    pub messages: u64,
}

/// A member, as a moderator sees it.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who.
    pub session: Arc<Session>,
    /// When it joined (milliseconds since 1970-01-01 UTC).
    pub joined_at: u64,
    /// How far it has been served: its connection keeps this up to date.
    pub progress: Arc<Progress>,
}

/// How far a member has been served, and how.
#[derive(Debug)]
pub struct Progress {
    delivered: AtomicU64,
    catching_up: AtomicBool,
}

impl Progress {
    /// Of a member on another node, as that one told.
    pub(super) fn told(delivered: u64, catching_up: bool) -> Self {
        Self { delivered: delivered.into(), catching_up: catching_up.into() }
    }

    /// Of a member that is served live from after `seq`.
    #[must_use]
    pub fn new(seq: u64) -> Self {
        Self { delivered: seq.into(), catching_up: false.into() }
    }

    /// The newest message that was handed to the connection.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Whether it is served from the log.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.catching_up.load(Ordering::Relaxed)
    }

    /// Says that messages up to this one were handed to the connection.
    pub fn set_delivered(&self, seq: u64) {
        self.delivered.store(seq, Ordering::Relaxed);
    }

    /// Says where the messages come from.
    pub fn set_catching_up(&self, catching_up: bool) {
        self.catching_up.store(catching_up, Ordering::Relaxed);
    }
}
