//! The other nodes: who is there, which shards are whose, and how shards reach each other. All of it over NATS.
//!
//! `bucket` is the list of nodes in JetStream, `enter` brings this node into it, `membership` keeps its entry there and watches the
//! others', `anew` brings it back when it was removed, `silence` notices when NATS answers nothing. `ownership` takes and gives shards as
//! the list changes, at the `pace` that is good for all; `link` carries what shards say to each other, `desk` answers what is asked of this
//! node, `events` carries what happens to those who watch.

mod anew;
mod bucket;
mod desk;
mod enter;
mod link;
mod membership;
mod ownership;
mod pace;
mod silence;

pub mod config;
pub mod events;
pub mod metrics;
pub mod node;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::bucket::Bucket;
use self::desk::Desk;
use self::events::{Gazette, Told};
use self::link::Link;
use self::membership::{Membership, View};
use self::ownership::Ownership;
use crate::log::config::Nats as NatsConfig;
use crate::log::nats::{Nats, Rewound};
use crate::shard::Shards;
use crate::shard::handle::Among;
use crate::shard::peers::Silence;

pub use self::config::Config;
pub use self::metrics::describe;
pub use self::node::Node;

#[cfg(test)]
mod permitted;

/// Answers a call of another node's admin API, of which this part knows no more than its name; `None`: it cannot.
pub type Relay = Arc<dyn Fn(String, Bytes) -> BoxFuture<'static, Option<Vec<u8>>> + Send + Sync>;

/// How long the first takeovers may take before the node serves what it has.
const FIRST: Duration = Duration::from_secs(15);
/// How often a node that stops looks whether others that stop have finished.
const PARTING: Duration = Duration::from_millis(50);

/// Why this node is not one of the cluster.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The list of nodes cannot be made, or asked.
    #[error(
        "cannot {what} the list of nodes (bucket '{bucket}'): {cause}. Check that the account may make streams of this storage, and nats.replicas against the number of servers"
    )]
    Bucket {
        /// What was tried.
        what: &'static str,
        /// Which.
        bucket: String,
        /// Why it failed.
        cause: String,
    },
    /// Another process has the name.
    #[error(
        "another node is there under the name '{name}' (it began at {since}): give each node a name of its own with --node-id"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// When the other one began, in milliseconds since 1970.
        since: u64,
    },
    /// Another process has taken the name, and goes on under it.
    #[error(
        "another node (it began at {since}) has taken the name '{name}' and goes on under it: this one ends, since members of both would \
         miss messages. Give each node a name of its own with --node-id"
    )]
    NameLost {
        /// The name.
        name: String,
        /// When the other one began, in milliseconds since 1970.
        since: u64,
    },
    /// What this node remembers of NATS is not there any more.
    #[error(transparent)]
    Rewound(#[from] Rewound),
    /// A node that is there cannot be understood, or cannot understand this one.
    #[error(
        "node '{node}' (version {version}) and this one do not understand each other: {why}. Upgrade one version at a time, or stop all nodes first"
    )]
    Incompatible {
        /// Which.
        node: String,
        /// What it runs.
        version: String,
        /// What does not fit.
        why: String,
    },
}

/// This node among the others; cheap to clone.
#[derive(Debug, Clone)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: Config,
    nats: Nats,
    membership: Arc<Membership>,
    link: Arc<Link>,
    gazette: Gazette,
    instance: Arc<str>,
    view: watch::Receiver<Arc<View>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Cluster {
    /// Enters this node into the list, under `name`. It owns nothing yet, and others do not wait for it: that begins with
    /// [`Cluster::start`].
    ///
    /// # Errors
    /// The list cannot be made or asked, or the name is another node's.
    pub async fn join(config: &Config, nats: &Nats, settings: &NatsConfig, name: &str) -> Result<Self, Error> {
        let client = nats.client();
        let instance: Arc<str> = client.new_inbox().rsplit('.').next().unwrap_or_default().into();
        let bucket = Bucket::open(client.clone(), settings, config).await?;
        nats.watch_also(format!("KV_{}", bucket.name()));
        let membership = Arc::new(Membership::new(config.clone(), bucket, name, &instance));
        membership.enter().await?;
        let view = membership.view();
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let gazette = Gazette::new(client.clone(), &settings.prefix, name, Arc::clone(&instance), view.clone());
        let link = Arc::new(Link::new(client, settings, view.clone(), name, &tasks, stop.clone()));
        let (config, nats) = (config.clone(), nats.clone());
        let inner = Inner { config, nats, membership, link, gazette, instance, view, stop, tasks };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The way of this node's shards to the others.
    #[must_use]
    pub fn among(&self) -> Among {
        let Inner { link, instance, config, membership, .. } = &*self.inner;
        let (peers, instance, cut_off) = (Arc::clone(link) as _, Arc::clone(instance), membership.cut_off());
        let (patience, frame_bytes) = (config.patience, link.frame_bytes());
        Among { peers, instance, patience, frame_bytes, cut_off, tracer: Default::default() }
    }

    /// The first of the ids of this node's connections, which no other node gives.
    #[must_use]
    pub fn first_connection(&self) -> u64 {
        self.inner.membership.number() << 40 | 1
    }

    /// The nodes that are there now.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        self.inner.view.borrow().nodes.clone()
    }

    /// Why this node cannot keep its place in the list; `None` while it can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.inner.membership.trouble()
    }

    /// Returns when this node cannot be one of the nodes any more until it is started again, with why.
    pub async fn ended(&self) -> Error {
        let Inner { nats, membership, .. } = &*self.inner;
        tokio::select! {
            rewound = nats.rewound() => rewound.into(),
            lost = membership.lost_name.wait() => lost.clone(),
        }
    }

    /// Makes the same call on all other nodes. Answers what each said; `None` for one that did not. `asks`: nothing is to be done there; then
    /// one that stops, and where nobody listens any more, has nothing to say.
    pub async fn relay(&self, call: &str, payload: Vec<u8>, asks: bool) -> Vec<(String, Option<Bytes>)> {
        let link = &self.inner.link;
        let asked = link.others().into_iter().map(|name| {
            let payload = payload.clone();
            async move {
                let answer = link.call(&name, call, &payload).await;
                match &answer {
                    Err(Silence::Nobody) if asks && !link.stays(&name) => return None,
                    Err(error) => tracing::warn!(node = name, call, %error, "another node did not answer"),
                    Ok(_) => {}
                }
                Some((name, answer.ok()))
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// Answers calls that other nodes relay, until the end.
    pub async fn answer_calls(&self, relay: Relay) {
        let Inner { link, stop, tasks, .. } = &*self.inner;
        match link.calls().await {
            Ok(calls) => {
                drop(tasks.spawn(desk::answer_calls(Arc::clone(link), calls, relay, stop.clone(), tasks.clone())))
            }
            Err(error) => tracing::error!(%error, "other nodes cannot make calls of the admin API here"),
        }
    }

    /// What happens on the other nodes from now on.
    pub async fn watch(&self) -> broadcast::Receiver<Arc<Told>> {
        self.inner.gazette.read().await
    }

    /// Begins to own shards; returns when those are owned that are this node's now, or that takes too long.
    pub async fn start(&self, shards: &Shards) {
        let Inner { config, nats, membership, link, gazette, stop, tasks, .. } = &*self.inner;
        tasks.spawn(gazette.clone().publish(shards.events().clone(), stop.clone()));
        tasks.spawn(gazette.clone().listen(stop.clone()));
        tasks.spawn(count_groups(Arc::clone(membership), shards.clone(), config.renew, stop.clone()));
        let desk = Desk::new(Arc::clone(link), nats.clone(), shards.clone(), Arc::clone(membership));
        let asked = desk.asked();
        let listening = desk.listen().await;
        tasks.spawn(desk.serve(listening, stop.clone(), tasks.clone()));
        tasks.spawn(Arc::clone(membership).keep(stop.clone()));
        let (link, membership) = (Arc::clone(link), Arc::clone(membership));
        let ownership = Ownership::new(config.clone(), nats.clone(), shards.clone(), link, membership, asked);
        let mut settled = ownership.settled();
        tasks.spawn(ownership.run(stop.clone(), tasks.clone()));
        if tokio::time::timeout(FIRST, settled.wait_for(|settled| *settled)).await.is_err() {
            tracing::warn!("not all shards of this node are its own yet: going on");
        }
    }

    /// Gives all shards to the other nodes; returns when they have them, or when they take none for a while, and whether there are any.
    pub async fn hand_over(&self, shards: &Shards) -> bool {
        let Inner { config, membership, view, .. } = &*self.inner;
        membership.leave();
        let mut view = view.clone();
        let count = || (0..shards.map().shards()).filter(|shard| shards.is_owned(*shard)).count();
        let (mut left, mut since) = (count(), Instant::now());
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        loop {
            ticks.tick().await;
            if !view.borrow_and_update().has_successor() {
                return false;
            }
            let owned = count();
            if owned < left {
                (left, since) = (owned, Instant::now());
            }
            if owned == 0 {
                return true;
            }
            if since.elapsed() > config.handover * 3 {
                tracing::warn!(shards = owned, "not all shards could be handed over: others will take them");
                return true;
            }
        }
    }

    /// Says that this node asks the others for nothing any more; returns when that is so of all of them, if all are about to stop. What it
    /// has is not waited for by others that stay: they take it. Nor is there anybody to wait for while it reaches nobody.
    pub async fn part(&self) {
        let Inner { membership, view, .. } = &*self.inner;
        if view.borrow().has_successor() {
            return;
        }
        membership.finish();
        let (mut view, mut cut_off) = (view.clone(), membership.cut_off());
        let name = membership.me().node.name.clone();
        let all_finished = async {
            let mut ticks = tokio::time::interval(PARTING);
            while view.borrow_and_update().is_awaited(&name) {
                ticks.tick().await;
                membership.hasten();
            }
        };
        tokio::select! {
            () = all_finished => {}
            _ = cut_off.wait_for(|cut_off| *cut_off) => {}
        }
    }

    /// Leaves the list.
    pub async fn end(&self) {
        let Inner { membership, stop, tasks, .. } = &*self.inner;
        stop.cancel();
        tasks.close();
        tasks.wait().await;
        membership.remove().await;
    }
}

/// Tells the others how many groups this node has, and its shards how many those have.
async fn count_groups(membership: Arc<Membership>, shards: Shards, every: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(every);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        membership.set_groups(shards.groups_here());
        shards.set_groups_elsewhere(membership.groups_elsewhere());
    }
}
