//! The signals that the server obeys.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::reload::Reload;

/// The signals that stop the server.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// A part of the start; `None` if a signal came first: then it is not waited for.
    pub(super) async fn unless<T>(&mut self, starting: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            started = starting => Some(started),
            what = self.next() => {
                tracing::info!(signal = what, "stopping before the start is over; a second signal stops at once");
                None
            }
        }
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// SIGHUP: files are looked at again at once, rather than when they are next.
pub(super) struct Hangup(Signal);

impl Hangup {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self(signal(SignalKind::hangup())?))
    }

    /// Obeys it until `stop`.
    pub(super) async fn obey(mut self, reload: Reload, stop: CancellationToken) {
        while let Some(Some(())) = stop.run_until_cancelled(self.0.recv()).await {
            tracing::info!("SIGHUP: looking at the files of certificates, keys and the token of the admin API");
            reload.ask();
        }
    }
}
