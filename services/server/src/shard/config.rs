//! What may be configured about shards and groups.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Section `shard` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Shards of the deployment; 0: see [`Config::shards`]. With many nodes fixed for its life: another number sends groups elsewhere.
    pub count: u16,
    /// Requests that wait for one shard; at this number those who send more wait.
    pub queue: usize,
    /// Deliveries that a group keeps for members that are a little behind; further behind, the log serves them.
    pub fanout: usize,
    /// Posts that go into one append at most.
    pub append_posts: usize,
    /// Bytes of messages that go into one append at most (one message more may exceed it).
    pub append_bytes: usize,
    /// A group without members and posts for this long leaves memory; the log keeps its messages.
    #[serde(with = "humantime_serde")]
    pub group_idle: Duration,
    /// How many of the newest posts of a group are remembered by their id; 0 turns it off.
    pub dedup_window: usize,
    /// For how long the id of a post is remembered.
    #[serde(with = "humantime_serde")]
    pub dedup_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            count: 0,
            queue: 1_024,
            fanout: 32,
            append_posts: 4_096,
            append_bytes: 1024 * 1024,
            group_idle: Duration::from_secs(60),
            dedup_window: 4_096,
            dedup_time: Duration::from_secs(300),
        }
    }
}

impl Config {
    /// Shards of a deployment of many nodes: enough for each node of many to have about as many. A single node has no use for more.
    const MOST: usize = 1_024;
    /// Fewest shards of a single node.
    const FEWEST: usize = 16;
    /// Shards of a single node for each processor. Its owners wait for one log, and the fewer they are the more posts share an append;
    /// so many that processors do not wait for each other.
    const OF_A_PROCESSOR: usize = 8;

    /// How many shards there are, also where that is left to the server.
    #[must_use]
    pub fn shards(&self, is_one_of_many: bool) -> u16 {
        let processors = || std::thread::available_parallelism().map_or(1, usize::from);
        let chosen = match self.count {
            0 if is_one_of_many => Self::MOST,
            0 => (processors() * Self::OF_A_PROCESSOR).clamp(Self::FEWEST, Self::MOST),
            count => usize::from(count),
        };
        u16::try_from(chosen).unwrap_or(u16::MAX)
    }
}

/// Bounds that other sections of the configuration set and shards keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Members (connections) of one group.
    pub members_per_group: usize,
    /// Groups in total.
    pub groups: usize,
    /// Groups that one user may make in an hour, as far as this node owns them; 0: no bound.
    pub new_groups_per_user: usize,
    /// As [`Bounds::new_groups_per_user`], for all that comes from one address.
    pub new_groups_per_address: usize,
    /// Holds of moderators.
    pub holds: usize,
    /// Whether one may post to a group without being a member of it.
    pub post_without_join: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            members_per_group: 100_000,
            groups: 1_000_000,
            new_groups_per_user: 100_000,
            new_groups_per_address: 0,
            holds: 100_000,
            post_without_join: true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_shards_is_chosen_only_where_it_is_left_to_the_server() {
        let of = |count| Config { count, ..Config::default() };
        assert_eq!((of(7).shards(false), of(7).shards(true), of(0).shards(true)), (7, 7, 1_024));
        assert!((16..=1_024).contains(&of(0).shards(false)));
    }
}
