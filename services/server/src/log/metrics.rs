//! What every engine of the log measures.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

/// Messages removed, by reason.
pub const REMOVED: &str = "tertulia_log_removed_messages_total";
/// Bytes that the log may take.
pub const LIMIT_BYTES: &str = "tertulia_log_limit_bytes";
/// Bytes that must stay free.
pub const RESERVE_BYTES: &str = "tertulia_log_reserve_bytes";
/// Bytes that are free.
pub const VOLUME_AVAILABLE_BYTES: &str = "tertulia_log_volume_available_bytes";
/// Bytes of the file system.
pub const VOLUME_SIZE_BYTES: &str = "tertulia_log_volume_size_bytes";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        REMOVED,
        "Messages removed from the log, by reason: retention, memory (log.memory_bytes), moderator"
    );
    describe_gauge!(
        LIMIT_BYTES,
        Unit::Bytes,
        "Bytes that the log may take: log.disk_bytes or log.memory_bytes; 0: no bound"
    );
    describe_gauge!(
        RESERVE_BYTES,
        Unit::Bytes,
        "Bytes of the log's file system that must stay free (log.reserve_bytes): below it posts are refused"
    );
    describe_gauge!(VOLUME_AVAILABLE_BYTES, Unit::Bytes, "Bytes that are free on the file system of log.data_dir");
    describe_gauge!(VOLUME_SIZE_BYTES, Unit::Bytes, "Bytes of the file system of log.data_dir, used and free");
}

/// Tells how much the log may take; 0 for any.
pub(super) fn set_limit(bytes: u64) {
    gauge!(LIMIT_BYTES).set(bytes as f64);
}

/// Tells how much must stay free on the disk.
pub(super) fn set_reserve(bytes: u64) {
    gauge!(RESERVE_BYTES).set(bytes as f64);
}

/// The file system that the log is on.
#[derive(Clone)]
pub(super) struct Volume {
    pub(super) available: Gauge,
    pub(super) size: Gauge,
}

impl Volume {
    pub(super) fn new() -> Self {
        Self { available: gauge!(VOLUME_AVAILABLE_BYTES), size: gauge!(VOLUME_SIZE_BYTES) }
    }
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Volume")
    }
}

/// Handles, made once.
#[derive(Debug, Clone)]
pub(super) struct Removed {
    pub(super) retention: Counter,
    pub(super) memory: Counter,
    pub(super) moderator: Counter,
}

impl Removed {
    pub(super) fn new() -> Self {
        Self {
            retention: counter!(REMOVED, "reason" => "retention"),
            memory: counter!(REMOVED, "reason" => "memory"),
            moderator: counter!(REMOVED, "reason" => "moderator"),
        }
    }
}
