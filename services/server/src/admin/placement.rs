//! Where groups live.

use tertulia_proto::admin::v1::{GetShardMapRequest, GetShardMapResponse, Node, Placement};

use super::arguments;
use super::service::Service;
use super::status::Error;
use crate::cluster::Cluster;

/// How `shard::map` places groups, in words.
const HASH: &str = "shard = xxh3_64(group_name) mod shard_count; \
                    node = the live one with the highest xxh3_64(name of the node, seed = shard), of equals the last by name";

impl Service {
    pub(super) fn shard_map(&self, request: &GetShardMapRequest) -> Result<GetShardMapResponse, Error> {
        let map = self.shards.map();
        let placement = arguments::group_or_all(&request.group_name)?.map(|group| {
            let shard = self.shards.shard_of(&group);
            let node = map.owner(shard).unwrap_or_default().to_owned();
            Placement { group_name: group.as_str().to_owned(), shard: shard.into(), node }
        });
        // Those that leave are not in the map any more.
        let nodes = self.cluster.as_ref().map(Cluster::nodes).unwrap_or_default();
        let leaving = nodes.iter().map(|node| &node.name).filter(|name| !map.nodes.contains(name));
        let mut names: Vec<&String> = map.nodes.iter().chain(leaving).collect();
        names.sort();
        let tell_node = |name: &String| {
            let node = nodes.iter().find(|node| node.name == *name);
            let shards: Vec<u32> = map.owned_by(name).map(u32::from).collect();
            Node {
                name: name.clone(),
                answering: name == self.shards.node(),
                shard_count: u32::try_from(shards.len()).unwrap_or(u32::MAX),
                shards: if request.with_shards { shards } else { Vec::new() },
                version: node.map(|node| node.version.clone()).unwrap_or_default(),
                since: node.map(|node| tertulia_proto::timestamp(node.since)),
                leaving: node.is_some_and(|node| node.leaving),
            }
        };
        Ok(GetShardMapResponse {
            version: map.version,
            hash: HASH.to_owned(),
            shard_count: map.shards().into(),
            nodes: names.into_iter().map(tell_node).collect(),
            placement,
        })
    }
}
