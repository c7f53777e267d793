//! A shard that another node owns: requests go there, in their order, and what that node delivers is passed on to the members here.
//!
//! One frame of requests is under way at a time; those that come meanwhile gather for the next. A frame that is not answered is
//! sent again, to whoever owns the shard then. An owner carries out a frame once, by its number; and a new owner knows by its `id`
//! whether a post is stored, which is why every post has one here.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use tertulia_protocol::{GroupName, PostId};
use tokio::time::Instant;

use super::seat::{News, at};
use super::turn::TAIL;
use super::{Owner, now_ms};
use crate::log::{Range, ReadError};
use crate::shard::peers::Silence;
use crate::shard::request::{Admin, Posts, Request};
use crate::shard::session::{ConnectionId, Event, RETRY_SOON, Removal};
use crate::shard::wire::{self, Ask, Item, Person, Removed, Reply, Roll, RollAnswer, RollOfGroup, Tell};
use crate::shard::{Batch, Config, Refusal, Session};

mod conclude;

/// Bytes of messages in one frame, beside its last.
const FRAME_BYTES: usize = 96 * 1024;
/// Requests in one frame.
const FRAME_ITEMS: usize = 512;
/// Members in one part of a roll.
const ROLL_MEMBERS: usize = 2_000;
/// How long a message that must come may take before it is looked for in the log.
const LATE: Duration = Duration::from_millis(500);
/// How soon it is looked for again.
const LATE_AGAIN: Duration = Duration::from_millis(100);
/// The first wait before a frame is sent again, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(4), Duration::from_millis(100));

/// What this node knows of a shard that another one owns.
#[derive(Default)]
pub(super) struct Mirror {
    /// Requests that are not answered, oldest first; those of the frame under way are the first.
    pub(super) outbox: VecDeque<Pending>,
    flight: Option<Flight>,
    /// Of the last frame.
    number: u64,
    /// What is known of the owner's reign; 0: nothing.
    reign: u64,
    /// Parts of the roll that are to be sent before anything else.
    roll: Option<VecDeque<Roll>>,
    /// Whether the roll is to be made.
    roll_is_due: bool,
    told: Option<BoxStream<'static, Bytes>>,
    /// The number of the last frame that was told, if that is known.
    heard: Option<u64>,
    /// The number of the last one before something was missed, until the owner is asked for it.
    missed: Option<u64>,
    /// The newest messages of groups that nobody here is in, as far as they passed since the frame under way was sent.
    passed: HashMap<GroupName, (u64, u64)>,
    /// Groups with a message that is in the log and did not come yet.
    late: HashMap<GroupName, u64>,
    late_at: Option<Instant>,
    reading: Option<BoxFuture<'static, Page>>,
}

/// A request that the owner has not answered.
pub(super) struct Pending {
    pub(super) request: Request,
    since: Instant,
}

/// What was read for a group with a late message.
pub(super) type Page = (GroupName, Result<Option<crate::log::Page>, ReadError>);

/// A frame under way.
struct Flight {
    frame: Bytes,
    /// How many of the oldest requests are in it.
    count: usize,
    with_roll: bool,
    /// The wait before it is sent again.
    again: Duration,
    asking: BoxFuture<'static, Result<Bytes, Silence>>,
}

pub(super) type Replied = Result<Bytes, Silence>;

impl Mirror {
    pub(super) fn has_room(&self, config: &Config) -> bool {
        self.outbox.len() < config.append_posts
    }

    /// The owner is to be told who is a member here.
    pub(super) fn call_roll(&mut self) {
        self.roll_is_due = true;
    }

    /// Waits for news. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> News {
        let Self { flight, told, reading, late_at, .. } = self;
        let replied = async {
            match flight {
                Some(flight) => (&mut flight.asking).await,
                None => std::future::pending().await,
            }
        };
        let told = async {
            match told {
                Some(told) => told.next().await,
                None => std::future::pending().await,
            }
        };
        let read = async {
            match reading {
                Some(reading) => reading.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            replied = replied => News::Replied(replied),
            frame = told => News::Told(frame),
            page = read => News::LatePage(page),
            () = at(*late_at) => News::Late,
        }
    }

    fn is_late(&mut self, group: &GroupName, seq: u64, by: Duration) {
        let newest = self.late.entry(group.clone()).or_default();
        *newest = seq.max(*newest);
        let at = Instant::now() + by;
        self.late_at = Some(self.late_at.map_or(at, |before| before.min(at)));
    }
}

impl Owner {
    /// Takes a request for the owner.
    pub(super) fn forward(&mut self, request: Request) {
        let since = Instant::now();
        let Some(mirror) = self.mirror_mut() else { return };
        match request {
            Request::Asked(asked) => (asked.answer)(wire::encode(&Reply::NotOwner)),
            // Whoever has the shard now sees to it.
            Request::Admin(admin) if matches!(*admin, Admin::Forget { .. }) => {}
            Request::Post(Posts { session, posts, received }) => {
                for mut post in posts {
                    post.id.get_or_insert_with(own_id);
                    let request = Request::Post(Posts { session: Arc::clone(&session), posts: vec![post], received });
                    mirror.outbox.push_back(Pending { request, since });
                }
            }
            mut request => {
                if let Request::Admin(admin) = &mut request
                    && let Admin::Announce { id, .. } = &mut **admin
                {
                    id.get_or_insert_with(own_id);
                }
                mirror.outbox.push_back(Pending { request, since });
            }
        }
    }

    /// Sends the next frame, if there is none under way and something to send.
    pub(super) async fn start_flight(&mut self) {
        let (shard, node, instance) = match &self.seat {
            Some(seat) => (self.shard, Arc::clone(&seat.node), Arc::clone(&seat.instance)),
            None => return,
        };
        let Some(mirror) = self.mirror_mut() else { return };
        let nothing = mirror.outbox.is_empty() && mirror.roll.is_none() && !mirror.roll_is_due;
        if mirror.flight.is_some() || nothing {
            return;
        }
        if std::mem::take(&mut mirror.roll_is_due) {
            self.make_roll();
        }
        self.listen().await;
        let Some(mirror) = self.mirror_mut() else { return };
        let roll = mirror.roll.as_mut().and_then(VecDeque::pop_front);
        let is_last = mirror.roll.as_ref().is_none_or(VecDeque::is_empty);
        if is_last {
            mirror.roll = None;
        }
        let mut items = Vec::new();
        let mut size = 0;
        if is_last {
            for pending in mirror.outbox.iter().take(FRAME_ITEMS) {
                let item = item_of(&pending.request);
                if let Item::Post { message, .. } | Item::Announce { message, .. } = &item {
                    size += message.len();
                }
                items.push(item);
                if size > FRAME_BYTES {
                    break;
                }
            }
        }
        mirror.number += 1;
        mirror.passed.clear();
        let (count, with_roll) = (items.len(), roll.is_some());
        let (number, reign) = (mirror.number, mirror.reign);
        let ask = Ask { node: (*node).to_owned(), instance: (*instance).to_owned(), number, reign, roll, items };
        self.send_frame(shard, wire::encode(&ask), count, with_roll);
    }

    fn send_frame(&mut self, shard: u16, frame: Bytes, count: usize, with_roll: bool) {
        let Some(seat) = &self.seat else { return };
        let asking = seat.peers.ask(shard, frame.clone());
        let flight = Flight { frame, count, with_roll, again: AGAIN.0, asking };
        self.shared.metrics.forwarded.increment(count as u64);
        if let Some(mirror) = self.mirror_mut() {
            mirror.flight = Some(flight);
        }
    }

    /// Sends the frame under way once more, after a moment.
    fn send_again(&mut self, shard: u16) {
        let Some(seat) = &self.seat else { return };
        let peers = Arc::clone(&seat.peers);
        let Some(mirror) = self.mirror_mut() else { return };
        let Some(flight) = &mut mirror.flight else { return };
        let (wait, frame) = (flight.again, flight.frame.clone());
        flight.again = (wait * 2).min(AGAIN.1);
        flight.asking = Box::pin(async move {
            tokio::time::sleep(wait).await;
            peers.ask(shard, frame).await
        });
        self.shared.metrics.forwarded_again.increment(1);
    }

    /// Another node may own the shard now: it is asked at once.
    pub(super) fn hasten(&mut self) {
        let Some(flight) = self.mirror_mut().and_then(|mirror| mirror.flight.as_mut()) else { return };
        flight.again = AGAIN.0;
        self.send_again(self.shard);
    }

    /// Hears what the owner tells, if there is anybody to tell it to.
    async fn listen(&mut self) {
        let shard = self.shard;
        let joins = |mirror: &Mirror| {
            mirror.outbox.iter().take(FRAME_ITEMS).any(|pending| matches!(pending.request, Request::Join { .. }))
        };
        let wanted = !self.groups.is_empty() || self.mirror().is_some_and(joins);
        let Some(seat) = &self.seat else { return };
        let peers = Arc::clone(&seat.peers);
        if self.mirror().is_some_and(|mirror| wanted == mirror.told.is_some()) {
            return;
        }
        let told = if wanted { peers.told(shard).await.ok() } else { None };
        if let Some(mirror) = self.mirror_mut() {
            (mirror.told, mirror.heard) = (told, None);
        }
    }

    fn make_roll(&mut self) {
        let mut parts = VecDeque::new();
        let missed = self.mirror_mut().and_then(|mirror| mirror.missed.take().or(mirror.heard));
        let heard = missed.unwrap_or(u64::MAX);
        let mut part = Roll { begins: true, heard, groups: Vec::new() };
        let mut count = 0;
        for (name, group) in &self.groups {
            let mut members = group.members().map(|member| person(&member.session, member.joined_at)).peekable();
            while members.peek().is_some() {
                let members: Vec<Person> = members.by_ref().take(ROLL_MEMBERS).collect();
                count += members.len();
                let (epoch, head) = (group.epoch(), group.head());
                part.groups.push(RollOfGroup { group: name.clone(), epoch, head, members });
                if count >= ROLL_MEMBERS {
                    let next = Roll { begins: false, heard, groups: Vec::new() };
                    parts.push_back(std::mem::replace(&mut part, next));
                    count = 0;
                }
            }
        }
        if parts.is_empty() || !part.groups.is_empty() {
            parts.push_back(part);
        }
        if let Some(mirror) = self.mirror_mut() {
            mirror.roll = Some(parts);
        }
    }

    pub(super) fn on_replied(&mut self, replied: Replied) {
        let shard = self.shard;
        let Some(mirror) = self.mirror_mut() else { return };
        let reply = match replied {
            Ok(bytes) => wire::decode::<Reply>(&bytes).unwrap_or_else(|error| Reply::Unfit { why: error.to_string() }),
            Err(error) => {
                let waiting = mirror.outbox.len();
                tracing::debug!(shard, %error, waiting, "the owner of the shard does not answer");
                return self.try_again();
            }
        };
        match reply {
            Reply::Done { reign, number, told, roll, outcomes } if number == mirror.number => {
                let Some(flight) = mirror.flight.take() else { return };
                mirror.heard.get_or_insert(told);
                mirror.reign = reign;
                roll.into_iter().for_each(|answer| self.on_roll_answer(answer));
                self.conclude_all(flight.count, outcomes);
            }
            Reply::Reign { reign } => {
                mirror.flight = None;
                mirror.follow(reign);
                if !self.groups.is_empty()
                    && let Some(mirror) = self.mirror_mut()
                {
                    mirror.call_roll();
                }
            }
            Reply::Done { .. } | Reply::NotOwner | Reply::Unknown => self.try_again(),
            Reply::Unfit { why } => {
                // An upgrade that is under way may bring another owner.
                tracing::warn!(shard, why, "the owner of the shard does not understand this node");
                self.try_again();
            }
        }
    }

    /// Sends the frame again, unless its requests have waited for too long.
    fn try_again(&mut self) {
        let patience = self.seat.as_ref().map_or(Duration::ZERO, |seat| seat.patience);
        let is_over = |pending: &Pending| pending.since.elapsed() > patience;
        let over = self.mirror().and_then(|mirror| mirror.outbox.front()).is_some_and(is_over);
        if over { self.give_up_flight() } else { self.send_again(self.shard) }
    }

    /// Nobody is going to answer the requests of the frame under way.
    fn give_up_flight(&mut self) {
        let Some(mirror) = self.mirror_mut() else { return };
        let Some(flight) = mirror.flight.take() else { return };
        if flight.with_roll {
            mirror.roll = None;
            mirror.call_roll();
        }
        let given_up: Vec<Pending> = mirror.outbox.drain(..flight.count.min(mirror.outbox.len())).collect();
        self.shared.metrics.unanswered.increment(given_up.len() as u64);
        for pending in given_up {
            self.refuse(pending, |group| Refusal::Unanswered { group, retry_after: RETRY_SOON });
        }
    }

    fn on_roll_answer(&mut self, answer: RollAnswer) {
        let RollAnswer { group: name, now, removed } = answer;
        removed.into_iter().for_each(|removed| self.on_removed(removed));
        let Some(group) = self.groups.get_mut(&name) else { return };
        match now {
            Some((epoch, head)) if epoch == group.epoch() || group.status.head() == 0 => {
                if epoch != group.epoch() {
                    group.move_to(epoch, 0, 0);
                }
                self.expect(&name, head, Duration::ZERO);
            }
            Some(_) | None => self.end_life(&name),
        }
    }

    /// A message of a group is in the log. If it does not come soon it is looked for.
    fn expect(&mut self, name: &GroupName, seq: u64, by: Duration) {
        let Some(group) = self.groups.get(name) else { return };
        group.status.raise_head(seq);
        if group.head() < seq
            && let Some(mirror) = self.mirror_mut()
        {
            mirror.is_late(name, seq, by);
        }
    }

    pub(super) fn on_told(&mut self, frame: Option<Bytes>) {
        let shard = self.shard;
        let Some(mirror) = self.mirror_mut() else { return };
        let Some(frame) = frame else {
            // The connection to NATS has ended; there will be another, or the node stops.
            mirror.told = None;
            return;
        };
        let tell: Tell = match wire::decode(&frame) {
            Ok(tell) => tell,
            Err(error) => {
                tracing::warn!(shard, %error, "the owner of the shard tells something that cannot be understood");
                mirror.call_roll();
                return;
            }
        };
        if tell.reign > mirror.reign && mirror.reign > 0 {
            mirror.follow(tell.reign);
            mirror.call_roll();
            self.hasten();
        }
        let Some(mirror) = self.mirror_mut() else { return };
        if tell.reign >= mirror.reign {
            let is_beat = tell.batches.is_empty() && tell.removed.is_empty();
            let next = mirror.heard.map_or(tell.number, |heard| heard + u64::from(!is_beat));
            if tell.number > next {
                self.shared.metrics.gaps.increment(1);
                if let Some(mirror) = self.mirror_mut() {
                    mirror.missed = mirror.missed.or(mirror.heard);
                    mirror.call_roll();
                }
            }
            if let Some(mirror) = self.mirror_mut() {
                mirror.heard = mirror.heard.max(Some(tell.number));
            }
        }
        // Whoever tells it, a message that is told is in the log.
        for batch in tell.batches.into_iter().filter_map(wire::BatchTold::batch) {
            self.follow_batch(batch);
        }
        tell.removed.into_iter().for_each(|removed| self.on_removed(removed));
    }

    fn follow_batch(&mut self, batch: Batch) {
        let (epoch, last) = (batch.epoch, batch.last());
        let Some(group) = self.groups.get_mut(&batch.group) else {
            if let Some(mirror) = self.mirror_mut().filter(|mirror| mirror.flight.is_some()) {
                mirror.passed.insert(batch.group, (epoch, last));
            }
            return;
        };
        if epoch != group.epoch() {
            if let Some(mirror) = self.mirror_mut() {
                mirror.call_roll();
            }
            return;
        }
        if last > group.head() {
            let newest_at = batch.records.last().map_or(0, |record| record.at);
            group.followed(last, newest_at, batch.records.len() as u64);
            group.deliver(Arc::new(batch), std::time::Instant::now(), None);
        }
    }

    /// A moderator ended a membership, maybe one of ours.
    fn on_removed(&mut self, removed: Removed) {
        let Removed { group: name, id, how, detail } = removed;
        let Some(group) = self.groups.get_mut(&name) else { return };
        let metrics = &self.shared.metrics;
        for session in group.remove_where(|session| session.id == id) {
            let reason = match how {
                Removal::Kicked => &metrics.kicked,
                Removal::Closed => &metrics.closed,
                Removal::Deleted => &metrics.deleted,
            };
            reason.increment(1);
            session.inbox.push(Event::Removed { group: name.clone(), removal: how, detail: detail.clone() });
        }
        self.forget_if_empty(&name);
    }

    fn forget_if_empty(&mut self, name: &GroupName) {
        if self.groups.get(name).is_some_and(|group| group.member_count() == 0) {
            self.groups.remove(name);
            self.shared.directory.remove(name, true);
        }
    }

    pub(super) fn look_for_late(&mut self) {
        let (log, shard) = (Arc::clone(&self.shared.log), self.shard);
        let head = |name: &GroupName| self.groups.get(name).map(super::Group::head);
        let Some(mirror) = self.mirror() else { return };
        let is_late = |(name, seq): &(&GroupName, &u64)| head(name).is_some_and(|head| head < **seq);
        let late: HashMap<GroupName, u64> =
            mirror.late.iter().filter(is_late).map(|(name, seq)| (name.clone(), *seq)).collect();
        let next = late.iter().next().map(|(name, seq)| (name.clone(), *seq));
        let Some(mirror) = self.mirror_mut() else { return };
        (mirror.late, mirror.late_at) = (late, None);
        if let Some((name, seq)) = next {
            self.shared.metrics.late.increment(1);
            let reading = Box::pin(async move {
                let page = log.read(shard, &name, Range::Before(seq + 1), TAIL).await;
                (name, page)
            });
            if let Some(mirror) = self.mirror_mut() {
                mirror.reading = Some(reading);
            }
        }
    }

    pub(super) fn on_late_page(&mut self, (name, page): Page) {
        if let Some(mirror) = self.mirror_mut() {
            mirror.reading = None;
        }
        if let (Ok(Some(page)), Some(group)) = (page, self.groups.get(&name))
            && page.head.epoch == group.epoch()
            && !page.records.is_empty()
        {
            self.follow_batch(Batch { group: name.clone(), epoch: page.head.epoch, records: page.records });
        }
        // Those that are still late are looked for again; others are next.
        let head = self.groups.get(&name).map_or(u64::MAX, super::Group::head);
        if let Some(mirror) = self.mirror_mut() {
            let found = mirror.late.get(&name).is_none_or(|seq| *seq <= head);
            if found {
                mirror.late.remove(&name);
            }
            if !mirror.late.is_empty() {
                let wait = if found { Duration::ZERO } else { LATE_AGAIN };
                mirror.late_at = Some(Instant::now() + wait);
            }
        }
    }
}

impl Mirror {
    /// Another reign.
    fn follow(&mut self, reign: u64) {
        (self.reign, self.heard, self.missed, self.roll) = (reign, None, None, None);
    }
}

fn person(session: &Session, joined_at: u64) -> Person {
    Person { id: session.id, user: session.user.clone(), address: session.address, joined_at }
}

/// An id that no other post has, on any node.
fn own_id() -> PostId {
    use std::hash::BuildHasher;
    // Each `RandomState` has keys of its own, of which the first are random.
    let random = |salt: u64| std::hash::RandomState::new().hash_one((salt, now_ms()));
    PostId::of_server(random(1), random(2))
}

fn item_of(request: &Request) -> Item {
    match request {
        Request::Join { group, session, from } => {
            Item::Join { group: group.clone(), person: person(session, 0), from: *from }
        }
        Request::Leave { group, session, answer } => {
            Item::Leave { group: group.clone(), id: session.id, user: session.user.clone(), asked: *answer }
        }
        Request::Post(Posts { session, posts, .. }) => match posts.first() {
            Some(post) => Item::Post {
                group: post.group.clone(),
                person: person(session, 0),
                message: Arc::clone(&post.message),
                id: post.id.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()),
                traceparent: post.trace.as_ref().map(|trace| trace.traceparent()),
            },
            None => Item::Unknown,
        },
        Request::Members { group, after, limit, .. } => {
            Item::Users { group: group.clone(), after: after.clone(), limit: *limit }
        }
        Request::Admin(admin) => match &**admin {
            Admin::Members { group, after, limit, .. } => {
                Item::Members { group: group.clone(), after: after.clone(), limit: *limit }
            }
            Admin::Look { group, .. } => Item::Look { group: group.clone() },
            Admin::Kick { group, target, reason, hold, .. } => {
                Item::Kick { group: group.clone(), target: target.clone(), reason: reason.clone(), hold: *hold }
            }
            Admin::End { group, how, reason, hold, .. } => {
                Item::End { group: group.clone(), how: *how, reason: reason.clone(), hold: *hold }
            }
            // Only an owner is asked.
            Admin::Forget { .. } => Item::Unknown,
            Admin::Purge { group, through, .. } => Item::Purge { group: group.clone(), through: *through },
            Admin::Announce { group, message, id, .. } => Item::Announce {
                group: group.clone(),
                message: Arc::clone(message),
                id: id.as_ref().map_or_else(String::new, |id| id.as_str().to_owned()),
            },
        },
        // A question of another node is answered at once.
        Request::Asked(_) => Item::Unknown,
    }
}

/// The connection that a removal names.
pub(super) fn removed(group: &GroupName, id: ConnectionId, how: Removal, detail: Option<&Arc<str>>) -> Removed {
    Removed { group: group.clone(), id, how, detail: detail.cloned() }
}
