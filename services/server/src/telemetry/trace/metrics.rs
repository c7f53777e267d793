//! What the export of traces measures. Without it all is 0.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};

const EXPORTED: &str = "tertulia_traces_exported_total";
const DROPPED: &str = "tertulia_traces_dropped_total";
const LIMITED: &str = "tertulia_traces_limited_total";
const QUEUED: &str = "tertulia_traces_queued";

/// Handles, made once.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    /// Spans that the collector has taken.
    pub(super) exported: Counter,
    /// Spans for which the queue had no room.
    pub(super) no_room: Counter,
    /// Spans that the collector did not take.
    pub(super) not_taken: Counter,
    /// Traces that did not begin.
    pub(super) limited: Counter,
    /// Spans that wait.
    pub(super) queued: Gauge,
}

impl Metrics {
    pub(super) fn new() -> Self {
        describe_counter!(
            EXPORTED,
            "Spans that the collector of traces has answered for; it may have turned some of them down without an error"
        );
        describe_counter!(
            DROPPED,
            "Spans lost, by reason: queue (no room, since the collector is slow), export (it did not take them)"
        );
        describe_counter!(LIMITED, "Traces that did not begin because of telemetry.traces.per_second");
        describe_gauge!(QUEUED, "Spans that wait to be sent to the collector; their limit is OTEL_BSP_MAX_QUEUE_SIZE");
        let metrics = Self {
            exported: counter!(EXPORTED),
            no_room: counter!(DROPPED, "reason" => "queue"),
            not_taken: counter!(DROPPED, "reason" => "export"),
            limited: counter!(LIMITED),
            queued: gauge!(QUEUED),
        };
        for counter in [&metrics.exported, &metrics.no_room, &metrics.not_taken, &metrics.limited] {
            counter.absolute(0);
        }
        metrics.queued.set(0.0);
        metrics
    }
}
