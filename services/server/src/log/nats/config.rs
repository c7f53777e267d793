//! What may be configured about NATS.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Section `nats` of the configuration: how NATS is reached, and what this deployment makes there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The servers, separated by commas. One is enough to find the others of its cluster.
    pub urls: String,
    /// The user, with `password_file`; empty: none.
    pub user: String,
    /// The file that holds the user's password.
    pub password_file: Option<PathBuf>,
    /// The file that holds a token.
    pub token_file: Option<PathBuf>,
    /// The file that holds the seed of an nkey.
    pub nkey_file: Option<PathBuf>,
    /// The credentials file (a JWT and its seed), as `nsc` writes it.
    pub creds_file: Option<PathBuf>,
    /// Whether to refuse a connection without TLS.
    pub tls_required: bool,
    /// The certificates (PEM) of those who may vouch for the servers; empty: the system's.
    pub tls_ca_file: Option<PathBuf>,
    /// Our certificate (PEM), for servers that ask for one.
    pub tls_cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub tls_key_file: Option<PathBuf>,
    /// What names of streams, buckets and subjects begin with, so that several deployments can share one NATS.
    pub prefix: String,
    /// How long an answer of NATS may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Streams over which the shards are spread. Fixed for the life of a deployment.
    pub streams: u16,
    /// Servers that keep a copy of each stream.
    pub replicas: u16,
    /// What a stream is kept on.
    pub storage: Storage,
    /// Tags that a server must have to keep a stream, separated by commas; empty: any server.
    pub placement_tags: String,
    /// Whether streams that are there and differ from this configuration are changed, where JetStream can change them.
    pub update_streams: bool,
}

/// What a stream is kept on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Files: how durable an acknowledgement is, the servers' `sync_interval` says.
    File,
    /// Memory: everything is gone when the servers that hold a stream have gone.
    Memory,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            urls: "nats://127.0.0.1:4222".to_owned(),
            user: String::new(),
            password_file: None,
            token_file: None,
            nkey_file: None,
            creds_file: None,
            tls_required: false,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            prefix: "tertulia".to_owned(),
            timeout: Duration::from_secs(2),
            streams: 16,
            replicas: 1,
            storage: Storage::File,
            placement_tags: String::new(),
            update_streams: false,
        }
    }
}
