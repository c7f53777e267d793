//! The line that tells how a run goes on, and what is sampled meanwhile.

use std::io::{IsTerminal, Write};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::process::{Usage, Watched};
use crate::report::{bytes, count, micros};
use crate::shared::Shared;

/// How often the server's memory is looked at.
const SAMPLE: Duration = Duration::from_millis(100);
/// How often a line is written, and a sample kept.
const LINE: Duration = Duration::from_secs(1);

/// Where a run stood at one moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// Seconds since the first.
    pub at: f64,
    /// Posts a second since the sample before.
    pub posts: f64,
    /// Deliveries a second since the sample before.
    pub deliveries: f64,
    /// Of the server.
    pub rss: u64,
    /// Cores that the server used since the sample before.
    pub cores: f64,
}

/// Watches a run.
pub(crate) struct Watch<'a> {
    shared: &'a Shared,
    watched: &'a Watched,
    quiet: bool,
    start: Instant,
    last: (Instant, u64, u64, f64),
    /// The most memory that the server was seen to have.
    pub(crate) peak_rss: u64,
    pub(crate) samples: Vec<Sample>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(shared: &'a Shared, watched: &'a Watched, quiet: bool) -> Self {
        let now = Instant::now();
        let cpu = watched.server.as_ref().and_then(|server| server.usage().ok()).unwrap_or_default().cpu;
        Self { shared, watched, quiet, start: now, last: (now, 0, 0, cpu), peak_rss: 0, samples: Vec::new() }
    }

    pub(crate) fn usage(&mut self) -> Option<Usage> {
        let usage = self.watched.server.as_ref()?.usage().ok()?;
        self.peak_rss = self.peak_rss.max(usage.rss);
        Some(usage)
    }

    /// What the store has used.
    pub(crate) fn store(&self) -> Option<Usage> {
        self.watched.store.as_ref()?.usage().ok()
    }

    /// Waits until `done`, the run has failed, or the time is over; answers whether it is done. `what` is shown meanwhile.
    pub(crate) fn wait(&mut self, what: &str, time: Duration, mut done: impl FnMut(&Shared) -> bool) -> bool {
        let began = Instant::now();
        let mut next_sample = began;
        loop {
            if done(self.shared) {
                return true;
            }
            let passed = began.elapsed();
            if passed >= time || self.shared.failure().is_some() {
                return false;
            }
            if Instant::now() >= next_sample {
                next_sample += SAMPLE;
                let usage = self.usage();
                if self.last.0.elapsed() >= LINE {
                    self.line(what, passed, time, usage);
                }
            }
            std::thread::sleep((time - passed).min(Duration::from_millis(2)));
        }
    }

    fn line(&mut self, what: &str, passed: Duration, time: Duration, usage: Option<Usage>) {
        let lanes = || self.shared.lanes.iter();
        let posts = lanes().map(|lane| lane.posts.load(Ordering::Relaxed)).sum();
        let deliveries = lanes().map(|lane| lane.deliveries.load(Ordering::Relaxed)).sum();
        let p99 = lanes().map(|lane| lane.p99.load(Ordering::Relaxed)).max().unwrap_or(0);
        let now = Instant::now();
        let cpu = usage.unwrap_or_default().cpu;
        let (then, posts_then, deliveries_then, cpu_then) =
            std::mem::replace(&mut self.last, (now, posts, deliveries, cpu));
        let seconds = (now - then).as_secs_f64();
        let sample = Sample {
            at: (now - self.start).as_secs_f64(),
            posts: (posts - posts_then) as f64 / seconds,
            deliveries: (deliveries - deliveries_then) as f64 / seconds,
            rss: usage.unwrap_or_default().rss,
            cores: (cpu - cpu_then).max(0.0) / seconds,
        };
        self.samples.push(sample);
        if self.quiet {
            return;
        }
        let joined = self.shared.ready.load(Ordering::Relaxed);
        let mut text = format!(
            "{what:8} {:3.0}/{:.0} s  {joined} ready  {} posts/s  {} deliveries/s  p99 {}",
            passed.as_secs_f64(),
            time.as_secs_f64(),
            count(sample.posts),
            count(sample.deliveries),
            micros(p99 as f64),
        );
        if let Some(usage) = usage {
            text += &format!("  server {:.2} cores, {}", sample.cores, bytes(usage.rss as f64));
        }
        let mut out = std::io::stderr().lock();
        // Nobody is harmed if it cannot be shown.
        drop(if out.is_terminal() { write!(out, "\r{text:<100}\x1b[K") } else { writeln!(out, "{text}") });
    }

    pub(crate) fn end_line(&self) {
        if !self.quiet && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}
