//! The metrics of the HTTP port.

use hyper::StatusCode;
use metrics::{counter, describe_counter, describe_gauge, gauge};

use super::pages::Page;
use crate::readiness::{Reason, Reasons};

const CONNECTIONS: &str = "tertulia_http_connections";
const REFUSED: &str = "tertulia_http_connections_refused_total";
const REQUESTS: &str = "tertulia_http_requests_total";
const READY: &str = "tertulia_ready";
const NOT_READY: &str = "tertulia_not_ready";

/// Says what each metric means; once the recorder is installed.
pub fn describe() {
    describe_gauge!(CONNECTIONS, "Connections to the HTTP port that are open");
    describe_counter!(
        REFUSED,
        "Connections to the HTTP port closed before they were answered because http.connections were open and others came"
    );
    describe_counter!(REQUESTS, "Requests answered on the HTTP port, by page and status");
    describe_gauge!(READY, "1 while the node should be sent clients, else 0");
    describe_gauge!(NOT_READY, "1 for each reason for which the node should not be sent clients, else 0");
    gauge!(CONNECTIONS).set(0.0);
    counter!(REFUSED).absolute(0);
}

/// A connection that is open, until it is dropped.
#[derive(Debug)]
pub(super) struct Open(());

impl Open {
    pub(super) fn new() -> Self {
        gauge!(CONNECTIONS).increment(1.0);
        Self(())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(CONNECTIONS).decrement(1.0);
    }
}

pub(super) fn refused() {
    counter!(REFUSED).increment(1);
}

pub(super) fn answered(page: Page, status: StatusCode) {
    counter!(REQUESTS, "page" => page.name(), "status" => status.as_u16().to_string()).increment(1);
}

pub(super) fn ready(reasons: &Reasons) {
    gauge!(READY).set(if reasons.is_empty() { 1.0 } else { 0.0 });
    for reason in Reason::ALL {
        gauge!(NOT_READY, "reason" => reason.as_str()).set(if reasons.contains_key(&reason) { 1.0 } else { 0.0 });
    }
}
