//! The texts of messages, removed because a moderator wants that, or who posted them; the group is told by a message of its own.

use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId, UserName};

use super::{Owner, unavailable};
use crate::log::{PageLimit, Range, Record};
use crate::shard::Refusal;
use crate::shard::request::{Redaction, Selection};

/// Records that are looked at at a time.
const PAGE: PageLimit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };
/// Texts that are removed at a time.
const AT_ONCE: usize = 1_000;

impl Owner {
    /// Removes the texts from the log, and then posts what tells of it: whoever reads that no longer finds them. What fails midway is made
    /// up for by doing all of it again.
    pub(super) async fn redact(
        &mut self,
        name: &GroupName,
        selection: &Selection,
        epoch: u64,
        reason: Option<&Arc<str>>,
    ) -> Result<Redaction, Refusal> {
        if !self.settled().await {
            return Err(unavailable(name));
        }
        if self.load_life(name, Some(epoch)).await?.is_none() {
            return Ok(Redaction::NoSuchGroup);
        }
        let records = self.select(name, selection).await?;
        let Some(first) = records.first() else { return Ok(Redaction::NoSuchMessage) };
        let with_text: Vec<u64> = records.iter().filter(|it| !it.is_removed).map(|it| it.seq).collect();
        for seqs in with_text.chunks(AT_ONCE) {
            let redacting = self.shared.log.redact(self.shard, name, epoch, seqs);
            // One that retention removed meanwhile is gone, too.
            self.in_time(name, redacting).await?.map_err(|error| {
                tracing::warn!(%error, "messages could not be removed");
                unavailable(name)
            })?;
        }
        let id = PostId::of_removal(selection.removal());
        let whose = if records.len() == 1 { Some(first.sender.as_str()) } else { selection.sender.as_deref() };
        let outcome = self.say(name, Some(&id), text(records.len(), whose, reason)).await;
        let told = self.answer_admin(name.clone(), outcome);
        Ok(Redaction::Removed { messages: records.len() as u64, told })
    }

    /// What the log has of them. What tells of a removal stays: without it nobody learns of that any more.
    async fn select(&mut self, name: &GroupName, selection: &Selection) -> Result<Vec<Selected>, Refusal> {
        let Selection { first, last, sender } = selection;
        let (mut selected, mut after) = (Vec::new(), first.saturating_sub(1));
        while after < *last {
            let limit = PageLimit { records: PAGE.records.min((last - after) as usize), ..PAGE };
            let reading = self.shared.log.read_for_owner(self.shard, name, Range::After(after), limit);
            let page = self.in_time(name, reading).await?.map_err(|error| {
                tracing::warn!(%error, "messages that are to be removed could not be read");
                unavailable(name)
            })?;
            let records = page.map_or_else(Vec::new, |page| page.records);
            let Some(newest) = records.last() else { break };
            after = newest.seq;
            let is_meant = |record: &&Record| {
                let is_of = sender.as_ref().is_none_or(|sender| record.sender.as_str() == sender);
                record.seq <= *last && is_of && record.removes().is_none()
            };
            selected.extend(records.iter().filter(is_meant).map(|record| Selected {
                seq: record.seq,
                sender: record.sender.clone(),
                is_removed: record.is_removed(),
            }));
        }
        Ok(selected)
    }
}

/// A message whose text is to be removed.
struct Selected {
    seq: u64,
    sender: UserName,
    /// Whether it was before.
    is_removed: bool,
}

/// What the group is told, for those who read and do not know numbers.
fn text(count: usize, whose: Option<&str>, reason: Option<&Arc<str>>) -> Arc<str> {
    let whose = match whose {
        Some("@system") => " of the server".to_owned(),
        Some(sender) => format!(" of {sender}"),
        None => String::new(),
    };
    let what = match count {
        1 => format!("A message{whose} was removed"),
        count => format!("{count} messages{whose} were removed"),
    };
    match reason {
        Some(reason) => format!("{what}: {reason}").into(),
        None => format!("{what}.").into(),
    }
}
