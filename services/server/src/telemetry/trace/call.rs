//! The trace of a call of the admin API.

use std::net::SocketAddr;
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::trace::{Status, TraceId};

use super::span::{Details, Trace};

/// A call that is traced.
#[derive(Debug)]
pub struct Call {
    trace: Trace,
}

impl Call {
    pub(super) fn new(trace: Trace) -> Self {
        Self { trace }
    }

    /// The id of the trace, for the log.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace.id
    }

    /// It was answered. `code` is gRPC's; whether it counts as the server's failure is told by `failed`.
    pub fn answered(self, method: &'static str, peer: SocketAddr, code: i32, failed: bool) {
        let attributes = vec![
            KeyValue::new("rpc.system", "grpc"),
            KeyValue::new("rpc.service", "tertulia.admin.v1.AdminService"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.grpc.status_code", i64::from(code)),
            KeyValue::new("client.address", peer.ip().to_string()),
            KeyValue::new("client.port", i64::from(peer.port())),
        ];
        let status = if failed { Status::error("") } else { Status::Unset };
        self.trace.root(method, Instant::now(), Details { attributes, status, ..Details::default() });
    }
}
