//! What may be configured about the server's own log output.

use serde::{Deserialize, Serialize};

/// Section `telemetry` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a line of the log on stderr looks.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber`'s `EnvFilter`: `info`, or `info,tertulia_server::front=debug`.
    pub log_level: String,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured where stderr is a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self { log_format: LogFormat::Text, log_level: "info".to_owned() }
    }
}
