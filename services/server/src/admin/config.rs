//! What may be configured about the admin API.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tls;

/// Section `admin` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where the admin API listens; port 0 picks a free one.
    pub address: SocketAddr,
    /// The file that holds the bearer token callers must present.
    pub token_file: Option<PathBuf>,
    /// Serve off loopback without a token: whoever reaches the port may do everything.
    pub insecure: bool,
    /// The directory in which backups of this node are made; without one, none are.
    pub backup_dir: Option<PathBuf>,
    /// Connections at the same time. The oldest from which no call was let in gives way to one more, which is closed if there is none.
    pub connections: usize,
    /// Callers that watch events at the same time; one more is refused.
    pub watchers: usize,
    /// The certificate that is shown to callers; without one they speak in the clear.
    pub tls: tls::Files,
    /// The certificates of those who may vouch for callers, who must then show one (PEM).
    pub client_ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 8089)),
            token_file: None,
            insecure: false,
            backup_dir: None,
            connections: 64,
            watchers: 16,
            tls: tls::Files::default(),
            client_ca_file: None,
        }
    }
}
