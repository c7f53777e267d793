//! The texts of messages, removed because a moderator wants that, or who posted them; the group is told by a message of its own.

use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId, Removal, UserName};

use super::{Owner, unavailable};
use crate::log::{Page, PageLimit, Range, Record};
use crate::shard::Refusal;
use crate::shard::request::{Redaction, RemovedBefore, Selection, Telling};

/// Records that are looked at at a time.
const PAGE: PageLimit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };
/// Texts that are removed at a time.
const AT_ONCE: usize = 1_000;

impl Owner {
    /// Removes the texts from the log, and then, unless it is to be quiet, posts what tells of it: whoever reads that no longer finds them. What
    /// fails midway is made up for by doing all of it again.
    pub(super) async fn redact(
        &mut self,
        name: &GroupName,
        selection: &Selection,
        epoch: u64,
        telling: &Telling,
    ) -> Result<Redaction, Refusal> {
        if !self.settled().await {
            return Err(unavailable(name));
        }
        if self.load_life(name, Some(epoch)).await?.is_none() {
            return Ok(Redaction::NoSuchGroup);
        }
        if let Some(removed) = telling.removed {
            return self.tell_of_removal(name, selection, removed, None, telling).await;
        }
        let selected = self.select(name, selection).await?;
        let Some(last) = selected.last() else { return Ok(Redaction::NoSuchMessage) };
        let removed = RemovedBefore { messages: selected.len() as u64, last: last.seq };
        // The ids of posts whose answers may be on their way, before what has them is changed.
        self.with_ids(name).await?;
        let with_text: Vec<u64> = selected.iter().filter(|it| !it.is_removed).map(|it| it.seq).collect();
        for seqs in with_text.chunks(AT_ONCE) {
            let redacting = self.shared.log.redact(self.shard, name, epoch, seqs);
            // One that retention removed meanwhile is gone, too.
            self.in_time(name, redacting).await?.map_err(|error| {
                tracing::warn!(%error, "messages could not be removed");
                unavailable(name)
            })?;
        }
        if telling.quietly {
            return Ok(Redaction::RemovedQuietly(removed));
        }
        let sender = match &selected[..] {
            [one] => one.sender.as_ref(),
            _ => None,
        };
        self.tell_of_removal(name, selection, removed, sender, telling).await
    }

    async fn tell_of_removal(
        &mut self,
        name: &GroupName,
        selection: &Selection,
        removed: RemovedBefore,
        sender: Option<&UserName>,
        telling: &Telling,
    ) -> Result<Redaction, Refusal> {
        let RemovedBefore { messages, last } = removed;
        let whose = sender.map(UserName::as_str).or(selection.sender.as_deref());
        // Up to the last there is: what comes later is not meant, and who asks again finds that the group was told.
        let id = PostId::of_removal(Removal { last, ..selection.removal() });
        let outcome = self.say(name, Some(&id), text(messages, whose, telling.reason.as_ref())).await;
        let told = self.answer_admin(name.clone(), outcome);
        Ok(Redaction::Removed { messages, told })
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
            let Some(Page { head, records }) = page else { break };
            let missing = match records.first() {
                Some(first) => head.first.max(after + 1)..first.seq,
                None => self.missing_after(name, after).await?,
            };
            let missing = missing.start..missing.end.min(last.saturating_add(1));
            if !missing.is_empty() {
                if sender.is_some() {
                    tracing::warn!(
                        group = %name, first = missing.start, last = missing.end - 1,
                        "messages cannot be read, so it is not known whether they are to be removed: try again, or remove them whoever posted them"
                    );
                    return Err(unavailable(name));
                }
                selected.extend(missing.map(|seq| Selected { seq, sender: None, is_removed: false }));
            }
            let Some(newest) = records.last() else { break };
            after = newest.seq;
            let is_meant = |record: &&Record| {
                let is_of = sender.as_ref().is_none_or(|sender| record.sender.as_str() == sender);
                record.seq <= *last && is_of && record.removes().is_none()
            };
            selected.extend(records.iter().filter(is_meant).map(|record| Selected {
                seq: record.seq,
                sender: Some(record.sender.clone()),
                is_removed: record.is_removed(),
            }));
        }
        Ok(selected)
    }

    /// What the log is said to have after a message, where a page says that there is nothing to be read.
    async fn missing_after(&mut self, name: &GroupName, after: u64) -> Result<std::ops::Range<u64>, Refusal> {
        let asking = self.shared.log.head(self.shard, name);
        let head = self.in_time(name, asking).await?.map_err(|_| unavailable(name))?;
        Ok(head.map_or(0..0, |head| head.first.max(after + 1)..head.seq + 1))
    }
}

/// A message whose text is to be removed.
struct Selected {
    seq: u64,
    /// Whose it is, if it can be read.
    sender: Option<UserName>,
    /// Whether it was before.
    is_removed: bool,
}

/// What the group is told, for those who read and do not know numbers.
fn text(count: u64, whose: Option<&str>, reason: Option<&Arc<str>>) -> Arc<str> {
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
