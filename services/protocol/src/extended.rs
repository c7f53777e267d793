//! The extended dialect, for connections that begin with `Hello`.
//!
//! Numbers named `seq`, `first`, `last`, `head`, `after` and `before` count the messages of one group from 1 in the
//! order in which all its members see them. An `epoch` names one life of a group: `seq` never repeats within it. Times
//! (`at`, `expires_at`) are milliseconds since 1970-01-01 UTC. All numbers stay below 2^53, so that JavaScript reads them exactly.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::code::Code;

/// What a client sends. Fields that these types do not have are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromClient<'a> {
    /// The first line of a connection, and what makes it extended.
    #[serde(borrow)]
    Hello(Hello<'a>),
    /// Become a member of a group.
    #[serde(borrow)]
    Join(Join<'a>),
    /// Stop being a member of a group.
    Leave {
        /// The group.
        #[serde(borrow)]
        group_name: Cow<'a, str>,
    },
    /// Send a message to all members of a group.
    #[serde(borrow)]
    Post(Post<'a>),
    /// Read messages that the log holds.
    #[serde(borrow)]
    History(HistoryRequest<'a>),
    /// List the users in a group, ordered by name.
    #[serde(borrow)]
    Members(MembersRequest<'a>),
    /// List the groups, ordered by name.
    #[serde(borrow)]
    Groups(GroupsRequest<'a>),
    /// Show another token, before the one of `Hello` expires.
    Refresh {
        /// The token, of the same user.
        #[serde(borrow)]
        token: Cow<'a, str>,
    },
    /// Take back a message of one's own.
    #[serde(borrow)]
    Remove(Remove<'a>),
    /// Ask for a `Pong`.
    Ping {},
    /// Answer a `Ping`.
    Pong {},
}

/// The names of all kinds of lines that a client may send, as they stand on the wire.
pub const CLIENT_KINDS: &[&str] =
    &["Hello", "Join", "Leave", "Post", "History", "Members", "Groups", "Refresh", "Remove", "Ping", "Pong"];

/// The first line of an extended connection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello<'a> {
    /// The newest version of the protocol that the client speaks; the server answers with the one to use.
    pub version: u32,
    /// Who it is. Without one the server gives a guest name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Cow<'a, str>>,
    /// A token that proves it, where the server asks for one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub token: Option<Cow<'a, str>>,
    /// A password that proves it, where the server asks for one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Cow<'a, str>>,
}

/// Become a member of a group, from now on, from after a message seen before, or with the newest few.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// Begin with the message after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Begin with the newest `last` messages. Not together with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<u64>,
    /// The epoch to which `after` belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// Send a message to all members of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The text.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// Makes a retry harmless: the same id of the same user is stored once.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// The client's place in a trace, as W3C Trace Context writes it; what it does not allow is ignored.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Cow<'a, str>>,
}

/// Read messages that the log holds, forwards from `after` or backwards from `before` (the newest without either).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRequest<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The oldest messages after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// The newest messages before this one. Not together with `after`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many; the server may send fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// List the users in a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersRequest<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// Begin with the first user after this name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cow<'a, str>>,
    /// At most so many; the server may send fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// List the groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupsRequest<'a> {
    /// Only groups whose name begins so.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<Cow<'a, str>>,
    /// Begin with the first group after this name.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Cow<'a, str>>,
    /// At most so many; the server may send fewer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// Take back a message of one's own: its text goes, and the group is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remove<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The message.
    pub seq: u64,
    /// The life of the group to which it belongs; the present one, without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
}

/// What a client receives. A client ignores kinds and fields that it does not know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromServer<'a> {
    /// The answer to a good `Hello`.
    #[serde(borrow)]
    Welcome(Welcome<'a>),
    /// The answer to `Join`: messages follow.
    #[serde(borrow)]
    Joined(Joined<'a>),
    /// The client is no longer a member, because it asked or because a moderator did.
    #[serde(borrow)]
    Left(Left<'a>),
    /// A post is in the log at the configured durability.
    #[serde(borrow)]
    Posted(Posted<'a>),
    /// A message of a group that the client joined.
    #[serde(borrow)]
    Message(Message<'a>),
    /// Retention removed these messages before this member could read them.
    #[serde(borrow)]
    Lagged(Lagged<'a>),
    /// The answer to `History`.
    #[serde(borrow)]
    History(History<'a>),
    /// The answer to `Members`.
    #[serde(borrow)]
    Members(Members<'a>),
    /// The answer to `Groups`.
    #[serde(borrow)]
    Groups(Groups<'a>),
    /// The answer to `Refresh`: the new token counts.
    Refreshed {
        /// When that expires.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
    },
    /// The answer to `Remove`: the text is gone.
    #[serde(borrow)]
    Removed(Removed<'a>),
    /// The server asks for a `Pong`.
    Ping {},
    /// The answer to `Ping`.
    Pong {},
    /// The server is about to stop: connect again, elsewhere if there is an elsewhere.
    #[serde(borrow)]
    GoingAway(GoingAway<'a>),
    /// A request was refused; nothing came of it, unless [`Rejected::outcome_unknown`].
    #[serde(borrow)]
    Rejected(Rejected<'a>),
    /// A refusal from before the server knew the dialect, such as too many connections.
    #[serde(borrow)]
    Error(Cow<'a, str>),
}

/// The names of all kinds of lines that a server of this version sends to an extended client.
pub const SERVER_KINDS: &[&str] = &[
    "Welcome",
    "Joined",
    "Left",
    "Posted",
    "Message",
    "Lagged",
    "History",
    "Members",
    "Groups",
    "Refreshed",
    "Removed",
    "Ping",
    "Pong",
    "GoingAway",
    "Rejected",
    "Error",
];

/// The answer to a good `Hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome<'a> {
    /// The version of the protocol that this connection uses.
    pub version: u32,
    /// Name and version of the server.
    #[serde(borrow)]
    pub server: Cow<'a, str>,
    /// Names this connection in logs and in the admin API.
    #[serde(borrow)]
    pub session: Cow<'a, str>,
    /// Who the server takes the client for.
    #[serde(borrow)]
    pub user: Cow<'a, str>,
    /// What this server allows.
    pub limits: Limits,
    /// The server pings a silent client after so many milliseconds, and closes it after twice as many.
    pub heartbeat: u64,
    /// When the token expires with which the client was let in, and with it the connection, unless it is refreshed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

/// What a server allows one connection; 0 means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Longest line, in bytes, without its line end.
    pub line_bytes: u64,
    /// Longest message, in bytes of UTF-8 after JSON unescaping.
    pub message_bytes: u64,
    /// Longest group name, in bytes.
    pub group_name_bytes: u64,
    /// Groups that a connection may be a member of.
    pub groups: u64,
    /// Posts per second.
    pub posts_per_second: u64,
    /// Entries in one page of `History`, `Members` or `Groups`.
    pub page: u64,
}

/// The answer to `Join`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The life of the group to which every `seq` belongs.
    pub epoch: u64,
    /// The newest message at this moment; 0 if there is none.
    pub head: u64,
    /// Connections that are members, this one included.
    pub members: u64,
    /// Whether everything that was asked for with `after` or `last` will follow.
    pub recovered: bool,
}

/// The end of a membership.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// Why.
    pub reason: LeftReason,
    /// What the moderator said about it.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Cow<'a, str>>,
}

/// Why a membership ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeftReason {
    /// The client asked.
    Leave,
    /// A moderator removed this member.
    Kicked,
    /// A moderator removed this member for good.
    Banned,
    /// A moderator closed the group; its messages are kept.
    Closed,
    /// A moderator deleted the group with its messages.
    Deleted,
    /// The token that the client shows now does not allow it.
    Forbidden,
    /// A reason of a newer server, as a client sees it.
    #[serde(other)]
    Unknown,
}

/// A post is in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Posted<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The id that the post carried.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// The life of the group to which `seq` belongs.
    pub epoch: u64,
    /// The place of the message in its group.
    pub seq: u64,
    /// When it was taken in.
    pub at: u64,
}

/// A message of a group that the client joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The text.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// The place of the message in its group.
    pub seq: u64,
    /// Who posted it; `@system` for an announcement.
    #[serde(borrow)]
    pub sender: Cow<'a, str>,
    /// When it was taken in.
    pub at: u64,
    /// The id that the post carried.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// Whether its text was removed: `message` is empty then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The removal of which it tells.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub removes: Option<Removal<'a>>,
}

/// Of which messages of the group the texts were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal<'a> {
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// Only those of this sender; of all, without one.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<Cow<'a, str>>,
}

impl<'a> From<crate::Removal<'a>> for Removal<'a> {
    fn from(removal: crate::Removal<'a>) -> Self {
        let crate::Removal { first, last, sender } = removal;
        Self { first, last, sender: sender.map(Into::into) }
    }
}

impl Removal<'_> {
    /// Whether message `seq` of this sender is one of them.
    #[must_use]
    pub fn covers(&self, seq: u64, sender: &str) -> bool {
        (self.first..=self.last).contains(&seq) && self.sender.as_ref().is_none_or(|of| of == sender)
    }
}

/// Messages that retention removed before this member could read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lagged<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The first missing message.
    pub first: u64,
    /// The last missing message.
    pub last: u64,
}

/// A page of what the log holds, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The life of the group to which every `seq` belongs.
    pub epoch: u64,
    /// The messages, oldest first.
    #[serde(borrow)]
    pub messages: Vec<PastMessage<'a>>,
    /// Whether the log holds more in the direction that was asked for.
    pub more: bool,
}

/// A message in a page of history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastMessage<'a> {
    /// The text.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// The place of the message in its group.
    pub seq: u64,
    /// Who posted it.
    #[serde(borrow)]
    pub sender: Cow<'a, str>,
    /// When it was taken in.
    pub at: u64,
    /// The id that the post carried.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// Whether its text was removed: `message` is empty then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// The removal of which it tells.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub removes: Option<Removal<'a>>,
}

/// A page of the users in a group, each once, ordered by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Members<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The users.
    #[serde(borrow)]
    pub members: Vec<Cow<'a, str>>,
    /// Whether there are more after the last of these.
    pub more: bool,
}

/// A page of groups, ordered by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Groups<'a> {
    /// The groups.
    #[serde(borrow)]
    pub groups: Vec<GroupSummary<'a>>,
    /// Whether there are more after the last of these.
    pub more: bool,
}

/// One group in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupSummary<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// Connections that are members now.
    pub members: u64,
    /// The newest message; 0 if there is none.
    pub head: u64,
}

/// The answer to `Remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed<'a> {
    /// The group.
    #[serde(borrow)]
    pub group_name: Cow<'a, str>,
    /// The life of the group to which the numbers belong.
    pub epoch: u64,
    /// The message whose text is gone.
    pub seq: u64,
    /// The message by which the group is told.
    pub told_by: u64,
}

/// The server is about to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoingAway<'a> {
    /// Why, for people.
    #[serde(borrow)]
    pub reason: Cow<'a, str>,
    /// When to connect again, spread over the clients so that they do not come all at once.
    pub reconnect_after_ms: u64,
}

/// A request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected<'a> {
    /// Why, for programs.
    pub code: Code,
    /// Why and what to do, for people.
    #[serde(borrow)]
    pub message: Cow<'a, str>,
    /// The kind of line that was refused, where one could be told.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Cow<'a, str>>,
    /// The group it was about.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub group_name: Option<Cow<'a, str>>,
    /// The id that the post carried.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    /// Try again after so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// It is not known whether the request was carried out, or all of it: a post may be stored, a text be gone. The same one again, a post
    /// with its id, is harmless.
    #[serde(default, skip_serializing_if = "is_false")]
    pub outcome_unknown: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_false(value: &bool) -> bool {
    !value
}
