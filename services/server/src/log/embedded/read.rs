//! Reads: what memory has of a group, and the tables for what it has not.

use std::collections::BTreeSet;
use std::time::Instant;

use redb::ReadableTable;
use tertulia_protocol::GroupName;

use super::holes::{Holes, Span};
use super::redact::left_of;
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

/// The page, with the help of the tables. Of what cannot be read it ends before, or begins after it.
pub(crate) fn from_tables(
    tables: &Tables,
    holes: &Holes,
    group: &GroupName,
    view: &View,
    range: Range,
    limit: PageLimit,
) -> Result<Page, TableError> {
    let mut reading = Reading {
        holes,
        group,
        view,
        head: view.head,
        redacted: BTreeSet::new(),
        gathered: Gathered::new(limit),
        at: At::Group,
    };
    let begun = Instant::now();
    holes.may_read_row(group)?;
    let read = tables.read(|transaction| {
        // Another life of the group, or none: its messages went since memory was asked.
        let row = table::row(transaction, group)?.filter(|row| row.head.epoch == view.head.epoch);
        holes.read_row(group);
        let Some(row) = row else { return Ok(()) };
        // Retention may have been quicker than memory is told of it; whoever reads must know what is not there for that.
        reading.head.first = view.head.first.max(row.head.first.min(view.head.seq + 1));
        reading.redacted = table::redactions(transaction, row.id)?;
        let messages = transaction.open_table(MESSAGES)?;
        match range {
            Range::After(after) => reading.forward(&messages, &row, after),
            Range::Before(before) => reading.backward(&messages, &row, before),
        }
    });
    let Reading { head, mut gathered, at, .. } = reading;
    if let Err(error) = read {
        match (&error, at) {
            (TableError::Decode(error), _) => holes.damaged(group, error),
            (error, _) if !error.is_disk_failure() => {}
            (error, At::Group) => holes.failed_row(group, begun, error),
            (error, At::After(seq)) => holes.failed_after(group, head.epoch, seq, view.memory_first, begun, error),
            (error, At::Before(seq)) => holes.failed_before(group, head.epoch, seq, begun, error),
        }
        // What was found until then is as good as ever.
        if gathered.records.is_empty() {
            return Err(error);
        }
    }
    if let Range::Before(_) = range {
        gathered.records.reverse();
    }
    Ok(Page { head, records: gathered.records })
}

/// Where a read is.
#[derive(Debug, Clone, Copy)]
enum At {
    /// At the group itself.
    Group,
    /// At this message, and later ones are next.
    After(u64),
    /// At this message, and earlier ones are next.
    Before(u64),
}

/// A read of the tables.
struct Reading<'a> {
    holes: &'a Holes,
    group: &'a GroupName,
    view: &'a View,
    head: Head,
    /// Messages whose texts stand in the tables though they are removed, as far as the tables know.
    redacted: BTreeSet<u64>,
    gathered: Gathered,
    at: At,
}

impl Reading<'_> {
    /// As [`Gathered::push`], of a record of the tables.
    fn push(&mut self, record: &Record) -> bool {
        let is_redacted = self.redacted.contains(&record.seq) || self.view.redacted.contains(&record.seq);
        self.gathered.push(&left_of(record, is_redacted))
    }

    fn forward(
        &mut self,
        messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
        row: &Row,
        after: u64,
    ) -> Result<(), TableError> {
        let memory_first = self.view.memory_first;
        let mut next = after.saturating_add(1).max(self.head.first);
        let is_full = loop {
            let Span { begin, end } = self.holes.after(self.group, self.head.epoch, next, memory_first)?;
            if begin >= memory_first {
                break false;
            }
            self.at = At::After(begin);
            let read = self.chunks(messages, row, begin, end.min(memory_first));
            if read.is_ok() || !self.gathered.records.is_empty() {
                self.holes.read_after(self.group, begin);
            }
            match read? {
                Read::Full => break true,
                Read::To(reached) if reached >= memory_first || reached < end => break false,
                // The disk failed at what is next: the page ends before it, or begins after it.
                Read::To(_) if !self.gathered.records.is_empty() => break true,
                Read::To(reached) => next = reached,
            }
        };
        let last = self.gathered.records.last().map(|record| record.seq);
        // A page has no gap.
        if !is_full && last.is_none_or(|last| last + 1 >= memory_first) {
            forward(&self.view.recent, last.map_or(next, |last| last + 1), &mut self.gathered);
        }
        // From there on memory has it all, also what did not go into this page.
        if self.gathered.records.is_empty() && next <= self.head.seq && next < memory_first {
            // Nothing is left of what comes after, and whoever reads on must not wait for it.
            self.head.first = self.head.seq + 1;
        }
        Ok(())
    }

    /// Takes the records of chunks from `begin` on, as long as those that are next come before `end`.
    fn chunks(
        &mut self,
        messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
        row: &Row,
        begin: u64,
        end: u64,
    ) -> Result<Read, TableError> {
        let mut next = begin;
        let mut chunks = messages.range((row.id, begin)..(row.id, u64::MAX))?;
        while next < end
            && let Some(entry) = chunks.next()
        {
            let (key, value) = entry?;
            let last = key.value().1;
            match Chunk::decode(last, value.value()).and_then(Chunk::records) {
                Ok(records) => {
                    let wanted = begin..self.view.memory_first;
                    for record in records.iter().filter(|record| wanted.contains(&record.seq)) {
                        if !self.push(record) {
                            return Ok(Read::Full);
                        }
                    }
                }
                // The page ends before it, or begins after it: of what cannot be read, it is known where it ends.
                Err(error) => {
                    self.holes.damaged(self.group, &error);
                    if !self.gathered.records.is_empty() {
                        return Ok(Read::Full);
                    }
                }
            }
            next = last + 1;
            self.at = At::After(next);
        }
        Ok(Read::To(next))
    }

    fn backward(
        &mut self,
        messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
        row: &Row,
        before: u64,
    ) -> Result<(), TableError> {
        let first = self.head.first;
        let below = before.min(self.view.memory_first);
        if !backward(&self.view.recent, before, first, &mut self.gathered) || below <= first {
            return Ok(());
        }
        let end = self.holes.before(self.group, self.head.epoch, below - 1)?;
        self.at = At::Before(below - 1);
        // The chunk that holds the newest wanted message may end at or after `below`.
        let newest = match messages.range((row.id, below - 1)..=(row.id, u64::MAX))?.next() {
            Some(entry) => entry?.0.value().1,
            None => u64::MAX,
        };
        let mut is_begun = false;
        for entry in messages.range((row.id, first)..=(row.id, newest))?.rev() {
            let (key, value) = entry?;
            let chunk = Chunk::decode(key.value().1, value.value())?;
            let next = chunk.first - 1;
            let records = chunk.records()?;
            if !is_begun {
                is_begun = true;
                self.holes.read_before(self.group, below - 1);
            }
            for record in records.iter().rev().filter(|record| record.seq < below) {
                if record.seq < first || !self.push(record) {
                    return Ok(());
                }
            }
            if next < first || next <= end {
                break;
            }
            self.at = At::Before(next);
        }
        Ok(())
    }
}

/// How far chunks were read.
#[derive(Debug, Clone, Copy)]
enum Read {
    /// The page ends here.
    Full,
    /// Up to this message.
    To(u64),
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
