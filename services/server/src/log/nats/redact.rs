//! Removing the texts of messages.
//!
//! JetStream changes no message. So another one is stored that has the same records without the texts, on a subject of its own, and then the
//! original is removed: who reads finds a hole, and the substitute by the last `seq` of that. A substitute goes when the records in it do.

use std::time::Duration;

use bytes::Bytes;
use tertulia_protocol::GroupName;

use super::Core;
use super::append::unavailable;
use super::fence::{Patience, decode};
use super::link::{Get, NoAnswer, Published};
use super::message::{Kind, Message};
use super::read::Placed;
use super::remove::check_finished;
use crate::log::AppendError;

/// How often substitutes are looked for whose records retention has removed.
const SWEEP: Duration = Duration::from_secs(600);
/// How often a substitute is sent while the stream cannot compare.
const ATTEMPTS: usize = 1_000;

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
        let kept: Vec<u64> = seqs.iter().copied().filter(|seq| (head.first..=head.seq).contains(seq)).collect();
        let (mut rest, mut count) = (&kept[..], 0);
        while let Some(seq) = rest.first() {
            let found = self.message_with(shard, group, &known, head, *seq).await;
            let Some(Placed { mut message, position }) = found.map_err(|error| unavailable(error.0))? else {
                // Retention was quicker.
                rest = &rest[1..];
                continue;
            };
            let (here, after) = rest.split_at(rest.partition_point(|seq| *seq <= message.seq).max(1));
            rest = after;
            count += here.len() as u64;
            let mut is_changed = false;
            for record in message.records.iter_mut().filter(|record| here.contains(&record.seq)) {
                is_changed |= !record.is_removed();
                *record = record.redacted();
            }
            if !is_changed {
                continue;
            }
            if position == known.last {
                // The last message of a group tells where it stands.
                known.last = self.say(shard, group, Kind::Mark, &known, head, &mut writer).await?;
            }
            self.substitute(shard, group, &message).await?;
            self.erase(shard, position).await?;
        }
        Ok(count)
    }

    /// Stores what stands for a message once that is gone.
    pub(super) async fn substitute(&self, shard: u16, group: &GroupName, message: &Message) -> Result<(), AppendError> {
        let stream = self.link.names.stream_of(shard);
        let subject = self.link.names.substitute(shard, group, message.seq);
        let messages = [(subject, Bytes::from(message.encode()))];
        for _ in 0..ATTEMPTS {
            let taken = || AppendError::Fenced { group: group.clone(), expected: message.seq, found: message.seq };
            let Some(fence) = self.shard(shard).fence() else { return Err(taken()) };
            let reason = match self.link.publish(shard, fence, &messages).await {
                Published::Stored(_) => {
                    self.trouble.has_stored(stream);
                    return Ok(());
                }
                Published::Fenced => {
                    self.lose(shard);
                    return Err(taken());
                }
                Published::Busy | Published::Incomplete(_) => {
                    Patience::short().await;
                    continue;
                }
                Published::Refused(reason) => reason,
                Published::Full(reason) | Published::Unknown(reason) => {
                    // It must not be stored later, in the place of another one. If the shard is lost, that is noticed soon.
                    drop(self.move_fence(shard, fence, &self.new_takeover()).await);
                    reason
                }
            };
            return Err(unavailable(format!("what stands for a removed message is not stored: {reason}")));
        }
        Err(unavailable("the stream is busy"))
    }

    /// Has JetStream remove a message that has a substitute.
    async fn erase(&self, shard: u16, position: u64) -> Result<(), AppendError> {
        let stream = self.link.names.stream_of(shard);
        let erased = self.link.erase(stream, position).await;
        erased.map_err(|error| unavailable(format!("a message whose text is to be removed is still there: {error}")))
    }

    /// Removes substitutes whose records are gone again and again: nobody reads them, but the texts in them are not to be kept for longer
    /// than others.
    pub(super) async fn sweep_substitutes(self: std::sync::Arc<Self>) {
        while self.closing.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            for stream in 0..self.link.names.streams() {
                let filter = self.link.names.substitutes_of_stream(stream);
                if let Err(error) = self.remove_substitutes(stream, &filter).await {
                    tracing::debug!(stream, %error, "what stood for removed messages stays for now");
                }
            }
        }
    }

    /// Removes those that a filter takes whose records are gone, of our shards.
    pub(super) async fn remove_substitutes(&self, stream: u16, filter: &str) -> Result<(), NoAnswer> {
        let (_, subjects) = self.link.subjects(stream, filter).await?;
        for subject in subjects {
            let Some((shard, group, last)) = self.link.names.parse_substitute(&subject) else { continue };
            let is_ours = usize::from(shard) < self.shards.len() && self.shard(shard).fence().is_some();
            if !is_ours {
                continue;
            }
            let Ok(known) = self.known(shard, &group).await else { continue };
            let get = Get { last_by_subj: subject.clone(), ..Get::default() };
            let Some(stored) = self.link.get(stream, &get).await? else { continue };
            let is_needed = known.and_then(|known| known.head).is_some_and(|head| {
                last >= head.first && decode(&stored).is_ok_and(|message| message.epoch == head.epoch)
            });
            if !is_needed {
                // Also if the group begins anew meanwhile: what it may have by then is behind.
                self.link.purge(stream, &subject, stored.position + 1).await?;
            }
        }
        Ok(())
    }
}
