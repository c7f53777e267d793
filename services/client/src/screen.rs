//! Prints, on a thread of its own, so that a slow reader of the output holds up neither the heartbeat nor the input.
//!
//! What waits to be printed is counted; while there is much of it the session reads neither the socket nor commands.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::session::event::Event;
pub(crate) use format::{Lines, Style};

pub(crate) mod escape;
mod format;

/// With so many bytes waiting, the screen is behind.
const BEHIND: u64 = 1024 * 1024;
/// Printed at once at most, unless one piece is longer.
const BATCH: u64 = 64 * 1024;
/// How long an output that takes nothing just now is left alone.
const PAUSE: Duration = Duration::from_millis(5);

/// Prints above the line that is being typed.
pub(crate) type Above = Box<dyn FnMut(String) -> bool + Send>;

/// Where the printing stands.
#[derive(Debug, Default)]
struct Progress {
    /// Bytes that were to be printed so far.
    queued: u64,
    /// Bytes of them that are printed.
    printed: u64,
    /// Why no more will be.
    over: Option<Over>,
}

impl Progress {
    fn waiting(&self) -> u64 {
        self.queued - self.printed
    }
}

/// Why nothing more is printed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Over {
    /// Nobody reads it.
    #[error("the output is closed")]
    Closed,
    /// It cannot be written, as where a disk is full.
    #[error("cannot write the output: {0}")]
    Failed(Arc<io::Error>),
}

impl From<io::Error> for Over {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Failed(Arc::new(error)),
        }
    }
}

/// What the session prints to.
#[derive(Debug)]
pub(crate) struct Screen {
    style: Style,
    lines: mpsc::Sender<Lines>,
    progress: watch::Sender<Progress>,
}

impl Screen {
    /// Starts to print; through `above` if there is a line editor.
    pub(crate) fn start(style: Style, above: Option<Above>) -> io::Result<Self> {
        Self::start_on(style, above, io::stdout())
    }

    fn start_on(style: Style, above: Option<Above>, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, waiting) = mpsc::channel();
        let progress = watch::Sender::new(Progress::default());
        let printer = Printer { above, out, progress: progress.clone() };
        thread::Builder::new().name("screen".into()).spawn(move || printer.run(&waiting))?;
        Ok(Self { style, lines, progress })
    }

    /// Prints events. `user` is the person's own name.
    pub(crate) fn show(&self, events: &[Event], user: Option<&str>) {
        self.print(format::lines(&self.style, events, user, Timestamp::now()));
    }

    /// Prints lines as they are.
    pub(crate) fn print(&self, lines: Lines) {
        self.progress.send_modify(|progress| progress.queued += lines.bytes());
        // If nobody prints any more, `over` tells.
        self.lines.send(lines).ok();
    }

    /// Whether much waits to be printed.
    pub(crate) fn is_behind(&self) -> bool {
        self.progress.borrow().waiting() >= BEHIND
    }

    /// How many bytes were to be printed so far.
    pub(crate) fn queued(&self) -> u64 {
        self.progress.borrow().queued
    }

    /// How many of them are printed.
    pub(crate) fn printed_bytes(&self) -> u64 {
        self.progress.borrow().printed
    }

    /// Waits while the screen is behind. Cancel safe.
    pub(crate) async fn room(&self) {
        self.wait(|progress| progress.waiting() < BEHIND).await;
    }

    /// Waits until no more can be printed, and tells why. Cancel safe.
    pub(crate) async fn over(&self) -> Over {
        self.wait(|progress| progress.over.is_some()).await;
        self.progress.borrow().over.clone().unwrap_or(Over::Closed)
    }

    /// Waits until all is printed that was to be, however long its reader takes. Cancel safe.
    ///
    /// # Errors
    /// If no more can be.
    pub(crate) async fn printed(&self) -> Result<(), Over> {
        self.wait(|progress| progress.waiting() == 0 || progress.over.is_some()).await;
        self.progress.borrow().over.clone().map_or(Ok(()), Err)
    }

    async fn wait(&self, condition: impl FnMut(&Progress) -> bool) {
        // `self` holds a sender, so that waiting cannot end early.
        self.progress.subscribe().wait_for(condition).await.ok();
    }
}

struct Printer<Out> {
    above: Option<Above>,
    out: Out,
    progress: watch::Sender<Progress>,
}

impl<Out: Write> Printer<Out> {
    fn run(mut self, waiting: &mpsc::Receiver<Lines>) {
        while let Ok(mut lines) = waiting.recv() {
            while lines.bytes() < BATCH {
                let Ok(more) = waiting.try_recv() else { break };
                lines.out.push_str(&more.out);
                lines.err.push_str(&more.err);
            }
            let bytes = lines.bytes();
            if let Err(error) = self.print(lines) {
                self.progress.send_modify(|progress| progress.over = Some(error.into()));
                return;
            }
            self.progress.send_modify(|progress| progress.printed += bytes);
        }
    }

    fn print(&mut self, lines: Lines) -> io::Result<()> {
        if !lines.err.is_empty() {
            // Standard error may be closed; the session can do without.
            write(&mut io::stderr().lock(), &lines.err).ok();
        }
        if lines.out.is_empty() {
            return Ok(());
        }
        if let Some(above) = &mut self.above {
            if above(lines.out.clone()) {
                return Ok(());
            }
            // The editor has ended: there is no line to print above.
            self.above = None;
        }
        write(&mut self.out, &lines.out)
    }
}

/// Writes all of it. Whoever shares a pipe or a terminal may have made it non-blocking: then it takes nothing now and then,
/// which is no failure.
fn write(out: &mut impl Write, text: &str) -> io::Result<()> {
    let mut left = text.as_bytes();
    loop {
        let step = if left.is_empty() { out.flush().map(|()| 0) } else { out.write(left) };
        match step {
            Ok(_) if left.is_empty() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => left = left.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err(error),
        }
    }
}

impl<Out> Drop for Printer<Out> {
    /// However the printing ended, nobody is to wait for more of it.
    fn drop(&mut self) {
        self.progress.send_modify(|progress| {
            progress.over.get_or_insert(Over::Closed);
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// A reader of the output that takes a piece whenever it is let.
    struct Slow {
        let_go: mpsc::Receiver<()>,
        taken: mpsc::Sender<usize>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.let_go.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.taken.send(bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (Screen, mpsc::Sender<()>, mpsc::Receiver<usize>) {
        let ((go, let_go), (taken, took)) = (mpsc::channel(), mpsc::channel());
        let screen = Screen::start_on(Style::Record, None, Slow { let_go, taken }).unwrap();
        (screen, go, took)
    }

    fn line() -> Lines {
        Lines { out: "woof\n".into(), err: String::new() }
    }

    #[tokio::test]
    async fn all_is_printed_only_once_the_reader_has_taken_it() {
        let (screen, go, took) = slow();
        screen.print(line());
        assert!(timeout(Duration::from_millis(50), screen.printed()).await.is_err(), "nobody has taken it");
        go.send(()).unwrap();
        screen.printed().await.unwrap();
        assert_eq!(took.recv(), Ok(5));
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_is_noticed() {
        let (screen, go, _took) = slow();
        screen.print(line());
        drop(go);
        assert!(matches!(screen.printed().await, Err(Over::Closed)));
        assert!(matches!(screen.over().await, Over::Closed));
    }

    /// An output that answers each write as told, and takes two bytes where that is `None`.
    struct Moody {
        answers: std::vec::IntoIter<Option<io::ErrorKind>>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Moody {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if let Some(kind) = self.answers.next().flatten() {
                return Err(kind.into());
            }
            let bytes = &bytes[..bytes.len().min(2)];
            self.taken.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.answers.next().flatten().map_or(Ok(()), |kind| Err(kind.into()))
        }
    }

    fn moody(answers: Vec<Option<io::ErrorKind>>) -> (Screen, mpsc::Receiver<Vec<u8>>) {
        let (taken, took) = mpsc::channel();
        let moody = Moody { answers: answers.into_iter(), taken };
        (Screen::start_on(Style::Record, None, moody).unwrap(), took)
    }

    #[tokio::test]
    async fn an_output_that_takes_nothing_just_now_gets_all_in_the_end() {
        let busy = Some(io::ErrorKind::WouldBlock);
        let (screen, took) = moody(vec![busy, None, busy, busy, None, Some(io::ErrorKind::Interrupted), None, busy]);
        screen.print(line());
        screen.printed().await.unwrap();
        assert_eq!(took.try_iter().flatten().collect::<Vec<_>>(), b"woof\n");
    }

    #[tokio::test]
    async fn why_the_output_cannot_be_written_is_told() {
        let (screen, _took) = moody(vec![None, Some(io::ErrorKind::StorageFull)]);
        screen.print(line());
        assert!(matches!(screen.printed().await, Err(Over::Failed(why)) if why.kind() == io::ErrorKind::StorageFull));
        assert_eq!(screen.over().await.to_string(), "cannot write the output: no storage space");
        assert_eq!(screen.printed_bytes(), 0);
    }
}
