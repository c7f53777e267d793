//! What the engine tells about itself.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit};

use crate::log::metrics::Removed;

/// Time from taking in an append to its acknowledgement.
pub const APPEND_SECONDS: &str = "tertulia_log_append_seconds";
/// Messages made durable by one fsync.
pub const BATCH_RECORDS: &str = "tertulia_log_batch_records";
/// Time of one fsync of the commit log.
pub const FSYNC_SECONDS: &str = "tertulia_log_fsync_seconds";
/// Messages in the commit log that the tables do not hold yet.
pub const UNAPPLIED_RECORDS: &str = "tertulia_log_unapplied_records";
/// Bytes in the commit log that the tables do not hold yet.
pub const UNAPPLIED_BYTES: &str = "tertulia_log_unapplied_bytes";
/// Time of one transaction that moves messages into the tables.
pub const APPLY_SECONDS: &str = "tertulia_log_apply_seconds";
/// Messages moved into the tables.
pub const APPLIED_RECORDS: &str = "tertulia_log_applied_records_total";
/// Messages that the last start took from the commit log.
pub const REPLAYED_RECORDS: &str = "tertulia_log_replayed_records";
/// Reads served from memory alone.
pub const READS_MEMORY: &str = "tertulia_log_reads_memory_total";
/// Reads that asked the tables.
pub const READS_TABLES: &str = "tertulia_log_reads_tables_total";

/// Tells the recorder what the names mean.
pub fn describe() {
    metrics::describe_histogram!(APPEND_SECONDS, Unit::Seconds, "Time from taking in an append to its acknowledgement");
    metrics::describe_histogram!(BATCH_RECORDS, Unit::Count, "Messages made durable by one fsync");
    metrics::describe_histogram!(FSYNC_SECONDS, Unit::Seconds, "Time of one fsync of the commit log");
    metrics::describe_gauge!(
        UNAPPLIED_RECORDS,
        Unit::Count,
        "Messages in the commit log that the tables do not hold yet"
    );
    metrics::describe_gauge!(UNAPPLIED_BYTES, Unit::Bytes, "Bytes in the commit log that the tables do not hold yet");
    metrics::describe_histogram!(
        APPLY_SECONDS,
        Unit::Seconds,
        "Time of one transaction that moves messages into the tables"
    );
    metrics::describe_counter!(APPLIED_RECORDS, Unit::Count, "Messages moved into the tables");
    metrics::describe_gauge!(REPLAYED_RECORDS, Unit::Count, "Messages that the last start took from the commit log");
    metrics::describe_counter!(READS_MEMORY, Unit::Count, "Reads served from memory alone");
    metrics::describe_counter!(READS_TABLES, Unit::Count, "Reads that asked the tables");
}

/// The handles, made once.
#[derive(Clone)]
pub(crate) struct Metrics {
    pub(crate) append: Seconds,
    pub(crate) batch_records: Histogram,
    pub(crate) fsync: Seconds,
    pub(crate) unapplied_records: Gauge,
    pub(crate) unapplied_bytes: Gauge,
    pub(crate) apply: Seconds,
    pub(crate) applied_records: Counter,
    pub(in crate::log) removed: Removed,
    pub(crate) replayed_records: Gauge,
    pub(crate) reads_memory: Counter,
    pub(crate) reads_tables: Counter,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// A histogram of times.
#[derive(Clone)]
pub(crate) struct Seconds(Histogram);

impl Seconds {
    pub(crate) fn record(&self, time: Duration) {
        self.0.record(time.as_secs_f64());
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            append: Seconds(metrics::histogram!(APPEND_SECONDS)),
            batch_records: metrics::histogram!(BATCH_RECORDS),
            fsync: Seconds(metrics::histogram!(FSYNC_SECONDS)),
            unapplied_records: metrics::gauge!(UNAPPLIED_RECORDS),
            unapplied_bytes: metrics::gauge!(UNAPPLIED_BYTES),
            apply: Seconds(metrics::histogram!(APPLY_SECONDS)),
            applied_records: metrics::counter!(APPLIED_RECORDS),
            removed: Removed::new(),
            replayed_records: metrics::gauge!(REPLAYED_RECORDS),
            reads_memory: metrics::counter!(READS_MEMORY),
            reads_tables: metrics::counter!(READS_TABLES),
        }
    }
}
