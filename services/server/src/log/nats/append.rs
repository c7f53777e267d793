//! Extending a shard: one publish under the shard's fence, and certainty about how it ended.
//!
//! An answer that does not come means that the messages may be stored, now or whenever the server comes to them. Before anything is said
//! that is found out (`unanswered`); until then the append has not ended.

use std::sync::Arc;

use bytes::Bytes;
use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::Core;
use super::fence::{Patience, Unread};
use super::known::{Known, Point};
use super::link::{BATCH, Published};
use super::message::{Kind, Message};
use super::trouble::Cause;
use super::writer::Writer;
use crate::log::{AppendError, Batch, Head, Record};

/// Records that one message holds at most. A server without replicas stages every atomic batch in files of its own, for
/// milliseconds, so what an append has for one group should be one message.
pub(super) const PACK_RECORDS: usize = 1_024;
/// Bytes of records that one message holds at most, unless it is a single one. Servers take messages of 1 MiB unless told otherwise.
const PACK_BYTES: usize = 512 * 1024;

/// A message on its way into the log.
#[derive(Debug, Clone)]
pub(super) struct Outgoing {
    pub(super) group: GroupName,
    pub(super) subject: String,
    pub(super) message: Message,
}

/// Where a message of an append is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It is not stored.
    Missing,
    /// At this position of the stream.
    At(u64),
    /// Somewhere before a later one of its group, which tells all that it does.
    Before,
}

/// Where the messages of an append are.
#[derive(Debug)]
pub(super) enum Places {
    /// Side by side, the last one here.
    Together(u64),
    /// It was not stored at once: where each is.
    Apart(Vec<Place>),
}

impl Places {
    /// That of each of `count` messages.
    fn all(&self, count: usize) -> impl Iterator<Item = Place> {
        let (first, apart) = match self {
            Self::Together(last) => ((last + 1).saturating_sub(count as u64), None),
            Self::Apart(places) => (0, Some(places)),
        };
        (first..).zip(0..count).map(move |(position, index)| match apart {
            Some(places) => places.get(index).copied().unwrap_or(Place::Missing),
            None => Place::At(position),
        })
    }

    /// Where the last one is.
    fn last(&self) -> u64 {
        match self {
            Self::Together(last) => *last,
            Self::Apart(places) => match places.last() {
                Some(Place::At(position)) => *position,
                Some(Place::Missing | Place::Before) | None => 0,
            },
        }
    }
}

/// How a publish ended, when it did not simply end well.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing is stored, and the shard is somebody else's.
    Lost,
    /// The shard is somebody else's, and of these groups all is stored up to this `seq`. Nothing more is.
    LostInPart(Vec<(GroupName, u64)>),
    /// Nothing is stored, and it may be later; or the log is closed.
    NotNow(String),
}

pub(super) fn unavailable(reason: impl Into<String>) -> AppendError {
    AppendError::Unavailable { reason: reason.into() }
}

impl Core {
    pub(super) async fn append(self: &Arc<Self>, shard: u16, batches: &[Arc<Batch>]) -> Result<(), AppendError> {
        let begun = Instant::now();
        let this = self.shard(shard);
        let mut writer = this.locks.writer().await;
        let result = self.append_alone(shard, batches, &mut writer).await;
        self.metrics.append_took(begun.elapsed());
        match &result {
            Ok(()) => {
                self.metrics.stored.increment(1);
                batches.iter().for_each(|batch| self.bound_bytes(shard, &batch.group));
            }
            Err(AppendError::Fenced { .. } | AppendError::FencedInPart { .. }) => self.metrics.fenced.increment(1),
            Err(AppendError::Unavailable { .. }) => self.metrics.unavailable.increment(1),
        }
        result
    }

    async fn append_alone(
        &self,
        shard: u16,
        batches: &[Arc<Batch>],
        writer: &mut Writer<'_>,
    ) -> Result<(), AppendError> {
        self.check_open(shard)?;
        let mut outgoing = Vec::with_capacity(batches.len());
        for batch in batches {
            let dense = batch.records.iter().zip(batch.first()..).all(|(record, seq)| record.seq == seq);
            if batch.first() == 0 || !dense {
                return Err(unavailable(format!("a batch for group '{}' is empty or not dense", batch.group)));
            }
            let known = self.known_to_writer(shard, &batch.group, batch.first() - 1).await?;
            let head = known.as_ref().and_then(|known| known.head);
            let found = head.map_or((batch.epoch, 0), |head| (head.epoch, head.seq));
            if found != (batch.epoch, batch.first() - 1) {
                let (group, expected) = (batch.group.clone(), batch.first() - 1);
                return Err(AppendError::Fenced { group, expected, found: found.1 });
            }
            self.pack(shard, batch, known.as_ref(), &mut outgoing);
        }
        if outgoing.len() > BATCH {
            let reason = format!("one append has {} messages, and JetStream takes {BATCH} at once", outgoing.len());
            return Err(unavailable(format!("{reason}: lower shard.append_posts")));
        }
        self.store(shard, &outgoing, writer).await.map_err(|failure| match (failure, batches.first()) {
            (Failure::NotNow(reason), _) => unavailable(reason),
            (Failure::LostInPart(stored), _) => AppendError::FencedInPart { stored },
            (Failure::Lost, Some(batch)) => self.lost_while_appending(batch),
            (Failure::Lost, None) => unavailable("the shard was taken by another writer"),
        })
    }

    fn lost_while_appending(&self, batch: &Batch) -> AppendError {
        let expected = batch.first().saturating_sub(1);
        // The writer reads the head anew anyway.
        AppendError::Fenced { group: batch.group.clone(), expected, found: expected }
    }

    /// Nothing is sent while it is known that nobody takes it: so nothing is in doubt then.
    pub(super) fn check_open(&self, shard: u16) -> Result<(), AppendError> {
        if self.is_closed() {
            return Err(unavailable("the log is closed"));
        }
        match self.trouble.of_stream(self.link.names.stream_of(shard)) {
            Some(reason) => Err(unavailable(reason)),
            None => Ok(()),
        }
    }

    pub(super) async fn known_to_writer(
        &self,
        shard: u16,
        group: &GroupName,
        expected: u64,
    ) -> Result<Option<Known>, AppendError> {
        match self.known(shard, group).await {
            Ok(known) => Ok(known),
            Err(Unread::NoAnswer(error)) => Err(unavailable(error.0)),
            Err(Unread::Taken) => {
                let known = self.known_to_leader(shard, group).await.ok().flatten();
                let found = known.and_then(|known| known.head).map_or(0, |head| head.seq);
                Err(AppendError::Fenced { group: group.clone(), expected, found })
            }
        }
    }

    /// Splits a batch into messages.
    fn pack(&self, shard: u16, batch: &Batch, known: Option<&Known>, outgoing: &mut Vec<Outgoing>) {
        let subject = self.link.names.group(shard, &batch.group);
        let kept = self.rules.of(batch.group.as_str()).messages;
        let mut bytes = known.map_or(0, |known| known.bytes);
        let mut floor = known.and_then(|known| known.head).map_or(1, |head| head.first);
        let most = PACK_BYTES.min(self.link.client.max_payload() / 2);
        let mut rest = &batch.records[..];
        while !rest.is_empty() {
            let mut size = 0;
            let fits = |record: &&Record| {
                size += record.size();
                size <= most
            };
            let count = rest.iter().take(PACK_RECORDS).take_while(fits).count().max(1);
            let (records, after) = rest.split_at(count);
            rest = after;
            bytes += records.iter().map(|record| record.size() as u64).sum::<u64>();
            let (seq, at) = records.last().map_or((0, 0), |record| (record.seq, record.at));
            if kept > 0 {
                floor = floor.max((seq + 1).saturating_sub(kept));
            }
            let message =
                Message { kind: Kind::Records, epoch: batch.epoch, floor, bytes, seq, at, records: records.to_vec() };
            outgoing.push(Outgoing { group: batch.group.clone(), subject: subject.clone(), message });
        }
    }

    /// Stores messages of a shard, all or none unless the shard is lost, and keeps in mind what they change.
    async fn store(&self, shard: u16, outgoing: &[Outgoing], writer: &mut Writer<'_>) -> Result<(), Failure> {
        let places = self.publish(shard, outgoing, writer).await?;
        self.learn(shard, outgoing, &places);
        Ok(())
    }

    pub(super) async fn store_one(
        &self,
        shard: u16,
        outgoing: Outgoing,
        writer: &mut Writer<'_>,
    ) -> Result<u64, AppendError> {
        let one = [outgoing];
        let places = self.publish(shard, &one, writer).await.map_err(|failure| match failure {
            Failure::NotNow(reason) => unavailable(reason),
            // Of one message no part is stored.
            Failure::Lost | Failure::LostInPart(_) => {
                let [outgoing] = &one;
                let seq = outgoing.message.seq;
                AppendError::Fenced { group: outgoing.group.clone(), expected: seq, found: seq }
            }
        })?;
        self.learn(shard, &one, &places);
        Ok(places.last())
    }

    async fn publish(&self, shard: u16, outgoing: &[Outgoing], writer: &mut Writer<'_>) -> Result<Places, Failure> {
        let stream = self.link.names.stream_of(shard);
        let encode = |outgoing: &Outgoing| (outgoing.subject.clone(), Bytes::from(outgoing.message.encode()));
        let messages: Vec<(String, Bytes)> = outgoing.iter().map(encode).collect();
        self.metrics.append_messages.record(messages.len() as f64);
        let most = self.link.client.max_payload();
        if let Some((subject, message)) = messages.iter().find(|(_, message)| message.len() > most) {
            // It would be refused, which is no sign that the stream is in trouble.
            let reason = format!("a message for '{subject}' has {} bytes, and NATS takes {most}", message.len());
            return Err(Failure::NotNow(reason));
        }
        let deadline = Instant::now() + self.link.timeout;
        loop {
            let Some(fence) = self.shard(shard).fence() else { return Err(Failure::Lost) };
            let published = self.link.publish(shard, fence, &messages).await;
            let is_full = matches!(&published, Published::Full(_));
            if let Published::Full(reason) = &published {
                self.trouble.had_no_room(stream, reason.clone());
            }
            let published = match published {
                // Where nobody else stores it, and it is in one piece, who has no room for it has not stored it. And a mark that others store all
                // the same does no harm: it names messages that stay. Those who make room must not wait until there is.
                Published::Full(reason)
                    if self.link.replicas == 1 && messages.len() == 1
                        || outgoing.iter().all(|outgoing| outgoing.message.kind == Kind::Mark) =>
                {
                    return Err(Failure::NotNow(reason));
                }
                published => published,
            };
            match published {
                Published::Stored(position) => {
                    self.trouble.has_stored(stream);
                    return Ok(Places::Together(position));
                }
                Published::Fenced => {
                    self.lose(shard);
                    return Err(Failure::Lost);
                }
                Published::Busy | Published::Incomplete(_) if Instant::now() < deadline => Patience::short().await,
                Published::Busy => return Err(Failure::NotNow("the stream is busy".to_owned())),
                Published::Incomplete(reason) => {
                    // Again and again: there is no room for one of them, though there is for others.
                    self.trouble.had_no_room(stream, reason.clone());
                    return Err(Failure::NotNow(reason));
                }
                Published::Refused(reason) => {
                    self.trouble.set(Cause::Stream(stream), Some(reason.clone()));
                    return Err(Failure::NotNow(reason));
                }
                Published::Full(reason) | Published::Unknown(reason) => {
                    tracing::warn!(shard, reason, "an append has no certain answer: finding out how it ended");
                    if !is_full {
                        self.trouble.set(Cause::Stream(stream), Some(reason.clone()));
                    }
                    // Questions may be answered all the same, as where the disk is full.
                    self.trouble.set(Cause::Append(shard), Some(reason.clone()));
                    self.metrics.unresolved.increment(1.0);
                    let resolved = self.resolve(shard, fence, outgoing, &messages, writer).await;
                    self.metrics.unresolved.decrement(1.0);
                    if !writer.is_between() {
                        self.trouble.set(Cause::Append(shard), None);
                    }
                    return match resolved? {
                        Some(places) => {
                            self.metrics.resolved.increment(1);
                            Ok(places)
                        }
                        None => Err(Failure::NotNow(reason)),
                    };
                }
            }
        }
    }

    /// Keeps in mind what was stored.
    fn learn(&self, shard: u16, outgoing: &[Outgoing], places: &Places) {
        let (mut new, mut marks) = (Vec::new(), Vec::new());
        let mut state = self.shard(shard).state();
        if state.fence.is_none() {
            return;
        }
        for (place, Outgoing { group, message, .. }) in places.all(outgoing.len()).zip(outgoing) {
            let Place::At(position) = place else { continue };
            if message.kind == Kind::Deleted {
                // Groups come and go, and their names never end: nothing is kept of what is gone but since when it is.
                state.groups.remove(group);
                state.deleted = position;
                continue;
            }
            let fresh = Known::of(message, position);
            match state.groups.get_mut(group).filter(|known| known.head.is_some_and(|head| head.epoch == message.epoch))
            {
                Some(known) => {
                    let first = known.head.map_or(1, |head| head.first);
                    known.head = fresh.head.map(|head| Head { first: head.first.max(first), ..head });
                    // What it said the new message says too.
                    marks.extend(Some(known.mark).filter(|mark| *mark > 0));
                    (known.bytes, known.last, known.mark) = (fresh.bytes, fresh.last, fresh.mark);
                    if message.kind == Kind::Records {
                        known.points.add(Point { seq: message.first(), position });
                    }
                }
                None => drop(state.groups.insert(group.clone(), fresh)),
            }
            if message.kind == Kind::Records && !state.names.contains(group) {
                state.names.insert(group.clone());
                new.push(group.clone());
            }
        }
        drop(state);
        self.add_names(shard, &new);
        self.remove_marks(shard, marks);
        for group in outgoing.iter().map(|outgoing| &outgoing.group) {
            self.trim(shard, group);
        }
    }
}
