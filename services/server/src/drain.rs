//! How the server stops without losing what it has accepted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
