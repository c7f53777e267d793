//! What may be configured about the log.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use super::nats::config::Config as Nats;

const MIB: u64 = 1024 * 1024;

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
    /// What is kept of the groups whose name begins with a prefix, instead of `retention`; the longest prefix wins.
    pub retention_overrides: RetentionOverrides,
    /// What an acknowledgement of the `embedded` engine means.
    pub durability: Durability,
    /// Bytes of one file of the commit log (`embedded`).
    pub segment_bytes: u64,
    /// Files of the commit log that are held ready, so that no append waits for one to be made (`embedded`).
    pub spare_segments: usize,
    /// Appends that may wait for the commit log's writer; further ones wait to be taken in (`embedded`).
    pub append_queue: usize,
    /// Bytes that may be in the commit log and not yet in the tables; beyond it appends wait (`embedded`). It bounds both
    /// the memory that the unapplied messages take and the size of the commit log.
    pub unapplied_bytes: usize,
    /// Messages that are moved into the tables in one transaction (`embedded`).
    pub apply_records: usize,
    /// How long a message may stay in the commit log alone when few come in (`embedded`).
    #[serde(with = "humantime_serde")]
    pub apply_interval: Duration,
    /// Bytes of heads and recent messages of active groups that are kept in memory (`embedded`).
    pub cache_bytes: usize,
    /// Newest messages of an active group that are kept in memory, for members that are a little behind (`embedded`).
    pub cache_records: usize,
    /// Bytes of the tables that are cached in memory (`embedded`).
    pub table_cache_bytes: usize,
    /// Reads of the tables that may run at once (`embedded`).
    pub readers: usize,
    /// How often groups in which nothing happens are looked at for retention (`embedded`).
    #[serde(with = "humantime_serde")]
    pub sweep_interval: Duration,
    /// Bytes on disk beyond which posts are refused (`embedded`). 0 means no bound.
    pub disk_bytes: u64,
    /// Bytes of the file system that stay free: below it posts are refused (`embedded`).
    pub reserve_bytes: u64,
}

/// What an acknowledgement means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The message is on the disk: it survives a power cut.
    Fsync,
    /// The message is with the operating system: it survives the end of the process, not a power cut.
    Os,
}

/// The engines of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// Nothing survives the process.
    Memory,
    /// Messages are on this machine's disk, under `data_dir`.
    Embedded,
    /// Messages are in NATS JetStream: see section `nats`.
    Nats,
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

/// What is kept of groups, by the prefix of their names. Serialized as one text (JSON), which every source of a configuration can hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct RetentionOverrides(pub BTreeMap<String, RetentionOverride>);

/// What is kept of the groups with a prefix. 0 means no bound; what is not said is as for all groups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionOverride {
    /// The newest so many messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<u64>,
    /// So many bytes of messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Messages not older than this.
    #[serde(with = "humantime_serde::option", skip_serializing_if = "Option::is_none")]
    pub age: Option<Duration>,
}

impl From<RetentionOverrides> for String {
    fn from(overrides: RetentionOverrides) -> Self {
        // A map with texts as keys can always be written.
        serde_json::to_string(&overrides.0).unwrap_or_default()
    }
}

impl TryFrom<String> for RetentionOverrides {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        serde_json::from_str(&text).map(Self)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            engine: Engine::Embedded,
            data_dir: PathBuf::from("data"),
            memory_bytes: 256 * 1024 * 1024,
            retention: Retention::default(),
            retention_overrides: RetentionOverrides::default(),
            durability: Durability::Fsync,
            segment_bytes: 64 * MIB,
            spare_segments: 2,
            append_queue: 4096,
            unapplied_bytes: 128 * MIB as usize,
            apply_records: 32 * 1024,
            apply_interval: Duration::from_secs(4),
            cache_bytes: 64 * MIB as usize,
            cache_records: 512,
            table_cache_bytes: 256 * MIB as usize,
            readers: 4,
            sweep_interval: Duration::from_secs(600),
            disk_bytes: 0,
            reserve_bytes: 256 * MIB,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 16 * 1024 * 1024, age: Duration::ZERO }
    }
}
