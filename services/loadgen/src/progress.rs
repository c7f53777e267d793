//! The line that tells how a run goes on, and what is sampled meanwhile.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::process::{Server, Usage, Watched};
use crate::report::{bytes, count, micros};
use crate::shared::{Lane, Shared};

/// How often the server's memory is looked at, where that costs it nothing. Its metrics are fetched once a line.
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
    /// Deliveries a second since the sample before, to all members, as in the results.
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
    last: (Instant, u64, u64),
    /// When the server was asked last, whether it answered or not.
    asked: Instant,
    /// What it answered last, and when; and how that was at the last line.
    usage: Option<(Instant, Usage)>,
    usage_then: Option<(Instant, Usage)>,
    /// What the store told last.
    store: Option<Usage>,
    /// The most memory that the server was seen to have.
    pub(crate) peak_rss: u64,
    /// The most memory that the store was seen to have.
    pub(crate) peak_store_rss: u64,
    /// Somebody wants an end.
    interrupted: Arc<AtomicBool>,
    pub(crate) samples: Vec<Sample>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(shared: &'a Shared, watched: &'a Watched, quiet: bool) -> Self {
        let now = Instant::now();
        Self {
            shared,
            watched,
            quiet,
            start: now,
            last: (now, 0, 0),
            asked: now,
            usage: None,
            usage_then: None,
            store: None,
            peak_rss: 0,
            peak_store_rss: 0,
            interrupted: Arc::default(),
            samples: Vec::new(),
        }
    }

    /// What the server has used, if it is watched.
    ///
    /// # Errors
    /// If it does not tell.
    pub(crate) fn usage(&mut self) -> Result<Option<Usage>> {
        let Some(server) = &self.watched.server else { return Ok(None) };
        let usage = server.usage();
        self.asked = Instant::now();
        let usage = usage.context("cannot tell what the server used")?;
        self.usage = Some((self.asked, usage));
        self.usage_then = self.usage_then.or(self.usage);
        self.peak_rss = self.peak_rss.max(usage.rss);
        Ok(Some(usage))
    }

    /// What the store has used, if it is watched.
    ///
    /// # Errors
    /// If it does not tell.
    pub(crate) fn store(&mut self) -> Result<Option<Usage>> {
        let Some(store) = &self.watched.store else { return Ok(None) };
        let usage = store.usage().context("cannot tell what the store used")?;
        self.store = Some(usage);
        self.peak_store_rss = self.peak_store_rss.max(usage.rss);
        Ok(Some(usage))
    }

    /// What the server told last.
    pub(crate) fn last_usage(&self) -> Option<Usage> {
        self.usage.map(|(_, usage)| usage)
    }

    /// What the store told last.
    pub(crate) fn last_store(&self) -> Option<Usage> {
        self.store
    }

    /// From now on a first Ctrl-C ends what is waited for, and a second one the program.
    ///
    /// # Errors
    /// As the system's.
    pub(crate) fn heed_interrupts(&mut self) -> Result<()> {
        use signal_hook::consts::SIGINT;
        use signal_hook::flag::{register, register_conditional_default};
        let heed = || {
            register_conditional_default(SIGINT, Arc::clone(&self.interrupted))?;
            register(SIGINT, Arc::clone(&self.interrupted))
        };
        heed().map(drop).context("listen for Ctrl-C")
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// How often the server may be asked without being disturbed.
    fn pause(&self) -> Duration {
        match self.watched.server {
            Some(Server::Metrics(..)) => LINE,
            Some(Server::Pids(_)) | None => SAMPLE,
        }
    }

    /// Waits until `done`, the run has failed, or the time is over; answers whether it is done. `what` is shown meanwhile. A Ctrl-C ends the
    /// time of what is waited for then; what comes after it is waited for all the same.
    pub(crate) fn wait(&mut self, what: &str, time: Duration, mut done: impl FnMut(&Shared) -> bool) -> bool {
        let began = Instant::now();
        let was_interrupted = self.is_interrupted();
        loop {
            if done(self.shared) {
                return true;
            }
            let passed = began.elapsed();
            if passed >= time || self.shared.failure().is_some() || self.is_interrupted() != was_interrupted {
                return false;
            }
            if self.asked.elapsed() >= self.pause() {
                // One that fails leaves what was known: the results do not depend on it.
                drop(self.usage());
                drop(self.store());
            }
            if self.last.0.elapsed() >= LINE {
                self.line(what, passed, time);
            }
            std::thread::sleep((time - passed).min(Duration::from_millis(2)));
        }
    }

    fn line(&mut self, what: &str, passed: Duration, time: Duration) {
        let lanes = || self.shared.lanes.iter();
        let posts = lanes().map(|lane| lane.posts.load(Ordering::Relaxed)).sum();
        let to_all =
            |lane: &Lane| lane.deliveries.load(Ordering::Relaxed) + lane.late_deliveries.load(Ordering::Relaxed);
        let deliveries = lanes().map(to_all).sum();
        let p99 = lanes().map(|lane| lane.p99.load(Ordering::Relaxed)).max().unwrap_or(0);
        let now = Instant::now();
        let (then, posts_then, deliveries_then) = std::mem::replace(&mut self.last, (now, posts, deliveries));
        let usage = self.usage.map(|(_, usage)| usage);
        let cores = self.cores();
        let seconds = (now - then).as_secs_f64();
        let sample = Sample {
            at: (now - self.start).as_secs_f64(),
            posts: (posts - posts_then) as f64 / seconds,
            deliveries: (deliveries - deliveries_then) as f64 / seconds,
            rss: usage.unwrap_or_default().rss,
            cores,
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

    /// Cores that the server used since the line before, as far as it has told.
    fn cores(&mut self) -> f64 {
        let then = std::mem::replace(&mut self.usage_then, self.usage);
        match (then, self.usage) {
            (Some((then, was)), Some((now, is))) if now > then => {
                (is.cpu - was.cpu).max(0.0) / (now - then).as_secs_f64()
            }
            _ => 0.0,
        }
    }

    pub(crate) fn end_line(&self) {
        if !self.quiet && std::io::stderr().is_terminal() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, Scenario};
    use crate::plan::Plan;

    /// A server that tells so much CPU, one time after the other, or fails.
    fn server(answers: Vec<Option<f64>>) -> Watched {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/metrics", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut socket, _) = listener.accept().unwrap();
                // All of it: what is left unread would break the connection.
                let (mut request, mut byte) = (Vec::new(), [0]);
                while !request.ends_with(b"\r\n\r\n") {
                    socket.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                let answer = match answer {
                    Some(cpu) => format!(
                        "HTTP/1.0 200 OK\r\n\r\nprocess_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes 4096\n"
                    ),
                    None => "HTTP/1.0 503 Service Unavailable\r\n\r\n".to_owned(),
                };
                socket.write_all(answer.as_bytes()).unwrap();
            }
        });
        Watched::from_arguments(&[], Some(&url), &[]).unwrap()
    }

    #[test]
    fn deliveries_to_all_members_are_in_the_samples() {
        let shared = idle();
        let watched = Watched::default();
        let mut watch = Watch::new(&shared, &watched, true);
        for (readers, others) in [(10, 0), (10, 5), (12, 6)] {
            shared.lanes[0].deliveries.store(readers, Ordering::Relaxed);
            shared.lanes[0].late_deliveries.store(others, Ordering::Relaxed);
            watch.last.0 = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            watch.line("test", Duration::ZERO, Duration::ZERO);
        }
        let deliveries: Vec<_> = watch.samples.iter().map(|sample| sample.deliveries.round() as u64).collect();
        assert_eq!(deliveries, [10, 5, 3]);
    }

    fn idle() -> Shared {
        let Command::Idle(load) = Cli::parse_from(["loadgen", "idle", "--groups", "1", "--members", "1"]).command
        else {
            panic!("another command");
        };
        Shared::new(Plan::new(Scenario::Idle, &load).unwrap(), &load, None, None)
    }

    #[test]
    fn a_failed_scrape_leaves_what_was_known_of_the_server() {
        let shared = idle();
        let watched = server(vec![Some(1000.0), None, Some(1000.0)]);
        let mut watch = Watch::new(&shared, &watched, true);
        for succeeds in [true, false, true] {
            let usage = watch.usage();
            assert_eq!(usage.is_ok(), succeeds, "{usage:?}");
            watch.line("test", Duration::ZERO, Duration::ZERO);
        }
        let samples: Vec<_> = watch.samples.iter().map(|sample| (sample.cores, sample.rss)).collect();
        assert_eq!(samples, [(0.0, 4096); 3]);
    }
}
