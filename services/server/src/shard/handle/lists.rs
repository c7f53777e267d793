//! Lists of groups, of which each node knows those of its own shards.

use std::time::Duration;

use tertulia_protocol::name::MAX_GROUP_NAME_BYTES;
use tokio::time::Instant;

use super::Shards;
use crate::shard::listed::{merge, place};
use crate::shard::{Covered, Listed, Part, ReadError, Untold};

/// For how long nodes are asked for the groups of shards of which none has told, as while a shard moves, and how often.
const COVERING: (Duration, Duration) = (Duration::from_secs(3), Duration::from_millis(50));

impl Shards {
    /// Groups whose name begins with `prefix` and comes after `after`, ordered by name, at most `limit`, and whether there are more. Those of
    /// all shards: of one that nobody tells of, as while it moves, all nodes are asked again for a while.
    ///
    /// # Errors
    /// If the log cannot be read, or there are shards of which no node tells.
    pub async fn groups(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<(Vec<Listed>, bool), Untold> {
        if prefix.len() > MAX_GROUP_NAME_BYTES {
            return Ok((Vec::new(), false));
        }
        let after = after.map(|after| place(after, MAX_GROUP_NAME_BYTES));
        let (begun, most) = (Instant::now(), limit + 1);
        let mut told = self.own_groups(prefix, after, most).await?;
        if let Some(peers) = &self.inner.peers {
            loop {
                let (others, silent) = peers.groups(prefix, after, most).await;
                told.add(others, most);
                let shards = told.covers.missing(self.inner.count);
                if shards == 0 {
                    break;
                }
                if begun.elapsed() > COVERING.0 {
                    return Err(silent.unwrap_or(Untold::Unowned { shards }));
                }
                tokio::time::sleep(COVERING.1).await;
                told.add(self.own_groups(prefix, after, most).await?, most);
            }
        }
        let more = told.groups.len() > limit;
        told.groups.truncate(limit);
        Ok((told.groups, more))
    }

    /// As [`Shards::groups`], of the shards that are this node's, at most `limit`. It tells of those shards that were its all the time.
    ///
    /// # Errors
    /// If the log cannot be read.
    pub async fn own_groups(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Part, ReadError> {
        let before = self.reigns();
        let log = &self.inner.shared.log;
        let mut stored = Vec::new();
        let mut from = after.map(str::to_owned);
        while stored.len() < limit {
            let wanted = limit - stored.len();
            let page = log.groups(prefix, from.as_deref(), wanted).await?;
            let is_end = page.len() < wanted;
            from = page.last().map(|(name, _)| name.as_str().to_owned());
            // One that it may only extend, and serves no more, another node tells of.
            stored.extend(page.into_iter().filter(|(name, _)| self.is_owned(self.shard_of(name))));
            if is_end {
                break;
            }
        }
        let loaded = self.directory().list(prefix, after, limit, |shard| self.is_owned(shard));
        let mut groups = merge(loaded, stored);
        groups.truncate(limit);
        let reigns = before.into_iter().zip(self.reigns());
        let is_kept = |(before, now): (Option<u64>, Option<u64>)| before.is_some() && before == now;
        let covers: Covered =
            (0..).zip(reigns).filter_map(|(shard, reigns)| is_kept(reigns).then_some(shard)).collect();
        Ok(Part { groups, covers })
    }

    /// For each shard since when its groups are listed here, if they are.
    fn reigns(&self) -> Vec<Option<u64>> {
        let reign = |shard| if self.is_owned(shard) { self.inner.shared.log.lists(shard) } else { None };
        (0..self.inner.count).map(reign).collect()
    }
}
