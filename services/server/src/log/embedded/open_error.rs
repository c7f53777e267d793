//! Why a log cannot be opened, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::disk::LOCK;
use super::table;

/// Why the log cannot be opened. Each says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk or the file system failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing can be written there.
    #[error("cannot write in the data directory, at {}: {source}; make it writable for this user, or set log.data_dir", path.display())]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not a directory.
    #[error("the data directory {} is not a directory: move away what is there, or set another log.data_dir", path.display())]
    NotADirectory {
        /// What stands in the way.
        path: PathBuf,
    },
    /// Another process uses the directory.
    #[error(
        "the data directory {} is in use by another process{}; stop that one, or set another log.data_dir. Do not remove {LOCK}: it is \
         never stale, since what a process has locked is free once it has ended",
        path.display(),
        process.map(|id| format!(" ({id})")).unwrap_or_default()
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The id of the other process, if it has told it.
        process: Option<u32>,
    },
    /// A file of the commit log is not what was written, in a part that had been on the disk.
    #[error(
        "the commit log is corrupt: {} at byte {offset}: {reason}. Messages that were acknowledged may be in what cannot be read: \
         restore a backup; or, to go on without everything from there on, move this file and later ones of the commit log away and, \
         if a file is missing then, run `tertulia-server log forget-commit-log`",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// A file that must be there is not.
    #[error(
        "the file {} is missing, and may hold acknowledged messages: bring it back, or restore a backup{}",
        path.display(),
        if path.ends_with(table::FILE) { "" } else { GIVE_UP }
    )]
    MissingFile {
        /// The file.
        path: PathBuf,
    },
    /// The commit log must be there, and no file is that could be its end.
    #[error(
        "the commit log is missing, and may hold acknowledged messages: there is no file of it from {} on; bring them back, \
         or restore a backup{GIVE_UP}",
        path.display()
    )]
    NoCommitLog {
        /// The first file that could be.
        path: PathBuf,
    },
    /// A file was written in another format.
    #[error(
        "{} has format {found}, and this version reads format {supported}: start the {} version of tertulia-server that wrote it, \
         or restore a backup that has format {supported}",
        path.display(),
        if found > supported { "newer" } else { "older" }
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What this version reads.
        supported: u32,
    },
    /// A file of another log lies in the directory.
    #[error("{} belongs to another data directory: move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A file of the commit log is of another copy of this log than the tables.
    #[error(
        "{} does not go on where the tables stand: it or messages.redb was brought here from another copy of the data directory. Bring \
         back what belongs together; or, to go on without what is in it, move this file and later ones of the commit log away and, if a \
         file is missing then, run `tertulia-server log forget-commit-log`",
        path.display()
    )]
    Astray {
        /// The file.
        path: PathBuf,
    },
    /// Either files of the commit log are missing, or the tables are a copy, such as a backup, that was put among files of a commit log that has
    /// gone on since. Nobody can tell which.
    #[error(
        "{} is older than {}, which goes on from {}, and that is not there: either files of the commit log are missing, which may hold \
         acknowledged messages, or the tables are a backup, or another earlier copy, that was put among the commit log of the log as it was \
         later. First bring back the files that are missing, or the messages.redb that the commit-* files belong to. Only to start without \
         what is in those, with what the tables hold, move the commit-* files away and, if a file is missing then, run \
         `tertulia-server log forget-commit-log`",
        tables.display(),
        file.display(),
        before.display()
    )]
    Older {
        /// The tables.
        tables: PathBuf,
        /// The oldest file of the commit log that is there.
        file: PathBuf,
        /// The one before it.
        before: PathBuf,
    },
    /// The tables cannot be opened or read.
    #[error(
        "cannot open the tables {}: {reason}. Before anything else copy the data directory to another disk, with its commit-* files: \
         what was acknowledged last may be in them alone. If the tables are damaged, restore a backup",
        path.display()
    )]
    Tables {
        /// The file.
        path: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// The tables can be opened, and what the commit log has beyond them cannot be moved there.
    #[error(
        "cannot move what was acknowledged last into the tables {}: {reason}. It is not lost: it is in the commit-* files. Copy the data \
         directory to another disk before anything else, and start there. If that fails too, `tertulia-server log export` writes of \
         each group what can be read, from the tables and from the commit log; then restore a backup",
        path.display()
    )]
    TakeOver {
        /// The file.
        path: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// The tables need space, and there is none.
    #[error("no space is left for the tables {}: {reason}. Nothing is lost: free some space, and start again", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The notes beside the log are not what was written.
    #[error(
        "the notes {} are damaged: {reason}; restore them from a backup, or move the file away to start without whom moderators hold",
        path.display()
    )]
    Notes {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A thread cannot be started.
    #[error("cannot start a thread of the log: {source}")]
    Thread {
        /// What the system said.
        source: io::Error,
    },
}

/// What else can be done about a missing file of the commit log.
const GIVE_UP: &str = "; or, to go on without what was in the commit log alone, move what is left of it from there on away and run \
                       `tertulia-server log forget-commit-log`";
