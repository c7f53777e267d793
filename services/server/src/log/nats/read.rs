//! Reading a group: where in the stream a `seq` is, and the records from there on.
//!
//! A direct get is answered by any replica, and that may be behind. So a page is complete only when it reaches the record that
//! the group's last message promises; until then it is asked for again.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::Core;
use super::fence::{Patience, Unread, decode};
use super::known::{Known, Point};
use super::link::{Get, NoAnswer, Stored};
use super::message::Message;
use crate::log::{Head, Page, PageLimit, Range, ReadError, Record};

/// Records of one page at most.
const PAGE: u64 = 1_000;
/// A place this many records before the one wanted is near enough to read on from.
const NEAR: u64 = 64;
/// Bytes that one direct get asks for at most.
const GET_BYTES: u64 = 1024 * 1024;
/// What a message costs besides its records: subject and headers.
const OVERHEAD: u64 = 512;

impl From<NoAnswer> for ReadError {
    fn from(error: NoAnswer) -> Self {
        Self { reason: error.0 }
    }
}

/// What was read, and places that were found on the way.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) records: Vec<Record>,
    pub(super) places: Vec<Point>,
    /// What was read in the place of messages that are not there any more, oldest first.
    pub(super) substitutes: Vec<Placed>,
}

/// A message, and where it is in the stream.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) position: u64,
    pub(super) message: Message,
}

/// Records gathered from messages: from one `seq` on to another, or until there are so many bytes.
struct Gathering {
    fetched: Fetched,
    from: u64,
    upto: u64,
    bytes: u64,
    size: u64,
}

impl Gathering {
    /// The one that is wanted next.
    fn next(&self) -> u64 {
        self.fetched.records.last().map_or(self.from, |record| record.seq + 1)
    }

    /// Takes what is wanted of records, none of which is behind a hole. Answers whether that is all.
    fn take(&mut self, records: Vec<Record>) -> bool {
        for record in records {
            if record.seq < self.next() {
                continue;
            }
            self.size += record.size() as u64;
            let is_full = record.seq > self.upto || (self.size > self.bytes && !self.fetched.records.is_empty());
            if is_full {
                return true;
            }
            self.fetched.records.push(record);
        }
        self.next() > self.upto
    }

    /// The same of what stands for messages that are not there.
    fn fill(&mut self, substitutes: Vec<Placed>) -> bool {
        for substitute in substitutes {
            let records = substitute.message.records.clone();
            self.fetched.substitutes.push(substitute);
            if self.take(records) {
                return true;
            }
        }
        false
    }
}

impl Core {
    /// What is known of a group of a shard of whomever, as the leader of the stream has it. A replica that is behind, as one that was just
    /// started again, would end the group before what its members were told.
    pub(super) async fn known_to_leader(&self, shard: u16, group: &GroupName) -> Result<Option<Known>, NoAnswer> {
        self.metrics.heads.increment(1);
        let (stream, subject) = (self.link.names.stream_of(shard), self.link.names.group(shard, group));
        let Some(last) = self.link.last(stream, &subject).await? else { return Ok(None) };
        Ok(Some(Known::of(&decode(&last)?, last.position)).filter(|known| known.head.is_some()))
    }

    /// The same, also if there is no leader for a moment.
    async fn known_of_anybody(&self, shard: u16, group: &GroupName) -> Result<Option<Known>, NoAnswer> {
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut patience = Patience::new();
        loop {
            match self.known_to_leader(shard, group).await {
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => patience.wait().await,
                known => return known,
            }
        }
    }

    /// What is known of a group: for certain if the shard is ours, else as the leader of the stream has it.
    async fn known_to_reader(&self, shard: u16, group: &GroupName) -> Result<Option<Known>, ReadError> {
        match self.known(shard, group).await {
            Ok(known) => Ok(known),
            Err(Unread::Taken) => Ok(self.known_of_anybody(shard, group).await?),
            Err(Unread::NoAnswer(error)) => Err(error.into()),
        }
    }

    pub(super) async fn head(&self, shard: u16, group: &GroupName) -> Result<Option<Head>, ReadError> {
        Ok(self.known_to_reader(shard, group).await?.and_then(|known| known.head))
    }

    pub(super) async fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> Result<Option<Page>, ReadError> {
        let Some(known) = self.known_to_reader(shard, group).await? else { return Ok(None) };
        let Some(head) = known.head else { return Ok(None) };
        let count = u64::try_from(limit.records).unwrap_or(PAGE).clamp(1, PAGE);
        let bytes = u64::try_from(limit.bytes).unwrap_or(u64::MAX);
        let wanted = match range {
            Range::After(after) => {
                let from = after.saturating_add(1).max(head.first);
                from..=head.seq.min(from.saturating_add(count - 1))
            }
            Range::Before(before) => {
                let upto = before.saturating_sub(1).min(head.seq);
                // The oldest are read first and may be too many for the bytes: no more than probably fit.
                let fitting = (bytes / average(&known)).saturating_add(1).saturating_mul(2);
                head.first.max((upto + 1).saturating_sub(count.min(fitting)))..=upto
            }
        };
        if wanted.is_empty() {
            return Ok(Some(Page { head, records: Vec::new() }));
        }
        let stop = if matches!(range, Range::After(_)) { bytes } else { u64::MAX };
        let Fetched { mut records, places, .. } =
            self.fetch(shard, group, head.epoch, wanted.clone(), stop, &known).await?;
        self.learn_places(shard, group, head.epoch, &places);
        if let Range::Before(_) = range {
            let mut size = 0;
            let fits = |record: &&Record| {
                size += record.size() as u64;
                size <= bytes
            };
            let count = records.iter().rev().take_while(fits).count().max(1);
            records.drain(..records.len().saturating_sub(count));
        }
        // Retention may have been quicker than we.
        let first = match records.first() {
            Some(record) if matches!(range, Range::After(_)) && record.seq > *wanted.start() => record.seq,
            _ => head.first,
        };
        Ok(Some(Page { head: Head { first, ..head }, records }))
    }

    /// Reads the records of a life of a group, oldest first and dense, until `bytes` are reached.
    pub(super) async fn fetch(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        wanted: RangeInclusive<u64>,
        bytes: u64,
        known: &Known,
    ) -> Result<Fetched, NoAnswer> {
        let stream = self.link.names.stream_of(shard);
        let subject = self.link.names.group(shard, group);
        let (from, upto) = wanted.into_inner();
        let mut gathering = Gathering { fetched: Fetched::default(), from, upto, bytes, size: 0 };
        if from > upto {
            return Ok(gathering.fetched);
        }
        let start = self.locate(stream, &subject, epoch, from, known, &mut gathering.fetched.places).await?;
        let (mut position, mut lag) = (start.position, from.saturating_sub(start.seq));
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut patience = Patience::new();
        loop {
            let missing = upto + 1 - gathering.next() + std::mem::take(&mut lag);
            let rest = bytes.saturating_sub(gathering.size).min(GET_BYTES);
            let max_bytes = (missing.saturating_mul(2 * average(known) + OVERHEAD)).min(rest + OVERHEAD * missing);
            let get = Get {
                seq: position,
                next_by_subj: subject.clone(),
                batch: missing.min(PAGE),
                max_bytes: max_bytes.clamp(OVERHEAD, GET_BYTES),
                ..Get::default()
            };
            self.metrics.pages.increment(1);
            let found = self.link.get_many(stream, &get).await?.messages;
            let nothing = found.is_empty();
            for stored in found {
                position = stored.position + 1;
                let message = decode(&stored)?;
                if message.epoch != epoch || message.records.is_empty() {
                    continue;
                }
                let next = gathering.next();
                if message.first() > next {
                    // What is not there was removed, as a whole by retention, which may have been quicker than we, or in part.
                    let hole = next..=message.first() - 1;
                    let substitutes = self.substitutes(shard, group, epoch, hole).await?;
                    let reached = substitutes.first().map_or(message.first(), |substitute| substitute.message.first());
                    if reached > next && !gathering.fetched.records.is_empty() {
                        let reason = format!("a hole in the log: group '{group}' has {reached} and not the one before");
                        return Err(NoAnswer(reason));
                    }
                    if gathering.fill(substitutes) {
                        return Ok(gathering.fetched);
                    }
                }
                gathering.fetched.places.push(Point { seq: message.first(), position: stored.position });
                if gathering.take(message.records) {
                    return Ok(gathering.fetched);
                }
            }
            if !nothing {
                continue;
            }
            let next = gathering.next();
            let newest = known.head.map_or(0, |head| head.seq);
            if next <= newest {
                // Of the newest messages the originals may be gone.
                let substitutes = self.substitutes(shard, group, epoch, next..=newest).await?;
                // Unless there was one before, retention may have taken what comes before them.
                let is_first = gathering.fetched.records.is_empty();
                let reaches =
                    substitutes.first().is_some_and(|substitute| substitute.message.first() <= next || is_first);
                if reaches && gathering.fill(substitutes) {
                    return Ok(gathering.fetched);
                }
            }
            if Instant::now() > deadline {
                let next = gathering.next();
                return Err(NoAnswer(format!("the replicas are behind: group '{group}' has no record {next} yet")));
            }
            self.metrics.again.increment(1);
            patience.wait().await;
        }
    }

    /// What stands for the messages that hold `seqs`, all of which are not there any more, oldest first: as far back from the last one as
    /// there is something.
    async fn substitutes(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: RangeInclusive<u64>,
    ) -> Result<Vec<Placed>, NoAnswer> {
        let stream = self.link.names.stream_of(shard);
        let (from, mut last) = seqs.into_inner();
        let mut found = VecDeque::new();
        while last >= from {
            let get = Get { last_by_subj: self.link.names.substitute(shard, group, last), ..Get::default() };
            self.metrics.probes.increment(1);
            let Some(stored) = self.link.get(stream, &get).await? else { break };
            let message = decode(&stored)?;
            // One of an earlier life is about to be removed.
            if message.epoch != epoch || message.seq != last {
                break;
            }
            last = message.first() - 1;
            found.push_front(Placed { position: stored.position, message });
        }
        Ok(found.into())
    }

    /// The message that holds a record; `None` if it and all before it are gone.
    pub(super) async fn message_with(
        &self,
        shard: u16,
        group: &GroupName,
        known: &Known,
        head: Head,
        seq: u64,
    ) -> Result<Option<Placed>, NoAnswer> {
        let fetched = self.fetch(shard, group, head.epoch, seq..=seq, u64::MAX, known).await?;
        let holds_it = |placed: &Placed| placed.message.first() <= seq && seq <= placed.message.seq;
        if let Some(substitute) = fetched.substitutes.into_iter().find(holds_it) {
            return Ok(Some(substitute));
        }
        // Of what was read the end is beyond the record, so there is none before it if none is told.
        let Some(place) = fetched.places.iter().rev().find(|place| place.seq <= seq) else { return Ok(None) };
        let subject = self.link.names.group(shard, group);
        let get = Get { seq: place.position, next_by_subj: subject, ..Get::default() };
        let stored = self.link.get(self.link.names.stream_of(shard), &get).await?;
        let placed = |stored: Stored| Ok(Placed { position: stored.position, message: decode(&stored)? });
        let found = stored.map(placed).transpose()?.filter(holds_it);
        let hole = || NoAnswer(format!("the message of '{group}' that holds {seq} is not there, and earlier ones are"));
        found.map(Some).ok_or_else(hole)
    }

    /// A message at or not far before the one that holds `seq`.
    async fn locate(
        &self,
        stream: u16,
        subject: &str,
        epoch: u64,
        seq: u64,
        known: &Known,
        places: &mut Vec<Point>,
    ) -> Result<Point, NoAnswer> {
        let head = known.head.map_or(0, |head| head.seq);
        let first = known.head.map_or(1, |head| head.first).min(seq);
        let start = Point { seq: first, position: known.trimmed.max(1) };
        let mut low = known.points.before(seq).unwrap_or(start);
        let mut high = known.points.after(seq).unwrap_or(Point { seq: head + 1, position: known.last + 1 });
        let mut halve = false;
        while seq - low.seq > NEAR && high.position > low.position + 1 {
            let room = high.position - low.position;
            let guess = if halve {
                low.position + room / 2
            } else {
                let share = (seq - low.seq) as f64 / (high.seq - low.seq) as f64;
                low.position + (room as f64 * share) as u64
            };
            let guess = guess.clamp(low.position + 1, high.position - 1);
            halve = !halve;
            self.metrics.probes.increment(1);
            let get = Get { seq: guess, next_by_subj: subject.to_owned(), ..Get::default() };
            let Some(stored) = self.link.get(stream, &get).await?.filter(|found| found.position < high.position) else {
                high.position = guess;
                continue;
            };
            let message = decode(&stored)?;
            if message.epoch != epoch {
                // Of an earlier life.
                low.position = stored.position;
                continue;
            }
            let place = Point { seq: message.first(), position: stored.position };
            if place.seq > seq {
                high = Point { seq: place.seq, position: guess };
                continue;
            }
            low = place;
            places.push(place);
            if message.seq >= seq {
                break;
            }
        }
        Ok(low)
    }

    fn learn_places(&self, shard: u16, group: &GroupName, epoch: u64, places: &[Point]) {
        let mut state = self.shard(shard).state();
        let Some(known) = state.groups.get_mut(group) else { return };
        if known.head.is_some_and(|head| head.epoch == epoch) {
            // The first and the last are those from which other readers go on.
            places.first().into_iter().chain(places.last()).for_each(|place| known.points.add(*place));
        }
    }
}

/// The size of a record of a group, on average.
fn average(known: &Known) -> u64 {
    let seq = known.head.map_or(0, |head| head.seq);
    known.bytes.checked_div(seq).unwrap_or(0).max(64)
}
