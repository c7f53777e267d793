//! How the server stops without losing what it has accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::front::Front;
use crate::readiness::{Readiness, Reason};
use crate::shard::Shards;
use crate::shard::events::What;
use crate::shard::handle::LAST_WORDS;

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
    /// Clients are told to come back within this time, each after another part of it. Where other nodes serve on they are told to go
    /// one after the other within this time, and to come back at once.
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

/// The most that is kept of the grace for the end.
const RESERVE: Duration = Duration::from_secs(3);

impl Config {
    /// How long after the signal connections are cut off: what is left of the grace is kept for the owners and the log to end cleanly,
    /// whatever connections do.
    #[must_use]
    pub fn cut_off(&self) -> Duration {
        self.grace.saturating_sub((self.grace / 5).min(RESERVE))
    }

    /// `grace` must be longer than this, or connections are cut off before `delay` and `linger` are over.
    #[must_use]
    pub fn least_grace(&self) -> Duration {
        let before = self.delay + self.linger;
        before + (before / 4).min(RESERVE)
    }
}

/// What everybody is told.
const WHY: &str = "the server is stopping";

/// The task that accepts chat connections.
#[derive(Debug)]
pub struct Accepting {
    stop: CancellationToken,
    task: TaskTracker,
}

impl Accepting {
    /// Accepts connections on `listener` from now on.
    #[must_use]
    pub fn start(front: &Front, listener: TcpListener) -> Self {
        let accepting = Self { stop: CancellationToken::new(), task: TaskTracker::new() };
        accepting.task.spawn(front.clone().serve(listener, accepting.stop.clone()));
        accepting
    }

    /// Returns when no connection is accepted any more.
    async fn end(&self) {
        self.stop.cancel();
        self.task.close();
        self.task.wait().await;
    }
}

/// Stops serving chat clients without losing what was accepted: not ready, no new connections, extended clients are told to go
/// elsewhere, then everything that was read is finished and flushed, and the owners stop. `hand_over` gives what this node owns to
/// others, and answers whether there are any; it serves its clients meanwhile and after. Where all nodes stop, each serves the others until
/// they have finished too: `part` returns when they have. Without anybody who accepts connections there never was a client.
pub async fn drain(
    config: &Config,
    readiness: &Readiness,
    accepting: Option<&Accepting>,
    front: &Front,
    shards: &Shards,
    hand_over: impl Future<Output = bool>,
    part: impl Future<Output = ()>,
) {
    let cut_off = tokio::time::Instant::now() + config.cut_off();
    // Kept of the grace.
    let reserve = config.grace.saturating_sub(config.cut_off());
    readiness.set(Reason::Draining, WHY);
    shards.events().tell(|| What::Draining(WHY.into()));
    // Both at once: whoever stops this node may leave it less time than it was promised, and nobody has to wait for shards that are
    // handed over already.
    let hand_over = async {
        // As long as they are taken one after the other, but so that there is time for the clients.
        let longest = tokio::time::timeout(config.grace / 2, hand_over);
        longest.await.unwrap_or_else(|_| {
            tracing::warn!("not all shards were handed over in time: others will take them");
            true
        })
    };
    let delay = accepting.map_or(Duration::ZERO, |_| config.delay);
    let (others, ()) = tokio::join!(hand_over, tokio::time::sleep(delay));
    if let Some(accepting) = accepting {
        accepting.end().await;
    }
    tracing::info!(open = front.registry().open(), others, "draining connections");
    if others {
        let left = cut_off.saturating_duration_since(tokio::time::Instant::now()).saturating_sub(config.linger);
        front.send_away(WHY, config.reconnect_after.min(left / 2)).await;
    } else {
        front.go_away(WHY, config.reconnect_after);
    }
    if front.registry().any_extended() {
        // Who goes by itself in this time is not missed.
        drop(tokio::time::timeout(config.linger, front.emptied()).await);
    }
    // Half of what is left, however long the rest took: nobody's last words wait for a post that is not answered.
    let finish = front.finish(cut_off.saturating_duration_since(tokio::time::Instant::now()) / 2);
    if tokio::time::timeout_at(cut_off, finish).await.is_err() {
        tracing::warn!(open = front.registry().open(), "connections that do not take what waits for them are cut off");
    }
    let last_words = (tokio::time::Instant::now() + LAST_WORDS).min(cut_off + reserve / 4);
    if !shards.finish(last_words).await {
        // Who was kept waiting for another node is told now that it did not answer.
        drop(tokio::time::timeout_at(cut_off + reserve / 2, front.emptied()).await);
    }
    if tokio::time::timeout_at(cut_off + reserve * 3 / 4, part).await.is_err() {
        tracing::warn!("another node that stops has not finished: what it asks this one is not answered any more");
    }
    shards.stop().await;
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::front::{self, Limits};
    use crate::log::{self, memory::Memory};
    use crate::shard::{self, Bounds};

    #[tokio::test(start_paused = true)]
    async fn where_nobody_was_let_in_nobody_is_waited_for() {
        let memory = Arc::new(Memory::new(&log::Config::default(), 1));
        let config = shard::Config { count: 1, ..shard::Config::default() };
        let shards = Shards::start(config, Bounds::default(), memory, "local".to_owned());
        let front = Front::new(&front::Config::default(), Limits::default(), shards.clone(), front::Options::default());
        let config = Config { delay: Duration::from_secs(5), ..Config::default() };
        for others in [false, true] {
            let begun = tokio::time::Instant::now();
            drain(&config, &Readiness::new(), None, &front, &shards, async { others }, async {}).await;
            assert!(begun.elapsed() < config.linger, "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn the_least_grace_is_just_too_little() {
        for before in [0, 1, 4, 11, 12, 13, 60] {
            let delay = Duration::from_secs(before);
            let config = Config { delay, linger: Duration::ZERO, ..Config::default() };
            let least = config.least_grace();
            assert!(Config { grace: least, ..config.clone() }.cut_off() <= delay, "{before}");
            let more = least + Duration::from_millis(1);
            assert!(Config { grace: more, ..config }.cut_off() > delay, "{before}");
        }
    }
}
