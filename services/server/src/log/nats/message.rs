//! What a message of a stream holds.
//!
//! One message holds consecutive records of one group, or a mark. Its beginning says all that must be known of the group by who
//! finds it last: the epoch, the newest `seq`, and the floor, which is the oldest `seq` that readers may still see.
//!
//! ```text
//! version(1) kind(1) epoch floor bytes first at count, then for each record:  at − at of the one before, sender, id, message
//! ```
//!
//! Numbers are LEB128; a text is its length and its bytes; an id of length 0 is none.

use std::sync::Arc;

use tertulia_protocol::{PostId, UserName};

use crate::log::{Head, Record};

const VERSION: u8 = 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Records.
    Records,
    /// No records: only that the floor has moved.
    Mark,
    /// The group was deleted.
    Deleted,
}

/// A message of a group's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// The life of the group.
    pub(crate) epoch: u64,
    /// The oldest `seq` that may be read once this message is in the log.
    pub(crate) floor: u64,
    /// Size ([`Record::size`]) of all records of this life up to the end of this message.
    pub(crate) bytes: u64,
    /// The newest `seq` up to the end of this message.
    pub(crate) seq: u64,
    /// When that one was taken in.
    pub(crate) at: u64,
    pub(crate) records: Vec<Record>,
}

/// Why a message cannot be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("it has version {0}, and this server knows up to {VERSION}: run a newer one")]
    Version(u8),
    #[error("it is damaged")]
    Damaged,
}

impl Message {
    /// The `seq` of the first record; of a mark, the one after the newest.
    pub(crate) fn first(&self) -> u64 {
        self.seq + 1 - self.records.len() as u64
    }

    /// What is known of the group once this is its last message; `None` if it is gone.
    pub(crate) fn head(&self) -> Option<Head> {
        let first = self.floor.clamp(1, self.seq + 1);
        (self.kind != Kind::Deleted).then_some(Head { epoch: self.epoch, seq: self.seq, first, at: self.at })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let texts: usize = self.records.iter().map(Record::size).sum();
        let mut out = Vec::with_capacity(48 + texts);
        out.push(VERSION);
        out.push(match self.kind {
            Kind::Records => 1,
            Kind::Mark => 2,
            Kind::Deleted => 3,
        });
        let start = self.records.first().map_or(self.at, |record| record.at);
        for number in [self.epoch, self.floor, self.bytes, self.first(), start, self.records.len() as u64] {
            put(&mut out, number);
        }
        let mut before = start;
        for record in &self.records {
            put(&mut out, record.at.saturating_sub(before));
            before = record.at.max(before);
            put_text(&mut out, record.sender.as_str());
            put_text(&mut out, record.id.as_ref().map_or("", PostId::as_str));
            put_text(&mut out, &record.message);
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (&version, rest) = bytes.split_first().ok_or(DecodeError::Damaged)?;
        if version != VERSION {
            return Err(DecodeError::Version(version));
        }
        Reader { rest }.message().ok_or(DecodeError::Damaged)
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        std::str::from_utf8(text).ok()
    }

    fn message(mut self) -> Option<Message> {
        let kind = match self.byte()? {
            1 => Kind::Records,
            2 => Kind::Mark,
            3 => Kind::Deleted,
            _ => return None,
        };
        let (epoch, floor, bytes) = (self.number()?, self.number()?, self.number()?);
        let (first, mut at, count) = (self.number()?, self.number()?, self.number()?);
        // A record has at least four bytes, so a damaged count cannot ask for more than there is.
        if first == 0 || count > self.rest.len() as u64 / 4 || (kind == Kind::Records) != (count > 0) {
            return None;
        }
        // There is always one after it.
        let seq = (first - 1).checked_add(count).filter(|seq| *seq < u64::MAX)?;
        let mut records = Vec::with_capacity(usize::try_from(count).ok()?);
        for seq in first..=seq {
            at = at.checked_add(self.number()?)?;
            let sender = UserName::from_stored(self.text()?).ok()?;
            let id = match self.text()? {
                "" => None,
                id => Some(PostId::from_stored(id).ok()?),
            };
            let message = Arc::from(self.text()?);
            records.push(Record { seq, at, sender, id, message });
        }
        let is_whole = self.rest.is_empty();
        is_whole.then_some(Message { kind, epoch, floor, bytes, seq, at, records })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::log::conformance::record;

    fn message(kind: Kind, first: u64, last: u64) -> Message {
        let records: Vec<Record> = (first..=last).map(record).collect();
        let at = records.last().map_or(7, |record| record.at);
        Message { kind, epoch: 1 << 52, floor: 3, bytes: 12_345, seq: last, at, records }
    }

    #[test]
    fn the_encoding_is_pinned() {
        let records = vec![Record {
            seq: 300,
            at: 1_000,
            sender: UserName::new("ada").unwrap(),
            id: Some(PostId::new("x1").unwrap()),
            message: "hé".into(),
        }];
        let message = Message { kind: Kind::Records, epoch: 7, floor: 2, bytes: 130, seq: 300, at: 1_000, records };
        let bytes = b"\x01\x01\x07\x02\x82\x01\xac\x02\xe8\x07\x01\x00\x03ada\x02x1\x03h\xc3\xa9";
        assert_eq!(message.encode(), bytes);
        assert_eq!(Message::decode(bytes).unwrap(), message);
    }

    #[test]
    fn what_is_written_is_read() {
        for message in [message(Kind::Records, 5, 90), message(Kind::Mark, 91, 90), message(Kind::Deleted, 91, 90)] {
            assert_eq!(Message::decode(&message.encode()).unwrap(), message);
        }
        let mark = message(Kind::Mark, 91, 90);
        assert_eq!((mark.first(), mark.head().unwrap().first), (91, 3));
        assert_eq!(message(Kind::Deleted, 91, 90).head(), None);
    }

    #[test]
    fn what_servers_say_and_name_is_read_too() {
        let mut message = message(Kind::Records, 1, 2);
        message.records[0].sender = UserName::system();
        message.records[1].id = Some(PostId::of_server(1, 2));
        assert_eq!(Message::decode(&message.encode()).unwrap(), message);
    }

    #[test]
    fn a_message_of_the_future_says_so() {
        assert_eq!(Message::decode(&[9, 1, 2]), Err(DecodeError::Version(9)));
        assert_eq!(Message::decode(&[]), Err(DecodeError::Damaged));
    }

    #[test]
    fn the_last_number_there_is_is_damage() {
        let of = |first: u64| {
            let mut bytes = vec![VERSION, 1];
            for number in [7, 1, 10, first, 1_000, 1] {
                put(&mut bytes, number);
            }
            put(&mut bytes, 0);
            ["ada", "", "hi"].iter().for_each(|text| put_text(&mut bytes, text));
            Message::decode(&bytes)
        };
        assert_eq!(of(u64::MAX - 1).unwrap().head().unwrap().seq, u64::MAX - 1);
        assert_eq!(of(u64::MAX), Err(DecodeError::Damaged));
    }

    /// Asks for all that is worked out.
    fn look_at(bytes: &[u8]) {
        if let Ok(message) = Message::decode(bytes) {
            let _ = (message.head(), message.first());
        }
    }

    proptest! {
        #[test]
        fn damage_never_panics(at in 0usize..200, byte: u8, cut in 0usize..200) {
            let mut bytes = message(Kind::Records, 5, 20).encode();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(bytes.len() - cut % 20);
            look_at(&bytes);
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            look_at(&bytes);
        }
    }
}
