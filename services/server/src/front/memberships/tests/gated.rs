//! A log that answers who reads when it is told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use tertulia_protocol::GroupName;
use tokio::sync::Semaphore;

use crate::log::memory::Memory;
use crate::log::{AppendError, Batch, Head, Log, Page, PageLimit, Range, ReadError, Stats};

#[derive(Debug)]
pub(super) struct Gated {
    memory: Arc<Memory>,
    /// Whoever reads takes one.
    answers: Arc<Semaphore>,
    begun: AtomicUsize,
    fails: Arc<AtomicBool>,
}

impl Gated {
    pub(super) fn new(memory: Memory) -> Arc<Self> {
        let (memory, answers) = (Arc::new(memory), Arc::new(Semaphore::new(0)));
        Arc::new(Self { memory, answers, begun: AtomicUsize::new(0), fails: Arc::default() })
    }

    /// How many readings have begun.
    pub(super) fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    pub(super) fn answer(&self, count: usize) {
        self.answers.add_permits(count);
    }

    /// Whether an answer is an error from now on.
    pub(super) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::Relaxed);
    }
}

impl Log for Gated {
    fn append(&self, shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>> {
        self.memory.append(shard, batches)
    }
    fn head(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        self.memory.head(shard, group)
    }
    fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        self.begun.fetch_add(1, Ordering::Relaxed);
        let (memory, answers, group) = (Arc::clone(&self.memory), Arc::clone(&self.answers), group.clone());
        let fails = Arc::clone(&self.fails);
        Box::pin(async move {
            answers.acquire().await.unwrap().forget();
            if fails.load(Ordering::Relaxed) {
                return Err(ReadError { reason: "it cannot be read now".to_owned() });
            }
            memory.read(shard, &group, range, limit).await
        })
    }
    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>> {
        self.memory.groups(prefix, after, limit)
    }
    fn purge(&self, shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.memory.purge(shard, group, through)
    }
    fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.memory.redact(shard, group, epoch, seqs)
    }
    fn delete(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>> {
        self.memory.delete(shard, group)
    }
    fn stats(&self) -> Stats {
        self.memory.stats()
    }
    fn trouble(&self) -> Option<String> {
        self.memory.trouble()
    }
    fn close(&self) -> BoxFuture<'static, ()> {
        self.memory.close()
    }
}
