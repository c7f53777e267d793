//! Why an owner refuses a request.

use std::time::Duration;

use tertulia_protocol::GroupName;

/// Why a request was refused; the text is for the client's user. Nothing came of the request, unless [`Refusal::is_in_doubt`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody has joined a group of that name.
    #[error("Group '{0}' does not exist")]
    NoSuchGroup(GroupName),
    /// Posting needs membership here.
    #[error("You are not a member of group '{0}': join it first")]
    NotAMember(GroupName),
    /// A moderator keeps this connection, user or address out.
    #[error("You were kicked from group '{group}' and may come back in {} s", .retry_after.as_secs().saturating_add(1))]
    Kicked {
        /// The group.
        group: GroupName,
        /// For how much longer.
        retry_after: Duration,
    },
    /// A moderator closed the group for a while.
    #[error("Group '{group}' is closed and opens again in {} s", .retry_after.as_secs().saturating_add(1))]
    Closed {
        /// The group.
        group: GroupName,
        /// For how much longer.
        retry_after: Duration,
    },
    /// As many members as allowed.
    #[error("Group '{group}' is full: it may have {max} members")]
    GroupFull {
        /// The group.
        group: GroupName,
        /// The limit.
        max: usize,
    },
    /// As many groups as allowed.
    #[error("Group '{group}' cannot be created: this server may hold {max} groups")]
    ServerFull {
        /// The group.
        group: GroupName,
        /// The limit.
        max: usize,
    },
    /// Its user, or all who come from its address, have made too many groups of late.
    #[error("Group '{group}' cannot be created: you may make {max} groups in an hour; try again in {} s", .retry_after.as_secs().saturating_add(1))]
    TooManyNewGroups {
        /// The group.
        group: GroupName,
        /// The limit.
        max: usize,
        /// For how much longer.
        retry_after: Duration,
    },
    /// The log cannot be written or read now.
    #[error("Messages of group '{group}' cannot be stored now; try again in {} ms", .retry_after.as_millis())]
    Unavailable {
        /// The group.
        group: GroupName,
        /// When to try again.
        retry_after: Duration,
    },
    /// The node that has the group did not answer in time.
    #[error("It is not known whether the node that has group '{group}' did it: nobody answered; try again in {} ms, a post with the same id", .retry_after.as_millis())]
    Unanswered {
        /// The group.
        group: GroupName,
        /// When to try again.
        retry_after: Duration,
    },
    /// Of a request about groups of many shards: the node that has some of them refused it, or did not answer.
    #[error("A node that has some of the groups did not answer or could not do it: it may be done there or not")]
    NodeSilent,
    /// The owner has stopped.
    #[error("The server is stopping")]
    Draining,
}

impl Refusal {
    /// Why, in one word that names nobody: the code of the protocol.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchGroup(_) => "no_such_group",
            Self::NotAMember(_) => "not_a_member",
            Self::Kicked { .. } => "kicked",
            Self::Closed { .. } => "closed",
            Self::GroupFull { .. } => "group_full",
            Self::ServerFull { .. } => "server_full",
            Self::TooManyNewGroups { .. } => "rate_limited",
            Self::Unavailable { .. } | Self::Unanswered { .. } | Self::NodeSilent => "unavailable",
            Self::Draining => "draining",
        }
    }

    /// Whether something may have come of the request all the same.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        matches!(self, Self::Unanswered { .. } | Self::NodeSilent)
    }

    /// When the same request may succeed, if time alone can help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Kicked { retry_after, .. }
            | Self::Closed { retry_after, .. }
            | Self::TooManyNewGroups { retry_after, .. }
            | Self::Unavailable { retry_after, .. }
            | Self::Unanswered { retry_after, .. } => Some(*retry_after),
            _ => None,
        }
    }
}
