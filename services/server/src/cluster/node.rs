//! What a node says about itself.

use serde::{Deserialize, Serialize};

/// An entry of the list of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Differs with each start of the node.
    pub instance: String,
    /// The upper bits of the ids of its connections: no other node that is there has the same.
    pub number: u64,
    /// When it began (milliseconds since 1970-01-01 UTC).
    pub since: u64,
    /// What it runs.
    pub version: String,
    /// Whether it is about to stop, and gives its shards away.
    #[serde(default)]
    pub leaving: bool,
    /// How many groups it has.
    #[serde(default)]
    pub groups: u64,
    /// Where in the list's stream this was said first; 0 in the message that says it.
    #[serde(default)]
    pub changed: u64,
}

/// The name of a node that was given none: the host's and the port of the chat clients.
#[must_use]
pub fn default_name(port: u16) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let host: String = host.chars().map(fit).take(56).collect();
    format!("{host}-{port}")
}
