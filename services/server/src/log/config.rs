//! What may be configured about the log.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Section `log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where messages are kept.
    pub engine: Engine,
    /// The directory of engines that keep messages on disk.
    pub data_dir: PathBuf,
    /// Bytes of messages that the `memory` engine keeps over all groups; beyond it the oldest go first.
    pub memory_bytes: usize,
    /// What is kept of each group.
    pub retention: Retention,
}

/// The engines of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Nothing survives the process.
    Memory,
}

/// What is kept of a group; whichever bound is reached first removes the oldest messages. 0 means no bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// The newest so many messages.
    pub messages: u64,
    /// So many bytes of messages.
    pub bytes: u64,
    /// Messages not older than this.
    #[serde(with = "humantime_serde")]
    pub age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: Engine::Memory,
            data_dir: PathBuf::from("data"),
            memory_bytes: 256 * 1024 * 1024,
            retention: Retention::default(),
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 16 * 1024 * 1024, age: Duration::ZERO }
    }
}
