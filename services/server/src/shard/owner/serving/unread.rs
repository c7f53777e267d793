//! Groups of which the log does not tell the head, as one whose last message is damaged, while the rest of their shard is served.
//!
//! Nobody joins them and nothing is posted to them until it does. It is asked again and again, beside all else.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tertulia_protocol::GroupName;

use crate::log::{Head, Page, ReadError};
use crate::shard::owner::heads::{Found, find};
use crate::shard::owner::seat::Role;
use crate::shard::owner::{Group, Owner};
use crate::shard::session::Removal;

/// How soon the log is asked again, and how late at most: longer each time that it told of none.
const AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

#[derive(Default)]
pub(in crate::shard::owner) struct Unread {
    names: HashSet<GroupName>,
    /// Nodes that have members there: of some it is not known whether their life of the group goes on, nor of any what they missed.
    pub(super) to_call: HashSet<String>,
    wait: Duration,
    reading: Option<BoxFuture<'static, Vec<Found>>>,
}

impl Unread {
    /// Waits for what the log tells. Dropping the future loses nothing.
    pub(in crate::shard::owner) async fn next(&mut self) -> Vec<Found> {
        match &mut self.reading {
            Some(reading) => reading.await,
            None => std::future::pending().await,
        }
    }
}

impl Owner {
    /// Whether the log was asked where a group is, and did not tell yet.
    pub(super) fn is_unread(&self, name: &GroupName) -> bool {
        let seat = self.seat.as_deref();
        seat.is_some_and(|seat| matches!(&seat.role, Role::Owner(serving) if serving.unread.names.contains(name)))
    }

    /// Has the log asked about these groups until it tells.
    pub(in crate::shard::owner) fn read_later(&mut self, groups: Vec<(GroupName, ReadError)>) {
        let shard = self.shard;
        let Some(serving) = self.serving_mut() else { return };
        let unread = &mut serving.unread;
        let new: Vec<_> = groups.into_iter().filter(|(name, _)| unread.names.insert(name.clone())).collect();
        let is_reading = unread.reading.is_some();
        if let Some((name, error)) = new.first() {
            let (group, count) = (name.as_str(), new.len());
            tracing::warn!(shard, group, %error, count, "groups are not served: the log does not tell where they are");
        }
        if !is_reading {
            self.read_unread(AGAIN.0);
        }
    }

    fn read_unread(&mut self, wait: Duration) {
        let (log, shard) = (Arc::clone(&self.shared.log), self.shard);
        let Some(seat) = self.seat.as_deref_mut() else { return };
        let Role::Owner(serving) = &mut seat.role else { return };
        let unread = &mut serving.unread;
        if unread.names.is_empty() {
            return;
        }
        // Of one that is not in memory nobody here waits for messages.
        let known = |name: &GroupName| self.groups.get(name).map_or(u64::MAX, Group::head);
        let sought = unread.names.iter().map(|name| (name.clone(), known(name))).collect();
        unread.wait = wait;
        unread.reading = Some(Box::pin(async move {
            tokio::time::sleep(wait).await;
            find(log, shard, sought).await
        }));
    }

    /// The log was asked once more.
    pub(in crate::shard::owner) fn on_found(&mut self, found: Vec<Found>) {
        let mut told = HashSet::new();
        for Found { name, outcome, .. } in found {
            if let Ok((head, tail)) = outcome {
                self.now_read(&name, head, tail);
                told.insert(name);
            }
        }
        let Some(serving) = self.serving_mut() else { return };
        let unread = &mut serving.unread;
        unread.reading = None;
        let mut wait = (unread.wait * 2).min(AGAIN.1);
        if !told.is_empty() {
            wait = AGAIN.0;
            unread.names.retain(|name| !told.contains(name));
            // Those with members in others that are not told yet are noted once more.
            serving.untold_rolls.extend(unread.to_call.drain());
        }
        self.read_unread(wait);
    }

    fn now_read(&mut self, name: &GroupName, head: Option<Head>, tail: Option<Page>) {
        let Some(group) = self.groups.get_mut(name).filter(|group| group.is_unread) else { return };
        match head {
            Some(head) if head.epoch == group.epoch() => {
                if !group.is_stored() {
                    self.shared.directory.now_stored();
                }
                group.go_on_from(head, tail);
            }
            // Nobody has posted yet.
            None if group.status.head() == 0 => group.is_unread = false,
            Some(_) | None => {
                self.remove(name, |_| true, Removal::Deleted, None);
                if let Some(group) = self.groups.remove(name) {
                    self.shared.directory.remove(name, group.is_stored());
                }
            }
        }
    }
}
