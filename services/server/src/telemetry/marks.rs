//! Who logs and cannot be sure to live on waits until stderr has the line.
//!
//! A mark goes the way of the lines; when the thread that writes them comes to it, all before it have been written.

use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What a mark begins with. No line does: they are text.
const MARK: &[u8; 8] = b"\0\0\0mark\xff";

/// Up to which mark the lines have been written.
#[derive(Debug, Default)]
pub(super) struct Marks {
    passed: Mutex<u64>,
    moved: Condvar,
    /// Somebody has waited in vain.
    is_stuck: AtomicBool,
}

impl Marks {
    /// Answers whether `line` is none, but a mark; then those who wait for it go on.
    pub(super) fn passes(&self, line: &[u8]) -> bool {
        let Some(number) = line.strip_prefix(MARK).and_then(|number| number.try_into().ok()) else { return false };
        let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
        *passed = u64::from_be_bytes(number).max(*passed);
        self.is_stuck.store(false, Ordering::Relaxed);
        self.moved.notify_all();
        true
    }
}

/// Waits for the thread that writes.
#[derive(Debug)]
pub(super) struct Waiter<W> {
    marks: Arc<Marks>,
    writer: W,
    set: AtomicU64,
}

impl<W: Write + Clone> Waiter<W> {
    /// Waits for what is written into `writer` and comes out where `marks` are passed.
    pub(super) fn new(marks: Arc<Marks>, writer: W) -> Self {
        Self { marks, writer, set: AtomicU64::new(0) }
    }

    /// Waits until what this thread has logged has been written, but no longer than `patience`; answers whether it has. While stderr takes
    /// nothing only the first one waits.
    pub(super) fn waits(&self, patience: Duration) -> bool {
        let number = self.set.fetch_add(1, Ordering::Relaxed) + 1;
        let mark = [MARK.as_slice(), &number.to_be_bytes()].concat();
        // It is sent also where nobody waits for it: when it passes, others can wait again.
        if self.writer.clone().write_all(&mark).is_err() || self.marks.is_stuck.load(Ordering::Relaxed) {
            return false;
        }
        let passed = self.marks.passed.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.marks.moved.wait_timeout_while(passed, patience, |passed| *passed < number);
        let (passed, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_written = *passed >= number;
        if !is_written {
            self.marks.is_stuck.store(true, Ordering::Relaxed);
        }
        is_written
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// What is written goes to the one who plays the thread.
    #[derive(Clone)]
    struct Queue(mpsc::Sender<Vec<u8>>);

    impl Write for Queue {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.0.send(line.to_vec()).map_err(io::Error::other)?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_waits_goes_on_when_what_was_logged_before_is_written() {
        let (queue, lines) = mpsc::channel();
        let marks = Arc::<Marks>::default();
        let waiter = Waiter::new(Arc::clone(&marks), Queue(queue.clone()));
        Queue(queue).write_all(b"a line\n").unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| waiter.waits(LONG));
            assert!(!marks.passes(&lines.recv().unwrap()), "it is a line");
            let mark = lines.recv().unwrap();
            assert!(!waiting.is_finished());
            assert!(marks.passes(&mark));
            assert!(waiting.join().unwrap());
        });
    }

    #[test]
    fn a_stderr_that_takes_nothing_is_waited_for_once() {
        let (queue, lines) = mpsc::channel();
        let marks = Arc::<Marks>::default();
        let waiter = Waiter::new(Arc::clone(&marks), Queue(queue));
        assert!(!waiter.waits(Duration::from_millis(1)));
        let begun = std::time::Instant::now();
        assert!(!waiter.waits(LONG));
        assert!(begun.elapsed() < LONG, "it waits as if nobody had before");
        // It takes something again: so do those who log wait again.
        lines.try_iter().for_each(|mark| assert!(marks.passes(&mark)));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| waiter.waits(LONG));
            assert!(marks.passes(&lines.recv().unwrap()));
            assert!(waiting.join().unwrap());
        });
    }
}
