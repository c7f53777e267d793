//! The writer of the commit log: one thread, whose fsync acknowledges all appends that waited.
//!
//! What came while the last block was written makes the next block: one write, one fsync. So the batch grows with the load, and
//! a lone append waits for nobody.
//!
//! A write or fsync that fails is final for its file. Before anything else is acknowledged, a new file is begun whose header says where the
//! valid part of the old one ends; so what may have reached the disk of the failed block is void after a restart too.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use tertulia_protocol::GroupName;

use super::backlog::{Backlog, Block, NoRoom};
use super::disk::DiskFile;
use super::files::{Files, Segment};
use super::frame::{self, BlockHeader, FIRST_BLOCK, FileHeader, Position, Step};
use super::metrics::Metrics;
use super::queue::{Queue, Request, Taken};
use super::record::Operation;
use super::tail::{Known, Tail};
use super::trouble::{Cause, Trouble};
use crate::log::config::Durability;
use crate::log::{AppendError, Head, ReadError};

/// Payload of one block at most, unless one append alone is larger.
const BLOCK_BYTES: usize = 4 * 1024 * 1024;
/// From so many appends in a block, those who append are let run before the next one is begun.
const BUSY: usize = 4;
/// How often the commit log is tried again after a failure.
const PROBE: Duration = Duration::from_millis(250);
/// How often a failed block is tried to be made void before its appends are answered.
const VOID_ATTEMPTS: u32 = 4;

/// Asks the tables for a group that memory does not know.
pub(crate) type LoadHead = Box<dyn Fn(&GroupName) -> Result<Option<Head>, ReadError> + Send>;

/// The writer.
pub(crate) struct Writer {
    pub(crate) log: u64,
    pub(crate) durability: Durability,
    pub(crate) queue: Arc<Queue>,
    pub(crate) files: Arc<Files>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) trouble: Arc<Trouble>,
    pub(crate) metrics: Metrics,
    pub(crate) load_head: LoadHead,
    /// How many groups there are.
    pub(crate) groups: Arc<AtomicI64>,
    /// The file that is written; none after a failure.
    pub(crate) segment: Option<Segment>,
    /// The end of the last valid block.
    pub(crate) end: Position,
    /// Where the next block goes in the current file.
    pub(crate) offset: u64,
    /// How far the current file is known to be on the disk.
    pub(crate) synced: u64,
    /// The highest number that was tried for a file.
    pub(crate) last_file: u64,
    /// How much larger the next one is.
    pub(crate) step: Step,
}

/// Requests that go into one block, and the heads as they will be.
#[derive(Default)]
struct Staged {
    requests: Vec<(Request, u64)>,
    /// Groups that come minus groups that go.
    groups: i64,
    /// Messages that moderators remove.
    messages: u64,
    heads: HashMap<GroupName, Option<Head>>,
    buffer: Vec<u8>,
    operations: u32,
}

impl Writer {
    /// Writes until the queue is closed and empty.
    pub(crate) fn run(mut self) {
        // Of small files a block takes no more than half, or many appends together would need one that none of those held ready is.
        let block_bytes = BLOCK_BYTES.min((self.files.segment() / 2) as usize);
        let mut buffer = Vec::new();
        let mut appends = 0;
        loop {
            if appends >= BUSY {
                // Many append at a time. Where all processors have work, they get on with it now, and what they append shares one fsync;
                // where one is free, this returns at once.
                std::thread::yield_now();
            }
            let patience = self.segment.is_none().then_some(PROBE);
            let requests = match self.queue.take(block_bytes, patience) {
                Taken::Requests(requests) => requests,
                Taken::Nothing => {
                    drop(self.revive());
                    continue;
                }
                Taken::Closed => break,
            };
            if let Err(NoRoom::Failing(reason)) = self.backlog.wait_for_room() {
                // Taken back by the applier.
                self.trouble.set(Cause::Tables, Some(reason));
            }
            appends = requests.len();
            buffer = self.write(requests, buffer);
        }
        if self.durability == Durability::Os
            && let Some(segment) = &self.segment
            && let Err(error) = segment.file.sync()
        {
            tracing::error!(%error, "cannot sync the commit log at the end");
        }
    }

    /// Writes what can be written of `requests` and answers them all. Gives the buffer back for the next time.
    fn write(&mut self, requests: Vec<Request>, mut buffer: Vec<u8>) -> Vec<u8> {
        buffer.clear();
        buffer.resize(frame::BLOCK_HEADER, 0);
        if self.segment.is_none()
            && let Err(error) = self.revive()
        {
            refuse(requests, &error.to_string());
            return buffer;
        }
        let mut staged = Staged { buffer, ..Staged::default() };
        for request in requests {
            self.stage(request, &mut staged);
        }
        if staged.requests.is_empty() {
            return staged.buffer;
        }
        let written = self.write_block(&mut staged);
        let Staged { requests, buffer, groups, messages, .. } = staged;
        match written {
            Ok(position) => {
                self.groups.fetch_add(groups, Ordering::Relaxed);
                self.metrics.removed.moderator.increment(messages);
                self.acknowledge(requests, position, buffer.len() as u64);
            }
            Err(error) => self.give_up(requests.into_iter().map(|(request, _)| request).collect(), &error),
        }
        buffer
    }

    /// Checks a request against the heads as they will be, and adds it to the block; or answers it.
    fn stage(&self, mut request: Request, staged: &mut Staged) {
        let refusal = match request.appends() {
            true => self.trouble.any(),
            false => {
                let also_of_removals = [Cause::Displaced, Cause::Stopped, Cause::Tables];
                also_of_removals.into_iter().find_map(|cause| self.trouble.of(cause))
            }
        };
        if let Some(reason) = refusal {
            answer(request, Err(AppendError::Unavailable { reason }));
            return;
        }
        let mut changed: Vec<(GroupName, Option<Head>)> = Vec::with_capacity(request.operations.len());
        let (mut removed, mut groups, mut messages) = (0, 0, 0);
        for operation in &request.operations {
            let group = operation.group();
            let pending = changed.iter().rev().find(|(name, _)| name == group).map(|(_, head)| *head);
            let current = match pending.or_else(|| staged.heads.get(group).copied()) {
                Some(head) => head,
                None => match self.head(group) {
                    Ok(head) => head,
                    Err(error) => {
                        answer(request, Err(AppendError::Unavailable { reason: error.reason }));
                        return;
                    }
                },
            };
            match check(operation, current) {
                Ok(Change { head, count, messages: removed_messages }) => {
                    removed += count;
                    messages += removed_messages;
                    groups += i64::from(head.is_some()) - i64::from(current.is_some());
                    changed.push((group.clone(), head));
                }
                Err(error) => {
                    answer(request, Err(error));
                    return;
                }
            }
        }
        if removed == 0 && !request.appends() {
            // Nothing to purge or delete: nothing to write.
            answer(request, Ok(0));
            return;
        }
        request.heads = changed.iter().map(|(_, head)| *head).collect();
        staged.groups += groups;
        staged.messages += messages;
        staged.heads.extend(changed);
        staged.buffer.extend_from_slice(&request.payload);
        staged.operations += request.operations.len() as u32;
        staged.requests.push((request, removed));
    }

    fn head(&self, group: &GroupName) -> Result<Option<Head>, ReadError> {
        match self.tail.known(group) {
            Some(Known::Present(head)) => Ok(Some(head)),
            Some(Known::Absent) => Ok(None),
            Some(Known::Loading) | None => (self.load_head)(group),
        }
    }

    fn write_block(&mut self, staged: &mut Staged) -> io::Result<Position> {
        let length = staged.buffer.len();
        let padded = frame::pages(length as u64);
        let full = self.segment.as_ref().is_none_or(|segment| self.offset + padded > segment.size);
        if full {
            let begun = Instant::now();
            self.rotate(padded)?;
            note_if_slow("begin a file of the commit log", begun);
        }
        let Some(segment) = &self.segment else { return Err(io::Error::other("no file of the commit log is open")) };
        let header = BlockHeader {
            length: length as u32,
            operations: staged.operations,
            file: segment.number,
            block: self.end.block + 1,
            synced: self.synced,
        };
        frame::seal(&mut staged.buffer, header);
        let begun = Instant::now();
        segment.file.write_at(&staged.buffer, self.offset)?;
        note_if_slow("write the commit log", begun);
        let end = self.offset + padded;
        if self.durability == Durability::Fsync {
            let begun = Instant::now();
            segment.file.sync()?;
            self.metrics.fsync.record(begun.elapsed());
            note_if_slow("sync the commit log", begun);
            self.synced = end;
        }
        self.offset = end;
        self.end = Position { file: segment.number, end, block: header.block };
        Ok(self.end)
    }

    /// Goes on in a new file with room for `need` bytes.
    pub(crate) fn rotate(&mut self, need: u64) -> io::Result<()> {
        if let Some(segment) = &self.segment
            && self.durability == Durability::Os
        {
            // What the new file's header will call valid must be on the disk.
            segment.file.sync()?;
        }
        let unsynced = self.segment.is_none() && self.durability == Durability::Os;
        if unsynced && self.backlog.applied() < self.end.block {
            // Nor may a file whose sync failed be called valid; but what the tables hold is not read from it again. Posts are refused until
            // then, so that does not wait for its time.
            self.backlog.hurry();
            return Err(io::Error::other("waiting until the messages of a file that failed are in the tables"));
        }
        self.segment = None;
        let next = self.last_file.checked_add((self.step)());
        self.last_file = next.ok_or_else(|| io::Error::other("no number is left for a file of the commit log"))?;
        let header = FileHeader { log: self.log, file: self.last_file, previous: self.end };
        self.segment = Some(self.files.begin(header, need)?);
        self.offset = FIRST_BLOCK;
        self.synced = FIRST_BLOCK;
        Ok(())
    }

    /// Begins a new file after a failure.
    fn revive(&mut self) -> io::Result<()> {
        let result = self.rotate(frame::PAGE);
        self.trouble.set(Cause::Commit, result.as_ref().err().map(ToString::to_string));
        result
    }

    /// The block may be on the disk or not: makes it void, then refuses its appends.
    fn give_up(&mut self, requests: Vec<Request>, error: &io::Error) {
        tracing::error!(%error, "cannot write the commit log; going on in a new file");
        let failed = self.segment.take().map(|segment| (segment.file, self.offset));
        self.trouble.set(Cause::Commit, Some(error.to_string()));
        let mut is_void = false;
        for attempt in 0..VOID_ATTEMPTS {
            is_void = self.revive().is_ok();
            if is_void {
                break;
            }
            std::thread::sleep(Duration::from_millis(10 << attempt));
        }
        if let Some((file, offset)) = failed.filter(|_| !is_void)
            && let Err(error) = erase(&*file, offset)
        {
            tracing::error!(
                %error,
                "what was refused may be on the disk and cannot be made void: a restart before the disk is well may bring it back"
            );
        }
        refuse(requests, &error.to_string());
    }

    fn acknowledge(&self, requests: Vec<(Request, u64)>, position: Position, disk_bytes: u64) {
        let mut operations = Vec::with_capacity(requests.len());
        let mut replies = Vec::with_capacity(requests.len());
        for (mut request, removed) in requests {
            drop(request.permit.take());
            for (operation, head) in request.operations.iter().zip(&request.heads) {
                self.tail.publish(operation, *head);
            }
            operations.append(&mut request.operations);
            replies.push((request.reply, request.begun, removed));
        }
        let block = Block::new(position, operations, disk_bytes);
        self.metrics.batch_records.record(block.records as f64);
        self.backlog.push(Arc::new(block));
        for (reply, begun, removed) in replies {
            self.metrics.append.record(begun.elapsed());
            // Whoever asked may have gone.
            drop(reply.send(Ok(removed)));
        }
    }
}

/// Makes the block that begins at `offset` void where it is, for want of a new file that says so.
fn erase(file: &dyn DiskFile, offset: u64) -> io::Result<()> {
    file.write_at(&[0; frame::PAGE as usize], offset)?;
    file.sync()
}

/// Tells operators what a pause came from.
fn note_if_slow(what: &str, begun: Instant) {
    const SLOW: Duration = Duration::from_millis(50);
    let took = begun.elapsed();
    if took >= SLOW {
        tracing::warn!(?took, "the disk took long to {what}");
    }
}

struct Change {
    head: Option<Head>,
    /// Messages or groups that go.
    count: u64,
    /// Messages that go.
    messages: u64,
}

/// What an operation makes of a head, if it may.
fn check(operation: &Operation, current: Option<Head>) -> Result<Change, AppendError> {
    match operation {
        Operation::Append { batch, .. } => {
            let expected = batch.first().saturating_sub(1);
            let found = current.map_or(0, |head| head.seq);
            if found != expected || current.is_some_and(|head| head.epoch != batch.epoch) {
                return Err(AppendError::Fenced { group: batch.group.clone(), expected, found });
            }
            let first = current.map_or(batch.first(), |head| head.first);
            let at = batch.records.last().map_or(0, |record| record.at);
            let head = Head { epoch: batch.epoch, seq: batch.last(), first, at };
            Ok(Change { head: Some(head), count: 0, messages: 0 })
        }
        Operation::Purge { through, .. } => {
            let Some(head) = current else { return Ok(Change { head: None, count: 0, messages: 0 }) };
            let first = head.first.max(through.saturating_add(1)).min(head.seq + 1);
            let messages = first - head.first;
            Ok(Change { head: Some(Head { first, ..head }), count: messages, messages })
        }
        Operation::Redact { epoch, seq, .. } => {
            let is_kept = |head: &Head| head.epoch == *epoch && (head.first..=head.seq).contains(seq);
            Ok(Change { head: current, count: u64::from(current.as_ref().is_some_and(is_kept)), messages: 0 })
        }
        Operation::Delete { .. } => {
            let messages = current.map_or(0, |head| (head.seq + 1).saturating_sub(head.first));
            Ok(Change { head: None, count: u64::from(current.is_some()), messages })
        }
    }
}

fn refuse(requests: Vec<Request>, reason: &str) {
    for request in requests {
        answer(request, Err(AppendError::Unavailable { reason: reason.to_owned() }));
    }
}

fn answer(request: Request, result: Result<u64, AppendError>) {
    // Whoever asked may have gone.
    drop(request.reply.send(result));
}
