//! What stands for messages whose texts were removed, and whose originals are gone.
//!
//! Any replica answers a question, and one that is behind may lack a substitute, or have the one before it. So the leader is asked how far the
//! stream reaches, and an answer counts that comes from a replica which has all of that.

use std::sync::Arc;
use std::time::Duration;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::Core;
use super::fence::{Patience, decode};
use super::link::{Get, NoAnswer, Stored};
use super::read::Placed;

/// How often substitutes are looked for whose records retention has removed.
const SWEEP: Duration = Duration::from_secs(600);
/// Messages that are asked for at a time.
const AT_ONCE: usize = 256;
/// Bytes of an answer.
const ANSWER: u64 = 16 * 1024 * 1024;
/// No message has more bytes of headers.
const OVERHEAD: u64 = 1_024;

impl Core {
    /// Whether something stands for the message that ends with the record `last`, as any replica has it.
    pub(super) async fn is_replaced(&self, shard: u16, group: &GroupName, last: u64) -> Result<bool, NoAnswer> {
        let get = Get { last_by_subj: self.link.names.substitute(shard, group, last), ..Get::default() };
        self.metrics.probes.increment(1);
        Ok(self.link.get(self.link.names.stream_of(shard), &get).await?.is_some())
    }

    /// What stands for the messages that end with these records, oldest first.
    pub(super) async fn substitutes_of(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        lasts: &[u64],
    ) -> Result<Vec<Placed>, NoAnswer> {
        let (stream, fence) = (self.link.names.stream_of(shard), self.link.names.fence(shard));
        let newest = self.link.newest(stream).await?;
        // A question is a message, too.
        let longest = self.link.names.substitute(shard, group, u64::MAX).len().max(fence.len()) + 4;
        let mut at_once = AT_ONCE.min(self.link.client.max_payload() / 2 / longest).max(1);
        let (mut found, mut rest) = (Vec::new(), lasts);
        let deadline = Instant::now() + 2 * self.link.timeout;
        let mut patience = Patience::new();
        while !rest.is_empty() {
            let (asked, after) = rest.split_at(at_once.min(rest.len()));
            let mut subjects: Vec<String> =
                asked.iter().map(|last| self.link.names.substitute(shard, group, *last)).collect();
            // Without anything there is no answer that says how far the replica is.
            subjects.push(fence.clone());
            self.metrics.probes.increment(1);
            let get = Get { multi_last: subjects, max_bytes: ANSWER, ..Get::default() };
            let answer = self.link.get_many(stream, &get).await?;
            // The server cuts it off behind the message that makes it so long, and counts that as pending.
            let bytes: usize = answer.messages.iter().map(|stored| stored.payload.len() + stored.subject.len()).sum();
            let most = bytes as u64 + OVERHEAD * answer.messages.len() as u64;
            let is_cut = answer.pending > 0 || most >= ANSWER;
            if is_cut && at_once > 1 {
                at_once /= 2;
                continue;
            }
            if answer.upto >= newest && answer.pending == 0 {
                found.extend(answer.messages.into_iter().filter(|stored| stored.subject != fence));
                rest = after;
                continue;
            }
            if Instant::now() > deadline {
                return Err(NoAnswer("the replicas are behind".to_owned()));
            }
            self.metrics.again.increment(1);
            patience.wait().await;
        }
        let placed = |stored: Stored| {
            let message = decode(&stored)?;
            Ok(Placed { position: stored.position, message, is_substitute: true })
        };
        let mut found = found.into_iter().map(placed).collect::<Result<Vec<_>, NoAnswer>>()?;
        // One of an earlier life is about to be removed.
        found.retain(|placed| placed.message.epoch == epoch);
        found.sort_by_key(|placed| placed.message.seq);
        Ok(found)
    }

    /// Removes substitutes whose records are gone again and again: nobody reads them, but the texts in them are not to be kept for longer
    /// than others.
    pub(super) async fn sweep_substitutes(self: Arc<Self>) {
        while self.closing.run_until_cancelled(tokio::time::sleep(SWEEP)).await.is_some() {
            for stream in 0..self.link.names.streams() {
                let filter = self.link.names.substitutes_of_stream(stream);
                if let Err(error) = self.remove_substitutes(stream, &filter).await {
                    tracing::debug!(stream, %error, "what stood for removed messages stays for now");
                }
            }
        }
    }

    /// Removes those that a filter takes whose records are gone, or that have a successor, of our shards.
    pub(super) async fn remove_substitutes(&self, stream: u16, filter: &str) -> Result<(), NoAnswer> {
        let (_, subjects) = self.link.subjects(stream, filter).await?;
        for (subject, count) in subjects {
            let Some((shard, group, last)) = self.link.names.parse_substitute(&subject) else { continue };
            let is_ours = usize::from(shard) < self.shards.len() && self.shard(shard).fence().is_some();
            if !is_ours {
                continue;
            }
            // Before the group: what another owner stores, should we have lost the shard, is not touched.
            let get = Get { last_by_subj: subject.clone(), ..Get::default() };
            let Some(stored) = self.link.get(stream, &get).await? else { continue };
            let (Ok(mut known), Ok(message)) = (self.known(shard, &group).await, decode(&stored)) else { continue };
            if known.is_none() {
                // If we have lost the shard and do not know, it may have begun since.
                known = self.known_to_leader(shard, &group).await?;
            }
            let is_needed = known.and_then(|known| known.head).is_some_and(|head| {
                // Of a later life than the one that we know it is if we have lost the shard and do not know.
                message.epoch > head.epoch || (message.epoch == head.epoch && last >= head.first)
            });
            let end = if is_needed { stored.position } else { stored.position + 1 };
            if !is_needed || count > 1 {
                self.link.purge(stream, &subject, end).await?;
            }
        }
        Ok(())
    }
}
