//! Moving acknowledged operations into the tables.
//!
//! One transaction takes many blocks, folds them by group and writes in key order; the position of the last block goes in with it, so
//! that a start knows where to go on. The same function serves the applier's thread and a start.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use redb::{ReadableTable, Table, WriteTransaction};
use tertulia_protocol::GroupName;

use super::backlog::Block;
use super::frame::Position;
use super::pace::Pace;
use super::record::{DecodeError, Operation, encode_record};
use super::redact;
use super::retention::{Look, Rules, oldest_kept};
use super::spared::Spared;
use super::table::{Chunk, GROUPS, MESSAGES, META, REDACTIONS, Row, TRIMS, TableError, Tables, meta};
use crate::log::{Batch, Head, Record};

/// A chunk is closed when it has so many bytes: with its key it then fills one page of the tables.
const CHUNK_BYTES: usize = 3500;
/// Chunks removed in one transaction, so that a large removal does not hold up what comes in.
const TRIM_CHUNKS: usize = 8192;
/// Chunks of one group that a transaction looks at for retention; the next one goes on.
const CHUNKS_PER_LOOK: usize = 256;
/// Chunks of all groups that it looks at, so that it does not hold up what comes in either. Beyond them it looks at one of each group, which is
/// enough to see that nothing is to be removed, and takes no group's turn away for good.
const LOOK_CHUNKS: usize = 8192;

/// What a transaction sees to of retention.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Upkeep<'a> {
    pub(crate) rules: &'a Rules,
    /// Groups that are looked at beside those that something came for.
    pub(crate) due: &'a [GroupName],
    /// Groups that are left alone.
    pub(crate) spared: &'a Spared,
    /// The time that ages are counted to; none while nothing is to be removed for its age.
    pub(crate) now: Option<u64>,
}

/// What a transaction did.
#[derive(Debug, Default)]
pub(crate) struct Applied {
    /// Each group, how many operations it had, and its head now.
    pub(crate) groups: Vec<(GroupName, usize, Option<Head>)>,
    /// Messages that were moved.
    pub(crate) records: usize,
    /// Messages that retention removed.
    pub(crate) retired: u64,
    /// Groups of which retention has not seen all.
    pub(crate) again: Vec<GroupName>,
    /// Groups of which a message cannot be read, and why.
    pub(crate) damaged: Vec<(GroupName, DecodeError)>,
    /// Whether chunks are left to be removed, or texts in them.
    pub(crate) trims_left: bool,
}

/// The operations of one group.
#[derive(Debug, Default)]
struct Plan<'a> {
    count: usize,
    /// The group is removed before `operations`.
    dropped: bool,
    operations: Vec<&'a Operation>,
    row: Option<Row>,
    /// Where the oldest message stood in the tables before.
    first_before: u64,
    /// Messages whose texts are removed.
    redacted: BTreeSet<u64>,
}

/// Applies `blocks` in order, and retention to their groups and to those that are due.
pub(crate) fn apply(tables: &Tables, blocks: &[Arc<Block>], upkeep: Upkeep<'_>) -> Result<Applied, TableError> {
    let mut plans: HashMap<&GroupName, Plan<'_>, foldhash::fast::FixedState> = HashMap::default();
    for operation in blocks.iter().flat_map(|block| &block.operations) {
        let plan = plans.entry(operation.group()).or_default();
        plan.count += 1;
        if let Operation::Delete { .. } = operation {
            plan.dropped = true;
            plan.operations.clear();
        } else {
            plan.operations.push(operation);
        }
    }
    for group in upkeep.due {
        plans.entry(group).or_default();
    }
    let mut plans: Vec<_> = plans.into_iter().collect();
    plans.sort_unstable_by_key(|(group, _)| *group);
    let end = blocks.last().map(|block| block.position);
    let mut applied = tables.write(|transaction| write(transaction, tables.pace(), &mut plans, end, upkeep))?;
    applied.records = blocks.iter().map(|block| block.records).sum();
    let heads = plans.into_iter().map(|(group, plan)| (group.clone(), plan.count, plan.row.map(|row| row.head)));
    applied.groups = heads.collect();
    Ok(applied)
}

fn write(
    transaction: &WriteTransaction,
    pace: &Pace,
    plans: &mut [(&GroupName, Plan<'_>)],
    end: Option<Position>,
    upkeep: Upkeep<'_>,
) -> Result<Applied, TableError> {
    let mut groups = transaction.open_table(GROUPS)?;
    let mut messages = transaction.open_table(MESSAGES)?;
    let mut trims = transaction.open_table(TRIMS)?;
    let mut redactions = transaction.open_table(REDACTIONS)?;
    let mut numbers = transaction.open_table(META)?;
    let mut next_id = numbers.get(meta::NEXT_ID)?.map_or(1, |value| value.value());

    let mut steps = pace.steps();
    let mut chunks = Vec::new();
    for (group, plan) in plans.iter_mut() {
        steps.step();
        let stored = groups.get(group.as_str())?.map(|value| Row::decode(value.value())).transpose()?;
        plan.row = stored;
        plan.first_before = stored.map_or(1, |row| row.head.first);
        if plan.dropped
            && let Some(row) = plan.row.take()
        {
            groups.remove(group.as_str())?;
            trims.insert(row.id, u64::MAX)?;
            plan.first_before = 1;
        }
        fold(group, plan, &mut next_id, &mut chunks)?;
    }
    chunks.sort_unstable_by_key(|(key, _)| *key);
    for (key, value) in &chunks {
        messages.insert(*key, value.as_slice())?;
        steps.step();
    }

    let mut result = Applied::default();
    let (mut looks, mut budget) = (LOOK_CHUNKS, TRIM_CHUNKS);
    for (group, plan) in plans.iter_mut() {
        steps.step();
        let Some(row) = &mut plan.row else { continue };
        let id = row.id;
        let is_spared = upkeep.spared.has(id);
        let met_here = |error: TableError| error.met_at(id, || group.to_string());
        if !plan.redacted.is_empty() {
            if is_spared {
                redact::later(&mut redactions, id, &plan.redacted)?;
            } else {
                let damaged = redact::now(&mut messages, id, &plan.redacted).map_err(met_here)?;
                result.damaged.extend(damaged.into_iter().map(|error| ((*group).clone(), error)));
            }
        }
        let rule = upkeep.rules.of(group.as_str());
        let look = match is_spared {
            true => Look::by_count(rule, row),
            false => {
                let chunks = looks.clamp(1, CHUNKS_PER_LOOK);
                oldest_kept(rule, row, upkeep.now, chunks, &messages).map_err(met_here)?
            }
        };
        let Look { first, chunks, more, damaged } = look;
        looks = looks.saturating_sub(chunks);
        if more {
            result.again.push((*group).clone());
        }
        result.damaged.extend(damaged.map(|error| ((*group).clone(), error)));
        result.retired += first - row.head.first;
        row.head.first = first;
        groups.insert(group.as_str(), row.encode().as_slice())?;
        if first > plan.first_before
            && (is_spared || !trim(&mut messages, id, first - 1, &mut budget).map_err(met_here)?)
        {
            trims.insert(id, first - 1)?;
        }
    }
    result.trims_left = trim_later(&mut messages, &mut trims, upkeep.spared, &mut budget)?;
    result.trims_left |= redact::what_was_put_off(&mut messages, &mut redactions, upkeep.spared)?;

    numbers.insert(meta::NEXT_ID, next_id)?;
    if let Some(end) = end {
        numbers.insert(meta::APPLIED_FILE, end.file)?;
        numbers.insert(meta::APPLIED_END, end.end)?;
        numbers.insert(meta::APPLIED_BLOCK, end.block)?;
        // The file that the position is in must be there from now on. A start that found no space for one has not said so.
        numbers.insert(meta::IN_USE, 1)?;
    }
    Ok(result)
}

type ChunkEntry = ((u64, u64), Vec<u8>);

/// Folds a group's operations into its row, and its messages into chunks.
fn fold(
    group: &GroupName,
    plan: &mut Plan<'_>,
    next_id: &mut u64,
    chunks: &mut Vec<ChunkEntry>,
) -> Result<(), TableError> {
    let mut open: Option<OpenChunk> = None;
    // All are of one life: where another one began, those before are left out. But some may have been asked for that were not there yet.
    let mut head = plan.row.map_or(0, |row| row.head.seq);
    for operation in &plan.operations {
        match operation {
            Operation::Append { batch, .. } => head = head.max(batch.last()),
            Operation::Redact { seq, .. } if *seq <= head => drop(plan.redacted.insert(*seq)),
            Operation::Redact { .. } | Operation::Purge { .. } | Operation::Delete { .. } => {}
        }
    }
    for operation in &plan.operations {
        match operation {
            Operation::Append { batch, .. } => {
                let row = plan.row.get_or_insert_with(|| {
                    *next_id += 1;
                    let head = Head { epoch: batch.epoch, seq: 0, first: 1, at: 0 };
                    Row { id: *next_id - 1, head, bytes: 0 }
                });
                if !follows(group, row, batch)? {
                    continue;
                }
                for record in &batch.records {
                    let chunk = open.get_or_insert_with(|| OpenChunk::new(row));
                    let record = &*redact::left_of(record, plan.redacted.contains(&record.seq));
                    chunk.push(record);
                    row.bytes += record.size() as u64;
                    row.head.seq = record.seq;
                    row.head.at = record.at;
                    if chunk.records.len() >= CHUNK_BYTES {
                        chunks.extend(open.take().map(|chunk| chunk.close(row)));
                    }
                }
            }
            Operation::Purge { through, .. } => {
                if let Some(row) = &mut plan.row {
                    let head = &mut row.head;
                    head.first = head.first.max(through.saturating_add(1)).min(head.seq + 1);
                }
            }
            Operation::Redact { .. } | Operation::Delete { .. } => {}
        }
    }
    if let (Some(chunk), Some(row)) = (open, &plan.row) {
        chunks.push(chunk.close(row));
    }
    Ok(())
}

/// Whether the batch is new to the tables (a start may meet what they already hold).
fn follows(group: &GroupName, row: &Row, batch: &Batch) -> Result<bool, TableError> {
    let head = row.head;
    if head.epoch == batch.epoch && head.seq + 1 == batch.first() {
        return Ok(true);
    }
    if head.epoch == batch.epoch && batch.last() <= head.seq {
        return Ok(false);
    }
    Err(TableError::Contradiction(format!(
        "group '{group}' stands at {} in epoch {}, but the commit log goes on at {} in epoch {}",
        head.seq,
        head.epoch,
        batch.first(),
        batch.epoch
    )))
}

/// A chunk that is being filled.
struct OpenChunk {
    count: u32,
    before: u64,
    records: Vec<u8>,
}

impl OpenChunk {
    fn new(row: &Row) -> Self {
        Self { count: 0, before: row.bytes, records: Vec::with_capacity(CHUNK_BYTES) }
    }

    fn push(&mut self, record: &Record) {
        self.count += 1;
        encode_record(record, &mut self.records);
    }

    fn close(self, row: &Row) -> ChunkEntry {
        let mut value = Chunk::header(self.count, self.before).to_vec();
        value.extend_from_slice(&self.records);
        ((row.id, row.head.seq), value)
    }
}

/// Removes chunks of a group that end at or before `through`, as far as the budget goes. Answers whether that was all.
fn trim(
    messages: &mut Table<'_, (u64, u64), &'static [u8]>,
    id: u64,
    through: u64,
    budget: &mut usize,
) -> Result<bool, TableError> {
    let mut gone = Vec::new();
    for entry in messages.range((id, 0)..=(id, through))?.take(*budget) {
        gone.push(entry?.0.value());
    }
    for key in &gone {
        messages.remove(*key)?;
    }
    *budget -= gone.len();
    Ok(*budget > 0)
}

/// Removes chunks that were left over before. Answers whether some still are that can be removed.
fn trim_later(
    messages: &mut Table<'_, (u64, u64), &'static [u8]>,
    trims: &mut Table<'_, u64, u64>,
    spared: &Spared,
    budget: &mut usize,
) -> Result<bool, TableError> {
    if spared.is_all() {
        return Ok(false);
    }
    let mut from = 0;
    loop {
        let mut next = None;
        for entry in trims.range(from..)? {
            let (id, through) = entry?;
            if !spared.has(id.value()) {
                next = Some((id.value(), through.value()));
                break;
            }
        }
        let Some((id, through)) = next else { return Ok(false) };
        if *budget == 0 {
            return Ok(true);
        }
        // Of the group no more is known here: it may be gone.
        if trim(messages, id, through, budget).map_err(|error| error.met_at(id, || format!("with id {id}")))? {
            trims.remove(id)?;
        }
        from = id;
    }
}
