//! What goes wrong in a call, and the one place that says it in gRPC's words. Every text is fit for the caller.

use std::sync::Arc;

use tertulia_protocol::{GroupName, NameError};
use tonic::{Code, Status};

use crate::shard::request::Selection;
use crate::shard::{BackupError, HoldError, ReadError, Refusal, Untold};
use crate::telemetry::levels::Unchanged;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A name breaks a rule.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Another field breaks a rule; the text says which.
    #[error("{0}")]
    Argument(String),
    /// There is no such group.
    #[error("there is no group '{0}'")]
    NoSuchGroup(GroupName),
    /// The log has no such message.
    #[error(
        "the log holds no message {selection} in group '{group}' that can be removed: there was none in this epoch, or it is gone as a whole"
    )]
    NoSuchMessages {
        /// The group.
        group: GroupName,
        /// Which.
        selection: Selection,
    },
    /// The owner of a group refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The log cannot be read; the operators' text stays in the server's log.
    #[error("the message log cannot be read now")]
    Unreadable(#[from] ReadError),
    /// A hold was not made, or that is not known; so nothing else was done.
    #[error("{}", not_held(.0))]
    NotHeld(#[from] HoldError),
    /// The log of this server cannot be changed.
    #[error(transparent)]
    LogUnchanged(#[from] Unchanged),
    /// The owner of a group has stopped.
    #[error("the server is stopping")]
    Stopped,
    /// Another node did not answer what is only asked.
    #[error(
        "node '{node}' did not answer, and nobody else knows what it has; nothing was changed, and the call may be repeated"
    )]
    NotTold {
        /// Its name.
        node: String,
    },
    /// Shards are on their way from one node to another.
    #[error("no node has the groups of {shards} shards now; the call may be repeated")]
    Unowned {
        /// How many.
        shards: usize,
    },
    /// Another node did not answer.
    #[error("node '{node}' did not answer; what the call does may be done there or not")]
    NodeSilent {
        /// Its name.
        node: String,
    },
    /// A call took too long.
    #[error("the call was not answered within {0} s; what it does may be done or not")]
    TimedOut(u64),
    /// As many watch as may.
    #[error("{max} watch already, as many as may (admin.watchers)")]
    TooManyWatchers {
        /// The limit.
        max: usize,
    },
    /// Backups are not configured.
    #[error("this server makes no backups: its operator has to set admin.backup_dir")]
    NoBackupDirectory,
    /// One backup at a time.
    #[error("a backup is under way")]
    BackupUnderWay,
    /// A backup was not made.
    #[error("{0}")]
    Backup(BackupError),
    /// No token, or a wrong one.
    #[error("this call needs the header 'authorization: Bearer TOKEN' with the right token")]
    Unauthenticated,
    /// The token is not for this.
    #[error("this call changes things, and the token '{name}' may only read (admin.token_file)")]
    MayOnlyRead {
        /// Whose token it is.
        name: Arc<str>,
    },
}

/// Why a hold was not made, or is not known to be, for the caller; the operators' text stays in the server's log.
fn not_held(error: &HoldError) -> String {
    match error {
        HoldError::Full { .. } => error.to_string(),
        HoldError::NotKept(_) => {
            "the hold could not be kept, or that is not known; nothing else was done. Ask for it again".to_owned()
        }
    }
}

impl Error {
    /// A field breaks a rule.
    pub(super) fn argument(rule: impl Into<String>) -> Self {
        Self::Argument(rule.into())
    }

    fn code(&self) -> Code {
        match self {
            Self::Name(_) | Self::Argument(_) => Code::InvalidArgument,
            Self::NoSuchGroup(_) | Self::NoSuchMessages { .. } | Self::Refused(Refusal::NoSuchGroup(_)) => {
                Code::NotFound
            }
            Self::Refused(
                Refusal::Closed { .. }
                | Refusal::Kicked { .. }
                | Refusal::NotAMember(_)
                | Refusal::GroupFull { .. }
                | Refusal::ServerFull { .. }
                | Refusal::TooManyNewGroups { .. },
            ) => Code::FailedPrecondition,
            Self::Refused(Refusal::Unavailable { .. } | Refusal::Draining)
            | Self::Unreadable(_)
            | Self::NotTold { .. }
            | Self::Unowned { .. }
            | Self::NotHeld(HoldError::NotKept(_))
            | Self::Stopped => Code::Unavailable,
            // What was asked for may be done: clients that repeat by themselves what is UNAVAILABLE must not repeat this.
            Self::Refused(Refusal::Unanswered { .. } | Refusal::NodeSilent)
            | Self::NodeSilent { .. }
            | Self::TimedOut(_) => Code::DeadlineExceeded,
            Self::NoBackupDirectory | Self::Backup(BackupError::Unsupported) => Code::FailedPrecondition,
            Self::Backup(BackupError::Taken(_)) => Code::AlreadyExists,
            Self::Backup(BackupError::Unavailable(_)) => Code::Unavailable,
            Self::Backup(BackupError::Failed(_)) | Self::LogUnchanged(_) => Code::Internal,
            Self::TooManyWatchers { .. }
            | Self::NotHeld(HoldError::Full { .. })
            | Self::BackupUnderWay
            | Self::Backup(BackupError::NoSpace { .. } | BackupError::Crowded { .. }) => Code::ResourceExhausted,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::MayOnlyRead { .. } => Code::PermissionDenied,
        }
    }
}

impl From<Untold> for Error {
    fn from(untold: Untold) -> Self {
        match untold {
            Untold::Unread(error) => Self::Unreadable(error),
            Untold::Silent { node, why } => {
                tracing::warn!(node, why, "a node does not tell its groups");
                Self::NotTold { node }
            }
            Untold::Unowned { shards } => Self::Unowned { shards },
            Untold::Refused(refusal) => Self::Refused(refusal),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        match &error {
            Error::Unreadable(cause) => tracing::warn!(error = %cause, "admin call failed"),
            Error::NotHeld(cause) => tracing::warn!(error = %cause, "admin call failed"),
            _ => {}
        }
        Self::new(error.code(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_status_has_the_code_of_the_contract_and_tells_the_rule() {
        let group = GroupName::new("Dogs").unwrap();
        let retry_after = Duration::from_secs(1);
        let not_kept = HoldError::NotKept(crate::shard::NoteError { reason: "disk sda1".into() });
        let unanswered = Refusal::Unanswered { group: group.clone(), retry_after };
        let cases: [(Error, Code, &str); 15] = [
            (unanswered.into(), Code::DeadlineExceeded, "It is not known"),
            (Refusal::NodeSilent.into(), Code::DeadlineExceeded, "it may be done there or not"),
            (Error::TimedOut(10), Code::DeadlineExceeded, "not answered within 10 s"),
            (not_kept.into(), Code::Unavailable, "the hold could not be kept, or that is not known"),
            (HoldError::Full { max: 3 }.into(), Code::ResourceExhausted, "3 holds are in force"),
            (GroupName::new("").unwrap_err().into(), Code::InvalidArgument, "a group name must not be empty"),
            (Error::NoSuchGroup(group.clone()), Code::NotFound, "there is no group 'Dogs'"),
            (Refusal::Unavailable { group: group.clone(), retry_after }.into(), Code::Unavailable, "cannot be stored"),
            (Refusal::Closed { group, retry_after }.into(), Code::FailedPrecondition, "is closed"),
            (ReadError { reason: "disk sda1".into() }.into(), Code::Unavailable, "the message log cannot be read now"),
            (Error::TooManyWatchers { max: 3 }, Code::ResourceExhausted, "3 watch already"),
            (
                Untold::Silent { node: "b".into(), why: "no answer".into() }.into(),
                Code::Unavailable,
                "node 'b' did not answer, and nobody else",
            ),
            (Untold::Unowned { shards: 3 }.into(), Code::Unavailable, "the groups of 3 shards"),
            (Error::NodeSilent { node: "b".into() }, Code::DeadlineExceeded, "may be done there or not"),
            (Untold::Refused(Refusal::NodeSilent).into(), Code::DeadlineExceeded, "may be done"),
        ];
        for (error, code, text) in cases {
            let status = Status::from(error);
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(text), "{status}");
        }
    }
}
