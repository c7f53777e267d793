//! Prints, on a thread of its own, so that a slow reader of the output holds up neither the heartbeat nor the input.
//!
//! What waits to be printed is counted; while there is much of it the session reads neither the socket nor commands.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::session::event::Event;
pub(crate) use format::{Lines, Style};

pub(crate) mod escape;
mod format;

/// With so many bytes waiting, the screen is behind.
const BEHIND: usize = 1024 * 1024;
/// Printed at once at most, unless one piece is longer.
const BATCH: usize = 64 * 1024;

/// Prints above the line that is being typed.
pub(crate) type Above = Box<dyn FnMut(String) -> bool + Send>;

/// Where the printing stands.
#[derive(Debug, Default)]
struct Progress {
    waiting: usize,
    closed: bool,
}

/// What the session prints to.
#[derive(Debug)]
pub(crate) struct Screen {
    style: Style,
    lines: mpsc::Sender<Lines>,
    progress: watch::Sender<Progress>,
    thread: thread::JoinHandle<()>,
}

impl Screen {
    /// Starts to print; through `above` if there is a line editor.
    pub(crate) fn start(style: Style, above: Option<Above>) -> io::Result<Self> {
        let (lines, waiting) = mpsc::channel();
        let progress = watch::Sender::new(Progress::default());
        let printer = Printer { above, progress: progress.clone() };
        let thread = thread::Builder::new().name("screen".into()).spawn(move || printer.run(&waiting))?;
        Ok(Self { style, lines, progress, thread })
    }

    /// Prints events. `user` is the person's own name.
    pub(crate) fn show(&self, events: &[Event], user: Option<&str>) {
        self.print(format::lines(&self.style, events, user, Timestamp::now()));
    }

    /// Prints lines as they are.
    pub(crate) fn print(&self, lines: Lines) {
        self.progress.send_modify(|progress| progress.waiting += lines.out.len() + lines.err.len());
        // If nobody prints any more, `closed` tells.
        self.lines.send(lines).ok();
    }

    /// Whether much waits to be printed.
    pub(crate) fn is_behind(&self) -> bool {
        self.progress.borrow().waiting >= BEHIND
    }

    /// Waits while the screen is behind. Cancel safe.
    pub(crate) async fn room(&self) {
        self.wait(|progress| progress.waiting < BEHIND).await;
    }

    /// Waits until nobody reads what is printed. Cancel safe.
    pub(crate) async fn closed(&self) {
        self.wait(|progress| progress.closed).await;
    }

    /// Waits until everything is printed, or `patience` is over.
    pub(crate) fn finish(self, patience: Duration) {
        drop(self.lines);
        let (done, wait) = mpsc::channel::<()>();
        let thread = self.thread;
        let waiter = thread::spawn(move || {
            // A panic was reported by its own thread.
            thread.join().ok();
            drop(done);
        });
        if wait.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Disconnected) {
            waiter.join().ok();
        }
    }

    async fn wait(&self, condition: impl FnMut(&Progress) -> bool) {
        // `self` holds a sender, so that waiting cannot end early.
        self.progress.subscribe().wait_for(condition).await.ok();
    }
}

struct Printer {
    above: Option<Above>,
    progress: watch::Sender<Progress>,
}

impl Printer {
    fn run(mut self, waiting: &mpsc::Receiver<Lines>) {
        while let Ok(mut lines) = waiting.recv() {
            while lines.out.len() + lines.err.len() < BATCH {
                let Ok(more) = waiting.try_recv() else { break };
                lines.out.push_str(&more.out);
                lines.err.push_str(&more.err);
            }
            let bytes = lines.out.len() + lines.err.len();
            let result = self.print(lines);
            self.progress.send_modify(|progress| {
                progress.waiting -= bytes;
                progress.closed |= result.is_err();
            });
            if result.is_err() {
                return;
            }
        }
    }

    fn print(&mut self, lines: Lines) -> io::Result<()> {
        if !lines.err.is_empty() {
            // Standard error may be closed; the session can do without.
            io::stderr().lock().write_all(lines.err.as_bytes()).ok();
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
        let mut out = io::stdout().lock();
        out.write_all(lines.out.as_bytes())?;
        out.flush()
    }
}
