//! What this node knows of a shard that it may extend.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};
use tertulia_protocol::GroupName;

use super::message::{Kind, Message};
use super::writer::Locks;
use crate::log::Head;

/// Where a message is: its first `seq`, and its sequence in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    pub(crate) seq: u64,
    pub(crate) position: u64,
}

/// Some messages of a group, from which the others are looked for. Ordered, few, and closer to each other the newer they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Points(Vec<Point>);

impl Points {
    const MOST: usize = 48;

    pub(crate) fn add(&mut self, point: Point) {
        let index = self.0.partition_point(|other| other.seq < point.seq);
        if self.0.get(index).is_some_and(|other| other.seq == point.seq) {
            return;
        }
        self.0.insert(index, point);
        if self.0.len() > Self::MOST {
            // Of the older half every other one.
            let half = self.0.len() / 2;
            let mut index = 0;
            self.0.retain(|_| {
                index += 1;
                index > half || index % 2 == 1
            });
        }
    }

    /// The last point at or before `seq`.
    pub(crate) fn before(&self, seq: u64) -> Option<Point> {
        let index = self.0.partition_point(|point| point.seq <= seq);
        index.checked_sub(1).and_then(|index| self.0.get(index)).copied()
    }

    /// The first point after `seq`.
    pub(crate) fn after(&self, seq: u64) -> Option<Point> {
        self.0.get(self.0.partition_point(|point| point.seq <= seq)).copied()
    }

    /// From places in any order.
    pub(crate) fn of(places: Vec<Point>) -> Self {
        let mut points = Self::default();
        places.into_iter().for_each(|place| points.add(place));
        points
    }

    /// The newest, at most so many.
    pub(crate) fn newest(&self, count: usize) -> &[Point] {
        &self.0[self.0.len().saturating_sub(count)..]
    }

    /// Forgets what is before a position.
    pub(crate) fn forget_before(&mut self, position: u64) {
        self.0.retain(|point| point.position >= position);
    }
}

/// A group as its last message tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// `None`: it was deleted.
    pub(crate) head: Option<Head>,
    /// Size of all records of this life.
    pub(crate) bytes: u64,
    /// Where the last message is.
    pub(crate) last: u64,
    /// Where the last mark is; 0: none that is known of.
    pub(crate) mark: u64,
    pub(crate) points: Points,
    /// Size of the records before the oldest that is kept, once that is known.
    pub(crate) bytes_before_first: Option<u64>,
    /// When the oldest was taken in, once that is known.
    pub(crate) first_at: Option<u64>,
    /// Whether its bytes are being looked at.
    pub(crate) is_being_bounded: bool,
    /// How many bytes it had when they were looked at last. Until more come in there is no less to be had: the newest message stays, also
    /// if it alone is too much.
    pub(crate) bounded: u64,
    /// Where the messages begin that have not been asked to be removed.
    pub(crate) trimmed: u64,
}

impl Known {
    pub(crate) fn of(message: &Message, position: u64) -> Self {
        let mut points = Points::default();
        if message.kind == Kind::Records {
            points.add(Point { seq: message.first(), position });
        }
        Self {
            head: message.head(),
            bytes: message.bytes,
            last: position,
            mark: if message.kind == Kind::Mark { position } else { 0 },
            points,
            bytes_before_first: None,
            first_at: None,
            is_being_bounded: false,
            bounded: 0,
            trimmed: 0,
        }
    }
}

/// A shard.
#[derive(Debug, Default)]
pub(crate) struct Shard {
    /// Held by who changes the shard: takes it, extends it, removes from it.
    pub(crate) locks: Locks,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The position of our message on the fence; `None`: the shard is not ours.
    pub(crate) fence: Option<u64>,
    /// Whether we put another one there now. Until it is answered, a later message on the fence may be ours.
    pub(crate) is_claiming: bool,
    /// Where the newest message is that ended a group since the shard was taken. A replica that has our fence need not have it yet, and is
    /// not to be believed then.
    pub(crate) deleted: u64,
    /// Groups that were asked for since the shard was taken.
    pub(crate) groups: HashMap<GroupName, Known, RandomState>,
    /// All groups of the shard, for lists.
    pub(crate) names: HashSet<GroupName, RandomState>,
}

impl State {
    /// Whether a message that is at `position` of the fence is another writer's, and later than ours.
    pub(crate) fn is_before(&self, position: u64) -> bool {
        !self.is_claiming && self.fence.is_some_and(|fence| fence < position)
    }

    /// What is known of a group, if it still has that life.
    pub(crate) fn life(&mut self, group: &GroupName, epoch: u64) -> Option<&mut Known> {
        self.groups.get_mut(group).filter(|known| known.head.is_some_and(|head| head.epoch == epoch))
    }

    /// Our message on the fence has a successor of ours.
    pub(crate) fn goes_on(&mut self, before: u64, position: u64) {
        self.is_claiming = false;
        // Unless we let go of the shard meanwhile: then what was known of it is forgotten.
        if self.fence == Some(before) {
            self.fence = Some(position);
        }
    }
}

impl Shard {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fence(&self) -> Option<u64> {
        self.state().fence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_few_and_ordered_and_the_newest_are_all_there() {
        let mut points = Points::default();
        for seq in 1..=10_000 {
            points.add(Point { seq, position: seq * 3 });
            points.add(Point { seq, position: seq * 3 });
        }
        assert!(points.0.len() <= Points::MOST);
        assert!(points.0.is_sorted_by_key(|point| point.seq));
        assert_eq!(points.0.first().unwrap().seq, 1);
        for seq in [9_999, 10_000] {
            assert_eq!(points.before(seq), Some(Point { seq, position: seq * 3 }));
        }
        assert_eq!(points.before(0), None);
        assert_eq!(points.after(0), Some(Point { seq: 1, position: 3 }));
        assert_eq!(points.after(10_000), None);
        points.forget_before(30_000);
        assert_eq!(points.0, [Point { seq: 10_000, position: 30_000 }]);
    }
}
