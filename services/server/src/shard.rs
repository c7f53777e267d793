//! Groups: the map from groups to shards to nodes, and one owner task per shard.

pub mod config;

pub use config::Config;
