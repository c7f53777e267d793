//! What happens to groups and members, for those who watch.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tertulia_protocol::{GroupName, UserName};
use tokio::sync::broadcast;

use super::session::{ConnectionId, Session};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: What,
}

/// Who it happened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// The user.
    pub user: UserName,
    /// The connection.
    pub connection: ConnectionId,
    /// Where it comes from.
    pub address: IpAddr,
}

impl From<&Session> for Who {
    fn from(session: &Session) -> Self {
        Self { user: session.user.clone(), connection: session.id, address: session.address }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A connection became a member.
    Joined {
        /// The group.
        group: GroupName,
        /// Who.
        who: Who,
        /// Members of the group after it.
        members: u64,
    },
    /// A member left.
    Left {
        /// The group.
        group: GroupName,
        /// Who.
        who: Who,
        /// Members of the group after it.
        members: u64,
        /// Whether by itself or because its connection ended.
        how: Leaving,
    },
    /// A moderator removed a member.
    Kicked {
        /// The group.
        group: GroupName,
        /// Who.
        who: Who,
        /// Members of the group after it.
        members: u64,
        /// What the moderator said.
        reason: Option<Arc<str>>,
        /// For how long it may not come back.
        hold: Duration,
    },
    /// A member fell behind what its group keeps for it and is being caught up from the log. It is told again when some of what the
    /// member needs turns out to be no longer in the log.
    Lagged {
        /// The group.
        group: GroupName,
        /// Who.
        who: Who,
        /// By how many messages.
        behind: u64,
        /// How many of them the log no longer held.
        lost: u64,
    },
    /// A group came to be.
    Created {
        /// The group.
        group: GroupName,
        /// Its shard.
        shard: u16,
        /// Its life.
        epoch: u64,
    },
    /// A moderator closed a group.
    Closed {
        /// The group.
        group: GroupName,
        /// What the moderator said.
        reason: Option<Arc<str>>,
        /// Members that were removed.
        members: u64,
        /// For how long nobody may join or post.
        hold: Duration,
    },
    /// A moderator deleted a group.
    Deleted {
        /// The group.
        group: GroupName,
        /// What the moderator said.
        reason: Option<Arc<str>>,
        /// Members that were removed.
        members: u64,
        /// Messages that were removed from the log.
        messages: u64,
    },
    /// The server began to stop; why, in words.
    Draining(&'static str),
}

/// How a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It asked to.
    Asked,
    /// Its connection ended.
    Disconnected,
}

impl What {
    /// The group it happened in, if it was one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::Joined { group, .. }
            | Self::Left { group, .. }
            | Self::Kicked { group, .. }
            | Self::Lagged { group, .. }
            | Self::Created { group, .. }
            | Self::Closed { group, .. }
            | Self::Deleted { group, .. } => Some(group),
            Self::Draining(_) => None,
        }
    }
}

/// Where happenings are told. A watcher that is too slow misses the oldest and knows how many.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Arc<Happening>>);

impl Default for Events {
    fn default() -> Self {
        const KEPT_FOR_A_WATCHER: usize = 1_024;
        Self(broadcast::Sender::new(KEPT_FOR_A_WATCHER))
    }
}

impl Events {
    /// Tells what happened; costs next to nothing while nobody watches.
    pub fn tell(&self, what: impl FnOnce() -> What) {
        if self.0.receiver_count() > 0 {
            // A watcher may go between the two lines: nobody minds.
            drop(self.0.send(Arc::new(Happening { at: SystemTime::now(), what: what() })));
        }
    }

    /// What happens from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Arc<Happening>> {
        self.0.subscribe()
    }
}
