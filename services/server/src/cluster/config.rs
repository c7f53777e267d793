//! What may be configured about nodes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Section `cluster` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of this node; empty: the host's name and the port of the chat clients.
    pub node_id: String,
    /// A node that has not renewed its entry for so long is taken for dead.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often a node renews its entry, and looks at the others'.
    #[serde(with = "humantime_serde")]
    pub renew: Duration,
    /// How long a node waits for another one to hand over a shard before it takes it.
    #[serde(with = "humantime_serde")]
    pub handover: Duration,
    /// How long a request to the node that owns a shard may go unanswered.
    #[serde(with = "humantime_serde")]
    pub patience: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node_id: String::new(),
            lease: Duration::from_secs(2),
            renew: Duration::from_millis(400),
            handover: Duration::from_secs(2),
            patience: Duration::from_secs(30),
        }
    }
}
