//! The ids of posts that are stored already, as an owner that has a group anew finds them in the log.

use std::time::Duration;

use tertulia_protocol::{GroupName, PostId};

use super::{Owner, taken_in_ms, unavailable};
use crate::log::{PageLimit, Range};
use crate::shard::Refusal;
use crate::shard::dedup::Dedup;
use crate::shard::session::Stored;

/// Records that are read at a time.
const PAGE: PageLimit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };

impl Owner {
    /// What is needed to find out whether the post of that id is stored.
    pub(super) async fn ready_for_repeat(&mut self, name: &GroupName, id: Option<&PostId>) -> Result<(), Refusal> {
        if id.is_some() && self.groups.get(name).is_some_and(|group| group.dedup.is_none()) {
            self.load_dedup(name).await?;
        }
        Ok(())
    }

    /// Reads back the ids of the posts that are still in the window.
    pub(super) async fn load_dedup(&mut self, name: &GroupName) -> Result<(), Refusal> {
        let config = &self.shared.config;
        let (window, time) = (config.dedup_window, config.dedup_time);
        let Some(group) = self.groups.get(name) else { return Ok(()) };
        let mut dedup = Dedup::new(window, time);
        let now = taken_in_ms();
        // Others' clocks may differ from ours: what they stored last counts as stored now.
        let newest = if self.seat.is_some() { group.newest_at() } else { now };
        let oldest = newest.saturating_sub(millis(time));
        let mut found = Vec::new();
        // The log need not be asked, which takes long where there are many posts without an id.
        if !group.knows_all_ids() && group.newest_at() >= oldest {
            let epoch = group.epoch();
            let mut before = group.head() + 1;
            while found.len() < window && before > 1 {
                let limit = PageLimit { records: (window - found.len()).min(PAGE.records), ..PAGE };
                let page = self.shared.log.read(self.shard, name, Range::Before(before), limit).await;
                let records = page.map_err(|_| unavailable(name))?.map_or_else(Vec::new, |page| page.records);
                let Some(first) = records.first() else { break };
                before = first.seq;
                let reached_the_old = first.at < oldest;
                for record in records.into_iter().rev().filter(|record| record.at >= oldest) {
                    let stored = Stored { epoch, seq: record.seq, at: record.at };
                    found.extend(record.id.map(|id| (record.sender, id, stored)));
                }
                if reached_the_old {
                    break;
                }
            }
        }
        for (sender, id, stored) in found.into_iter().rev() {
            let age = newest.saturating_sub(stored.at);
            dedup.insert(sender, id, stored, now.saturating_sub(age));
        }
        if let Some(group) = self.groups.get_mut(name) {
            group.dedup = Some(dedup);
        }
        Ok(())
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
