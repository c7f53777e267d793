//! What is said of the error that the program ends with.

use std::io;

/// Whether the output was not written because nobody reads it any more.
pub(crate) fn has_reader_left(error: &anyhow::Error) -> bool {
    let is_broken_pipe = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_broken_pipe))
}

/// An error and its causes on one line. Many an error tells its cause itself: that is not said twice.
pub(crate) fn with_causes(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use tertulia_server::log::embedded::{OfflineError, OpenError};

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let denied = || io::Error::from(io::ErrorKind::PermissionDenied);
        let opened = Err::<(), _>(OpenError::NotWritable { path: "data".into(), source: denied() });
        assert_eq!(
            with_causes(&opened.context("cannot open the log").unwrap_err()),
            "cannot open the log: cannot write in the data directory, at data: permission denied; make it writable for this user, or set \
             log.data_dir"
        );
        let written = Err::<(), _>(denied()).context("cannot write the export to dogs.jsonl");
        assert_eq!(with_causes(&written.unwrap_err()), "cannot write the export to dogs.jsonl: permission denied");
    }

    #[test]
    fn a_reader_that_has_left_is_told_from_other_errors() {
        let exported = |kind: io::ErrorKind| anyhow::Error::from(OfflineError::Output(kind.into()));
        assert!(has_reader_left(&exported(io::ErrorKind::BrokenPipe)));
        assert!(!has_reader_left(&exported(io::ErrorKind::StorageFull)));
    }
}
