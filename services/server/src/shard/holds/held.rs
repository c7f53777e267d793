//! A hold as builds tell it that do not keep holds for all nodes: there it goes with the shard, and nowhere else.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tertulia_protocol::GroupName;

use super::{Hold, Target};
use crate::log::now_ms;

/// What moderators hold in a shard, for a node of such a build that has the shard next, or from one that had it before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// In which group; in all without one.
    group: Option<GroupName>,
    /// Whom; everybody without one.
    target: Option<Target>,
    /// For how much longer.
    left: Duration,
}

impl Held {
    /// The same hold; `None` if it is over.
    #[must_use]
    pub fn of(hold: &Hold) -> Option<Self> {
        let left = Duration::from_millis(hold.until.saturating_sub(now_ms()));
        let (group, target) = (hold.group.clone(), hold.target.clone());
        (!left.is_zero()).then_some(Self { group, target, left })
    }
}

impl From<Held> for Hold {
    fn from(held: Held) -> Self {
        Self::new(held.group, held.target, held.left)
    }
}
