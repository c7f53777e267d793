//! What the commit log holds and the tables do not yet: bounded, in order, handed from the commit log's writer to the applier.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::frame::Position;
use super::record::Operation;

/// Operations that became durable together.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its end in the commit log.
    pub(crate) position: Position,
    pub(crate) operations: Vec<Operation>,
    pub(crate) records: usize,
    /// What it counts for: the larger of what it takes in memory and in the commit log.
    pub(crate) bytes: usize,
}

impl Block {
    pub(crate) fn new(position: Position, operations: Vec<Operation>, disk_bytes: u64) -> Self {
        let records = operations.iter().map(Operation::records).sum();
        let memory: usize = operations.iter().map(Operation::bytes).sum();
        Self { position, operations, records, bytes: memory.max(disk_bytes as usize) }
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    blocks: VecDeque<Arc<Block>>,
    size: Size,
    /// When the oldest block came.
    since: Option<Instant>,
    applied: u64,
    /// The block up to which somebody waits for the tables, until they hold it.
    flush: Option<u64>,
    closed: bool,
    aborted: bool,
    /// Why the applier cannot go on now.
    failing: Option<String>,
}

/// When the applier has enough to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Triggers {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    pub(crate) interval: Duration,
}

/// What the applier is to do.
#[derive(Debug)]
pub(crate) enum Work {
    /// Move these blocks into the tables.
    Blocks(Vec<Arc<Block>>),
    /// Nothing waits: time for housekeeping.
    Idle,
    /// End.
    Stop,
}

/// Why there is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The applier cannot go on.
    Failing(String),
    /// The engine is being closed.
    Closed,
}

/// How long housekeeping waits at most.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// The longest soft delay of one block.
const SOFTEST: Duration = Duration::from_millis(50);

/// How long a block waits for the applier though there is room: nothing up to half, then more and more.
fn soft_delay(bytes: usize, limit: usize) -> Duration {
    let over = (2.0 * bytes as f64 / limit as f64 - 1.0).clamp(0.0, 1.0);
    SOFTEST.mul_f64(over * over)
}

/// Blocks between the commit log and the tables.
#[derive(Debug)]
pub(crate) struct Backlog {
    limit: usize,
    triggers: Triggers,
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
}

impl Backlog {
    pub(crate) fn new(limit: usize, triggers: Triggers, applied: u64) -> Self {
        let state = State { applied, ..State::default() };
        Self { limit, triggers, state: Mutex::new(state), work: Condvar::new(), room: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more block: the back-pressure on appends. It begins softly when half is full, so that
    /// appends that come faster than they can be applied slow down a little each, instead of standing still now and then.
    pub(crate) fn wait_for_room(&self) -> Result<(), NoRoom> {
        let mut state = self.state();
        let delay = soft_delay(state.size.bytes, self.limit);
        if !delay.is_zero() && state.failing.is_none() {
            state = self.room.wait_timeout(state, delay).unwrap_or_else(PoisonError::into_inner).0;
        }
        loop {
            if state.aborted {
                return Err(NoRoom::Closed);
            }
            if state.size.bytes < self.limit {
                return Ok(());
            }
            if let Some(reason) = &state.failing {
                return Err(NoRoom::Failing(reason.clone()));
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds a block.
    pub(crate) fn push(&self, block: Arc<Block>) {
        let mut state = self.state();
        state.size.records += block.records;
        state.size.bytes += block.bytes;
        state.since.get_or_insert_with(Instant::now);
        state.blocks.push_back(block);
        if self.is_enough(&state) {
            self.work.notify_all();
        }
    }

    /// Waits until enough came, or what came waited long enough, or there is time for housekeeping (if `eager`, at once).
    pub(crate) fn next(&self, eager: bool) -> Work {
        let begun = Instant::now();
        let mut state = self.state();
        loop {
            if state.aborted {
                return Work::Stop;
            }
            let enough = self.is_enough(&state);
            let waited = state.since.is_some_and(|since| since.elapsed() >= self.triggers.interval);
            if !state.blocks.is_empty() && (enough || waited || state.flush.is_some() || state.closed) {
                return Work::Blocks(self.portion(&state.blocks));
            }
            if state.closed {
                return Work::Stop;
            }
            if eager || begun.elapsed() >= self.triggers.interval.min(HOUSEKEEPING) {
                return Work::Idle;
            }
            let wait = self.triggers.interval.min(Duration::from_millis(250)).max(Duration::from_millis(1));
            state = self.work.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The oldest blocks, up to the records of one transaction.
    fn portion(&self, blocks: &VecDeque<Arc<Block>>) -> Vec<Arc<Block>> {
        let mut records = 0;
        let mut portion = Vec::new();
        for block in blocks {
            records += block.records;
            if records > self.triggers.records && !portion.is_empty() {
                break;
            }
            portion.push(Arc::clone(block));
        }
        portion
    }

    /// The first `count` blocks are in the tables.
    pub(crate) fn done(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            let Some(block) = state.blocks.pop_front() else { break };
            state.size.records -= block.records;
            state.size.bytes -= block.bytes;
            state.applied = block.position.block;
        }
        if count > 0 {
            state.since = (!state.blocks.is_empty()).then(Instant::now);
        }
        // Not only once nothing waits any more: on a busy server that never comes, and the applier would never rest again.
        state.flush = state.flush.filter(|last| *last > state.applied);
        state.failing = None;
        self.room.notify_all();
    }

    /// The applier cannot go on, or can again.
    pub(crate) fn set_failing(&self, reason: Option<String>) {
        self.state().failing = reason;
        self.room.notify_all();
    }

    /// Whether the applier cannot go on now.
    pub(crate) fn is_failing(&self) -> bool {
        self.state().failing.is_some()
    }

    /// Waits a little, unless the engine is stopped meanwhile.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let state = self.state();
        let state = self.work.wait_timeout_while(state, time, |state| !state.aborted && !state.closed);
        let (state, _) = state.unwrap_or_else(PoisonError::into_inner);
        !state.aborted && !state.closed
    }

    /// Lets the applier rest for `time`, unless enough waits, or somebody waits for it; ends early when that comes.
    pub(crate) fn rest(&self, time: Duration) {
        let presses = |state: &State| self.is_enough(state) || state.flush.is_some() || state.closed || state.aborted;
        let state = self.state();
        drop(self.work.wait_timeout_while(state, time, |state| !presses(state)));
    }

    /// Whether so much waits that the applier is to begin at once.
    fn is_enough(&self, state: &State) -> bool {
        state.size.records >= self.triggers.records || state.size.bytes >= self.triggers.bytes
    }

    /// Waits until all that waits now is in the tables. `false` if that cannot be.
    pub(crate) fn flush(&self) -> bool {
        let mut state = self.state();
        let Some(last) = state.blocks.back().map(|block| block.position.block) else { return true };
        state.flush = state.flush.max(Some(last));
        self.work.notify_all();
        loop {
            if state.applied >= last {
                return true;
            }
            if state.failing.is_some() || state.aborted {
                return false;
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has what waits now moved into the tables without delay.
    pub(crate) fn hurry(&self) {
        let mut state = self.state();
        let last = state.blocks.back().map(|block| block.position.block);
        state.flush = state.flush.max(last);
        self.work.notify_all();
    }

    /// The number of the newest block that the tables hold.
    pub(crate) fn applied(&self) -> u64 {
        self.state().applied
    }

    /// How much waits.
    pub(crate) fn size(&self) -> Size {
        self.state().size
    }

    /// All blocks that wait.
    pub(crate) fn blocks(&self) -> Vec<Arc<Block>> {
        self.state().blocks.iter().cloned().collect()
    }

    /// No more blocks come: what waits is still applied.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.work.notify_all();
    }

    /// Stops at once; what waits stays in the commit log.
    pub(crate) fn abort(&self) {
        self.state().aborted = true;
        self.work.notify_all();
        self.room.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_tables_has_all_blocks_until_then_moved_at_once_and_no_later_ones() {
        let triggers = Triggers { records: 1, bytes: 1000, interval: Duration::from_secs(3600) };
        let backlog = Backlog::new(2000, triggers, 0);
        let push = |block| {
            let position = Position { block, ..Position::default() };
            backlog.push(Arc::new(Block::new(position, Vec::new(), 100)));
        };
        push(1);
        push(2);
        backlog.hurry();
        assert!(matches!(backlog.next(true), Work::Blocks(_)));
        // More comes all the time, so that something always waits.
        push(3);
        backlog.done(1);
        assert!(matches!(backlog.next(true), Work::Blocks(_)), "the second block is waited for");
        push(4);
        backlog.done(1);
        assert!(matches!(backlog.next(true), Work::Idle), "what came since can wait");
        backlog.hurry();
        backlog.done(2);
        push(5);
        assert!(matches!(backlog.next(true), Work::Idle));
    }
}
