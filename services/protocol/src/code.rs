//! The closed set of reasons for which a request is refused.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal,)*) => {
        /// Why a request was refused: the `code` of a `Rejected` line.
        ///
        /// The set only grows with the protocol's version; a client treats a code that it does not know as
        /// a refusal that is not worth repeating.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $variant,)*
            /// A code of a newer server, as a client sees it.
            #[serde(other)]
            Unknown,
        }

        impl Code {
            /// Every code a server of this version sends.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The code as it stands on the wire, and as a metric label.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Code::$variant => $text,)*
                    Code::Unknown => "unknown",
                }
            }
        }
    };
}

codes! {
    /// The line is not a JSON object of the documented shape.
    Malformed = "malformed",
    /// The line is well formed, but its kind is not known to this server.
    UnknownKind = "unknown_kind",
    /// The line has a right shape but arguments that do not go together.
    BadRequest = "bad_request",
    /// `Hello` asks for a version of the protocol that this server does not speak.
    UnsupportedVersion = "unsupported_version",
    /// It is not proven who the client is, or not any more.
    Unauthenticated = "unauthenticated",
    /// The user's token does not allow this, or the server does not to whoever proves nothing.
    Forbidden = "forbidden",
    /// The line is longer than the limit; the connection is closed.
    LineTooLong = "line_too_long",
    /// The message is longer than the limit.
    MessageTooLong = "message_too_long",
    /// The group name breaks a rule.
    BadGroupName = "bad_group_name",
    /// The user name breaks a rule.
    BadUserName = "bad_user_name",
    /// The post id breaks a rule.
    BadPostId = "bad_post_id",
    /// Nobody has joined or posted to a group of that name.
    NoSuchGroup = "no_such_group",
    /// The group has no such message of this user.
    NoSuchMessage = "no_such_message",
    /// The request needs membership of the group.
    NotAMember = "not_a_member",
    /// A moderator removed this member and it may not come back yet.
    Kicked = "kicked",
    /// A moderator closed the group and it is not open again yet.
    Closed = "closed",
    /// This connection has joined as many groups as it may.
    TooManyGroups = "too_many_groups",
    /// The group has as many members as it may.
    GroupFull = "group_full",
    /// The server holds as many groups as it may.
    ServerFull = "server_full",
    /// More posts per second than allowed.
    RateLimited = "rate_limited",
    /// The log cannot be written now: nothing was stored.
    Unavailable = "unavailable",
    /// The server is stopping.
    Draining = "draining",
    /// Too many malformed lines, or no sign of life in time; the connection is closed.
    Protocol = "protocol",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wire_text_is_the_serde_text() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_string(code).unwrap(), format!("\"{}\"", code.as_str()));
        }
        assert_eq!(serde_json::from_str::<Code>("\"of_the_future\"").unwrap(), Code::Unknown);
    }
}
