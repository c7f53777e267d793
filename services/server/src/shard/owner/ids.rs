//! The ids of posts that are stored already, as an owner that has a group anew finds them in the log.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tertulia_protocol::{GroupName, PostId};

use super::{Owner, taken_in, unavailable};
use crate::log::clock::TakenIn;
use crate::log::{Log, PageLimit, Range};
use crate::shard::Refusal;
use crate::shard::dedup::Dedup;
use crate::shard::session::Stored;

/// Records that are read at a time.
const PAGE: PageLimit = PageLimit { records: 1_000, bytes: 4 * 1024 * 1024 };
/// Groups whose ids are read at a time.
const AT_ONCE: usize = 32;
/// Two neighbours in the log may seem further apart than they are, since one clock stored one of them and another the other, or the same one after it
/// was set. So between two of them no more than such a share of the time for which ids are remembered is taken to have passed.
const STEP_SHARE: u64 = 64;
/// And what seems older than the time for which ids are remembered is looked at all the same, by such a share of it: clocks that
/// differ, or are set, [`STEP_SHARE`] / [`SPARE_SHARE`] times within that time have nothing forgotten.
const SPARE_SHARE: u64 = 4;

impl Owner {
    /// What is needed to find out whether the post of that id is stored.
    pub(super) async fn ready_for_repeat(&mut self, name: &GroupName, id: Option<&PostId>) -> Result<(), Refusal> {
        if id.is_some() { self.with_ids(name).await } else { Ok(()) }
    }

    /// Reads back the ids of a group, unless they are in memory.
    pub(super) async fn with_ids(&mut self, name: &GroupName) -> Result<(), Refusal> {
        match self.groups.get(name).is_some_and(|group| group.dedup.is_none()) {
            true => self.load_dedup(name).await,
            false => Ok(()),
        }
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
        let now = taken_in();
        // Where others store as well, whose clocks may differ from ours, nobody can tell how long ago the newest was stored.
        let is_old = self.seat.is_none() && group.newest_at() < now.at.saturating_sub(millis(config.dedup_time));
        Some(Search {
            shard: self.shard,
            group: name.clone(),
            epoch: group.epoch(),
            // The log need not be asked, which takes long where there are many posts without an id.
            head: if group.knows_all_ids() || is_old { 0 } else { group.head() },
            window: config.dedup_window,
            time: config.dedup_time,
            now,
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
    now: TakenIn,
}

impl Search {
    async fn run(self, log: Arc<dyn Log>) -> Result<Dedup, Refusal> {
        let Self { shard, group, epoch, head, window, time, now } = self;
        let mut dedup = Dedup::new(window, time);
        let mut age = Age::new(time);
        let mut before = head + 1;
        while dedup.room() > 0 && before > 1 {
            let limit = PageLimit { records: dedup.room().min(PAGE.records), ..PAGE };
            let page = log.read_for_owner(shard, &group, Range::Before(before), limit).await;
            let records = page.map_err(|_| unavailable(&group))?.map_or_else(Vec::new, |page| page.records);
            let Some(first) = records.first() else { break };
            before = first.seq;
            for record in records.into_iter().rev() {
                if age.is_old_at(record.at) {
                    return Ok(dedup);
                }
                let stored = Stored { epoch, seq: record.seq, at: record.at };
                if let Some(id) = record.id.and_then(PostId::of_post) {
                    dedup.insert_older(record.sender, id, stored, now);
                }
            }
        }
        Ok(dedup)
    }
}

/// How long before the newest post of a group others were stored, by their times, from each to the next older one.
struct Age {
    ms: u64,
    /// The time of the one before.
    newer: u64,
    longest_step: u64,
    /// What is older is not remembered.
    most: u64,
}

impl Age {
    fn new(remembered: Duration) -> Self {
        let ms = millis(remembered);
        Self { ms: 0, newer: 0, longest_step: (ms / STEP_SHARE).max(1), most: ms.saturating_add(ms / SPARE_SHARE) }
    }

    fn is_old_at(&mut self, at: u64) -> bool {
        // The newest may have been stored just now.
        self.ms = self.ms.saturating_add(self.newer.saturating_sub(at).min(self.longest_step));
        self.newer = at;
        self.ms > self.most
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REMEMBERED: Duration = Duration::from_secs(300);
    const SECOND: u64 = 1_000;
    const HOUR: u64 = 3_600 * SECOND;

    /// How many posts are looked at, so far apart from each to the next older one.
    fn looked_at(steps: impl IntoIterator<Item = u64>) -> usize {
        let mut age = Age::new(REMEMBERED);
        let mut at = 1_000_000 * HOUR;
        let is_young = |step: &u64| {
            at -= step;
            !age.is_old_at(at)
        };
        steps.into_iter().take_while(is_young).count()
    }

    #[test]
    fn what_is_remembered_is_looked_at_also_where_clocks_differ() {
        // A post each second, and between some of them another clock.
        let moved = |every: usize| (0..10_000).map(move |place| if place % every == 1 { HOUR } else { SECOND });
        assert!(looked_at(moved(20)) > 300, "{}", looked_at(moved(20)));
        // How old they are, as if there were one clock.
        assert!((301..400).contains(&looked_at([SECOND; 1_000])), "{}", looked_at([SECOND; 1_000]));
        // Some are at the same time as those of the node before, which was ahead.
        assert_eq!(looked_at([HOUR, 0, 0, HOUR, 0]), 5);
        assert!(looked_at([HOUR; 1_000]) < 100, "{}", looked_at([HOUR; 1_000]));
    }
}
