//! Removing the texts of messages from the tables.
//!
//! A chunk is written again, without them. Where the disk failed at a group's messages, or at a start, which reads no more than it must,
//! that is put off: the tables note of which messages, and who reads leaves their texts out.

use std::borrow::Cow;
use std::collections::BTreeSet;

use redb::{ReadableTable, Table};

use super::record::{DecodeError, encode_record};
use super::spared::Spared;
use super::table::{CHUNK_HEADER, Chunk, TableError};
use crate::log::Record;

/// Messages of those put off that one transaction sees to.
const AT_ONCE: usize = 1024;

type Messages<'t> = Table<'t, (u64, u64), &'static [u8]>;
type Redactions<'t> = Table<'t, (u64, u64), ()>;

/// Removes the texts of messages of a group. Answers with the chunks that cannot be understood, in which nobody can read anything either.
pub(super) fn now(messages: &mut Messages<'_>, id: u64, seqs: &BTreeSet<u64>) -> Result<Vec<DecodeError>, TableError> {
    let mut damaged = Vec::new();
    let mut next = seqs.first().copied();
    while let Some(seq) = next {
        let found = match messages.range((id, seq)..=(id, u64::MAX))?.next() {
            Some(entry) => {
                let (key, value) = entry?;
                let last = key.value().1;
                Some((last, without_texts(last, value.value(), seqs)))
            }
            None => None,
        };
        let Some((last, chunk)) = found else { break };
        match chunk {
            Ok(Some(chunk)) => drop(messages.insert((id, last), chunk.as_slice())?),
            // They are gone, or their texts were before.
            Ok(None) => {}
            Err(error) => damaged.push(error),
        }
        next = last.checked_add(1).and_then(|next| seqs.range(next..).next().copied());
    }
    Ok(damaged)
}

/// Notes that their texts are to be removed.
pub(super) fn later(redactions: &mut Redactions<'_>, id: u64, seqs: &BTreeSet<u64>) -> Result<(), TableError> {
    for seq in seqs {
        redactions.insert((id, *seq), ())?;
    }
    Ok(())
}

/// Removes texts that were left for later. Answers whether there are more that can be.
pub(super) fn what_was_put_off(
    messages: &mut Messages<'_>,
    redactions: &mut Redactions<'_>,
    spared: &Spared,
) -> Result<bool, TableError> {
    if spared.is_all() {
        return Ok(false);
    }
    let (mut from, mut left) = ((0, 0), AT_ONCE);
    loop {
        let Some(id) = redactions.range(from..)?.next().transpose()?.map(|(key, _)| key.value().0) else {
            return Ok(false);
        };
        if left == 0 {
            return Ok(true);
        }
        let Some(next) = id.checked_add(1) else { return Ok(false) };
        from = (next, 0);
        if spared.has(id) {
            continue;
        }
        let mut seqs = BTreeSet::new();
        for entry in redactions.range((id, 0)..=(id, u64::MAX))?.take(left) {
            seqs.insert(entry?.0.value().1);
        }
        left -= seqs.len();
        // Of the group no more is known here: it may be gone.
        now(messages, id, &seqs).map_err(|error| error.met_at(id, || format!("with id {id}")))?;
        for seq in &seqs {
            redactions.remove((id, *seq))?;
        }
        if left == 0 {
            from = (id, 0);
        }
    }
}

/// A record as it is left by a removal, if it is one of those whose texts are removed.
pub(super) fn left_of(record: &Record, is_meant: bool) -> Cow<'_, Record> {
    if is_meant { Cow::Owned(record.redacted()) } else { Cow::Borrowed(record) }
}

/// A chunk without the texts of some messages; `None` if it has none of them. What its group had before it is told as ever.
fn without_texts(last: u64, bytes: &[u8], seqs: &BTreeSet<u64>) -> Result<Option<Vec<u8>>, DecodeError> {
    let chunk = Chunk::decode(last, bytes)?;
    let mut out = bytes.get(..CHUNK_HEADER).unwrap_or_default().to_vec();
    let mut is_changed = false;
    for record in chunk.records()? {
        let is_meant = seqs.contains(&record.seq) && !record.is_removed();
        is_changed |= is_meant;
        encode_record(&left_of(&record, is_meant), &mut out);
    }
    Ok(is_changed.then_some(out))
}
