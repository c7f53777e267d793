//! How a session ends.

use std::io;

use super::proof;
use super::state::{Refusal, Unanswered};
use crate::screen::Over;

/// Why a session failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// There is nobody.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection ended, and it is not to be made again.
    #[error("the connection to {address} is lost: {reason}")]
    Lost {
        /// Where.
        address: String,
        /// Why.
        reason: String,
    },
    /// There is nothing to show to the server.
    #[error(transparent)]
    Proof(#[from] proof::Error),
    /// The server does not let the client in.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The linger time is over, and posts are left.
    #[error("gave up waiting for the server: {0}")]
    Unanswered(Unanswered),
    /// The linger time is over, and something else is left.
    #[error("what was asked for did not come in time: {0}")]
    Late(String),
    /// Some of what was asked for was refused.
    #[error("{0} of the commands failed")]
    Failures(u64),
    /// Why there is none was told.
    #[error("no group is left to follow, and no command can come that joins one")]
    NoGroup,
    /// Nothing more can be printed.
    #[error(transparent)]
    Output(#[from] Over),
}

impl Error {
    /// Whether another address of the host may let in whom this one has not.
    pub(crate) fn is_of_address(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Lost { .. } => true,
            Self::Refused(refusal) => {
                matches!(refusal, Refusal::TurnedAway(_) | Refusal::Later(_) | Refusal::NotTertulia(_))
            }
            _ => false,
        }
    }
}

/// How a session ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All was said.
    Done,
    /// That signal came.
    Signal(u8),
}
