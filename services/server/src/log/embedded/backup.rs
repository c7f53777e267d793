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

use redb::{AccessGuard, Key, Range, ReadTransaction, ReadableTable, TableDefinition, Value};

use super::Core;
use super::disk::{Disk, above};
use super::notes;
use super::open::{OpenError, open_tables};
use super::partial::{self, PARTIAL, Partial};
use super::renewal::set_apart;
use super::table::{self, GROUPS, MESSAGES, META, REDACTIONS, TRIMS, TableError, Tables};
use super::trouble::Cause;
use crate::log::notes::Note;
use crate::log::{BackupError, Copied};

/// Rows that are copied in one transaction.
const ROWS: usize = 65_536;
/// Bytes of rows that are copied in one transaction: what it writes at its end holds up a stop.
const BYTES: usize = 8 * 1024 * 1024;
/// Memory for the pages of the copy.
const CACHE: usize = 64 * 1024 * 1024;

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
    /// It is not known how much space there is.
    #[error("cannot tell how much space is free at {}: {source}", path.display())]
    Space {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The copy would take the space that the log needs.
    #[error("{available} bytes are left where the copy is made, and {needed} must stay free")]
    NoSpace {
        /// What is free.
        available: u64,
        /// What must stay free, and what is still to be copied as far as that is known.
        needed: u64,
    },
    /// The copy keeps space from the log where that is.
    #[error("{available} bytes are left where the log is, and {needed} are to stay free")]
    Crowded {
        /// What the log may still take.
        available: u64,
        /// What posts need of it.
        needed: u64,
    },
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
            CopyError::NoSpace { available, needed } => Self::NoSpace { available, needed },
            CopyError::Crowded { available, needed } => Self::Crowded { available, needed },
            CopyError::Stopping => Self::Unavailable(error.to_string()),
            CopyError::NotWritable { .. }
            | CopyError::NotADirectory(_)
            | CopyError::InUse(_)
            | CopyError::Space { .. }
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
        partial::remove_left_behind(above(to));
        let mut name = to.file_name().unwrap_or_default().to_owned();
        name.push(PARTIAL);
        let partial = Partial::begin(to.with_file_name(name))?;
        let copied = self.copy_into(partial.disk())?;
        let cannot = |error| BackupError::Failed(format!("cannot give the backup its name, {}: {error}", to.display()));
        partial.publish(to).map_err(cannot)?;
        Ok(copied)
    }

    /// Copies the running log onto a disk, as long as that leaves the space that posts need.
    pub(super) fn copy_into(&self, disk: &Arc<dyn Disk>) -> Result<Copied, BackupError> {
        // Where posts are refused already, there is nothing to give way to.
        let gives_way = self.trouble.of(Cause::Space).is_none();
        // Where there is little from the beginning, posts do with that, as where the tables have room within their file.
        let begins_short = available(&self.disk)? < self.files.needs(self.backlog.size().bytes as u64);
        // Of the place, wherever it is: what is another file system may still have its space from where the log has (subvolumes, pools). And of
        // the log's own disk: what the tables free meanwhile is used again only after the copy, so their file grows.
        let room = |copy: u64| {
            let needs = self.files.needs(self.backlog.size().bytes as u64);
            let (free, needed) = (available(disk)?, needs.saturating_add(copy));
            if free < needed {
                return Err(CopyError::NoSpace { available: free, needed });
            }
            let (free, needed) = (available(&self.disk)?, if begins_short { self.files.kept() } else { needs });
            let short = (free < needed).then_some((free, needed)).or_else(|| self.files.nears_bound());
            match short.filter(|_| gives_way) {
                Some((available, needed)) => Err(CopyError::Crowded { available, needed }),
                None => Ok(()),
            }
        };
        room(self.tables.disk_bytes())?;
        let stops = || self.trouble.of(Cause::Stopped).is_some();
        Ok(copy(&self.tables, &self.notes.kept(), disk, &While { stops: &stops, room: &|| room(0) })?)
    }
}

fn available(disk: &Arc<dyn Disk>) -> Result<u64, CopyError> {
    let space = disk.space().map_err(|source| CopyError::Space { path: disk.path(""), source })?;
    Ok(space.available)
}

/// As [`copy`], so that whatever ends it in between, what is there does not serve as a copy. The directory may be an empty one that cannot be
/// replaced, such as a mounted volume: the copy is made in one within it, whose files are then moved, the tables last.
pub(super) fn copy_whole(tables: &Tables, kept: &[Note], dest: &Path) -> Result<Copied, CopyError> {
    let is_foreign =
        |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| partial::is_foreign(dest, &entry.file_name()));
    if dest.read_dir().is_ok_and(|mut entries| entries.any(is_foreign)) {
        return Err(CopyError::NotEmpty(dest.to_owned()));
    }
    let partial = Partial::begin(dest.join(PARTIAL))?;
    let copied = copy(tables, kept, partial.disk(), &While { stops: &|| false, room: &|| Ok(()) })?;
    partial.unpack(dest).map_err(|error| CopyError::Tables(error.to_string()))?;
    Ok(copied)
}

/// What a copy goes on for.
pub(super) struct While<'a> {
    /// Whether the log stops; asked before each row.
    pub(super) stops: &'a dyn Fn() -> bool,
    /// Whether there is room for more; asked before each transaction.
    pub(super) room: &'a dyn Fn() -> Result<(), CopyError>,
}

/// Copies one moment of the tables, and notes, into a directory that has neither.
pub(super) fn copy(
    tables: &Tables,
    kept: &[Note],
    disk: &Arc<dyn Disk>,
    goes_on: &While<'_>,
) -> Result<Copied, CopyError> {
    let copy = open_tables(disk, CACHE)?;
    let mut copying = Copying { to: &copy, goes_on, ended: None };
    let read = tables.read_beside(|from| {
        copying.table(from, GROUPS)?;
        copying.table(from, MESSAGES)?;
        copying.table(from, TRIMS)?;
        match copying.table(from, REDACTIONS) {
            Err(error) if error.is_no_table() => {}
            copied => copied?,
        }
        copying.table(from, META)
    });
    if let Some(ended) = copying.ended {
        return Err(ended);
    }
    // Who stops closes the tables.
    read.map_err(|error| if (goes_on.stops)() { CopyError::Stopping } else { error.into() })?;
    if !kept.is_empty() {
        notes::write(&**disk, kept).map_err(|error| CopyError::Tables(error.to_string()))?;
    }
    // There is no commit log beside the copy, and none is needed.
    set_apart(&copy)?;
    let copied = Copied { groups: copy.count()?, bytes: copy.disk_bytes() };
    copy.close()?;
    tracing::info!(file = %disk.path(table::FILE).display(), "made a backup");
    Ok(copied)
}

/// Rows of one transaction.
type Rows<'a, K, V> = Vec<(AccessGuard<'a, K>, AccessGuard<'a, V>)>;

/// A copy as it is made.
struct Copying<'a> {
    to: &'a Tables,
    goes_on: &'a While<'a>,
    /// What ended it, if not that the tables cannot be read: their own errors have them opened again, those of the copy must not.
    ended: Option<CopyError>,
}

impl Copying<'_> {
    fn table<K: Key + 'static, V: Value + 'static>(
        &mut self,
        from: &ReadTransaction,
        definition: TableDefinition<'_, K, V>,
    ) -> Result<(), TableError> {
        let table = from.open_table(definition)?;
        let mut rows = table.iter()?;
        while self.ended.is_none() {
            let some = self.next(&mut rows)?;
            if some.is_empty() {
                break;
            }
            if self.ended.is_none()
                && let Err(ended) = self.write(definition, &some)
            {
                self.ended = Some(ended);
            }
        }
        Ok(())
    }

    /// The rows of the next transaction.
    fn next<'r, K: Key + 'static, V: Value + 'static>(
        &mut self,
        rows: &mut Range<'r, K, V>,
    ) -> Result<Rows<'r, K, V>, TableError> {
        let (mut some, mut bytes) = (Vec::new(), 0);
        while some.len() < ROWS && bytes < BYTES {
            if (self.goes_on.stops)() {
                self.ended = Some(CopyError::Stopping);
                break;
            }
            let Some(row) = rows.next() else { break };
            let (key, value) = row?;
            bytes += K::as_bytes(&key.value()).as_ref().len() + V::as_bytes(&value.value()).as_ref().len();
            some.push((key, value));
        }
        Ok(some)
    }

    fn write<K: Key + 'static, V: Value + 'static>(
        &self,
        definition: TableDefinition<'_, K, V>,
        rows: &Rows<'_, K, V>,
    ) -> Result<(), CopyError> {
        (self.goes_on.room)()?;
        self.to.write(|transaction| {
            let mut copy = transaction.open_table(definition)?;
            for (key, value) in rows {
                copy.insert(key.value(), value.value())?;
            }
            Ok(())
        })?;
        Ok(())
    }
}
