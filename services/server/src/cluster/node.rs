//! What a node says about itself.

use serde::{Deserialize, Serialize};

use crate::shard::wire;

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
    /// Which messages between nodes it writes and reads.
    #[serde(default)]
    pub wire: Wire,
    /// Whether it is about to stop, and gives its shards away.
    #[serde(default)]
    pub leaving: bool,
    /// Whether it asks other nodes for nothing any more: its clients have gone. Older builds do not tell.
    #[serde(default)]
    pub finished: bool,
    /// How many groups it has.
    #[serde(default)]
    pub groups: u64,
    /// Where in the list's stream this was said first; 0 in the message that says it.
    #[serde(default)]
    pub changed: u64,
}

/// Versions of the messages between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wire {
    /// The one that the node speaks: it understands what needs no more.
    pub version: u32,
    /// The least that whoever reads its messages must speak.
    pub needs: u32,
}

impl Default for Wire {
    /// Of nodes that do not tell.
    fn default() -> Self {
        Self { version: 1, needs: 1 }
    }
}

impl Wire {
    /// Of this build.
    #[must_use]
    pub fn ours() -> Self {
        Self { version: wire::VERSION, needs: wire::NEEDS }
    }

    /// Why two nodes do not understand each other; `None` if they do.
    #[must_use]
    pub fn misfit(self, other: Self) -> Option<String> {
        if other.needs > self.version {
            let Self { version, .. } = self;
            return Some(format!(
                "who reads its messages needs version {} of them, and this build speaks {version}",
                other.needs
            ));
        }
        if self.needs > other.version {
            let Self { needs, .. } = self;
            return Some(format!(
                "who reads the messages of this build needs version {needs} of them, and it speaks {}",
                other.version
            ));
        }
        None
    }
}

/// The name of a node that was given none: the host's and the port of the chat clients.
#[must_use]
pub fn default_name(port: u16) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let host: String = host.chars().map(fit).take(56).collect();
    format!("{host}-{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_fit_as_long_as_neither_needs_more_than_the_other_speaks() {
        let wire = |version, needs| Wire { version, needs };
        assert_eq!(wire(1, 1).misfit(wire(2, 1)), None);
        assert_eq!(wire(2, 1).misfit(wire(1, 1)), None);
        assert_eq!(wire(3, 2).misfit(wire(2, 1)), None);
        assert!(wire(1, 1).misfit(wire(2, 2)).unwrap().contains("this build speaks 1"));
        assert!(wire(2, 2).misfit(wire(1, 1)).unwrap().contains("it speaks 1"));
    }
}
