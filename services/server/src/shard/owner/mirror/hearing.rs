//! What the owner of a shard tells, and what of that did not come and is in the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::{FRAME_ITEMS, LATE_AGAIN, Mirror, Page};
use crate::log::Range;
use crate::shard::Batch;
use crate::shard::owner::seat::Role;
use crate::shard::owner::turn::TAIL;
use crate::shard::owner::{Group, Owner};
use crate::shard::request::Request;
use crate::shard::session::{ConnectionId, Event};
use crate::shard::wire::{self, Removed, Tell};

impl Owner {
    /// Hears what the owner tells, if there is anybody to tell it to.
    pub(super) async fn listen(&mut self) {
        let shard = self.shard;
        let joins = |mirror: &Mirror| {
            mirror.outbox.iter().take(FRAME_ITEMS).any(|pending| matches!(pending.request, Request::Join { .. }))
        };
        let wanted = !self.groups.is_empty() || self.mirror().is_some_and(joins);
        let Some(seat) = &self.seat else { return };
        let peers = Arc::clone(&seat.peers);
        if self.mirror().is_some_and(|mirror| wanted == mirror.told.is_some()) {
            return;
        }
        let told = if wanted { peers.told(shard).await.ok() } else { None };
        if let Some(mirror) = self.mirror_mut() {
            (mirror.told, mirror.heard, mirror.heard_after) = (told, None, None);
        }
    }

    /// Members hear nothing where it failed to listen, or what was heard has ended. The roll, before which it is tried again, brings what
    /// was missed; for members who only listen nothing else is sent.
    pub(super) fn listen_again(&mut self) {
        let has_members = !self.groups.is_empty();
        if let Some(mirror) = self.mirror_mut().filter(|mirror| has_members && mirror.told.is_none()) {
            mirror.call_roll();
        }
    }

    /// A message of a group is in the log. If it does not come soon it is looked for.
    pub(super) fn expect(&mut self, name: &GroupName, seq: u64, by: Duration) {
        let Some(group) = self.groups.get(name) else { return };
        group.status.raise_head(seq);
        if group.head() < seq
            && let Some(mirror) = self.mirror_mut()
        {
            mirror.is_late(name, seq, by);
        }
    }

    pub(in crate::shard::owner) fn on_told(&mut self, frame: Option<Bytes>) {
        let shard = self.shard;
        let Some(mirror) = self.mirror_mut() else { return };
        let Some(frame) = frame else {
            // The connection to NATS has ended; there will be another, or the node stops.
            mirror.told = None;
            return self.listen_again();
        };
        let tell: Tell = match wire::decode(&frame) {
            Ok(tell) => tell,
            Err(error) => {
                tracing::warn!(shard, %error, "the owner of the shard tells something that cannot be understood");
                mirror.call_roll();
                return;
            }
        };
        if tell.reign > mirror.reign {
            // Whoever owned the shard before may have left the frame under way unanswered.
            mirror.follow(tell.reign);
            mirror.call_roll();
            self.hasten();
        }
        let is_called = self.seat.as_ref().is_some_and(|seat| tell.rolls.iter().any(|name| **name == *seat.node));
        let Some(mirror) = self.mirror_mut() else { return };
        if tell.reign >= mirror.reign {
            if is_called {
                mirror.call_roll();
            }
            let next = mirror.heard.map_or(tell.number, |heard| heard + u64::from(!tell.is_beat()));
            if tell.number > next {
                self.shared.metrics.gaps.increment(1);
                if let Some(mirror) = self.mirror_mut() {
                    mirror.missed = mirror.missed.or(mirror.heard);
                    mirror.call_roll();
                }
            }
            if let Some(mirror) = self.mirror_mut() {
                if mirror.heard.is_none() {
                    mirror.heard_after = Some(tell.number.saturating_sub(u64::from(!tell.is_beat())));
                }
                mirror.heard = mirror.heard.max(Some(tell.number));
            }
        }
        // Whoever tells it, a message that is told is in the log.
        for batch in tell.batches.into_iter().filter_map(wire::BatchTold::batch) {
            self.follow_batch(batch);
        }
        if let Some(mirror) = self.mirror_mut() {
            match tell.reign.cmp(&mirror.reign) {
                std::cmp::Ordering::Equal => mirror.keep_ends(tell.number, &tell.removed),
                // Whoever has the shard since does not know of it, and takes them for members.
                std::cmp::Ordering::Less if !tell.removed.is_empty() => mirror.call_roll(),
                _ => {}
            }
        }
        self.on_removed(tell.removed);
    }

    fn follow_batch(&mut self, batch: Batch) {
        let (epoch, last) = (batch.epoch, batch.last());
        let Some(group) = self.groups.get_mut(&batch.group) else {
            if let Some(mirror) = self.mirror_mut().filter(|mirror| mirror.flight.is_some()) {
                mirror.passed.insert(batch.group, (epoch, last));
            }
            return;
        };
        if epoch != group.epoch() {
            if let Some(mirror) = self.mirror_mut() {
                mirror.call_roll();
            }
            return;
        }
        if last > group.head() {
            let newest_at = batch.records.last().map_or(0, |record| record.at);
            group.followed(last, newest_at, batch.records.len() as u64);
            group.deliver(Arc::new(batch), std::time::Instant::now(), None);
        }
    }

    /// A moderator ended memberships, some of them ours. The owner has counted them.
    pub(super) fn on_removed(&mut self, removed: Vec<Removed>) {
        // Together, since all members of a group are looked through for them.
        let mut of_groups: HashMap<GroupName, HashMap<ConnectionId, Removed>> = HashMap::new();
        for removed in removed {
            of_groups.entry(removed.group.clone()).or_default().insert(removed.id, removed);
        }
        for (name, mut removed) in of_groups {
            let Some(group) = self.groups.get_mut(&name) else { continue };
            for session in group.remove_where(|session| removed.contains_key(&session.id)) {
                if let Some(Removed { how, detail, .. }) = removed.remove(&session.id) {
                    session.inbox.push(Event::Removed { group: name.clone(), removal: how, detail });
                }
            }
            self.forget_if_empty(&name);
        }
    }

    pub(super) fn forget_if_empty(&mut self, name: &GroupName) {
        if self.groups.get(name).is_some_and(|group| group.member_count() == 0) {
            self.groups.remove(name);
            self.shared.directory.remove(name, true);
        }
    }

    pub(in crate::shard::owner) fn look_for_late(&mut self) {
        let (log, shard, now) = (Arc::clone(&self.shared.log), self.shard, Instant::now());
        let Some(seat) = self.seat.as_deref_mut() else { return };
        let Role::Mirror(mirror) = &mut seat.role else { return };
        let groups = &self.groups;
        mirror.late.retain(|name, late| groups.get(name).is_some_and(|group| group.head() < late.seq));
        mirror.late_at = None;
        // What is being read is read to its end, however soon more is late: after it comes the next.
        if mirror.reading.is_some() {
            return;
        }
        let Some((name, late)) = mirror.late.iter().min_by_key(|(_, late)| late.at) else { return };
        if late.at > now {
            mirror.late_at = Some(late.at);
            return;
        }
        self.shared.metrics.late.increment(1);
        let (name, seq) = (name.clone(), late.seq);
        mirror.reading = Some(Box::pin(async move {
            let page = log.read(shard, &name, Range::Before(seq + 1), TAIL).await;
            (name, seq, page)
        }));
    }

    pub(in crate::shard::owner) fn on_late_page(&mut self, (name, seq, page): Page) {
        if let Some(mirror) = self.mirror_mut() {
            mirror.reading = None;
        }
        let mut is_gone = false;
        if let (Ok(Some(page)), Some(group)) = (page, self.groups.get(&name))
            && page.head.epoch == group.epoch()
        {
            // Nobody will find it any more. Who needed it learns that from what comes next.
            is_gone = page.head.first > seq;
            if !page.records.is_empty() {
                self.follow_batch(Batch { group: name.clone(), epoch: page.head.epoch, records: page.records });
            }
        }
        // Those that are still late are looked for again; others are next.
        let head = self.groups.get(&name).map_or(u64::MAX, Group::head);
        let Some(mirror) = self.mirror_mut() else { return };
        if let Some(late) = mirror.late.get_mut(&name) {
            if late.seq <= head || (is_gone && late.seq == seq) {
                mirror.late.remove(&name);
            } else {
                // A newer one than was looked for has not been waited for yet.
                let again = if is_gone || head >= seq { LATE_AGAIN.0 } else { late.again };
                (late.at, late.again) = (Instant::now() + again, (again * 2).min(LATE_AGAIN.1));
            }
        }
        mirror.late_at = mirror.late.values().map(|late| late.at).min();
    }
}
