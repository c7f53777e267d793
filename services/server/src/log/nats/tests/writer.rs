//! A writer that remembers what it was told, and the judge of what the log holds.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tertulia_protocol::{GroupName, PostId, UserName};

use super::{Nats, SHARDS};
use crate::log::conformance::{ALL, group};
use crate::log::{AppendError, Batch, Log, Page, PageLimit, Range, Record};

/// Any function would do, as long as it stays the same.
pub(super) fn shard_of(group: &GroupName) -> u16 {
    group.as_str().bytes().fold(0, |sum, byte| sum + u16::from(byte)) % SHARDS
}

/// Appends to one group, and remembers.
pub(super) struct Writer {
    pub(super) log: Nats,
    name: String,
    group: GroupName,
    pub(super) shard: u16,
    epoch: u64,
    head: u64,
    next: u64,
    /// Records that the log said it has.
    pub(super) acked: Vec<Record>,
    /// Ids of records that the log said it does not have.
    pub(super) refused: Vec<PostId>,
}

impl Writer {
    pub(super) fn new(log: Nats, name: &str, group_name: &str) -> Self {
        let group = group(group_name);
        let shard = shard_of(&group);
        Self { log, name: name.to_owned(), group, shard, epoch: 7, head: 0, next: 0, acked: vec![], refused: vec![] }
    }

    /// Reads the head that the log has.
    pub(super) async fn look(&mut self) {
        if let Ok(head) = self.log.head(self.shard, &self.group).await {
            (self.epoch, self.head) = head.map_or((7, 0), |head| (head.epoch, head.seq));
        }
    }

    /// Appends `count` records.
    pub(super) async fn append(&mut self, count: u64) -> Result<(), AppendError> {
        let record = |index| {
            let id = format!("{}-{}", self.name, self.next + index);
            Record {
                seq: self.head + 1 + index,
                at: 1_700_000_000_000 + self.head + 1 + index,
                sender: UserName::new(&self.name).unwrap(),
                id: Some(PostId::new(&id).unwrap()),
                message: format!("{id} {}", "x".repeat(100)).into(),
            }
        };
        let records: Vec<Record> = (0..count).map(record).collect();
        self.next += count;
        let batch = Batch { group: self.group.clone(), epoch: self.epoch, records: records.clone() };
        let result = self.log.append(self.shard, vec![Arc::new(batch)]).await;
        match &result {
            Ok(()) => {
                self.head += count;
                self.acked.extend(records);
            }
            Err(error) => {
                let upto = match error {
                    AppendError::FencedInPart { stored } => stored.iter().map(|(_, seq)| *seq).max().unwrap_or(0),
                    _ => 0,
                };
                let (acked, refused): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.seq <= upto);
                self.acked.extend(acked);
                self.refused.extend(refused.into_iter().filter_map(|record| record.id));
                self.look().await;
            }
        }
        result
    }
}

/// All that the log holds of a group.
pub(super) async fn content(log: &Nats, name: &str) -> Vec<Record> {
    let group = group(name);
    let shard = shard_of(&group);
    let mut all: Vec<Record> = Vec::new();
    loop {
        let after = all.last().map_or(0, |record| record.seq);
        let limit = PageLimit { records: 500, ..ALL };
        let page: Option<Page> = log.read(shard, &group, Range::After(after), limit).await.unwrap();
        let records = page.map(|page| page.records).unwrap_or_default();
        if records.is_empty() {
            return all;
        }
        all.extend(records);
    }
}

/// Every record is there once, in order, and the log holds what it said it holds, and nothing that it said it does not.
pub(super) fn judge(content: &[Record], writers: &[&Writer]) {
    assert!(content.iter().map(|record| record.seq).eq(1..=content.len() as u64), "the numbers are dense");
    let ids: HashSet<&PostId> = content.iter().filter_map(|record| record.id.as_ref()).collect();
    assert_eq!(ids.len(), content.len(), "nothing is there twice");
    let by_seq: HashMap<u64, &Record> = content.iter().map(|record| (record.seq, record)).collect();
    let mut acked = 0;
    for writer in writers {
        for record in &writer.acked {
            assert_eq!(by_seq.get(&record.seq), Some(&record), "{} was told that it is stored", writer.name);
        }
        for id in &writer.refused {
            assert!(!ids.contains(id), "{} was told that {id:?} is not stored", writer.name);
        }
        acked += writer.acked.len();
    }
    assert_eq!(acked, content.len(), "every record was acknowledged to somebody");
}
