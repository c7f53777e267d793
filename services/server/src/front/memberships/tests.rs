use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use proptest::prelude::*;
use tertulia_protocol::codec::decode_server;
use tertulia_protocol::extended::FromServer;
use tertulia_protocol::{Dialect, GroupName, UserName};

use self::gated::Gated;
use super::super::membership::start;
use super::super::metrics::Metrics;
use super::super::outbound::Outbound;
use super::*;
use crate::complaint::Complaint;
use crate::log::memory::Memory;
use crate::log::{Config as LogConfig, Log, Retention};
use crate::shard::request::{NewPost, Posts, Request};
use crate::shard::{Bounds, Config, ConnectionId, Event, JoinFrom, Session, Shards};

mod gated;

/// Groups that there are.
const GROUPS: usize = 150;

/// What may happen to a connection, in any order.
#[derive(Debug, Clone)]
enum Step {
    Join(usize),
    /// Comes back to what it has not seen.
    Resume(usize),
    Leave(usize),
    Post(usize),
    /// The connection is polled if it was woken, with room for so many bytes; then the socket takes everything.
    Serve(usize),
}

fn step(groups: usize) -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..groups).prop_map(Step::Join),
        1 => (0..groups).prop_map(Step::Resume),
        2 => (0..groups).prop_map(Step::Leave),
        6 => (0..groups).prop_map(Step::Post),
        3 => (1usize..3_000).prop_map(Step::Serve),
    ]
}

/// The connection's task.
#[derive(Default)]
struct Task {
    woken: AtomicUsize,
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.woken.fetch_add(1, Ordering::AcqRel);
    }
}

fn memory() -> Memory {
    let retention = Retention { messages: 1_000, ..Retention::default() };
    Memory::new(&LogConfig { retention, ..LogConfig::default() }, 2)
}

/// A server, one who posts to all its groups, and a connection that is in some.
struct World {
    shards: Shards,
    poster: Arc<Session>,
    reader: Arc<Session>,
    names: Vec<GroupName>,
    metrics: Metrics,
    unread: Complaint,
    memberships: Memberships,
    out: Outbound,
    task: Arc<Task>,
    /// Something was left for want of room.
    starved: bool,
    /// By group: its newest message.
    heads: Vec<u64>,
    /// Of the groups that the connection is in: the next message that it must see.
    next: BTreeMap<usize, u64>,
}

impl World {
    async fn new(groups: usize) -> Self {
        Self::of(Arc::new(memory()), groups).await
    }

    async fn of(log: Arc<dyn Log>, groups: usize) -> Self {
        let config = Config { count: 2, fanout: 2, ..Config::default() };
        let session = |id, name| {
            let (user, address) = (UserName::new(name).unwrap(), IpAddr::from([127, 0, 0, 1]));
            let (inbox, id) = (Arc::default(), ConnectionId(id));
            Arc::new(Session { id, user, address, inbox, home: None, wants_places: true })
        };
        let world = Self {
            shards: Shards::start(config, Bounds::default(), log, "node".into()),
            poster: session(1, "poster"),
            reader: session(2, "reader"),
            names: (0..groups).map(|group| GroupName::new(format!("g{group}").as_str()).unwrap()).collect(),
            metrics: Metrics::new(),
            unread: Complaint::default(),
            memberships: Memberships::default(),
            out: Outbound::default(),
            task: Arc::default(),
            starved: false,
            heads: vec![0; groups],
            next: BTreeMap::new(),
        };
        for group in 0..groups {
            let session = Arc::clone(&world.poster);
            world.ask(group, |group| Request::Join { group, session, from: JoinFrom::Now }).await;
            world.event(&Arc::clone(&world.poster)).await;
        }
        world
    }

    async fn ask(&self, group: usize, request: impl FnOnce(GroupName) -> Request) {
        let name = self.names[group].clone();
        assert!(self.shards.send(self.shards.shard_of(&name), request(name)).await);
    }

    async fn event(&self, session: &Session) -> Event {
        let mut events = poll_fn(|cx| session.inbox.poll_take(cx)).await;
        assert_eq!(events.len(), 1);
        events.pop_front().unwrap()
    }

    async fn join(&mut self, group: usize, from: JoinFrom) {
        let session = Arc::clone(&self.reader);
        self.ask(group, |group| Request::Join { group, session, from }).await;
        let Event::Joined(joined) = self.event(&self.reader).await else { panic!("not joined") };
        let (next, recovered) = start(&joined);
        assert!(recovered);
        // As the connection does it.
        if from != JoinFrom::Now || self.memberships.find(self.names[group].as_str()).is_none() {
            self.next.insert(group, next);
            self.memberships.put(Membership::new(*joined, next, &self.metrics));
            self.wake();
        }
    }

    async fn leave(&mut self, group: usize) {
        let session = Arc::clone(&self.reader);
        self.ask(group, |group| Request::Leave { group, session, answer: true }).await;
        self.event(&self.reader).await;
        self.memberships.remove(self.names[group].as_str());
        self.next.remove(&group);
        self.wake();
    }

    async fn post(&mut self, group: usize) {
        self.heads[group] += 1;
        let message = self.heads[group].to_string().into();
        let post = NewPost { group: self.names[group].clone(), message, id: None, trace: None, weight: None };
        let posts = Posts {
            session: Arc::clone(&self.poster),
            posts: vec![post],
            received: std::time::Instant::now(),
            in_doubt: false,
        };
        self.ask(group, |_| Request::Post(posts)).await;
        let Event::Posted(acks) = self.event(&self.poster).await else { panic!("not posted") };
        assert_eq!(acks[0].outcome.as_ref().unwrap().seq, self.heads[group]);
    }

    /// What an event of its inbox does to the connection.
    fn wake(&self) {
        self.task.woken.fetch_add(1, Ordering::AcqRel);
    }

    fn is_woken(&self) -> bool {
        self.starved || self.task.woken.load(Ordering::Acquire) > 0
    }

    /// Polls as the connection would, which was woken or has room again; the socket takes all that comes of it.
    fn serve(&mut self, room: usize) {
        if !self.is_woken() {
            return;
        }
        self.task.woken.store(0, Ordering::Release);
        let waker = Waker::from(Arc::clone(&self.task));
        let mut around = Surroundings {
            dialect: Dialect::Extended,
            session: &self.reader,
            shards: &self.shards,
            metrics: &self.metrics,
            unread: &self.unread,
            out: &mut self.out,
            max_outbound: room,
            delivered: 0,
        };
        self.starved = self.memberships.poll(&mut Context::from_waker(&waker), &mut around);
        for line in self.out.take_all().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Some(FromServer::Message(message)) = decode_server(line).unwrap() else { panic!("not a message") };
            let group = message.group_name[1..].parse().unwrap();
            let Some(next) = self.next.get_mut(&group) else { panic!("not in {group}") };
            assert_eq!(message.seq, *next, "in group {group}");
            *next += 1;
        }
    }

    /// It is served until it waits.
    async fn settle(&mut self) {
        loop {
            self.serve(usize::MAX);
            // What the runtime put off comes then.
            tokio::task::yield_now().await;
            if !self.is_woken() {
                return;
            }
        }
    }

    /// Whoever was woken is served; then nothing is missing anywhere.
    async fn finish(&mut self) {
        while self.is_woken() {
            self.serve(500);
            // What is read from the log comes later.
            tokio::task::yield_now().await;
        }
        for (group, next) in &self.next {
            assert_eq!(*next, self.heads[*group] + 1, "in group {group}");
        }
    }
}

fn play(groups: usize, joined_at_first: usize, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(groups).await;
        for group in 0..joined_at_first {
            world.join(group, JoinFrom::Now).await;
        }
        for step in steps {
            match step {
                Step::Join(group) => world.join(group, JoinFrom::Now).await,
                Step::Resume(group) => {
                    let seq = world.next.get(&group).map_or(0, |next| next - 1);
                    world.join(group, JoinFrom::After { seq, epoch: None }).await;
                }
                Step::Leave(group) => world.leave(group).await,
                Step::Post(group) => world.post(group).await,
                Step::Serve(room) => world.serve(room),
            }
        }
        world.finish().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn in_few_groups_and_in_many_it_is_woken_for_all_and_sees_all_in_order(
        steps in proptest::collection::vec(step(FEW * 2), 1..80),
    ) {
        play(FEW * 2, 0, steps);
    }

    #[test]
    fn so_it_is_in_very_many(steps in proptest::collection::vec(step(GROUPS), 1..60), at_first in 0..GROUPS) {
        play(GROUPS, at_first, steps);
    }
}

/// The slots that have marks, which stay.
fn marked(memberships: &Memberships) -> usize {
    let marks = &memberships.many.as_ref().unwrap().called.marks;
    marks.iter().map(|word| word.load(Ordering::Acquire).count_ones() as usize).sum()
}

#[tokio::test]
async fn of_many_only_those_are_looked_at_that_something_came_for() {
    let mut world = World::new(GROUPS).await;
    for group in 0..GROUPS {
        world.join(group, JoinFrom::Now).await;
    }
    assert_eq!(marked(&world.memberships), GROUPS);
    world.finish().await;
    assert_eq!(marked(&world.memberships), 0);
    for group in [3, 77, 3] {
        world.post(group).await;
    }
    assert_eq!(marked(&world.memberships), 2);
    world.finish().await;
    assert_eq!(marked(&world.memberships), 0);
    for group in 2..GROUPS {
        world.leave(group).await;
    }
    assert!(world.memberships.many.is_none(), "what it took is given back");
    world.finish().await;
    world.post(1).await;
    world.finish().await;
}

/// It must be seen to lag.
#[tokio::test]
async fn who_has_no_room_is_woken_for_what_comes_then() {
    for groups in [FEW, FEW + 1] {
        let mut world = World::new(groups).await;
        for group in 0..groups {
            world.join(group, JoinFrom::Now).await;
        }
        world.finish().await;
        world.post(0).await;
        world.serve(1);
        assert!(world.starved);
        world.post(0).await;
        assert!(world.task.woken.load(Ordering::Acquire) > 0, "in {groups} groups");
        world.finish().await;
    }
}

#[tokio::test]
async fn of_many_that_are_busy_each_has_its_turn() {
    let mut world = World::new(GROUPS).await;
    for group in 0..GROUPS {
        world.join(group, JoinFrom::Now).await;
    }
    world.finish().await;
    for round in 1..=GROUPS {
        for group in 0..GROUPS {
            world.post(group).await;
        }
        // Room for one message, in a group that had none before.
        world.serve(1);
        let served = world.next.values().filter(|next| **next > 1).count();
        assert_eq!(served, round);
        assert!(world.starved);
    }
    world.finish().await;
}

/// As many pages as may be read at once.
const READING: usize = 4;

/// A connection that is behind in all groups, by one message.
async fn behind(log: &Arc<Gated>, groups: usize) -> World {
    let mut world = World::of(Arc::clone(log) as Arc<dyn Log>, groups).await;
    for group in 0..groups {
        world.post(group).await;
        world.join(group, JoinFrom::Last(1)).await;
    }
    world
}

/// What is read waits in memory until there is room for it: that must not be a page of each group.
#[tokio::test(start_paused = true)]
async fn of_many_that_are_behind_few_read_at_once_and_each_in_its_turn() {
    let log = Gated::new(memory());
    let mut world = behind(&log, GROUPS).await;
    world.serve(usize::MAX);
    for answered in 0..GROUPS {
        assert_eq!(log.begun(), (answered + READING).min(GROUPS));
        log.answer(1);
        world.settle().await;
    }
    world.finish().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_that_could_not_be_read_few_are_read_again_at_once() {
    let log = Gated::new(memory());
    let mut world = behind(&log, GROUPS).await;
    log.fail(true);
    log.answer(GROUPS);
    world.settle().await;
    assert_eq!(log.begun(), GROUPS);
    log.fail(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.serve(usize::MAX);
    assert_eq!(log.begun(), GROUPS + READING);
    log.answer(GROUPS);
    world.finish().await;
}

/// A connection that ends is served up to where its groups were then, though more is posted.
#[tokio::test(start_paused = true)]
async fn who_is_served_up_to_its_end_leaves_its_turn_to_others() {
    let log = Gated::new(memory());
    let groups = 2 * READING;
    let mut world = behind(&log, groups).await;
    world.memberships.end_here();
    for group in 0..groups {
        // More than a page.
        for _ in 0..300 {
            world.post(group).await;
        }
    }
    world.wake();
    while !world.memberships.are_served() {
        log.answer(1);
        let before = world.next.clone();
        world.settle().await;
        assert_ne!(world.next, before, "nobody is served any more");
    }
}
