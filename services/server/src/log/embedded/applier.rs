//! The applier's thread: moves blocks into the tables, recycles the commit log behind it, and sees to retention in between.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::apply::{Applied, Upkeep, apply};
use super::backlog::{Backlog, Block, Work};
use super::complaints::Complaints;
use super::files::Files;
use super::metrics::Metrics;
use super::retention::Rules;
use super::spared::Spared;
use super::sweep::Sweep;
use super::table::{TableError, Tables};
use super::tail::Tail;
use super::trouble::{Cause, Trouble};
use crate::log::clock::Clock;

/// How soon a transaction that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// For how long posts are taken that cannot be moved into the tables: what hiccups is well by then, and what is not may never be.
const PATIENCE: Duration = Duration::from_secs(5);

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
    pub(crate) clock: Clock,
    /// Since when the tables cannot be written or opened.
    pub(crate) failing_since: Option<Instant>,
}

impl Applier {
    /// Applies until the backlog is closed and empty.
    pub(crate) fn run(mut self) {
        let mut trims_left = true;
        // Whether the last look failed.
        let mut failing = false;
        loop {
            let blocks = match self.backlog.next(trims_left || self.sweep.has_due()) {
                Work::Blocks(blocks) => blocks,
                Work::Idle => Vec::new(),
                Work::Stop => return,
            };
            let now = self.clock.now();
            if self.is_open() {
                let looked = self.sweep.look(&self.tables, &self.rules, now, &mut self.complaints);
                if let Err(error) = &looked
                    && !failing
                {
                    tracing::warn!(%error, "cannot look for what retention removes; trying again");
                }
                failing = looked.is_err();
            }
            // The look may have met an error of the disk.
            let is_open = self.is_open();
            if blocks.is_empty() && !trims_left && !self.sweep.has_due() {
                if is_open {
                    self.succeeded();
                }
                self.report();
                continue;
            }
            match self.step(&blocks, now) {
                Some(applied) => trims_left = applied.trims_left,
                None => return,
            }
            self.report();
        }
    }

    /// Opens the tables again if they are not open, or an error of the disk was met since. Answers whether they are open now.
    fn is_open(&mut self) -> bool {
        if !self.tables.is_suspect() {
            return true;
        }
        match self.tables.reopen() {
            Ok(()) => true,
            Err(error) => {
                self.failed(&error);
                false
            }
        }
    }

    /// The tables cannot be written, or not opened.
    fn failed(&mut self, error: &TableError) {
        if self.failing_since.is_none() {
            tracing::error!(%error, "cannot move messages into the tables; they stay in the commit log");
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        self.backlog.set_failing(Some(error.to_string()));
        if since.elapsed() >= PATIENCE {
            // More is not taken than what may have to wait for another disk.
            self.trouble.set(Cause::Tables, Some(format!("the tables cannot be written: {error}")));
        }
    }

    /// They can.
    fn succeeded(&mut self) {
        if self.failing_since.take().is_some() {
            self.backlog.set_failing(None);
            tracing::info!("the tables can be written again");
        }
        // Also where they have not failed for long: whoever finds the backlog full meanwhile says so.
        self.trouble.set(Cause::Tables, None);
    }

    /// One transaction, tried until it succeeds; `None` if the engine ends before, or it cannot succeed.
    fn step(&mut self, blocks: &[Arc<Block>], now: Option<u64>) -> Option<Applied> {
        let spares_all = Spared::all();
        let mut leaves_retention = false;
        loop {
            // Whoever has read since may have met an error of the disk, and in each pause somebody may: that is no reason not to succeed now.
            if self.tables.is_suspect() {
                self.reopen();
            }
            let begun = Instant::now();
            let upkeep = match leaves_retention {
                false => self.sweep.upkeep(&self.rules, now),
                // Whatever retention would read or write must not keep back what is acknowledged.
                true => Upkeep { rules: &self.rules, due: &[], spared: &spares_all, now },
            };
            match apply(&self.tables, blocks, upkeep) {
                Ok(mut applied) => {
                    self.metrics.apply.record(begun.elapsed());
                    self.metrics.applied_records.increment(applied.records as u64);
                    self.metrics.removed.retention.increment(applied.retired);
                    self.finish(blocks, &applied);
                    if !leaves_retention {
                        self.sweep.done(std::mem::take(&mut applied.again));
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
                // At once again, without that group; without all where something is to be moved: with each of them the disk may take seconds.
                Err(TableError::Unreadable { id, group, error }) => {
                    self.complaints.of(&group, &error);
                    self.sweep.spare(id);
                    self.reopen();
                    leaves_retention = !blocks.is_empty();
                }
                // Nothing of it must be done now.
                Err(error) if blocks.is_empty() => {
                    tracing::warn!(%error, "cannot remove what retention removes; trying again later");
                    self.sweep.give_up();
                    self.reopen();
                    return Some(Applied::default());
                }
                Err(error) => {
                    leaves_retention = true;
                    self.failed(&error);
                    self.reopen();
                    if !self.backlog.pause(RETRY) {
                        return None;
                    }
                }
            }
        }
    }

    /// After an error of the disk, redb has to be opened again.
    fn reopen(&self) {
        if let Err(error) = self.tables.reopen() {
            tracing::debug!(%error, "cannot open the tables again");
        }
    }

    fn finish(&mut self, blocks: &[Arc<Block>], applied: &Applied) {
        for (group, error) in &applied.damaged {
            self.complaints.of(group.as_str(), error);
        }
        for (group, operations, head) in &applied.groups {
            self.tail.applied(group, *operations, *head);
        }
        self.backlog.done(blocks.len());
        self.succeeded();
        if let Some(block) = blocks.last() {
            // The file that the position is in is still needed: it says that the commit log is there.
            self.files.retire(block.position.file);
        }
    }

    fn report(&self) {
        let size = self.backlog.size();
        self.metrics.unapplied_records.set(size.records as f64);
        self.metrics.unapplied_bytes.set(size.bytes as f64);
    }
}
