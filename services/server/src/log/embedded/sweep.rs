//! A walk over all groups, in slices, for what retention removes where nothing happens.

use std::time::{Duration, Instant};

use redb::ReadableTable;
use tertulia_protocol::GroupName;

use super::apply::Upkeep;
use super::complaints::Complaints;
use super::record::DecodeError;
use super::retention::{Look, Rules, oldest_kept};
use super::spared::Spared;
use super::table::{GROUPS, MESSAGES, Row, TableError, Tables};

/// Groups that one look goes through, and the most that wait for what it found.
const GROUPS_PER_LOOK: usize = 2048;

/// The walk.
#[derive(Debug)]
pub(crate) struct Sweep {
    interval: Duration,
    begun: Instant,
    /// The group that the next look begins with; `None` between two walks.
    cursor: Option<String>,
    /// Groups of which there is something to remove.
    due: Vec<GroupName>,
    /// Groups that cannot be looked at, for now.
    spared: Spared,
    /// Whether the clock was believed at the last look.
    knows_time: bool,
}

impl Sweep {
    /// A first walk at once, since the rules may have changed, or removals may have been left over.
    pub(crate) fn new(interval: Duration) -> Self {
        let (cursor, due, spared) = (Some(String::new()), Vec::new(), Spared::default());
        Self { interval, begun: Instant::now(), cursor, due, spared, knows_time: false }
    }

    /// Whether something is found that is still to be removed.
    pub(crate) fn has_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What a transaction has to see to.
    pub(crate) fn upkeep<'a>(&'a self, rules: &'a Rules, now: Option<u64>) -> Upkeep<'a> {
        Upkeep { rules, due: &self.due, spared: &self.spared, now }
    }

    /// A transaction has seen to what was due; of these groups it has not seen all.
    pub(crate) fn done(&mut self, mut again: Vec<GroupName>) {
        // Those beyond are found by the next walk.
        again.truncate(GROUPS_PER_LOOK);
        self.due = again;
    }

    /// The disk failed at a group.
    pub(crate) fn spare(&mut self, id: u64) {
        self.spared.add(id);
    }

    /// Lets go of what is due until the next walk.
    pub(crate) fn give_up(&mut self) {
        self.due.clear();
        self.cursor = None;
    }

    /// Looks at the next groups, unless something is still due: however much there is to remove, it is found no sooner than it is removed.
    pub(crate) fn look(
        &mut self,
        tables: &Tables,
        rules: &Rules,
        now: Option<u64>,
        complaints: &mut Complaints,
    ) -> Result<(), TableError> {
        self.spared.forget_old();
        if !self.due.is_empty() {
            return Ok(());
        }
        let knew_time = std::mem::replace(&mut self.knows_time, now.is_some());
        let is_news = now.is_some() && !knew_time;
        if is_news {
            // Walks before this one have removed nothing for its age, and the next one may be far.
            self.cursor = Some(String::new());
            self.begun = Instant::now();
        }
        if self.cursor.is_none() {
            if self.begun.elapsed() < self.interval {
                return Ok(());
            }
            self.begun = Instant::now();
        }
        // It stays there until the look has succeeded.
        let from = self.cursor.get_or_insert_default().clone();
        let (due, spared) = (&mut self.due, &self.spared);
        let looked = tables.read(|transaction| {
            let groups = transaction.open_table(GROUPS)?;
            let messages = transaction.open_table(MESSAGES)?;
            let mut last = None;
            let mut seen = 0;
            for entry in groups.range::<&str>(from.as_str()..)?.take(GROUPS_PER_LOOK) {
                let (name, value) = entry?;
                let name = name.value();
                last = Some(name.to_owned());
                seen += 1;
                // A group that is damaged keeps no other one from being looked at.
                match look_at(Upkeep { rules, due: &[], spared, now }, name, value.value(), &messages) {
                    Ok((is_due, damaged)) => {
                        due.extend(is_due);
                        damaged.iter().for_each(|error| complaints.of(name, error));
                    }
                    Err(TableError::Decode(error)) => complaints.of(name, &error),
                    Err(error) => return Err(error),
                }
            }
            // The last group is looked at once more, as the first of the next slice.
            Ok(last.filter(|_| seen == GROUPS_PER_LOOK))
        });
        match looked {
            Ok(cursor) => self.cursor = cursor,
            // From the same group on, without this one.
            Err(TableError::Unreadable { id, group, error }) => {
                complaints.of(&group, &error);
                self.spared.add(id);
            }
            Err(error) => {
                if matches!(error, TableError::Broken(_)) || error.is_disk_failure() {
                    // It would be met again at once: not before the next walk.
                    self.cursor = None;
                }
                return Err(error);
            }
        }
        Ok(())
    }
}

/// A group if retention removes something of it, and what is damaged of it.
fn look_at(
    upkeep: Upkeep<'_>,
    name: &str,
    row: &[u8],
    messages: &impl ReadableTable<(u64, u64), &'static [u8]>,
) -> Result<(Option<GroupName>, Option<DecodeError>), TableError> {
    let row = Row::decode(row)?;
    let rule = upkeep.rules.of(name);
    let Look { first, damaged, .. } = match upkeep.spared.has(row.id) {
        true => Look::by_count(rule, &row),
        // The oldest chunk tells whether there is something; how much, the transaction finds out that removes it.
        false => oldest_kept(rule, &row, upkeep.now, 1, messages)
            .map_err(|error| error.met_at(row.id, || name.to_owned()))?,
    };
    let group = || GroupName::new(name).map_err(|error| DecodeError::new(error.to_string()));
    Ok(((first > row.head.first).then(group).transpose()?, damaged))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::log::Head;
    use crate::log::config::Retention;
    use crate::log::embedded::apply::apply;
    use crate::log::embedded::disk::Disk;
    use crate::log::embedded::simulated::SimulatedDisk;
    use crate::log::embedded::table::Chunk;

    /// Tables with so many groups of so many chunks of one message each, as a trickle leaves them.
    fn tables(groups: u64, chunks: u64) -> Tables {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        let tables = Tables::open(disk, 16 * 1024 * 1024, 1).unwrap();
        let record = crate::log::conformance::batch("Dogs", 7, 1, 1).records[0].clone();
        let mut bytes = Vec::new();
        crate::log::embedded::record::encode_record(&record, &mut bytes);
        let written = tables.write(|transaction| {
            let mut rows = transaction.open_table(GROUPS)?;
            let mut messages = transaction.open_table(MESSAGES)?;
            let size = record.size() as u64;
            for id in 1..=groups {
                let head = Head { epoch: 7, seq: chunks, first: 1, at: record.at };
                let row = Row { id, head, bytes: chunks * size };
                rows.insert(format!("group {id:05}").as_str(), row.encode().as_slice())?;
                for seq in 1..=chunks {
                    let mut chunk = Chunk::header(1, (seq - 1) * size).to_vec();
                    chunk.extend_from_slice(&bytes);
                    messages.insert((id, seq), chunk.as_slice())?;
                }
            }
            Ok(())
        });
        written.unwrap();
        tables
    }

    /// What keeps the newest message of each group.
    fn strict() -> Rules {
        Rules::from(Retention { messages: 0, bytes: 1, age: Duration::ZERO })
    }

    #[test]
    fn however_much_is_to_be_removed_a_transaction_looks_at_so_much() {
        const GROUPS: u64 = 200;
        const CHUNKS: u64 = 100;
        let (tables, rules) = (tables(GROUPS, CHUNKS), strict());
        let mut sweep = Sweep::new(Duration::from_secs(3600));
        let mut complaints = Complaints::default();
        sweep.look(&tables, &rules, None, &mut complaints).unwrap();
        assert_eq!(sweep.due.len() as u64, GROUPS);
        let (mut retired, mut transactions) = (0, 0);
        while sweep.has_due() {
            let applied = apply(&tables, &[], sweep.upkeep(&rules, None)).unwrap();
            // What it looks at beyond its measure is one chunk of each group.
            assert!(applied.retired <= 8192 + GROUPS, "{}", applied.retired);
            retired += applied.retired;
            transactions += 1;
            sweep.done(applied.again);
        }
        assert_eq!(retired, GROUPS * (CHUNKS - 1));
        assert!(transactions > 1);
    }

    #[test]
    fn a_walk_begins_whenever_the_clock_is_believed_again() {
        const NOW: u64 = 1_700_000_000_000;
        let (tables, rules) = (tables(1, 2), Rules::from(Retention::default()));
        let mut sweep = Sweep::new(Duration::from_secs(3600));
        let mut complaints = Complaints::default();
        let mut begins = |now| {
            // Long ago, so that it shows when it is set.
            let begun = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
            sweep.begun = begun;
            sweep.look(&tables, &rules, now, &mut complaints).unwrap();
            assert!(sweep.cursor.is_none(), "the walk takes one look");
            sweep.begun > begun
        };
        assert!(begins(Some(NOW)), "before, nothing was removed for its age");
        assert!(!begins(Some(NOW)));
        assert!(!begins(None), "the clock has jumped");
        assert!(begins(Some(NOW)));
        assert!(!begins(Some(NOW)));
    }

    #[test]
    fn the_walk_waits_until_what_it_found_is_removed() {
        let groups = GROUPS_PER_LOOK + 500;
        let (tables, rules) = (tables(groups as u64, 2), strict());
        let mut sweep = Sweep::new(Duration::from_secs(3600));
        let mut complaints = Complaints::default();
        for _ in 0..3 {
            sweep.look(&tables, &rules, None, &mut complaints).unwrap();
            assert_eq!(sweep.due.len(), GROUPS_PER_LOOK);
        }
        let mut retired = 0;
        while sweep.has_due() {
            let applied = apply(&tables, &[], sweep.upkeep(&rules, None)).unwrap();
            retired += applied.retired;
            sweep.done(applied.again);
            sweep.look(&tables, &rules, None, &mut complaints).unwrap();
        }
        assert_eq!(retired, groups as u64);
    }
}
