//! A backup of a running log: a copy of one moment of the tables, while posts go on.
//!
//! Everything acknowledged before the backup began is moved into the tables first, so the copy needs no commit log: it is a complete
//! data directory of its own. Copying the files of a running server one by one would not be (a file-system snapshot is).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value};

use super::Embedded;
use super::disk::{Directory, Disk};
use super::open::{OpenError, open_tables};
use super::table::{self, GROUPS, MESSAGES, META, TRIMS, TableError, Tables, meta};

/// Rows that are copied in one transaction.
const ROWS: usize = 65_536;
/// Memory for the pages of the copy.
const CACHE: usize = 64 * 1024 * 1024;

/// Why a backup failed. What it has written by then is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The place is taken.
    #[error("{} is not empty: give a new or an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// The copy cannot be made.
    #[error("cannot make the backup: {0}")]
    Open(#[from] OpenError),
    /// The log cannot move what was acknowledged into the tables.
    #[error("the log cannot be backed up now: {0}")]
    Unavailable(String),
    /// The tables cannot be read, or the copy not written.
    #[error("cannot copy the tables: {0}")]
    Copy(String),
}

impl From<TableError> for BackupError {
    fn from(error: TableError) -> Self {
        Self::Copy(error.to_string())
    }
}

impl Embedded {
    /// Copies the log into `dest`, a new or empty directory, which can then serve as a data directory. Holds every message that
    /// was acknowledged before the call, and none is written while it is read: the copy is of one moment.
    ///
    /// # Errors
    /// Why there is no backup.
    pub async fn backup(&self, dest: &Path) -> Result<(), BackupError> {
        if !self.flush().await {
            let reason = self.core.trouble.any().unwrap_or_else(|| "the tables cannot be written".to_owned());
            return Err(BackupError::Unavailable(reason));
        }
        let (core, dest) = (Arc::clone(&self.core), dest.to_owned());
        let copied = tokio::task::spawn_blocking(move || copy(&core.tables, &dest)).await;
        copied.map_err(|error| BackupError::Copy(error.to_string()))?
    }
}

/// Copies one moment of the tables into a new or empty directory.
pub(super) fn copy(tables: &Tables, dest: &Path) -> Result<(), BackupError> {
    if dest.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(BackupError::NotEmpty(dest.to_owned()));
    }
    let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dest)?);
    let copy = open_tables(&disk, CACHE)?;
    tables.read(|from| {
        copy_table(from, &copy, GROUPS)?;
        copy_table(from, &copy, MESSAGES)?;
        copy_table(from, &copy, TRIMS)?;
        copy_table(from, &copy, META)
    })?;
    // There is no commit log beside the copy, and none is needed.
    copy.set_number(meta::IN_USE, 0)?;
    copy.close()?;
    tracing::info!(file = %disk.path(table::FILE).display(), "made a backup");
    Ok(())
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &Tables,
    definition: TableDefinition<'_, K, V>,
) -> Result<(), TableError> {
    let table = from.open_table(definition)?;
    let mut rows = table.iter()?.peekable();
    while rows.peek().is_some() {
        to.write(|transaction| {
            let mut copy = transaction.open_table(definition)?;
            for row in rows.by_ref().take(ROWS) {
                let (key, value) = row?;
                copy.insert(key.value(), value.value())?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
