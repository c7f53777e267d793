//! What happens to groups and members, for those who watch.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tertulia_protocol::{GroupName, UserName};
use tokio::sync::broadcast;

use super::session::{ConnectionId, Session};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Its place among all that happened on this node since it began: 1, 2, 3 …
    pub number: u64,
    /// When.
    pub at: SystemTime,
    /// What.
    pub what: What,
}

/// Who it happened to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    Draining(Arc<str>),
}

/// How a member left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// How many there were. Held while one is sent, so that numbers come in their order.
    count: Mutex<u64>,
    sender: broadcast::Sender<Arc<Happening>>,
}

impl Default for Events {
    fn default() -> Self {
        const KEPT_FOR_A_WATCHER: usize = 1_024;
        Self(Arc::new(Inner { count: Mutex::new(0), sender: broadcast::Sender::new(KEPT_FOR_A_WATCHER) }))
    }
}

impl Events {
    /// Tells what happened; costs next to nothing while nobody watches.
    pub fn tell(&self, what: impl FnOnce() -> What) {
        let Inner { count, sender } = &*self.0;
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if sender.receiver_count() > 0 {
            // A watcher may go between the two lines: nobody minds.
            drop(sender.send(Arc::new(Happening { number: *count, at: SystemTime::now(), what: what() })));
        }
    }

    /// What happens from now on.
    #[must_use]
    pub fn watch(&self) -> broadcast::Receiver<Arc<Happening>> {
        self.watch_after().0
    }

    /// What happens from now on, and how much happened before.
    #[must_use]
    pub fn watch_after(&self) -> (broadcast::Receiver<Arc<Happening>>, u64) {
        let count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        (self.0.sender.subscribe(), *count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn happenings_are_numbered_also_while_nobody_watches() {
        let events = Events::default();
        let tell = || events.tell(|| What::Draining("x".into()));
        tell();
        tell();
        let (mut watcher, before) = events.watch_after();
        assert_eq!(before, 2);
        tell();
        let third = watcher.try_recv().unwrap();
        assert_eq!(third.number, 3);
        let text = serde_json::to_string(&*third).unwrap();
        assert_eq!(serde_json::from_str::<Happening>(&text).unwrap(), *third);
    }
}
