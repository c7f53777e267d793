//! The log: what makes a post last, and what every member can be caught up from.
//!
//! [`Log`] is the port; its rustdoc is the contract, and `conformance` holds every engine to it.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tertulia_protocol::{GroupName, PostId, Removal, UserName};

pub(crate) mod clock;
pub mod config;
#[cfg(test)]
pub(crate) mod conformance;
pub mod embedded;
pub mod memory;
pub mod metrics;
pub mod nats;
pub mod notes;
pub mod retention;

pub use config::{Config, Engine, Retention};

/// The time by this machine's clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// How many epochs there are of one millisecond.
pub(crate) const EPOCHS_OF_A_MOMENT: u64 = 1024;

/// An epoch for what begins now: milliseconds since 1970 in the upper bits and chance in the lower ten. It differs over restarts, and stays
/// below 2^53.
pub(crate) fn epoch_of_now() -> u64 {
    let chance = crate::random::number() % EPOCHS_OF_A_MOMENT;
    now_ms().saturating_mul(EPOCHS_OF_A_MOMENT).saturating_add(chance)
}

/// One message of a group, as it is kept and delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its place in the group: 1, 2, 3 …
    pub seq: u64,
    /// When it was taken in: milliseconds since 1970-01-01 UTC, never decreasing within a group.
    pub at: u64,
    /// Who posted it.
    pub sender: UserName,
    /// The id that the post carried.
    pub id: Option<PostId>,
    /// The text.
    pub message: Arc<str>,
}

impl Record {
    /// The id that its poster gave it.
    #[must_use]
    pub fn id_of_client(&self) -> Option<&str> {
        self.id.as_ref().and_then(PostId::of_client)
    }

    /// Whether its text was removed.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.id.as_ref().is_some_and(PostId::is_of_removed)
    }

    /// The removal of which it tells.
    #[must_use]
    pub fn removes(&self) -> Option<Removal<'_>> {
        self.id.as_ref().and_then(PostId::removes)
    }

    /// What is kept in its place once its text is removed: place, time, sender and id are the same.
    #[must_use]
    pub fn redacted(&self) -> Self {
        let (sender, id) = (self.sender.clone(), PostId::of_removed(self.id.as_ref()));
        Self { seq: self.seq, at: self.at, sender, id: Some(id), message: Arc::from("") }
    }

    /// What the record counts for in limits by size, in bytes: its texts and a constant.
    #[must_use]
    pub fn size(&self) -> usize {
        const FIXED: usize = 64;
        let id = self.id.as_ref().map_or(0, |id| id.as_str().len());
        FIXED + self.sender.as_str().len() + id + self.message.len()
    }
}

/// Consecutive messages of one group that are appended together and delivered together. Never empty; the records'
/// `seq` are dense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The group.
    pub group: GroupName,
    /// The life of the group to which every `seq` belongs.
    pub epoch: u64,
    /// The messages, oldest first.
    pub records: Vec<Record>,
}

impl Batch {
    /// The `seq` of the first record; 0 if there is none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.records.first().map_or(0, |record| record.seq)
    }

    /// What its records count for, in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.records.iter().map(Record::size).sum()
    }

    /// The same messages in parts of at most so many bytes of messages, or one message.
    ///
    /// Who holds a part holds no other message: where many parts are kept for those who are behind, each is small.
    #[must_use]
    pub fn in_parts(self: Arc<Self>, bytes: usize) -> Vec<Arc<Self>> {
        if self.records.iter().map(|record| record.message.len()).sum::<usize>() <= bytes {
            return vec![self];
        }
        let mut parts: Vec<Self> = Vec::new();
        let mut size = 0;
        for record in &self.records {
            size += record.message.len();
            match parts.last_mut().filter(|_| size <= bytes) {
                Some(part) => part.records.push(record.clone()),
                None => {
                    size = record.message.len();
                    parts.push(Self { group: self.group.clone(), epoch: self.epoch, records: vec![record.clone()] });
                }
            }
        }
        parts.into_iter().map(Arc::new).collect()
    }

    /// Removes the text of message `seq`; answers whether it is one of these. Who else holds the batch keeps it as it was.
    pub fn redact(self: &mut Arc<Self>, seq: u64) -> bool {
        let place = seq.checked_sub(self.first()).and_then(|place| usize::try_from(place).ok());
        let Some((place, record)) = place.and_then(|place| Some((place, self.records.get(place)?))) else {
            return false;
        };
        if !record.is_removed() {
            let redacted = record.redacted();
            Arc::make_mut(self).records[place] = redacted;
        }
        true
    }

    /// The `seq` of the last record; 0 if there is none.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.records.last().map_or(0, |record| record.seq)
    }
}

/// What the log knows of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The life of the group.
    pub epoch: u64,
    /// The newest `seq`.
    pub seq: u64,
    /// The oldest `seq` that is kept; `seq + 1` if nothing is.
    pub first: u64,
    /// When the newest message was taken in (milliseconds since 1970-01-01 UTC).
    pub at: u64,
}

/// Which records to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// The oldest records after this `seq`.
    After(u64),
    /// The newest records before this `seq`; `u64::MAX` for the newest of all.
    Before(u64),
}

/// How much to read at once. At least one record is read if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// At most so many records.
    pub records: usize,
    /// Stop after this many bytes ([`Record::size`]).
    pub bytes: usize,
}

/// Records of one group, oldest first and dense, and the head at the moment of reading.
///
/// What an engine finds damaged, or under which its disk fails, it may leave out of a page of [`Range::After`], which then begins later; a page
/// without records has its `head.first` after all that is left out. So whoever reads knows the numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The group's head when the page was read.
    pub head: Head,
    /// The records. Empty means that the log holds none in the direction asked for.
    pub records: Vec<Record>,
}

/// Why an append did not happen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The log's head of a group is not the one expected: somebody else has extended it. The writer must read the head again.
    #[error("group '{group}' was extended by another writer: expected its head at {expected}, found {found}")]
    Fenced {
        /// The first group for which it holds.
        group: GroupName,
        /// The head the writer knew.
        expected: u64,
        /// The head in the log.
        found: u64,
    },
    /// The same, and what the other writer found of the append is a part: of these groups all is stored up to this `seq`, which is not
    /// appended again. Nothing more is.
    #[error("another writer took the shard when an append was stored in part, of {} groups", .stored.len())]
    FencedInPart {
        /// The groups, and up to where.
        stored: Vec<(GroupName, u64)>,
    },
    /// The log cannot be written now. It may work later.
    #[error("the log cannot be written: {reason}")]
    Unavailable {
        /// What the engine met, for operators.
        reason: String,
    },
}

/// Why a read failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log cannot be read: {reason}")]
pub struct ReadError {
    /// What the engine met, for operators.
    pub reason: String,
}

/// A finished copy of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    /// Groups in it.
    pub groups: u64,
    /// Bytes that it takes on the disk.
    pub bytes: u64,
}

/// Why there is no copy. Nothing is left of what was begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// There are no files to copy.
    #[error("only the engine embedded keeps messages in files of its own that can be copied")]
    Unsupported,
    /// The place is taken.
    #[error("{} is there already: choose another name", .0.display())]
    Taken(PathBuf),
    /// The copy would take the space that the log needs.
    #[error("{available} bytes are free where the backup would be, and it needs {needed}")]
    NoSpace {
        /// What is free.
        available: u64,
        /// What the copy takes, and what must stay free.
        needed: u64,
    },
    /// While the copy is made, what the log frees is not used again, and its own disk has no room for that.
    #[error(
        "the log grows while a backup is made, and posts would be refused: {available} bytes are left to it, and {needed} are to stay free"
    )]
    Crowded {
        /// What the log may still take.
        available: u64,
        /// What posts need of it.
        needed: u64,
    },
    /// The log cannot be written, so what was acknowledged cannot be brought into the copy; or it stops.
    #[error("the log cannot be backed up now: {0}")]
    Unavailable(String),
    /// The disk or the file system failed.
    #[error("{0}")]
    Failed(String),
}

/// What the log holds in total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Groups.
    pub groups: u64,
    /// Bytes, in memory or on disk, as the engine counts them.
    pub bytes: u64,
}

/// Groups of which no record is kept, and the name after which to look for more; `None` when there are none.
pub type Emptied = (Vec<GroupName>, Option<String>);

/// The storage port.
///
/// An engine is shared by all shard owners and all readers of a node. Its promises:
///
/// * **Durable on return.** When [`Log::append`] returns `Ok`, every record survives what the engine's durability says.
/// * **All or nothing.** An append that returns an error has left nothing behind: none of its records is ever read, now or
///   after a restart. Where several nodes write, an append may have been stored in part when another one took the shard: that error says of
///   which groups, up to where. An append whose future is dropped, or in flight when the log is closed, may or may not happen, or in part; of a
///   group what is stored is always the first of it.
/// * **Compare and append.** A batch is appended only if its epoch is the group's and its first `seq` follows the group's head. A
///   group that the log does not know is created by its first batch, with the batch's epoch and first `seq` 1.
/// * **Read your writes.** What an `Ok` append holds is seen by every read that begins later; reads never see a record whose
///   append has not returned or is not about to return `Ok`.
/// * **Oldest first.** Retention removes only the oldest records of a group; [`Head::first`] tells where it stands. A group whose
///   records are all removed keeps its head and epoch until it is deleted. What [`Log::redact`] removes is a text: the record keeps its place.
/// * No method blocks the calling thread for I/O.
pub trait Log: fmt::Debug + Send + Sync + 'static {
    /// Appends batches of different groups of one shard, all or none. One append per shard is in flight at a time.
    fn append(&self, shard: u16, batches: Vec<Arc<Batch>>) -> BoxFuture<'static, Result<(), AppendError>>;

    /// The head of a group; `None` if the log does not know it. Owners ask for it: as with [`Log::read_for_owner`], nobody else is
    /// waited for.
    fn head(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>>;

    /// The same as it is in the log now. To a node that has the shard, an engine that several nodes write to tells [`Log::head`] from
    /// memory, also if another one has taken the shard unawares.
    fn head_now(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<Option<Head>, ReadError>> {
        self.head(shard, group)
    }

    /// Reads records of a group; `None` if the log does not know it.
    fn read(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>>;

    /// The same for the owner of a shard, for which all posts into that shard wait: not behind what members and clients read, where few may
    /// read at once.
    fn read_for_owner(
        &self,
        shard: u16,
        group: &GroupName,
        range: Range,
        limit: PageLimit,
    ) -> BoxFuture<'static, Result<Option<Page>, ReadError>> {
        self.read(shard, group, range, limit)
    }

    /// Groups whose name begins with `prefix` and comes after `after`, ordered by name, at most `limit`.
    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<(GroupName, Head)>, ReadError>>;

    /// Since when [`Log::groups`] has all groups of a shard, by a number that differs each time that begins; `None` while it has not. Of
    /// several nodes each lists the shards that it may extend.
    fn lists(&self, shard: u16) -> Option<u64> {
        let _ = shard;
        Some(0)
    }

    /// Groups of which no record is kept any more, among the next `limit` groups after `after` in the order of names; and the name of
    /// the last that was looked at, `None` when there are no more. An engine may leave out those of which it would have to ask.
    fn emptied(&self, after: Option<&str>, limit: usize) -> BoxFuture<'static, Result<Emptied, ReadError>> {
        let groups = self.groups("", after, limit);
        Box::pin(async move {
            let groups = groups.await?;
            let next = groups.last().filter(|_| groups.len() >= limit).map(|(name, _)| name.as_str().to_owned());
            let emptied = groups.into_iter().filter(|(_, head)| head.first > head.seq).map(|(name, _)| name);
            Ok((emptied.collect(), next))
        })
    }

    /// Removes the records of a group up to and including `through`; the head stays. Answers how many were removed.
    fn purge(&self, shard: u16, group: &GroupName, through: u64) -> BoxFuture<'static, Result<u64, AppendError>>;

    /// Removes the texts of the messages `seqs`, which ascend, of the life `epoch` of a group: in the place of each record every read that
    /// begins later finds [`Record::redacted`], also after a restart as far as appends survive one; head and numbering stay. Answers how
    /// many of them are kept, those counted whose texts were removed before, of which nothing changes. After an error some may be removed,
    /// and it is to be asked for again. Whoever asks has no append in flight.
    fn redact(
        &self,
        shard: u16,
        group: &GroupName,
        epoch: u64,
        seqs: &[u64],
    ) -> BoxFuture<'static, Result<u64, AppendError>>;

    /// Removes a group with all its records, durably. Answers whether there was one.
    fn delete(&self, shard: u16, group: &GroupName) -> BoxFuture<'static, Result<bool, AppendError>>;

    /// What is held in total.
    fn stats(&self) -> Stats;

    /// Why the log, or a part of it, cannot be written now; `None` while it can.
    fn trouble(&self) -> Option<String>;

    /// Why clients are better off elsewhere: nothing at all can be written. What keeps only some groups from being posted in, and that
    /// at every node, is no reason.
    fn outage(&self) -> Option<String> {
        self.trouble()
    }

    /// Where notes are kept beside the messages; `None` if the engine keeps nothing.
    fn notes(&self) -> Option<Arc<dyn notes::Notes>> {
        None
    }

    /// Copies the log, as it is at one moment that all that was acknowledged before the call comes before, into the directory `to`, which is made.
    /// Posts go on meanwhile. An engine whose messages are elsewhere has nothing to copy.
    fn back_up(&self, to: PathBuf) -> BoxFuture<'static, Result<Copied, BackupError>> {
        drop(to);
        Box::pin(std::future::ready(Err(BackupError::Unsupported)))
    }

    /// Finishes what is under way and gives resources back. Appends that come later fail.
    fn close(&self) -> BoxFuture<'static, ()>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn epochs_tell_their_moment_and_differ_within_it() {
        let before = now_ms();
        let epochs: Vec<u64> = (0..64).map(|_| epoch_of_now()).collect();
        let mut moments = epochs.iter().map(|epoch| epoch / EPOCHS_OF_A_MOMENT);
        assert!(moments.all(|moment| (before..=now_ms()).contains(&moment)), "{before}: {epochs:?}");
        let chances = epochs.iter().map(|epoch| epoch % EPOCHS_OF_A_MOMENT);
        assert!(chances.collect::<std::collections::HashSet<_>>().len() > 1, "{epochs:?}");
        assert!(epochs.iter().all(|epoch| *epoch < 1 << 53));
    }

    proptest! {
        #[test]
        fn parts_are_the_batch_and_small(sizes in prop::collection::vec(0_usize..40, 1..60), bytes in 1_usize..100) {
            let record = |(seq, size): (u64, &usize)| Record { message: "x".repeat(*size).into(), ..conformance::record(seq) };
            let records: Vec<Record> = (1..).zip(&sizes).map(record).collect();
            let batch = Arc::new(Batch { group: conformance::group("Dogs"), epoch: 7, records });
            let parts = Arc::clone(&batch).in_parts(bytes);
            let together: Vec<Record> = parts.iter().flat_map(|part| part.records.clone()).collect();
            prop_assert_eq!(&together, &batch.records);
            for part in &parts {
                prop_assert!(!part.records.is_empty() && part.group == batch.group && part.epoch == 7);
                let size: usize = part.records.iter().map(|record| record.message.len()).sum();
                prop_assert!(size <= bytes || part.records.len() == 1, "{} of {}", size, bytes);
            }
            // No more parts than need be: two that follow each other do not fit into one.
            for pair in parts.windows(2) {
                let size = |part: &Batch| part.records.iter().map(|record| record.message.len()).sum::<usize>();
                prop_assert!(size(&pair[0]) + pair[1].records[0].message.len() > bytes);
            }
        }
    }
}
