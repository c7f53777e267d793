//! Messages as lines of a dialect.

use bytes::Bytes;
use tertulia_protocol::codec::{classic_message, extended_message};
use tertulia_protocol::{Dialect, GroupName, extended};

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
        // There is nothing to be read, and no number that would be missed.
        Dialect::Classic if record.is_removed() => {}
        Dialect::Classic => classic_message(group.as_str(), &record.message, out),
        Dialect::Extended => {
            let message = extended::Message {
                group_name: group.as_str().into(),
                message: (&*record.message).into(),
                seq: record.seq,
                sender: record.sender.as_str().into(),
                at: record.at,
                id: record.id_of_client().map(Into::into),
                removed: record.is_removed(),
                removes: record.removes(),
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
        id: record.id_of_client().map(Into::into),
        removed: record.is_removed(),
        removes: record.removes(),
    }
}

/// Bytes that [`past`] has at most as JSON.
pub(super) fn past_bytes(record: &Record) -> usize {
    /// The names of the fields, and three numbers.
    const AROUND: usize = 144;
    let texts = [&record.message, record.sender.as_str(), record.id_of_client().unwrap_or_default()];
    AROUND + texts.iter().map(|text| json_bytes(text)).sum::<usize>()
}

/// Bytes of a text in JSON, without its quotes.
fn json_bytes(text: &str) -> usize {
    let width = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(width).sum()
}

#[cfg(test)]
mod tests {
    use tertulia_protocol::codec::encode;
    use tertulia_protocol::{PostId, UserName};

    use super::*;

    #[test]
    fn a_past_message_has_no_more_bytes_than_it_is_taken_for() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        for (message, id) in [("", None), ("plain", Some("p-1")), (&*all, Some("\"quoted\"")), ("\u{1}\u{2}", None)] {
            let record = Record {
                seq: u64::MAX,
                at: u64::MAX,
                sender: UserName::new("\"ada\"").unwrap(),
                id: id.map(|id| PostId::new(id).unwrap()),
                message: message.into(),
            };
            let mut line = Vec::new();
            encode(&past(&record), &mut line);
            let most = past_bytes(&record);
            assert!(line.len() <= most && most <= line.len() + 80, "{} of {most}", line.len());
        }
    }
}
