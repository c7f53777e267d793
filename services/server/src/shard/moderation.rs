//! Whom a moderator means.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tertulia_protocol::UserName;

use super::session::{ConnectionId, Session};

/// Whom a moderator means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
