//! The applier's thread: moves blocks into the tables, recycles the commit log behind it, and sees to retention in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::ReadableTable;
use tertulia_protocol::GroupName;

use super::apply::{Applied, apply};
use super::backlog::{Backlog, Block, Work};
use super::complaints::Complaints;
use super::files::Files;
use super::metrics::Metrics;
use super::record::DecodeError;
use super::retention::{Look, Rules, oldest_kept};
use super::table::{GROUPS, MESSAGES, Row, TableError, Tables};
use super::tail::Tail;
use super::trouble::{Cause, Trouble};
use crate::log::config::Retention;
use crate::log::now_ms;

/// How soon a transaction that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Groups that one look of the sweep goes through.
const SWEEP_GROUPS: usize = 2048;

/// The applier.
#[derive(Debug)]
pub(crate) struct Applier {
    pub(crate) tables: Arc<Tables>,
    pub(crate) rules: Arc<Rules>,
    pub(crate) tail: Arc<Tail>,
    pub(crate) backlog: Arc<Backlog>,
    pub(crate) files: Arc<Files>,
    pub(crate) trouble: Arc<Trouble>,
    pub(crate) metrics: Metrics,
    pub(crate) sweep: Sweep,
    pub(crate) complaints: Complaints,
}

/// A walk over all groups, in slices, for what retention removes where nothing happens.
#[derive(Debug)]
pub(crate) struct Sweep {
    interval: Duration,
    begun: Instant,
    /// The last group that was looked at; `None` between two walks.
    cursor: Option<String>,
    due: Vec<GroupName>,
    /// Whether the last look failed.
    failing: bool,
}

impl Sweep {
    /// A first walk at once, since the rules may have changed, or removals may have been left over.
    pub(crate) fn new(interval: Duration) -> Self {
        Self { interval, begun: Instant::now(), cursor: Some(String::new()), due: Vec::new(), failing: false }
    }
}

impl Applier {
    /// Applies until the backlog is closed and empty.
    pub(crate) fn run(mut self) {
        let mut trims_left = true;
        loop {
            let blocks = match self.backlog.next(trims_left || !self.sweep.due.is_empty()) {
                Work::Blocks(blocks) => blocks,
                Work::Idle => Vec::new(),
                Work::Stop => return,
            };
            if self.tables.is_suspect()
                && let Err(error) = self.tables.reopen()
            {
                tracing::warn!(%error, "cannot open the tables again after an error of the disk");
            }
            let looked = self.look_around();
            if let Err(error) = &looked
                && !self.sweep.failing
            {
                tracing::warn!(%error, "cannot look for what retention removes; trying again");
            }
            self.sweep.failing = looked.is_err();
            if matches!(looked, Err(TableError::Broken(_))) {
                // It would be met again at once: not before the next walk.
                self.sweep.cursor = None;
            }
            if blocks.is_empty() && !trims_left && self.sweep.due.is_empty() {
                self.trouble.set(Cause::Tables, None);
                self.report();
                continue;
            }
            match self.step(&blocks) {
                Some(applied) => trims_left = applied.trims_left,
                None => return,
            }
            self.report();
        }
    }

    /// One transaction, tried until it succeeds; `None` if the engine ends before, or it cannot succeed.
    fn step(&mut self, blocks: &[Arc<Block>]) -> Option<Applied> {
        let mut failed = false;
        loop {
            let begun = Instant::now();
            match apply(&self.tables, &self.rules, blocks, &self.sweep.due, now_ms()) {
                Ok(applied) => {
                    self.metrics.apply.record(begun.elapsed());
                    self.metrics.applied_records.increment(applied.records as u64);
                    self.metrics.removed.retention.increment(applied.retired);
                    self.finish(blocks, &applied);
                    if failed {
                        tracing::info!("the tables can be written again");
                    }
                    return Some(applied);
                }
                // It would be so each time. And opening the tables again reads all of them and takes none that are damaged: then nobody could
                // read what is whole. What was acknowledged stays in the commit log, and no more is.
                Err(error @ TableError::Broken(_)) => {
                    let advice = "stop the server, look at it with `tertulia-server log verify`, and restore a backup";
                    let reason = format!("{error}; {advice}");
                    // First the trouble: whoever is told that nothing is applied any more finds that nothing is taken either.
                    self.trouble.set(Cause::Tables, Some(reason.clone()));
                    self.backlog.set_failing(Some(reason));
                    return None;
                }
                Err(error) => {
                    if !failed {
                        tracing::error!(%error, "cannot move messages into the tables; they stay in the commit log");
                    }
                    failed = true;
                    self.backlog.set_failing(Some(error.to_string()));
                    // After an error of the disk, redb has to be opened again.
                    if let Err(error) = self.tables.reopen() {
                        tracing::debug!(%error, "cannot open the tables again");
                    }
                    if !self.backlog.pause(RETRY) {
                        return None;
                    }
                }
            }
        }
    }

    fn finish(&mut self, blocks: &[Arc<Block>], applied: &Applied) {
        self.sweep.due.clone_from(&applied.again);
        for (group, error) in &applied.damaged {
            self.complaints.of(group.as_str(), error);
        }
        for (group, operations, head) in &applied.groups {
            self.tail.applied(group, *operations, *head);
        }
        self.backlog.done(blocks.len());
        self.trouble.set(Cause::Tables, None);
        if let Some(block) = blocks.last() {
            // The file that the position is in is still needed: it says that the commit log is there.
            self.files.retire(block.position.file);
        }
    }

    /// Looks at the next groups of the sweep.
    fn look_around(&mut self) -> Result<(), TableError> {
        let Self { sweep, complaints, .. } = self;
        if sweep.cursor.is_none() {
            if sweep.begun.elapsed() < sweep.interval {
                return Ok(());
            }
            sweep.begun = Instant::now();
        }
        // It stays there until the look has succeeded.
        let from = sweep.cursor.get_or_insert_default().clone();
        let now = now_ms();
        let (rules, due) = (&self.rules, &mut sweep.due);
        sweep.cursor = self.tables.read(|transaction| {
            let groups = transaction.open_table(GROUPS)?;
            let messages = transaction.open_table(MESSAGES)?;
            let mut last = None;
            let mut seen = 0;
            for entry in groups.range::<&str>(from.as_str()..)?.take(SWEEP_GROUPS) {
                let (name, value) = entry?;
                let name = name.value();
                last = Some(name.to_owned());
                seen += 1;
                // A group that is damaged keeps no other one from being looked at.
                match look_at(rules.of(name), name, value.value(), now, &messages) {
                    Ok((is_due, damaged)) => {
                        due.extend(is_due);
                        damaged.iter().for_each(|error| complaints.of(name, error));
                    }
                    Err(TableError::Decode(error)) => complaints.of(name, &error),
                    Err(error) => return Err(error),
                }
            }
            // The last group is looked at once more, as the first of the next slice.
            Ok(last.filter(|_| seen == SWEEP_GROUPS))
        })?;
        Ok(())
    }

    fn report(&self) {
        let size = self.backlog.size();
        self.metrics.unapplied_records.set(size.records as f64);
        self.metrics.unapplied_bytes.set(size.bytes as f64);
    }
}

/// A group if retention removes something of it, and what is damaged of it.
fn look_at(
    rule: &Retention,
    name: &str,
    row: &[u8],
    now: u64,
    messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
) -> Result<(Option<GroupName>, Option<DecodeError>), TableError> {
    let row = Row::decode(row)?;
    let Look { first, damaged, .. } = oldest_kept(rule, &row, now, messages)?;
    let group = || GroupName::new(name).map_err(|error| DecodeError::new(error.to_string()));
    Ok(((first > row.head.first).then(group).transpose()?, damaged))
}
