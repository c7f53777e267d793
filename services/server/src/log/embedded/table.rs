//! The tables: redb, which holds everything that is read.
//!
//! Messages are kept in **chunks**: consecutive messages of a group that were applied in one transaction, up to about a page. A
//! chunk instead of a message as the unit makes applying, reading and removing an order of magnitude cheaper in B-tree work.
//! Each carries the bytes of its group before it, so that what a group holds from any message on is a subtraction.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use tertulia_protocol::GroupName;

use super::disk::{Disk, DiskFile, is_full};
use super::frame::Position;
use super::pace::Pace;
use super::record::{DecodeError, Input, decode_record};
use crate::log::{Head, Record};

/// The file of the tables.
pub(crate) const FILE: &str = "messages.redb";
/// The tables while they are made for the first time.
pub(crate) const NEW_FILE: &str = "messages.redb.new";
/// The format of the tables.
pub(crate) const VERSION: u64 = 1;

/// Groups by name: [`Row`].
pub(crate) const GROUPS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("groups");
/// Chunks by group id and the `seq` of their last message.
pub(crate) const MESSAGES: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("messages");
/// Group ids whose chunks up to a `seq` are still to be removed.
pub(crate) const TRIMS: TableDefinition<'_, u64, u64> = TableDefinition::new("trims");
/// Group ids and `seq`s of messages whose texts are removed and may still stand in their chunks: whoever reads these leaves the texts out.
/// Tables that never had one have no such table.
pub(crate) const REDACTIONS: TableDefinition<'_, (u64, u64), ()> = TableDefinition::new("redactions");
/// Single numbers.
pub(crate) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// The keys of [`META`].
pub(crate) mod meta {
    pub(crate) const VERSION: &str = "version";
    pub(crate) const LOG: &str = "log";
    pub(crate) const NEXT_ID: &str = "next_group_id";
    pub(crate) const APPLIED_FILE: &str = "applied_file";
    pub(crate) const APPLIED_END: &str = "applied_end";
    pub(crate) const APPLIED_BLOCK: &str = "applied_block";
    /// 1 while a commit log must be there beside the tables.
    pub(crate) const IN_USE: &str = "in_use";
    /// 1 once the groups of tables that were set apart, as a backup is, have new epochs.
    pub(crate) const RENEWED: &str = "epochs_renewed";
}

/// What went wrong with the tables.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// redb's own.
    #[error("{0}")]
    Redb(#[from] Box<redb::Error>),
    /// A value is not what was written.
    #[error("the tables are damaged: {0}")]
    Decode(#[from] DecodeError),
    /// The commit log and the tables contradict each other.
    #[error("the tables are damaged: {0}")]
    Contradiction(String),
    /// redb panicked: what it read contradicts what it writes, since a page of the file is not what was written.
    #[error("the tables are damaged: what was read of their file is not what was written ({0})")]
    Broken(String),
    /// An error of the disk, met where only retention reads: without this group, what was tried may be done.
    #[error("{error}")]
    Unreadable {
        /// The id of the group.
        id: u64,
        /// What it is known by.
        group: String,
        /// What redb said.
        error: Box<redb::Error>,
    },
    /// The tables were closed, or are being opened again after an error.
    #[error("the tables are not open now")]
    Closed,
    /// The disk failed there a moment ago.
    #[error("the disk cannot be read where this is kept; it is tried again later")]
    Avoided,
}

macro_rules! from_redb {
    ($($error:ty),*) => {
        $(impl From<$error> for TableError {
            fn from(error: $error) -> Self {
                Self::Redb(Box::new(error.into()))
            }
        })*
    };
}

from_redb!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError, redb::DatabaseError);

impl TableError {
    fn io(&self) -> Option<&std::io::Error> {
        match self {
            Self::Redb(error) => match &**error {
                redb::Error::Io(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a table was to be read that there is not, as those that came later are missing where nothing was written since.
    pub(crate) fn is_no_table(&self) -> bool {
        matches!(self, Self::Redb(error) if matches!(**error, redb::Error::TableDoesNotExist(_)))
    }

    /// Whether there is no space.
    pub(crate) fn is_full(&self) -> bool {
        self.io().is_some_and(is_full)
    }

    /// Whether the disk failed, other than by being full. redb then takes nothing until it is opened again.
    pub(crate) fn is_disk_failure(&self) -> bool {
        matches!(self, Self::Unreadable { .. }) || self.io().is_some_and(|error| !is_full(error))
    }

    /// Says of which group what could not be read is, if it is the disk that failed.
    pub(crate) fn met_at(self, id: u64, group: impl FnOnce() -> String) -> Self {
        match self {
            Self::Redb(error) if matches!(&*error, redb::Error::Io(error) if !is_full(error)) => {
                Self::Unreadable { id, group: group(), error }
            }
            other => other,
        }
    }
}

/// Runs what may panic within redb: it checks no page that it reads, and takes for certain what a damaged one does not keep to. An open
/// transaction is undone on the way out, and the tables stay as they were.
fn guarded<T>(work: impl FnOnce() -> Result<T, TableError>) -> Result<T, TableError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Err(TableError::Broken(text.unwrap_or("redb does not say how").to_owned()))
    })
}

/// A group as the tables hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: u64,
    pub(crate) head: Head,
    /// Bytes of all messages that the group ever had.
    pub(crate) bytes: u64,
}

impl Row {
    pub(crate) fn encode(&self) -> [u8; 48] {
        let mut out = [0; 48];
        let numbers = [self.id, self.head.epoch, self.head.seq, self.head.first, self.head.at, self.bytes];
        for (slot, number) in out.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Input::new(bytes);
        let id = input.u64()?;
        let head = Head { epoch: input.u64()?, seq: input.u64()?, first: input.u64()?, at: input.u64()? };
        Ok(Self { id, head, bytes: input.u64()? })
    }
}

/// Bytes of a chunk that come before its records.
pub(crate) const CHUNK_HEADER: usize = 12;

/// A value of [`MESSAGES`].
#[derive(Debug)]
pub(crate) struct Chunk<'a> {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of the group's messages before this chunk.
    pub(crate) before: u64,
    records: Input<'a>,
}

impl<'a> Chunk<'a> {
    /// The bytes that come before the records.
    pub(crate) fn header(count: u32, before: u64) -> [u8; CHUNK_HEADER] {
        let mut out = [0; CHUNK_HEADER];
        out[..4].copy_from_slice(&count.to_le_bytes());
        out[4..].copy_from_slice(&before.to_le_bytes());
        out
    }

    pub(crate) fn decode(last: u64, bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut input = Input::new(bytes);
        let count = u64::from(input.u32()?);
        let before = input.u64()?;
        if count == 0 || count > last {
            return Err(DecodeError::new(format!("a chunk of {count} messages ends at {last}")));
        }
        Ok(Self { first: last + 1 - count, last, before, records: input })
    }

    /// All its messages, oldest first.
    pub(crate) fn records(mut self) -> Result<Vec<Record>, DecodeError> {
        (self.first..=self.last).map(|seq| decode_record(seq, &mut self.records)).collect()
    }
}

/// The open tables. An error of the disk is final for an opened redb, so they can be opened again.
#[derive(Debug)]
pub(crate) struct Tables {
    disk: Arc<dyn Disk>,
    cache: usize,
    database: RwLock<Option<Database>>,
    file: RwLock<Option<Arc<dyn DiskFile>>>,
    pace: Arc<Pace>,
    /// An error of the disk was met.
    suspect: AtomicBool,
}

impl Tables {
    /// Opens the tables, or makes empty ones for a log called `log`.
    pub(crate) fn open(disk: Arc<dyn Disk>, cache: usize, log: u64) -> Result<Self, TableError> {
        let io = |error: std::io::Error| TableError::from(redb::StorageError::Io(error));
        if !disk.list().map_err(io)?.iter().any(|name| name == FILE) {
            // Made under another name, so that a crash on the way leaves nothing that must be understood.
            let file = disk.open(NEW_FILE, true).map_err(io)?;
            file.set_len(0).map_err(io)?;
            let database = redb::Builder::new().create_with_backend(Backend::new(file, Arc::default()))?;
            let transaction = database.begin_write()?;
            {
                let mut table = transaction.open_table(META)?;
                table.insert(meta::VERSION, VERSION)?;
                table.insert(meta::LOG, log)?;
                table.insert(meta::NEXT_ID, 1)?;
                transaction.open_table(GROUPS)?;
                transaction.open_table(MESSAGES)?;
                transaction.open_table(TRIMS)?;
            }
            transaction.commit()?;
            database.close()?;
            disk.rename(NEW_FILE, FILE).map_err(io)?;
            disk.sync_dir().map_err(io)?;
        }
        let tables = Self {
            disk,
            cache,
            database: RwLock::new(None),
            file: RwLock::new(None),
            pace: Arc::default(),
            suspect: AtomicBool::new(false),
        };
        tables.reopen()?;
        Ok(tables)
    }

    /// Opens the tables again after an error; the same file, though another one may have its name by now: that is another server's, or a copy that
    /// lacks what this one has.
    pub(crate) fn reopen(&self) -> Result<(), TableError> {
        // Until it has succeeded, nobody can read.
        self.suspect.store(true, Ordering::Relaxed);
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(guarded(|| {
            *database = None;
            Ok(())
        }));
        let file = {
            let mut open = self.file.write().unwrap_or_else(PoisonError::into_inner);
            let file = match open.take() {
                Some(file) => file,
                None => self.disk.open(FILE, false).map_err(redb::StorageError::Io)?,
            };
            Arc::clone(open.insert(file))
        };
        let backend = Backend::new(file, Arc::clone(&self.pace));
        let opened = guarded(|| Ok(redb::Builder::new().set_cache_size(self.cache).create_with_backend(backend)?))?;
        *database = Some(opened);
        self.suspect.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// When whoever writes much is to rest.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Closes the tables; whoever reads now ends first.
    pub(crate) fn close(&self) -> Result<(), TableError> {
        let database = self.database.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(self.file.write().unwrap_or_else(PoisonError::into_inner).take());
        database.map_or(Ok(()), |database| guarded(|| Ok(database.close()?)))
    }

    /// Bytes that the tables take on the disk.
    pub(crate) fn disk_bytes(&self) -> u64 {
        let file = self.file.read().unwrap_or_else(PoisonError::into_inner);
        file.as_ref().and_then(|file| file.allocated().ok()).unwrap_or(0)
    }

    /// Bytes of the pages that hold something. Reads all of the tables, beside which they are used as ever.
    pub(crate) fn bytes_in_use(&self) -> Result<u64, TableError> {
        let bytes = |stats: redb::TableStats| stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
        self.read_beside(|transaction| {
            let tables = [
                transaction.open_table(GROUPS)?.stats()?,
                transaction.open_table(MESSAGES)?.stats()?,
                transaction.open_table(TRIMS)?.stats()?,
                transaction.open_table(META)?.stats()?,
            ];
            Ok(tables.into_iter().map(bytes).sum())
        })
    }

    fn guard(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `read` on one moment of the tables.
    pub(crate) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let guard = self.guard();
        let database = guard.as_ref().ok_or(TableError::Closed)?;
        self.suspecting(guarded(|| read(&database.begin_read()?)))
    }

    /// As [`Tables::read`], for what takes long: whoever closes the tables, or opens them again, does not wait for it (nor do those who want to
    /// read after that). It then ends with an error.
    pub(crate) fn read_beside<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let begun = {
            let guard = self.guard();
            let database = guard.as_ref().ok_or(TableError::Closed)?;
            guarded(|| Ok(database.begin_read()?))
        };
        match self.suspecting(begun.and_then(|transaction| guarded(|| read(&transaction)))) {
            Err(TableError::Redb(error)) if matches!(*error, redb::Error::DatabaseClosed) => Err(TableError::Closed),
            result => result,
        }
    }

    /// Notes an error of the disk.
    fn suspecting<T>(&self, result: Result<T, TableError>) -> Result<T, TableError> {
        let is_latched = matches!(&result, Err(TableError::Redb(error)) if matches!(**error, redb::Error::PreviousIo));
        if is_latched || result.as_ref().is_err_and(TableError::is_disk_failure) {
            self.suspect.store(true, Ordering::Relaxed);
        }
        result
    }

    /// Whether a read met an error of the disk, or an opening failed: redb has to be opened again.
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Runs `write` in a transaction that is durable when this returns, or did not happen.
    pub(crate) fn write<T>(
        &self,
        write: impl FnOnce(&redb::WriteTransaction) -> Result<T, TableError>,
    ) -> Result<T, TableError> {
        let guard = self.guard();
        let database = guard.as_ref().ok_or(TableError::Closed)?;
        guarded(|| {
            let mut transaction = database.begin_write()?;
            // A start after a crash must not have to read all of the tables.
            transaction.set_quick_repair(true);
            let value = write(&transaction)?;
            transaction.commit()?;
            Ok(value)
        })
    }

    /// Runs `f` on the database itself.
    pub(crate) fn exclusive<T>(&self, f: impl FnOnce(&mut Database) -> Result<T, TableError>) -> Result<T, TableError> {
        let mut guard = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_mut().ok_or(TableError::Closed)?;
        guarded(|| f(database))
    }

    /// A group.
    pub(crate) fn row(&self, group: &GroupName) -> Result<Option<Row>, TableError> {
        self.read(|transaction| row(transaction, group))
    }

    /// How many groups there are.
    pub(crate) fn count(&self) -> Result<u64, TableError> {
        self.read(|transaction| Ok(transaction.open_table(GROUPS)?.len()?))
    }

    /// A single number; 0 if it was never set.
    pub(crate) fn number(&self, key: &str) -> Result<u64, TableError> {
        self.read(|transaction| Ok(transaction.open_table(META)?.get(key)?.map_or(0, |value| value.value())))
    }

    /// Sets a single number.
    pub(crate) fn set_number(&self, key: &str, value: u64) -> Result<(), TableError> {
        self.write(|transaction| {
            transaction.open_table(META)?.insert(key, value)?;
            Ok(())
        })
    }

    /// What of the commit log the tables hold.
    pub(crate) fn applied(&self) -> Result<Position, TableError> {
        self.read(|transaction| {
            let table = transaction.open_table(META)?;
            let number = |key| Ok::<_, TableError>(table.get(key)?.map_or(0, |value| value.value()));
            Ok(Position {
                file: number(meta::APPLIED_FILE)?,
                end: number(meta::APPLIED_END)?,
                block: number(meta::APPLIED_BLOCK)?,
            })
        })
    }
}

/// A group at one moment.
pub(crate) fn row(transaction: &ReadTransaction, group: &GroupName) -> Result<Option<Row>, TableError> {
    let table = transaction.open_table(GROUPS)?;
    let value = table.get(group.as_str())?;
    Ok(value.map(|value| Row::decode(value.value())).transpose()?)
}

/// The messages of a group whose texts may still stand in their chunks and are removed.
pub(crate) fn redactions(transaction: &ReadTransaction, id: u64) -> Result<BTreeSet<u64>, TableError> {
    let table = match transaction.open_table(REDACTIONS).map_err(TableError::from) {
        Err(error) if error.is_no_table() => return Ok(BTreeSet::new()),
        table => table?,
    };
    let mut redacted = BTreeSet::new();
    for entry in table.range((id, 0)..=(id, u64::MAX))? {
        redacted.insert(entry?.0.value().1);
    }
    Ok(redacted)
}

/// Bytes after which redb's writes are synced on the way. A commit writes many megabytes at once, and one sync of all of them
/// would hold up the commit log's on the same disk, as one of each part does for as long as that takes.
const SYNC_BYTES: usize = 256 * 1024;

/// redb's way to the disk.
#[derive(Debug)]
struct Backend {
    file: Arc<dyn DiskFile>,
    unsynced: AtomicUsize,
    /// A sync has failed: what was written before it may be lost, and a later sync that succeeds does not tell.
    has_failed: AtomicBool,
    pace: Arc<Pace>,
}

impl Backend {
    fn new(file: Arc<dyn DiskFile>, pace: Arc<Pace>) -> Self {
        Self { file, unsynced: AtomicUsize::new(0), has_failed: AtomicBool::new(false), pace }
    }

    /// redb takes some failed writes for no harm, since it still has what was to be written. It has not what an earlier write was told to have
    /// taken, and what the sync was for: so nothing succeeds any more until the tables are opened anew.
    fn check(&self) -> std::io::Result<()> {
        match self.has_failed.load(Ordering::Acquire) {
            true => Err(std::io::Error::other("an earlier sync of the tables failed")),
            false => Ok(()),
        }
    }
}

impl redb::StorageBackend for Backend {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read_at(out, offset)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.check()?;
        self.unsynced.store(0, Ordering::Relaxed);
        self.file.sync().inspect_err(|_| self.has_failed.store(true, Ordering::Release))
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check()?;
        self.file.write_at(data, offset)?;
        let unsynced = self.unsynced.fetch_add(data.len(), Ordering::Relaxed) + data.len();
        if unsynced >= SYNC_BYTES {
            let begun = Instant::now();
            self.sync_data()?;
            self.pace.rest(begun.elapsed());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_comes_back() {
        let row = Row { id: 1, head: Head { epoch: 2, seq: 3, first: 4, at: 5 }, bytes: 6 };
        assert_eq!(Row::decode(&row.encode()), Ok(row));
        assert!(Row::decode(&row.encode()[1..]).is_err());
    }

    #[test]
    fn after_a_sync_that_failed_none_succeeds() {
        use redb::StorageBackend;

        use crate::log::embedded::simulated::{Faults, SimulatedDisk};

        let disk = SimulatedDisk::default();
        let backend = Backend::new(disk.open("messages", true).unwrap(), Arc::default());
        backend.write(0, &[1; SYNC_BYTES - 1]).unwrap();
        disk.set_faults(Faults { failing_syncs: Some(("messages", 1)), ..Faults::default() });
        assert!(
            backend.write(SYNC_BYTES as u64, &[1; 2]).is_err(),
            "redb may write this again, but not what came before"
        );
        disk.set_faults(Faults::default());
        assert!(backend.sync_data().is_err() && backend.write(0, &[1; 1]).is_err());
    }

    #[test]
    fn a_chunk_that_counts_wrong_is_refused() {
        assert!(Chunk::decode(3, &Chunk::header(4, 0)).is_err());
        assert!(Chunk::decode(3, &Chunk::header(0, 0)).is_err());
        assert!(Chunk::decode(3, &Chunk::header(3, 0)).unwrap().records().is_err(), "the records are missing");
    }
}
