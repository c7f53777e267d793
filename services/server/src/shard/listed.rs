//! Groups in lists.

use std::sync::Arc;
use std::time::Duration;

use tertulia_protocol::GroupName;

use super::wire::Listing;
use super::{Covered, GroupStatus, Refusal};
use crate::log::{Head, ReadError};

/// Why groups cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Untold {
    /// The log cannot be read.
    #[error(transparent)]
    Unread(#[from] ReadError),
    /// Another node, which knows, does not tell.
    #[error("node '{node}' does not tell its groups: {why}")]
    Silent {
        /// Its name.
        node: String,
        /// Why, as far as it is known.
        why: String,
    },
    /// No node that answers has these shards.
    #[error("no node tells the groups of {shards} shards")]
    Unowned {
        /// How many.
        shards: usize,
    },
    /// Who owns the group's shard refuses, or does not answer.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A group in a list: what is in memory of it, and what the log knows.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The group.
    pub name: GroupName,
    /// If it is in memory.
    pub status: Option<Arc<GroupStatus>>,
    /// If the log knows it.
    pub stored: Option<Head>,
    /// For how much longer a moderator keeps it closed, if another node told.
    pub closed_for: Option<Duration>,
}

/// Groups, and of which shards they are all that there are.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// The groups, as a list that has begun somewhere and has so many has them.
    pub groups: Vec<Listed>,
    /// The shards.
    pub covers: Covered,
}

impl Part {
    /// Takes what was told since, of which each group is told once, and keeps the first `most` by name. What one node told of a shard before it
    /// gave it away is as good as what the next one tells.
    pub(super) fn add(&mut self, told: Self, most: usize) {
        let Self { groups, covers } = told;
        let before = std::mem::replace(&mut self.groups, groups);
        self.groups.extend(before);
        self.groups.sort_by(|one, other| one.name.cmp(&other.name).then_with(|| other.rank().cmp(&one.rank())));
        self.groups.dedup_by(|other, first| other.name == first.name);
        self.groups.truncate(most);
        self.covers.unite(&covers);
    }
}

impl Listed {
    /// Grows with what is known of the group: who has only its messages does not know its members.
    fn rank(&self) -> (u64, bool, u64) {
        (self.epoch(), self.status.is_some(), self.head())
    }

    /// As another node told it.
    #[must_use]
    pub fn told(listing: Listing, shard: u16) -> Self {
        let Listing { name, loaded, stored, closed_for } = listing;
        let status = loaded.map(|told| Arc::new(GroupStatus::told(name.clone(), shard, &told)));
        Self { name, status, stored, closed_for }
    }

    /// For another node.
    #[must_use]
    pub fn tell(&self) -> Listing {
        let Self { name, status, stored, closed_for } = self;
        let loaded = status.as_ref().map(|status| status.tell());
        Listing { name: name.clone(), loaded, stored: *stored, closed_for: *closed_for }
    }

    /// The newest message.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.status.as_ref().map(|status| status.head()).max(self.stored.map(|head| head.seq)).unwrap_or(0)
    }

    /// The oldest message that the log holds; one after the newest if it holds none.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.stored.map_or(1, |head| head.first)
    }

    /// The life of the group.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.status.as_ref().map(|status| status.epoch()).or(self.stored.map(|head| head.epoch)).unwrap_or(0)
    }
}

/// As much of a text as tells which names come after it, none of which has more than `longest` bytes: a client may give any text, and this
/// goes to other nodes.
pub(super) fn place(after: &str, longest: usize) -> &str {
    &after[..after.ceil_char_boundary(longest + 1)]
}

/// Both lists are ordered by name; a group may be in both.
pub(super) fn merge(loaded: Vec<Arc<GroupStatus>>, stored: Vec<(GroupName, Head)>) -> Vec<Listed> {
    let mut merged = Vec::with_capacity(loaded.len() + stored.len());
    let mut stored = stored.into_iter().peekable();
    for status in loaded {
        while let Some((name, head)) = stored.next_if(|(name, _)| *name < status.name) {
            merged.push(Listed { name, status: None, stored: Some(head), closed_for: None });
        }
        let head = stored.next_if(|(name, _)| *name == status.name).map(|(_, head)| head);
        merged.push(Listed { name: status.name.clone(), status: Some(status), stored: head, closed_for: None });
    }
    merged.extend(stored.map(|(name, head)| Listed { name, status: None, stored: Some(head), closed_for: None }));
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(name: &str, (epoch, head): (u64, u64), members: Option<usize>) -> Listed {
        let name = GroupName::new(name).unwrap();
        let status = members.map(|members| {
            let status = GroupStatus::new(name.clone(), 0, epoch, head);
            status.set_members(members, 0);
            Arc::new(status)
        });
        let stored = Some(Head { epoch, first: 1, seq: head, at: 1 });
        Listed { name, status, stored, closed_for: None }
    }

    #[test]
    fn of_what_is_told_twice_that_is_kept_which_knows_most() {
        let cats = |life, members| listed("Cats", life, members);
        let (full, empty) = (cats((7, 3), Some(4)), cats((7, 3), None));
        for (told, members, head) in [
            (vec![full.clone(), empty.clone()], 4, 3),
            (vec![empty.clone(), full.clone()], 4, 3),
            (vec![full.clone(), cats((7, 5), Some(2)), empty.clone()], 2, 5),
            (vec![full, cats((8, 0), Some(1)), empty], 1, 0),
        ] {
            let mut all = Part::default();
            for groups in told {
                all.add(Part { groups: vec![groups, listed("Dogs", (1, 1), None)], ..Part::default() }, 10);
            }
            let names: Vec<&str> = all.groups.iter().map(|group| group.name.as_str()).collect();
            assert_eq!(names, ["Cats", "Dogs"]);
            let cats = &all.groups[0];
            assert_eq!((cats.status.as_ref().unwrap().members(), cats.head()), (members, head));
        }
    }

    #[test]
    fn the_place_of_a_text_is_short() {
        assert_eq!(place(&"x".repeat(1_000), 64).len(), 65);
        assert_eq!(place(&"犬".repeat(1_000), 64).len(), 66);
        assert_eq!(place("ada", 64), "ada");
    }

    proptest! {
        #[test]
        fn the_same_names_come_after_the_place_of_a_text(after in "[abé犬]{0,9}", name in "[abé犬]{1,9}") {
            const LONGEST: usize = 6;
            let name = &name[..name.floor_char_boundary(LONGEST)];
            prop_assert_eq!(name > after.as_str(), name > place(&after, LONGEST));
        }
    }
}
