//! What may be configured about TLS.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What holds for every port that speaks TLS: section `tls` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A handshake must end within this time.
    #[serde(with = "humantime_serde")]
    pub handshake_timeout: Duration,
    /// Handshakes of one port at the same time. Others wait for up to a second, then one more ends the oldest.
    pub handshakes: usize,
    /// How often the files are looked at.
    #[serde(with = "humantime_serde")]
    pub reload_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { handshake_timeout: Duration::from_secs(10), handshakes: 1_024, reload_interval: Duration::from_secs(10) }
    }
}

/// The certificate of one port: section `tls` of that port's section. Without them the port speaks no TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Files {
    /// The certificate and those that vouch for it, the server's own first (PEM).
    pub cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    pub key_file: Option<PathBuf>,
}
