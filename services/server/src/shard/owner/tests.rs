use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tertulia_protocol::UserName;

use super::*;
use crate::log::memory::Memory;
use crate::log::{AppendError, Config as LogConfig, Head, Log, Page, PageLimit, Range, ReadError, Stats, now_ms};
use crate::shard::request::{Admin, Ended, NewPost, Redaction, Selection, Telling};
use crate::shard::session::{ConnectionId, Removal};
use crate::shard::{Batch, Bounds, Config, Hold, Shards, Target, Term};

/// The memory engine, whose appends can be made to fail or to wait.
#[derive(Debug)]
struct Moody {
    memory: Memory,
    mood: AtomicU8,
    gate: tokio::sync::Semaphore,
    /// How often it was read.
    reads: AtomicUsize,
    /// The head of this group cannot be read.
    damaged: Mutex<Option<GroupName>>,
    /// These records are left out of pages.
    left_out: Mutex<std::ops::Range<u64>>,
}

impl Moody {
    fn new() -> Self {
        let memory = Memory::new(&LogConfig::default(), 1);
        Self {
            memory,
            mood: WELL.into(),
            gate: tokio::sync::Semaphore::new(0),
            reads: 0.into(),
            damaged: Mutex::default(),
            left_out: Mutex::default(),
        }
    }
}

const WELL: u8 = 0;
const FAILING: u8 = 1;
/// An append takes a permit of the gate.
const SLOW: u8 = 2;
/// Heads cannot be read.
const UNREADABLE: u8 = 3;
/// What is read takes a second.
const READ_SLOWLY: u8 = 4;
/// What is to be removed is not.
const STUCK: u8 = 5;
/// Each head takes a second.
const FAR: u8 = 6;
/// No head is told, nor that it will not be.
const MUTE: u8 = 7;
/// Whoever reads is told that there is no group.
const BEHIND: u8 = 8;
/// An append takes a permit of the gate, and only its first record is stored when another writer takes the shard.
const OVERTAKEN: u8 = 9;
/// No head is told but those that are known without asking, and after two seconds it is said that it will not be.
const SILENT: u8 = 10;
/// What the names of groups begin with whose heads are.
const KNOWN: char = 'K';
/// Nothing is read of the damaged group, or of any if none is, and after two seconds it is said that it will not be.
const STALLED: u8 = 11;

#[derive(Debug, Clone)]
struct Shared(Arc<Moody>);

impl Log for Shared {
    fn append(&self, shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>> {
        let Moody { memory, mood, .. } = &*self.0;
        match mood.load(Ordering::Relaxed) {
            FAILING => Box::pin(async { Err(AppendError::Unavailable { reason: "no space left".into() }) }),
            SLOW => {
                let this = self.clone();
                Box::pin(async move {
                    this.0.gate.acquire().await.unwrap().forget();
                    if this.0.mood.load(Ordering::Relaxed) == FAILING {
                        return Err(AppendError::Unavailable { reason: "not stored".into() });
                    }
                    this.0.memory.append(shard, batches).await
                })
            }
            OVERTAKEN => {
                let this = self.clone();
                Box::pin(async move {
                    this.0.gate.acquire().await.unwrap().forget();
                    let (group, epoch) = (batches[0].group.clone(), batches[0].epoch);
                    let first = Batch { group: group.clone(), epoch, records: batches[0].records[..1].to_vec() };
                    let stored = vec![(group, first.last())];
                    this.0.memory.append(shard, vec![Arc::new(first)]).await?;
                    Err(AppendError::FencedInPart { stored })
                })
            }
            _ => memory.append(shard, batches),
        }
    }
    fn head(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        let head = self.0.memory.head(shard, group);
        if self.0.damaged.lock().unwrap().as_ref() == Some(group) {
            let is_far = self.0.mood.load(Ordering::Relaxed) == FAR;
            return Box::pin(async move {
                if is_far {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(ReadError { reason: "it cannot be understood".into() })
            });
        }
        match self.0.mood.load(Ordering::Relaxed) {
            UNREADABLE => Box::pin(async { Err(ReadError { reason: "no answer".into() }) }),
            FAR => Box::pin(async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                head.await
            }),
            MUTE => Box::pin(std::future::pending()),
            SILENT if !group.as_str().starts_with(KNOWN) => Box::pin(async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                Err(ReadError { reason: "no answer in time".into() })
            }),
            _ => head,
        }
    }
    fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        let (this, group) = (self.clone(), group.clone());
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            match this.0.mood.load(Ordering::Relaxed) {
                READ_SLOWLY => tokio::time::sleep(Duration::from_secs(1)).await,
                BEHIND => return Ok(None),
                STALLED if this.0.damaged.lock().unwrap().as_ref().is_none_or(|damaged| *damaged == group) => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    return Err(ReadError { reason: "no answer in time".into() });
                }
                _ => {}
            }
            let left_out = this.0.left_out.lock().unwrap().clone();
            let range = match range {
                Range::After(after) if left_out.contains(&(after + 1)) => Range::After(left_out.end - 1),
                range => range,
            };
            let mut page = this.0.memory.read(shard, &group, range, limit).await?;
            if let Some(Page { head, records }) = &mut page {
                let end = records.iter().position(|record| left_out.contains(&record.seq));
                records.truncate(end.unwrap_or(records.len()));
                if records.is_empty() {
                    head.first = head.seq + 1;
                }
            }
            Ok(page)
        })
    }
    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>> {
        self.0.memory.groups(prefix, after, limit)
    }
    fn purge(&self, shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>> {
        if self.0.mood.load(Ordering::Relaxed) == STUCK {
            return Box::pin(std::future::pending());
        }
        self.0.memory.purge(shard, group, through)
    }
    fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>> {
        self.0.memory.redact(shard, group, epoch, seqs)
    }
    fn delete(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>> {
        self.0.memory.delete(shard, group)
    }
    fn stats(&self) -> Stats {
        self.0.memory.stats()
    }
    fn trouble(&self) -> Option<String> {
        None
    }
    fn close(&self) -> BoxFuture<'static, ()> {
        self.0.memory.close()
    }
}

mod ahead;
mod counted;
mod ended;
mod nodes;
mod redacted;
mod traced;

struct World {
    shards: Shards,
    log: Shared,
    group: GroupName,
}

impl World {
    fn new(config: Config, bounds: Bounds) -> Self {
        let log = Shared(Arc::new(Moody::new()));
        let config = Config { count: 1, ..config };
        let shards = Shards::start(config, bounds, Arc::new(log.clone()), "node".into());
        Self { shards, log, group: GroupName::new("G").unwrap() }
    }

    fn mood(&self, mood: u8) {
        self.log.0.mood.store(mood, Ordering::Relaxed);
    }

    async fn join(&self, session: &Arc<Session>) -> Result<Joined, Refusal> {
        self.join_group(&self.group, session).await
    }

    async fn join_group(&self, group: &GroupName, session: &Arc<Session>) -> Result<Joined, Refusal> {
        let (group, session) = (group.clone(), Arc::clone(session));
        let inbox = Arc::clone(&session.inbox);
        assert!(self.shards.send(0, Request::Join { group, session, from: JoinFrom::Now }).await);
        match next_event(&inbox).await {
            Event::Joined(joined) => Ok(*joined),
            Event::JoinRefused { refusal, .. } => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Another writer stores a message.
    async fn store_elsewhere(&self, epoch: u64, seq: u64) {
        let sender = UserName::new("eve").unwrap();
        let record = crate::log::Record { seq, at: 1, sender, id: None, message: "x".into() };
        let batch = Batch { group: self.group.clone(), epoch, records: vec![record] };
        self.log.append(0, vec![Arc::new(batch)]).await.unwrap();
    }

    async fn send_posts(&self, session: &Arc<Session>, ids: &[&str]) {
        let post = |id: &&str| NewPost {
            group: self.group.clone(),
            message: format!("message {id}").into(),
            id: (!id.is_empty()).then(|| PostId::new(id).unwrap()),
            trace: None,
            weight: None,
        };
        let posts = ids.iter().map(post).collect();
        let posts = Posts { session: Arc::clone(session), posts, received: Instant::now(), in_doubt: false };
        assert!(self.shards.send(0, Request::Post(posts)).await);
    }

    /// A moderator deletes the group, if it has that life.
    async fn delete(&self, epoch: Option<u64>) -> Result<Option<Ended>, Refusal> {
        let (group, how, hold) = (self.group.clone(), Removal::Deleted, Duration::ZERO.into());
        let end = |reply| Admin::End { group, how, reason: None, hold, epoch, in_doubt: false, reply };
        self.shards.ask(0, end).await.unwrap()
    }

    /// A moderator removes messages of that life.
    async fn purge(&self, epoch: Option<u64>, through: u64) -> Result<Option<u64>, Refusal> {
        let group = self.group.clone();
        let purge = |reply| Admin::Purge { group, through, epoch, in_doubt: false, reply };
        self.shards.ask(0, purge).await.unwrap()
    }

    /// A moderator removes the text of a message of that life; answers which message tells of it.
    async fn redact(&self, epoch: u64, seq: u64) -> Result<Option<u64>, Refusal> {
        let done = self.redact_all(epoch, Selection { first: seq, last: seq, sender: None }).await?;
        Ok(done.map(|(_, seq)| seq))
    }

    /// The same of several; answers how many they are, too.
    async fn redact_all(&self, epoch: u64, selection: Selection) -> Result<Option<(u64, u64)>, Refusal> {
        self.redact_by(epoch, selection, Telling { reason: Some("spam".into()), ..Telling::default() }).await
    }

    async fn redact_by(
        &self,
        epoch: u64,
        selection: Selection,
        telling: Telling,
    ) -> Result<Option<(u64, u64)>, Refusal> {
        let group = self.group.clone();
        let redact = |reply| Admin::Redact { group, selection, epoch, telling, in_doubt: false, reply };
        match self.shards.ask(0, redact).await.unwrap()? {
            Redaction::NoSuchGroup | Redaction::NoSuchMessage => Ok(None),
            Redaction::Removed { messages, told } => told.await.unwrap().map(|stored| Some((messages, stored.seq))),
            Redaction::RemovedQuietly(removed) => Ok(Some((removed.messages, 0))),
        }
    }

    /// What the log has: of each message its text, whether that was removed, and of the removal of which first message it tells.
    async fn texts(&self) -> Vec<(String, bool, Option<u64>)> {
        let limit = PageLimit { records: usize::MAX, bytes: usize::MAX };
        let page = self.log.read(0, &self.group, Range::After(0), limit).await.unwrap().unwrap();
        page.records
            .iter()
            .map(|it| (it.message.to_string(), it.is_removed(), it.removes().map(|it| it.first)))
            .collect()
    }

    async fn post(&self, session: &Arc<Session>, ids: &[&str]) -> Vec<Result<u64, Refusal>> {
        self.send_posts(session, ids).await;
        answers(session, ids.len()).await
    }
}

async fn next_event(inbox: &crate::shard::Inbox) -> Event {
    let mut events = poll_fn(|cx| inbox.poll_take(cx)).await;
    assert_eq!(events.len(), 1, "{events:?}");
    events.pop_front().unwrap()
}

async fn answers(session: &Session, count: usize) -> Vec<Result<u64, Refusal>> {
    let mut answers = Vec::new();
    while answers.len() < count {
        for event in poll_fn(|cx| session.inbox.poll_take(cx)).await {
            let Event::Posted(acks) = event else { panic!("{event:?}") };
            answers.extend(acks.into_iter().map(|ack| ack.outcome.map(|stored| stored.seq)));
        }
    }
    answers
}

fn session(id: u64, user: &str) -> Arc<Session> {
    let user = UserName::new(user).unwrap();
    Arc::new(Session {
        id: ConnectionId(id),
        user,
        address: IpAddr::from([127, 0, 0, 1]),
        inbox: Arc::default(),
        home: None,
        wants_places: true,
    })
}

const BOUNDS: Bounds = Bounds {
    members_per_group: 3,
    groups: 3,
    new_groups_per_user: 0,
    new_groups_per_address: 0,
    holds: 10,
    post_without_join: true,
};

#[tokio::test]
async fn a_post_to_a_group_that_does_not_exist_is_refused_in_its_place() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    let refusal = Refusal::NoSuchGroup(world.group.clone());
    assert_eq!(world.post(&ada, &["a"]).await, [Err(refusal)]);
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a", "", "b"]).await, [Ok(1), Ok(2), Ok(3)]);
}

#[tokio::test]
async fn an_id_is_stored_once_also_when_the_group_was_out_of_memory() {
    let world = World::new(Config { group_idle: Duration::from_millis(20), ..Config::default() }, BOUNDS);
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a", "b", "a", "", ""]).await, [Ok(1), Ok(2), Ok(1), Ok(3), Ok(4)]);
    assert_eq!(world.post(&bob, &["a"]).await, [Ok(5)], "another user's ids are its own");
    let (group, session) = (world.group.clone(), Arc::clone(&ada));
    assert!(world.shards.send(0, Request::Leave { group, session, answer: true }).await);
    assert!(matches!(next_event(&ada.inbox).await, Event::Left { was_member: true, .. }));
    while world.shards.directory().totals().groups > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.post(&ada, &["b", "c", "a"]).await, [Ok(2), Ok(6), Ok(1)]);
}

#[tokio::test]
async fn a_repeat_of_what_is_stored_is_answered_whatever_a_moderator_has_done_since() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    world.shards.holds().apply(Hold::new(Some(world.group.clone()), None, Duration::from_secs(60)));
    let told = world.post(&ada, &["a", "b"]).await;
    assert!(matches!(told[..], [Ok(1), Err(Refusal::Closed { .. })]), "{told:?}");
}

#[tokio::test]
async fn a_repeat_is_known_to_be_one_also_when_the_group_was_out_of_memory() {
    let world = World::new(Config { group_idle: Duration::from_millis(20), ..Config::default() }, BOUNDS);
    let ada = session(1, "ada");
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    let (group, session) = (world.group.clone(), Arc::clone(&ada));
    assert!(world.shards.send(0, Request::Leave { group, session, answer: true }).await);
    assert!(matches!(next_event(&ada.inbox).await, Event::Left { was_member: true, .. }));
    while world.shards.directory().totals().groups > 0 {
        tokio::task::yield_now().await;
    }
    world.shards.holds().apply(Hold::new(Some(world.group.clone()), None, Duration::from_secs(60)));
    let told = world.post(&ada, &["a", "b"]).await;
    assert!(matches!(told[..], [Ok(1), Err(Refusal::Closed { .. })]), "{told:?}");
}

#[tokio::test]
async fn ids_that_had_to_go_for_posts_that_failed_are_known_again() {
    let world = World::new(Config { dedup_window: 2, ..Config::default() }, BOUNDS);
    let ada = session(1, "ada");
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    world.mood(FAILING);
    assert!(world.post(&ada, &["c", "d"]).await.iter().all(Result::is_err));
    world.mood(WELL);
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
}

#[tokio::test(start_paused = true)]
async fn the_first_id_of_a_group_that_began_here_does_not_wait_for_the_log_to_be_read() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["", ""]).await, [Ok(1), Ok(2)]);
    world.mood(READ_SLOWLY);
    let began = tokio::time::Instant::now();
    assert_eq!(world.post(&ada, &["a", "b", "a"]).await, [Ok(3), Ok(4), Ok(3)]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn who_is_connected_here_is_told_without_the_log() {
    let world = World::new(Config::default(), BOUNDS);
    let (ada, far) = (session(1, "ada"), session(2, "bob"));
    let far = Arc::new(Session { home: Some("elsewhere".into()), ..Arc::into_inner(far).unwrap() });
    world.join(&ada).await.unwrap();
    let (group, from) = (world.group.clone(), JoinFrom::Now);
    assert!(world.shards.send(0, Request::Join { group, session: far, from }).await);
    world.mood(UNREADABLE);
    let here = |group: &str| {
        let group = GroupName::new(group).unwrap();
        world.shards.ask(0, move |reply| Admin::Here { group, after: None, limit: 10, reply })
    };
    let members = here("G").await.unwrap();
    let users: Vec<&str> = members.iter().map(|member| member.session.user.as_str()).collect();
    assert_eq!(users, ["ada"]);
    assert!(here("other").await.unwrap().is_empty());
}

#[tokio::test]
async fn nothing_is_delivered_or_acknowledged_before_the_log_has_it_and_posts_gather_meanwhile() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    let mut joined = world.join(&ada).await.unwrap();
    world.mood(SLOW);
    world.send_posts(&ada, &["a"]).await;
    // A question behind it is answered: the owner has taken the post, and an append is in flight.
    assert!(world.shards.users(world.group.clone(), None, 10).await.unwrap().is_some());
    for id in ["b", "c", "b"] {
        world.send_posts(&ada, &[id]).await;
    }
    assert!(world.shards.users(world.group.clone(), None, 10).await.unwrap().is_some());
    assert!(joined.subscription.try_recv().is_err());
    let late = world.join(&session(2, "bob")).await.unwrap();
    assert_eq!(late.head, 0, "what is not in the log is not in the head");
    world.log.0.gate.add_permits(1);
    assert_eq!(answers(&ada, 1).await, [Ok(1)]);
    assert_eq!(joined.subscription.recv().await.unwrap().batch.last(), 1);
    world.log.0.gate.add_permits(1);
    assert_eq!(answers(&ada, 3).await, [Ok(2), Ok(3), Ok(2)]);
    let batch = Arc::clone(&joined.subscription.recv().await.unwrap().batch);
    assert_eq!((batch.first(), batch.last()), (2, 3), "one append took what had gathered");
}

#[tokio::test]
async fn who_has_read_from_the_log_what_its_append_has_not_returned_for_resumes_after_that() {
    let world = World::new(Config::default(), BOUNDS);
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    let epoch = world.join(&ada).await.unwrap().epoch;
    world.mood(SLOW);
    world.send_posts(&ada, &["a"]).await;
    let resume_in = async |epoch, seq| {
        let (group, session) = (world.group.clone(), Arc::clone(&bob));
        let from = JoinFrom::After { seq, epoch: Some(epoch) };
        assert!(world.shards.send(0, Request::Join { group, session, from }).await);
        next_event(&bob.inbox).await
    };
    let resume = async |seq| resume_in(epoch, seq).await;
    // A message of another life of the group is none of those.
    assert!(matches!(resume_in(epoch + 1, 1).await, Event::Joined(joined) if joined.head == 0));
    let early = resume(1).await;
    assert!(matches!(early, Event::JoinRefused { refusal: Refusal::Unavailable { .. }, .. }), "{early:?}");
    world.log.0.gate.add_permits(1);
    assert_eq!(answers(&ada, 1).await, [Ok(1)]);
    let Event::Joined(joined) = resume(1).await else { panic!("not joined") };
    assert_eq!((joined.head, joined.subscribed_at), (1, 1), "what it has seen is there");
    // What nobody has posted is another matter.
    assert!(matches!(resume(2).await, Event::Joined(joined) if joined.head == 1));
}

#[tokio::test]
async fn a_failed_append_refuses_all_that_hangs_on_it_and_leaves_no_hole() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    let mut joined = world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    world.mood(FAILING);
    let refused = Refusal::Unavailable { group: world.group.clone(), retry_after: RETRY_SOON };
    let outcome = world.post(&ada, &["b", "a", "b"]).await;
    assert_eq!(outcome, [Err(refused.clone()), Ok(1), Err(refused)], "what was stored before stays so");
    world.mood(WELL);
    assert_eq!(world.post(&ada, &["b", "c"]).await, [Ok(2), Ok(3)]);
    let mut seen = Vec::new();
    while let Ok(delivery) = joined.subscription.try_recv() {
        seen.extend(delivery.batch.records.iter().map(|record| (record.seq, record.message.to_string())));
    }
    let expected = [(1, "message a"), (2, "message b"), (3, "message c")].map(|(seq, text)| (seq, text.to_owned()));
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn a_writer_that_was_overtaken_goes_on_from_where_the_log_is() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    let joined = world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    world.store_elsewhere(joined.epoch, 2).await;
    assert!(matches!(world.post(&ada, &["b"]).await[..], [Err(Refusal::Unavailable { .. })]));
    assert_eq!(world.post(&ada, &["b"]).await, [Ok(3)]);
    assert_eq!(joined.status.head(), 3);
}

#[tokio::test]
async fn limits_of_members_and_groups_are_kept() {
    let world = World::new(Config::default(), BOUNDS);
    for id in 0..3 {
        world.join(&session(id, "ada")).await.unwrap();
    }
    let full = Refusal::GroupFull { group: world.group.clone(), max: 3 };
    assert_eq!(world.join(&session(3, "ada")).await.unwrap_err(), full);
    assert_eq!(world.join(&session(0, "ada")).await.unwrap().members, 3, "who is in may join again");
    let name = |name| GroupName::new(name).unwrap();
    world.join_group(&name("H"), &session(1, "ada")).await.unwrap();
    world.join_group(&name("I"), &session(1, "ada")).await.unwrap();
    let full = Refusal::ServerFull { group: name("J"), max: 3 };
    assert_eq!(world.join_group(&name("J"), &session(1, "ada")).await.unwrap_err(), full);
}

#[tokio::test]
async fn who_may_only_post_as_a_member_is_told_so() {
    let world = World::new(Config::default(), Bounds { post_without_join: false, ..BOUNDS });
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
    assert_eq!(world.post(&bob, &["a"]).await, [Err(Refusal::NotAMember(world.group.clone()))]);
}

#[tokio::test(start_paused = true)]
async fn a_kick_removes_and_holds_for_its_time() {
    let world = World::new(Config::default(), BOUNDS);
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    world.join(&ada).await.unwrap();
    world.join(&bob).await.unwrap();
    let kick = async |group: Option<GroupName>| {
        let (target, time) = (Target::User(ada.user.clone()), Duration::from_secs(10));
        let hold = Hold::new(group.clone(), Some(target.clone()), time);
        let (hold, reason) = (Term::of(&world.shards.holds().keep(hold).await.unwrap(), time), Some("spam".into()));
        world.shards.ask(0, move |reply| Admin::Kick { group, target, reason, hold, reply }).await
    };
    assert_eq!(kick(Some(world.group.clone())).await.unwrap(), Ok(Some(vec![ada.id])));
    let Event::Removed { removal: Removal::Kicked, detail: Some(detail), .. } = next_event(&ada.inbox).await else {
        panic!("not told")
    };
    assert_eq!(&*detail, "spam");
    assert!(matches!(world.join(&ada).await, Err(Refusal::Kicked { .. })));
    assert!(
        matches!(world.post(&ada, &["a"]).await[..], [Err(Refusal::Kicked { .. })]),
        "nor may it post from outside"
    );
    assert_eq!(world.post(&bob, &["a"]).await, [Ok(1)]);
    assert_eq!(kick(Some(GroupName::new("nowhere").unwrap())).await.unwrap(), Ok(None));
    tokio::time::advance(Duration::from_secs(11)).await;
    world.join(&ada).await.unwrap();
    assert_eq!(kick(None).await.unwrap(), Ok(Some(vec![ada.id])));
    assert!(matches!(next_event(&ada.inbox).await, Event::Removed { .. }));
    assert!(matches!(world.join(&ada).await, Err(Refusal::Kicked { .. })));
    let elsewhere = GroupName::new("elsewhere").unwrap();
    assert!(matches!(world.join_group(&elsewhere, &ada).await, Err(Refusal::Kicked { .. })));
}

#[tokio::test]
async fn a_deleted_group_begins_a_new_life() {
    let world = World::new(Config::default(), BOUNDS);
    // It began where the clock is an hour ahead.
    let epoch = (now_ms() + 3_600_000) * 1024;
    world.store_elsewhere(epoch, 1).await;
    let ada = session(1, "ada");
    let first = world.join(&ada).await.unwrap();
    assert_eq!(first.epoch, epoch);
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(2), Ok(3)]);
    world.delete(None).await.unwrap().unwrap();
    assert!(matches!(next_event(&ada.inbox).await, Event::Removed { removal: Removal::Deleted, .. }));
    assert_eq!(world.post(&ada, &["a"]).await, [Err(Refusal::NoSuchGroup(world.group.clone()))]);
    let second = world.join(&ada).await.unwrap();
    assert!(second.epoch > first.epoch);
    assert_eq!(world.post(&ada, &["a"]).await, [Ok(1)]);
}

#[tokio::test]
async fn a_group_in_which_nobody_is_and_nothing_was_said_goes_when_it_was_not_used_for_a_while() {
    let world = World::new(Config { group_idle: Duration::from_millis(20), ..Config::default() }, BOUNDS);
    let ada = session(1, "ada");
    // More than there may be at a time.
    let mut epochs = std::collections::BTreeSet::new();
    for number in 0..2 * BOUNDS.groups {
        let name = GroupName::new(if number % 2 == 0 { "A" } else { "B" }).unwrap();
        epochs.insert(world.join_group(&name, &ada).await.unwrap().epoch);
        let session = Arc::clone(&ada);
        assert!(world.shards.send(0, Request::Leave { group: name, session, answer: true }).await);
        next_event(&ada.inbox).await;
        while world.shards.groups_here() > 0 {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(epochs.len(), 2 * BOUNDS.groups, "each is another life");
    assert_eq!(world.shards.directory().totals().groups, 0);
}

#[tokio::test]
async fn a_group_of_which_nothing_is_left_is_forgotten_and_begins_another_life() {
    // So long that what is done just now is not idle yet, also on a busy machine.
    let idle = Duration::from_secs(1);
    let world = World::new(Config { group_idle: idle, ..Config::default() }, BOUNDS);
    let ada = session(1, "ada");
    let first = world.join(&ada).await.unwrap();
    assert_eq!(world.post(&ada, &["a", "b"]).await, [Ok(1), Ok(2)]);
    let forget = async || {
        let forget = |reply| Admin::Forget { group: world.group.clone(), reply };
        world.shards.ask(0, forget).await.unwrap().unwrap()
    };
    let leave = async || {
        let (group, session) = (world.group.clone(), Arc::clone(&ada));
        assert!(world.shards.send(0, Request::Leave { group, session, answer: true }).await);
        next_event(&ada.inbox).await;
    };
    leave().await;
    tokio::time::sleep(idle + idle / 10).await;
    assert!(!forget().await, "messages are left");
    assert_eq!(world.purge(None, 2).await, Ok(Some(2)));
    world.join(&ada).await.unwrap();
    assert!(!forget().await, "somebody is in it");
    assert_eq!(world.post(&ada, &["c"]).await, [Ok(3)], "the numbers go on while it lives");
    assert_eq!(world.purge(None, 3).await, Ok(Some(1)));
    leave().await;
    assert!(!forget().await, "it was used just now");
    tokio::time::sleep(idle + idle / 10).await;
    assert!(forget().await);
    assert!(!forget().await);
    assert_eq!(world.shards.groups_here(), 0);
    let second = world.join(&ada).await.unwrap();
    assert!(second.epoch > first.epoch, "no number comes twice in one life");
    assert_eq!(world.post(&ada, &["c"]).await, [Ok(1)], "nor is an id of the life before remembered");
}

#[tokio::test]
async fn groups_of_other_nodes_count() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    world.shards.set_groups_elsewhere(2);
    world.join(&ada).await.unwrap();
    let other = GroupName::new("other").unwrap();
    let full = Refusal::ServerFull { group: other.clone(), max: 3 };
    assert_eq!(world.join_group(&other, &ada).await.unwrap_err(), full);
    world.shards.set_groups_elsewhere(1);
    world.join_group(&other, &ada).await.unwrap();
}

#[tokio::test]
async fn one_user_makes_so_many_groups_and_others_go_on() {
    let world = World::new(Config::default(), Bounds { groups: 100, new_groups_per_user: 2, ..BOUNDS });
    let name = |number: usize| GroupName::new(&format!("g{number}")).unwrap();
    let (ada, bob) = (session(1, "ada"), session(2, "bob"));
    for number in 0..2 {
        world.join_group(&name(number), &ada).await.unwrap();
    }
    assert!(matches!(world.join_group(&name(2), &ada).await, Err(Refusal::TooManyNewGroups { max: 2, .. })));
    world.join_group(&name(2), &bob).await.unwrap();
    world.join_group(&name(2), &ada).await.unwrap();
}

#[tokio::test]
async fn members_of_a_group_that_cannot_be_read_are_unavailable() {
    let world = World::new(Config::default(), BOUNDS);
    world.mood(UNREADABLE);
    let unavailable = Refusal::Unavailable { group: world.group.clone(), retry_after: RETRY_SOON };
    assert_eq!(world.shards.users(world.group.clone(), None, 10).await, Err(unavailable));
    world.mood(WELL);
    assert_eq!(world.shards.users(world.group.clone(), None, 10).await, Ok(None));
}

#[tokio::test]
async fn stopping_finishes_what_was_sent() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    world.join(&ada).await.unwrap();
    world.mood(SLOW);
    world.send_posts(&ada, &["a"]).await;
    world.send_posts(&ada, &["b"]).await;
    let stop = tokio::spawn({
        let shards = world.shards.clone();
        async move { shards.stop().await }
    });
    world.log.0.gate.add_permits(2);
    stop.await.unwrap();
    assert_eq!(answers(&ada, 2).await, [Ok(1), Ok(2)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_announced_to_all_groups_waits_for_the_ids_of_all_at_once() {
    let world = World::new(Config::default(), Bounds { groups: 100, ..BOUNDS });
    let epoch = 1;
    for number in 0..20 {
        let group = GroupName::new(&format!("G{number}")).unwrap();
        let now = now_ms();
        let sender = UserName::new("eve").unwrap();
        let record = crate::log::Record { seq: 1, at: now, sender, id: None, message: "x".into() };
        let batch = Batch { group: group.clone(), epoch, records: vec![record] };
        world.log.append(0, vec![Arc::new(batch)]).await.unwrap();
        world.join_group(&group, &session(number, "ada")).await.unwrap();
    }
    world.mood(READ_SLOWLY);
    let begun = tokio::time::Instant::now();
    let (message, id) = ("we close".into(), Some(PostId::new("1").unwrap()));
    let announce = |reply| Admin::Announce { group: None, message, id, reply };
    let announced = world.shards.ask(0, announce).await.unwrap().unwrap().unwrap();
    for answer in futures_util::future::join_all(announced).await {
        assert_eq!(answer.unwrap().unwrap().seq, 2);
    }
    assert_eq!((world.log.0.reads.load(Ordering::Relaxed), begun.elapsed().as_secs()), (20, 1));
}
