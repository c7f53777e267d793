//! What may be configured about what the server tells of itself.

use serde::{Deserialize, Serialize};

/// Section `telemetry` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How a line of the log on stderr looks.
    pub log_format: LogFormat,
    /// What is logged, in the syntax of `tracing_subscriber`'s `EnvFilter`: `info`, or `info,tertulia_server::front=debug`.
    pub log_level: String,
    /// Which traces go to a collector.
    pub traces: Traces,
}

/// Section `telemetry.traces` of the configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Traces {
    /// Whether there are any.
    pub enabled: bool,
    /// Where the collector takes OTLP over gRPC: `http://HOST:PORT` or `https://HOST:PORT`. Without it the variables of OpenTelemetry decide.
    pub endpoint: Option<String>,
    /// Which part of what comes without a caller's decision is traced: 0 to 1. Without it the variables of OpenTelemetry decide.
    pub ratio: Option<f64>,
    /// Traces that begin in a second at most, whoever asks for them.
    pub per_second: u32,
    /// Whether spans tell the names of groups.
    pub group_names: bool,
}

impl Default for Traces {
    fn default() -> Self {
        Self { enabled: false, endpoint: None, ratio: None, per_second: 200, group_names: false }
    }
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
        Self { log_format: LogFormat::Text, log_level: "info".to_owned(), traces: Traces::default() }
    }
}
