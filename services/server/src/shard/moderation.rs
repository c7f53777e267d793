//! Whom a moderator keeps out, and for how long.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tertulia_protocol::{GroupName, UserName};
use tokio::time::Instant;

use super::session::{ConnectionId, Session};

/// Whom a moderator means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// All connections of a user.
    User(UserName),
    /// One connection.
    Connection(ConnectionId),
    /// All connections from an address.
    Address(IpAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user {user}"),
            Self::Connection(id) => write!(f, "connection {id}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

impl Target {
    /// Whether a session is meant.
    #[must_use]
    pub fn matches(&self, session: &Session) -> bool {
        match self {
            Self::User(user) => *user == session.user,
            Self::Connection(id) => *id == session.id,
            Self::Address(address) => *address == session.address,
        }
    }
}

/// Who may not join or post. Lives in the owner's memory, and goes with the shard when that is handed over: a restart forgets it.
#[derive(Debug, Default)]
pub(super) struct Holds {
    held: Vec<(Target, Instant)>,
    closed_until: Option<Instant>,
}

/// What moderators hold in a shard, for the node that owns it next. Of those that are for all groups `group` is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    group: Option<GroupName>,
    /// Whom; `None`: the group is closed to everybody.
    target: Option<Target>,
    /// For how much longer.
    left: Duration,
}

impl Held {
    pub(super) fn of(group: Option<&GroupName>, holds: &Holds) -> Vec<Self> {
        let now = Instant::now();
        let tell = |target: Option<Target>, until: Instant| {
            let left = until.checked_duration_since(now)?;
            Some(Self { group: group.cloned(), target, left })
        };
        let held = holds.held.iter().filter_map(|(target, until)| tell(Some(target.clone()), *until));
        held.chain(holds.closed_until().and_then(|until| tell(None, until))).collect()
    }

    pub(super) fn group(&self) -> Option<&GroupName> {
        self.group.as_ref()
    }
}

/// More holds than this at once in one place are forgotten, those that end first before the others.
const MAX_HELD: usize = 10_000;

impl Holds {
    pub(super) fn hold(&mut self, target: Target, hold: Duration) {
        if hold.is_zero() {
            return;
        }
        let until = far(hold);
        match self.held.iter_mut().find(|(held, _)| *held == target) {
            Some((_, end)) => *end = until,
            None => self.held.push((target, until)),
        }
        if self.held.len() > MAX_HELD {
            self.held.sort_by_key(|(_, until)| *until);
            self.held.remove(0);
        }
    }

    /// Takes over what another node held.
    pub(super) fn take(&mut self, held: Held) {
        match held.target {
            Some(target) => self.hold(target, held.left),
            None => self.close(held.left),
        }
    }

    pub(super) fn close(&mut self, hold: Duration) {
        self.closed_until = (!hold.is_zero()).then(|| far(hold));
    }

    /// Whether nobody is kept out, not even for a time that is over.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.closed_until.is_none()
    }

    /// Until when everybody is kept out, unless that is over.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        self.closed_until.filter(|until| *until > Instant::now())
    }

    /// For how much longer the session is kept out.
    pub(super) fn held_for(&self, session: &Session) -> Option<Duration> {
        if self.held.is_empty() {
            return None;
        }
        let now = Instant::now();
        let ends = self.held.iter().filter(|(target, until)| *until > now && target.matches(session));
        ends.map(|(_, until)| *until - now).max()
    }

    /// For how much longer everybody is kept out.
    pub(super) fn closed_for(&self) -> Option<Duration> {
        self.closed_until().map(|until| until.duration_since(Instant::now()))
    }

    /// Forgets what is over; answers whether anything is left.
    pub(super) fn prune(&mut self) -> bool {
        let now = Instant::now();
        self.held.retain(|(_, until)| *until > now);
        self.closed_until = self.closed_until();
        !self.is_empty()
    }
}

/// So far ahead that it is as good as for ever, yet no clock overflows.
fn far(hold: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    Instant::now() + hold.min(CENTURY)
}
