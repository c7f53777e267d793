//! Whom a moderator means.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use tertulia_protocol::UserName;

use super::session::{ConnectionId, Session};
use crate::origin;

/// Whom a moderator means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Target {
    /// All connections of a user.
    User(UserName),
    /// One connection.
    Connection(ConnectionId),
    /// All connections from one subscriber, as [`origin::of`] tells it; of one address of IPv6 alone where a build of before that held it.
    Address(IpAddr),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(user) => write!(f, "user {user}"),
            Self::Connection(id) => write!(f, "connection {id}"),
            Self::Address(address) => match address {
                IpAddr::V6(network) if origin::of(*address) == *address => write!(f, "address {network}/64"),
                address => write!(f, "address {address}"),
            },
        }
    }
}

impl Target {
    /// Who comes from where this address is: with IPv6 all of its network of 64 bits, as limits count it. Of these each host has so many addresses
    /// that one less keeps nobody out.
    #[must_use]
    pub fn from_address(address: IpAddr) -> Self {
        Self::Address(origin::of(address))
    }

    /// Whether a session is meant.
    #[must_use]
    pub fn matches(&self, session: &Session) -> bool {
        match self {
            Self::User(user) => *user == session.user,
            Self::Connection(id) => *id == session.id,
            Self::Address(address) => *address == origin::of(session.address) || *address == session.address,
        }
    }
}
