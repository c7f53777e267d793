//! From a group to its shard, and from a shard to the node that owns it.
//!
//! `shard = xxh3_64(group name) mod shards` and rendezvous hashing (highest random weight, Thaler and Ravishankar 1998) of the shard
//! over the nodes, weight `xxh3_64(node name, seed = shard)`. Both are part of what a deployment stores and of what its nodes must
//! agree on: they never change, and tests pin them.

use tertulia_protocol::GroupName;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The shard of a group in a deployment of `shards` shards.
#[must_use]
pub fn shard_of(group: &GroupName, shards: u16) -> u16 {
    let shard = xxh3_64(group.as_str().as_bytes()) % u64::from(shards.max(1));
    // Less than `shards`, hence it fits.
    shard as u16
}

/// Which of `nodes` owns a shard; `None` only if there are no nodes. The order of `nodes` does not matter.
#[must_use]
pub fn owner_of(shard: u16, nodes: &[String]) -> Option<&str> {
    let weight = |node: &str| xxh3_64_with_seed(node.as_bytes(), u64::from(shard));
    // Equal weights are as good as impossible, but every node must decide alike.
    nodes.iter().map(String::as_str).max_by_key(|node| (weight(node), *node))
}

/// The shard map: who owns what, and a number that grows with each change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardMap {
    /// Grows with each change.
    pub version: u64,
    /// The live nodes, ordered by name.
    pub nodes: Vec<String>,
    /// For each shard the index of its owner in `nodes`.
    owners: Vec<u16>,
}

impl ShardMap {
    /// The map of `shards` shards over `nodes`.
    #[must_use]
    pub fn new(version: u64, shards: u16, mut nodes: Vec<String>) -> Self {
        nodes.sort_unstable();
        nodes.dedup();
        let index = |owner: &str| nodes.iter().position(|node| node == owner).unwrap_or(0) as u16;
        let owners = (0..shards).map(|shard| owner_of(shard, &nodes).map_or(0, index)).collect();
        Self { version, nodes, owners }
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.owners.len() as u16
    }

    /// The owner of a shard.
    #[must_use]
    pub fn owner(&self, shard: u16) -> Option<&str> {
        let index = *self.owners.get(usize::from(shard))?;
        self.nodes.get(usize::from(index)).map(String::as_str)
    }

    /// The shards that a node owns.
    pub fn owned_by(&self, node: &str) -> impl Iterator<Item = u16> {
        let index = self.nodes.iter().position(|other| other == node).map(|index| index as u16);
        (0..self.shards()).filter(move |shard| index.is_some_and(|index| self.owners[usize::from(*shard)] == index))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("tertulia-{index}")).collect()
    }

    #[test]
    fn the_hashes_are_pinned() {
        assert_eq!(xxh3_64(b"general"), 0x0e76_9d2f_06fb_d313);
        let shard = |name| shard_of(&GroupName::new(name).unwrap(), 1024);
        assert_eq!(["general", "Dogs", "Cats", "#ubuntu", "两只狗"].map(shard), PINNED_SHARDS);
        let nodes = nodes(3);
        let owners: Vec<&str> = (0..12).filter_map(|shard| owner_of(shard, &nodes)).collect();
        assert_eq!(owners.iter().map(|owner| &owner[9..]).collect::<String>(), PINNED_OWNERS);
    }

    const PINNED_SHARDS: [u16; 5] = [787, 59, 691, 980, 819];
    const PINNED_OWNERS: &str = "221102122121";

    #[test]
    fn no_node_of_ten_has_more_than_1_3_times_its_even_share() {
        let map = ShardMap::new(1, 1024, nodes(10));
        for node in &map.nodes {
            let share = map.owned_by(node).count() as f64 / 102.4;
            assert!(share < 1.3, "{node} has {share} of its even share");
        }
        assert_eq!(map.nodes.iter().map(|node| map.owned_by(node).count()).sum::<usize>(), 1024);
    }

    proptest! {
        #[test]
        fn a_new_node_takes_its_share_and_nothing_else_moves(
            names in proptest::collection::hash_set("[a-z]{3,12}", 2..12),
        ) {
            let all: Vec<String> = names.into_iter().collect();
            let (new, old) = all.split_last().unwrap();
            let before = ShardMap::new(1, 1024, old.to_vec());
            let after = ShardMap::new(2, 1024, all.clone());
            let moved: Vec<u16> = (0..1024).filter(|shard| before.owner(*shard) != after.owner(*shard)).collect();
            prop_assert!(moved.iter().all(|shard| after.owner(*shard) == Some(new)));
            // The issue with small counts of nodes is the variance of the share: five sigma above the mean.
            let share = 1.0 / all.len() as f64;
            let bound = share + 5.0 * (share * (1.0 - share) / 1024.0).sqrt();
            prop_assert!((moved.len() as f64) <= bound * 1024.0, "{} moved", moved.len());
        }

        #[test]
        fn the_order_of_nodes_does_not_matter(shard in 0u16..1024, mut names in proptest::collection::vec("[a-z]{1,8}", 1..8)) {
            let owner = owner_of(shard, &names).unwrap().to_owned();
            names.reverse();
            prop_assert_eq!(owner_of(shard, &names), Some(owner.as_str()));
        }
    }

    #[test]
    fn adding_a_numbered_node_moves_at_most_its_share_and_three_percent() {
        for count in 1..10 {
            let (before, after) = (ShardMap::new(1, 1024, nodes(count)), ShardMap::new(2, 1024, nodes(count + 1)));
            let moved = (0..1024).filter(|shard| before.owner(*shard) != after.owner(*shard)).count() as f64 / 1024.0;
            assert!(moved <= 1.0 / (count + 1) as f64 + 0.03, "from {count} nodes: {moved} moved");
        }
    }
}
