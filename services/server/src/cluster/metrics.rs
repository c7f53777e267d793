//! What nodes measure about each other.

use std::time::Duration;

pub(super) use metrics::Counter;
use metrics::{
    Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

/// Nodes that are there.
pub const NODES: &str = "tertulia_cluster_nodes";
/// The version of the shard map.
pub const MAP_VERSION: &str = "tertulia_shard_map_version";
/// Shards that were taken.
pub const TAKEOVERS: &str = "tertulia_cluster_takeovers_total";
/// How long shards that were taken were served by nobody.
pub const TAKEOVER_SECONDS: &str = "tertulia_cluster_takeover_seconds";
/// Shards that were given to another node.
pub const HANDOVERS: &str = "tertulia_cluster_handovers_total";
/// Renewals of this node's entry.
pub const RENEWALS: &str = "tertulia_cluster_renewals_total";
/// Nodes that this one took for dead.
pub const EXPIRED: &str = "tertulia_cluster_expired_nodes_total";
/// What other nodes were to be told and could not be.
pub const DROPPED: &str = "tertulia_cluster_dropped_frames_total";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_gauge!(NODES, "Nodes in the list");
    describe_gauge!(
        MAP_VERSION,
        "Version of the shard map that this node goes by; the same on all nodes when they agree"
    );
    describe_counter!(
        TAKEOVERS,
        "Shards that this node began to own, by how: handed (the owner before gave it), taken (there was none, or it did not answer)"
    );
    describe_histogram!(
        TAKEOVER_SECONDS,
        Unit::Seconds,
        "Time from asking the owner of a shard to let it go, or from beginning to take it, until this node served it, by how it came: handed, taken"
    );
    describe_counter!(HANDOVERS, "Shards that this node gave to another one");
    describe_counter!(
        RENEWALS,
        "Renewals of this node's entry in the list, by result: renewed, failed (not stored, or not known), lapsed (others took the node for dead)"
    );
    describe_counter!(EXPIRED, "Nodes that this one took for dead because they did not renew their entries");
    describe_counter!(
        DROPPED,
        "Frames for other nodes that were dropped because NATS took no more, or does not take them; they are told again or found in the log"
    );
}

#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) nodes: Gauge,
    pub(super) version: Gauge,
    handed: (Counter, Histogram),
    taken: (Counter, Histogram),
    pub(super) renewed: Counter,
    pub(super) failed: Counter,
    pub(super) lapsed: Counter,
    pub(super) expired: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        // There from the start: what appears with its first count has a rate only from the second one on.
        handovers().increment(0);
        dropped().increment(0);
        Self {
            nodes: gauge!(NODES),
            version: gauge!(MAP_VERSION),
            handed: (counter!(TAKEOVERS, "how" => "handed"), histogram!(TAKEOVER_SECONDS, "how" => "handed")),
            taken: (counter!(TAKEOVERS, "how" => "taken"), histogram!(TAKEOVER_SECONDS, "how" => "taken")),
            renewed: counter!(RENEWALS, "result" => "renewed"),
            failed: counter!(RENEWALS, "result" => "failed"),
            lapsed: counter!(RENEWALS, "result" => "lapsed"),
            expired: counter!(EXPIRED),
        }
    }

    /// The owner before gave a shard.
    pub(super) fn handed(&self, took: Duration) {
        self.handed.0.increment(1);
        self.handed.1.record(took.as_secs_f64());
    }

    /// A shard had no owner, or that one did not answer.
    pub(super) fn taken(&self, took: Duration) {
        self.taken.0.increment(1);
        self.taken.1.record(took.as_secs_f64());
    }
}

pub(super) fn handovers() -> Counter {
    counter!(HANDOVERS)
}

pub(super) fn dropped() -> Counter {
    counter!(DROPPED)
}
