//! The groups that are in memory now, in the order of their names.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use tertulia_protocol::GroupName;

/// What anybody may know of a group without asking its owner. Counts are a moment's view.
#[derive(Debug)]
pub struct GroupStatus {
    /// The group.
    pub name: GroupName,
    /// Its shard.
    pub shard: u16,
    epoch: AtomicU64,
    head: AtomicU64,
    posts: AtomicU64,
    members: AtomicU64,
    /// How many of them have their connection on another node.
    remote: AtomicU64,
    lagging: AtomicU64,
    ids: AtomicU64,
}

impl GroupStatus {
    pub(super) fn new(name: GroupName, shard: u16, epoch: u64, head: u64) -> Self {
        Self {
            name,
            shard,
            epoch: epoch.into(),
            head: head.into(),
            posts: 0.into(),
            members: 0.into(),
            remote: 0.into(),
            lagging: 0.into(),
            ids: 0.into(),
        }
    }

    /// The life of the group.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The newest message that is in the log.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Messages stored since the group came into memory.
    #[must_use]
    pub fn posts(&self) -> u64 {
        self.posts.load(Ordering::Relaxed)
    }

    /// Connections that are members.
    #[must_use]
    pub fn members(&self) -> u64 {
        self.members.load(Ordering::Relaxed)
    }

    /// Members that are being caught up from the log because they fell behind.
    #[must_use]
    pub fn lagging(&self) -> u64 {
        self.lagging.load(Ordering::Relaxed)
    }

    /// Counts one more lagging member until the guard goes.
    #[must_use]
    pub fn lag(self: &Arc<Self>) -> Lag {
        self.lagging.fetch_add(1, Ordering::Relaxed);
        Lag(Arc::clone(self))
    }

    /// A group of another node, as it tells.
    pub(super) fn told(name: GroupName, shard: u16, told: &Told) -> Self {
        let status = Self::new(name, shard, told.epoch, told.head);
        status.posts.store(told.posts, Ordering::Relaxed);
        status.members.store(told.members, Ordering::Relaxed);
        status.remote.store(told.members, Ordering::Relaxed);
        status.lagging.store(told.lagging, Ordering::Relaxed);
        status
    }

    /// What other nodes are told of it.
    pub(super) fn tell(&self) -> Told {
        Told {
            epoch: self.epoch(),
            head: self.head(),
            posts: self.posts(),
            members: self.members(),
            lagging: self.lagging(),
        }
    }

    pub(super) fn committed(&self, head: u64, posts: u64) {
        self.head.fetch_max(head, Ordering::Release);
        self.posts.fetch_add(posts, Ordering::Relaxed);
    }

    pub(super) fn moved_to(&self, epoch: u64, head: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.head.store(head, Ordering::Release);
    }

    pub(super) fn set_ids(&self, ids: usize) {
        self.ids.store(ids as u64, Ordering::Relaxed);
    }

    /// Says that a message up to this one is known to be in the log, though it has not come by yet.
    pub(super) fn raise_head(&self, head: u64) {
        self.head.fetch_max(head, Ordering::Release);
    }

    pub(super) fn set_members(&self, members: usize, remote: usize) {
        self.members.store(members as u64, Ordering::Relaxed);
        self.remote.store(remote as u64, Ordering::Relaxed);
    }
}

/// A group's counts, for another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The life of the group.
    pub epoch: u64,
    /// The newest message.
    pub head: u64,
    /// Messages stored since the group came into memory.
    #[serde(default)]
    pub posts: u64,
    /// Members.
    #[serde(default)]
    pub members: u64,
    /// Members that are behind, of those on the node that tells.
    #[serde(default)]
    pub lagging: u64,
}

/// A lagging member, counted while this lives.
#[derive(Debug)]
pub struct Lag(Arc<GroupStatus>);

impl Drop for Lag {
    fn drop(&mut self) {
        self.0.lagging.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All groups in memory. Owners enter and remove their groups; others look.
#[derive(Debug, Default)]
pub struct Directory {
    groups: RwLock<BTreeMap<GroupName, Arc<GroupStatus>>>,
    /// Groups that the log does not know, for nobody has posted to them.
    unstored: AtomicUsize,
}

/// What is in memory in total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Groups.
    pub groups: u64,
    /// Memberships.
    pub members: u64,
    /// Members that are being caught up.
    pub lagging: u64,
    /// Post ids that are remembered.
    pub ids: u64,
    /// Members of the group with the most.
    pub most_members: u64,
}

impl Directory {
    /// One group, if it is in memory.
    #[must_use]
    pub fn get(&self, group: &str) -> Option<Arc<GroupStatus>> {
        self.read().get(group).cloned()
    }

    /// Groups whose name begins with `prefix` and comes after `after` and whose shard is wanted, ordered by name, at most `limit`.
    #[must_use]
    pub fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        is_wanted: impl Fn(u16) -> bool,
    ) -> Vec<Arc<GroupStatus>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.read()
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter(|(_, status)| is_wanted(status.shard))
            .take(limit)
            .map(|(_, status)| Arc::clone(status))
            .collect()
    }

    /// Sums over all groups in memory.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.read().values().fold(Totals::default(), |sum, group| Totals {
            groups: sum.groups + 1,
            members: sum.members + group.members().saturating_sub(group.remote.load(Ordering::Relaxed)),
            lagging: sum.lagging + group.lagging(),
            ids: sum.ids + group.ids.load(Ordering::Relaxed),
            most_members: sum.most_members.max(group.members()),
        })
    }

    pub(super) fn unstored(&self) -> usize {
        self.unstored.load(Ordering::Relaxed)
    }

    pub(super) fn enter(&self, status: Arc<GroupStatus>, stored: bool) {
        if !stored {
            self.not_stored();
        }
        self.groups.write().unwrap_or_else(PoisonError::into_inner).insert(status.name.clone(), status);
    }

    pub(super) fn not_stored(&self) {
        self.unstored.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn now_stored(&self) {
        self.unstored.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, group: &GroupName, stored: bool) {
        if !stored {
            self.now_stored();
        }
        self.groups.write().unwrap_or_else(PoisonError::into_inner).remove(group);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<GroupName, Arc<GroupStatus>>> {
        self.groups.read().unwrap_or_else(PoisonError::into_inner)
    }
}
