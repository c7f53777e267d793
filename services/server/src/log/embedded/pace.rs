//! How the applier keeps out of the way of posts.
//!
//! What it does is done every few seconds, takes a processor for tens of milliseconds and writes many megabytes. Done in one go, every post
//! that comes meanwhile waits for the processor and the disk; done in small parts with rests, it takes longer and nobody notices. Where
//! messages come faster than that, it does not rest: then it is the applier that posts wait for.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use super::backlog::Backlog;

/// So long the applier keeps a processor before it rests.
const SLICE: Duration = Duration::from_micros(300);
/// The longest rest.
const LONGEST: Duration = Duration::from_millis(5);
/// Steps between two looks at the clock.
const STEPS: u32 = 8;

/// Decides when the applier rests.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// What presses, once posts are taken: a start does not rest.
    backlog: OnceLock<Arc<Backlog>>,
}

impl Pace {
    /// From now on there are posts to keep out of the way of.
    pub(crate) fn follow(&self, backlog: Arc<Backlog>) {
        // Only an engine that starts calls this, once.
        drop(self.backlog.set(backlog));
    }

    /// Rests for as long as the work before took, at most [`LONGEST`]; not at all if much waits.
    pub(crate) fn rest(&self, worked: Duration) {
        if let Some(backlog) = self.backlog.get() {
            backlog.rest(worked.min(LONGEST));
        }
    }

    /// Begins work that is done in many small steps.
    pub(crate) fn steps(&self) -> Steps<'_> {
        Steps { pace: self, since: Instant::now(), left: STEPS }
    }
}

/// Work in many small steps.
#[derive(Debug)]
pub(crate) struct Steps<'a> {
    pace: &'a Pace,
    since: Instant,
    left: u32,
}

impl Steps<'_> {
    /// A step is done: rests if it is time to.
    pub(crate) fn step(&mut self) {
        self.left -= 1;
        if self.left > 0 {
            return;
        }
        self.left = STEPS;
        let worked = self.since.elapsed();
        if worked >= SLICE {
            self.pace.rest(worked);
            self.since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::backlog::{Block, Triggers};
    use crate::log::embedded::frame::Position;

    fn backlog() -> Arc<Backlog> {
        let triggers = Triggers { records: 10, bytes: 1000, interval: Duration::from_secs(3600) };
        Arc::new(Backlog::new(2000, triggers, 0))
    }

    fn rested(pace: &Pace) -> Duration {
        let begun = Instant::now();
        pace.rest(LONGEST * 1000);
        begun.elapsed()
    }

    #[test]
    fn it_rests_while_little_waits() {
        let pace = Pace::default();
        assert!(rested(&pace) < LONGEST, "a start is in nobody's way");
        let backlog = backlog();
        pace.follow(Arc::clone(&backlog));
        backlog.push(Arc::new(Block::new(Position::default(), Vec::new(), 100)));
        assert!(rested(&pace) >= LONGEST);
    }

    /// The longest rest is short, so what ends it is asked for directly.
    #[test]
    fn what_presses_ends_a_rest() {
        const LONG: Duration = Duration::from_secs(3600);
        let full = backlog();
        full.push(Arc::new(Block::new(Position::default(), Vec::new(), 1000)));
        full.rest(LONG);
        let ending = backlog();
        std::thread::scope(|scope| {
            let resting = scope.spawn(|| ending.rest(LONG));
            ending.close();
            resting.join().unwrap();
        });
        let copied = backlog();
        copied.push(Arc::new(Block::new(Position { block: 1, ..Position::default() }, Vec::new(), 100)));
        std::thread::scope(|scope| {
            let flushing = scope.spawn(|| copied.flush());
            copied.rest(LONG);
            copied.done(1);
            assert!(flushing.join().unwrap());
        });
    }
}
