//! The server's log: one line an event on stderr, for people or for programs.
//!
//! A thread of its own writes them. While stderr takes nothing (a full pipe, a stopped terminal) lines are lost and counted: the
//! server never waits for whoever reads its log.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use metrics::{Unit, counter, describe_counter};
use tracing::Subscriber;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::config::LogFormat;
use super::levels::{self, Levels};
use super::marks::{Marks, Waiter};
use super::{Config, Error};

/// Lines that may wait for stderr.
const WAITING: usize = 8_192;
/// The name of the thread that writes.
pub(super) const THREAD: &str = "log";

/// While it lives, the log is written; when it goes, what waits is written if stderr takes it soon.
#[derive(Debug)]
pub struct Written(#[expect(dead_code, reason = "for its end")] WorkerGuard);

/// How many lines were lost: those that did not fit into the queue, and those that stderr refused.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    in_queue: ErrorCounter,
    refused: Arc<AtomicUsize>,
}

impl Lost {
    const NAME: &str = "tertulia_log_lines_lost_total";

    pub(super) fn describe() {
        describe_counter!(
            Self::NAME,
            Unit::Count,
            "Lines of the server's own log that stderr did not take, or not in time."
        );
    }

    /// Brings the metric up to date.
    pub(super) fn observe(&self) {
        counter!(Self::NAME).absolute(self.lines() as u64);
    }

    fn lines(&self) -> usize {
        self.in_queue.dropped_lines() + self.refused.load(Ordering::Relaxed)
    }
}

/// Counts the lines that cannot be written (a full disk, a pipe that nobody reads any more), which nobody else would hear of.
struct Counting<W> {
    inner: W,
    refused: Arc<AtomicUsize>,
    marks: Arc<Marks>,
    /// Part of a line was written: the next one is not to look like the rest of it.
    is_cut: bool,
}

impl<W: io::Write> Counting<W> {
    /// Writes a line; answers how much of it was.
    fn put(&mut self, line: &[u8]) -> usize {
        let mut done = 0;
        while done < line.len() {
            match self.inner.write(&line[done..]) {
                Ok(count) if count > 0 => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => break,
            }
        }
        done
    }
}

impl<W: io::Write> io::Write for Counting<W> {
    /// Each call has one line. It never fails: a line that is lost is counted.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.marks.passes(line) {
            return Ok(line.len());
        }
        if self.is_cut {
            self.is_cut = self.put(b"\n") == 0;
        }
        let done = if self.is_cut { 0 } else { self.put(line) };
        if done < line.len() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            self.is_cut |= done > 0;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What could not be written is counted.
        drop(self.inner.flush());
        Ok(())
    }
}

/// Everything that is logged in this process from now on goes to stderr. Who has to can wait until it has.
pub(super) fn init(config: &Config) -> Result<(Lost, Levels, Written, Waiter<NonBlocking>), Error> {
    let colours = io::stderr().is_terminal();
    let marks = Arc::<Marks>::default();
    let (writer, lost, written) = beside(io::stderr(), Arc::clone(&marks));
    let waiter = Waiter::new(marks, writer.clone());
    let (subscriber, levels) = subscriber(config, colours, writer)?;
    subscriber.try_init().map_err(|cause| Error::Log { cause })?;
    Ok((lost, levels, written, waiter))
}

/// A writer that never waits.
fn beside(inner: impl io::Write + Send + 'static, marks: Arc<Marks>) -> (NonBlocking, Lost, Written) {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).thread_name(THREAD);
    let refused = Arc::<AtomicUsize>::default();
    let (writer, guard) = builder.finish(Counting { inner, refused: Arc::clone(&refused), marks, is_cut: false });
    let lost = Lost { in_queue: writer.error_counter(), refused };
    (writer, lost, Written(guard))
}

fn subscriber<W>(config: &Config, colours: bool, writer: W) -> Result<(impl Subscriber + Send + Sync, Levels), Error>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let written = levels::lines(&config.log_level).map_err(|cause| Error::Levels { cause })?;
    // Whether a line is written at all is remembered at the place that has it, so that this costs where it is.
    let (written, handle) = reload::Layer::new(written);
    // A line that cannot be written is lost. Telling so, on the same stderr, would panic in the task that logs.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format {
        LogFormat::Text => Box::new(lines.with_ansi(colours)),
        LogFormat::Json => Box::new(lines.json().flatten_event(true)),
    };
    Ok((Registry::default().with(lines.with_filter(written)), Levels::of(&config.log_level, handle)))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tracing::{debug, info, subscriber::with_default, warn};

    use super::*;
    use crate::telemetry::levels::{MODERATION, New};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log_format: LogFormat, log_level: &str, log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let config = Config { log_format, log_level: log_level.to_owned(), ..Config::default() };
        with_default(subscriber(&config, false, move || writer.clone()).unwrap().0, log);
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// A stderr that takes nothing until it is let.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl io::Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().ok();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_whoever_reads_the_log() {
        let (take, stuck) = std::sync::mpsc::channel();
        let (writer, lost, written) = beside(Stuck(stuck), Arc::default());
        with_default(subscriber(&Config::default(), false, writer).unwrap().0, || {
            (0..WAITING + 100).for_each(|count| info!(count, "a line"));
        });
        // One may be with the thread that writes.
        assert!((99..=100).contains(&lost.lines()), "{}", lost.lines());
        drop(take);
        drop(written);
    }

    /// A stderr on a disk that has so much room.
    struct Full(Captured, usize);

    impl io::Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1);
            self.1 -= count;
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { self.0.write(&bytes[..count]) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_the_next_one_stands_alone() {
        use io::Write;
        let (captured, refused) = (Captured::default(), Arc::<AtomicUsize>::default());
        let inner = Full(captured.clone(), 8);
        let (counted, marks) = (Arc::clone(&refused), Arc::default());
        let mut writer = Counting { inner, refused: counted, marks, is_cut: false };
        for line in ["first\n", "second\n", "third\n"] {
            writer.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(refused.load(Ordering::Relaxed), 2);
        writer.inner.1 = 100;
        writer.write_all(b"fourth\n").unwrap();
        assert_eq!(refused.load(Ordering::Relaxed), 2);
        assert_eq!(*captured.0.lock().unwrap(), b"first\nse\nfourth\n");
    }

    #[test]
    fn text_has_no_colours_away_from_a_terminal() {
        let text = logged(LogFormat::Text, "info", || warn!(peer = "1.2.3.4", "line too long"));
        assert!(text.contains("WARN") && text.ends_with("line too long peer=\"1.2.3.4\"\n"), "{text}");
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "info", || {
            info!(count = 3, "one\ntwo");
            info!("three");
        });
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!((&lines[0]["level"], &lines[0]["message"]), (&"INFO".into(), &"one\ntwo".into()));
        assert_eq!(lines[0]["count"], 3);
    }

    #[test]
    fn levels_hold() {
        let log = || {
            debug!(target: "part", "a");
            debug!("b");
            warn!("c");
        };
        assert_eq!(logged(LogFormat::Text, "warn,part=debug", log).lines().count(), 2);
        assert_eq!(logged(LogFormat::Text, "off", log), "");
        let moderate = || info!(target: MODERATION, "moderated");
        assert_eq!(logged(LogFormat::Text, "error", moderate).lines().count(), 1);
        for none in ["off", "tertulia_server::admin::moderation=warn"] {
            assert_eq!(logged(LogFormat::Text, none, moderate), "", "{none}");
        }
        let nats = || {
            info!(target: "async_nats", "event: disconnected");
            info!(target: "async_nats::connector", "connected successfully");
            warn!(target: "async_nats", "what is no event");
        };
        for (levels, lines) in [("info", 2), ("debug", 2), ("warn", 1), ("error", 0), ("error,async_nats=info", 3)] {
            assert_eq!(logged(LogFormat::Text, levels, nats).lines().count(), lines, "{levels}");
        }
        let bad = Config { log_level: "part=loud".to_owned(), ..Config::default() };
        assert!(matches!(subscriber(&bad, false, io::sink), Err(Error::Levels { .. })));
    }

    #[test]
    fn levels_are_changed_while_lines_come() {
        let captured = Captured::default();
        let writer = captured.clone();
        let (subscriber, levels) = subscriber(&Config::default(), false, move || writer.clone()).unwrap();
        let log = || {
            debug!(target: "part", "quiet");
            info!(target: "part", "loud");
            info!(target: MODERATION, "moderated");
        };
        let lines = || String::from_utf8(std::mem::take(&mut *captured.0.lock().unwrap())).unwrap().lines().count();
        with_default(subscriber, || {
            let minute = std::time::Duration::from_secs(60);
            let mut counts = Vec::new();
            let hidden = format!("info,{MODERATION}=off");
            for change in ["", "debug", "error,part=debug", "error", "off", &hidden, "info"] {
                if !change.is_empty() {
                    levels.set(New::read(change).unwrap(), minute).unwrap();
                }
                log();
                counts.push(lines());
            }
            levels.set(New::read("off").unwrap(), minute).unwrap();
            levels.reset().unwrap();
            log();
            counts.push(lines());
            // What moderators do shows, whatever is asked for.
            assert_eq!(counts, [2, 3, 3, 1, 1, 2, 2, 2]);
        });
    }
}
