//! How a node comes into the list: under a name that is its own, and beside nodes that understand it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Error;
use super::bucket::{Changed, Entry};
use super::membership::{Membership, Seen, said_at};
use super::node::{Node, Wire};
use crate::log::nats::FORMING;

/// Who is under this node's name, and is not this node.
#[derive(Debug)]
pub(super) struct Namesake {
    /// Its newest renewal.
    newest: u64,
    /// When that was seen first.
    seen: Instant,
    /// How many newer ones there were while we looked.
    renewals: u32,
}

impl Namesake {
    pub(super) fn new(revision: u64) -> Self {
        Self { newest: revision, seen: Instant::now(), renewals: 0 }
    }

    /// Looks at its entry. One that was renewed once proves nothing: a replica that was behind may have told the one before, or the last
    /// renewal of this node's life before came late. What is older than the newest is from a replica that is behind.
    pub(super) fn look(&mut self, revision: u64) {
        if revision > self.newest {
            (self.newest, self.seen, self.renewals) = (revision, Instant::now(), self.renewals + 1);
        }
    }

    pub(super) fn is_alive(&self) -> bool {
        self.renewals > 1
    }
}

/// Nodes whose messages cannot be understood here, or that cannot understand ours.
#[derive(Debug, Default)]
struct Strangers {
    /// The renewal that was seen first of each.
    seen: HashMap<String, u64>,
}

impl Strangers {
    /// Looks at the list. An entry alone is no hindrance, its node may be dead; one that is renewed is.
    fn alive(&mut self, entries: &[Entry], me: &str) -> Option<Error> {
        let before = std::mem::take(&mut self.seen);
        for Entry { key, revision, node } in entries.iter().filter(|entry| entry.key != me) {
            let Some(node) = node else { continue };
            let Some(why) = Wire::ours().misfit(node.wire) else { continue };
            if before.get(key).is_some_and(|before| before != revision) {
                return Some(Error::Incompatible { node: key.clone(), version: node.version.clone(), why });
            }
            self.seen.insert(key.clone(), *before.get(key).unwrap_or(revision));
        }
        None
    }

    fn are_there(&self) -> bool {
        !self.seen.is_empty()
    }
}

impl Membership {
    /// Enters the list. If the name is there it is waited for the time of a lease: it may be of this node's life before.
    pub(super) async fn enter(&self) -> Result<(), Error> {
        let failed = |what, cause| Error::Bucket { what, bucket: self.bucket.name().to_owned(), cause };
        let key = self.me().node.name.clone();
        let (patience, pause) = (FORMING.max(4 * self.config.lease), self.config.renew.min(Duration::from_millis(100)));
        let begun = Instant::now();
        let mut namesake: Option<Namesake> = None;
        let mut strangers = Strangers::default();
        loop {
            let entries = match self.bucket.entries().await {
                Ok(entries) => entries,
                Err(cause) if begun.elapsed() > patience => return Err(failed("read", cause)),
                // Of a list that another node has just made no replica may answer yet.
                Err(cause) => {
                    tracing::debug!(cause, "the list of nodes cannot be read yet");
                    tokio::time::sleep(pause).await;
                    continue;
                }
            };
            let mine = entries.iter().find(|entry| entry.key == key);
            let found = mine.map(|mine| (mine.revision, mine.node.clone()));
            if let Some((revision, Some(node))) = &found {
                if node.instance == self.me().node.instance {
                    tracing::debug!("an entry of this node had come through");
                    self.has_entered(node.clone(), *revision);
                    break;
                }
                let other = namesake.get_or_insert_with(|| Namesake::new(*revision));
                other.look(*revision);
                if other.is_alive() {
                    return Err(Error::NameTaken { name: key, since: node.since });
                }
                if other.seen.elapsed() <= self.config.lease {
                    tokio::time::sleep(self.config.renew).await;
                    continue;
                }
            }
            if let Some(other) = strangers.alive(&entries, &key) {
                return Err(other);
            }
            if strangers.are_there() && begun.elapsed() <= self.config.lease {
                tokio::time::sleep(self.config.renew).await;
                continue;
            }
            let taken: Vec<u64> = entries.iter().filter_map(|entry| Some(entry.node.as_ref()?.number)).collect();
            let mut node = self.me().node.clone();
            node.number = std::iter::repeat_with(random_number).find(|number| !taken.contains(number)).unwrap_or(1);
            match self.bucket.put(&key, found.map_or(0, |(revision, _)| revision), &node).await {
                Changed::Stored(revision) => {
                    self.has_entered(node, revision);
                    break;
                }
                Changed::Conflict => {}
                Changed::Unknown(cause) if begun.elapsed() > patience => {
                    return Err(failed("enter", cause));
                }
                Changed::Unknown(_) => {}
            }
            tokio::time::sleep(pause).await;
        }
        let mut seen = Seen::default();
        let patience = Instant::now() + 2 * self.config.lease;
        // Until a replica answers that knows of us.
        while !self.look(&mut seen).await && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    fn has_entered(&self, node: Node, revision: u64) {
        self.set_number(node.number);
        let mut me = self.me();
        let now = Instant::now();
        (me.node, me.revision, me.renewed, me.looked) = (said_at(node, revision), revision, now, now);
    }
}

/// 23 bits, so that with 40 more an id fits where numbers have a sign.
fn random_number() -> u64 {
    crate::random::number() % (1 << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, revision: u64, wire: &str) -> Entry {
        let node = format!(r#"{{"name":"{key}","instance":"i","number":1,"since":2,"version":"9.9"{wire}}}"#);
        let node: Node = serde_json::from_str(&node).unwrap();
        Entry { key: key.to_owned(), revision, node: Some(node) }
    }

    #[test]
    fn a_namesake_is_alive_that_was_renewed_twice() {
        let mut other = Namesake::new(5);
        // One of two replicas is behind, in whichever order they answer.
        for revision in [5, 7, 5, 7, 4] {
            other.look(revision);
            assert!(!other.is_alive(), "{revision}");
        }
        other.look(8);
        assert!(other.is_alive());
    }

    #[test]
    fn a_node_that_is_alive_and_cannot_be_understood_is_a_hindrance() {
        let newer = r#","wire":{"version":9,"needs":9}"#;
        let mut strangers = Strangers::default();
        assert!(strangers.alive(&[entry("me", 1, newer), entry("a", 2, "")], "me").is_none());
        assert!(!strangers.are_there(), "a node of before there were versions speaks the first");
        assert!(strangers.alive(&[entry("b", 3, newer)], "me").is_none());
        assert!(strangers.alive(&[entry("b", 3, newer)], "me").is_none(), "it may be dead");
        assert!(strangers.are_there());
        let error = strangers.alive(&[entry("b", 4, newer)], "me").unwrap().to_string();
        assert!(error.contains("node 'b' (version 9.9)") && error.contains("needs version 9"), "{error}");
        let reads_only = r#","wire":{"version":9,"needs":1,"more":true}"#;
        assert!(strangers.alive(&[entry("b", 5, reads_only)], "me").is_none());
        assert!(!strangers.are_there());
    }
}
