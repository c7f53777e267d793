//! New epochs for the groups of a log that may lack messages, or have gone on elsewhere: a backup, and one whose commit log was given up.
//!
//! Its numbers are given out again. A client that has seen more than the log has could not tell the new messages from those it knows,
//! once there are as many; in another epoch no number is taken for one that it has seen.

use std::ops::Bound;

use redb::{ReadableTable, ReadableTableMetadata};

use super::record::DecodeError;
use super::table::{GROUPS, META, Row, TableError, Tables, meta};
use crate::log::{EPOCHS_OF_A_MOMENT, epoch_of_now};

/// Rows that are held in memory at a time.
const ROWS: usize = 4096;

/// From now on there is no commit log beside the tables, and none is missed; the next start [renews](renew_epochs) the epochs.
pub(crate) fn set_apart(tables: &Tables) -> Result<(), TableError> {
    tables.write(|transaction| {
        let mut numbers = transaction.open_table(META)?;
        numbers.insert(meta::IN_USE, 0)?;
        numbers.insert(meta::RENEWED, 0)?;
        Ok(())
    })
}

/// Gives each group a new epoch where the tables were [set apart](set_apart), once. Answers to how many. To be called when the tables hold all
/// that is in the commit log: its blocks name the epochs.
pub(crate) fn renew_epochs(tables: &Tables) -> Result<u64, TableError> {
    // Where there is a commit log, it is in use from the first block on that was moved.
    if tables.number(meta::IN_USE)? > 0 || tables.number(meta::RENEWED)? > 0 || tables.count()? == 0 {
        return Ok(0);
    }
    let now = epoch_of_now();
    let chance = now % EPOCHS_OF_A_MOMENT;
    tables.write(|transaction| {
        let mut groups = transaction.open_table(GROUPS)?;
        let mut last: Option<String> = None;
        loop {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = groups.range::<&str>((from, Bound::Unbounded))?.take(ROWS);
            let rows = rows.map(|entry| entry.map(|(name, row)| (name.value().to_owned(), Row::decode(row.value()))));
            let rows: Vec<(String, Result<Row, DecodeError>)> = rows.collect::<Result<_, _>>()?;
            let Some((name, _)) = rows.last() else { break };
            last = Some(name.clone());
            for (group, row) in rows {
                match row {
                    Ok(mut row) => {
                        // Also where the clock is behind, another one than a second copy gets.
                        row.head.epoch = now.max(row.head.epoch.saturating_add(1 + chance));
                        groups.insert(group.as_str(), row.encode().as_slice())?;
                    }
                    // Nobody can be served from it.
                    Err(error) => tracing::warn!(group, %error, "cannot give a group a new epoch"),
                }
            }
        }
        transaction.open_table(META)?.insert(meta::RENEWED, 1)?;
        Ok(groups.len()?)
    })
}
