//! What may be configured about the HTTP port.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::tls;

/// Section `http` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where metrics and health are served; port 0 picks a free one.
    pub address: SocketAddr,
    /// Connections at the same time; the oldest gives way to one more.
    pub connections: usize,
    /// The certificate that is shown to those who ask; without one they speak in the clear.
    pub tls: tls::Files,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 8090)), connections: 64, tls: tls::Files::default() }
    }
}
