//! Takes and gives shards, so that this node owns those that are its by the map.
//!
//! The list of nodes decides; this only follows, and may be late: the log's fences let one node at a time extend a shard, whatever
//! anybody believes. A shard that changes hands is given up by the node that has it, when the one whose it is asks for it; a node
//! that does not answer is not waited for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::desk::{Answer, Question, release};
use super::link::Link;
use super::membership::{Membership, View};
use super::metrics::Metrics;
use super::node::Node;
use super::pace::Pace;
use crate::log::nats::Nats;
use crate::shard::peers::{Order, Silence};
use crate::shard::{Hold, ShardMap, Shards};

/// How long a shard that could not be taken is left alone.
const PAUSE: Duration = Duration::from_millis(100);
/// How long what moderators hold may take to be read anew before shards are taken all the same.
const HOLDS: Duration = Duration::from_secs(5);
/// For so many times the lease what a node asked before it went out of the list may be on its way.
const LATEST_LEASES: u32 = 2;

pub(super) struct Ownership {
    config: Config,
    taking: Taking,
    view: watch::Receiver<Arc<View>>,
    map: ShardMap,
    /// Which lives of this node the shards that it has are of.
    lives: u64,
    /// Whether the node has come back into the list since: others forgot who is connected here.
    is_back: bool,
    connections: u64,
    /// What moderators hold is being read anew: who serves a shard decides who may be in its groups.
    reading: Option<BoxFuture<'static, ()>>,
    /// Shards that are being taken or given.
    busy: HashSet<u16>,
    /// For each shard the node whose it was before.
    before: Vec<Option<String>>,
    /// Shards that are here and are other nodes'.
    surplus: HashMap<u16, Surplus>,
    /// The nodes that the shards were told last, each with its start, and when they are told the same once more.
    nodes: Arc<HashMap<String, String>>,
    again_at: Option<Instant>,
    /// When this node was asked for a shard last: others come for theirs, a few at a time.
    asked: watch::Receiver<Instant>,
    settled: watch::Sender<bool>,
}

/// A shard that is another node's.
#[derive(Debug, Clone, Copy)]
struct Surplus {
    since: Instant,
    /// Not, if this node could only extend it. What it remembers of the shard ages then, and must not be read for long.
    is_served: bool,
}

/// What is needed to take a shard.
#[derive(Clone)]
struct Taking {
    nats: Nats,
    shards: Shards,
    link: Arc<Link>,
    membership: Arc<Membership>,
    view: watch::Receiver<Arc<View>>,
    pace: Pace,
    silent: Silent,
    metrics: Arc<Metrics>,
    handover: Duration,
}

impl Ownership {
    pub(super) fn new(
        config: Config,
        nats: Nats,
        shards: Shards,
        link: Arc<Link>,
        membership: Arc<Membership>,
        asked: watch::Receiver<Instant>,
    ) -> Self {
        let view = membership.view();
        let now = Arc::clone(&view.borrow());
        let map = without(&now, shards.node()).map(shards.map().shards());
        let (lives, connections) = (now.lives, now.connections);
        let handover = config.handover;
        let (pace, metrics) = (Pace::new(), Arc::new(Metrics::new()));
        let silent = Silent::default();
        let taking = Taking { nats, shards, link, membership, view: view.clone(), pace, silent, metrics, handover };
        let before = vec![None; usize::from(map.shards())];
        let (busy, surplus, settled) = (HashSet::new(), HashMap::new(), watch::Sender::new(false));
        let (is_back, reading, nodes, again_at) = (false, None, Arc::default(), None);
        Self {
            config,
            taking,
            view,
            map,
            lives,
            is_back,
            connections,
            reading,
            busy,
            before,
            surplus,
            nodes,
            again_at,
            asked,
            settled,
        }
    }

    /// Whether all shards are owned here that are this node's by the map.
    pub(super) fn settled(&self) -> watch::Receiver<bool> {
        self.settled.subscribe()
    }

    pub(super) async fn run(mut self, stop: CancellationToken, tasks: TaskTracker) {
        const DONE: usize = 64;
        let mut lost = self.taking.nats.lost();
        let (done, mut finished) = tokio::sync::mpsc::channel::<u16>(DONE);
        let mut ticks = tokio::time::interval(self.config.renew);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.view.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Ok(()) = self.view.changed() => self.on_view().await,
                shard = lost.recv() => match shard {
                    Ok(shard) => self.taking.shards.order_lost(shard),
                    // The next look at all shards finds those that were missed.
                    Err(broadcast::error::RecvError::Lagged(_) | broadcast::error::RecvError::Closed) => {}
                },
                Some(shard) = finished.recv() => {
                    self.busy.remove(&shard);
                    while let Ok(shard) = finished.try_recv() {
                        self.busy.remove(&shard);
                    }
                }
                () = ended(&mut self.reading) => self.reading = None,
                () = tokio::time::sleep_until(self.again_at.unwrap_or_else(Instant::now)), if self.again_at.is_some() => {
                    self.tell_again().await;
                }
                _ = ticks.tick() => {}
            }
            self.reconcile(&done, &tasks).await;
        }
    }

    async fn on_view(&mut self) {
        let view = Arc::clone(&self.view.borrow_and_update());
        let shards = &self.taking.shards;
        if view.lives != self.lives {
            (self.lives, self.is_back) = (view.lives, true);
            // What was ours may be others' by now: whatever is appended still is refused if it is.
            for shard in 0..self.map.shards() {
                self.taking.nats.let_go(shard);
                if shards.is_owned(shard) {
                    shards.order_lost(shard);
                }
            }
            self.map = without(&view, shards.node()).map(self.map.shards());
        }
        if view.nodes.is_empty() || !view.is_in {
            return;
        }
        let map = view.map(self.map.shards());
        let names = |map: &ShardMap| map.nodes.clone();
        let has_new_nodes = names(&map) != names(&self.map);
        let start = |node: &Node| (node.name.clone(), node.instance.clone());
        let nodes: Arc<HashMap<String, String>> = Arc::new(view.nodes.iter().map(start).collect());
        if nodes != self.nodes {
            // What a node asked before it went may be carried out only now, and its members with it be members again.
            self.again_at = Some(Instant::now() + LATEST_LEASES * self.config.lease);
            self.nodes = Arc::clone(&nodes);
        }
        let missed = view.connections != self.connections || std::mem::take(&mut self.is_back);
        self.connections = view.connections;
        if missed {
            let holds = Arc::clone(shards.holds());
            self.reading = Some(Box::pin(async move {
                if tokio::time::timeout(HOLDS, holds.refresh()).await.is_err() {
                    tracing::warn!("shards are taken although it could not be read anew whom moderators hold");
                }
            }));
        }
        for shard in 0..map.shards() {
            if shards.is_owned(shard) {
                shards.order(shard, Order::Nodes(Arc::clone(&nodes))).await;
            } else if missed || (has_new_nodes && map.owner(shard) != self.map.owner(shard)) {
                shards.order(shard, Order::Follow).await;
            }
        }
        for (shard, before) in (0..map.shards()).zip(&mut self.before) {
            if map.owner(shard) != self.map.owner(shard) {
                *before = self.map.owner(shard).map(str::to_owned);
            }
        }
        shards.set_map(map.clone());
        self.map = map;
    }

    /// Tells the shards once more which nodes are there.
    async fn tell_again(&mut self) {
        self.again_at = None;
        let shards = &self.taking.shards;
        for shard in (0..self.map.shards()).filter(|shard| shards.is_owned(*shard)) {
            shards.order(shard, Order::Nodes(Arc::clone(&self.nodes))).await;
        }
    }

    /// Whether nobody comes for a shard that is another node's, and it is not being given to one.
    fn is_left_over(&mut self, shard: u16, is_served: bool) -> bool {
        let now = Surplus { since: Instant::now(), is_served };
        let surplus = self.surplus.entry(shard).or_insert(now);
        if surplus.is_served != is_served {
            *surplus = now;
        }
        if is_served {
            surplus.since.max(*self.asked.borrow()).elapsed() > 2 * self.config.handover
        } else {
            surplus.since.elapsed() > self.config.handover
        }
    }

    async fn reconcile(&mut self, done: &tokio::sync::mpsc::Sender<u16>, tasks: &TaskTracker) {
        let me = self.taking.shards.node().to_owned();
        let is_in = self.view.borrow().is_in;
        let mut missing = false;
        for shard in 0..self.map.shards() {
            let mine = is_in && self.map.owner(shard) == Some(me.as_str());
            let (held, owned) = (self.taking.nats.holds(shard), self.taking.shards.is_owned(shard));
            if owned && !held && !self.busy.contains(&shard) {
                self.taking.shards.order_lost(shard);
            }
            missing |= mine && !(held && owned);
            let is_settled = if mine { held && owned } else { !held && !owned };
            if is_settled {
                self.surplus.remove(&shard);
                continue;
            }
            if self.busy.contains(&shard) {
                continue;
            }
            if mine && (self.reading.is_some() || !self.taking.nats.can_take(shard)) {
                continue;
            }
            let taking = self.taking.clone();
            let done = done.clone();
            if mine {
                self.busy.insert(shard);
                let before = self.before.get(usize::from(shard)).cloned().flatten();
                let version = self.map.version;
                tasks.spawn(async move {
                    taking.take(shard, version, before).await;
                    // Nobody may listen any more.
                    done.send(shard).await.unwrap_or(());
                });
            } else if self.is_left_over(shard, owned) {
                // Whose it is did not ask for it.
                if !owned {
                    taking.nats.let_go(shard);
                    continue;
                }
                self.busy.insert(shard);
                tasks.spawn(async move {
                    release(&taking.shards, &taking.nats, shard).await;
                    done.send(shard).await.unwrap_or(());
                });
            }
        }
        self.settled.send_if_modified(|settled| std::mem::replace(settled, !missing) == missing);
    }
}

/// Waits until it has ended, if there is something to wait for. Dropping the future loses nothing.
async fn ended(reading: &mut Option<BoxFuture<'static, ()>>) {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

/// Nodes that did not hand over a shard when they were asked. While that is not long ago they are not asked for others: of hundreds of
/// shards each would be waited for.
#[derive(Debug, Clone, Default)]
struct Silent(Arc<Mutex<HashMap<String, Instant>>>);

impl Silent {
    fn note(&self, name: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Instant::now());
    }

    fn has(&self, name: &str, for_so_long: Duration) -> bool {
        let mut silent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        silent.retain(|_, since| since.elapsed() < for_so_long);
        silent.contains_key(name)
    }
}

/// The nodes but one. Before that one came the others had everything.
fn without(view: &View, name: &str) -> View {
    let mut others = View::clone(view);
    others.nodes.retain(|node| node.name != name);
    others
}

impl Taking {
    /// Makes a shard this node's, if it can be had now.
    async fn take(self, shard: u16, version: u64, before: Option<String>) {
        let mut turn = Some(self.pace.turn(self.membership.round_trip()).await);
        if !self.nats.can_take(shard) {
            // It has turned out while this one waited for its turn.
            return;
        }
        let me = self.shards.node();
        let before = before.filter(|name| name != me && self.view.borrow().has(name));
        // It may still take itself for the owner, and would answer from memory until it looks at its fences.
        let mut unaware = before.clone();
        let mut handed = None;
        let begun = Instant::now();
        if let Some(before) = before.filter(|name| !self.silent.has(name, self.handover)) {
            let asked = self.link.ask_node(&before, &Question::Release { shard, version }, self.handover).await;
            match asked {
                Ok(Answer::Released { holds, held, left }) => {
                    (handed, unaware) = (Some((holds, held, left)), None);
                }
                Ok(Answer::Mine { version: other }) => {
                    tracing::debug!(shard, before, version, other, "the shard is another node's still");
                    drop(turn);
                    return tokio::time::sleep(PAUSE).await;
                }
                Ok(Answer::NotHeld | Answer::Groups { .. } | Answer::Failed { .. } | Answer::Unknown)
                | Err(Silence::Nobody) => unaware = None,
                Err(Silence::NoAnswer(error)) => {
                    tracing::warn!(
                        shard,
                        before,
                        error,
                        "the node that has the shard does not hand it over: it is taken"
                    );
                    self.silent.note(before);
                }
            }
        }
        if self.shards.map().owner(shard) != Some(me) {
            return;
        }
        let free = Instant::now();
        let was_handed = handed.is_some();
        let (holds, held, left) = handed.unwrap_or_default();
        let is_news = |hold: &Hold| !self.shards.holds().covers(hold);
        // An older build tells holds in its own way only, and no other node knows of them.
        let inherited: Vec<Hold> = match holds {
            Some(_) => Vec::new(),
            None => held.into_iter().map(Hold::from).filter(is_news).collect(),
        };
        let holds = holds.unwrap_or_else(|| inherited.clone());
        // Others need not wait for a stream that they have nothing to do with.
        let taken = match self.nats.take(shard, left, &mut || drop(turn.take())).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(shard, %error, "the shard cannot be taken now");
                drop(turn);
                return tokio::time::sleep(PAUSE).await;
            }
        };
        let ours = Instant::now();
        if let Some(before) = unaware {
            self.have_released(before, shard, version);
        }
        let (done, owned) = oneshot::channel();
        self.shards.order(shard, Order::Own { reign: taken.fence, holds, done }).await;
        if owned.await == Ok(true) {
            tracing::debug!(
                shard,
                handed = was_handed,
                release = ?free.duration_since(begun),
                fence = ?ours.duration_since(free),
                load = ?ours.elapsed(),
                "owns the shard"
            );
            if was_handed {
                self.metrics.handed(begun.elapsed());
            } else {
                self.metrics.taken(begun.elapsed());
            }
            if let Some(turn) = turn {
                turn.end(begun.elapsed());
            }
            self.keep(inherited).await;
        } else {
            tracing::debug!(shard, "the shard was taken and is not served yet");
            drop(turn);
            // It may be another node's by now.
            self.nats.release(shard).await;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Has a node give up a shard that it did not hand over and that this node has taken. Nobody waits for that: what it does not answer it
    /// may have read, or read later.
    fn have_released(&self, before: String, shard: u16, version: u64) {
        let (link, handover) = (Arc::clone(&self.link), self.handover);
        tokio::spawn(async move {
            drop(link.ask_node(&before, &Question::Release { shard, version }, handover).await);
        });
    }

    /// Makes known to all nodes what only the owner of a shard held.
    async fn keep(&self, inherited: Vec<Hold>) {
        for hold in inherited {
            if let Err(error) = self.shards.holds().keep(hold).await {
                tracing::warn!(%error, "a hold that an older build made is in force on this node alone");
            }
        }
    }
}

#[cfg(test)]
mod tests;
