//! Keeping no more of a group than is configured.
//!
//! JetStream bounds the messages of a subject, but knows neither the bytes of one nor that the last message of a group must stay
//! however old it is. So the owner of a shard removes what is too much: the number of messages moves the floor with every append, and
//! bytes and age are looked at here, in the background. What is removed is whole messages of the stream, the oldest.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tertulia_protocol::GroupName;

use super::Core;
use super::fence::Unread;
use super::known::Known;
use super::link::NoAnswer;
use super::message::Message;
use super::remove::finish;
use crate::log::clock::Clock;
use crate::log::{AppendError, Head, Record};

/// How often groups are looked at for the age of their messages.
const SWEEP: Duration = Duration::from_secs(60);
/// More bytes than are kept may lie there by this share, so that removing is worth it.
const SLACK: u64 = 8;

/// Why something is not removed for now.
#[derive(Debug, thiserror::Error)]
enum Kept {
    #[error("what changes the shard has not ended for {0:?}")]
    Busy(Duration),
    #[error("{0}")]
    NoAnswer(NoAnswer),
    #[error(transparent)]
    Refused(#[from] AppendError),
}

impl From<NoAnswer> for Kept {
    fn from(error: NoAnswer) -> Self {
        Self::NoAnswer(error)
    }
}

impl Core {
    /// Has a group looked at if it may have too many bytes. The state of the shard is not locked.
    pub(super) fn bound_bytes(self: &Arc<Self>, shard: u16, group: &GroupName) {
        if !self.begin_bounding(shard, group) {
            return;
        }
        let (core, group) = (Arc::clone(self), group.clone());
        self.tasks.spawn(async move {
            loop {
                let removed = core.remove_bytes(shard, &group).await;
                if let Some(known) = core.shard(shard).state().groups.get_mut(&group) {
                    known.is_being_bounded = false;
                }
                if let Err(error) = removed
                    && !matches!(error, Kept::Busy(_))
                {
                    tracing::warn!(shard, %error, "a group keeps more bytes than it should for now");
                    return;
                }
                // More may have come in meanwhile.
                if core.is_closed() || !core.begin_bounding(shard, &group) {
                    return;
                }
            }
        });
    }

    /// Whether a group may have too many bytes and nobody sees to it yet; then the caller does.
    fn begin_bounding(&self, shard: u16, group: &GroupName) -> bool {
        let kept = self.rules.of(group.as_str()).bytes;
        let mut state = self.shard(shard).state();
        let Some(known) = state.groups.get_mut(group) else { return false };
        let before_first = match known.head {
            Some(head) if head.first > 1 => known.bytes_before_first.unwrap_or(0),
            _ => 0,
        };
        let is_over = known.bytes.saturating_sub(before_first) > kept.saturating_add(kept / SLACK);
        let begins = kept > 0 && is_over && known.bytes != known.bounded && !known.is_being_bounded;
        known.is_being_bounded |= begins;
        begins
    }

    async fn remove_bytes(self: &Arc<Self>, shard: u16, group: &GroupName) -> Result<(), Kept> {
        let Some((known, head)) = self.cached(shard, group) else { return Ok(()) };
        let gone = known.bytes.saturating_sub(self.rules.of(group.as_str()).bytes);
        // The newest stays, however large it is.
        let is_kept = |message: &Message| begin(message) >= gone || message.seq >= head.seq;
        let first = self.first_that(shard, group, &known, head, is_kept).await?;
        if let Some(first) = &first {
            self.remove_through(shard, group, head.epoch, first.first()).await?;
        }
        if let Some(now) = self.shard(shard).state().life(group, head.epoch) {
            now.bounded = known.bytes;
            now.bytes_before_first = first.as_ref().map(begin).or(now.bytes_before_first);
        }
        Ok(())
    }

    fn cached(&self, shard: u16, group: &GroupName) -> Option<(Known, Head)> {
        let known = self.shard(shard).state().groups.get(group).cloned()?;
        let head = known.head?;
        Some((known, head))
    }

    /// Removes what is before the floor of a life. A later life, which has begun since, is left alone.
    async fn remove_through(
        self: &Arc<Self>,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        floor: u64,
    ) -> Result<(), Kept> {
        // Who changes it may do so for as long as NATS does not answer, or has no room; and room is what is made here, also of other shards.
        let longest = 2 * self.link.timeout;
        let (core, group) = (Arc::clone(self), group.clone());
        let removing = async move {
            let remover = tokio::time::timeout(longest, core.shard(shard).locks.remover()).await;
            let mut remover = remover.map_err(|_| Kept::Busy(longest))?;
            let removed = core.purge_life(shard, &group, Some(epoch), floor.saturating_sub(1), &mut remover).await?;
            core.removed.retention.increment(removed);
            Ok(())
        };
        // So may this itself. It is waited for no longer, and goes on: nothing else may change the shard before it is known how it ended.
        let removed = tokio::time::timeout(2 * longest, finish(Arc::clone(self), removing)).await;
        removed.unwrap_or(Err(Kept::Busy(2 * longest)))
    }

    /// Looks at the groups of our shards again and again, for messages that are too old.
    pub(super) async fn sweep(self: Arc<Self>) {
        let ages = self.rules.all().map(|rule| rule.age).filter(|age| !age.is_zero());
        let Some(shortest) = ages.min() else { return };
        let pause = SWEEP.min(shortest / 4).max(Duration::from_millis(100));
        let mut clock = Clock::believed();
        while self.closing.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let Some(now) = clock.now() else { continue };
            self.remove_all_old(now).await;
        }
    }

    /// Removes what is too old at the time `now`, from all groups of our shards.
    pub(super) async fn remove_all_old(self: &Arc<Self>, now: u64) {
        let mut silent = BTreeSet::new();
        for shard in 0..self.shards.len() {
            let shard = u16::try_from(shard).unwrap_or(u16::MAX);
            let stream = self.link.names.stream_of(shard);
            if silent.contains(&stream) {
                continue;
            }
            let names: Vec<GroupName> = self.shard(shard).state().names.iter().cloned().collect();
            for group in names {
                if self.is_closed() {
                    return;
                }
                let begun = Instant::now();
                let Err(kept) = self.remove_old(shard, &group, now).await else { continue };
                tracing::debug!(shard, error = %kept, "messages that are too old stay for now");
                match kept {
                    Kept::Busy(_) => break,
                    // Who does not answer about one group does not about the others. What is wrong with a group alone is told at once.
                    Kept::NoAnswer(_) if begun.elapsed() >= self.link.timeout => {
                        silent.insert(stream);
                        break;
                    }
                    Kept::NoAnswer(_) | Kept::Refused(_) => {}
                }
            }
        }
    }

    /// Removes what is too old at the time `now`.
    async fn remove_old(self: &Arc<Self>, shard: u16, group: &GroupName, now: u64) -> Result<(), Kept> {
        let age = self.rules.of(group.as_str()).age;
        if age.is_zero() {
            return Ok(());
        }
        let oldest = now.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        // Also who is not in memory is looked at.
        match self.known(shard, group).await {
            Ok(_) => {}
            Err(Unread::Taken) => return Ok(()),
            Err(Unread::NoAnswer(error)) => return Err(error.into()),
        }
        let Some((known, head)) = self.cached(shard, group) else { return Ok(()) };
        if head.first > head.seq || known.first_at.is_some_and(|at| at >= oldest) {
            return Ok(());
        }
        if head.at < oldest {
            return self.remove_through(shard, group, head.epoch, head.seq + 1).await;
        }
        let Some(first) = self.first_that(shard, group, &known, head, |message| message.at >= oldest).await? else {
            return Ok(());
        };
        self.remove_through(shard, group, head.epoch, first.first()).await?;
        if let Some(known) = self.shard(shard).state().life(group, head.epoch) {
            known.first_at = Some(first.at);
        }
        Ok(())
    }

    /// The oldest message for which `holds`, if it holds for all that are newer.
    async fn first_that(
        &self,
        shard: u16,
        group: &GroupName,
        known: &Known,
        head: Head,
        holds: impl Fn(&Message) -> bool,
    ) -> Result<Option<Message>, NoAnswer> {
        let (mut low, mut high) = (head.first, head.seq);
        let mut found = None;
        while low <= high {
            let middle = low + (high - low) / 2;
            match self.message_with(shard, group, known, head, middle).await?.map(|placed| placed.message) {
                Some(message) if holds(&message) => {
                    high = message.first().saturating_sub(1).min(middle - 1);
                    found = Some(message);
                }
                Some(message) => low = message.seq + 1,
                // JetStream's own bound was quicker: what is gone is older than all that is there.
                None => low = middle + 1,
            }
        }
        Ok(found)
    }
}

/// The size of all records before those of a message.
fn begin(message: &Message) -> u64 {
    message.bytes.saturating_sub(message.records.iter().map(|record: &Record| record.size() as u64).sum())
}
