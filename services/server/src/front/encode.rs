//! Messages as lines of a dialect.

use bytes::Bytes;
use tertulia_protocol::codec::{classic_message, extended_message};
use tertulia_protocol::{Dialect, GroupName, PostId, extended};

use crate::shard::{Batch, Record};

/// All messages of a batch, a line each.
pub(super) fn batch(dialect: Dialect, batch: &Batch) -> Bytes {
    let size: usize = batch.records.iter().map(Record::size).sum();
    let mut out = Vec::with_capacity(size + batch.records.len() * (64 + batch.group.as_str().len()));
    for record in &batch.records {
        self::record(dialect, &batch.group, record, &mut out);
    }
    Bytes::from(out)
}

/// One message.
pub(super) fn record(dialect: Dialect, group: &GroupName, record: &Record, out: &mut Vec<u8>) {
    match dialect {
        Dialect::Classic => classic_message(group.as_str(), &record.message, out),
        Dialect::Extended => {
            let message = extended::Message {
                group_name: group.as_str().into(),
                message: (&*record.message).into(),
                seq: record.seq,
                sender: record.sender.as_str().into(),
                at: record.at,
                id: shown(record).map(Into::into),
            };
            extended_message(&message, out);
        }
    }
}

/// One message of a page of history.
pub(super) fn past(record: &Record) -> extended::PastMessage<'_> {
    extended::PastMessage {
        message: (&*record.message).into(),
        seq: record.seq,
        sender: record.sender.as_str().into(),
        at: record.at,
        id: shown(record).map(Into::into),
    }
}

/// The id that its poster gave it.
fn shown(record: &Record) -> Option<&str> {
    record.id.as_ref().filter(|id| id.is_of_client()).map(PostId::as_str)
}
