//! What TLS measures.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

use super::acceptor::Reason;
use super::keys::Port;

/// Handshakes by result.
pub const HANDSHAKES: &str = "tertulia_tls_handshakes_total";
/// Handshakes under way.
pub const UNDER_WAY: &str = "tertulia_tls_handshakes_under_way";
/// How many there may be.
pub const LIMIT: &str = "tertulia_tls_handshakes_limit";
/// When a certificate expires.
pub const EXPIRY: &str = "tertulia_tls_certificate_expiry_timestamp_seconds";
/// Times that files had changed.
pub const RELOADS: &str = "tertulia_tls_reloads_total";
/// Whether the files that are there cannot be used.
pub const RELOAD_FAILING: &str = "tertulia_tls_reload_failing";

/// Gives every metric of this part its text.
pub fn describe() {
    describe_counter!(
        HANDSHAKES,
        "TLS handshakes by port and result: ok, or why there is no connection: timeout, displaced (by newer ones, beyond tls.handshakes), \
         plaintext, closed, client_refused (the client does not accept the certificate), no_client_certificate, \
         bad_client_certificate, protocol"
    );
    describe_gauge!(UNDER_WAY, "TLS handshakes under way, by port; their limit is tls.handshakes");
    describe_gauge!(LIMIT, "TLS handshakes that may be under way on a port (tls.handshakes)");
    describe_gauge!(EXPIRY, Unit::Seconds, "When the certificate that a port shows expires, since 1970");
    describe_counter!(RELOADS, "Times that the files of a port's TLS had changed, by result: ok, error");
    describe_gauge!(
        RELOAD_FAILING,
        "1 while the files of a port's TLS cannot be used and what they held before is used on, else 0"
    );
}

/// Handles for one port.
#[derive(Debug)]
pub(super) struct Metrics {
    ok: Counter,
    failed: Vec<(Reason, Counter)>,
    pub(super) under_way: Gauge,
    pub(super) expiry: Gauge,
    pub(super) reloaded: Counter,
    pub(super) not_reloaded: Counter,
    pub(super) failing: Gauge,
}

impl Metrics {
    pub(super) fn new(port: Port, most: usize) -> Self {
        let port = port.as_str();
        gauge!(LIMIT, "port" => port).set(most as f64);
        let failed = |reason: Reason| counter!(HANDSHAKES, "port" => port, "result" => reason.as_str());
        Self {
            ok: counter!(HANDSHAKES, "port" => port, "result" => "ok"),
            failed: Reason::ALL.map(|reason| (reason, failed(reason))).into(),
            under_way: gauge!(UNDER_WAY, "port" => port),
            expiry: gauge!(EXPIRY, "port" => port),
            reloaded: counter!(RELOADS, "port" => port, "result" => "ok"),
            not_reloaded: counter!(RELOADS, "port" => port, "result" => "error"),
            failing: gauge!(RELOAD_FAILING, "port" => port),
        }
    }

    pub(super) fn ended<T>(&self, result: &Result<T, Reason>) {
        match result {
            Ok(_) => self.ok.increment(1),
            Err(reason) => {
                if let Some((_, counter)) = self.failed.iter().find(|(known, _)| known == reason) {
                    counter.increment(1);
                }
            }
        }
    }
}
