//! What an owner does for other nodes: it carries out their requests, and tells them what happens in the shard.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::time::Instant;

use super::append::{Answer, Asker};
use super::seat::Role;
use super::{Group, Owner, taken_in};
use crate::shard::Listed;
use crate::shard::peers::Asked;
use crate::shard::request::Redaction;
use crate::shard::session::{ConnectionId, Removal, Stored};
use crate::shard::wire::{
    self, Ask, BatchTold, Item, MemberTold, Outcome, Person, RedactionTold, Refused, Removed, Reply, Tell,
};
use crate::shard::{Batch, Record, Refusal, Session};

mod execution;
mod roll;
mod unread;

pub(super) use execution::Execution;
use execution::Replying;
use unread::Unread;

/// Bytes of messages in one frame, beside its last.
const FRAME_BYTES: usize = 96 * 1024;
/// Removals in one frame, and as many are told again to whoever missed them, however long ago they were told.
const KEPT_REMOVALS: usize = 1_024;
/// How long further ones are told again: by then whoever hears anything has learned from a beat that it missed them.
const KEPT: Duration = Duration::from_secs(30);
/// The first wait before mirrors are told that nothing more was told, and the longest.
const BEATS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// What an owner keeps for other nodes.
pub(super) struct Serving {
    reign: u64,
    /// Since when.
    since: Instant,
    /// Bytes that a message to another node may have.
    frame_bytes: usize,
    pub(super) asked: BoxStream<'static, Asked>,
    /// The last frame of each node.
    links: HashMap<String, Link>,
    /// The number of the last frame that was told.
    told: u64,
    /// What is to be told.
    untold: Vec<BatchTold>,
    untold_removals: Vec<Removed>,
    /// Nodes that are to tell who is a member there.
    untold_rolls: Vec<String>,
    /// The last list of nodes that was another one than that before, each with its start.
    nodes: Arc<HashMap<String, String>>,
    /// Nodes that it did not have, of those that asked something or had members.
    absent: HashSet<String>,
    /// With the number of the frame in which it was told, and when.
    removals: VecDeque<(u64, Instant, Removed)>,
    pub(super) beat_at: Option<Instant>,
    beat: Duration,
    pub(super) unread: Unread,
}

struct Link {
    instance: String,
    number: u64,
    execution: Arc<Execution>,
}

impl Serving {
    pub(super) fn new(reign: u64, frame_bytes: usize, asked: BoxStream<'static, Asked>) -> Self {
        Self {
            reign,
            since: Instant::now(),
            frame_bytes,
            asked,
            links: HashMap::new(),
            told: 0,
            untold: Vec::new(),
            untold_removals: Vec::new(),
            untold_rolls: Vec::new(),
            nodes: Arc::default(),
            absent: HashSet::new(),
            removals: VecDeque::new(),
            // Whoever followed the owner before learns of this one.
            beat_at: Some(Instant::now()),
            beat: BEATS.0,
            unread: Unread::default(),
        }
    }

    /// The position of this node's message on the shard's fence.
    pub(super) fn reign(&self) -> u64 {
        self.reign
    }

    /// Whether the shard is owned for so long: until then other nodes may not have told who is a member there.
    pub(super) fn is_owned_for(&self, time: Duration) -> bool {
        self.since.elapsed() >= time
    }

    /// Takes what is to be told, in frames that are not too large.
    fn take_untold(&mut self) -> Vec<Bytes> {
        let mut removals = std::mem::take(&mut self.untold_removals);
        let mut frames = Vec::new();
        let (mut part, mut size) = (Vec::new(), 0);
        for batch in std::mem::take(&mut self.untold) {
            if size > 0 && size + batch.size() > FRAME_BYTES {
                self.number(std::mem::take(&mut part), Vec::new(), &mut frames);
                size = 0;
            }
            size += batch.size();
            part.push(batch);
        }
        while !(part.is_empty() && removals.is_empty()) {
            let rest = removals.split_off(removals.len().min(KEPT_REMOVALS));
            self.number(std::mem::take(&mut part), removals, &mut frames);
            removals = rest;
        }
        if !self.untold_rolls.is_empty() {
            self.told += 1;
            let (reign, number, rolls) = (self.reign, self.told, std::mem::take(&mut self.untold_rolls));
            frames.push(wire::encode(&Tell { reign, number, batches: Vec::new(), removed: Vec::new(), rolls }));
        }
        (self.beat_at, self.beat) = (Some(Instant::now() + BEATS.0), BEATS.0);
        frames
    }

    /// Notes messages that the log has taken, in parts that are not too large.
    pub(super) fn tell(&mut self, batch: &Batch) {
        let mut rest = &batch.records[..];
        while !rest.is_empty() {
            let mut size = 0;
            let fits = |record: &&Record| {
                size += record.size();
                size <= FRAME_BYTES
            };
            let (part, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            self.untold.push(BatchTold::of(&batch.group, batch.epoch, part));
            rest = after;
        }
    }

    /// Gives what is told its number, in one frame, or in several where one would be larger than it may be.
    fn number(&mut self, batches: Vec<BatchTold>, removed: Vec<Removed>, frames: &mut Vec<Bytes>) {
        let (reign, number, rolls) = (self.reign, self.told + 1, Vec::new());
        let tell = Tell { reign, number, batches, removed, rolls };
        let frame = wire::encode(&tell);
        let Tell { mut batches, mut removed, .. } = tell;
        if frame.len() > self.frame_bytes && batches.len() + removed.len() > 1 {
            let rest = match (batches.len(), removed.len()) {
                (0, count) => (Vec::new(), removed.split_off(count / 2)),
                (count, 0) => (batches.split_off(count / 2), Vec::new()),
                _ => (Vec::new(), std::mem::take(&mut removed)),
            };
            self.number(batches, removed, frames);
            return self.number(rest.0, rest.1, frames);
        }
        self.told = number;
        let now = Instant::now();
        self.removals.extend(removed.into_iter().map(|removed| (number, now, removed)));
        self.forget_removals();
        frames.push(frame);
    }

    fn forget_removals(&mut self) {
        let excess = self.removals.len().saturating_sub(KEPT_REMOVALS);
        let old = self.removals.iter().take(excess).take_while(|(_, told, _)| told.elapsed() > KEPT).count();
        self.removals.drain(..old);
    }
}

impl Owner {
    /// Carries out what another node asks.
    pub(super) async fn on_asked(&mut self, asked: Asked) {
        let Asked { frame, answer } = asked;
        let ask: Ask = match wire::decode(&frame) {
            Ok(ask) => ask,
            Err(error) => {
                tracing::warn!(shard = self.shard, %error, "another node asks something that cannot be understood");
                answer(wire::encode(&Reply::Unfit { why: error.to_string() }));
                return;
            }
        };
        let shard = self.shard;
        let Some(serving) = self.serving_mut() else { return answer(wire::encode(&Reply::NotOwner)) };
        match ask.reign.cmp(&serving.reign) {
            std::cmp::Ordering::Less => return answer(wire::encode(&Reply::Reign { reign: serving.reign })),
            std::cmp::Ordering::Equal => {}
            // The shard was taken since, and who has it answers: of two answers the first would be believed. One that appends nothing
            // would not learn it so soon otherwise; and if nobody has the shard any more it must be taken anew.
            std::cmp::Ordering::Greater => {
                let ours = serving.reign;
                // Requests are answered meanwhile, as where that is ordered.
                if let Some(seat) = &mut self.seat
                    && !std::mem::replace(&mut seat.is_lost, true)
                {
                    tracing::info!(shard, node = ask.node, reign = ask.reign, ours, "another node took the shard");
                }
                return;
            }
        }
        match serving.links.get(&ask.node) {
            Some(link) if link.instance == ask.instance => match ask.number.cmp(&link.number) {
                // It is not waited for any more.
                std::cmp::Ordering::Less => return,
                std::cmp::Ordering::Equal => return link.execution.again(answer),
                std::cmp::Ordering::Greater => {}
            },
            Some(_) => self.forget_start_before(&ask.node),
            None => {}
        }
        // What was told divides what had happened before from what happens after.
        self.flush_told();
        let Some(serving) = self.serving_mut() else { return };
        let home: Arc<str> = Arc::from(ask.node.as_str());
        let (reign, told, frame_bytes) = (serving.reign, serving.told, serving.frame_bytes);
        let roll = match ask.roll {
            Some(roll) => self.on_roll(roll, &home).await,
            None => Vec::new(),
        };
        let reply = Replying { reign, number: ask.number, told, roll };
        let execution = Arc::new(Execution::new(reply, ask.items.len(), frame_bytes, answer));
        let link = Link { instance: ask.instance, number: ask.number, execution: Arc::clone(&execution) };
        if let Some(serving) = self.serving_mut() {
            serving.links.insert(ask.node, link);
        }
        let mut items = ask.items.into_iter();
        let mut place = 0;
        while let Some(item) = items.next() {
            let outcome = self.carry_out(item, &home, &execution, place).await;
            if self.ahead.has_asked {
                self.look_ahead(items.as_slice().iter().filter_map(Item::needs)).await;
            }
            if self.is_fenced() {
                // Another node has the shard, as an append showed that was waited for. The rest is not for this one, nor may it be stored
                // before what the frame began with, which is sent again.
                return execution.give_up();
            }
            if let Some(outcome) = outcome {
                execution.set(place, outcome);
            }
            place += 1;
        }
        execution.finish();
    }

    /// Carries out one request; `None` if its outcome comes with an append.
    async fn carry_out(
        &mut self,
        item: Item,
        home: &Arc<str>,
        execution: &Arc<Execution>,
        place: usize,
    ) -> Option<Outcome> {
        let outcome = match item {
            Item::Join { group, person, from } => {
                let session = Arc::new(session(person, home));
                let joined = self.join(&group, &session, from).await.map(|joined| Outcome::Joined {
                    epoch: joined.epoch,
                    head: joined.head,
                    first: joined.first,
                    members: joined.members,
                });
                self.shared.metrics.join_refused.increment(u64::from(joined.is_err()));
                joined
            }
            Item::Leave { group, id, user, asked } => {
                let address = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
                let session = session(Person { id, user, address, joined_at: 0 }, home);
                Ok(Outcome::Left { was_member: self.leave(&group, &session, asked) })
            }
            Item::Post { group, person, message, id, traceparent } => {
                let session = session(person, home);
                let received = std::time::Instant::now();
                let trace =
                    traceparent.and_then(|parent| self.shared.tracer.forwarded(&parent, received, session.id.0));
                match self.take_post(&group, &session, message, &id).await {
                    // A repeat of what is stored, which waits for no append.
                    Ok(stored) if self.is_overdue() => return Some(Outcome::of_post(&Ok(stored))),
                    Ok(stored) => {
                        self.staged.traced += usize::from(trace.is_some());
                        let to = Asker::Node(Arc::clone(execution), place);
                        self.staged.answers.push(Answer {
                            to,
                            group,
                            id: None,
                            outcome: Ok(stored),
                            trace,
                            weight: None,
                        });
                        return None;
                    }
                    Err(refusal) => {
                        // Else the frame is sent again, and the next owner tells.
                        if !self.is_fenced() {
                            self.shared.metrics.post_refused(&refusal);
                            if let Some(trace) = trace {
                                trace.refused(self.shard, &group, refusal.reason());
                            }
                        }
                        Err(refusal)
                    }
                }
            }
            Item::Users { group, after, limit } => {
                let page = |group: &mut Group| group.users_after(after.as_deref(), limit);
                self.load(&group).await.map(|group| Outcome::Users { page: group.map(page) })
            }
            Item::Look { group } => {
                let listing = |listed: Option<Listed>| Outcome::Look { group: listed.map(|listed| listed.tell()) };
                self.look(&group).await.map(listing)
            }
            Item::Members { group, after, limit } => {
                let page = |group: &mut Group| group.members_after(after).take(limit).map(member).collect();
                self.load(&group).await.map(|group| Outcome::Members { page: group.map(page) })
            }
            Item::Kick { group, target, reason, hold } => {
                self.kick(group, &target, reason, hold).await.map(|connections| Outcome::Kicked { connections })
            }
            Item::End { group, how, reason, hold, epoch } => {
                self.end(group, how, reason, hold, epoch).await.map(|ended| Outcome::Ended { ended })
            }
            Item::Purge { group, through, epoch } => {
                self.purge(&group, through, epoch).await.map(|removed| Outcome::Purged { removed })
            }
            Item::Redact { group, selection, epoch, telling } => {
                let told = match self.redact(&group, &selection, epoch, &telling).await {
                    Ok(Redaction::NoSuchGroup) => Ok(RedactionTold::NoSuchGroup),
                    Ok(Redaction::NoSuchMessage) => Ok(RedactionTold::NoSuchMessage),
                    Ok(Redaction::RemovedQuietly(removed)) => Ok(RedactionTold::RemovedQuietly(removed)),
                    Ok(Redaction::Removed { messages, told }) => {
                        let execution = Arc::clone(execution);
                        // Its outcome comes with the append.
                        tokio::spawn(async move {
                            let told = told.await.unwrap_or(Err(Refusal::Draining));
                            let told = told.map_err(|refusal| Refused::from(&refusal));
                            let told = RedactionTold::Removed { messages, told };
                            execution.set(place, Outcome::Redacted { told });
                        });
                        return None;
                    }
                    Err(refusal) => Err(refusal),
                };
                told.map(|told| Outcome::Redacted { told })
            }
            Item::Announce { group, message, id } => {
                let id = PostId::from_stored(&id).ok();
                match self.announce(group, &message, id.as_ref()).await {
                    Ok(Some(announced)) => {
                        let execution = Arc::clone(execution);
                        // Their outcomes come with the append.
                        tokio::spawn(async move {
                            let mut groups = Vec::new();
                            for outcome in announced {
                                let outcome = outcome.await.unwrap_or(Err(Refusal::Draining));
                                groups.push(outcome.map_err(|refusal| Refused::from(&refusal)));
                            }
                            execution.set(place, Outcome::Announced { groups: Some(groups) });
                        });
                        return None;
                    }
                    Ok(None) => Ok(Outcome::Announced { groups: None }),
                    Err(refusal) => Err(refusal),
                }
            }
            Item::Unknown => Ok(Outcome::Unknown),
        };
        Some(outcome.unwrap_or_else(|refusal| Outcome::Refused { refused: Refused::from(&refusal) }))
    }

    async fn take_post(
        &mut self,
        group: &GroupName,
        session: &Session,
        message: Arc<str>,
        id: &str,
    ) -> Result<Stored, Refusal> {
        let id = PostId::from_stored(id).ok();
        self.keep_small().await;
        // It may have become that just now. Nothing is given a place behind it: what is placed then counts as stored.
        if self.is_overdue() {
            return self.turned_down(group, &session.user, id.as_ref());
        }
        if self.is_fenced() {
            return Err(super::unavailable(group));
        }
        if !self.is_repeat(group, session, id.as_ref(), taken_in()) {
            self.ready_for_post(group, session, id.as_ref()).await?;
        }
        let received = std::time::Instant::now();
        self.place(group, &session.user, id.as_ref(), message, taken_in(), received)
    }

    /// Notes that a moderator ended a membership on another node.
    pub(super) fn tell_removed(
        &mut self,
        group: &GroupName,
        id: ConnectionId,
        how: Removal,
        detail: Option<&Arc<str>>,
    ) {
        if let Some(serving) = self.serving_mut() {
            serving.untold_removals.push(super::mirror::removed(group, id, how, detail));
        }
    }

    /// Tells what is to be told.
    pub(super) fn flush_told(&mut self) {
        let shard = self.shard;
        let Some(seat) = &mut self.seat else { return };
        let Role::Owner(serving) = &mut seat.role else { return };
        if serving.untold.is_empty() && serving.untold_removals.is_empty() && serving.untold_rolls.is_empty() {
            return;
        }
        for frame in serving.take_untold() {
            self.shared.metrics.told.increment(1);
            seat.peers.tell(shard, frame);
        }
    }

    /// Tells mirrors up to which number they should have heard.
    pub(super) fn beat(&mut self) {
        let shard = self.shard;
        let is_heard = self.groups.values().any(Group::is_remote);
        let Some(seat) = &mut self.seat else { return };
        let Role::Owner(serving) = &mut seat.role else { return };
        let is_first = serving.told == 0 && serving.beat == BEATS.0;
        serving.beat = (serving.beat * 2).min(BEATS.1);
        serving.forget_removals();
        // Also while no member of another node is known: a node that missed what told it of this reign has none here until it hears of it.
        let goes_on = is_heard || is_first || seat.peers.are_there();
        serving.beat_at = goes_on.then(|| Instant::now() + serving.beat);
        let (reign, number) = (serving.reign, serving.told);
        let (batches, removed, rolls) = Default::default();
        seat.peers.tell(shard, wire::encode(&Tell { reign, number, batches, removed, rolls }));
    }
}

impl Outcome {
    pub(super) fn of_post(outcome: &Result<Stored, Refusal>) -> Self {
        match outcome {
            Ok(Stored { epoch, seq, at }) => Self::Stored { epoch: *epoch, seq: *seq, at: *at },
            Err(refusal) => Self::Refused { refused: Refused::from(refusal) },
        }
    }
}

fn session(person: Person, home: &Arc<str>) -> Session {
    let Person { id, user, address, .. } = person;
    Session { id, user, address, inbox: Arc::default(), home: Some(Arc::clone(home)), wants_places: true }
}

fn member(member: &crate::shard::request::Member) -> MemberTold {
    let session = &member.session;
    let user: UserName = session.user.clone();
    let person = Person { id: session.id, user, address: session.address, joined_at: member.joined_at };
    MemberTold { person, delivered: member.progress.delivered(), catching_up: member.progress.is_catching_up() }
}
