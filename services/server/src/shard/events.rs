//! What happens to groups and members, for those who watch.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

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
    Joined(GroupName, Who),
    /// A member left, by itself or because its connection ended.
    Left(GroupName, Who),
    /// A moderator removed a member.
    Kicked(GroupName, Who, Option<Arc<str>>),
    /// A member fell behind what its group keeps for it, by so many messages, and is being caught up from the log.
    Lagged(GroupName, Who, u64),
    /// A group came to be.
    Created(GroupName),
    /// A moderator closed a group.
    Closed(GroupName, Option<Arc<str>>),
    /// A moderator deleted a group.
    Deleted(GroupName, Option<Arc<str>>),
    /// The server began to stop.
    Draining,
}

impl What {
    /// The group it happened in, if it was one.
    #[must_use]
    pub fn group(&self) -> Option<&GroupName> {
        match self {
            Self::Joined(group, _)
            | Self::Left(group, _)
            | Self::Kicked(group, ..)
            | Self::Lagged(group, ..)
            | Self::Created(group)
            | Self::Closed(group, _)
            | Self::Deleted(group, _) => Some(group),
            Self::Draining => None,
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
