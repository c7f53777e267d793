//! Groups that retention leaves alone, since the disk fails where only retention reads.
//!
//! After an error of the disk, redb takes nothing until it is opened again; without this, one sector of one old message would hold up
//! all that is acknowledged, and what retention removes of other groups.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How soon a group is tried again: the disk may have been put right, as by writing the sector anew.
const AGAIN: Duration = Duration::from_secs(3600);
/// With so many, it is the disk as a whole, and all groups are left alone.
const MOST: usize = 1024;

/// The groups, by their ids in the tables.
#[derive(Debug, Default)]
pub(crate) struct Spared {
    all: bool,
    met: HashMap<u64, Instant>,
}

impl Spared {
    /// All groups: for what must be done whatever becomes of retention.
    pub(crate) fn all() -> Self {
        Self { all: true, ..Self::default() }
    }

    /// The disk failed at this group.
    pub(crate) fn add(&mut self, id: u64) {
        self.met.insert(id, Instant::now());
    }

    /// Whether all groups are left alone.
    pub(crate) fn is_all(&self) -> bool {
        self.all || self.met.len() >= MOST
    }

    /// Whether the group is left alone: nothing of it is read or removed, and only the bound on the number of messages holds.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.is_all() || self.met.contains_key(&id)
    }

    /// Lets groups be tried again whose time has come.
    pub(crate) fn forget_old(&mut self) {
        self.met.retain(|_, at| at.elapsed() < AGAIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_left_alone_one_by_one_until_there_are_too_many() {
        let mut spared = Spared::default();
        spared.add(1);
        spared.forget_old();
        assert!(spared.has(1) && !spared.has(0));
        (2..=MOST as u64).for_each(|id| spared.add(id));
        assert!(spared.has(0));
        assert!(Spared::all().has(0));
    }
}
