//! The text of one message, removed because a moderator wants that; the group is told by a message of its own.

use std::sync::Arc;
use std::time::Instant;

use tertulia_protocol::{GroupName, PostId, UserName};
use tokio::sync::oneshot;

use super::{Answer, Asker, Owner, taken_in, unavailable};
use crate::log::{PageLimit, Range, Record};
use crate::shard::Refusal;
use crate::shard::request::Redaction;

impl Owner {
    /// Removes the text from the log, and then posts what tells of it: whoever reads that no longer finds the text. If the second fails it is
    /// made up for by doing both again.
    pub(super) async fn redact(
        &mut self,
        name: &GroupName,
        seq: u64,
        epoch: u64,
        reason: Option<&Arc<str>>,
    ) -> Result<Redaction, Refusal> {
        if !self.settled().await {
            return Err(unavailable(name));
        }
        let Some(head) = self.load_life(name, Some(epoch)).await?.map(|group| group.head()) else {
            return Ok(Redaction::NoSuchGroup);
        };
        if !(1..=head).contains(&seq) {
            return Ok(Redaction::NoSuchMessage);
        }
        let Some(record) = self.record(name, seq).await? else { return Ok(Redaction::NoSuchMessage) };
        let redacting = self.shared.log.redact(self.shard, name, epoch, seq);
        let is_kept = self.in_time(name, redacting).await?.map_err(|error| {
            tracing::warn!(%error, "a message could not be removed");
            unavailable(name)
        })?;
        if !is_kept {
            return Ok(Redaction::NoSuchMessage);
        }
        let id = PostId::of_removal(seq);
        let outcome = match self.ready_for_repeat(name, Some(&id)).await {
            // Another node has the shard, as an append showed that was waited for.
            _ if self.is_fenced() => Err(unavailable(name)),
            // Nothing is given a place behind an append that has no end.
            _ if self.is_overdue() => self.turned_down(name, &UserName::system(), Some(&id)),
            Ok(()) => {
                let text = text(&record.sender, reason);
                self.place(name, &UserName::system(), Some(&id), text, taken_in(), Instant::now())
            }
            Err(refusal) => Err(refusal),
        };
        let (to, told) = oneshot::channel();
        let (to, group) = (Asker::Admin(to), name.clone());
        self.staged.answers.push(Answer { to, group, id: None, outcome, trace: None, weight: None });
        Ok(Redaction::Removed(told))
    }

    /// One message, if the log has it.
    fn record(&self, name: &GroupName, seq: u64) -> impl Future<Output = Result<Option<Record>, Refusal>> + use<> {
        let limit = PageLimit { records: 1, bytes: usize::MAX };
        let reading = self.shared.log.read_for_owner(self.shard, name, Range::After(seq - 1), limit);
        let (reading, name) = (self.in_time(name, reading), name.clone());
        async move {
            let page = reading.await?.map_err(|error| {
                tracing::warn!(%error, "a message that is to be removed could not be read");
                unavailable(&name)
            })?;
            Ok(page.and_then(|page| page.records.into_iter().next()).filter(|record| record.seq == seq))
        }
    }
}

/// What the group is told, for those who read and do not know numbers.
fn text(sender: &UserName, reason: Option<&Arc<str>>) -> Arc<str> {
    let whose = if *sender == UserName::system() { "the server" } else { sender.as_str() };
    match reason {
        Some(reason) => format!("A message of {whose} was removed: {reason}").into(),
        None => format!("A message of {whose} was removed.").into(),
    }
}
