//! Who is a member on another node, as that node tells the owner of a shard.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tertulia_protocol::GroupName;
use tokio::time::Instant;

use super::{BEATS, Serving, session};
use crate::log::Head;
use crate::shard::events::{Leaving, What};
use crate::shard::owner::heads::Found;
use crate::shard::owner::mirror::removed as removal;
use crate::shard::owner::{Group, Owner};
use crate::shard::session::{ConnectionId, Removal};
use crate::shard::wire::{Removed, Roll, RollAnswer, RollOfGroup};

/// The ends of memberships in a group.
type Ends = HashMap<ConnectionId, Removed>;

impl Serving {
    /// What was told since of those who are in this part of a roll. Not of others, who have nothing there that could end: a moderator may remove
    /// more members at once than an answer can name.
    fn missed(&self, roll: &Roll) -> HashMap<GroupName, Ends> {
        let mut missed: HashMap<GroupName, Ends> = HashMap::new();
        let first = self.removals.partition_point(|(number, ..)| *number <= roll.heard);
        if first == self.removals.len() {
            return missed;
        }
        let mut members: HashSet<(&GroupName, ConnectionId)> = HashSet::new();
        for named in &roll.groups {
            members.extend(named.members.iter().map(|person| (&named.group, person.id)));
        }
        for (_, _, removed) in self.removals.range(first..) {
            if members.contains(&(&removed.group, removed.id)) {
                missed.entry(removed.group.clone()).or_default().insert(removed.id, removed.clone());
            }
        }
        missed
    }
}

impl Owner {
    /// Nodes that are gone have no members, and of one that was started again only who came since has.
    ///
    /// A list may come late: a node that it does not have may have come back since, and have told who is a member there. So whoever had
    /// members is called to tell that once more, now, and when a list has it again, lest it did not hear; if it is gone nobody hears it.
    ///
    /// The same list may come again, for what a node asked before it went may have been carried out since.
    pub(in crate::shard::owner) fn forget_others(&mut self, nodes: &Arc<HashMap<String, String>>) {
        let others = nodes.keys().any(|name| self.seat.as_ref().is_some_and(|seat| **name != *seat.node));
        let Some(serving) = self.serving_mut() else { return };
        // Who has members here has asked for that, and they are of the start that asked last.
        let is_of_now = |(name, instance): &(&String, &String)| {
            serving.links.get(*name).is_none_or(|link| link.instance == **instance)
        };
        let there: HashSet<&str> = nodes.iter().filter(is_of_now).map(|(name, _)| name.as_str()).collect();
        let forgotten = self.forget_members(|home| !there.contains(home));
        let Some(serving) = self.serving_mut() else { return };
        let is_another = serving.nodes != *nodes;
        serving.nodes = Arc::clone(nodes);
        let (back, before): (HashSet<String>, HashSet<String>) =
            serving.absent.drain().partition(|name| nodes.contains_key(name));
        serving.untold_rolls.extend(back);
        if is_another {
            // What it asked is known for one more list, so that nothing is carried out twice that it asks again.
            serving.links.retain(|name, _| !before.contains(name));
        } else {
            serving.absent.extend(before);
        }
        serving.absent.extend(serving.links.keys().filter(|name| !nodes.contains_key(*name)).cloned());
        serving.absent.extend(forgotten.iter().cloned());
        serving.untold_rolls.extend(forgotten);
        if others {
            let beat = serving.beat;
            serving.beat_at.get_or_insert_with(|| Instant::now() + beat);
        }
    }

    /// Another start of a node asks: who was a member there before is gone. It is called all the same, for what asks last may be the start
    /// before, late.
    pub(super) fn forget_start_before(&mut self, node: &str) {
        let forgotten = self.forget_members(|home| home == node);
        if let Some(serving) = self.serving_mut() {
            serving.untold_rolls.extend(forgotten);
        }
    }

    /// Forgets who is a member on some nodes; answers on which of them anybody was.
    fn forget_members(&mut self, is_gone: impl Fn(&str) -> bool) -> HashSet<String> {
        let mut forgotten = HashSet::new();
        let shared = &self.shared;
        for (name, group) in self.groups.iter_mut().filter(|(_, group)| group.is_remote()) {
            let gone = group.remove_where(|session| session.home.as_deref().is_some_and(&is_gone));
            let mut members = group.member_count() + gone.len();
            for session in gone {
                members -= 1;
                shared.metrics.disconnected.increment(1);
                shared.events.tell(|| What::Left {
                    group: name.clone(),
                    who: (&*session).into(),
                    members: members as u64,
                    how: Leaving::Disconnected,
                });
                if let Some(home) = session.home.as_deref().filter(|home| !forgotten.contains(*home)) {
                    forgotten.insert(home.to_owned());
                }
            }
        }
        forgotten
    }

    /// Learns who is a member on another node. Nothing is told of groups of which the log does not tell where they are: it may be another life
    /// of them. When it does, that node is called; also where it is the same life, for there may be more messages of it than this node knows.
    pub(super) async fn on_roll(&mut self, roll: Roll, home: &Arc<str>) -> Vec<RollAnswer> {
        if roll.begins {
            for group in self.groups.values_mut().filter(|group| group.is_remote()) {
                drop(group.remove_where(|session| session.home.as_ref() == Some(home)));
            }
        }
        let unread = self.load_all(&roll.groups).await;
        let missed = self.serving_mut().map(|serving| serving.missed(&roll)).unwrap_or_default();
        let is_unread = roll.groups.iter().any(|named| self.is_unread(&named.group));
        let mut answers = Vec::new();
        for named in roll.groups.into_iter().filter(|named| !unread.contains(&named.group)) {
            let missed = missed.get(&named.group);
            answers.extend(self.on_roll_of(named, missed, home));
        }
        if let Some(serving) = self.serving_mut() {
            if is_unread {
                serving.unread.to_call.insert(home.to_string());
            }
            serving.beat_at.get_or_insert_with(|| Instant::now() + BEATS.0);
        }
        answers
    }

    /// Brings the groups into memory that the log knows; answers those of which it does not tell that.
    async fn load_all(&mut self, named: &[RollOfGroup]) -> HashSet<GroupName> {
        let names: HashSet<&GroupName> = named.iter().map(|named| &named.group).collect();
        let names = names.into_iter().filter(|name| !self.groups.contains_key(*name));
        let names = names.cloned().collect();
        let mut unread = Vec::new();
        for Found { name, outcome, .. } in self.ask(names).await {
            match outcome {
                Ok((Some(Head { epoch, seq, at, .. }), _)) => {
                    self.enter(Group::new(name, self.shard, epoch, seq, at, self.shared.config.fanout));
                }
                Ok((None, _)) => {}
                Err(error) => unread.push((name, error)),
            }
        }
        let names = unread.iter().map(|(name, _)| name.clone()).collect();
        self.read_later(unread);
        names
    }

    fn begin_as_told(&mut self, name: &GroupName, epoch: u64) {
        self.enter(Group::new(name.clone(), self.shard, epoch, 0, 0, self.shared.config.fanout));
    }

    /// Of a group that is in memory if the log knows it; `None` if it is not known whether that life of it goes on.
    fn on_roll_of(&mut self, named: RollOfGroup, missed: Option<&Ends>, home: &Arc<str>) -> Option<RollAnswer> {
        let RollOfGroup { group: name, epoch, head, members } = named;
        let found = self.groups.get(&name);
        match found.map(|group| (group.epoch(), group.is_blank())) {
            Some((of, _)) if of == epoch => {}
            _ if found.is_some_and(|group| group.is_unread) => return None,
            // Nobody has posted: that the group exists is known from its members alone.
            None if head == 0 => self.begin_as_told(&name, epoch),
            // Nor has anybody who joined here before it was known that there are others. They were told another epoch, and so were these: the
            // older life goes on, in which there are more of them, as a rule.
            Some((of, true)) if head == 0 && epoch < of => {
                self.remove(&name, |_| true, Removal::Deleted, None);
                self.groups.remove(&name);
                self.shared.directory.remove(&name, false);
                self.begin_as_told(&name, epoch);
            }
            Some(_) | None => return Some(RollAnswer { group: name, now: None, removed: Vec::new() }),
        }
        let mut removed = Vec::new();
        for person in members {
            let (id, joined_at) = (person.id, person.joined_at);
            if let Some(end) = missed.and_then(|missed| missed.get(&id)) {
                removed.push(end.clone());
                continue;
            }
            let session = Arc::new(session(person, home));
            if self.shared.holds.check(&name, &session).is_err() {
                self.shared.metrics.kicked.increment(1);
                removed.push(removal(&name, id, Removal::Kicked, None));
                continue;
            }
            if let Some(group) = self.groups.get_mut(&name) {
                drop(group.join(&session, joined_at));
            }
        }
        let now = self.groups.get(&name).map(|group| (group.epoch(), group.head()));
        Some(RollAnswer { group: name, now, removed })
    }
}
