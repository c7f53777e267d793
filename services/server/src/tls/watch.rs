//! Looks at the files of a port again and again, and has the port show what is new.
//!
//! The files are read and compared rather than watched: a mounted Secret is renewed by replacing a symbolic link above them, of which
//! watchers of the files themselves hear nothing, and file systems over a network tell nobody.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::acceptor::Acceptor;
use super::keys::{Error, Identity, Source};

/// Files that cannot be used may be half replaced: they are looked at once more after this time.
const AGAIN: Duration = Duration::from_secs(1);

/// What is known of the files.
struct Watch {
    acceptor: Acceptor,
    source: Arc<Source>,
    /// What is shown.
    used: u128,
    /// What was last complained about.
    complaint: Option<String>,
}

impl Acceptor {
    /// Looks at the files of `source` every `every`, until `stop`. `used` is what is shown, as [`Acceptor::new`] told.
    pub async fn follow(self, source: Source, used: u128, every: Duration, stop: CancellationToken) {
        let mut watch = Watch { acceptor: self, source: Arc::new(source), used, complaint: None };
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            if stop.run_until_cancelled(watch.look(every.min(AGAIN))).await.is_none() {
                return;
            }
        }
    }
}

impl Watch {
    async fn look(&mut self, again: Duration) {
        let mut found = self.read().await;
        if matches!(&found, Some(Err(error)) if self.complaint.as_ref() != Some(&error.to_string())) {
            sleep(again).await;
            found = self.read().await;
        }
        match found {
            None => self.on_used(),
            Some(Ok((fingerprint, identity))) => {
                self.acceptor.replace(&self.source, &identity);
                self.used = fingerprint;
                self.on_used();
            }
            Some(Err(error)) => self.on_unusable(&error),
        }
    }

    /// What is in the files, unless it is what is shown.
    async fn read(&self) -> Option<Result<(u128, Identity), Error>> {
        let (source, used) = (Arc::clone(&self.source), self.used);
        let reading = tokio::task::spawn_blocking(move || {
            let contents = match source.read() {
                Ok(contents) => contents,
                Err(error) => return Some(Err(error)),
            };
            let fingerprint = contents.fingerprint();
            if fingerprint == used {
                return None;
            }
            Some(source.identity(&contents).map(|identity| (fingerprint, identity)))
        });
        // It only fails when the runtime is about to end.
        reading.await.ok().flatten()
    }

    fn on_used(&mut self) {
        self.acceptor.metrics().failing.set(0.0);
        self.complaint = None;
    }

    fn on_unusable(&mut self, error: &Error) {
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            let port = self.source.port.as_str();
            tracing::error!(port, error = %complaint, "the new certificate cannot be used: the old one stays");
            self.acceptor.metrics().not_reloaded.increment(1);
        }
        self.acceptor.metrics().failing.set(1.0);
        self.complaint = Some(complaint);
    }
}
