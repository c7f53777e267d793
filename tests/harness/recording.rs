//! What one connection said and saw, in its order.
//!
//! Recordings are made to be many and long: what many members see alike is kept once (see [`crate::decode::Shared`]).

use std::sync::Arc;

use tertulia_protocol::code::Code;
use tertulia_protocol::extended::{self, LeftReason};

use crate::membership::follow;

/// Which dialect a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The book's.
    Classic,
    /// Begins with `Hello`.
    Extended,
}

/// How a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum End {
    /// The connection was up when everything had settled: what is missing then is lost.
    Settled,
    /// The connection ended before, whoever ended it: it may have missed the newest.
    #[default]
    Cut,
}

/// A message, as the extended dialect tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The group.
    pub group: Arc<str>,
    /// Its place there.
    pub seq: u64,
    /// Who posted it.
    pub sender: Arc<str>,
    /// The text.
    pub text: Arc<str>,
    /// When it was taken in.
    pub at: u64,
    /// The id that the post carried.
    pub id: Option<Arc<str>>,
    /// Whether its text was removed.
    pub removed: bool,
    /// The removal of which it tells: the first and the last message, and of whom.
    pub removes: Option<(u64, u64, Option<Arc<str>>)>,
}

/// A message, as the classic dialect tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The group.
    pub group: Arc<str>,
    /// The text.
    pub text: Arc<str>,
}

/// What a client sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sent {
    /// `Join`.
    Join {
        /// The group.
        group: Arc<str>,
        /// Begin after this `seq`.
        after: Option<u64>,
        /// Begin with so many of the newest.
        last: Option<u64>,
        /// The epoch of `after`.
        epoch: Option<u64>,
    },
    /// `Leave`.
    Leave {
        /// The group.
        group: Arc<str>,
    },
    /// `Post`.
    Post {
        /// The group.
        group: Arc<str>,
        /// The text.
        text: Arc<str>,
        /// Its id.
        id: Option<Arc<str>>,
    },
}

/// What happened on a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The client sent something that matters to the checker.
    Sent(Arc<Sent>),
    /// `Message` in the extended dialect.
    Message(Arc<Message>),
    /// `Message` in the classic dialect.
    Text(Arc<Text>),
    /// `Error`, mostly in the classic dialect.
    Error(Arc<str>),
    /// `Welcome`.
    Welcome(Arc<Welcome>),
    /// `Joined`.
    Joined(Arc<Joined>),
    /// `Left`.
    Left(Arc<Left>),
    /// `Posted`.
    Posted(Arc<Posted>),
    /// `Lagged`.
    Lagged(Arc<Lagged>),
    /// `History`.
    History(Arc<History>),
    /// `Members`.
    Members(Arc<Members>),
    /// `Groups`.
    Groups(Arc<Groups>),
    /// `Refreshed`.
    Refreshed,
    /// `Removed`.
    Removed,
    /// `Ping`.
    Ping,
    /// `Pong`.
    Pong,
    /// `GoingAway`: the reason, and when to come back in milliseconds.
    GoingAway(Arc<(String, u64)>),
    /// `Rejected`.
    Rejected(Arc<Rejected>),
    /// A kind of line that this version does not know.
    Unknown,
}

/// `Welcome`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The version of the protocol in use.
    pub version: u32,
    /// Name and version of the server.
    pub server: String,
    /// Names the connection.
    pub session: String,
    /// Who the server takes the client for.
    pub user: Arc<str>,
    /// What the server allows.
    pub limits: extended::Limits,
    /// Milliseconds.
    pub heartbeat: u64,
}

/// `Joined`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The group.
    pub group: Arc<str>,
    /// Its present life.
    pub epoch: u64,
    /// The newest message at this moment.
    pub head: u64,
    /// Members, this connection included.
    pub members: u64,
    /// Whether all that was asked for follows.
    pub recovered: bool,
}

/// `Left`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The group.
    pub group: Arc<str>,
    /// Why.
    pub reason: LeftReason,
    /// What the moderator said.
    pub detail: Option<String>,
}

/// `Posted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Posted {
    /// The group.
    pub group: Arc<str>,
    /// The id that the post carried.
    pub id: Option<Arc<str>>,
    /// The life of the group to which `seq` belongs.
    pub epoch: u64,
    /// The place of the message.
    pub seq: u64,
    /// When it was taken in.
    pub at: u64,
}

/// `Lagged`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lagged {
    /// The group.
    pub group: Arc<str>,
    /// The first missing message.
    pub first: u64,
    /// The last missing message.
    pub last: u64,
}

/// `History`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// The group.
    pub group: Arc<str>,
    /// Its present life.
    pub epoch: u64,
    /// The messages, oldest first.
    pub messages: Vec<Arc<Message>>,
    /// Whether there are more in the direction asked for.
    pub more: bool,
}

/// `Members`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Members {
    /// The group.
    pub group: Arc<str>,
    /// The users, ordered.
    pub users: Vec<String>,
    /// Whether there are more after them.
    pub more: bool,
}

/// `Groups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Groups {
    /// The groups, ordered.
    pub groups: Vec<GroupSummary>,
    /// Whether there are more after them.
    pub more: bool,
}

/// One of `Groups`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupSummary {
    /// The group.
    pub group: Arc<str>,
    /// Its members.
    pub members: u64,
    /// Its newest message.
    pub head: u64,
}

/// `Rejected`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// The kind of line that was refused.
    pub request: Option<String>,
    /// The group it was about.
    pub group: Option<Arc<str>>,
    /// The id that the post carried.
    pub id: Option<Arc<str>>,
    /// When to try again.
    pub retry_after_ms: Option<u64>,
    /// Whether it may be carried out all the same.
    pub outcome_unknown: bool,
}

/// All that one connection said and saw.
#[derive(Debug, Clone)]
pub struct Recording {
    /// Names the connection in what the checker says.
    pub who: Arc<str>,
    /// The user, if known.
    pub user: Option<Arc<str>>,
    /// Which dialect it spoke.
    pub dialect: Dialect,
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// How it ended.
    pub end: End,
}

impl Recording {
    /// An empty recording.
    #[must_use]
    pub fn new(who: &str, dialect: Dialect) -> Self {
        Self { who: who.into(), user: None, dialect, events: Vec::new(), end: End::default() }
    }

    /// The newest `seq` seen of `group` and its epoch, for `Join {after, epoch}`. `None` if the connection was never in.
    #[must_use]
    pub fn resume_point(&self, group: &str) -> Option<(u64, u64)> {
        follow(self, group).place()
    }
}
