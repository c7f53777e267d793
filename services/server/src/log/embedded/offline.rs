//! What operators can do with a data directory that no server uses: check it, count it, back it up.
//!
//! All three bring the tables up to the commit log first, as a start does.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{ReadableTable, ReadableTableMetadata};
use serde::Serialize;

use super::backup::{self, CopyError};
use super::disk::{Directory, Disk};
use super::notes;
use super::open::{OpenError, Recovered, recover};
use super::retention::Rules;
use super::table::{self, Chunk, GROUPS, MESSAGES, Row, TRIMS, TableError, Tables};
use crate::log::config::{Config, Retention};

/// Why a command on a data directory failed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The directory holds no log.
    #[error("there is no log in {0}: give the directory that log.data_dir names")]
    NoLog(String),
    /// The commit log cannot be forgotten while something of it may be used.
    #[error(
        "{} is there, and may hold messages that the tables do not: a start or `log verify` takes them over; to give them up, \
         move this file and later ones of the commit log away first",
        path.display()
    )]
    CommitLogThere {
        /// The file.
        path: PathBuf,
    },
    /// The tables cannot be read, or contradict themselves.
    #[error("{0}; restore a backup")]
    Damaged(String),
    /// The tables need space, and there is none.
    #[error("no space is left for the tables: {0}. Nothing is lost: free some space, and run the command again")]
    Full(String),
    /// There is no such group.
    #[error("the log has no group '{0}'")]
    NoGroup(String),
    /// The copy cannot be made.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Something of the group cannot be read.
    #[error(
        "the export is not complete: {written} messages were written, and what cannot be read is missing: {missing}. Copy the data directory \
         to another disk, and look for what is missing there or in a backup"
    )]
    Incomplete {
        /// Messages that were written.
        written: u64,
        /// What is missing, and why.
        missing: String,
    },
    /// The output cannot be written.
    #[error("cannot write the export: {0}")]
    Output(#[from] io::Error),
}

impl From<TableError> for OfflineError {
    fn from(error: TableError) -> Self {
        let reason = error.to_string();
        if error.is_full() { Self::Full(reason) } else { Self::Damaged(reason) }
    }
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for OfflineError {
            fn from(error: $error) -> Self {
                TableError::from(error).into()
            }
        })*
    };
}

from_redb!(redb::StorageError, redb::TableError, super::record::DecodeError);

/// What was checked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Groups.
    pub groups: u64,
    /// Messages that were read.
    pub messages: u64,
    /// Messages that were still in the commit log alone.
    pub replayed: u64,
    /// Whether the tables were whole; if not, redb has repaired them.
    pub tables_whole: bool,
}

/// What a directory holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DirectoryStats {
    /// Groups.
    pub groups: u64,
    /// Messages that are kept.
    pub messages: u64,
    /// Bytes of the tables on the disk.
    pub table_bytes: u64,
    /// Bytes of the commit log on the disk.
    pub commit_log_bytes: u64,
}

/// Opens a directory as a start would, but without retention: a command to look must not remove anything.
fn open(dir: &Path) -> Result<(Arc<dyn Disk>, Recovered), OfflineError> {
    if !dir.join(table::FILE).is_file() {
        return Err(OfflineError::NoLog(dir.display().to_string()));
    }
    let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dir)?);
    let unlimited = Retention { messages: 0, bytes: 0, age: std::time::Duration::ZERO };
    let config = Config { data_dir: dir.to_owned(), retention: unlimited, ..Config::default() };
    let recovered = recover(&disk, &config, &Rules::new(&config))?;
    Ok((disk, recovered))
}

/// Checks everything: the commit log's blocks, the tables' checksums, and that every group is dense.
///
/// # Errors
/// The first fault, with its place.
pub fn verify(dir: &Path) -> Result<Verified, OfflineError> {
    let (disk, recovered) = open(dir)?;
    drop(notes::load(&*disk)?);
    let tables = recovered.tables;
    let tables_whole = tables.exclusive(|database| Ok(database.check_integrity()?))?;
    let mut verified = Verified { tables_whole, replayed: recovered.replayed as u64, ..Verified::default() };
    let checked = tables.read(|transaction| {
        let groups = transaction.open_table(GROUPS)?;
        let messages = transaction.open_table(MESSAGES)?;
        let trims = transaction.open_table(TRIMS)?;
        for entry in groups.iter()? {
            let (name, value) = entry?;
            let row = Row::decode(value.value())?;
            let head = row.head;
            let fault = |what: String| TableError::Contradiction(format!("group '{}': {what}", name.value()));
            let mut expected = None;
            // Chunks below this are waiting to be removed; some may have been.
            let waiting = trims.get(row.id)?.map_or(0, |through| through.value());
            for entry in messages.range((row.id, waiting + 1)..=(row.id, u64::MAX))? {
                let (key, value) = entry?;
                let chunk = Chunk::decode(key.value().1, value.value())?;
                if let Some(expected) = expected
                    && chunk.first != expected
                {
                    return Err(fault(format!("message {expected} is missing; {} follows", chunk.first)));
                }
                if expected.is_none() && chunk.first > head.first {
                    return Err(fault(format!("the oldest message is {}, not {}", chunk.first, head.first)));
                }
                expected = Some(chunk.last + 1);
                verified.messages += chunk.records()?.iter().filter(|record| record.seq >= head.first).count() as u64;
            }
            if head.first <= head.seq && expected != Some(head.seq + 1) {
                return Err(fault(format!("the newest message is not {}", head.seq)));
            }
            verified.groups += 1;
        }
        Ok(())
    });
    checked?;
    tables.close()?;
    Ok(verified)
}

/// Counts what a directory holds.
///
/// # Errors
/// As [`verify`], as far as things are read.
pub fn stats(dir: &Path) -> Result<DirectoryStats, OfflineError> {
    let (disk, recovered) = open(dir)?;
    let tables = recovered.tables;
    let (groups, messages) = count(&tables)?;
    let mut stats = DirectoryStats { groups, messages, table_bytes: tables.disk_bytes(), commit_log_bytes: 0 };
    for name in disk.list()?.iter().filter(|name| name.starts_with("commit-") || name.starts_with("spare-")) {
        stats.commit_log_bytes += disk.open(name, false)?.allocated()?;
    }
    tables.close()?;
    Ok(stats)
}

/// The groups that the tables hold, and the messages that are kept of them.
pub(crate) fn count(tables: &Tables) -> Result<(u64, u64), TableError> {
    tables.read(|transaction| {
        let groups = transaction.open_table(GROUPS)?;
        let mut messages = 0;
        for entry in groups.iter()? {
            let head = Row::decode(entry?.1.value())?.head;
            messages += (head.seq + 1).saturating_sub(head.first);
        }
        Ok((groups.len()?, messages))
    })
}

/// Copies a directory into `dest`, a new or empty one, which can then serve as a data directory. Answers what was copied.
///
/// # Errors
/// As [`verify`], as far as things are read; and of the copy.
pub fn back_up(dir: &Path, dest: &Path) -> Result<DirectoryStats, OfflineError> {
    let (disk, recovered) = open(dir)?;
    backup::copy_whole(&recovered.tables, &notes::load(&*disk)?, dest)?;
    recovered.tables.close()?;
    // The first look at the copy is not left to the day on which it is needed.
    stats(dest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::simulated::{Faults, SimulatedDisk};

    #[test]
    fn a_full_disk_is_no_damage() {
        let disk = SimulatedDisk::default();
        let tables = Tables::open(Arc::new(disk.clone()), 1024 * 1024, 1).unwrap();
        disk.set_faults(Faults { capacity: Some(0), ..Faults::default() });
        let written = tables.write(|transaction| {
            transaction.open_table(MESSAGES)?.insert((1, 1), vec![7; 16 * 1024 * 1024].as_slice())?;
            Ok(())
        });
        let told = OfflineError::from(written.unwrap_err()).to_string();
        assert!(told.contains("free some space") && !told.contains("backup"), "{told}");
    }
}
