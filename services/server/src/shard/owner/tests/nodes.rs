//! Several nodes in one process: their shards reach each other through memory, and what goes over can be lost, doubled or changed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_stream::wrappers::{BroadcastStream, UnboundedReceiverStream};

use super::*;
use crate::shard::events::What;
use crate::shard::handle::Among;
use crate::shard::peers::{AnswerTo, Asked, Order, Peers, Silence};
use crate::shard::{Delivery, Hold, wire};
use crate::shard::{Part, Untold};
use crate::telemetry::trace::Tracer;

mod ahead;
mod chance;
mod clocks;
mod ending;
mod far;
mod held;
mod lists;
mod lives;
mod missed;
mod overtaken;
mod redacted;
mod rolls;
mod silence;
mod sizes;
mod unread;

/// What connects the nodes of a test: one shard.
#[derive(Debug)]
struct Air {
    /// Whoever listens to what is asked, those that came last at the end.
    owners: Mutex<Vec<mpsc::UnboundedSender<Asked>>>,
    /// Another one in its place ends what was heard.
    live: Mutex<broadcast::Sender<Bytes>>,
    /// So many times nobody can begin to hear what the owner tells.
    unheard: AtomicU64,
    /// Answers that are lost; the question is carried out.
    lose_answers: AtomicU64,
    /// What the owner tells is lost.
    deaf: AtomicBool,
    /// What was asked.
    frames: Mutex<VecDeque<Value>>,
    /// Changes what is asked.
    skew: AtomicBool,
    /// Nothing that is asked arrives, and nobody learns that.
    held: AtomicBool,
    /// How often somebody asked while nobody had the shard.
    in_vain: AtomicU64,
    /// What is told when somebody asks for the groups of others, one after the other.
    lists: Mutex<VecDeque<(Part, Option<Untold>)>>,
    /// Bytes that a frame, or an answer, may have. What is larger does not get through.
    frame_bytes: usize,
}

/// As NATS has it unless told otherwise.
const FRAME_BYTES: usize = 1024 * 1024;

/// So often, and far more often than a node that waits in between, somebody may ask while nobody has the shard.
const IN_VAIN: u64 = 1_000;

#[derive(Debug)]
struct Wires(Arc<Air>);

impl Peers for Wires {
    fn ask(&self, _: u16, frame: Bytes) -> BoxFuture<'static, Result<Bytes, Silence>> {
        let air = Arc::clone(&self.0);
        Box::pin(async move {
            if frame.len() > air.frame_bytes {
                return Err(Silence::NoAnswer(format!("{} bytes are too many", frame.len())));
            }
            if air.owners.lock().unwrap().is_empty() {
                let asked = air.in_vain.fetch_add(1, Ordering::Relaxed);
                // Who asks without a pause is not answered: else the clock of the test would stand still.
                return if asked < IN_VAIN { Err(Silence::Nobody) } else { std::future::pending().await };
            }
            let mut told: Value = serde_json::from_slice(&frame).unwrap();
            air.frames.lock().unwrap().push_back(told.clone());
            if air.skew.load(Ordering::Relaxed) {
                // As a newer version may write it: with more than this one knows, and in need of no more.
                told["version"] = json!(9);
                told["more"] = json!({"than": "is known"});
                for item in told["content"]["items"].as_array_mut().unwrap() {
                    item["colour"] = json!("green");
                }
            }
            let frame = Bytes::from(serde_json::to_vec(&told).unwrap());
            if air.held.load(Ordering::Relaxed) {
                return std::future::pending().await;
            }
            // All who listen are asked, and the first answer is taken.
            let (answer, mut answered) = mpsc::unbounded_channel();
            let ask = |owner: &mut mpsc::UnboundedSender<Asked>| {
                let (answer, most) = (answer.clone(), air.frame_bytes);
                let to: AnswerTo = Box::new(move |bytes| {
                    if bytes.len() <= most {
                        drop(answer.send(bytes));
                    }
                });
                owner.send(Asked { frame: frame.clone(), answer: to }).is_ok()
            };
            let nobody = {
                let mut owners = air.owners.lock().unwrap();
                owners.retain_mut(ask);
                owners.is_empty()
            };
            if nobody {
                return Err(Silence::Nobody);
            }
            drop(answer);
            let answer = answered.recv().await.ok_or_else(|| Silence::NoAnswer("dropped".to_owned()))?;
            let left = air.lose_answers.load(Ordering::Relaxed);
            if left > 0 {
                air.lose_answers.store(left - 1, Ordering::Relaxed);
                return Err(Silence::NoAnswer("lost".to_owned()));
            }
            Ok(answer)
        })
    }

    fn asked(&self, _: u16) -> BoxFuture<'static, Result<BoxStream<'static, Asked>, Silence>> {
        let (ask, asked) = mpsc::unbounded_channel();
        self.0.owners.lock().unwrap().push(ask);
        Box::pin(async move { Ok(UnboundedReceiverStream::new(asked).boxed()) })
    }

    fn tell(&self, _: u16, frame: Bytes) {
        if !self.0.deaf.load(Ordering::Relaxed) && frame.len() <= self.0.frame_bytes {
            drop(self.0.live.lock().unwrap().send(frame));
        }
    }

    fn are_there(&self) -> bool {
        true
    }

    fn told(&self, _: u16) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, Silence>> {
        let left = self.0.unheard.load(Ordering::Relaxed);
        if left > 0 {
            self.0.unheard.store(left - 1, Ordering::Relaxed);
            return Box::pin(async { Err(Silence::NoAnswer("not now".to_owned())) });
        }
        let live = BroadcastStream::new(self.0.live.lock().unwrap().subscribe());
        // What is too much is lost, as it is on the way between real nodes.
        let told = live.filter_map(async |told| told.ok());
        Box::pin(async move { Ok(told.boxed()) })
    }

    fn groups(&self, _: &str, _: Option<&str>, _: usize) -> BoxFuture<'static, (Part, Option<Untold>)> {
        let told = self.0.lists.lock().unwrap().pop_front().unwrap_or_default();
        Box::pin(std::future::ready(told))
    }
}

/// How long a request of the nodes of a test may go unanswered.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts a node, which has a name and a name for this start of it.
fn start(
    air: &Arc<Air>,
    log: &Shared,
    bounds: Bounds,
    (name, start): (&str, &str),
    cut_off: watch::Receiver<bool>,
) -> World {
    let (peers, frame_bytes) = (Arc::new(Wires(Arc::clone(air))), air.frame_bytes);
    let (patience, tracer) = (PATIENCE, Tracer::default());
    let among = Among { peers, instance: start.into(), patience, frame_bytes, cut_off, tracer };
    // So few that frames take several appends.
    let config = Config { count: 1, append_posts: 4, ..Config::default() };
    let shards = Shards::start_among(config, bounds, Arc::new(log.clone()), name.to_owned(), among);
    World { shards, log: log.clone(), group: GroupName::new("G").unwrap() }
}

/// Two nodes; the first owns the shard.
struct Pair {
    air: Arc<Air>,
    one: World,
    two: World,
    /// Cuts the first node off, and the second.
    cut: [watch::Sender<bool>; 2],
    reign: u64,
}

impl Pair {
    async fn new() -> Self {
        Self::within(BOUNDS, FRAME_BYTES).await
    }

    async fn within(bounds: Bounds, frame_bytes: usize) -> Self {
        let air = Arc::new(Air {
            owners: Mutex::default(),
            live: Mutex::new(broadcast::Sender::new(64)),
            unheard: 0.into(),
            lose_answers: 0.into(),
            deaf: false.into(),
            frames: Mutex::default(),
            skew: false.into(),
            held: false.into(),
            in_vain: 0.into(),
            lists: Mutex::default(),
            frame_bytes,
        });
        let log = Shared(Arc::new(Moody::new()));
        let cut = [watch::Sender::new(false), watch::Sender::new(false)];
        let start = |name, cut: &watch::Sender<bool>| start(&air, &log, bounds, (name, name), cut.subscribe());
        let (one, two) = (start("one", &cut[0]), start("two", &cut[1]));
        let pair = Self { air: Arc::clone(&air), one, two, cut, reign: 7 };
        pair.own(&pair.one, 7, Vec::new()).await;
        pair
    }

    async fn own(&self, world: &World, reign: u64, holds: Vec<Hold>) {
        assert!(self.take(world, reign, holds).await);
    }

    /// As [`Pair::own`], for a node that may not get it.
    async fn take(&self, world: &World, reign: u64, holds: Vec<Hold>) -> bool {
        let (done, owned) = tokio::sync::oneshot::channel();
        world.shards.order(0, Order::Own { reign, holds, done }).await;
        owned.await.unwrap()
    }

    /// The shard goes from the first node to the second.
    async fn hand_over(&self) {
        let held = self.release(&self.one).await;
        self.own(&self.two, self.reign + 1, held).await;
    }

    /// A node gives the shard up; answers what moderators hold.
    async fn release(&self, world: &World) -> Vec<Hold> {
        let (done, released) = tokio::sync::oneshot::channel();
        world.shards.order(0, Order::Release { done }).await;
        released.await.unwrap()
    }

    /// A moderator removes a user from the group, at the owner; answers whose connections were members.
    async fn kick(&self, user: &UserName, hold: Duration) -> Vec<ConnectionId> {
        let (group, target) = (Some(self.one.group.clone()), Target::User(user.clone()));
        let hold = hold.into();
        let ask = |reply| Admin::Kick { group, target, reason: None, hold, reply };
        self.one.shards.ask(0, ask).await.unwrap().unwrap().unwrap()
    }

    /// Waits until something is told that the test looks for.
    async fn told(&self, mut is_it: impl FnMut(&Value) -> bool) {
        let mut live = self.air.live.lock().unwrap().subscribe();
        loop {
            let told: Value = serde_json::from_slice(&live.recv().await.unwrap()).unwrap();
            if is_it(&told["content"]) {
                return;
            }
        }
    }

    /// The number of what is told next.
    async fn told_number(&self) -> u64 {
        let mut number = 0;
        self.told(|content| {
            number = content["number"].as_u64().unwrap();
            true
        })
        .await;
        number
    }

    fn asked(&self, what: &str) -> usize {
        let frames = self.air.frames.lock().unwrap();
        let items = frames.iter().flat_map(|frame| frame["content"]["items"].as_array().cloned().unwrap_or_default());
        items.filter(|item| item["do"] == what).count()
    }
}

/// The list has these nodes, each with its start.
fn nodes(there: &[(&str, &str)]) -> Order {
    Order::Nodes(Arc::new(there.iter().map(|(name, start)| ((*name).to_owned(), (*start).to_owned())).collect()))
}

/// How many the owner takes for members.
fn members(owner: &World) -> u64 {
    owner.shards.directory().get("G").map_or(0, |status| status.members())
}

/// Waits until the owner takes so many for members.
async fn until_members(owner: &World, count: u64, why: &str) {
    let counted = async {
        while members(owner) != count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap_or_else(|_| panic!("{why}: there are {}", members(owner)));
}

/// Waits until the owner knows that the log has all up to `seq`.
async fn stored(owner: &World, seq: u64) {
    while owner.shards.directory().get("G").is_none_or(|status| status.head() < seq) {
        tokio::task::yield_now().await;
    }
}

/// What a member that began at `joined` is delivered, in this order, up to `last`.
async fn delivered(joined: &mut Joined, last: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.last().is_none_or(|seq| *seq < last) {
        let delivery: Arc<Delivery> = joined.subscription.recv().await.unwrap();
        seen.extend(delivery.batch.records.iter().map(|record| record.seq));
    }
    seen
}

#[tokio::test]
async fn a_member_of_another_node_posts_and_is_delivered_what_anybody_posts() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let mut here = pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    assert_eq!((there.members, there.epoch), (2, here.epoch));
    assert_eq!(pair.two.post(&bob, &["a", "", "b", "a"]).await, [Ok(1), Ok(2), Ok(3), Ok(1)]);
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(4)]);
    assert_eq!(delivered(&mut here, 4).await, [1, 2, 3, 4]);
    assert_eq!(delivered(&mut there, 4).await, [1, 2, 3, 4]);
    let users = pair.two.shards.users(pair.two.group.clone(), None, 10).await.unwrap().unwrap().0;
    assert_eq!(users.iter().map(UserName::as_str).collect::<Vec<_>>(), ["ada", "bob"]);
}

#[tokio::test]
async fn a_frame_whose_answer_is_lost_is_carried_out_once() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    pair.air.lose_answers.store(3, Ordering::Relaxed);
    assert_eq!(pair.two.post(&bob, &["", "", ""]).await, [Ok(1), Ok(2), Ok(3)]);
    assert!(pair.asked("post") >= 9, "the frame was sent again");
    assert_eq!(pair.two.post(&bob, &[""]).await, [Ok(4)]);
}

#[tokio::test(start_paused = true)]
async fn who_learns_late_that_it_took_the_shard_does_not_own_it() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &[""]).await, [Ok(1)]);
    // A node that stood still has taken the shard before the owner of now did.
    assert!(!pair.take(&pair.two, pair.reign - 1, Vec::new()).await && !pair.two.shards.is_owned(0));
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(2)]);
    let begun = tokio::time::Instant::now();
    assert_eq!(pair.two.post(&bob, &["b", "c"]).await, [Ok(3), Ok(4)]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_long_for_an_append_that_is_not_answered() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.one.mood(SLOW);
    let begun = tokio::time::Instant::now();
    pair.one.send_posts(&ada, &["b"]).await;
    assert!(matches!(answers(&ada, 1).await[..], [Err(Refusal::Unanswered { .. })]));
    assert_eq!(begun.elapsed(), PATIENCE);
    for (world, session) in [(&pair.one, &ada), (&pair.two, &bob)] {
        assert!(matches!(world.post(session, &["c"]).await[..], [Err(Refusal::Unavailable { .. })]));
    }
    assert_eq!(begun.elapsed(), PATIENCE, "at once");
    // Nor does anybody when the shard is lost to it meanwhile.
    pair.one.shards.order(0, Order::Lost).await;
    for (world, session) in [(&pair.one, &ada), (&pair.two, &bob)] {
        assert!(matches!(world.post(session, &["c"]).await[..], [Err(Refusal::Unavailable { .. })]));
    }
    assert_eq!(begun.elapsed(), PATIENCE, "at once");
    // It ends after all, and who asks again learns what became of it.
    pair.one.mood(WELL);
    pair.one.log.0.gate.add_permits(1);
    while pair.one.shards.is_owned(0) {
        tokio::task::yield_now().await;
    }
    pair.own(&pair.one, 8, Vec::new()).await;
    stored(&pair.one, 2).await;
    assert_eq!(pair.one.post(&ada, &["b", "c"]).await, [Ok(2), Ok(3)]);
    assert_eq!(pair.two.post(&bob, &["d"]).await, [Ok(4)]);
}

#[tokio::test(start_paused = true)]
async fn who_gave_a_shard_away_asks_the_new_owner_as_soon_as_it_is_there() {
    let pair = Pair::new().await;
    let ada = session(1, "ada");
    pair.one.join(&ada).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    let (done, released) = tokio::sync::oneshot::channel();
    // What it asks before there is a new owner gets lost.
    pair.air.held.store(true, Ordering::Relaxed);
    pair.one.shards.order(0, Order::Release { done }).await;
    let held = released.await.unwrap();
    pair.one.send_posts(&ada, &["b"]).await;
    while pair.air.frames.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    pair.air.held.store(false, Ordering::Relaxed);
    let begun = tokio::time::Instant::now();
    pair.own(&pair.two, pair.reign + 1, held).await;
    assert_eq!(answers(&ada, 1).await, [Ok(2)]);
    assert!(begun.elapsed() < Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_lost_the_shard_unawares_leads_nobody_astray() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);
    // It is quicker than the owner.
    let (ask, mut asked) = mpsc::unbounded_channel::<Asked>();
    pair.air.owners.lock().unwrap().insert(0, ask);
    let former = pair.reign - 2;
    let stale = tokio::spawn(async move {
        let Asked { answer, .. } = asked.recv().await.unwrap();
        answer(wire::encode(&wire::Reply::Reign { reign: former }));
    });
    assert_eq!(pair.two.post(&bob, &["b"]).await, [Ok(2)]);
    stale.await.unwrap();
    let frames = pair.air.frames.lock().unwrap().clone();
    assert!(frames.iter().all(|frame| frame["content"]["reign"] != former), "{frames:?}");

    // It is asked by somebody who knows that it is not the owner any more.
    let frame = json!({"version": 1, "needs": 1, "content": {
        "node": "new", "instance": "x", "number": 1, "reign": pair.reign + 1, "items": []}});
    let (answer, answered) = tokio::sync::oneshot::channel();
    let to: AnswerTo = Box::new(|bytes| drop(answer.send(bytes)));
    let owner = pair.air.owners.lock().unwrap().last().cloned().unwrap();
    owner.send(Asked { frame: serde_json::to_vec(&frame).unwrap().into(), answer: to }).unwrap();
    assert!(answered.await.is_err(), "it leaves the answer to the owner");
    assert!(!pair.one.shards.is_owned(0), "it does not go on to think that the shard is its own");
}

#[tokio::test]
async fn a_post_whose_answer_is_lost_with_its_owner_is_stored_once() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    // The owner stores it, and nobody hears of it before the shard has moved to the node of the poster.
    pair.air.lose_answers.store(u64::MAX, Ordering::Relaxed);
    pair.two.send_posts(&bob, &["", "", "x"]).await;
    stored(&pair.one, 3).await;
    pair.hand_over().await;
    assert_eq!(answers(&bob, 3).await, [Ok(1), Ok(2), Ok(3)]);
    pair.air.lose_answers.store(0, Ordering::Relaxed);
    assert_eq!(pair.one.post(&ada, &["y"]).await, [Ok(4)], "the old owner asks the new one");
}

#[tokio::test]
async fn members_stay_where_the_shard_goes() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let mut here = pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!(delivered(&mut there, 1).await, [1]);
    pair.hand_over().await;
    assert!(!pair.one.shards.is_owned(0) && pair.two.shards.is_owned(0));
    assert_eq!(pair.one.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)], "also who has what id");
    assert_eq!(pair.two.post(&bob, &["c"]).await, [Ok(3)]);
    assert_eq!(delivered(&mut here, 3).await, [1, 2, 3]);
    assert_eq!(delivered(&mut there, 3).await, [2, 3]);
    let users = pair.two.shards.users(pair.two.group.clone(), None, 10).await.unwrap().unwrap().0;
    assert_eq!(users.iter().map(UserName::as_str).collect::<Vec<_>>(), ["ada", "bob"]);
}

#[tokio::test]
async fn who_gave_a_shard_away_does_not_answer_beside_who_has_it() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    pair.hand_over().await;
    let old = pair.air.owners.lock().unwrap()[0].clone();
    // The new owner tells that it is there.
    tokio::time::timeout(Duration::from_secs(5), old.closed()).await.expect("the old owner answers still");
    assert_eq!(pair.one.post(&ada, &["a"]).await, [Ok(1)]);
    pair.air.frames.lock().unwrap().clear();
    for number in 2..30 {
        assert_eq!(pair.one.post(&ada, &[""]).await, [Ok(number)]);
    }
    assert_eq!(pair.asked("post"), 28, "each is asked once");
}

#[tokio::test]
async fn what_was_told_and_not_heard_is_found_in_the_log() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    let mut there = pair.two.join(&bob).await.unwrap();
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.one.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    pair.air.deaf.store(false, Ordering::Relaxed);
    // Nobody posts any more: that something was told is learned from the next beat.
    assert_eq!(delivered(&mut there, 2).await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_looked_for_in_the_log_is_found_also_where_reading_takes_longer_than_posting() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    let mut there = pair.two.join(&bob).await.unwrap();
    pair.air.deaf.store(true, Ordering::Relaxed);
    pair.two.mood(READ_SLOWLY);
    let posting = async {
        loop {
            pair.two.post(&bob, &[""]).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let begun = tokio::time::Instant::now();
    tokio::select! {
        () = posting => {}
        seen = delivered(&mut there, 20) => assert_eq!(seen[..3], [1, 2, 3]),
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn who_was_kicked_and_did_not_hear_it_is_told_again() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.two.join(&bob).await.unwrap();
    pair.two.post(&bob, &["a"]).await;
    pair.air.deaf.store(true, Ordering::Relaxed);
    assert_eq!(pair.kick(&bob.user, Duration::ZERO).await, [bob.id]);
    pair.air.deaf.store(false, Ordering::Relaxed);
    let event = next_event(&bob.inbox).await;
    assert!(matches!(event, Event::Removed { removal: Removal::Kicked, .. }), "{event:?}");
}

#[tokio::test]
async fn who_is_kept_out_is_kept_out_where_the_shard_goes() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    pair.one.post(&ada, &["a"]).await;
    assert_eq!(pair.kick(&bob.user, Duration::from_secs(60)).await, [bob.id]);
    assert!(matches!(next_event(&bob.inbox).await, Event::Removed { .. }));
    pair.hand_over().await;
    assert!(matches!(pair.two.join(&bob).await, Err(Refusal::Kicked { .. })));
    assert!(matches!(pair.one.join(&session(3, "bob")).await, Err(Refusal::Kicked { .. })));
}

#[tokio::test]
async fn members_of_a_node_that_is_gone_are_gone() {
    let pair = Pair::new().await;
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    pair.one.join(&ada).await.unwrap();
    pair.two.join(&bob).await.unwrap();
    pair.air.deaf.store(true, Ordering::Relaxed);
    pair.one.shards.order(0, nodes(&[("one", "one")])).await;
    loop {
        let users = pair.one.shards.users(pair.one.group.clone(), None, 10).await.unwrap().unwrap().0;
        if users == [ada.user.clone()] {
            break;
        }
    }
}

#[tokio::test]
async fn a_newer_version_is_understood_as_far_as_it_needs_no_more() {
    let pair = Pair::new().await;
    let bob = session(2, "bob");
    pair.air.skew.store(true, Ordering::Relaxed);
    pair.two.join(&bob).await.unwrap();
    assert_eq!(pair.two.post(&bob, &["a"]).await, [Ok(1)]);

    let ask = async |needs: u32, item: Value| -> Value {
        let frame = json!({"version": 9, "needs": needs, "content": {
            "node": "new", "instance": "x", "number": needs, "reign": pair.reign, "items": [item]}});
        let (answer, answered) = tokio::sync::oneshot::channel();
        let owner = pair.air.owners.lock().unwrap().last().cloned().unwrap();
        let to: AnswerTo = Box::new(|bytes| drop(answer.send(bytes)));
        owner.send(Asked { frame: serde_json::to_vec(&frame).unwrap().into(), answer: to }).unwrap();
        serde_json::from_slice(&answered.await.unwrap()).unwrap()
    };
    let unknown = ask(1, json!({"do": "dance", "group": "G"})).await;
    assert_eq!(unknown["content"]["outcomes"], json!([{"was": "unknown"}]), "{unknown}");
    let too_new = ask(2, json!({"do": "look", "group": "G"})).await;
    assert_eq!(too_new["content"]["is"], "unfit", "{too_new}");
    assert!(too_new["content"]["why"].as_str().unwrap().contains("needs version 2"), "{too_new}");
}
