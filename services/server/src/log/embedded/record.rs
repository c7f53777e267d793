//! The bytes of records and operations, the same in the commit log and in the tables.

use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId, UserName};

use crate::log::{Batch, Record};

const APPEND: u8 = 1;
const PURGE: u8 = 2;
const DELETE: u8 = 3;
const REDACT: u8 = 4;

/// What a commit-log block holds: one change of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Messages were added.
    Append {
        /// The messages.
        batch: Arc<Batch>,
        /// Their [`Record::size`].
        bytes: usize,
    },
    /// The oldest messages were removed.
    Purge {
        /// The group.
        group: GroupName,
        /// The newest that was removed.
        through: u64,
    },
    /// The text of a message was removed.
    Redact {
        /// The group.
        group: GroupName,
        /// Its life.
        epoch: u64,
        /// The message.
        seq: u64,
    },
    /// The group was removed.
    Delete {
        /// The group.
        group: GroupName,
    },
}

/// The bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored bytes cannot be decoded: {what}")]
pub(crate) struct DecodeError {
    what: String,
}

impl DecodeError {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl Operation {
    /// An append of a batch.
    pub(crate) fn append(batch: Arc<Batch>) -> Self {
        let bytes = batch.records.iter().map(Record::size).sum();
        Self::Append { batch, bytes }
    }

    /// The group that changes.
    pub(crate) fn group(&self) -> &GroupName {
        match self {
            Self::Append { batch, .. } => &batch.group,
            Self::Purge { group, .. } | Self::Redact { group, .. } | Self::Delete { group } => group,
        }
    }

    /// Messages added.
    pub(crate) fn records(&self) -> usize {
        match self {
            Self::Append { batch, .. } => batch.records.len(),
            Self::Purge { .. } | Self::Redact { .. } | Self::Delete { .. } => 0,
        }
    }

    /// What it counts for in memory.
    pub(crate) fn bytes(&self) -> usize {
        const FIXED: usize = 64;
        match self {
            Self::Append { bytes, .. } => FIXED + bytes,
            Self::Purge { .. } | Self::Redact { .. } | Self::Delete { .. } => FIXED,
        }
    }

    /// Writes the operation to the end of `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Append { .. } => APPEND,
            Self::Purge { .. } => PURGE,
            Self::Redact { .. } => REDACT,
            Self::Delete { .. } => DELETE,
        };
        out.push(kind);
        put_short(out, self.group().as_str());
        match self {
            Self::Append { batch, .. } => {
                out.extend_from_slice(&batch.epoch.to_le_bytes());
                out.extend_from_slice(&batch.first().to_le_bytes());
                out.extend_from_slice(&(batch.records.len() as u32).to_le_bytes());
                for record in &batch.records {
                    encode_record(record, out);
                }
            }
            Self::Purge { through, .. } => out.extend_from_slice(&through.to_le_bytes()),
            Self::Redact { epoch, seq, .. } => {
                out.extend_from_slice(&epoch.to_le_bytes());
                out.extend_from_slice(&seq.to_le_bytes());
            }
            Self::Delete { .. } => {}
        }
    }

    /// Reads an operation.
    pub(crate) fn decode(input: &mut Input<'_>) -> Result<Self, DecodeError> {
        let kind = input.byte()?;
        let group = GroupName::new(input.short()?).map_err(|error| DecodeError::new(error.to_string()))?;
        match kind {
            APPEND => {
                let epoch = input.u64()?;
                let first = input.u64()?;
                let count = u64::from(input.u32()?);
                let records = (0..count).map(|n| decode_record(first + n, input)).collect::<Result<_, _>>()?;
                Ok(Self::append(Arc::new(Batch { group, epoch, records })))
            }
            PURGE => Ok(Self::Purge { group, through: input.u64()? }),
            REDACT => Ok(Self::Redact { group, epoch: input.u64()?, seq: input.u64()? }),
            DELETE => Ok(Self::Delete { group }),
            other => Err(DecodeError::new(format!("unknown operation {other}"))),
        }
    }
}

/// Writes a record without its `seq` to the end of `out`.
pub(crate) fn encode_record(record: &Record, out: &mut Vec<u8>) {
    out.extend_from_slice(&record.at.to_le_bytes());
    put_short(out, record.sender.as_str());
    put_short(out, record.id.as_ref().map_or("", PostId::as_str));
    out.extend_from_slice(&(record.message.len() as u32).to_le_bytes());
    out.extend_from_slice(record.message.as_bytes());
}

/// Reads a record.
pub(crate) fn decode_record(seq: u64, input: &mut Input<'_>) -> Result<Record, DecodeError> {
    let invalid = |error: tertulia_protocol::NameError| DecodeError::new(error.to_string());
    let at = input.u64()?;
    let sender = UserName::from_stored(input.short()?).map_err(invalid)?;
    let id = match input.short()? {
        "" => None,
        id => Some(PostId::from_stored(id).map_err(invalid)?),
    };
    let length = input.u32()?;
    let message = Arc::from(input.text(length as usize)?);
    Ok(Record { seq, at, sender, id, message })
}

/// A text of at most 255 bytes: names and ids are never longer.
fn put_short(out: &mut Vec<u8>, text: &str) {
    debug_assert!(text.len() <= usize::from(u8::MAX));
    out.push(text.len() as u8);
    out.extend_from_slice(text.as_bytes());
}

/// Bytes that are being decoded.
#[derive(Debug)]
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| DecodeError::new("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(self.take(4)?.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte)))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(self.take(8)?.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn short(&mut self) -> Result<&'a str, DecodeError> {
        let length = self.byte()?;
        self.text(usize::from(length))
    }

    fn text(&mut self, length: usize) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.take(length)?).map_err(|_| DecodeError::new("a text is not UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operations() -> Vec<Operation> {
        let group = GroupName::new("Dogs").unwrap();
        let record = |seq: u64, id: Option<&str>, message: &str| Record {
            seq,
            at: 1000 + seq,
            sender: if seq == 8 { UserName::system() } else { UserName::new("ada").unwrap() },
            id: id.map(|id| PostId::new(id).unwrap()),
            message: message.into(),
        };
        let redacted = record(9, Some("x2"), "gone").redacted();
        let removes = tertulia_protocol::Removal { first: 9, last: 9, sender: Some("ada") };
        let removal = Record { id: Some(PostId::of_removal(removes)), ..record(10, None, "A message was removed.") };
        let records = vec![record(7, Some("x1"), "Samoyeds rock!"), record(8, None, ""), redacted, removal];
        vec![
            Operation::append(Arc::new(Batch { group: group.clone(), epoch: 5, records })),
            Operation::Purge { group: group.clone(), through: 7 },
            Operation::Redact { group: group.clone(), epoch: 5, seq: 7 },
            Operation::Delete { group },
        ]
    }

    #[test]
    fn operations_come_back_as_they_were() {
        let mut bytes = Vec::new();
        operations().iter().for_each(|operation| operation.encode(&mut bytes));
        let mut input = Input::new(&bytes);
        for operation in operations() {
            assert_eq!(Operation::decode(&mut input), Ok(operation));
        }
        assert!(input.byte().is_err(), "nothing is left");
    }

    #[test]
    fn bytes_that_end_too_early_are_refused() {
        for operation in operations() {
            let mut bytes = Vec::new();
            operation.encode(&mut bytes);
            for end in 0..bytes.len() {
                assert!(Operation::decode(&mut Input::new(&bytes[..end])).is_err(), "{operation:?} cut at {end}");
            }
        }
    }
}
