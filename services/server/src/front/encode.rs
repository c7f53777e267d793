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
                removes: record.removes().map(Into::into),
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
        removes: record.removes().map(Into::into),
    }
}

/// Bytes that [`past`] has at most as JSON.
pub(super) fn past_bytes(record: &Record) -> usize {
    /// The names of the fields, and two numbers.
    const AROUND: usize = 112;
    /// The same of a removal.
    const REMOVAL: usize = 96;
    let removal = record.removes();
    let of = removal.and_then(|removal| removal.sender);
    let texts = [&record.message, record.sender.as_str(), record.id_of_client().or(of).unwrap_or_default()];
    AROUND + removal.map_or(0, |_| REMOVAL) + texts.iter().map(|text| json_bytes(text)).sum::<usize>()
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
    use tertulia_protocol::{PostId, Removal, UserName};

    use super::*;

    #[test]
    fn a_past_message_has_no_more_bytes_than_it_is_taken_for() {
        let all: String = (0..0x250).filter_map(char::from_u32).collect();
        let post = |id| Some(PostId::new(id).unwrap());
        let removal = |sender| Some(PostId::of_removal(Removal { first: u64::MAX, last: u64::MAX, sender }));
        for (message, id) in [
            ("", None),
            ("plain", post("p-1")),
            (&*all, post("\"quoted\"")),
            ("\u{1}\u{2}", None),
            ("", Some(PostId::of_removed(post("p-1").as_ref()))),
            ("removed", removal(None)),
            ("removed", removal(Some("\"ada\""))),
        ] {
            let record = Record {
                seq: u64::MAX,
                at: u64::MAX,
                sender: UserName::new("\"ada\"").unwrap(),
                id,
                message: message.into(),
            };
            let mut line = Vec::new();
            encode(&past(&record), &mut line);
            let most = past_bytes(&record);
            assert!(line.len() <= most && most <= line.len() + 80, "{} of {most}", line.len());
        }
    }
}
