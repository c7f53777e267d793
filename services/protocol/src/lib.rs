//! The wire protocol of tertulia.
//!
//! One JSON object per line, UTF-8, ended by `\n`. Two dialects share a port: the *classic* one of the
//! async chat in *Programming Rust* (chapter 20), and the *extended* one, which a connection chooses by
//! beginning with `Hello`. `docs/protocol.md` is the prose of what these types say.

pub mod classic;
pub mod code;
pub mod codec;
pub mod extended;
pub mod name;

pub use code::Code;
pub use codec::{Fault, LineBuffer, LineTooLong};
pub use name::{GroupName, NameError, NameRules, PostId, Removal, UserName};

/// The newest version of the extended dialect that this crate speaks.
pub const VERSION: u32 = 1;

/// The two ways to speak on one port; a connection's first line chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// What the chat client of *Programming Rust*, chapter 20, speaks.
    Classic,
    /// What begins with `Hello`.
    Extended,
}

impl Dialect {
    /// The name as it stands in logs, metrics and the admin API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Extended => "extended",
        }
    }
}
