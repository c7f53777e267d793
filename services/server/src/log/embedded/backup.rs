//! A backup of a log, running or not: a copy of one moment of the tables, while posts go on.
//!
//! Everything acknowledged before the backup began is moved into the tables first, so the copy needs no commit log: it is a complete
//! data directory of its own. Copying the files of a running server one by one would not be (a file-system snapshot is).
//!
//! The copy of a running server is made beside its place, under another name, and gets its own when it is whole: a directory with the
//! right name is a backup.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value};

use super::Core;
use super::disk::{Directory, Disk};
use super::notes;
use super::open::{OpenError, open_tables};
use super::table::{self, GROUPS, MESSAGES, META, TRIMS, TableError, Tables, meta};
use super::trouble::Cause;
use crate::log::notes::Note;
use crate::log::{BackupError, Copied};

/// Rows that are copied in one transaction.
const ROWS: usize = 65_536;
/// Memory for the pages of the copy.
const CACHE: usize = 64 * 1024 * 1024;
/// What the name of a copy ends in until it is whole.
const PARTIAL: &str = ".partial";

/// Why a copy was not made. What was written by then is to be thrown away.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The place is taken.
    #[error("{} is not empty: give a new or an empty directory", .0.display())]
    NotEmpty(PathBuf),
    /// Nothing can be written at the place.
    #[error(
        "cannot make the backup: cannot write at {}: {source}; give a directory that this user may write",
        path.display()
    )]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The place is not a directory.
    #[error("cannot make the backup: {} is not a directory: give a new or an empty one", .0.display())]
    NotADirectory(PathBuf),
    /// Another backup is made there.
    #[error("cannot make the backup: another process uses {}: give another directory", .0.display())]
    InUse(PathBuf),
    /// The copy cannot be opened.
    #[error("cannot make the backup: {0}")]
    Open(OpenError),
    /// The log stops.
    #[error("the log is being closed")]
    Stopping,
    /// The tables cannot be read, or the copy not written.
    #[error("cannot copy the tables: {0}")]
    Tables(String),
}

impl From<OpenError> for CopyError {
    /// What is advised about a data directory is no help with the place of a backup.
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NotWritable { path, source } => Self::NotWritable { path, source },
            OpenError::NotADirectory { path } => Self::NotADirectory(path),
            OpenError::Locked { path, .. } => Self::InUse(path),
            error => Self::Open(error),
        }
    }
}

impl From<TableError> for CopyError {
    fn from(error: TableError) -> Self {
        Self::Tables(error.to_string())
    }
}

impl From<CopyError> for BackupError {
    fn from(error: CopyError) -> Self {
        match error {
            CopyError::NotEmpty(path) => Self::Taken(path),
            CopyError::Stopping => Self::Unavailable(error.to_string()),
            CopyError::NotWritable { .. }
            | CopyError::NotADirectory(_)
            | CopyError::InUse(_)
            | CopyError::Open(_)
            | CopyError::Tables(_) => Self::Failed(error.to_string()),
        }
    }
}

impl Core {
    /// Copies the running log into `to`, which is made.
    pub(super) fn back_up(&self, to: &Path) -> Result<Copied, BackupError> {
        if !self.backlog.flush() {
            let reason = self.trouble.any().unwrap_or_else(|| "the tables cannot be written".to_owned());
            return Err(BackupError::Unavailable(reason));
        }
        if to.exists() {
            return Err(BackupError::Taken(to.to_owned()));
        }
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(PARTIAL);
        let partial = to.with_file_name(name);
        let made = self.copy_into(&partial).and_then(|copied| {
            publish(&partial, to).map_err(|error| failed("give the backup its name", to, &error))?;
            Ok(copied)
        });
        if made.is_err() {
            discard(&partial);
        }
        made
    }

    fn copy_into(&self, partial: &Path) -> Result<Copied, BackupError> {
        // What a server left behind that ended while it made one.
        discard(partial);
        fs::create_dir_all(partial).map_err(|error| failed("make the directory", partial, &error))?;
        let needed = self.tables.disk_bytes().saturating_add(self.files.reserve());
        let stat =
            rustix::fs::statvfs(partial).map_err(|error| failed("look at the space of", partial, &error.into()))?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        if available < needed {
            return Err(BackupError::NoSpace { available, needed });
        }
        let stops = || self.trouble.of(Cause::Stopped).is_some();
        Ok(copy(&self.tables, &self.notes.all(), partial, &stops)?)
    }
}

fn failed(action: &str, path: &Path, error: &io::Error) -> BackupError {
    BackupError::Failed(format!("cannot {action} {}: {error}", path.display()))
}

/// Removes a copy that is not whole. What cannot be removed now, the next backup of that name removes.
fn discard(partial: &Path) {
    if let Err(error) = fs::remove_dir_all(partial)
        && !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    {
        tracing::warn!(%error, directory = %partial.display(), "cannot remove a backup that is not whole");
    }
}

/// Gives a whole copy its name. If that may not last, it has not got it.
fn publish(partial: &Path, to: &Path) -> io::Result<()> {
    fs::rename(partial, to)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = fs::File::open(parent).and_then(|parent| parent.sync_all());
    synced.inspect_err(|_| drop(fs::rename(to, partial)))
}

/// As [`copy`], so that whatever ends it in between, what is there does not serve as a copy. The directory may be an empty one that cannot be
/// replaced, such as a mounted volume: the copy is made in one within it, whose files are then moved, the tables last.
pub(super) fn copy_whole(tables: &Tables, kept: &[Note], dest: &Path) -> Result<Copied, CopyError> {
    let partial = dest.join(PARTIAL);
    let is_other = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path() != partial);
    if dest.read_dir().is_ok_and(|mut entries| entries.any(is_other)) {
        return Err(CopyError::NotEmpty(dest.to_owned()));
    }
    discard(&partial);
    let made = copy(tables, kept, &partial, &|| false).and_then(|copied| {
        unpack(&partial, dest).map_err(|error| CopyError::Tables(error.to_string()))?;
        Ok(copied)
    });
    discard(&partial);
    made
}

fn unpack(partial: &Path, dest: &Path) -> io::Result<()> {
    let sync = || fs::File::open(dest)?.sync_all();
    for entry in partial.read_dir()? {
        let entry = entry?;
        if entry.file_name() != table::FILE {
            fs::rename(entry.path(), dest.join(entry.file_name()))?;
        }
    }
    sync()?;
    fs::rename(partial.join(table::FILE), dest.join(table::FILE))?;
    sync()
}

/// Copies one moment of the tables, and notes, into a new or empty directory, unless it `stops` in between.
pub(super) fn copy(tables: &Tables, kept: &[Note], dest: &Path, stops: &dyn Fn() -> bool) -> Result<Copied, CopyError> {
    if dest.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(CopyError::NotEmpty(dest.to_owned()));
    }
    let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dest)?);
    let copy = open_tables(&disk, CACHE)?;
    let whole = tables.read(|from| {
        Ok(copy_table(from, &copy, GROUPS, stops)?
            && copy_table(from, &copy, MESSAGES, stops)?
            && copy_table(from, &copy, TRIMS, stops)?
            && copy_table(from, &copy, META, stops)?)
    })?;
    if !whole {
        return Err(CopyError::Stopping);
    }
    if !kept.is_empty() {
        notes::write(&*disk, kept).map_err(|error| CopyError::Tables(error.to_string()))?;
    }
    // There is no commit log beside the copy, and none is needed.
    copy.set_number(meta::IN_USE, 0)?;
    let copied = Copied { groups: copy.count()?, bytes: copy.disk_bytes() };
    copy.close()?;
    tracing::info!(file = %disk.path(table::FILE).display(), "made a backup");
    Ok(copied)
}

/// Answers whether all of the table was copied.
fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &Tables,
    definition: TableDefinition<'_, K, V>,
    stops: &dyn Fn() -> bool,
) -> Result<bool, TableError> {
    let table = from.open_table(definition)?;
    let mut rows = table.iter()?.peekable();
    while rows.peek().is_some() {
        if stops() {
            return Ok(false);
        }
        to.write(|transaction| {
            let mut copy = transaction.open_table(definition)?;
            for row in rows.by_ref().take(ROWS) {
                let (key, value) = row?;
                copy.insert(key.value(), value.value())?;
            }
            Ok(())
        })?;
    }
    Ok(true)
}
