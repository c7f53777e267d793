//! How the server stops without losing what it has accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::front::Front;
use crate::readiness::{Readiness, Reason};
use crate::shard::Shards;
use crate::shard::events::What;

/// Section `drain` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The server keeps serving for this long while it already reports that it is not ready, so that load balancers turn away first.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
    /// How long extended clients get, after `delay`, to leave by themselves once they were told to go away.
    #[serde(with = "humantime_serde")]
    pub linger: Duration,
    /// Everything is over this long after the signal to stop, `delay` included; what is not is cut off.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
    /// Clients are told to come back within this time, each after another part of it.
    #[serde(with = "humantime_serde")]
    pub reconnect_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            linger: Duration::from_secs(1),
            grace: Duration::from_secs(20),
            reconnect_after: Duration::from_secs(5),
        }
    }
}

/// The task that accepts chat connections.
#[derive(Debug)]
pub struct Accepting {
    /// Ends it.
    pub stop: CancellationToken,
    /// The task.
    pub task: JoinHandle<()>,
}

impl Accepting {
    /// Returns when no connection is accepted any more.
    async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "accepting had failed");
        }
    }
}

/// Stops serving chat clients without losing what was accepted: not ready, no new connections, extended clients are told to go
/// elsewhere, then everything that was read is finished and flushed, and the owners stop.
pub async fn drain(config: &Config, readiness: &Readiness, accepting: Accepting, front: &Front, shards: &Shards) {
    readiness.set(Reason::Draining, "the server is stopping");
    shards.events().tell(|| What::Draining);
    tokio::time::sleep(config.delay).await;
    accepting.end().await;
    tracing::info!(open = front.registry().open(), "draining connections");
    front.go_away("the server is stopping", config.reconnect_after);
    if front.registry().any_extended() {
        // Who goes by itself in this time is not missed.
        drop(tokio::time::timeout(config.linger, front.emptied()).await);
    }
    front.finish(config.grace.saturating_sub(config.delay + config.linger) / 2).await;
    shards.stop().await;
}
