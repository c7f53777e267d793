//! The `nats` engine: NATS JetStream keeps the messages, and lets only one writer at a time extend a shard.
//!
//! ```text
//! append ─▶ known heads ─▶ one publish under the shard's fence ─▶ ack ─▶ known heads
//!                              └ no ack ─▶ move the fence ─▶ read what is stored ─▶ a part: publish the rest
//! read ──▶ known heads ─▶ find the place ─▶ direct gets, from any replica, until the page is whole
//! ```
//!
//! A writer first takes the shard ([`Nats::take_over`]); from then on the server refuses what writers before it send. The decision and
//! its measurements are in `docs/decisions/0006-jetstream-log.md`, what JetStream promises in `docs/cluster.md`.

pub(crate) mod ack;
mod append;
pub(crate) mod bucket;
pub mod config;
mod connect;
mod credentials;
mod fence;
mod forming;
mod handover;
mod health;
mod known;
mod lineage;
mod link;
mod losses;
mod message;
pub mod metrics;
mod notes;
mod read;
mod redact;
mod remove;
mod retention;
mod room;
mod streams;
mod subject;
mod substitute;
mod trouble;
mod unanswered;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use tertulia_protocol::GroupName;
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::config::{Config, NotUrl, Storage};
pub use self::connect::ConnectError;
pub use self::credentials::Contradiction;
pub use self::fence::{TakeOver, TakeOverError};
pub(crate) use self::forming::FORMING;
pub use self::handover::Left;
use self::known::Shard;
use self::lineage::Lineage;
pub use self::lineage::Rewound;
use self::link::Link;
pub(crate) use self::link::{answered_apart, in_time, is_connected};
use self::metrics::{Metrics, Room};
pub use self::streams::StreamError;
use self::subject::Names;
use self::trouble::Trouble;
use super::metrics::Removed;
use super::notes::Notes;
use super::retention::Rules;
use super::{AppendError, Batch, Emptied, Head, Log, Page, PageLimit, Range, ReadError, Stats};

/// Heads that are read at a time for a list of groups.
const HEADS: usize = 128;

/// Why the log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The streams are not as they must be.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The bucket of notes cannot be made.
    #[error(
        "cannot make the bucket '{bucket}', in which moderators' holds are kept: {cause}. Check that the account may make streams of this storage, and nats.replicas against the number of servers"
    )]
    Bucket {
        /// Which.
        bucket: String,
        /// What NATS said.
        cause: String,
    },
}

/// The engine.
#[derive(Clone)]
pub struct Nats {
    core: Arc<Core>,
}

struct Core {
    link: Link,
    notes: notes::Bucket,
    node: String,
    instance: String,
    rules: Rules,
    shards: Box<[Shard]>,
    /// The groups of the shards that are ours, for lists.
    names: Mutex<BTreeMap<GroupName, u16>>,
    bytes: AtomicU64,
    /// Ends of groups of which JetStream is being asked to remove what is left: shard and position.
    clearing: Arc<Mutex<HashSet<(u16, u64)>>>,
    /// Told when something was removed, or JetStream holds less than before.
    room: Arc<Notify>,
    trouble: Arc<Trouble>,
    lineage: Lineage,
    lost: broadcast::Sender<u16>,
    closing: CancellationToken,
    tasks: TaskTracker,
    metrics: Metrics,
    removed: Removed,
}

impl fmt::Debug for Nats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nats").field("node", &self.core.node).finish_non_exhaustive()
    }
}

impl Core {
    fn shard(&self, shard: u16) -> &Shard {
        &self.shards[usize::from(shard) % self.shards.len()]
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<GroupName, u16>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn clearing(&self) -> MutexGuard<'_, HashSet<(u16, u64)>> {
        self.clearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_names(&self, shard: u16, new: &[GroupName]) {
        if !new.is_empty() {
            self.names().extend(new.iter().map(|name| (name.clone(), shard)));
        }
    }

    fn remove_names<'a>(&self, gone: impl IntoIterator<Item = &'a GroupName>) {
        let mut names = self.names();
        for name in gone {
            names.remove(name);
        }
    }

    fn is_closed(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Groups of our shards. Those of others their owners know.
    async fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(GroupName, Head)>, ReadError> {
        let mut found = Vec::new();
        let mut after = after.map(str::to_owned);
        while found.len() < limit {
            let wanted = limit - found.len();
            let names: Vec<(GroupName, u16)> = {
                let from = match after.as_deref() {
                    Some(after) if after >= prefix => Bound::Excluded(after),
                    _ => Bound::Included(prefix),
                };
                let names = self.names();
                let range = names.range::<str, _>((from, Bound::Unbounded));
                let range = range.take_while(|(name, _)| name.as_str().starts_with(prefix)).take(wanted);
                range.map(|(name, shard)| (name.clone(), *shard)).collect()
            };
            let is_end = names.len() < wanted;
            after = names.last().map(|(name, _)| name.as_str().to_owned());
            // Each that is not known is a question of its own: one after the other they would take as many times as long as NATS is far.
            let heads = stream::iter(names).map(|(name, shard)| async move {
                let head = self.head(shard, &name).await?;
                // One that is being deleted is in the list and nowhere else.
                Ok::<_, ReadError>(head.map(|head| (name, head)))
            });
            let mut heads = std::pin::pin!(heads.buffered(HEADS));
            while let Some(head) = heads.next().await {
                found.extend(head?);
            }
            if is_end {
                break;
            }
        }
        Ok(found)
    }
}

impl Nats {
    /// Connects, and makes or checks the streams. No shard is taken yet.
    ///
    /// # Errors
    /// NATS cannot be reached, or its streams are not as they must be.
    pub async fn open(config: &Config, rules: &Rules, shards: u16, node: &str) -> Result<Self, OpenError> {
        let trouble = Arc::new(Trouble::new(config.streams));
        let client = connect::connect(config, node, &trouble).await?;
        let names = Names::new(&config.prefix, config.streams);
        let link = Link { client, names, timeout: config.timeout, replicas: config.replicas };
        streams::ensure(&link, config, rules, shards).await?;
        let notes = notes::Bucket::open(&link, config).await?;
        let instance = link.client.new_inbox();
        let core = Arc::new(Core {
            link,
            notes,
            instance,
            node: node.to_owned(),
            rules: rules.clone(),
            shards: (0..shards.max(1)).map(|_| Shard::default()).collect(),
            names: Mutex::default(),
            bytes: AtomicU64::new(0),
            trouble,
            lineage: Lineage::default(),
            lost: broadcast::Sender::new(usize::from(shards.max(1))),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            metrics: Metrics::new(),
            removed: Removed::new(),
            clearing: Arc::default(),
            room: Arc::default(),
        });
        core.tasks.spawn(health::watch(Arc::clone(&core)));
        core.tasks.spawn(room::watch(Arc::clone(&core), config.storage, Room::new()));
        core.tasks.spawn(lineage::watch(Arc::clone(&core)));
        core.tasks.spawn(losses::tell(core.lost.subscribe(), core.closing.clone()));
        core.tasks.spawn(Arc::clone(&core).sweep());
        core.tasks.spawn(Arc::clone(&core).sweep_substitutes());
        Ok(Self { core })
    }

    /// Makes a shard ours, whoever has it: what they send from now on is refused.
    ///
    /// # Errors
    /// NATS does not answer or refuses; whether the shard is ours is then not known, and another attempt finds out.
    pub async fn take_over(&self, shard: u16) -> Result<TakeOver, TakeOverError> {
        self.take(shard, None, &mut || {}).await
    }

    /// Makes a shard ours whose writer let go of it and gave us what it knew. If it has had another writer since, this is
    /// [`Nats::take_over`].
    ///
    /// # Errors
    /// As [`Nats::take_over`].
    pub async fn take_over_from(&self, shard: u16, left: Left) -> Result<TakeOver, TakeOverError> {
        self.take(shard, Some(left), &mut || {}).await
    }

    /// As [`Nats::take_over_from`] if something was left, else [`Nats::take_over`]. `wait` is told as soon as that waits for more than what
    /// it does itself: for a stream that does not answer, or for an append whose end is not known.
    ///
    /// # Errors
    /// As [`Nats::take_over`].
    pub async fn take(
        &self,
        shard: u16,
        left: Option<Left>,
        wait: &mut (dyn FnMut() + Send),
    ) -> Result<TakeOver, TakeOverError> {
        match left {
            Some(left) => self.core.take_over_from(shard, left, wait).await,
            None => self.core.take_over(shard, wait).await,
        }
    }

    /// Whether the stream of a shard answers who takes one, as far as is known: else nobody can take the shard.
    #[must_use]
    pub fn can_take(&self, shard: u16) -> bool {
        self.core.trouble.may_answer_claim(self.core.link.names.stream_of(shard))
    }

    /// Stops extending a shard, once what is under way has ended. Answers what the next writer is to be given, if that is not too
    /// much and the shard was ours.
    pub async fn release(&self, shard: u16) -> Option<Left> {
        self.core.release(shard).await
    }

    /// Stops extending a shard at once. What is under way ends as it may: whoever takes the shard next, also we, finds it stored or not.
    pub fn let_go(&self, shard: u16) {
        self.core.forget(shard);
    }

    /// Whether a shard is ours as far as we know.
    #[must_use]
    pub fn holds(&self, shard: u16) -> bool {
        self.core.shard(shard).fence().is_some()
    }

    /// Tells the shards that other writers took, as soon as that is noticed.
    #[must_use]
    pub fn lost(&self) -> broadcast::Receiver<u16> {
        self.core.lost.subscribe()
    }

    /// Looks as well whether another stream is what it was, which is made by a start and by nothing else.
    pub fn watch_also(&self, stream: String) {
        self.core.tasks.spawn(lineage::watch_also(Arc::clone(&self.core), stream));
    }

    /// Returns when a stream turns out to be another one than it was, or to have less: then this node can do nothing any more until it
    /// is started again.
    pub async fn rewound(&self) -> Rewound {
        self.core.lineage.rewound().await.clone()
    }

    /// The connection, for what else goes over NATS.
    #[must_use]
    pub fn client(&self) -> async_nats::Client {
        self.core.link.client.clone()
    }
}

/// The last message of each subject of a stream that a filter takes, all from one replica, which may be behind: subject, place in
/// the stream, content.
///
/// # Errors
/// Why there is no answer.
pub(crate) async fn last_of(
    client: &async_nats::Client,
    timeout: std::time::Duration,
    stream: &str,
    filter: &str,
) -> Result<Vec<(String, u64, bytes::Bytes)>, String> {
    let get = link::Get { multi_last: vec![filter.to_owned()], ..link::Get::default() };
    let payload = serde_json::to_vec(&get).map_err(|error| error.to_string())?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let found = Link::get_from(client, timeout, subject, payload.into()).await.map_err(|error| error.0)?.messages;
    Ok(found.into_iter().map(|stored| (stored.subject, stored.position, stored.payload)).collect())
}

impl Log for Nats {
    fn append(&self, shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>> {
        let core = Arc::clone(&self.core);
        let work = async move { core.append(shard, &batches).await };
        Box::pin(remove::finish(Arc::clone(&self.core), work))
    }

    fn head(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        let (core, group) = (Arc::clone(&self.core), group.clone());
        Box::pin(async move { core.head(shard, &group).await })
    }

    fn head_now(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        let (core, group) = (Arc::clone(&self.core), group.clone());
        Box::pin(async move { Ok(core.known_to_leader(shard, &group).await?.and_then(|known| known.head)) })
    }

    fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        let (core, group) = (Arc::clone(&self.core), group.clone());
        Box::pin(async move { core.read(shard, &group, range, limit).await })
    }

    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>> {
        let core = Arc::clone(&self.core);
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        Box::pin(async move {
            let longest = 2 * core.link.timeout;
            let reading = core.groups(&prefix, after.as_deref(), limit);
            let late =
                |_| ReadError { reason: format!("NATS did not tell the heads of the groups within {longest:?}") };
            tokio::time::timeout(longest, reading).await.map_err(late)?
        })
    }

    fn lists(&self, shard: u16) -> Option<u64> {
        self.core.shard(shard).fence()
    }

    /// Those that were asked for since the shard was taken: of the others nothing is removed but by whoever asks.
    fn emptied(&self, after: Option<&str>, limit: usize) -> BoxFuture<'static, Result<Emptied, ReadError>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names: Vec<(GroupName, u16)> = {
            let names = self.core.names();
            let range = names.range::<str, _>((from, Bound::Unbounded)).take(limit);
            range.map(|(name, shard)| (name.clone(), *shard)).collect()
        };
        let next = names.last().filter(|_| names.len() >= limit).map(|(name, _)| name.as_str().to_owned());
        let is_emptied = |(name, shard): &(GroupName, u16)| {
            let state = self.core.shard(*shard).state();
            let head = state.groups.get(name).and_then(|known| known.head);
            head.is_some_and(|head| head.first > head.seq)
        };
        let emptied = names.into_iter().filter(is_emptied).map(|(name, _)| name).collect();
        Box::pin(std::future::ready(Ok((emptied, next))))
    }

    fn purge(&self, shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>> {
        let (core, group) = (Arc::clone(&self.core), group.clone());
        let work = async move {
            let removed = core.purge(shard, &group, through).await?;
            core.removed.moderator.increment(removed);
            Ok(removed)
        };
        Box::pin(remove::finish(Arc::clone(&self.core), work))
    }

    fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>> {
        let (core, group, seqs) = (Arc::clone(&self.core), group.clone(), seqs.to_vec());
        let work = async move { core.redact(shard, &group, epoch, &seqs).await };
        Box::pin(remove::finish(Arc::clone(&self.core), work))
    }

    fn delete(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>> {
        let (core, group) = (Arc::clone(&self.core), group.clone());
        Box::pin(remove::finish(Arc::clone(&self.core), async move { core.delete(shard, &group).await }))
    }

    fn stats(&self) -> Stats {
        Stats { groups: self.core.names().len() as u64, bytes: self.core.bytes.load(Ordering::Relaxed) }
    }

    fn trouble(&self) -> Option<String> {
        self.core.trouble.any()
    }

    fn outage(&self) -> Option<String> {
        self.core.trouble.everywhere()
    }

    fn notes(&self) -> Option<Arc<dyn Notes>> {
        Some(Arc::new(self.core.notes.clone()))
    }

    fn close(&self) -> BoxFuture<'static, ()> {
        let core = Arc::clone(&self.core);
        Box::pin(async move {
            core.closing.cancel();
            core.tasks.close();
            core.tasks.wait().await;
            core.trouble.close();
            if let Err(error) = core.link.client.drain().await {
                tracing::debug!(%error, "the connection to NATS is gone already");
            }
        })
    }
}
