//! Removing the texts of messages.
//!
//! JetStream changes no message. So another one is stored that has the same records without the texts, on a subject of its own, and then the
//! original is removed: who reads finds a hole, and the substitute by the last `seq` of its message. A substitute goes when the records in it do.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::Core;
use super::append::unavailable;
use super::fence::{Patience, Unread};
use super::known::Known;
use super::link::{NoAnswer, Published};
use super::message::{Kind, Message};
use super::read::{Placed, Wanted};
use super::remove::check_finished;
use super::writer::Writer;
use crate::log::{AppendError, Head};

/// Records among which messages are looked for at a time, and their bytes.
const SPAN: (u64, u64) = (1_000, 4 * 1024 * 1024);
/// Substitutes that are stored at a time, and their bytes.
const TOGETHER: (usize, usize) = (128, 2 * 1024 * 1024);
/// Messages that JetStream is asked to remove at a time.
const ERASED_AT_ONCE: usize = 32;

/// A message, or what stands for it, of which texts are to be removed.
struct Holder {
    /// What is to stand for it.
    message: Message,
    /// Whether that is in the log already.
    is_stored: bool,
    /// Where the original is, if it is there.
    original: Option<u64>,
    /// Where the substitute is of which this one is made.
    before: Option<u64>,
}

impl Core {
    /// Removes the texts of messages of a life of a group; answers how many of them there are.
    pub(super) async fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> Result<u64, AppendError> {
        let mut writer = self.shard(shard).locks.remover().await;
        check_finished(group, &writer)?;
        self.check_open(shard)?;
        let known = self.known_to_writer(shard, group, 0).await?;
        let Some((mut known, head)) = known.and_then(|known| known.head.map(|head| (known, head))) else {
            return Ok(0);
        };
        if head.epoch != epoch {
            return Ok(0);
        }
        let mut kept: Vec<u64> = seqs.iter().copied().filter(|seq| (head.first..=head.seq).contains(seq)).collect();
        kept.sort_unstable();
        let (mut rest, mut count) = (&kept[..], 0);
        while let Some(first) = rest.first() {
            let near = rest.partition_point(|seq| seq - first < SPAN.0);
            let upto = rest.get(near - 1).copied().unwrap_or(*first);
            let wanted = Wanted { epoch, seqs: *first..=upto, bytes: SPAN.1, messages: true };
            let found = self.fetch(shard, group, &known, &wanted).await.map_err(refused)?.messages;
            // What is not among them retention has removed, which was quicker.
            let end = found.last().map_or(upto, |last| last.message.seq);
            let (here, after) = rest.split_at(rest.partition_point(|seq| *seq <= end));
            rest = after;
            count += here.iter().filter(|seq| found.iter().any(|placed| placed.holds(**seq))).count() as u64;
            let holders = self.holders(shard, group, found, here).await.map_err(refused)?;
            for together in in_parts(&holders) {
                self.replace(shard, group, head, &mut known, together, &mut writer).await?;
            }
        }
        Ok(count)
    }

    /// What is to stand for messages without the texts of `seqs`.
    async fn holders(
        &self,
        shard: u16,
        group: &GroupName,
        found: Vec<Placed>,
        seqs: &[u64],
    ) -> Result<Vec<Holder>, NoAnswer> {
        let is_meant = |placed: &Placed| seqs.iter().any(|seq| placed.holds(*seq));
        let found: Vec<Placed> = found.into_iter().filter(is_meant).collect();
        // Where a removal ended midway, or a replica is behind, an original is found although something stands for it, in which texts are gone
        // already: they must stay so.
        let originals: Vec<u64> =
            found.iter().filter(|placed| !placed.is_substitute).map(|placed| placed.message.seq).collect();
        let epoch = found.first().map_or(0, |placed| placed.message.epoch);
        let mut standing = self.substitutes_of(shard, group, epoch, &originals).await?.into_iter().peekable();
        let mut holders = Vec::with_capacity(found.len());
        for placed in found {
            let original = (!placed.is_substitute).then_some(placed.position);
            let substitute = match original {
                Some(_) => standing.next_if(|standing| standing.message.seq == placed.message.seq),
                None => Some(placed.clone()),
            };
            let before = substitute.as_ref().map(|substitute| substitute.position);
            let mut message = substitute.map_or(placed.message, |substitute| substitute.message);
            let mut is_stored = true;
            for record in message.records.iter_mut().filter(|record| seqs.binary_search(&record.seq).is_ok()) {
                is_stored &= record.is_removed();
                *record = record.redacted();
            }
            // Else it has no text to be removed, and nothing stands for it.
            if before.is_some() || !is_stored {
                holders.push(Holder { message, is_stored, original, before });
            }
        }
        Ok(holders)
    }

    /// Stores what stands for messages, and then has JetStream remove those, and what stood for them before.
    async fn replace(
        &self,
        shard: u16,
        group: &GroupName,
        head: Head,
        known: &mut Known,
        holders: &[Holder],
        writer: &mut Writer<'_>,
    ) -> Result<(), AppendError> {
        let new: Vec<&Message> =
            holders.iter().filter(|holder| !holder.is_stored).map(|holder| &holder.message).collect();
        let mut new = self.store_substitutes(shard, group, &new).await?..;
        if holders.iter().any(|holder| holder.original == Some(known.last)) {
            // The last message of a group tells where it stands.
            known.last = self.say(shard, group, Kind::Mark, known, head, writer).await?;
        }
        let stream_number = self.link.names.stream_of(shard);
        let mut tasks = Vec::new();
        for holder in holders {
            let position = if holder.is_stored { holder.before } else { new.next() };
            // One that was made before and not removed has texts that others have not.
            let older = position.filter(|_| holder.before.is_some());
            let older = older.map(|position| (self.link.names.substitute(shard, group, holder.message.seq), position));
            let before = holder.before.filter(|_| !holder.is_stored);
            tasks.push(async move {
                for position in holder.original.into_iter().chain(before) {
                    self.link.erase(stream_number, position).await?;
                }
                match older {
                    Some((subject, position)) => self.link.purge(stream_number, &subject, position).await,
                    None => Ok(()),
                }
            });
        }
        let mut done = std::pin::pin!(stream::iter(tasks).buffer_unordered(ERASED_AT_ONCE));
        while let Some(erased) = done.next().await {
            erased.map_err(|error| {
                unavailable(format!("a message whose text is to be removed is still there: {}", error.0))
            })?;
        }
        Ok(())
    }

    /// Stores what stands for messages once they are gone. Answers where the first of them is.
    pub(super) async fn store_substitutes(
        &self,
        shard: u16,
        group: &GroupName,
        substitutes: &[&Message],
    ) -> Result<u64, AppendError> {
        if substitutes.is_empty() {
            return Ok(0);
        }
        let stream = self.link.names.stream_of(shard);
        let encode =
            |message: &&Message| (self.link.names.substitute(shard, group, message.seq), Bytes::from(message.encode()));
        let messages: Vec<(String, Bytes)> = substitutes.iter().map(encode).collect();
        let deadline = Instant::now() + self.link.timeout;
        let taken = || {
            self.lose(shard);
            let seq = substitutes.first().map_or(0, |message| message.seq);
            AppendError::Fenced { group: group.clone(), expected: seq, found: seq }
        };
        loop {
            let Some(fence) = self.shard(shard).fence() else { return Err(taken()) };
            let published = self.link.publish(shard, fence, &messages).await;
            if let Published::Full(reason) = &published {
                self.trouble.had_no_room(stream, reason.clone());
            }
            let reason = match published {
                Published::Stored(last) => {
                    self.trouble.has_stored(stream);
                    return Ok((last + 1).saturating_sub(messages.len() as u64));
                }
                Published::Fenced => return Err(taken()),
                Published::Busy | Published::Incomplete(_) if Instant::now() < deadline => {
                    Patience::short().await;
                    continue;
                }
                Published::Busy => "the stream is busy".to_owned(),
                Published::Incomplete(reason) | Published::Refused(reason) => reason,
                // Where nobody else stores it. A part may be there: while the originals are, nobody reads that.
                Published::Full(reason) if self.link.replicas == 1 => reason,
                Published::Full(reason) | Published::Unknown(reason) => {
                    // It must not be stored later, in the place of another one.
                    match self.move_fence(shard, fence, &self.new_takeover()).await {
                        Err(Unread::Taken) => return Err(taken()),
                        // No answer means that the log is closed.
                        Ok(_) | Err(Unread::NoAnswer(_)) => reason,
                    }
                }
            };
            return Err(unavailable(format!("what stands for a removed message is not stored: {reason}")));
        }
    }
}

fn refused(error: NoAnswer) -> AppendError {
    unavailable(error.0)
}

/// Parts that are stored at a time.
fn in_parts(holders: &[Holder]) -> impl Iterator<Item = &[Holder]> {
    let mut rest = holders;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |holder: &&Holder| {
            bytes += holder.message.records.iter().map(crate::log::Record::size).sum::<usize>();
            bytes <= TOGETHER.1
        };
        let count = rest.iter().take(TOGETHER.0).take_while(fits).count().max(1).min(rest.len());
        let (part, after) = rest.split_at(count);
        rest = after;
        (!part.is_empty()).then_some(part)
    })
}
