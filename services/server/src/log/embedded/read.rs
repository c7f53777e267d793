//! Reads: what memory has of a group, and the tables for what it has not.

use redb::ReadableTable;
use tertulia_protocol::GroupName;

use super::table::{self, Chunk, GROUPS, MESSAGES, Row, TableError, Tables};
use super::tail::View;
use crate::log::{Batch, Head, Page, PageLimit, Range, Record};

/// Records gathered up to a limit.
#[derive(Debug)]
struct Gathered {
    limit: PageLimit,
    records: Vec<Record>,
    bytes: usize,
}

impl Gathered {
    fn new(limit: PageLimit) -> Self {
        Self { limit, records: Vec::new(), bytes: 0 }
    }

    /// Takes a record; `false` if the limit is reached.
    fn push(&mut self, record: &Record) -> bool {
        let size = record.size();
        let fits = self.records.len() < self.limit.records && self.bytes + size <= self.limit.bytes;
        if !fits && !self.records.is_empty() {
            return false;
        }
        self.bytes += size;
        self.records.push(record.clone());
        true
    }
}

/// The page, if memory has all of it.
pub(crate) fn from_memory(view: &View, range: Range, limit: PageLimit) -> Option<Page> {
    let head = view.head;
    let mut gathered = Gathered::new(limit);
    match range {
        Range::After(after) => {
            let from = after.saturating_add(1).max(head.first);
            if from <= head.seq && from < view.memory_first {
                return None;
            }
            forward(&view.recent, from, &mut gathered);
        }
        Range::Before(before) => {
            let full = !backward(&view.recent, before, head.first, &mut gathered);
            let below = before.min(view.memory_first);
            if !full && below > head.first {
                return None;
            }
            gathered.records.reverse();
        }
    }
    Some(Page { head, records: gathered.records })
}

/// The page, with the help of the tables.
pub(crate) fn from_tables(
    tables: &Tables,
    group: &GroupName,
    view: &View,
    range: Range,
    limit: PageLimit,
) -> Result<Page, TableError> {
    let mut head = view.head;
    let mut gathered = Gathered::new(limit);
    tables.read(|transaction| {
        // Another life of the group, or none: its messages went since memory was asked.
        let row = table::row(transaction, group)?.filter(|row| row.head.epoch == head.epoch);
        let Some(row) = row else { return Ok(()) };
        // Retention may have been quicker than memory is told of it; whoever reads must know what is not there for that.
        head.first = head.first.max(row.head.first.min(head.seq + 1));
        let messages = transaction.open_table(MESSAGES)?;
        match range {
            Range::After(after) => {
                let from = after.saturating_add(1).max(head.first);
                let chunks = messages.range((row.id, from)..(row.id, u64::MAX))?;
                'chunks: for entry in chunks {
                    let (key, value) = entry?;
                    for record in Chunk::decode(key.value().1, value.value())?.records()? {
                        if record.seq >= view.memory_first {
                            break 'chunks;
                        }
                        if record.seq >= from && !gathered.push(&record) {
                            return Ok(());
                        }
                    }
                }
                let from = gathered.records.last().map_or(from, |record| record.seq + 1);
                forward(&view.recent, from, &mut gathered);
            }
            Range::Before(before) => {
                if !backward(&view.recent, before, head.first, &mut gathered) {
                    return Ok(());
                }
                let below = before.min(view.memory_first);
                backward_in_tables(&messages, &row, below, head.first, &mut gathered)?;
            }
        }
        Ok(())
    })?;
    if let Range::Before(_) = range {
        gathered.records.reverse();
    }
    Ok(Page { head, records: gathered.records })
}

fn backward_in_tables(
    messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
    row: &Row,
    below: u64,
    first: u64,
    gathered: &mut Gathered,
) -> Result<(), TableError> {
    // The chunk that holds the newest wanted message may end at or after `below`.
    let end = match messages.range((row.id, below.saturating_sub(1))..=(row.id, u64::MAX))?.next() {
        Some(entry) => entry?.0.value().1,
        None => u64::MAX,
    };
    for entry in messages.range((row.id, first)..=(row.id, end))?.rev() {
        let (key, value) = entry?;
        for record in Chunk::decode(key.value().1, value.value())?.records()?.iter().rev() {
            if record.seq < first {
                return Ok(());
            }
            if record.seq < below && !gathered.push(record) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Takes records from `from` on.
fn forward(recent: &[std::sync::Arc<Batch>], from: u64, gathered: &mut Gathered) {
    for record in recent.iter().flat_map(|batch| &batch.records) {
        if record.seq >= from && !gathered.push(record) {
            return;
        }
    }
}

/// Takes records before `before` down to `first`, newest first; `false` if the limit was reached.
fn backward(recent: &[std::sync::Arc<Batch>], before: u64, first: u64, gathered: &mut Gathered) -> bool {
    for record in recent.iter().rev().flat_map(|batch| batch.records.iter().rev()) {
        if record.seq < first {
            return true;
        }
        if record.seq < before && !gathered.push(record) {
            return false;
        }
    }
    gathered.records.len() < gathered.limit.records
}

/// Groups of the tables whose name begins with `prefix` and comes after `after`, at most `limit`, except `hidden` ones.
pub(crate) fn groups(
    tables: &Tables,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    hidden: &dyn Fn(&str) -> bool,
) -> Result<Vec<(String, Head)>, TableError> {
    tables.read(|transaction| {
        let table = transaction.open_table(GROUPS)?;
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let mut found = Vec::new();
        for entry in table.range::<&str>(from..)? {
            let (name, value) = entry?;
            let name = name.value();
            if found.len() >= limit || !name.starts_with(prefix) {
                break;
            }
            if after.is_some_and(|after| name <= after) || hidden(name) {
                continue;
            }
            // A group that is damaged keeps no other one from being told; who looks at it by itself hears of that.
            if let Ok(row) = Row::decode(value.value()) {
                found.push((name.to_owned(), row.head));
            }
        }
        Ok(found)
    })
}
