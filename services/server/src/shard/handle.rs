//! The way to the shards for everybody else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tertulia_protocol::GroupName;
use tertulia_protocol::name::MAX_USER_NAME_BYTES;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::directory::Directory;
use super::ending::Ending;
use super::founders::Founders;
use super::listed::{Listed, place};
use super::map::{ShardMap, shard_of};
use super::metrics::Metrics;
use super::owner::{Owner, Seat};
use super::peers::{Order, Peers};
use super::request::{Admin, Request, Users};
use super::sweep::sweep;
use super::{Bounds, Config, Events, Holds, NoteError, Page, PageLimit, Range, ReadError, Refusal, Untold};
use crate::log::{BackupError, Copied, Emptied, Log, clock};
use crate::telemetry::trace::Tracer;

mod lists;

/// What all owners of a node share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: Config,
    pub(super) bounds: Bounds,
    pub(super) log: Arc<dyn Log>,
    pub(super) directory: Directory,
    pub(super) events: Events,
    pub(super) holds: Arc<Holds>,
    pub(super) founders: Mutex<Founders>,
    /// Groups that other nodes have.
    groups_elsewhere: AtomicU64,
    /// Goes on with the traces of posts that other nodes send.
    pub(super) tracer: Tracer,
    pub(super) metrics: Metrics,
    /// The shards that are this node's.
    owned: Box<[AtomicBool]>,
}

impl Shared {
    fn new(config: Config, bounds: Bounds, log: Arc<dyn Log>, tracer: Tracer, is_one_of_many: bool) -> Self {
        let owned = (0..config.count.max(1)).map(|_| AtomicBool::new(false)).collect();
        let (directory, events, metrics) = (Directory::default(), Events::default(), Metrics::new());
        let holds = Arc::new(Holds::new(log.notes(), bounds.holds, is_one_of_many));
        let (founders, groups_elsewhere) = (Mutex::default(), AtomicU64::new(0));
        Self { config, bounds, log, directory, events, holds, founders, groups_elsewhere, tracer, metrics, owned }
    }

    /// Groups that this node has: those that its log lists, and those to which nobody has posted.
    pub(super) fn groups_here(&self) -> u64 {
        self.log.stats().groups + self.directory.unstored() as u64
    }

    /// Groups of all nodes.
    pub(super) fn groups(&self) -> u64 {
        self.groups_here() + self.groups_elsewhere.load(Ordering::Relaxed)
    }

    pub(super) fn set_owned(&self, shard: u16, owned: bool) {
        if self.owned[usize::from(shard)].swap(owned, Ordering::AcqRel) != owned {
            self.metrics.shards.increment(if owned { 1.0 } else { -1.0 });
        }
    }

    fn is_owned(&self, shard: u16) -> bool {
        self.owned.get(usize::from(shard)).is_some_and(|owned| owned.load(Ordering::Acquire))
    }
}

/// The other nodes, and who this one is among them.
#[derive(Debug, Clone)]
pub struct Among {
    /// The way to them.
    pub peers: Arc<dyn Peers>,
    /// Differs with each start of this node.
    pub instance: Arc<str>,
    /// How long a request to another node may go unanswered.
    pub patience: Duration,
    /// Bytes that a message to another node may have.
    pub frame_bytes: usize,
    /// Goes on with the traces of posts that other nodes send.
    pub tracer: Tracer,
    /// Whether this node reaches nobody: then requests are refused at once.
    pub cut_off: watch::Receiver<bool>,
}

/// How long a node that stops waits for answers of others.
pub const LAST_WORDS: Duration = Duration::from_secs(5);

/// Orders that may wait for the task of one shard.
const ORDERS: usize = 64;

/// A cheap handle to all shards.
#[derive(Debug, Clone)]
pub struct Shards {
    inner: Arc<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    owners: Box<[mpsc::Sender<Request>]>,
    /// Empty where there are no other nodes.
    orders: Box<[mpsc::Sender<Order>]>,
    shared: Arc<Shared>,
    map: RwLock<Arc<ShardMap>>,
    count: u16,
    peers: Option<Arc<dyn Peers>>,
    node: String,
    ending: Ending,
    /// Ends the tasks when nobody can ask them for anything any more.
    _over: DropGuard,
    /// Cancelled when the task of a shard panics.
    broken: CancellationToken,
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

/// Tells when the task that has it panics.
struct Guard(CancellationToken);

impl Drop for Guard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

impl Inner {
    /// Orders the owners here to end what holds forbid, in a group or in all; answers whether each of them will.
    fn order_held(&self, group: Option<&GroupName>) -> bool {
        let shards = match group {
            Some(group) => {
                let shard = shard_of(group, self.count);
                shard..shard + 1
            }
            None => 0..self.count,
        };
        let mut owned = shards.filter(|shard| self.shared.is_owned(*shard));
        owned.all(|shard| match self.orders.get(usize::from(shard)) {
            // As with those that are lost: whoever orders something else must not wait for it.
            Some(orders) if orders.capacity() <= ORDERS / 2 => false,
            Some(orders) => !matches!(orders.try_send(Order::Held(group.cloned())), Err(TrySendError::Full(_))),
            // A node alone owned them when the hold was made.
            None => true,
        })
    }
}

impl Shards {
    /// Starts an owner for every shard, all on this node.
    #[must_use]
    pub fn start(config: Config, bounds: Bounds, log: Arc<dyn Log>, node: String) -> Self {
        let shards = Self::start_tasks(config, bounds, log, node, None);
        (0..shards.inner.count).for_each(|shard| shards.inner.shared.set_owned(shard, true));
        shards
    }

    /// Starts a task for every shard, of which none is owned here until that is ordered ([`Shards::order`]).
    #[must_use]
    pub fn start_among(config: Config, bounds: Bounds, log: Arc<dyn Log>, node: String, among: Among) -> Self {
        Self::start_tasks(config, bounds, log, node, Some(among))
    }

    fn start_tasks(config: Config, bounds: Bounds, log: Arc<dyn Log>, node: String, among: Option<Among>) -> Self {
        let count = config.count.max(1);
        let queue = config.queue.max(1);
        super::metrics::limits(count, queue, &bounds);
        let tracer = among.as_ref().map(|among| among.tracer.clone()).unwrap_or_default();
        let rest = config.group_idle;
        let shared = Arc::new(Shared::new(config, bounds, log, tracer, among.is_some()));
        let (ending, broken) = (Ending::default(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let name: Arc<str> = Arc::from(node.as_str());
        let mut orders = Vec::new();
        let start_owner = |shard| {
            let (sender, requests) = mpsc::channel(queue);
            let seat = among.as_ref().map(|among| {
                let (order, ordered) = mpsc::channel(ORDERS);
                orders.push(order);
                Box::new(Seat::new(among, Arc::clone(&name), ordered))
            });
            let owner = Owner::new(shard, Arc::clone(&shared), seat).run(requests, ending.clone());
            let guard = Guard(broken.clone());
            tasks.spawn(async move {
                let _guard = guard;
                owner.await;
            });
            sender
        };
        let owners = (0..count).map(start_owner).collect();
        let map = RwLock::new(Arc::new(ShardMap::new(1, count, vec![node.clone()])));
        let (orders, peers) = (orders.into(), among.map(|among| among.peers));
        let over = ending.over.clone().drop_guard();
        let inner =
            Arc::new(Inner { owners, orders, shared, map, count, peers, node, ending, _over: over, broken, tasks });
        inner.tasks.spawn(clock::watch(inner.ending.over.clone()));
        inner.tasks.spawn(sweep(Arc::downgrade(&inner), rest, inner.ending.over.clone()));
        Self { inner }
    }

    pub(super) fn of(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Groups of the log of which nothing is kept, among the next `limit` after `after`, and where to go on.
    pub(super) async fn emptied(&self, after: Option<&str>, limit: usize) -> Result<Emptied, ReadError> {
        self.inner.shared.log.emptied(after, limit).await
    }

    /// Groups that this node has.
    #[must_use]
    pub fn groups_here(&self) -> u64 {
        self.inner.shared.groups_here()
    }

    /// Says how many groups other nodes have: they count for the limit of groups.
    pub fn set_groups_elsewhere(&self, groups: u64) {
        self.inner.shared.groups_elsewhere.store(groups, Ordering::Relaxed);
    }

    /// Takes over what moderators hold, and learns of what they hold on other nodes from then on. To be done before anybody is let in.
    ///
    /// # Errors
    /// What is held cannot be read.
    pub async fn begin_holds(&self) -> Result<(), NoteError> {
        let holds = Arc::clone(self.holds());
        let following = holds.load().await?;
        // Nobody waits for shards that are not there any more.
        let shards = Arc::downgrade(&self.inner);
        let look = move |group: Option<&GroupName>| shards.upgrade().is_none_or(|inner| inner.order_held(group));
        drop(self.inner.tasks.spawn(holds.follow(following, look, self.inner.ending.over.clone())));
        Ok(())
    }

    /// What moderators hold.
    #[must_use]
    pub fn holds(&self) -> &Arc<Holds> {
        &self.inner.shared.holds
    }

    /// Orders the task of a shard something about its ownership. Where there are no other nodes nothing comes of it.
    pub async fn order(&self, shard: u16, order: Order) {
        if let Some(orders) = self.inner.orders.get(usize::from(shard)) {
            // A task that has stopped owns nothing.
            drop(orders.send(order).await);
        }
    }

    /// Tells the task of a shard that it is lost, unless much waits for it already: then it is told again later. So one that waits for an
    /// append without end does not keep all the other shards waiting.
    pub fn order_lost(&self, shard: u16) {
        if let Some(orders) = self.inner.orders.get(usize::from(shard)).filter(|orders| orders.capacity() > ORDERS / 2)
        {
            // A task that has stopped owns nothing.
            drop(orders.try_send(Order::Lost));
        }
    }

    /// Whether this node serves a shard as its owner.
    #[must_use]
    pub fn is_owned(&self, shard: u16) -> bool {
        self.inner.shared.is_owned(shard)
    }

    /// Says who owns what from now on.
    pub fn set_map(&self, map: ShardMap) {
        *self.inner.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(map);
    }

    /// Finishes what was sent. What other nodes do not answer by `until` is answered as what nobody answers; answers whether there was
    /// nothing of that. What is sent later fails with [`NotSent::Stopped`]. Other nodes are served until [`Shards::stop`].
    pub async fn finish(&self, until: Instant) -> bool {
        self.inner.ending.finish(until).await
    }

    /// Finishes what was sent, as [`Shards::finish`] does, then stops the owners.
    pub async fn stop(&self) {
        self.finish(Instant::now() + LAST_WORDS).await;
        self.inner.ending.over.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// Who owns what.
    #[must_use]
    pub fn map(&self) -> Arc<ShardMap> {
        Arc::clone(&self.inner.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The name of this node.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.inner.node
    }

    /// The shard of a group.
    #[must_use]
    pub fn shard_of(&self, group: &GroupName) -> u16 {
        shard_of(group, self.inner.count)
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

    /// Returns when the task of a shard has panicked: nobody serves the groups of that shard any more.
    pub async fn broken(&self) {
        self.inner.broken.cancelled().await;
    }

    /// Whether the task of a shard has panicked.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.inner.broken.is_cancelled()
    }

    /// Why clients are better off at another node, as far as the log goes: nothing at all can be written.
    #[must_use]
    pub fn outage(&self) -> Option<String> {
        self.inner.shared.log.outage()
    }

    /// Copies this node's log into a directory, while posts go on.
    ///
    /// # Errors
    /// Why there is no copy.
    pub async fn back_up(&self, to: PathBuf) -> Result<Copied, BackupError> {
        self.inner.shared.log.back_up(to).await
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
    ///
    /// # Errors
    /// The log cannot be read, the owner does not answer, or it has stopped.
    pub async fn users(&self, group: GroupName, after: Option<&str>, limit: usize) -> Users {
        let (reply, answer) = oneshot::channel();
        let after = after.map(|after| place(after, MAX_USER_NAME_BYTES).to_owned());
        let shard = self.shard_of(&group);
        if !self.send(shard, Request::Members { group, after, limit, reply }).await {
            return Err(Refusal::Draining);
        }
        answer.await.unwrap_or(Err(Refusal::Draining))
    }

    /// One group, be it in memory or only in the log; `None` if it does not exist.
    ///
    /// # Errors
    /// If the log cannot be read, or the node that has its shard does not answer.
    pub async fn group(&self, name: &GroupName) -> Result<Option<Listed>, Untold> {
        let shard = self.shard_of(name);
        if self.inner.peers.is_some() && !self.is_owned(shard) {
            let answer = self.ask(shard, |reply| Admin::Look { group: name.clone(), reply }).await;
            return Ok(answer.ok_or(Refusal::Draining)??);
        }
        let stored = self.inner.shared.log.head(self.shard_of(name), name).await?;
        // After the log: a group that is not there yet, and by now is, was in memory all the time.
        let status = self.directory().get(name.as_str());
        let exists = stored.is_some() || status.is_some();
        Ok(exists.then(|| Listed { name: name.clone(), status, stored, closed_for: None }))
    }

    /// Asks the owner of one shard; `None` if it has stopped.
    pub async fn ask<T>(&self, shard: u16, request: impl FnOnce(oneshot::Sender<T>) -> Admin) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(shard, Request::Admin(Box::new(request(reply)))).await;
        answer.await.ok()
    }

    /// Asks the owners of all shards, all at once: where another node owns some, each answer takes its time. `None` if one has stopped.
    pub async fn ask_all<T>(&self, mut request: impl FnMut(oneshot::Sender<T>) -> Admin) -> Option<Vec<T>> {
        let asked = (0..self.inner.count).map(|shard| {
            let (reply, answer) = oneshot::channel();
            let sent = self.send(shard, Request::Admin(Box::new(request(reply))));
            async {
                sent.await;
                answer.await.ok()
            }
        });
        join_all(asked.collect::<Vec<_>>()).await.into_iter().collect()
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
        self.holds().prune();
        metrics.holds.set(self.holds().len() as f64);
        let waiting = |owner: &mpsc::Sender<Request>| owner.max_capacity() - owner.capacity();
        metrics.queue.set(self.inner.owners.iter().map(waiting).sum::<usize>() as f64);
        metrics.queue_max.set(self.inner.owners.iter().map(waiting).max().unwrap_or(0) as f64);
        let stats = log.stats();
        metrics.log_groups.set(stats.groups as f64);
        metrics.known.set(self.groups_here() as f64);
        metrics.counted.set(self.inner.shared.groups() as f64);
        metrics.log_bytes.set(stats.bytes as f64);
        metrics.log_writable.set(if log.trouble().is_none() { 1.0 } else { 0.0 });
    }
}
