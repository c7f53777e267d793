//! The way to the shards for everybody else.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tertulia_protocol::{GroupName, UserName};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::directory::Directory;
use super::map::{ShardMap, shard_of};
use super::metrics::Metrics;
use super::owner::Owner;
use super::request::{Admin, Request};
use super::{Bounds, Config, Events, GroupStatus, Page, PageLimit, Range, ReadError};
use crate::log::{Head, Log};

/// What all owners of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) bounds: Bounds,
    pub(super) log: Arc<dyn Log>,
    pub(super) directory: Directory,
    pub(super) events: Events,
    pub(super) metrics: Metrics,
}

/// A cheap handle to all shards.
#[derive(Debug, Clone)]
pub struct Shards {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    owners: Box<[mpsc::Sender<Request>]>,
    shared: Arc<Shared>,
    map: ShardMap,
    node: String,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// A request that could not be sent at once.
#[derive(Debug)]
pub enum NotSent {
    /// The owner's queue is full: [`Shards::send`] waits for room.
    Full(Request),
    /// The owners have stopped.
    Stopped,
}

/// A group in a list: what is in memory of it, and what the log knows.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The group.
    pub name: GroupName,
    /// If it is in memory.
    pub status: Option<Arc<GroupStatus>>,
    /// If the log knows it.
    pub stored: Option<Head>,
}

impl Listed {
    /// The newest message.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.status.as_ref().map(|status| status.head()).max(self.stored.map(|head| head.seq)).unwrap_or(0)
    }

    /// The oldest message that the log holds; one after the newest if it holds none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.stored.map_or(1, |head| head.first)
    }

    /// The life of the group.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.status.as_ref().map(|status| status.epoch()).or(self.stored.map(|head| head.epoch)).unwrap_or(0)
    }
}

impl Shards {
    /// Starts an owner for every shard, all on this node.
    #[must_use]
    pub fn start(config: Config, bounds: Bounds, log: Arc<dyn Log>, node: String) -> Self {
        let count = config.count.max(1);
        let queue = config.queue.max(1);
        let metrics = Metrics::new();
        metrics.shards.set(f64::from(count));
        super::metrics::limits(queue, bounds.groups);
        let directory = Directory::default();
        let shared = Arc::new(Shared { config, bounds, log, directory, events: Events::default(), metrics });
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let start_owner = |shard| {
            let (sender, requests) = mpsc::channel(queue);
            tasks.spawn(Owner::new(shard, Arc::clone(&shared)).run(requests, stop.clone()));
            sender
        };
        let owners = (0..count).map(start_owner).collect();
        let map = ShardMap::new(1, count, vec![node.clone()]);
        Self { inner: Arc::new(Inner { owners, shared, map, node, stop, tasks }) }
    }

    /// Finishes what was sent, then stops the owners. What is sent later fails with [`NotSent::Stopped`].
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Who owns what.
    #[must_use]
    pub fn map(&self) -> &ShardMap {
        &self.inner.map
    }

    /// The name of this node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// The shard of a group.
    #[must_use]
    pub fn shard_of(&self, group: &GroupName) -> u16 {
        shard_of(group, self.inner.map.shards())
    }

    /// The groups in memory.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.inner.shared.directory
    }

    /// Where happenings are told and watched.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.shared.events
    }

    /// Why the log cannot be written now; `None` while it can.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.inner.shared.log.trouble()
    }

    /// Sends a request if the owner's queue has room.
    ///
    /// # Errors
    /// Gives the request back if there is none.
    pub fn try_send(&self, shard: u16, mut request: Request) -> Result<(), NotSent> {
        request.queued();
        self.owner(shard).try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(request) => NotSent::Full(request),
            mpsc::error::TrySendError::Closed(_) => NotSent::Stopped,
        })
    }

    /// Sends a request when the owner's queue has room; answers whether the owner still takes any.
    #[must_use]
    pub fn send(&self, shard: u16, request: Request) -> BoxFuture<'static, bool> {
        let owner = self.owner(shard).clone();
        Box::pin(async move {
            let Ok(room) = owner.reserve().await else { return false };
            let mut request = request;
            request.queued();
            room.send(request);
            true
        })
    }

    fn owner(&self, shard: u16) -> &mpsc::Sender<Request> {
        &self.inner.owners[usize::from(shard) % self.inner.owners.len()]
    }

    /// Reads messages of a group; `None` if the log does not know it.
    #[must_use]
    pub fn read(
        &self,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        self.inner.shared.log.read(self.shard_of(group), group, range, limit)
    }

    /// The users of a group, each once, ordered by name, from the first after `after`, and whether there are more; `None` for a
    /// group that does not exist.
    pub async fn users(&self, group: GroupName, after: Option<String>, limit: usize) -> Option<(Vec<UserName>, bool)> {
        let (reply, answer) = oneshot::channel();
        let shard = self.shard_of(&group);
        self.send(shard, Request::Members { group, after, limit, reply }).await;
        answer.await.ok().flatten()
    }

    /// Groups whose name begins with `prefix` and comes after `after`, ordered by name, at most `limit`, and whether there are more.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<Listed>, bool), ReadError> {
        let stored = self.inner.shared.log.groups(prefix, after, limit + 1).await?;
        let loaded = self.directory().list(prefix, after, limit + 1);
        let mut merged = merge(loaded, stored);
        let more = merged.len() > limit;
        merged.truncate(limit);
        Ok((merged, more))
    }

    /// One group, be it in memory or only in the log; `None` if it does not exist.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn group(&self, name: &GroupName) -> Result<Option<Listed>, ReadError> {
        let stored = self.inner.shared.log.head(self.shard_of(name), name).await?;
        // After the log: a group that is not there yet, and by now is, was in memory all the time.
        let status = self.directory().get(name.as_str());
        let exists = stored.is_some() || status.is_some();
        Ok(exists.then(|| Listed { name: name.clone(), status, stored }))
    }

    /// Asks the owner of one shard; `None` if it has stopped.
    pub async fn ask<T>(&self, shard: u16, request: impl FnOnce(oneshot::Sender<T>) -> Admin) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(shard, Request::Admin(Box::new(request(reply)))).await;
        answer.await.ok()
    }

    /// Asks the owners of all shards, one after the other; `None` if one has stopped.
    pub async fn ask_all<T>(&self, mut request: impl FnMut(oneshot::Sender<T>) -> Admin) -> Option<Vec<T>> {
        let mut answers = Vec::new();
        for shard in 0..self.inner.map.shards() {
            answers.push(self.ask(shard, &mut request).await?);
        }
        Some(answers)
    }

    /// Brings the gauges up to date, before they are read.
    pub fn observe(&self) {
        let Shared { metrics, directory, log, .. } = &*self.inner.shared;
        let totals = directory.totals();
        metrics.groups.set(totals.groups as f64);
        metrics.members.set(totals.members as f64);
        metrics.lagging.set(totals.lagging as f64);
        metrics.members_max.set(totals.most_members as f64);
        metrics.dedup_ids.set(totals.ids as f64);
        let waiting = |owner: &mpsc::Sender<Request>| owner.max_capacity() - owner.capacity();
        metrics.queue.set(self.inner.owners.iter().map(waiting).sum::<usize>() as f64);
        metrics.queue_max.set(self.inner.owners.iter().map(waiting).max().unwrap_or(0) as f64);
        let stats = log.stats();
        metrics.log_groups.set(stats.groups as f64);
        metrics.log_bytes.set(stats.bytes as f64);
        metrics.log_writable.set(if log.trouble().is_none() { 1.0 } else { 0.0 });
    }
}

/// Both lists are ordered by name; a group may be in both.
fn merge(loaded: Vec<Arc<GroupStatus>>, stored: Vec<(GroupName, Head)>) -> Vec<Listed> {
    let mut merged = Vec::with_capacity(loaded.len() + stored.len());
    let mut stored = stored.into_iter().peekable();
    for status in loaded {
        while let Some((name, head)) = stored.next_if(|(name, _)| *name < status.name) {
            merged.push(Listed { name, status: None, stored: Some(head) });
        }
        let head = stored.next_if(|(name, _)| *name == status.name).map(|(_, head)| head);
        merged.push(Listed { name: status.name.clone(), status: Some(status), stored: head });
    }
    merged.extend(stored.map(|(name, head)| Listed { name, status: None, stored: Some(head) }));
    merged
}
