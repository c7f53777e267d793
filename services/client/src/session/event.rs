//! What the session tells the person: the screen turns it into lines.

use tertulia_protocol::extended::Removal;

/// One thing to show. Texts are as the server or the person gave them: whoever prints them escapes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message of a group that one is a member of.
    Message(Line),
    /// A message out of the history that was asked for.
    Past(Line),
    /// Messages of a group that will not come any more.
    Missing {
        /// The group.
        group: String,
        /// The first missing `seq`.
        first: u64,
        /// The last missing `seq`.
        last: u64,
    },
    /// A page of the users in a group.
    Members {
        /// The group.
        group: String,
        /// Their names.
        users: Vec<String>,
    },
    /// A page of the groups there are.
    Groups(Vec<GroupLine>),
    /// The commands that can be typed.
    Help,
    /// How things stand: joined, left, connected again.
    Note(String),
    /// What went wrong: a refusal, a lost connection.
    Problem(String),
}

/// A message with all that is known of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line {
    /// The group.
    pub(crate) group: String,
    /// Its place in the group.
    pub(crate) seq: u64,
    /// Who posted it.
    pub(crate) sender: String,
    /// When, in milliseconds since 1970-01-01 UTC.
    pub(crate) at: u64,
    /// The text.
    pub(crate) text: String,
    /// Whether that was removed.
    pub(crate) removed: bool,
    /// The removal of which it tells.
    pub(crate) removes: Option<Removed>,
}

/// Messages whose texts were removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removed {
    /// The `seq` of the first.
    pub(crate) first: u64,
    /// The `seq` of the last.
    pub(crate) last: u64,
    /// Only those of this sender.
    pub(crate) sender: Option<String>,
}

impl From<Removal<'_>> for Removed {
    fn from(removal: Removal<'_>) -> Self {
        let Removal { first, last, sender } = removal;
        Self { first, last, sender: sender.map(std::borrow::Cow::into_owned) }
    }
}

/// A group in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupLine {
    /// Its name.
    pub(crate) name: String,
    /// Connections that are members.
    pub(crate) members: u64,
    /// The newest `seq`.
    pub(crate) head: u64,
}
