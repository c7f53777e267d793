use std::future::poll_fn;
use std::net::IpAddr;
use std::task::Waker;

use proptest::prelude::*;
use tertulia_protocol::codec::{decode_classic_server, decode_server};
use tertulia_protocol::extended::FromServer;
use tertulia_protocol::{UserName, classic};

use super::*;
use crate::log::memory::Memory;
use crate::log::{Batch, Config as LogConfig, Log, Retention};
use crate::shard::request::{NewPost, Posts, Request};
use crate::shard::{Bounds, Config, ConnectionId, Event};

/// What may happen to a member, in any order.
#[derive(Debug, Clone)]
enum Step {
    /// So many messages are posted, in one go.
    Post(usize),
    /// The member is polled until it is done or holds so many bytes; then the socket takes everything.
    Serve(usize),
    /// The member is polled, and the socket takes nothing.
    Stall,
    /// The member goes and comes back after what it saw last.
    Resume,
    /// The member goes and comes back with the newest so many.
    Last(u64),
    /// A moderator removes the text of the newest message but so many.
    Redact(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..12).prop_map(Step::Post),
        4 => (1usize..2_000).prop_map(Step::Serve),
        1 => Just(Step::Stall),
        1 => Just(Step::Resume),
        1 => (0u64..20).prop_map(Step::Last),
        2 => (0u64..20).prop_map(Step::Redact),
    ]
}

/// A server of one shard, a poster and a member.
struct World {
    log: Arc<Memory>,
    shards: Shards,
    poster: Arc<Session>,
    reader: Arc<Session>,
    group: GroupName,
    metrics: Metrics,
    unread: Complaint,
    dialect: Dialect,
    member: Option<Membership>,
    out: Outbound,
    posted: u64,
    /// What the member was told, in order.
    seen: Vec<Seen>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// It came back: the next message is this one (0: whatever comes).
    Joined(u64),
    Message(u64),
    Lost(u64, u64),
    LostCount(u64),
}

impl World {
    fn new(dialect: Dialect, kept: u64) -> Self {
        let retention = Retention { messages: kept, ..Retention::default() };
        let log = Arc::new(Memory::new(&LogConfig { retention, ..LogConfig::default() }, 1));
        let config = Config { count: 1, fanout: 2, append_posts: 4, ..Config::default() };
        let bounds = Bounds { members_per_group: 10, groups: 10, ..Bounds::default() };
        let session = |id, name| {
            let user = UserName::new(name).unwrap();
            let address = IpAddr::from([127, 0, 0, 1]);
            Arc::new(Session {
                id: ConnectionId(id),
                user,
                address,
                inbox: Arc::default(),
                home: None,
                wants_places: true,
            })
        };
        Self {
            shards: Shards::start(config, bounds, Arc::clone(&log) as _, "node".into()),
            log,
            poster: session(1, "poster"),
            reader: session(2, "reader"),
            group: GroupName::new("G").unwrap(),
            metrics: Metrics::new(),
            unread: Complaint::default(),
            dialect,
            member: None,
            out: Outbound::default(),
            posted: 0,
            seen: Vec::new(),
        }
    }

    async fn events(session: &Session) -> std::collections::VecDeque<Event> {
        poll_fn(|cx| session.inbox.poll_take(cx)).await
    }

    async fn join(&mut self, from: JoinFrom) {
        let (group, session) = (self.group.clone(), Arc::clone(&self.reader));
        assert!(self.shards.send(0, Request::Join { group, session, from }).await);
        for event in Self::events(&self.reader).await {
            let Event::Joined(joined) = event else { panic!("{event:?}") };
            let (next, recovered) = start(&joined);
            if let (JoinFrom::After { seq, .. }, true) = (from, recovered) {
                assert_eq!(next, seq + 1);
            }
            self.seen.push(Seen::Joined(next));
            self.member = Some(Membership::new(*joined, next, &self.metrics));
        }
    }

    /// The group is there, with two messages, before the reader comes.
    async fn post_to_begin(&mut self) {
        let (group, session) = (self.group.clone(), Arc::clone(&self.poster));
        assert!(self.shards.send(0, Request::Join { group, session, from: JoinFrom::Now }).await);
        assert_eq!(Self::events(&self.poster).await.len(), 1);
        self.post(2).await;
    }

    /// Each has its own number as its text.
    async fn post(&mut self, count: usize) {
        let first = self.posted + 1;
        self.post_texts((first..first + count as u64).map(|seq| seq.to_string()).collect()).await;
    }

    async fn post_text(&mut self, text: &str) {
        self.post_texts(vec![text.to_owned()]).await;
    }

    async fn post_texts(&mut self, texts: Vec<String>) {
        let count = texts.len();
        self.posted += count as u64;
        let post = |text: String| NewPost {
            group: self.group.clone(),
            message: text.into(),
            id: None,
            trace: None,
            weight: None,
        };
        let posts = texts.into_iter().map(post).collect();
        let received = std::time::Instant::now();
        let request = Request::Post(Posts { session: Arc::clone(&self.poster), posts, received, in_doubt: false });
        assert!(self.shards.send(0, request).await);
        let mut answers = 0;
        while answers < count {
            for event in Self::events(&self.poster).await {
                let Event::Posted(acks) = event else { panic!("{event:?}") };
                assert!(acks.iter().all(|ack| ack.outcome.is_ok()), "{acks:?}");
                answers += acks.len();
            }
        }
    }

    /// Polls the member as its connection would; answers whether it has nothing more to do.
    fn poll(&mut self, room: usize) -> bool {
        self.poll_with(Waker::noop(), room)
    }

    fn poll_with(&mut self, waker: &Waker, room: usize) -> bool {
        self.around(room, |member, around| member.poll(&mut Context::from_waker(waker), around, None).is_pending())
            .unwrap_or(true)
    }

    /// What the member does with its connection around it; nothing without a member.
    fn around<T>(&mut self, room: usize, act: impl FnOnce(&mut Membership, &mut Surroundings<'_>) -> T) -> Option<T> {
        let mut around = Surroundings {
            delivered: 0,
            dialect: self.dialect,
            session: &self.reader,
            shards: &self.shards,
            metrics: &self.metrics,
            unread: &self.unread,
            out: &mut self.out,
            max_outbound: room,
        };
        self.member.as_mut().map(|member| act(member, &mut around))
    }

    fn poll_once(&mut self, room: usize) {
        self.poll(room);
    }

    /// The socket takes all that waits.
    fn take(&mut self) {
        let bytes = self.out.take_all();
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let number = |text: &str| text.parse().unwrap();
            self.seen.push(match self.dialect {
                Dialect::Extended => match decode_server(line).unwrap().unwrap() {
                    FromServer::Message(message) => {
                        let text = if message.removed { String::new() } else { message.seq.to_string() };
                        assert_eq!(message.message, text);
                        Seen::Message(message.seq)
                    }
                    FromServer::Lagged(lagged) => Seen::Lost(lagged.first, lagged.last),
                    other => panic!("{other:?}"),
                },
                Dialect::Classic => match decode_classic_server(line).unwrap() {
                    classic::FromServer::Message { message, .. } => Seen::Message(number(&message)),
                    classic::FromServer::Error(text) => Seen::LostCount(number(text.split(' ').nth(1).unwrap())),
                },
            });
        }
    }

    /// The text is gone from the log; what was delivered before may be on its way.
    async fn redact(&self, seq: u64) {
        let head = self.log.head(0, &self.group).await.unwrap();
        if let Some(head) = head {
            self.log.redact(0, &self.group, head.epoch, &[seq]).await.unwrap();
        }
    }

    fn last_seen(&self) -> u64 {
        self.member.as_ref().map_or(0, |member| member.next - 1)
    }

    /// No gap but those that were told, nothing twice, nothing out of order, up to the end.
    fn check(&self) {
        let mut next = 0;
        for seen in &self.seen {
            match *seen {
                Seen::Joined(first) => next = first,
                Seen::Message(seq) => {
                    assert_eq!(seq, next, "{:?}", self.seen);
                    next += 1;
                }
                Seen::Lost(first, last) => {
                    assert_eq!(first, next, "{:?}", self.seen);
                    next = last + 1;
                }
                Seen::LostCount(count) => next += count,
            }
        }
        assert_eq!(next, self.posted + 1, "{:?}", self.seen);
    }
}

async fn play(dialect: Dialect, kept: u64, steps: Vec<Step>) {
    let mut world = World::new(dialect, kept);
    world.join(JoinFrom::Now).await;
    for step in steps {
        match step {
            Step::Post(count) => world.post(count).await,
            Step::Stall => world.poll_once(1),
            Step::Serve(room) => {
                world.poll_once(room);
                world.take();
            }
            Step::Resume => {
                world.take();
                let seq = world.last_seen();
                world.join(JoinFrom::After { seq, epoch: None }).await;
            }
            Step::Last(count) => {
                world.take();
                world.join(JoinFrom::Last(count)).await;
            }
            // Classic members are told no numbers, by which it would be known that only these are left out.
            Step::Redact(_) if dialect == Dialect::Classic => {}
            Step::Redact(from_newest) => world.redact(world.posted.saturating_sub(from_newest)).await,
        }
    }
    while !world.poll(500) {
        world.take();
    }
    world.take();
    world.check();
    assert_eq!(world.shards.directory().totals().lagging, 0, "who has caught up does not lag");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn a_member_sees_everything_once_and_in_order_however_it_is_served(
        classic in any::<bool>(),
        kept in 1u64..40,
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let dialect = if classic { Dialect::Classic } else { Dialect::Extended };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(dialect, kept, steps));
    }
}

#[tokio::test]
async fn a_member_that_never_reads_is_told_exactly_what_is_gone() {
    let mut world = World::new(Dialect::Extended, 5);
    world.join(JoinFrom::Now).await;
    world.post(3).await;
    for _ in 0..20 {
        world.post(1).await;
    }
    assert!(world.poll(usize::MAX));
    world.take();
    assert_eq!(world.seen[1], Seen::Lost(1, 18));
    world.check();
}

/// Neither is it told that something is missing, nor does it wait for what would be written for it.
#[tokio::test]
async fn a_classic_member_that_is_behind_gets_all_but_what_was_removed() {
    for removed in [vec![2, 3, 7], (1..=7).collect::<Vec<u64>>()] {
        let mut world = World::new(Dialect::Classic, 0);
        world.join(JoinFrom::Now).await;
        for _ in 0..7 {
            world.post(1).await;
        }
        for seq in &removed {
            world.redact(*seq).await;
        }
        assert!(world.poll(usize::MAX), "it is done");
        assert_eq!(world.last_seen(), 7);
        world.post(1).await;
        assert!(world.poll(usize::MAX));
        world.take();
        let left = (1..=8).filter(|seq| !removed.contains(seq)).map(Seen::Message);
        assert_eq!(world.seen[1..], left.collect::<Vec<_>>());
        assert!(matches!(world.member.as_ref().unwrap().state, State::Live(_)));
    }
}

/// Whoever asks for the newest messages learns that there are none, rather than to wait for them.
#[tokio::test]
async fn who_wants_the_newest_where_nothing_is_left_is_told_what_is_gone() {
    for from in [JoinFrom::Last(2), JoinFrom::Last(9), JoinFrom::After { seq: 1, epoch: Some(7) }] {
        let mut world = World::new(Dialect::Extended, 0);
        world.post_to_begin().await;
        world.post(3).await;
        world.log.purge(0, &world.group, 5).await.unwrap();
        world.join(from).await;
        world.poll_once(usize::MAX);
        world.take();
        let first = if from == JoinFrom::Last(2) { 4 } else { 1 };
        assert_eq!(world.seen, [Seen::Joined(first), Seen::Lost(first, 5)], "{from:?}");
        world.check();
    }
}

#[tokio::test]
async fn another_epoch_begins_with_all_that_is_kept() {
    let mut world = World::new(Dialect::Extended, 100);
    world.join(JoinFrom::Now).await;
    world.post(4).await;
    world.join(JoinFrom::After { seq: 2, epoch: Some(1) }).await;
    assert_eq!(world.seen.last(), Some(&Seen::Joined(1)));
    world.join(JoinFrom::After { seq: 9, epoch: None }).await;
    assert_eq!(world.seen.last(), Some(&Seen::Joined(1)), "a seq beyond the head is of another life");
}

#[tokio::test]
async fn who_is_behind_is_not_served_of_another_life_of_the_group() {
    let mut world = World::new(Dialect::Extended, 100);
    world.join(JoinFrom::Now).await;
    for _ in 0..5 {
        world.post(1).await;
    }
    // By another node, and this one has not heard of it yet.
    assert!(world.log.delete(0, &world.group).await.unwrap());
    let record =
        |seq: u64| Record { seq, sender: UserName::new("ann").unwrap(), id: None, message: "new".into(), at: 1 };
    let batch = Batch { group: world.group.clone(), epoch: 7, records: (1..=9).map(record).collect() };
    world.log.append(0, vec![Arc::new(batch)]).await.unwrap();
    assert!(world.poll(usize::MAX), "it waits");
    world.take();
    assert_eq!(world.seen, [Seen::Joined(1)]);
}

#[tokio::test]
async fn a_member_whose_connection_ends_is_served_up_to_what_there_was_and_no_further() {
    // Live, and behind.
    for before in [3, 500] {
        let mut world = World::new(Dialect::Extended, 10_000);
        world.join(JoinFrom::Now).await;
        for _ in 0..before {
            world.post(1).await;
        }
        world.poll_once(1);
        let end_here = |world: &mut World| world.member.as_mut().unwrap().end_here();
        let is_served = |world: &World| world.member.as_ref().unwrap().is_served();
        end_here(&mut world);
        while !is_served(&world) {
            // Faster than it is served.
            world.post(300).await;
            end_here(&mut world);
            world.poll_once(4_000);
            world.take();
        }
        world.post(1).await;
        let last = world.last_seen();
        assert!((before..world.posted).contains(&last), "{last} of {}", world.posted);
        assert!(world.poll(usize::MAX) && world.last_seen() == last, "nothing more is taken up");
    }
}

/// Another node may deliver anew what a member has in part.
#[tokio::test]
async fn what_there_is_no_room_for_of_a_delivery_that_was_seen_in_part_is_still_to_come() {
    let mut world = World::new(Dialect::Extended, 0);
    world.join(JoinFrom::Now).await;
    let member = world.member.as_mut().unwrap();
    member.next = 2;
    let record = |seq| Record {
        seq,
        at: 1,
        sender: world.poster.user.clone(),
        id: None,
        // As a line it is twice as long.
        message: "\"".repeat(40 * 1024).into(),
    };
    let batch =
        Batch { group: world.group.clone(), epoch: member.status.epoch(), records: (1..=4).map(record).collect() };
    let delivery = Delivery::new(Arc::new(batch), std::time::Instant::now(), None);
    let told = world.around(64 * 1024, |member, around| {
        assert!(!member.take(&delivery, around), "the log is needed for the rest");
        (member.next, around.delivered)
    });
    assert_eq!(told, Some((3, 1)));
}

/// However many groups a connection is in, what is kept for it while it has no room is bounded.
#[tokio::test]
async fn who_was_caught_up_and_has_no_room_keeps_nothing_large_of_what_came_meanwhile() {
    for (length, is_kept) in [(HELD_UP / 2, true), (HELD_UP + 1, false)] {
        let mut world = World::new(Dialect::Extended, 0);
        world.post_to_begin().await;
        world.join(JoinFrom::After { seq: 0, epoch: None }).await;
        // What it needs is read, and then there is more.
        let read = world.shards.read(&world.group, Range::After(0), PAGE).await;
        world.post_text(&"x".repeat(length)).await;
        world.around(1, |member, around| member.on_page(read, around));
        let member = world.member.as_ref().unwrap();
        assert_eq!(member.next, 3, "it has what was read, which fills it up");
        assert_eq!(matches!(member.state, State::HeldUp(_)), is_kept, "{length} bytes");
    }
}

/// The broadcast has moved on while a page was read: that is no falling behind of the member's.
#[tokio::test]
async fn who_is_caught_up_where_much_is_posted_reads_on_until_nothing_is_missing() {
    let mut world = World::new(Dialect::Extended, 0);
    world.post_to_begin().await;
    world.join(JoinFrom::After { seq: 0, epoch: None }).await;
    let read = world.shards.read(&world.group, Range::After(0), PAGE).await;
    // More than the broadcast holds.
    for _ in 0..5 {
        world.post(1).await;
    }
    world.around(usize::MAX, |member, around| member.on_page(read, around));
    let member = world.member.as_ref().unwrap();
    assert_eq!((member.next, member.status.lagging()), (3, 0));
    assert!(matches!(member.state, State::CatchingUp { stage: Stage::Ask, .. }), "it reads on at once");
    assert!(world.poll(usize::MAX), "it has all there is");
    assert!(matches!(world.member.as_ref().unwrap().state, State::Live(_)));
    world.take();
    world.check();
}

/// Notes that it was called.
#[derive(Default)]
struct Bell(std::sync::atomic::AtomicBool);

impl std::task::Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What is in the broadcast may have been read from the log already: it is not what a member without room waits for.
#[tokio::test]
async fn who_was_caught_up_and_has_no_room_is_woken_and_counted_for_what_comes_then() {
    let mut world = World::new(Dialect::Extended, 0);
    world.post_to_begin().await;
    world.join(JoinFrom::After { seq: 0, epoch: None }).await;
    world.post(2).await;
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    // It has all that there is, which fills it up.
    assert!(!world.poll_with(&waker, 1));
    let member = world.member.as_ref().unwrap();
    assert_eq!((member.next - 1, member.status.lagging()), (world.posted, 0));
    bell.0.store(false, std::sync::atomic::Ordering::Relaxed);
    world.post(1).await;
    assert!(bell.0.load(std::sync::atomic::Ordering::Relaxed), "nobody looks at it any more");
    assert!(!world.poll_with(&waker, 1));
    assert_eq!(world.member.as_ref().unwrap().status.lagging(), 1);
}
