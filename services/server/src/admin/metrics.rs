//! What the admin API measures.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use tonic::Code;

/// Requests by method and code.
pub const REQUESTS: &str = "tertulia_admin_requests_total";
/// Time of a request.
pub const REQUEST_SECONDS: &str = "tertulia_admin_request_seconds";
/// Open connections.
pub const CONNECTIONS: &str = "tertulia_admin_connections";
/// Connections for which there was no room.
pub const REFUSED: &str = "tertulia_admin_connections_refused_total";
/// Callers that watch events.
pub const WATCHERS: &str = "tertulia_admin_watchers";
/// Events that watchers did not get.
pub const MISSED: &str = "tertulia_admin_missed_events_total";
/// Whether the token that is in the file cannot be used.
pub const TOKEN_RELOAD_FAILING: &str = "tertulia_admin_token_reload_failing";
/// Backups by how they ended.
pub const BACKUPS: &str = "tertulia_backups_total";
/// When the newest backup was made.
pub const NEWEST_BACKUP: &str = "tertulia_backup_newest_timestamp_seconds";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        REQUESTS,
        "Requests to the admin API by method (other: health, reflection and what there is not) and gRPC code"
    );
    describe_histogram!(
        REQUEST_SECONDS,
        Unit::Seconds,
        "Time from a request to the admin API until its answer, or until a stream began"
    );
    describe_gauge!(CONNECTIONS, "Connections to the admin API that are open; their limit is admin.connections");
    describe_counter!(
        REFUSED,
        "Connections to the admin API closed because admin.connections were open: new ones, or those that gave way to them"
    );
    describe_gauge!(WATCHERS, "Callers that watch events now; their limit is admin.watchers");
    describe_counter!(
        MISSED,
        "Events that callers who watch were told they missed, by reason: slow (they did not read in time), lost (of another node, on the way here)"
    );
    describe_gauge!(
        TOKEN_RELOAD_FAILING,
        "1 while the file of the admin API's token holds none that can be used and the one before is used on, else 0"
    );
    describe_counter!(
        BACKUPS,
        "Backups that calls of CreateBackup asked for, by result: made, failed (CreateBackup itself counts as OK once it has begun)"
    );
    describe_gauge!(
        NEWEST_BACKUP,
        Unit::Seconds,
        "When the newest backup in admin.backup_dir was made, since 1970; if none was there at the start, the time of that until one is made. Only where admin.backup_dir is set"
    );
}

/// Calls of the API, and `other` for all that is not one: the label `method`.
pub(super) const METHODS: [&str; 19] = [
    "ListGroups",
    "GetGroup",
    "ListMembers",
    "ListMessages",
    "ListConnections",
    "KickMember",
    "Disconnect",
    "CloseGroup",
    "ListHolds",
    "RemoveHold",
    "DeleteGroup",
    "PurgeHistory",
    "RemoveMessages",
    "Announce",
    "GetShardMap",
    "WatchEvents",
    "CreateBackup",
    "SetLogLevels",
    "other",
];

/// One of [`METHODS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Method(usize);

impl Method {
    /// The method of a request to `/SERVICE/METHOD`.
    pub(super) fn of(path: &str) -> Self {
        let name = path.strip_prefix("/tertulia.admin.v1.AdminService/").unwrap_or_default();
        let other = METHODS.len() - 1;
        Self(METHODS[..other].iter().position(|method| *method == name).unwrap_or(other))
    }
}

impl Method {
    /// As the labels name it.
    pub(super) fn name(self) -> &'static str {
        METHODS[self.0]
    }

    /// Whether it is a call of the API.
    pub(super) fn is_of_api(self) -> bool {
        self.0 + 1 < METHODS.len()
    }
}

/// The gRPC codes, in the order of their numbers: the label `code`.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// A code as gRPC writes it.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    CODES[code as usize]
}

/// Handles, made once; those of requests that fail when the first of their kind comes, since most pairs never do.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: [[OnceLock<Counter>; CODES.len()]; METHODS.len()],
    seconds: Histogram,
    connections: Gauge,
    pub(super) refused: Counter,
    watchers: Gauge,
    pub(super) missed_by_slow: Counter,
    pub(super) missed_on_the_way: Counter,
    pub(super) token_reload_failing: Gauge,
    pub(super) backups_made: Counter,
    pub(super) backups_failed: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let metrics = Self {
            requests: Default::default(),
            seconds: histogram!(REQUEST_SECONDS),
            connections: gauge!(CONNECTIONS),
            refused: counter!(REFUSED),
            watchers: gauge!(WATCHERS),
            missed_by_slow: counter!(MISSED, "reason" => "slow"),
            missed_on_the_way: counter!(MISSED, "reason" => "lost"),
            token_reload_failing: gauge!(TOKEN_RELOAD_FAILING),
            backups_made: counter!(BACKUPS, "result" => "made"),
            backups_failed: counter!(BACKUPS, "result" => "failed"),
        };
        metrics.connections.set(0.0);
        metrics.watchers.set(0.0);
        metrics.token_reload_failing.set(0.0);
        metrics.refused.absolute(0);
        metrics.backups_made.absolute(0);
        metrics.backups_failed.absolute(0);
        for method in 0..METHODS.len() {
            metrics.requests(Method(method), Code::Ok).absolute(0);
            // Those who guess tokens may do it all between two looks at the metrics: an increase is seen only from a value.
            metrics.requests(Method(method), Code::Unauthenticated).absolute(0);
        }
        metrics
    }

    /// The newest backup was made then; only told where backups can be made.
    pub(super) fn newest_backup_was(&self, made: SystemTime) {
        gauge!(NEWEST_BACKUP).set(made.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()));
    }

    pub(super) fn answered(&self, method: Method, code: Code, duration: Duration) {
        self.requests(method, code).increment(1);
        self.seconds.record(duration.as_secs_f64());
    }

    fn requests(&self, method: Method, code: Code) -> &Counter {
        // Every code has its place: a number that none has is made UNKNOWN when it is read.
        let code = (code as usize).min(CODES.len() - 1);
        let make = || counter!(REQUESTS, "method" => METHODS[method.0], "code" => CODES[code]);
        self.requests[method.0][code].get_or_init(make)
    }

    /// Counts a connection until the guard goes.
    pub(super) fn connection(&self) -> Counted {
        Counted::new(&self.connections)
    }

    /// Counts a watcher until the guard goes.
    pub(super) fn watcher(&self) -> Counted {
        Counted::new(&self.watchers)
    }
}

/// One that a gauge counts, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn every_call_of_the_api_has_its_label() {
        let files = FileDescriptorSet::decode(tertulia_proto::FILE_DESCRIPTOR_SET).unwrap().file;
        let admin = files.iter().find(|file| file.package() == "tertulia.admin.v1").unwrap();
        let calls: Vec<&str> = admin.service[0].method.iter().map(|method| method.name()).collect();
        assert_eq!(calls, METHODS[..calls.len()]);
        assert_eq!(Method::of("/tertulia.admin.v1.AdminService/KickMember"), Method(5));
        for other in ["/grpc.health.v1.Health/Check", "/tertulia.admin.v1.AdminService/other", "", "/x"] {
            assert_eq!(Method::of(other), Method(METHODS.len() - 1), "{other}");
        }
    }

    #[test]
    fn codes_are_in_the_order_of_their_numbers() {
        for (code, name) in
            [(Code::Ok, "OK"), (Code::NotFound, "NOT_FOUND"), (Code::Unauthenticated, "UNAUTHENTICATED")]
        {
            assert_eq!(CODES[code as usize], name);
        }
    }
}
