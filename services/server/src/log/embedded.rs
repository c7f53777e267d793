//! The `embedded` engine: everything on this machine's disk, and nothing acknowledged is ever lost.
//!
//! ```text
//! append ─▶ queue ─▶ commit (one thread: write + fsync = the acknowledgement) ─▶ tail (memory) ─▶ readers
//!                       │                                                          ▲
//!                       └▶ backlog ─▶ applier (one thread: large transactions) ─▶ tables (redb) ─▶ readers
//!                                        └▶ files (recycles what is applied)
//! ```
//!
//! The decision and its measurements are in `docs/decisions/0001-embedded-log.md`.

mod applier;
mod apply;
mod backlog;
mod backup;
mod commit;
mod complaints;
mod disk;
mod export;
mod files;
mod forget;
mod frame;
mod holes;
pub mod metrics;
mod notes;
mod offline;
mod open;
mod open_error;
mod pace;
mod partial;
mod queue;
mod quota;
mod read;
mod record;
mod redact;
mod renewal;
mod retention;
mod scan;
mod spared;
mod sweep;
mod table;
mod tail;
mod trouble;
mod usage;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use futures_util::future::BoxFuture;
use tertulia_protocol::GroupName;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::task::AbortOnDropHandle;

use self::backlog::Backlog;
use self::disk::Disk;
use self::files::Files;
use self::holes::Holes;
use self::metrics::Metrics;
use self::notes::{Handle, NoteFile};
use self::queue::{Queue, Request};
use self::record::Operation;
use self::retention::Rules;
use self::table::{TableError, Tables};
use self::tail::{Known, NoGroup, Tail, View};
use self::trouble::{Cause, Trouble};
use super::notes::Notes;
use super::{AppendError, BackupError, Batch, Copied, Head, Log, Page, PageLimit, Range, ReadError, Stats};

pub use self::backup::CopyError;
pub use self::export::export;
pub use self::forget::{Forgotten, forget_commit_log};
pub use self::offline::{DirectoryStats, OfflineError, Verified, back_up, stats, verify};
pub use self::open::{OpenError, open};

/// So many read for owners at once, beside the others, if no more may read for these.
const OWNERS: usize = 2;

/// The engine.
pub struct Embedded {
    core: Arc<Core>,
    threads: Mutex<Threads>,
}

#[derive(Debug, Default)]
struct Threads {
    writer: Option<JoinHandle<()>>,
    applier: Option<JoinHandle<()>>,
    files: Option<JoinHandle<()>>,
}

/// What the callers' side of the engine works with.
#[derive(Debug)]
struct Core {
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    places: Arc<Semaphore>,
    readers: Arc<Semaphore>,
    /// Places for those who read for owners of shards: they do not wait behind what members read, which may be a page of each of many groups.
    owners: Arc<Semaphore>,
    tail: Arc<Tail>,
    backlog: Arc<Backlog>,
    tables: Arc<Tables>,
    holes: Holes,
    files: Arc<Files>,
    rules: Arc<Rules>,
    trouble: Arc<Trouble>,
    groups: Arc<AtomicI64>,
    notes: Arc<NoteFile>,
    metrics: Metrics,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("directory", &self.core.disk.path("")).finish_non_exhaustive()
    }
}

impl From<TableError> for ReadError {
    fn from(error: TableError) -> Self {
        Self { reason: error.to_string() }
    }
}

fn unavailable(reason: impl Into<String>) -> AppendError {
    AppendError::Unavailable { reason: reason.into() }
}

impl Core {
    /// The head of a group as the tables have it, if memory has not.
    fn load(&self, group: &GroupName) -> Result<Option<Head>, ReadError> {
        let Some(loading) = self.tail.begin_load(group) else {
            return Ok(match self.tail.known(group) {
                Some(Known::Present(head)) => Some(head),
                Some(Known::Absent) => None,
                Some(Known::Loading) | None => self.row_head(group)?,
            });
        };
        match self.row_head(group) {
            Ok(head) => {
                self.tail.end_load(group, loading, head);
                Ok(head)
            }
            Err(error) => {
                self.tail.abort_load(group);
                Err(error)
            }
        }
    }

    fn row_head(&self, group: &GroupName) -> Result<Option<Head>, ReadError> {
        let begun = Instant::now();
        self.holes.may_read_row(group)?;
        let row = self.tables.row(group);
        match &row {
            Ok(_) => self.holes.read_row(group),
            Err(error) if error.is_disk_failure() => self.holes.failed_row(group, begun, error),
            Err(_) => {}
        }
        let row = row?;
        Ok(row.map(|row| self.rules.seen(group, row.head)))
    }

    /// Runs what may wait for the disk where it may, when one of the `places` is free; few at once.
    ///
    /// In a task of its own: callers leave futures unpolled for long (a member that takes nothing, an owner that waits for something
    /// else first), and one to which a place was given meanwhile would keep all others waiting.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        places: &Arc<Semaphore>,
        work: impl FnOnce(&Self) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, ReadError> {
        let ended = |error| ReadError { reason: format!("the reading task ended: {error}") };
        let (core, places) = (Arc::clone(self), Arc::clone(places));
        let task = tokio::spawn(async move {
            let stopped = |_| ReadError { reason: "the log is closed".to_owned() };
            let place = places.acquire_owned().await.map_err(stopped)?;
            let reading = tokio::task::spawn_blocking(move || {
                let result = work(&core);
                drop(place);
                result
            });
            reading.await.map_err(ended)?
        });
        // Who no longer wants it gives up its turn.
        AbortOnDropHandle::new(task).await.map_err(ended)?
    }

    /// Sees to it that the writer finds the heads in memory, and need not wait for the tables.
    async fn warm(self: &Arc<Self>, operations: &[Operation]) -> Result<(), ReadError> {
        let is_known = |group: &GroupName| matches!(self.tail.known(group), Some(Known::Present(_) | Known::Absent));
        let groups = operations.iter().map(Operation::group).filter(|group| !is_known(group));
        let missing: Vec<GroupName> = groups.cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.blocking(&self.owners, move |core| missing.iter().try_for_each(|group| core.load(group).map(drop))).await
    }

    async fn submit(self: Arc<Self>, operations: Vec<Operation>) -> Result<u64, AppendError> {
        let begun = Instant::now();
        self.warm(&operations).await.map_err(|error| unavailable(error.reason))?;
        let mut payload = Vec::with_capacity(operations.iter().map(Operation::bytes).sum());
        operations.iter().for_each(|operation| operation.encode(&mut payload));
        let closed = || unavailable("the log is closed");
        let permit = Arc::clone(&self.places).acquire_owned().await.map_err(|_| closed())?;
        let (reply, answer) = oneshot::channel();
        let request = Request { operations, heads: Vec::new(), payload, reply, begun, permit: Some(permit) };
        self.queue.push(request).map_err(|_| closed())?;
        let lost = |_| unavailable("the log stopped before it answered; the append may or may not have happened");
        answer.await.map_err(lost)?
    }

    async fn read(
        self: Arc<Self>,
        places: Arc<Semaphore>,
        group: GroupName,
        range: Range,
        limit: PageLimit,
    ) -> Result<Option<Page>, ReadError> {
        let limit = PageLimit { records: limit.records.max(1), ..limit };
        match self.tail.view(&group, range, limit.records) {
            Some(Err(NoGroup)) => return Ok(None),
            Some(Ok(view)) => {
                if let Some(page) = read::from_memory(&view, range, limit) {
                    self.metrics.reads_memory.increment(1);
                    return Ok(Some(page));
                }
            }
            None => {}
        }
        self.metrics.reads_tables.increment(1);
        self.blocking(&places, move |core| {
            let view = match core.tail.view(&group, range, limit.records) {
                Some(view) => view,
                None => {
                    let loaded = core.load(&group)?;
                    let view = core.tail.view(&group, range, limit.records);
                    view.unwrap_or_else(|| loaded.map(View::bare).ok_or(NoGroup))
                }
            };
            let Ok(view) = view else { return Ok(None) };
            match read::from_memory(&view, range, limit) {
                Some(page) => Ok(Some(page)),
                None => Ok(Some(read::from_tables(&core.tables, &core.holes, &group, &view, range, limit)?)),
            }
        })
        .await
    }

    fn groups(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<(GroupName, Head)>, ReadError> {
        // First memory, then the tables: what leaves memory in between is in the tables by then.
        let blocks = self.backlog.blocks();
        let in_range = |name: &str| name.starts_with(prefix) && after.is_none_or(|after| name > after);
        let changed = blocks.iter().flat_map(|block| &block.operations).map(Operation::group);
        let changed: BTreeSet<&GroupName> = changed.filter(|group| in_range(group.as_str())).collect();
        let mut heads: HashMap<&str, Option<Head>> = HashMap::with_capacity(changed.len());
        for group in changed {
            match self.tail.known(group) {
                Some(Known::Present(head)) => drop(heads.insert(group.as_str(), Some(head))),
                Some(Known::Absent) => drop(heads.insert(group.as_str(), None)),
                Some(Known::Loading) | None => {}
            }
        }
        let begun = Instant::now();
        self.holes.may_list()?;
        let stored = read::groups(&self.tables, prefix, after, limit, &|name| heads.contains_key(name));
        self.holes.listed(begun, &stored);
        let stored = stored?;
        let mut found = Vec::with_capacity(stored.len());
        for (name, head) in stored {
            let name = GroupName::new(&name).map_err(|error| ReadError { reason: error.to_string() })?;
            found.push((name.clone(), self.rules.seen(&name, head)));
        }
        for (name, head) in heads {
            if let Some(head) = head {
                let name = GroupName::new(name).map_err(|error| ReadError { reason: error.to_string() })?;
                found.push((name, head));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.truncate(limit);
        Ok(found)
    }

    /// Ends the threads without waiting for anything.
    fn abort(&self) {
        const CLOSED: &str = "the log is closed";
        self.trouble.set(Cause::Stopped, Some(CLOSED.to_owned()));
        self.queue.abort(CLOSED);
        self.backlog.abort();
        self.files.close();
    }
}

impl Embedded {
    /// Moves everything that is acknowledged by now from the commit log into the tables. `false` if that cannot be.
    #[cfg(test)]
    async fn flush(&self) -> bool {
        let backlog = Arc::clone(&self.core.backlog);
        tokio::task::spawn_blocking(move || backlog.flush()).await.unwrap_or(false)
    }

    fn join(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        let join = |thread: Option<JoinHandle<()>>| {
            if thread.is_some_and(|thread| thread.join().is_err()) {
                tracing::error!("a thread of the log panicked");
            }
        };
        join(threads.writer.take());
        // Nobody needs another file any more, and filling one would hold up what the applier still writes.
        self.core.files.close();
        self.core.trouble.set(Cause::Stopped, Some("the log is closed".to_owned()));
        self.core.backlog.close();
        join(threads.applier.take());
        join(threads.files.take());
    }

    /// Ends as a killed process would: what is acknowledged and not applied is in the commit log alone.
    #[cfg(test)]
    pub(crate) fn crash(&self) {
        self.core.abort();
        self.join();
        drop(self.core.tables.close());
        self.core.disk.release();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.core.abort();
    }
}

impl Log for Embedded {
    fn append(&self, _shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            // Known troubles are told at once; the commit log's own is tried again by its writer.
            if let Some(reason) = core.trouble.of(Cause::Displaced).or_else(|| core.trouble.of(Cause::Space)) {
                return Err(unavailable(reason));
            }
            if batches.is_empty() {
                return Ok(());
            }
            for batch in &batches {
                let dense = batch.records.iter().zip(batch.first()..).all(|(record, seq)| record.seq == seq);
                if batch.records.is_empty() || batch.first() == 0 || !dense {
                    let reason = format!("a batch for group '{}' is empty or not dense", batch.group);
                    return Err(unavailable(reason));
                }
            }
            core.submit(batches.into_iter().map(Operation::append).collect()).await.map(drop)
        })
    }

    fn head(&self, _shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        let core = Arc::clone(&self.core);
        let group = group.clone();
        Box::pin(async move {
            match core.tail.known(&group) {
                Some(Known::Present(head)) => Ok(Some(head)),
                Some(Known::Absent) => Ok(None),
                Some(Known::Loading) | None => core.blocking(&core.owners, move |core| core.load(&group)).await,
            }
        })
    }

    fn read(
        &self,
        _shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        Box::pin(Arc::clone(&self.core).read(Arc::clone(&self.core.readers), group.clone(), range, limit))
    }

    fn read_for_owner(
        &self,
        _shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        Box::pin(Arc::clone(&self.core).read(Arc::clone(&self.core.owners), group.clone(), range, limit))
    }

    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>> {
        let core = Arc::clone(&self.core);
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        Box::pin(async move {
            core.blocking(&core.readers, move |core| core.groups(&prefix, after.as_deref(), limit)).await
        })
    }

    fn purge(&self, _shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>> {
        let purge = Operation::Purge { group: group.clone(), through };
        Box::pin(Arc::clone(&self.core).submit(vec![purge]))
    }

    fn redact(
        &self,
        _shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>> {
        let redact = |seq: &u64| Operation::Redact { group: group.clone(), epoch, seq: *seq };
        Box::pin(Arc::clone(&self.core).submit(seqs.iter().map(redact).collect()))
    }

    fn delete(&self, _shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>> {
        let submitted = Arc::clone(&self.core).submit(vec![Operation::Delete { group: group.clone() }]);
        Box::pin(async move { Ok(submitted.await? > 0) })
    }

    fn stats(&self) -> Stats {
        let groups = self.core.groups.load(Ordering::Relaxed).max(0) as u64;
        Stats { groups, bytes: self.core.tables.disk_bytes() + self.core.files.bytes() }
    }

    fn trouble(&self) -> Option<String> {
        self.core.trouble.any()
    }

    fn notes(&self) -> Option<Arc<dyn Notes>> {
        Some(Arc::new(Handle(Arc::clone(&self.core.notes))))
    }

    fn back_up(&self, to: PathBuf) -> BoxFuture<'static, Result<Copied, BackupError>> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            let copied = tokio::task::spawn_blocking(move || core.back_up(&to)).await;
            copied.map_err(|error| BackupError::Failed(format!("the copying task ended: {error}")))?
        })
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let core = Arc::clone(&self.core);
        core.queue.close();
        core.notes.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        let closing = Embedded { core: Arc::clone(&core), threads: Mutex::new(threads) };
        Box::pin(async move {
            let done = tokio::task::spawn_blocking(move || {
                closing.join();
                if let Err(error) = closing.core.tables.close() {
                    tracing::error!(%error, "cannot close the tables; the next start repairs them");
                }
                // Whoever still wrote a note would do so among those of the process that has the directory next.
                closing.core.notes.end();
                closing.core.disk.release();
            });
            if done.await.is_err() {
                tracing::error!("the log did not close in order; the next start replays the commit log");
            }
        })
    }
}
