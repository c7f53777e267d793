//! What JetStream answers to a message that it was to store.

use std::fmt;

use serde::Deserialize;

/// The answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Ack {
    /// Why it was not stored.
    pub(crate) error: Option<ApiError>,
    /// Where in its stream it is.
    #[serde(default)]
    pub(crate) seq: u64,
}

/// An error of JetStream's API.
#[derive(Debug, Deserialize)]
pub(crate) struct ApiError {
    pub(crate) err_code: u64,
    #[serde(default)]
    description: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (error {})", self.description, self.err_code)
    }
}
