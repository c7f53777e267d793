//! Who is a member on another node, as that node tells the owner of a shard.

use std::sync::Arc;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::{BEATS, Serving, session};
use crate::shard::owner::mirror::removed as removal;
use crate::shard::owner::{Group, Owner};
use crate::shard::session::Removal;
use crate::shard::wire::{Removed, Roll, RollAnswer, RollOfGroup};

impl Owner {
    /// Learns who is a member on another node; `None` if the log cannot be read.
    pub(super) async fn on_roll(&mut self, roll: Roll, home: &Arc<str>) -> Option<Vec<RollAnswer>> {
        if roll.begins {
            for group in self.groups.values_mut().filter(|group| group.is_remote()) {
                drop(group.remove_where(|session| session.home.as_ref() == Some(home)));
            }
        }
        let mut answers = Vec::new();
        for named in roll.groups {
            answers.push(self.on_roll_of(named, roll.heard, home).await?);
        }
        if let Some(serving) = self.serving_mut() {
            serving.beat_at.get_or_insert_with(|| Instant::now() + BEATS.0);
        }
        Some(answers)
    }

    async fn on_roll_of(&mut self, named: RollOfGroup, heard: u64, home: &Arc<str>) -> Option<RollAnswer> {
        let RollOfGroup { group: name, epoch, head, members } = named;
        let gone = |name: GroupName| RollAnswer { group: name, now: None, removed: Vec::new() };
        match self.load(&name).await {
            Ok(Some(_)) => {}
            // Nobody has posted: that the group exists is known from its members alone.
            Ok(None) if head == 0 => {
                let fanout = self.shared.config.fanout;
                self.enter(Group::new(name.clone(), self.shard, epoch, 0, 0, fanout));
            }
            Ok(None) => return Some(gone(name)),
            Err(_) => return None,
        }
        let missed = |serving: &mut Serving| -> Vec<Removed> {
            let missed = serving.removals.iter().filter(|(number, removed)| *number > heard && removed.group == name);
            missed.map(|(_, removed)| removed.clone()).collect()
        };
        let mut removed = self.serving_mut().map(missed).unwrap_or_default();
        for person in members {
            let (id, joined_at) = (person.id, person.joined_at);
            let session = Arc::new(session(person, home));
            if self.shared.holds.check(&name, &session).is_err() {
                removed.push(removal(&name, id, Removal::Kicked, None));
            }
            if removed.iter().any(|removed| removed.id == id) {
                continue;
            }
            let Some(group) = self.groups.get_mut(&name) else { continue };
            if head > 0 && group.epoch() != epoch {
                return Some(gone(name));
            }
            drop(group.join(&session, joined_at));
        }
        let now = self.groups.get(&name).map(|group| (group.epoch(), group.head()));
        Some(RollAnswer { group: name, now, removed })
    }
}
