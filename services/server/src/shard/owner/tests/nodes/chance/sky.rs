//! What nodes share: their connections, on which everything keeps its order, and a log with a fence.

use tokio::time::{sleep, timeout};

use super::*;

type Errand = Box<dyn FnOnce() + Send>;

/// The connection of a node: what goes over it keeps its order, takes its time, and stands still while it is held.
pub(super) struct Connection {
    out: mpsc::UnboundedSender<Errand>,
    into: mpsc::UnboundedSender<Errand>,
    pub(super) held: watch::Sender<bool>,
}

impl Connection {
    pub(super) fn new() -> Self {
        let held = watch::Sender::new(false);
        Self { out: Self::line(&held), into: Self::line(&held), held }
    }

    fn line(held: &watch::Sender<bool>) -> mpsc::UnboundedSender<Errand> {
        let (errands, mut queue) = mpsc::unbounded_channel::<Errand>();
        let mut held = held.subscribe();
        tokio::spawn(async move {
            while let Some(errand) = queue.recv().await {
                drop(held.wait_for(|held| !held).await);
                sleep(Duration::from_micros(fastrand::u64(50..1_500))).await;
                errand();
            }
        });
        errands
    }

    fn send(&self, errand: impl FnOnce() + Send + 'static) {
        drop(self.out.send(Box::new(errand)));
    }

    fn deliver(&self, errand: impl FnOnce() + Send + 'static) {
        drop(self.into.send(Box::new(errand)));
    }

    /// There and back.
    pub(super) async fn trip(&self) {
        let mut held = self.held.subscribe();
        for _ in 0..2 {
            drop(held.wait_for(|held| !held).await);
            sleep(Duration::from_micros(fastrand::u64(50..4_000))).await;
        }
    }
}

/// What the nodes share.
pub(super) struct Sky {
    pub(super) connections: Vec<Connection>,
    pub(super) owners: Mutex<Vec<(usize, mpsc::UnboundedSender<Asked>)>>,
    pub(super) followers: Mutex<Vec<(usize, mpsc::UnboundedSender<Bytes>)>>,
    /// The last claim on the fence.
    pub(super) fence: AtomicU64,
    pub(super) memory: Memory,
}

/// One node's view of it.
#[derive(Clone)]
pub(super) struct View {
    pub(super) sky: Arc<Sky>,
    pub(super) node: usize,
    /// Its own claim; 0: none.
    pub(super) claim: Arc<AtomicU64>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("node", &self.node).finish_non_exhaustive()
    }
}

impl View {
    pub(super) fn connection(&self) -> &Connection {
        &self.sky.connections[self.node]
    }
}

impl Peers for View {
    fn ask(&self, _: u16, frame: Bytes) -> BoxFuture<'static, Result<Bytes, Silence>> {
        let (sky, from) = (Arc::clone(&self.sky), self.node);
        let (reply, mut replied) = mpsc::unbounded_channel();
        let asking = Arc::clone(&sky);
        sky.connections[from].send(move || {
            let sky = asking;
            let mut owners = sky.owners.lock().unwrap();
            owners.retain(|(_, owner)| !owner.is_closed());
            if owners.is_empty() {
                sky.connections[from].deliver(move || drop(reply.send(Err(Silence::Nobody))));
                return;
            }
            for (node, owner) in owners.iter() {
                let (node, owner, frame, reply) = (*node, owner.clone(), frame.clone(), reply.clone());
                let answering = Arc::clone(&sky);
                sky.connections[node].deliver(move || {
                    let sky = answering;
                    let answer: AnswerTo = Box::new(move |bytes| {
                        if fastrand::u8(..) > 2 {
                            let back = Arc::clone(&sky);
                            sky.connections[node]
                                .send(move || back.connections[from].deliver(move || drop(reply.send(Ok(bytes)))));
                        }
                    });
                    drop(owner.send(Asked { frame, answer }));
                });
            }
        });
        Box::pin(async move {
            match timeout(TIMEOUT, replied.recv()).await {
                Ok(Some(reply)) => reply,
                Ok(None) | Err(_) => Err(Silence::NoAnswer("no answer".to_owned())),
            }
        })
    }

    fn asked(&self, _: u16) -> BoxFuture<'static, Result<BoxStream<'static, Asked>, Silence>> {
        let ((ask, asked), sky, node) = (mpsc::unbounded_channel(), Arc::clone(&self.sky), self.node);
        self.connection().send(move || sky.owners.lock().unwrap().push((node, ask)));
        Box::pin(async move { Ok(UnboundedReceiverStream::new(asked).boxed()) })
    }

    fn tell(&self, _: u16, frame: Bytes) {
        let sky = Arc::clone(&self.sky);
        self.connection().send(move || {
            let mut followers = sky.followers.lock().unwrap();
            followers.retain(|(_, follower)| !follower.is_closed());
            for (node, follower) in followers.iter() {
                let (follower, frame) = (follower.clone(), frame.clone());
                sky.connections[*node].deliver(move || drop(follower.send(frame)));
            }
        });
    }

    fn are_there(&self) -> bool {
        true
    }

    fn told(&self, _: u16) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, Silence>> {
        let ((tell, told), sky, node) = (mpsc::unbounded_channel(), Arc::clone(&self.sky), self.node);
        self.connection().send(move || sky.followers.lock().unwrap().push((node, tell)));
        Box::pin(async move { Ok(UnboundedReceiverStream::new(told).boxed()) })
    }

    fn groups(&self, _: &str, _: Option<&str>, _: usize) -> BoxFuture<'static, (Part, Option<Untold>)> {
        Box::pin(async { (Part::default(), None) })
    }
}

impl Log for View {
    fn append(&self, shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>> {
        let (this, claim) = (self.clone(), self.claim.load(Ordering::Relaxed));
        Box::pin(async move {
            // A held connection keeps it until it is known how it ended, as the engine does.
            this.connection().trip().await;
            let result = if claim != 0 && claim == this.sky.fence.load(Ordering::Relaxed) {
                this.sky.memory.append(shard, batches).await
            } else {
                let group = batches[0].group.clone();
                Err(AppendError::Fenced { group, expected: 0, found: 0 })
            };
            this.connection().trip().await;
            if result.is_err() {
                // Unless it has taken the shard again since.
                let _unless_taken = this.claim.compare_exchange(claim, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
            result
        })
    }
    fn head(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        let (this, group) = (self.clone(), group.clone());
        Box::pin(async move {
            let head = timeout(TIMEOUT, this.connection().trip()).await;
            head.map_err(|_| ReadError { reason: "no answer".into() })?;
            this.sky.memory.head(shard, &group).await
        })
    }
    fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        let (this, group) = (self.clone(), group.clone());
        Box::pin(async move {
            let read = timeout(TIMEOUT, this.connection().trip()).await;
            read.map_err(|_| ReadError { reason: "no answer".into() })?;
            this.sky.memory.read(shard, &group, range, limit).await
        })
    }
    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>> {
        self.sky.memory.groups(prefix, after, limit)
    }
    fn purge(&self, shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.sky.memory.purge(shard, group, through)
    }
    fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.sky.memory.redact(shard, group, epoch, seqs)
    }
    fn delete(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>> {
        self.sky.memory.delete(shard, group)
    }
    fn stats(&self) -> Stats {
        self.sky.memory.stats()
    }
    fn trouble(&self) -> Option<String> {
        None
    }
    fn close(&self) -> BoxFuture<'static, ()> {
        self.sky.memory.close()
    }
}
