//! Reading a group: where in the stream a `seq` is, and the records from there on.
//!
//! A direct get is answered by any replica, and that may be behind. So a page is complete only when it reaches the record that
//! the group's last message promises; until then it is asked for again.

use std::ops::RangeInclusive;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::Core;
use super::append::PACK_RECORDS;
use super::fence::{Patience, Unread, decode};
use super::known::{Known, Point};
use super::link::{Get, NoAnswer};
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

/// What is to be read of a group.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The life of the group.
    pub(super) epoch: u64,
    pub(super) seqs: RangeInclusive<u64>,
    /// No more is read once there are so many bytes of records.
    pub(super) bytes: u64,
    /// Whether the messages are wanted that hold the records.
    pub(super) messages: bool,
}

impl Wanted {
    /// All of these.
    pub(super) fn of(epoch: u64, seqs: RangeInclusive<u64>) -> Self {
        Self { epoch, seqs, bytes: u64::MAX, messages: false }
    }
}

/// What was read, and places that were found on the way.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) records: Vec<Record>,
    pub(super) places: Vec<Point>,
    /// If they were wanted, the messages that hold the records, or what stands for them, oldest first.
    pub(super) messages: Vec<Placed>,
}

/// A message, and where it is in the stream.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) position: u64,
    pub(super) message: Message,
    /// Whether it stands for one that is gone.
    pub(super) is_substitute: bool,
}

impl Placed {
    pub(super) fn holds(&self, seq: u64) -> bool {
        self.message.first() <= seq && seq <= self.message.seq
    }
}

/// Records gathered from messages: from one `seq` on to another, or until there are so many bytes.
struct Gathering<'a> {
    wanted: &'a Wanted,
    fetched: Fetched,
    size: u64,
}

impl Gathering<'_> {
    /// The one that is wanted next.
    fn next(&self) -> u64 {
        self.fetched.records.last().map_or(*self.wanted.seqs.start(), |record| record.seq + 1)
    }

    /// Takes what is wanted of a message, whose first record is not behind a hole. Answers whether that is all.
    fn take(&mut self, found: Placed) -> bool {
        let upto = *self.wanted.seqs.end();
        if self.wanted.messages && found.message.first() <= upto {
            self.fetched.messages.push(found.clone());
        }
        for record in found.message.records {
            if record.seq < self.next() {
                continue;
            }
            self.size += record.size() as u64;
            let is_large = self.size > self.wanted.bytes && !self.fetched.records.is_empty();
            let is_full = record.seq > upto || is_large;
            if is_full {
                return true;
            }
            self.fetched.records.push(record);
        }
        self.next() > upto
    }

    /// Takes what stands for the messages between what was taken and the record `end`, none of which is there any more: as far back from the
    /// last one, or from the one that holds the last that is wanted, as there is something. Answers whether that is all that is wanted.
    fn fill(&mut self, group: &GroupName, mut standing: Vec<Placed>, end: u64) -> Result<bool, NoAnswer> {
        let (next, upto) = (self.next(), *self.wanted.seqs.end());
        standing.retain(|placed| placed.message.first() <= upto);
        let reaches = standing.last().is_some_and(|placed| placed.message.seq >= upto.min(end - 1));
        let is_apart = |pair: &[Placed]| matches!(pair, [one, other] if one.message.seq + 1 != other.message.first());
        let hole = standing.windows(2).rposition(is_apart).map_or(0, |hole| hole + 1);
        let standing = if reaches { standing.split_off(hole) } else { Vec::new() };
        let reached = standing.first().map_or(end, |placed| placed.message.first());
        if reached > next && !self.fetched.records.is_empty() {
            let reason = format!("a hole in the log: group '{group}' has {reached} and not the one before");
            return Err(NoAnswer(reason));
        }
        Ok(standing.into_iter().any(|placed| self.take(placed)))
    }
}

/// The last records of messages that may have been where there is a hole from `next` to `end`, as far as they are wanted: one that holds
/// `upto` ends not far behind it.
fn lasts_between(next: u64, end: u64, upto: u64) -> std::ops::Range<u64> {
    let is_wanted = next <= upto;
    next..if is_wanted { end.min(upto.saturating_add(PACK_RECORDS as u64)) } else { next }
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
        let page = Wanted { bytes: stop, ..Wanted::of(head.epoch, wanted.clone()) };
        let Fetched { mut records, places, .. } = self.fetch(shard, group, &known, &page).await?;
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
    ///
    /// What is not there at the beginning was removed as a whole, by retention, which may have been quicker than we.
    pub(super) async fn fetch(
        &self,
        shard: u16,
        group: &GroupName,
        known: &Known,
        wanted: &Wanted,
    ) -> Result<Fetched, NoAnswer> {
        let stream = self.link.names.stream_of(shard);
        let subject = self.link.names.group(shard, group);
        let (from, upto) = (*wanted.seqs.start(), *wanted.seqs.end());
        let mut gathering = Gathering { wanted, fetched: Fetched::default(), size: 0 };
        if from > upto {
            return Ok(gathering.fetched);
        }
        let start = self.locate(stream, &subject, wanted.epoch, from, known, &mut gathering.fetched.places).await?;
        let (mut position, mut lag) = (start.position, from.saturating_sub(start.seq));
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut patience = Patience::new();
        loop {
            let missing = upto + 1 - gathering.next() + std::mem::take(&mut lag);
            let rest = wanted.bytes.saturating_sub(gathering.size).min(GET_BYTES);
            let max_bytes = (missing.saturating_mul(2 * average(known) + OVERHEAD)).min(rest + OVERHEAD * missing);
            let get = Get {
                seq: position,
                next_by_subj: subject.clone(),
                batch: missing.min(PAGE),
                max_bytes: max_bytes.clamp(OVERHEAD, GET_BYTES),
                ..Get::default()
            };
            self.metrics.pages.increment(1);
            let stored = self.link.get_many(stream, &get).await?.messages;
            let nothing = stored.is_empty();
            position = stored.last().map_or(position, |last| last.position + 1);
            let mut found = Vec::with_capacity(stored.len());
            for stored in stored {
                let message = decode(&stored)?;
                if message.epoch == wanted.epoch && !message.records.is_empty() && message.seq >= gathering.next() {
                    found.push(Placed { position: stored.position, message, is_substitute: false });
                }
            }
            // All at once: texts may have been removed all over the page.
            let mut standing = self.substitutes_among(shard, group, &gathering, &found).await?.into_iter().peekable();
            for found in found {
                let first = found.message.first();
                gathering.fetched.places.push(Point { seq: first, position: found.position });
                let here = std::iter::from_fn(|| standing.next_if(|standing| standing.message.seq < first)).collect();
                if first > gathering.next() && gathering.fill(group, here, first)? {
                    return Ok(gathering.fetched);
                }
                if gathering.take(found) {
                    return Ok(gathering.fetched);
                }
            }
            if !nothing {
                continue;
            }
            // Of the newest messages the originals may be gone.
            let newest = known.head.map_or(0, |head| head.seq);
            if gathering.next() <= newest
                && self.is_replaced(shard, group, newest).await?
                // A replica that is behind has not the last originals yet, which come before what stands for later ones.
                && !self.link.has(stream, &Get { seq: position, next_by_subj: subject.clone(), ..Get::default() }).await?
            {
                let lasts: Vec<u64> = lasts_between(gathering.next(), newest + 1, upto).collect();
                let standing = self.substitutes_of(shard, group, wanted.epoch, &lasts).await?;
                if gathering.fill(group, standing, newest + 1)? {
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

    /// What stands for messages in the holes between those that were found.
    async fn substitutes_among(
        &self,
        shard: u16,
        group: &GroupName,
        gathering: &Gathering<'_>,
        found: &[Placed],
    ) -> Result<Vec<Placed>, NoAnswer> {
        let upto = *gathering.wanted.seqs.end();
        let (mut next, mut lasts) = (gathering.next(), Vec::new());
        for Placed { message, .. } in found {
            lasts.extend(lasts_between(next, message.first(), upto));
            next = message.seq + 1;
        }
        match lasts.is_empty() {
            true => Ok(Vec::new()),
            false => self.substitutes_of(shard, group, gathering.wanted.epoch, &lasts).await,
        }
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
        let wanted = Wanted { messages: true, ..Wanted::of(head.epoch, seq..=seq) };
        let fetched = self.fetch(shard, group, known, &wanted).await?;
        Ok(fetched.messages.into_iter().find(|placed| placed.holds(seq)))
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
