//! What is kept of a group: the rules, and how far they move its oldest message.

use redb::ReadableTable;
use tertulia_protocol::GroupName;

use super::record::DecodeError;
use super::table::{Chunk, Row, TableError};
use crate::log::Head;
use crate::log::config::Retention;
pub(crate) use crate::log::retention::Rules;

impl Rules {
    /// The head as it is seen: the bound on the number of messages holds at once, before anything is removed.
    pub(crate) fn seen(&self, group: &GroupName, head: Head) -> Head {
        Head { first: first_by_count(self.of(group.as_str()), head), ..head }
    }
}

fn first_by_count(rule: &Retention, head: Head) -> u64 {
    match rule.messages {
        0 => head.first,
        messages => head.first.max((head.seq + 1).saturating_sub(messages)),
    }
}

/// How far a look at a group came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Look {
    /// The oldest message that is kept, as far as it is known.
    pub(crate) first: u64,
    /// Chunks that were gone through.
    pub(crate) chunks: usize,
    /// Whether there is more to look at.
    pub(crate) more: bool,
    /// Why the messages of the group cannot be read.
    pub(crate) damaged: Option<DecodeError>,
}

impl Look {
    fn new(first: u64, chunks: usize, more: bool) -> Self {
        Self { first, chunks, more, damaged: None }
    }

    /// What the bound on the number of messages keeps, which takes no look at them.
    pub(crate) fn by_count(rule: &Retention, row: &Row) -> Self {
        Self::new(first_by_count(rule, row.head), 0, false)
    }
}

/// The oldest message that the rule keeps, as far as it can be told from so many `chunks`. The newest message is removed by its age only, and
/// none is while `now` is not known.
///
/// Of a group with a damaged message only the bound on the number holds: what cannot be read has neither a size nor an age, and must not
/// keep other groups from going on.
pub(crate) fn oldest_kept(
    rule: &Retention,
    row: &Row,
    now: Option<u64>,
    chunks: usize,
    messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
) -> Result<Look, TableError> {
    match by_size_and_age(rule, row, now, chunks, messages) {
        Err(TableError::Decode(error)) => Ok(Look { damaged: Some(error), ..Look::by_count(rule, row) }),
        looked => looked,
    }
}

fn by_size_and_age(
    rule: &Retention,
    row: &Row,
    now: Option<u64>,
    chunks: usize,
    messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
) -> Result<Look, TableError> {
    let mut first = first_by_count(rule, row.head);
    // All bytes that the group ever had may be kept: then what it has now may be kept.
    let by_bytes = rule.bytes > 0 && row.bytes > rule.bytes;
    let too_old = now.filter(|_| !rule.age.is_zero()).map(|now| now.saturating_sub(rule.age.as_millis() as u64));
    if first > row.head.seq || (!by_bytes && too_old.is_none()) {
        return Ok(Look::new(first, 0, false));
    }
    let mut seen = 0;
    for entry in messages.range((row.id, first)..=(row.id, u64::MAX))?.take(chunks) {
        let (key, value) = entry?;
        seen += 1;
        let chunk = Chunk::decode(key.value().1, value.value())?;
        let mut before = chunk.before;
        if before > row.bytes {
            return Err(DecodeError::new(format!("{before} bytes before message {} are too many", chunk.first)).into());
        }
        for record in chunk.records()? {
            let over = by_bytes && row.bytes.saturating_sub(before) > rule.bytes && record.seq < row.head.seq;
            let old = too_old.is_some_and(|limit| record.at < limit);
            if record.seq >= first {
                if !over && !old {
                    return Ok(Look::new(first, seen, false));
                }
                first = record.seq + 1;
            }
            before += record.size() as u64;
        }
    }
    Ok(Look::new(first, seen, seen == chunks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_bound_on_messages_holds_at_once() {
        let rule = Retention { messages: 10, bytes: 0, age: Duration::ZERO };
        let head = |seq, first| Head { epoch: 1, seq, first, at: 0 };
        assert_eq!(first_by_count(&rule, head(5, 1)), 1);
        assert_eq!(first_by_count(&rule, head(10, 1)), 1);
        assert_eq!(first_by_count(&rule, head(11, 1)), 2);
        assert_eq!(first_by_count(&rule, head(11, 9)), 9);
    }
}
