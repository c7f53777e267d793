//! A node whose entry in the list is another than the one it left there: it finds out why, and enters anew if it was removed. If another
//! process has its name and lives it ends, for all that is said to that name would reach now the one and now the other.

use super::Error;
use super::bucket::{Changed, Entry};
use super::enter::Namesake;
use super::membership::Membership;
use super::node::Node;

impl Membership {
    /// Renews the entry after a renewal that found another one; `None` if the list cannot be read.
    pub(super) async fn renew_after_conflict(
        &self,
        node: &mut Node,
        revision: &mut u64,
        namesake: &mut Option<Namesake>,
    ) -> Option<Changed> {
        // Either an answer to us was lost, or we were removed.
        let entries = self.bucket.entries().await.ok()?;
        let is_newer = entries.iter().any(|entry| entry.revision > *revision);
        Some(match entries.into_iter().find(|entry| entry.key == node.name) {
            Some(found) if found.revision <= *revision => behind(),
            Some(Entry { node: Some(found), revision: newer, .. }) if found.instance == node.instance => {
                tracing::debug!("a renewal had come through");
                *revision = newer;
                self.bucket.put(&node.name, newer, node).await
            }
            Some(Entry { node: Some(found), revision: newer, .. }) => {
                tracing::error!(
                    name = node.name,
                    since = found.since,
                    "another node has taken this node's name: give each node its own with --node-id"
                );
                self.lapse();
                let other = namesake.get_or_insert_with(|| Namesake::new(newer));
                other.look(newer);
                if other.is_alive() {
                    // It is said once.
                    drop(self.lost_name.set(Error::NameLost { name: found.name, since: found.since }));
                }
                Changed::Unknown("another node has this node's name".to_owned())
            }
            None if !is_newer => self.enter_if_nothing_is_left(node, revision).await,
            removed => {
                tracing::warn!("the other nodes took this one for dead: it enters anew");
                self.metrics.lapsed.increment(1);
                self.lapse();
                node.changed = 0;
                // Of an entry that was removed long ago nothing is left.
                *revision = removed.map_or(0, |entry| entry.revision);
                self.bucket.put(&node.name, *revision, node).await
            }
        })
    }

    /// The list has neither our entry nor anything newer. Either the replica that answered is behind; or nothing is left of our entry and
    /// nobody has written since: it expired while no node reached NATS, or somebody emptied the list. Reading cannot tell these apart, and
    /// writing can: an entry that is there, and be it unknown to all replicas but the leader, keeps one that expects none from being stored.
    async fn enter_if_nothing_is_left(&self, node: &mut Node, revision: &mut u64) -> Changed {
        let anew = Node { changed: 0, ..node.clone() };
        let outcome = self.bucket.put(&anew.name, 0, &anew).await;
        if outcome == Changed::Conflict {
            return behind();
        }
        // Also if it is not known to be stored: if it is, the others may have forgotten us before.
        tracing::warn!("the entry of this node is gone from the list: it enters anew");
        self.metrics.lapsed.increment(1);
        self.lapse();
        (*node, *revision) = (anew, 0);
        outcome
    }
}

fn behind() -> Changed {
    Changed::Unknown("the list is not up to date".to_owned())
}
