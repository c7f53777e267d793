//! What the front measures.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use tertulia_protocol::{Code, Dialect};

use super::Limits;
use super::registry::{CloseReason, NotAdmitted};
use crate::shard;

/// Open connections.
pub const CONNECTIONS_OPEN: &str = "tertulia_connections_open";
/// How many there may be.
pub const CONNECTIONS_LIMIT: &str = "tertulia_connections_limit";
/// Connections let in.
pub const CONNECTIONS_ACCEPTED: &str = "tertulia_connections_accepted_total";
/// Connections ended, by reason.
pub const CONNECTIONS_CLOSED: &str = "tertulia_connections_closed_total";
/// Connections not let in, by reason.
pub const CONNECTIONS_REFUSED: &str = "tertulia_connections_refused_total";
/// Connections that did not tell where they are from.
pub const PROXY_HEADERS_REFUSED: &str = "tertulia_proxy_headers_refused_total";
/// Failed accepts.
pub const ACCEPT_ERRORS: &str = "tertulia_accept_errors_total";
/// Lines by kind.
pub const REQUESTS: &str = "tertulia_requests_total";
/// Times that lines had to wait.
pub const PACED: &str = "tertulia_requests_paced_total";
/// Refusals by code.
pub const REJECTIONS: &str = "tertulia_rejections_total";
/// Messages delivered.
pub const DELIVERIES: &str = "tertulia_deliveries_total";
/// Bytes read.
pub const RECEIVED_BYTES: &str = "tertulia_received_bytes_total";
/// Bytes written.
pub const SENT_BYTES: &str = "tertulia_sent_bytes_total";
/// How far behind a delivery finds a member.
pub const LAG: &str = "tertulia_delivery_lag_messages";
/// Age of a post when it is handed to a member's socket.
pub const DELIVERY_SECONDS: &str = "tertulia_delivery_seconds";
/// Age of a post when it is acknowledged.
pub const POST_SECONDS: &str = "tertulia_post_ack_seconds";
/// Times a member went to the log.
pub const CATCHUPS: &str = "tertulia_catchups_total";
/// Messages served from the log.
pub const CATCHUP_MESSAGES: &str = "tertulia_catchup_messages_total";
/// Messages that were gone before a member could read them.
pub const DROPPED: &str = "tertulia_dropped_messages_total";
/// Bytes that wait to be written.
pub const OUTBOUND_BYTES: &str = "tertulia_outbound_bytes";

/// How many may wait for one connection.
pub const OUTBOUND_LIMIT: &str = "tertulia_outbound_limit_bytes";
/// How many posts of one connection may be under way.
pub const IN_FLIGHT_LIMIT: &str = "tertulia_posts_in_flight_limit";
/// Bytes of posts that wait for the log.
pub const IN_FLIGHT_BYTES: &str = "tertulia_posts_in_flight_bytes";
/// How many may wait.
pub const IN_FLIGHT_BYTES_LIMIT: &str = "tertulia_posts_in_flight_limit_bytes";
/// Of the connection with the most.
pub const OUTBOUND_BYTES_MAX: &str = "tertulia_outbound_bytes_max";
/// Of the connection with the most.
pub const IN_FLIGHT_MAX: &str = "tertulia_posts_in_flight_max";
/// Of the connection with the most.
pub const GROUPS_MAX: &str = "tertulia_groups_per_connection_max";
/// Of the address with the most.
pub const PER_ADDRESS_MAX: &str = "tertulia_connections_per_address_max";

/// One of so many deliveries and acknowledgements is measured: a histogram costs more than the delivery. They are counted in a byte,
/// which begins again in time.
pub(super) const SAMPLE: u8 = 32;

/// Gives every metric of this part its text.
pub fn describe() {
    describe_gauge!(CONNECTIONS_OPEN, "Chat connections that are open");
    describe_gauge!(
        CONNECTIONS_LIMIT,
        "Chat connections that may be open at once (limits.connections, or what the descriptor limit allows)"
    );
    describe_counter!(CONNECTIONS_ACCEPTED, "Chat connections let in");
    describe_counter!(
        CONNECTIONS_CLOSED,
        "Chat connections ended, by reason: client, socket_error, admin, drain, write_stall, hello_timeout, line_timeout, idle, heartbeat, line_too_long, malformed, hello_refused, token_expired, tls"
    );
    describe_counter!(
        CONNECTIONS_REFUSED,
        "Chat connections not let in, by reason: total and address are limits, which they were told unless they speak TLS; overload is \
         either, when too many had to be told at once, or more told where they are from (chat.proxy_protocol) than could begin"
    );
    describe_counter!(
        PROXY_HEADERS_REFUSED,
        "Chat connections closed since they did not begin with a header of the PROXY protocol in time (chat.proxy_protocol)"
    );
    describe_counter!(ACCEPT_ERRORS, "Failed attempts to accept a connection, such as for want of descriptors");
    describe_counter!(REQUESTS, "Lines of clients, by kind");
    describe_counter!(
        PACED,
        "Times that a client's lines had to wait because it had sent more than limits.requests_per_second allows"
    );
    describe_counter!(REJECTIONS, "Requests refused in either dialect, by the code that the extended one shows");
    describe_counter!(DELIVERIES, "Messages handed to members' sockets, by dialect");
    describe_counter!(RECEIVED_BYTES, Unit::Bytes, "Bytes read from chat clients");
    describe_counter!(SENT_BYTES, Unit::Bytes, "Bytes written to chat clients");
    describe_histogram!(
        LAG,
        "Messages that a member was behind its group when deliveries were taken up for it (one of 32 is measured)"
    );
    describe_histogram!(
        DELIVERY_SECONDS,
        Unit::Seconds,
        "Time from reading a post, or from hearing of it where another node read it, to handing it to a live member's socket (one of 32 is measured)"
    );
    describe_histogram!(
        POST_SECONDS,
        Unit::Seconds,
        "Time from reading a post to having its acknowledgement (one of 32 is measured; where a connection has posts to several shards under way, nearly so)"
    );
    describe_counter!(CATCHUPS, "Times a member was served from the log, by reason: lag, resume");
    describe_counter!(CATCHUP_MESSAGES, "Messages served from the log to members that were being caught up");
    describe_counter!(DROPPED, "Messages that retention removed before a member could read them");
    describe_gauge!(OUTBOUND_BYTES, Unit::Bytes, "Bytes that wait to be written, over all chat connections");
    describe_gauge!(
        OUTBOUND_BYTES_MAX,
        Unit::Bytes,
        "Bytes that wait to be written to the chat connection with the most; its limit is limits.outbound_bytes, which one answer or page may exceed, and 32 KiB more with TLS"
    );
    describe_gauge!(
        IN_FLIGHT_MAX,
        "Posts and other requests under way for the chat connection with the most; its limit is limits.posts_in_flight"
    );
    describe_gauge!(
        IN_FLIGHT_BYTES,
        Unit::Bytes,
        "Bytes of posts of all connections that wait for the log, each with 128 more than its message has"
    );
    describe_gauge!(
        IN_FLIGHT_BYTES_LIMIT,
        Unit::Bytes,
        "Bytes of posts that may wait for the log before each connection may have but one (limits.all_posts_in_flight_bytes)"
    );
    describe_gauge!(
        OUTBOUND_LIMIT,
        Unit::Bytes,
        "Bytes that may wait for one chat connection before it is caught up from the log instead (limits.outbound_bytes)"
    );
    describe_gauge!(
        IN_FLIGHT_LIMIT,
        "Posts of one chat connection that may be under way before it is read no further (limits.posts_in_flight)"
    );
    describe_gauge!(
        GROUPS_MAX,
        "Groups of the chat connection that is in the most; its limit is limits.groups_per_connection"
    );
    describe_gauge!(
        PER_ADDRESS_MAX,
        "Chat connections of the address with the most; counted only where limits.connections_per_address is set"
    );
}

/// Handles, made once, so that counting costs an atomic addition.
#[derive(Debug)]
pub(super) struct Metrics {
    pub(super) open: Gauge,
    limit: Gauge,
    pub(super) accepted: Counter,
    pub(super) accept_errors: Counter,
    pub(super) overload: Counter,
    pub(super) no_proxy_header: Counter,
    pub(super) requests: Requests,
    pub(super) paced: Counter,
    pub(super) classic_deliveries: Counter,
    pub(super) extended_deliveries: Counter,
    pub(super) received: Counter,
    pub(super) sent: Counter,
    pub(super) lag: Histogram,
    pub(super) delivery_seconds: Histogram,
    pub(super) post_seconds: Histogram,
    pub(super) refused_posts: Counter,
    pub(super) refused_joins: Counter,
    pub(super) lag_catchups: Counter,
    pub(super) resume_catchups: Counter,
    pub(super) catchup_messages: Counter,
    pub(super) dropped: Counter,
    pub(super) outbound: Gauge,
    pub(super) outbound_max: Gauge,
    pub(super) in_flight_max: Gauge,
    pub(super) in_flight_bytes: Gauge,
    pub(super) groups_max: Gauge,
    pub(super) per_address_max: Gauge,
    refused_total: Counter,
    refused_address: Counter,
    closed: Vec<(CloseReason, Counter)>,
    rejections: Vec<(Code, Counter)>,
}

/// Lines by kind.
#[derive(Debug)]
pub(super) struct Requests {
    pub(super) hello: Counter,
    pub(super) join: Counter,
    pub(super) leave: Counter,
    pub(super) post: Counter,
    pub(super) history: Counter,
    pub(super) members: Counter,
    pub(super) groups: Counter,
    pub(super) refresh: Counter,
    pub(super) remove: Counter,
    pub(super) ping: Counter,
    pub(super) pong: Counter,
    pub(super) malformed: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let kind = |kind: &'static str| counter!(REQUESTS, "kind" => kind);
        Self {
            open: gauge!(CONNECTIONS_OPEN),
            limit: gauge!(CONNECTIONS_LIMIT),
            accepted: counter!(CONNECTIONS_ACCEPTED),
            accept_errors: counter!(ACCEPT_ERRORS),
            overload: counter!(CONNECTIONS_REFUSED, "reason" => "overload"),
            no_proxy_header: counter!(PROXY_HEADERS_REFUSED),
            requests: Requests {
                hello: kind("hello"),
                join: kind("join"),
                leave: kind("leave"),
                post: kind("post"),
                history: kind("history"),
                members: kind("members"),
                groups: kind("groups"),
                refresh: kind("refresh"),
                remove: kind("remove"),
                ping: kind("ping"),
                pong: kind("pong"),
                malformed: kind("malformed"),
            },
            paced: counter!(PACED),
            classic_deliveries: counter!(DELIVERIES, "dialect" => Dialect::Classic.as_str()),
            extended_deliveries: counter!(DELIVERIES, "dialect" => Dialect::Extended.as_str()),
            received: counter!(RECEIVED_BYTES),
            sent: counter!(SENT_BYTES),
            lag: histogram!(LAG),
            delivery_seconds: histogram!(DELIVERY_SECONDS),
            post_seconds: histogram!(POST_SECONDS),
            // Of the same metrics as those that owners refuse.
            refused_posts: counter!(shard::metrics::POSTS, "result" => "refused"),
            refused_joins: counter!(shard::metrics::JOINS, "result" => "refused"),
            lag_catchups: counter!(CATCHUPS, "reason" => "lag"),
            resume_catchups: counter!(CATCHUPS, "reason" => "resume"),
            catchup_messages: counter!(CATCHUP_MESSAGES),
            dropped: counter!(DROPPED),
            outbound: gauge!(OUTBOUND_BYTES),
            outbound_max: gauge!(OUTBOUND_BYTES_MAX),
            in_flight_max: gauge!(IN_FLIGHT_MAX),
            in_flight_bytes: gauge!(IN_FLIGHT_BYTES),
            groups_max: gauge!(GROUPS_MAX),
            per_address_max: gauge!(PER_ADDRESS_MAX),
            refused_total: counter!(CONNECTIONS_REFUSED, "reason" => "total"),
            refused_address: counter!(CONNECTIONS_REFUSED, "reason" => "address"),
            closed: CloseReason::ALL
                .map(|reason| (reason, counter!(CONNECTIONS_CLOSED, "reason" => reason.as_str())))
                .into(),
            rejections: Code::ALL.iter().map(|code| (*code, counter!(REJECTIONS, "code" => code.as_str()))).collect(),
        }
    }

    /// Tells how much room there is.
    pub(super) fn limits(&self, limits: &Limits) {
        self.limit.set(limits.connections as f64);
        gauge!(OUTBOUND_LIMIT).set(limits.outbound_bytes as f64);
        gauge!(IN_FLIGHT_LIMIT).set(limits.posts_in_flight as f64);
        gauge!(IN_FLIGHT_BYTES_LIMIT).set(limits.all_posts_in_flight_bytes as f64);
    }

    pub(super) fn deliveries(&self, dialect: Dialect) -> &Counter {
        match dialect {
            Dialect::Classic => &self.classic_deliveries,
            Dialect::Extended => &self.extended_deliveries,
        }
    }

    pub(super) fn not_admitted(&self, why: NotAdmitted) {
        match why {
            NotAdmitted::Total(_) => self.refused_total.increment(1),
            NotAdmitted::Address(_) => self.refused_address.increment(1),
        }
    }

    pub(super) fn closed(&self, reason: CloseReason) {
        if let Some((_, counter)) = self.closed.iter().find(|(known, _)| *known == reason) {
            counter.increment(1);
        }
    }

    pub(super) fn rejected(&self, code: Code) {
        if let Some((_, counter)) = self.rejections.iter().find(|(known, _)| *known == code) {
            counter.increment(1);
        }
    }
}
