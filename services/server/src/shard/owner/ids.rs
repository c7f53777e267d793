//! The ids of posts that are stored already, as an owner that has a group anew finds them in the log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tertulia_protocol::{GroupName, PostId};

use super::{Owner, taken_in_ms, unavailable};
use crate::log::{Log, PageLimit, Range};
use crate::shard::Refusal;
use crate::shard::dedup::Dedup;
use crate::shard::session::Stored;

/// Records that are read at a time.
const PAGE: PageLimit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };
/// Groups whose ids are read at a time.
const AT_ONCE: usize = 32;

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
        let Some(search) = self.search_for_ids(name) else { return Ok(()) };
        let dedup = search.run(Arc::clone(&self.shared.log)).await?;
        self.now_has_ids(name, dedup);
        Ok(())
    }

    /// As [`Owner::load_dedup`] for each group that has no ids in memory, some at a time: what is asked for all groups would else keep posts
    /// waiting for one reading after the other. Of a group whose ids cannot be read it is found out again when they are needed.
    pub(super) async fn load_dedup_of(&mut self, names: &[GroupName]) {
        let has_none = |name: &&GroupName| self.groups.get(*name).is_some_and(|group| group.dedup.is_none());
        let searches: Vec<_> = names.iter().filter(has_none).filter_map(|name| self.search_for_ids(name)).collect();
        let log = Arc::clone(&self.shared.log);
        let running = searches.into_iter().map(|search| {
            let (name, log) = (search.group.clone(), Arc::clone(&log));
            async move { (name, search.run(log).await) }
        });
        let mut found = futures_util::stream::iter(running).buffered(AT_ONCE);
        while let Some((name, dedup)) = found.next().await {
            if let Ok(dedup) = dedup {
                self.now_has_ids(&name, dedup);
            }
        }
    }

    fn now_has_ids(&mut self, name: &GroupName, dedup: Dedup) {
        if let Some(group) = self.groups.get_mut(name) {
            group.dedup = Some(dedup);
        }
    }

    /// What is to be looked for in the log, if the group is in memory.
    fn search_for_ids(&self, name: &GroupName) -> Option<Search> {
        let config = &self.shared.config;
        let group = self.groups.get(name)?;
        let now = taken_in_ms();
        // Others' clocks may differ from ours: what they stored last counts as stored now.
        let newest = if self.seat.is_some() { group.newest_at() } else { now };
        let oldest = newest.saturating_sub(millis(config.dedup_time));
        Some(Search {
            shard: self.shard,
            group: name.clone(),
            epoch: group.epoch(),
            // The log need not be asked, which takes long where there are many posts without an id.
            head: if group.knows_all_ids() || group.newest_at() < oldest { 0 } else { group.head() },
            window: config.dedup_window,
            time: config.dedup_time,
            now,
            newest,
            oldest,
        })
    }
}

/// What is needed to read back the ids of a group.
struct Search {
    shard: u16,
    group: GroupName,
    epoch: u64,
    /// The posts up to here are looked at.
    head: u64,
    window: usize,
    time: Duration,
    now: u64,
    /// What counts as now by the clock of whoever stored the posts.
    newest: u64,
    /// What is older is in the window no more.
    oldest: u64,
}

impl Search {
    async fn run(self, log: Arc<dyn Log>) -> Result<Dedup, Refusal> {
        let Self { shard, group, epoch, head, window, time, now, newest, oldest } = self;
        let mut dedup = Dedup::new(window, time);
        let mut found = Vec::new();
        let mut before = head + 1;
        while found.len() < window && before > 1 {
            let limit = PageLimit { records: (window - found.len()).min(PAGE.records), ..PAGE };
            let page = log.read_for_owner(shard, &group, Range::Before(before), limit).await;
            let records = page.map_err(|_| unavailable(&group))?.map_or_else(Vec::new, |page| page.records);
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
        for (sender, id, stored) in found.into_iter().rev() {
            let age = newest.saturating_sub(stored.at);
            dedup.insert(sender, id, stored, now.saturating_sub(age));
        }
        Ok(dedup)
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
