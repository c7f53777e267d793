//! This node's entry in the list, and who else is there.
//!
//! A node renews its entry; all nodes look at all entries. One that is not renewed for the time of the lease is removed by whoever
//! notices first, by compare-and-set: so who is there is decided by the list alone, in one order for all, and clocks are never
//! compared. A node that was removed learns it at its next renewal, gives up all it had, and enters anew.
//!
//! While this node's own renewals fail it judges nobody: it is more likely to be the one that is cut off.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, SetOnce, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Changed, Entry};
use super::enter::Namesake;
use super::metrics::Metrics;
use super::node::{Node, Wire};
use super::{Config, Error, silence};
use crate::log::now_ms;
use crate::shard::ShardMap;

/// How long after each attempt to remove the entry it is looked at once more, if it could not be removed.
const REMOVALS: [Duration; 4] =
    [Duration::from_millis(20), Duration::from_millis(50), Duration::from_millis(100), Duration::from_millis(200)];

/// Who is there, in the order of the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct View {
    /// Where in the list's stream the last change is.
    pub(super) version: u64,
    /// The nodes, ordered by name.
    pub(super) nodes: Vec<Node>,
    /// How often this node had to enter anew: what it owned before is not its any more.
    pub(super) lives: u64,
    /// Whether this node is in the list.
    pub(super) is_in: bool,
    /// Grows when the connection was another one: something may have been missed.
    pub(super) connections: u64,
}

impl View {
    /// Who owns what.
    pub(super) fn map(&self, shards: u16) -> ShardMap {
        let mut names: Vec<String> =
            self.nodes.iter().filter(|node| !node.leaving).map(|node| node.name.clone()).collect();
        if names.is_empty() {
            names = self.nodes.iter().map(|node| node.name.clone()).collect();
        }
        ShardMap::new(self.version, shards, names)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.nodes.iter().any(|node| node.name == name)
    }

    /// Whether all nodes leave, and one beside `name` has not finished: what it asks is answered by those who leave, or by nobody.
    pub(super) fn is_awaited(&self, name: &str) -> bool {
        !self.has_successor() && self.nodes.iter().any(|node| node.name != name && !node.finished)
    }

    /// Whether there is a node that does not leave.
    pub(super) fn has_successor(&self) -> bool {
        self.nodes.iter().any(|node| !node.leaving)
    }
}

#[derive(Debug)]
pub(super) struct Membership {
    pub(super) config: Config,
    pub(super) bucket: Bucket,
    me: Mutex<Me>,
    number: AtomicU64,
    leaving: AtomicBool,
    finished: AtomicBool,
    /// How many groups this node has, and all others together.
    groups: AtomicU64,
    elsewhere: AtomicU64,
    hurry: Notify,
    view: watch::Sender<Arc<View>>,
    cut_off: watch::Sender<bool>,
    /// Another process has this node's name for good.
    pub(super) lost_name: SetOnce<Error>,
    pub(super) metrics: Metrics,
}

/// This node's entry.
#[derive(Debug, Clone)]
pub(super) struct Me {
    pub(super) node: Node,
    /// The last message of our key, as far as we know.
    pub(super) revision: u64,
    /// When it was renewed last.
    pub(super) renewed: Instant,
    /// When the list was looked at last, and told no less than it did before.
    pub(super) looked: Instant,
    trouble: Option<String>,
}

/// What was seen of the others.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// For each key its last message, and when that was new.
    others: HashMap<String, (u64, Instant)>,
    /// The newest message of all.
    newest: u64,
    /// Who has this node's name, while another one has it.
    namesake: Option<Namesake>,
}

impl Membership {
    pub(super) fn new(config: Config, bucket: Bucket, name: &str, instance: &str) -> Self {
        let node = Node {
            name: name.to_owned(),
            instance: instance.to_owned(),
            number: 0,
            since: now_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            wire: Wire::ours(),
            leaving: false,
            finished: false,
            groups: 0,
            changed: 0,
        };
        let now = Instant::now();
        let me = Me { node, revision: 0, renewed: now, looked: now, trouble: None };
        Self {
            config,
            bucket,
            me: Mutex::new(me),
            number: AtomicU64::new(0),
            leaving: AtomicBool::new(false),
            finished: AtomicBool::new(false),
            groups: AtomicU64::new(0),
            elsewhere: AtomicU64::new(0),
            hurry: Notify::new(),
            view: watch::Sender::new(Arc::default()),
            cut_off: watch::Sender::new(false),
            lost_name: SetOnce::new(),
            metrics: Metrics::new(),
        }
    }

    pub(super) fn me(&self) -> MutexGuard<'_, Me> {
        self.me.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Whether NATS answers nothing.
    pub(super) fn cut_off(&self) -> watch::Receiver<bool> {
        self.cut_off.subscribe()
    }

    /// The upper bits of the ids of our connections.
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Sets them.
    pub(super) fn set_number(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
    }

    /// Says how many groups this node has: the others learn it with the next renewal.
    pub(super) fn set_groups(&self, groups: u64) {
        self.groups.store(groups, Ordering::Relaxed);
    }

    /// How many groups all other nodes have, as they said with their last renewals.
    pub(super) fn groups_elsewhere(&self) -> u64 {
        self.elsewhere.load(Ordering::Relaxed)
    }

    pub(super) fn trouble(&self) -> Option<String> {
        let me = self.me();
        let late = me.renewed.elapsed() > self.config.lease;
        let blind = me.looked.elapsed() > 2 * self.config.lease;
        let unseen = || "what NATS tells of the list of nodes is less than it told before, or nothing".to_owned();
        me.trouble.clone().filter(|_| late).or_else(|| blind.then(unseen))
    }

    /// How long an answer of NATS takes at least.
    pub(super) fn round_trip(&self) -> Duration {
        self.bucket.answers().round_trip()
    }

    /// Says that this node is about to stop.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.hasten();
    }

    /// Says that this node asks the others for nothing any more.
    pub(super) fn finish(&self) {
        self.finished.store(true, Ordering::Relaxed);
        self.hasten();
    }

    /// Has the list looked at now: somebody knows of a change that this node has not seen.
    pub(super) fn hasten(&self) {
        self.hurry.notify_one();
    }

    /// Removes the entry. A renewal whose end nobody waited for may have been stored meanwhile, or be about to be.
    pub(super) async fn remove(&self) {
        let (key, instance, mut revision) = {
            let me = self.me();
            (me.node.name.clone(), me.node.instance.clone(), me.revision)
        };
        for wait in REMOVALS {
            let begun = Instant::now();
            match self.bucket.remove(&key, revision).await {
                Changed::Stored(_) => return,
                failed => tracing::debug!(?failed, "the entry of this node is not removed"),
            }
            // It was no answer that it waited for, and the end has no time for another such wait.
            if begun.elapsed() > self.config.renew {
                break;
            }
            tokio::time::sleep(wait).await;
            let Ok(entries) = self.bucket.entries().await else { break };
            let is_ours = |entry: &Entry| entry.node.as_ref().is_some_and(|node| node.instance == instance);
            let Some(found) = entries.into_iter().find(|entry| entry.key == key).filter(is_ours) else { return };
            revision = found.revision;
        }
        tracing::debug!("the entry of this node stays until it expires");
    }

    /// Renews the entry, and looks at those of others, until `stop`.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = Seen::default();
        let mut ticks = tokio::time::interval(self.config.renew);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let turns = async {
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = self.hurry.notified() => {}
                }
                self.renew(&mut seen).await;
                if self.look(&mut seen).await {
                    self.judge(&mut seen).await;
                }
            }
        };
        let (lease, every) = (self.config.lease, self.config.renew / 2);
        let minding = silence::mind(self.bucket.answers(), lease, every, &self.cut_off);
        stop.run_until_cancelled(async { tokio::join!(turns, minding, self.seek_connection()) }).await;
    }

    /// Tries another connection while NATS answers nothing.
    async fn seek_connection(&self) {
        let mut cut_off = self.cut_off();
        while cut_off.wait_for(|cut_off| *cut_off).await.is_ok() {
            tracing::warn!("NATS answers nothing: what is asked here is refused until it does");
            self.bucket.reconnect().await;
            let heard = cut_off.wait_for(|cut_off| !*cut_off);
            drop(tokio::time::timeout(2 * self.config.lease, heard).await);
        }
    }

    async fn renew(&self, seen: &mut Seen) {
        let Me { mut node, mut revision, renewed, .. } = self.me().clone();
        let leaving = self.leaving.load(Ordering::Relaxed);
        (node.groups, node.finished) = (self.groups.load(Ordering::Relaxed), self.finished.load(Ordering::Relaxed));
        if leaving != node.leaving {
            (node.leaving, node.changed) = (leaving, 0);
        }
        let mut outcome = self.bucket.put(&node.name, revision, &node).await;
        if outcome == Changed::Conflict {
            match self.renew_after_conflict(&mut node, &mut revision, &mut seen.namesake).await {
                Some(after) => outcome = after,
                None => return,
            }
        }
        let mut me = self.me();
        match outcome {
            Changed::Stored(newer) => {
                self.metrics.renewed.increment(1);
                if renewed.elapsed() > self.config.lease {
                    // While we were cut off nothing could be seen of the others.
                    let now = Instant::now();
                    seen.others.values_mut().for_each(|(_, when)| *when = now);
                }
                seen.namesake = None;
                (me.node, me.revision) = (said_at(node, newer), newer);
                (me.renewed, me.trouble) = (Instant::now(), None);
            }
            Changed::Conflict | Changed::Unknown(_) => {
                self.metrics.failed.increment(1);
                let why = if let Changed::Unknown(why) = outcome { why } else { "it changed meanwhile".to_owned() };
                tracing::debug!(why, "the entry of this node was not renewed");
                // With what is yet to be said: that it left, or entered anew, counts from where it is stored.
                (me.node, me.revision) = (node, revision);
                me.trouble = Some(format!("the entry of this node in the list of nodes is not renewed: {why}"));
            }
        }
    }

    /// What was ours is not any more.
    pub(super) fn lapse(&self) {
        self.view.send_modify(|view| {
            let mut lapsed = View::clone(view);
            (lapsed.lives, lapsed.is_in) = (lapsed.lives + 1, false);
            *view = Arc::new(lapsed);
        });
    }

    /// Looks at the list; answers whether what was seen is up to date.
    pub(super) async fn look(&self, seen: &mut Seen) -> bool {
        let entries = match self.bucket.entries().await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!(error, "the list of nodes cannot be read");
                return false;
            }
        };
        let newest = entries.iter().map(|entry| entry.revision).max().unwrap_or(0);
        let Me { node: me, revision, .. } = self.me().clone();
        let mine = entries.iter().find(|entry| entry.key == me.name).map_or(0, |entry| entry.revision);
        // From a replica that is behind: nothing follows from it.
        if newest < seen.newest || mine < revision {
            return false;
        }
        seen.newest = newest;
        let now = Instant::now();
        self.me().looked = now;
        for Entry { key, revision, .. } in entries.iter().filter(|entry| entry.node.is_some()) {
            let known = seen.others.entry(key.clone()).or_insert((0, now));
            if known.0 != *revision {
                *known = (*revision, now);
            }
        }
        seen.others.retain(|key, _| entries.iter().any(|entry| entry.key == *key && entry.node.is_some()));
        self.publish(&entries, &me);
        true
    }

    fn publish(&self, entries: &[Entry], me: &Node) {
        let changed = |entry: &Entry| match &entry.node {
            Some(node) if node.changed > 0 => node.changed,
            Some(_) | None => entry.revision,
        };
        let version = entries.iter().map(changed).max().unwrap_or(0);
        let mut nodes: Vec<Node> = entries.iter().filter_map(|entry| entry.node.clone()).collect();
        let others = nodes.iter().filter(|node| node.name != me.name);
        self.elsewhere.store(others.map(|node| node.groups).sum(), Ordering::Relaxed);
        // What changes all the time is no change of the list.
        nodes.iter_mut().for_each(|node| (node.changed, node.groups) = (0, 0));
        nodes.sort_by(|one, other| one.name.cmp(&other.name));
        let is_in = nodes.iter().any(|node| node.name == me.name && node.instance == me.instance);
        let connections = self.bucket.connections();
        self.metrics.nodes.set(nodes.len() as f64);
        self.view.send_if_modified(|view| {
            let version = version.max(view.version);
            let new = View { version, nodes, lives: view.lives, is_in, connections };
            let is_new = **view != new;
            if is_new {
                self.metrics.version.set(new.version as f64);
                if view.nodes.len() != new.nodes.len() {
                    let names: Vec<&str> = new.nodes.iter().map(|node| node.name.as_str()).collect();
                    tracing::info!(version = new.version, nodes = names.join(","), "the nodes are");
                }
                *view = Arc::new(new);
            }
            is_new
        });
    }

    /// Removes those that have not renewed their entries.
    async fn judge(&self, seen: &mut Seen) {
        let Me { node: me, renewed, .. } = self.me().clone();
        if renewed.elapsed() > self.config.lease / 2 {
            return;
        }
        let dead: Vec<(String, u64)> = seen
            .others
            .iter()
            .filter(|(key, (_, when))| **key != me.name && when.elapsed() > self.config.lease)
            .map(|(key, (revision, _))| (key.clone(), *revision))
            .collect();
        for (key, revision) in dead {
            if let Changed::Stored(_) = self.bucket.remove(&key, revision).await {
                tracing::warn!(node = key, "a node has not renewed its entry: it is taken for dead");
                self.metrics.expired.increment(1);
                self.hurry.notify_one();
            }
        }
    }
}

/// What a node says about itself from now on that was stored at `revision`.
pub(super) fn said_at(node: Node, revision: u64) -> Node {
    let changed = if node.changed == 0 { revision } else { node.changed };
    Node { changed, ..node }
}

#[cfg(test)]
mod tests;
