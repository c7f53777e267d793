//! What the engine tells about itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

use super::room::Used;

/// Appends, by how they ended.
pub const APPENDS: &str = "tertulia_log_nats_appends_total";
/// Time from an append to its end.
pub const APPEND_SECONDS: &str = "tertulia_log_nats_append_seconds";
/// Messages of JetStream that one append took.
pub const APPEND_MESSAGES: &str = "tertulia_log_nats_append_messages";
/// Questions to JetStream for the sake of a read, by kind.
pub const GETS: &str = "tertulia_log_nats_gets_total";
/// Shards that this node may extend.
pub const SHARDS_HELD: &str = "tertulia_log_nats_shards_held";
/// Appends whose answer did not come and that are being found out about.
pub const UNRESOLVED: &str = "tertulia_log_nats_unresolved_appends";
/// Shards that somebody else took.
pub const SHARDS_LOST: &str = "tertulia_log_nats_shards_lost_total";
/// Whether there is a connection.
pub const CONNECTED: &str = "tertulia_nats_connected";
/// Connections that were made after the first.
pub const RECONNECTS: &str = "tertulia_nats_reconnects_total";
/// Bytes of JetStream's storage that are used.
pub const STORAGE_BYTES: &str = "tertulia_nats_storage_bytes";
/// How many may be.
pub const STORAGE_LIMIT_BYTES: &str = "tertulia_nats_storage_limit_bytes";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        APPENDS,
        "Appends to JetStream, by result: stored, resolved (stored, but the answer was lost), fenced, unavailable"
    );
    describe_histogram!(APPEND_SECONDS, Unit::Seconds, "Time from an append to its end");
    describe_histogram!(APPEND_MESSAGES, Unit::Count, "Messages of JetStream that one append took");
    describe_counter!(
        GETS,
        "Questions to JetStream for a read, by kind: head, page, probe (looking for a place), again (a replica was behind)"
    );
    describe_gauge!(SHARDS_HELD, Unit::Count, "Shards that this node may extend");
    describe_gauge!(UNRESOLVED, Unit::Count, "Appends whose answer did not come and that are being found out about");
    describe_counter!(SHARDS_LOST, "Shards that another writer took from this one");
    describe_gauge!(CONNECTED, "1 while there is a connection to NATS, else 0");
    describe_counter!(RECONNECTS, "Connections to NATS that were made after the first one, since that had ended");
    describe_gauge!(
        STORAGE_BYTES,
        Unit::Bytes,
        "Bytes of JetStream's storage that the account uses, as NATS says: of all its streams, also others', each replica counted"
    );
    describe_gauge!(
        STORAGE_LIMIT_BYTES,
        Unit::Bytes,
        "Bytes of JetStream's storage that the account may use; 0: it has no limit of its own"
    );
}

/// Handles, made once.
pub(crate) struct Metrics {
    pub(crate) stored: Counter,
    pub(crate) resolved: Counter,
    pub(crate) fenced: Counter,
    pub(crate) unavailable: Counter,
    pub(crate) append_messages: Histogram,
    append_seconds: Histogram,
    pub(crate) heads: Counter,
    pub(crate) pages: Counter,
    pub(crate) probes: Counter,
    pub(crate) again: Counter,
    pub(crate) shards_held: Gauge,
    pub(crate) unresolved: Gauge,
    pub(crate) shards_lost: Counter,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            stored: counter!(APPENDS, "result" => "stored"),
            resolved: counter!(APPENDS, "result" => "resolved"),
            fenced: counter!(APPENDS, "result" => "fenced"),
            unavailable: counter!(APPENDS, "result" => "unavailable"),
            append_messages: histogram!(APPEND_MESSAGES),
            append_seconds: histogram!(APPEND_SECONDS),
            heads: counter!(GETS, "kind" => "head"),
            pages: counter!(GETS, "kind" => "page"),
            probes: counter!(GETS, "kind" => "probe"),
            again: counter!(GETS, "kind" => "again"),
            shards_held: gauge!(SHARDS_HELD),
            unresolved: gauge!(UNRESOLVED),
            shards_lost: counter!(SHARDS_LOST),
        }
    }

    pub(crate) fn append_took(&self, time: Duration) {
        self.append_seconds.record(time.as_secs_f64());
    }
}

/// The connection to NATS.
pub(super) struct Connection {
    connected: Gauge,
    reconnects: Counter,
    has_been: AtomicBool,
}

impl Connection {
    pub(super) fn new() -> Self {
        // There from the start: what appears with its first count has a rate only from the second one on.
        let reconnects = counter!(RECONNECTS);
        reconnects.increment(0);
        let connected = gauge!(CONNECTED);
        connected.set(0.0);
        Self { connected, reconnects, has_been: AtomicBool::new(false) }
    }

    /// There is one.
    pub(super) fn made(&self) {
        self.connected.set(1.0);
        if self.has_been.swap(true, Ordering::Relaxed) {
            self.reconnects.increment(1);
        }
    }

    /// There is none.
    pub(super) fn ended(&self) {
        self.connected.set(0.0);
    }
}

/// JetStream's storage.
pub(super) struct Room {
    bytes: Gauge,
    limit: Gauge,
}

impl Room {
    pub(super) fn new() -> Self {
        Self { bytes: gauge!(STORAGE_BYTES), limit: gauge!(STORAGE_LIMIT_BYTES) }
    }

    pub(super) fn set(&self, used: Used) {
        self.bytes.set(used.bytes as f64);
        self.limit.set(used.limit as f64);
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}
