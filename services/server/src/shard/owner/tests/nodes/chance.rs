//! Three nodes and a log with fences, all in one process and on one clock that does not wait, to which chance does what faults do: nodes
//! that reach nobody for a while, shards that are taken from whoever has them, takeovers whose end is learned late. Whatever happens,
//! what a client posts has its order, once, in the place that it was told.

use std::collections::HashMap;

use tokio::sync::oneshot;
use tokio::time::{Instant as Moment, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::log::Retention;
use crate::random::seed_of_tests;

mod sky;

use sky::{Connection, Sky, View};

const NODES: usize = 3;
/// Clients of each node.
const CLIENTS: usize = 2;
/// How long things go wrong in one run, by the clock that does not wait.
const TROUBLE: Duration = Duration::from_secs(20);
/// How long a question goes unanswered before it is asked again, as with `nats.timeout`.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node reaches nobody before it knows.
const SILENCE: Duration = Duration::from_millis(2_200);

fn millis(range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(fastrand::u64(range))
}

struct Node {
    view: View,
    shards: Shards,
    cut: watch::Sender<bool>,
    /// It takes the shard once at a time.
    taking: tokio::sync::Mutex<()>,
}

impl Node {
    fn new(sky: &Arc<Sky>, node: usize) -> Self {
        let view = View { sky: Arc::clone(sky), node, claim: Arc::default() };
        let cut = watch::Sender::new(false);
        let (peers, cut_off) = (Arc::new(view.clone()), cut.subscribe());
        let (patience, tracer, instance) = (Duration::from_secs(10), Tracer::default(), format!("i{node}").into());
        let among = Among { peers, instance, patience, frame_bytes: FRAME_BYTES, cut_off, tracer };
        let config = Config { count: 1, append_posts: 3, ..Config::default() };
        let bounds = Bounds { members_per_group: 100, ..BOUNDS };
        let shards = Shards::start_among(config, bounds, Arc::new(view.clone()), format!("n{node}"), among);
        Self { view, shards, cut, taking: tokio::sync::Mutex::default() }
    }

    /// Takes the shard, from another node that is asked for it, if one is named; answers whether it owns it. `late`: what the claim
    /// brought is learned so late.
    async fn take(&self, from: Option<&Self>, late: Duration) -> bool {
        let _taking = self.taking.lock().await;
        if let Some(from) = from.filter(|from| from.shards.is_owned(0)) {
            let (done, released) = oneshot::channel();
            from.shards.order(0, Order::Release { done }).await;
            if timeout(TIMEOUT, released).await.is_ok_and(|released| released.is_ok()) {
                from.view.claim.store(0, Ordering::Relaxed);
            }
        }
        self.view.connection().trip().await;
        let reign = self.view.sky.fence.fetch_add(1, Ordering::Relaxed) + 1;
        self.view.connection().trip().await;
        sleep(late).await;
        self.view.claim.store(reign, Ordering::Relaxed);
        let (done, owned) = oneshot::channel();
        self.shards.order(0, Order::Own { reign, holds: Vec::new(), done }).await;
        let owns = owned.await.unwrap_or(false);
        if !owns {
            self.view.claim.store(0, Ordering::Relaxed);
        }
        owns
    }

    /// Reaches nobody for so long.
    async fn stand_apart(&self, time: Duration) {
        self.view.connection().held.send_replace(true);
        sleep(time.min(SILENCE)).await;
        self.cut.send_replace(time > SILENCE);
        sleep(time.saturating_sub(SILENCE)).await;
        self.view.connection().held.send_replace(false);
        sleep(millis(0..200)).await;
        self.cut.send_replace(false);
    }
}

/// A post of a client.
#[derive(Debug, Default)]
struct Said {
    tries: u32,
    seq: Option<u64>,
}

/// Posts without a pause until it is told to be quiet, and again what was refused, until all is answered.
async fn talk(node: Arc<Node>, session: Arc<Session>, mut quiet: watch::Receiver<bool>) -> Vec<Said> {
    let group = GroupName::new("G").unwrap();
    let mut said: Vec<Said> = Vec::new();
    let mut again: Vec<(Moment, usize)> = Vec::new();
    let mut waiting = 0;
    let send = async |number: usize| {
        let id = Some(PostId::new(&number.to_string()).unwrap());
        let message = format!("{} says {number}", session.user).into();
        let posts = vec![NewPost { group: group.clone(), message, id, trace: None, weight: None }];
        let posts = Posts { session: Arc::clone(&session), posts, received: Instant::now(), in_doubt: false };
        assert!(node.shards.send(0, Request::Post(posts)).await);
    };
    loop {
        let is_quiet = *quiet.borrow_and_update();
        if is_quiet && waiting == 0 && again.is_empty() {
            return said;
        }
        tokio::select! {
            events = poll_fn(|cx| session.inbox.poll_take(cx)) => for event in events {
                let Event::Posted(acks) = event else { continue };
                for ack in acks {
                    let number: usize = ack.id.unwrap().as_str().parse().unwrap();
                    waiting -= 1;
                    match ack.outcome {
                        Ok(stored) => {
                            assert!(said[number].seq.is_none_or(|seq| seq == stored.seq), "{number} is told two places");
                            said[number].seq = Some(stored.seq);
                        }
                        Err(Refusal::Unavailable { .. } | Refusal::Unanswered { .. }) => {
                            again.push((Moment::now() + Duration::from_millis(100), number));
                        }
                        Err(refusal) => panic!("{number}: {refusal}"),
                    }
                }
            },
            () = sleep(millis(1..80)) => {
                for (_, number) in again.extract_if(.., |(when, _)| *when <= Moment::now()).collect::<Vec<_>>() {
                    said[number].tries += 1;
                    waiting += 1;
                    send(number).await;
                }
                if !is_quiet {
                    said.push(Said { tries: 1, seq: None });
                    waiting += 1;
                    send(said.len() - 1).await;
                }
            }
        }
    }
}

async fn run(seed: u64) {
    fastrand::seed(seed);
    let sky = Arc::new(Sky {
        connections: (0..NODES).map(|_| Connection::new()).collect(),
        owners: Mutex::default(),
        followers: Mutex::default(),
        fence: AtomicU64::new(0),
        // Everything is kept, so that everything can be judged.
        memory: Memory::new(
            &LogConfig { retention: Retention { messages: 0, bytes: 0, age: Duration::ZERO }, ..LogConfig::default() },
            1,
        ),
    });
    let nodes: Vec<Arc<Node>> = (0..NODES).map(|node| Arc::new(Node::new(&sky, node))).collect();
    assert!(nodes[0].take(None, Duration::ZERO).await);
    let (hush, quiet) = watch::channel(false);
    let mut talkers = Vec::new();
    for number in 0..NODES * CLIENTS {
        let (node, session) = (&nodes[number % NODES], session(number as u64 + 1, &format!("user-{number}")));
        let (group, joining) = (GroupName::new("G").unwrap(), Arc::clone(&session));
        assert!(node.shards.send(0, Request::Join { group, session: joining, from: JoinFrom::Now }).await);
        assert!(matches!(next_event(&session.inbox).await, Event::Joined(_)), "nothing is wrong yet");
        talkers.push((session.user.clone(), tokio::spawn(talk(Arc::clone(node), session, quiet.clone()))));
    }
    let end = Moment::now() + TROUBLE;
    let mut troubles = tokio::task::JoinSet::new();
    while Moment::now() < end {
        sleep(millis(100..2_500)).await;
        let (node, other) = (Arc::clone(&nodes[fastrand::usize(..NODES)]), fastrand::usize(..NODES));
        let from = fastrand::bool().then(|| Arc::clone(&nodes[other]));
        match fastrand::u8(..3) {
            0 => drop(troubles.spawn(async move { node.stand_apart(millis(100..5_000)).await })),
            1 => {
                let late = if fastrand::u8(..3) == 0 { millis(0..3_000) } else { Duration::ZERO };
                drop(troubles.spawn(async move {
                    node.take(from.as_deref(), late).await;
                }));
            }
            // Two at once.
            _ => {
                let late = millis(0..30);
                let second = Arc::clone(&nodes[other]);
                troubles.spawn(async move {
                    node.take(from.as_deref(), late).await;
                });
                drop(troubles.spawn(async move {
                    second.take(None, Duration::ZERO).await;
                }));
            }
        }
    }
    while troubles.join_next().await.is_some() {}
    // Nothing is wrong any more. One that was late may still cost the shard its owner, who then takes it again, as nodes do.
    let keeper = Arc::clone(&nodes[fastrand::usize(..NODES)]);
    let keeping = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            if !keeper.shards.is_owned(0) {
                keeper.take(None, Duration::ZERO).await;
            }
            sleep(Duration::from_millis(400)).await;
        }
    }));
    hush.send_replace(true);
    let mut told = HashMap::new();
    for (user, talker) in talkers {
        let talker = timeout(Duration::from_secs(60), talker).await;
        told.insert(user.clone(), talker.unwrap_or_else(|_| panic!("seed {seed}: {user} is not answered")).unwrap());
    }
    drop(keeping);
    judge(seed, &sky, &told).await;
}

async fn judge(seed: u64, sky: &Sky, told: &HashMap<UserName, Vec<Said>>) {
    let group = GroupName::new("G").unwrap();
    let mut kept: HashMap<(UserName, usize), u64> = HashMap::new();
    let mut after = 0;
    loop {
        let limit = PageLimit { records: 1_000, bytes: 1 << 24 };
        let page = sky.memory.read(0, &group, Range::After(after), limit).await.unwrap().unwrap();
        let Some(last) = page.records.last() else { break };
        assert!(page.records[0].seq == after + 1, "seed {seed}: nothing was removed");
        after = last.seq;
        for record in page.records {
            let number: usize = record.id.unwrap().as_str().parse().unwrap();
            let twice = kept.insert((record.sender.clone(), number), record.seq);
            assert_eq!(twice, None, "seed {seed}: {} {number} is stored at {} as well", record.sender, record.seq);
        }
    }
    let mut count = 0;
    for (user, said) in told {
        let mut newest = 0;
        for (number, Said { tries, seq }) in said.iter().enumerate() {
            let place = kept.get(&(user.clone(), number)).copied();
            assert_eq!(*seq, place, "seed {seed}: {user} was told another place of {number}");
            count += 1;
            // What was tried again has the place of whichever try came first.
            if *tries == 1 {
                assert!(place > Some(newest), "seed {seed}: {user}'s {number} is at {place:?}, after {newest}");
                newest = place.unwrap_or(newest);
            }
        }
    }
    assert!(count > 300, "seed {seed}: only {count} posts");
}

/// `TERTULIA_CHANCE_RUNS` says how often, `TERTULIA_TEST_SEED` which is the first.
#[test]
fn whatever_happens_posts_keep_their_order_and_are_stored_once() {
    let runs = std::env::var("TERTULIA_CHANCE_RUNS").map_or(10, |runs| runs.parse().expect("TERTULIA_CHANCE_RUNS"));
    let first = seed_of_tests();
    for seed in (0..runs).map(|run| first.wrapping_add(run)) {
        println!("TERTULIA_TEST_SEED={seed}");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(run(seed));
    }
}
