//! What may be configured about shards and groups.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Section `shard` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Shards of the deployment; 0: see [`Config::settle`]. With many nodes fixed for its life: another number sends groups elsewhere.
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
    /// Shards of a deployment of many nodes: enough for each node of many to have about as many.
    const OF_MANY_NODES: u16 = 1_024;
    /// Shards of a single node for each processor. Its owners wait for one log, and the fewer they are the more posts share an append;
    /// so many that processors do not wait for each other.
    const OF_A_PROCESSOR: usize = 8;
    /// Fewest shards of a single node.
    const OF_A_NODE: usize = 16;

    /// Decides what is left to the server: how many shards there are.
    pub fn settle(&mut self, is_one_of_many: bool) {
        if self.count == 0 {
            let processors = std::thread::available_parallelism().map_or(1, usize::from);
            let single = (processors * Self::OF_A_PROCESSOR).max(Self::OF_A_NODE);
            self.count = if is_one_of_many {
                Self::OF_MANY_NODES
            } else {
                u16::try_from(single).unwrap_or(Self::OF_MANY_NODES).min(Self::OF_MANY_NODES)
            };
        }
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
