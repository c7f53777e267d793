//! What every engine of the log measures.

use metrics::{Counter, counter, describe_counter};

/// Messages removed, by reason.
pub const REMOVED: &str = "tertulia_log_removed_messages_total";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        REMOVED,
        "Messages removed from the log, by reason: retention, memory (log.memory_bytes), moderator"
    );
}

/// Handles, made once.
#[derive(Debug)]
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
