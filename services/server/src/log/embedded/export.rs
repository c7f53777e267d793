//! Copying a group's messages out of a directory that no server uses, also where not all of it can be read.
//!
//! It is what is left when nothing else works any more. So it moves nothing into the tables, but reads what the commit log has beyond them by
//! itself; and what cannot be read of either keeps nothing back that can.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tertulia_protocol::{GroupName, Removal};

use super::disk::{Directory, Disk};
use super::frame::Position;
use super::offline::OfflineError;
use super::open::{OpenError, open_tables};
use super::record::Operation;
use super::redact::left_of;
use super::scan;
use super::table::{self, Chunk, MESSAGES, Row, TableError, Tables, meta};
use crate::log::config::Config;
use crate::log::{Batch, Record};

/// A message as it is exported.
#[derive(Serialize)]
struct Exported<'a> {
    group_name: &'a GroupName,
    epoch: u64,
    seq: u64,
    at: u64,
    sender: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    message: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    removes: Option<Removes<'a>>,
}

/// The removal of which a message tells.
#[derive(Serialize)]
struct Removes<'a> {
    first: u64,
    last: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<&'a str>,
}

/// Writes the messages of a group, oldest first, one JSON object per line. Answers how many.
///
/// # Errors
/// What keeps the directory from being read at all, and errors of the output. [`OfflineError::Incomplete`] if everything was written that can
/// be read, and something cannot.
pub fn export(dir: &Path, group: &GroupName, out: &mut dyn Write) -> Result<u64, OfflineError> {
    if !dir.join(table::FILE).is_file() {
        return Err(OfflineError::NoLog(dir.display().to_string()));
    }
    let disk: Arc<dyn Disk> = Arc::new(Directory::lock(dir)?);
    export_from(&disk, group, out)
}

/// As [`export`], on a disk.
pub(crate) fn export_from(disk: &Arc<dyn Disk>, group: &GroupName, out: &mut dyn Write) -> Result<u64, OfflineError> {
    let tables = open_tables(disk, Config::default().table_cache_bytes)?;
    let place =
        Place { log: tables.number(meta::LOG)?, applied: tables.applied()?, in_use: tables.number(meta::IN_USE)? > 0 };
    let mut missing = Vec::new();
    let row = tables.row(group).unwrap_or_else(|error| {
        missing.push(format!("what the tables have of it: {error}"));
        None
    });
    let (recent, unread) = Recent::read(&**disk, &place, group, row.map_or(0, |row| row.head.seq));
    missing.extend(unread.map(|error| format!("what it may have at the end of the commit log: {error}")));
    // A group that was deleted since is another one.
    let row = row.filter(|_| !recent.dropped);
    if row.is_none() && recent.batches.is_empty() && missing.is_empty() {
        return Err(OfflineError::NoGroup(group.to_string()));
    }

    let next = recent.first.max(row.map_or(1, |row| row.head.first));
    let mut redacted = recent.redacted.clone();
    if let Some(row) = &row {
        match tables.read(|transaction| table::redactions(transaction, row.id)) {
            Ok(put_off) => redacted.extend(put_off),
            Err(error) => missing.push(format!("which texts are to be removed yet: {error}")),
        }
    }
    let mut lines = Lines { group, epoch: 0, next, redacted, written: 0, gaps: Vec::new(), out };
    if let Some(row) = row {
        lines.epoch = row.head.epoch;
        copy_stored(&tables, &row, &mut lines)?;
        lines.skip_to(row.head.seq + 1);
    }
    for batch in &recent.batches {
        if lines.epoch != batch.epoch {
            (lines.epoch, lines.next) = (batch.epoch, next.max(batch.first()));
        }
        batch.records.iter().try_for_each(|record| lines.write(record))?;
    }
    lines.out.flush()?;
    let Lines { written, gaps, .. } = lines;
    missing.extend(gaps.into_iter().map(|(from, through)| match from == through {
        true => format!("message {from}"),
        false => format!("messages {from} to {through}"),
    }));
    let closed = tables.close();
    if !missing.is_empty() {
        return Err(OfflineError::Incomplete { written, missing: missing.join("; ") });
    }
    closed?;
    Ok(written)
}

/// Where the tables stand in their commit log.
struct Place {
    log: u64,
    applied: Position,
    in_use: bool,
}

/// What the commit log has of a group that the tables have not.
#[derive(Debug, Default)]
struct Recent {
    /// Whether the group was deleted; then what follows is of its next life.
    dropped: bool,
    /// The newest message.
    head: u64,
    /// The oldest one that moderators have left.
    first: u64,
    /// Those whose texts moderators have removed.
    redacted: BTreeSet<u64>,
    batches: Vec<Arc<Batch>>,
}

impl Recent {
    /// As far as the commit log can be read, and why no further. `head` is the newest message in the tables.
    fn read(disk: &dyn Disk, place: &Place, group: &GroupName, head: u64) -> (Self, Option<OpenError>) {
        let mut recent = Self { head, ..Self::default() };
        let read = scan::find(disk, place.log, place.applied, place.in_use).and_then(|found| {
            found.replay(disk, &mut |block| {
                let of_group = block.operations.into_iter().filter(|operation| operation.group() == group);
                of_group.for_each(|operation| recent.take(operation));
                Ok(())
            })
        });
        (recent, read.err())
    }

    fn take(&mut self, operation: Operation) {
        match operation {
            Operation::Append { batch, .. } => {
                self.head = batch.last();
                self.batches.push(batch);
            }
            Operation::Purge { through, .. } => self.first = self.first.max(through.min(self.head).saturating_add(1)),
            Operation::Redact { seq, .. } if seq <= self.head => drop(self.redacted.insert(seq)),
            Operation::Redact { .. } => {}
            Operation::Delete { .. } => *self = Self { dropped: true, ..Self::default() },
        }
    }
}

/// The export as it is written.
struct Lines<'a> {
    group: &'a GroupName,
    epoch: u64,
    /// The message that is to come.
    next: u64,
    redacted: BTreeSet<u64>,
    written: u64,
    /// The first and the last of messages that did not come.
    gaps: Vec<(u64, u64)>,
    out: &'a mut dyn Write,
}

impl Lines<'_> {
    /// Writes a message, unless it is there or was removed.
    fn write(&mut self, record: &Record) -> io::Result<()> {
        if record.seq < self.next {
            return Ok(());
        }
        self.skip_to(record.seq);
        let record = &*left_of(record, self.redacted.contains(&record.seq));
        let exported = Exported {
            group_name: self.group,
            epoch: self.epoch,
            seq: record.seq,
            at: record.at,
            sender: record.sender.as_str(),
            id: record.id_of_client(),
            message: &record.message,
            removed: record.is_removed(),
            removes: record.removes().map(|Removal { first, last, sender }| Removes { first, last, sender }),
        };
        serde_json::to_writer(&mut *self.out, &exported)?;
        self.out.write_all(b"\n")?;
        self.next += 1;
        self.written += 1;
        Ok(())
    }

    /// What is before `seq` and did not come is missing.
    fn skip_to(&mut self, seq: u64) {
        if self.next < seq {
            self.gaps.push((self.next, seq - 1));
            self.next = seq;
        }
    }
}

/// Writes what can be read of a group in the tables. Where a part of the keys cannot, each half of it is tried by itself.
fn copy_stored(tables: &Tables, row: &Row, lines: &mut Lines<'_>) -> Result<(), OfflineError> {
    let mut parts = vec![(lines.next, row.head.seq)];
    while let Some((mut from, through)) = parts.pop() {
        if from > through {
            continue;
        }
        let Err(error) = copy_part(tables, row.id, &mut from, through, lines)? else { continue };
        tracing::debug!(%error, "messages {from} to {through} cannot be read at once");
        if from < through {
            let middle = from + (through - from) / 2;
            parts.push((middle + 1, through));
            parts.push((from, middle));
        }
        // After an error of the disk, redb reads nothing until it is opened again. Of tables that are damaged it reads on.
        let is_damaged = matches!(error, TableError::Broken(_) | TableError::Decode(_));
        if !is_damaged && let Err(error) = tables.reopen() {
            tracing::error!(%error, "cannot open the tables again; nothing more is read from them");
            return Ok(());
        }
    }
    Ok(())
}

/// Writes the chunks that end at `from` or after, up to `through`; `from` follows, so that none is written twice. The outer error is the
/// output's, the inner one the tables'.
fn copy_part(
    tables: &Tables,
    id: u64,
    from: &mut u64,
    through: u64,
    lines: &mut Lines<'_>,
) -> io::Result<Result<(), TableError>> {
    let mut output = Ok(());
    let read = tables.read(|transaction| {
        let messages = transaction.open_table(MESSAGES)?;
        for entry in messages.range((id, *from)..=(id, through))? {
            let (key, value) = entry?;
            let last = key.value().1;
            let records = Chunk::decode(last, value.value()).and_then(Chunk::records);
            *from = last + 1;
            // What is not what was written is missing; what comes after it need not be.
            output = records.unwrap_or_default().iter().try_for_each(|record| lines.write(record));
            if output.is_err() {
                break;
            }
        }
        Ok(())
    });
    output.map(|()| read)
}
