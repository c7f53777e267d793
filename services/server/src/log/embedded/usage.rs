//! What the tables take of `log.disk_bytes`.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::files::Files;
use super::table::{TableError, Tables};

/// How long a measurement holds at least.
const HOLDS: Duration = Duration::from_secs(1);
/// How long one holds at most after which posts are refused: what has been removed meanwhile is to be noticed.
const HOLDS_OVER: Duration = Duration::from_secs(60);
/// Measuring reads all of the tables: it may take one part in so many of the time.
const SHARE: u32 = 20;

/// Tells how much the tables take. Their file never gets smaller, but what retention and moderators have freed in it is used before
/// it grows: once it is beyond the bound, only what is in use counts, and what the file has grown by since that was measured.
///
/// That is measured on a thread of its own, since it takes as long as it takes to read all of the tables. Meanwhile the one before counts;
/// the first time, the tables count as within the bound.
#[derive(Debug)]
pub(crate) struct Usage {
    tables: Arc<Tables>,
    files: Arc<Files>,
    /// Bytes that the directory may take; 0 for any.
    limit: u64,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    measuring: Option<Measuring>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    /// Nothing before it was measured.
    in_use: Option<u64>,
    /// The size of the file then.
    file: u64,
    until: Instant,
    /// When that was.
    ended: Instant,
}

#[derive(Debug)]
struct Measuring {
    /// The size of the file when it began.
    file: u64,
    thread: JoinHandle<(Result<u64, TableError>, Duration)>,
}

impl Known {
    /// Until when it holds, while posts are refused for want of space or not.
    fn until(&self, is_refusing: bool) -> Instant {
        if is_refusing { self.until.min(self.ended + HOLDS_OVER) } else { self.until }
    }
}

impl Usage {
    pub(crate) fn new(tables: Arc<Tables>, files: Arc<Files>, limit: u64) -> Self {
        Self { tables, files, limit, state: RefCell::default() }
    }

    /// Bytes that the tables take.
    pub(crate) fn tables(&self) -> u64 {
        let file = self.tables.disk_bytes();
        let commit_log = self.files.bytes();
        if self.limit == 0 || file.saturating_add(commit_log) <= self.limit {
            return file;
        }
        let within = self.limit.saturating_sub(commit_log);
        let known = self.known(file);
        let used = match known.in_use {
            Some(in_use) => in_use.saturating_add(file.saturating_sub(known.file)).min(file),
            // Nobody knows yet whether there is room in it, and the file may grow before there is need: until then posts are taken.
            None => within.saturating_sub(self.files.segment()),
        };
        // What it has grown by may be what keeps posts out, and room be made since.
        self.measure_after(known.until(used > within), file);
        used
    }

    /// Bytes that the tables take over before their file grows, as far as that is known. Nobody knows how well what comes fits into what is
    /// free in it, so half of that counts.
    pub(crate) fn room(&self) -> u64 {
        let file = self.tables.disk_bytes();
        let known = self.known(file);
        self.measure_after(known.until(self.files.is_refusing()), file);
        let free = known.in_use.map_or(0, |in_use| known.file.saturating_sub(in_use));
        // A file that has grown had no room for that.
        (free / 2).saturating_sub(file.saturating_sub(known.file))
    }

    /// What is known of a file of that size.
    fn known(&self, file: u64) -> Known {
        let state = &mut *self.state.borrow_mut();
        if let Some(measured) = state.measuring.take_if(|measuring| measuring.thread.is_finished()) {
            state.known = Some(measured.end(state.known));
        }
        let now = Instant::now();
        *state.known.get_or_insert(Known { in_use: None, file, until: now, ended: now })
    }

    /// Measures again once it is so late, unless somebody does.
    fn measure_after(&self, until: Instant, file: u64) {
        let state = &mut *self.state.borrow_mut();
        if state.measuring.is_some() || Instant::now() < until {
            return;
        }
        match Measuring::begin(&self.tables, file) {
            Ok(measuring) => state.measuring = Some(measuring),
            // It is tried again the next time.
            Err(error) => tracing::debug!(%error, "cannot start the thread that measures the tables"),
        }
    }

    /// Waits for the end of a measurement.
    #[cfg(test)]
    fn settle(&self) {
        while self.state.borrow().measuring.as_ref().is_some_and(|measuring| !measuring.thread.is_finished()) {
            thread::yield_now();
        }
    }
}

impl Measuring {
    fn begin(tables: &Arc<Tables>, file: u64) -> io::Result<Self> {
        let tables = Arc::clone(tables);
        let measure = move || {
            let began = Instant::now();
            (tables.bytes_in_use(), began.elapsed())
        };
        let thread = thread::Builder::new().name("log-measure".to_owned()).spawn(measure)?;
        Ok(Self { file, thread })
    }

    /// What is known from now on.
    fn end(self, before: Option<Known>) -> Known {
        let now = Instant::now();
        // What was known is as good as before: posts are not refused for a disk that fails somewhere else.
        let as_before = |pause| {
            let before = before.unwrap_or(Known { in_use: None, file: self.file, until: now, ended: now });
            Known { until: now + pause, ended: now, ..before }
        };
        match self.thread.join() {
            Ok((Ok(in_use), took)) => {
                Known { in_use: Some(in_use), file: self.file, until: now + holds(took), ended: now }
            }
            // They are opened again, or closed.
            Ok((Err(TableError::Closed), _)) => as_before(HOLDS),
            Ok((Err(error), took)) => {
                tracing::warn!(%error, "cannot tell how much of the tables is in use");
                as_before(holds(took).max(HOLDS_OVER))
            }
            // It panicked, which is told already.
            Err(_) => as_before(HOLDS_OVER),
        }
    }
}

/// How long a measurement holds that took so long.
fn holds(took: Duration) -> Duration {
    took.saturating_mul(SHARE).max(HOLDS)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::log::embedded::files::{Demand, Limits};
    use crate::log::embedded::simulated::SimulatedDisk;
    use crate::log::embedded::table::MESSAGES;
    use crate::log::embedded::trouble::Trouble;

    /// Tables that take more than the bound, of which a MiB is in use.
    fn usage(limit: u64) -> Usage {
        let disk = SimulatedDisk::default();
        let tables = Tables::open(Arc::new(disk.clone()), 64 * 1024, 1).unwrap();
        let rows = |rows: u64, keep: u64| {
            tables.write(|transaction| {
                let mut messages = transaction.open_table(MESSAGES)?;
                for row in 0..rows {
                    messages.insert((1, row), [7; 4096].as_slice())?;
                }
                messages.retain(|(_, row), _| row < keep)?;
                Ok(())
            })
        };
        rows(1024, 1024).unwrap();
        rows(1, 128).unwrap();
        let limits = Limits { segment: SEGMENT, spares: 1, reserve: 0, disk: limit };
        let files = Files::new(Arc::new(disk), limits, Arc::new(Trouble::default()), &[]).unwrap();
        Usage::new(Arc::new(tables), Arc::new(files), limit)
    }

    const LIMIT: u64 = 2 * 1024 * 1024;
    const SEGMENT: u64 = 64 * 1024;

    #[test]
    fn whoever_asks_does_not_wait_until_all_was_read() {
        let usage = usage(LIMIT);
        let tables = Arc::clone(&usage.tables);
        let (told, answer) = mpsc::channel();
        // Nobody can read the tables as long as this holds them.
        let asked = tables.exclusive(|_| {
            let asked = thread::spawn(move || {
                told.send((usage.tables(), usage.tables())).expect("somebody waits for it");
                usage
            });
            let answered = answer.recv_timeout(Duration::from_secs(60));
            let within = LIMIT - SEGMENT;
            assert_eq!(answered, Ok((within, within)), "what is not known yet is within the bound");
            Ok(asked)
        });
        let usage = asked.unwrap().join().unwrap();
        usage.settle();
        let measured = usage.tables();
        assert!((LIMIT / 2..LIMIT).contains(&measured), "{measured}");
    }

    /// Has 16 MiB more in the tables than they have room for.
    fn grow(usage: &Usage) {
        let grown = usage.tables.write(|transaction| {
            let mut messages = transaction.open_table(MESSAGES)?;
            for row in 0..4096 {
                messages.insert((2, row), [7; 4096].as_slice())?;
            }
            Ok(())
        });
        grown.unwrap();
    }

    #[test]
    fn half_of_what_is_free_in_the_file_is_room_until_it_grows() {
        let usage = usage(0);
        assert_eq!(usage.room(), 0, "nobody knows yet");
        usage.settle();
        let room = usage.room();
        let file = usage.tables.disk_bytes();
        assert!((file / 4..file / 2).contains(&room), "{room} of {file}");
        grow(&usage);
        assert_eq!(usage.room(), 0);
    }

    #[test]
    fn what_the_file_grows_by_since_it_was_measured_counts() {
        let usage = usage(LIMIT);
        assert!(usage.tables() <= LIMIT);
        usage.settle();
        assert!(usage.tables() <= LIMIT);
        grow(&usage);
        assert!(usage.tables() > 2 * LIMIT);
    }

    #[test]
    fn what_cannot_be_measured_keeps_no_posts_out() {
        let (usage, now) = (usage(LIMIT), Instant::now());
        let before = Known { in_use: Some(7), file: 2 * LIMIT, until: now, ended: now };
        for known in [None, Some(before)] {
            let failed = || Err(TableError::Redb(Box::new(redb::Error::PreviousIo)));
            let thread = thread::spawn(move || (failed(), Duration::from_secs(1)));
            let after = Measuring { file: 3 * LIMIT, thread }.end(known);
            assert_eq!(after.in_use, known.and_then(|known| known.in_use));
            assert!(after.until >= now + HOLDS_OVER, "a disk that fails is not read all the time");
        }
        drop(usage);
    }

    #[test]
    fn tables_that_are_closed_are_not_waited_for_and_nothing_is_made_of_it() {
        let usage = usage(LIMIT);
        usage.tables.close().unwrap();
        let within = usage.state.borrow().known.is_none();
        assert!(within);
        let file = 4 * LIMIT;
        let measuring = Measuring::begin(&usage.tables, file).unwrap();
        let known = measuring.end(None);
        assert_eq!((known.in_use, known.file), (None, file));
    }

    #[test]
    fn what_has_been_removed_is_noticed_within_a_minute() {
        let (minute, ended) = (Duration::from_secs(60), Instant::now());
        assert_eq!(holds(Duration::from_millis(1)), HOLDS);
        assert_eq!(holds(Duration::from_secs(2)), 40 * HOLDS);
        assert_eq!(holds(minute), SHARE * minute);
        let known = |took| Known { in_use: Some(7), file: LIMIT, until: ended + holds(took), ended };
        assert_eq!(known(minute).until(true), ended + minute);
        assert_eq!(known(minute).until(false), ended + SHARE * minute);
        assert_eq!(known(Duration::ZERO).until(true), ended + HOLDS);
    }

    #[test]
    fn a_disk_that_is_nearly_full_is_not_read_all_the_time_unless_posts_are_refused() {
        let usage = usage(0);
        usage.room();
        usage.settle();
        // As if it had taken a minute, and ended more than one ago.
        let ended = Instant::now().checked_sub(2 * HOLDS_OVER).unwrap();
        let slow = Known { in_use: Some(7), file: 2 * LIMIT, until: ended + holds(HOLDS_OVER), ended };
        *usage.state.borrow_mut() = State { known: Some(slow), measuring: None };
        usage.room();
        assert!(usage.state.borrow().measuring.is_none());
        usage.files.watch(Demand { unapplied: u64::MAX, ..Demand::default() });
        usage.room();
        assert!(usage.state.borrow().measuring.is_some());
    }
}
