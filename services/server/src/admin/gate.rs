//! What every request passes: the token, a limit of time, and the measurements.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;
use tonic::{Code, Status};

use super::metrics::{Method, Metrics};
use super::status::Error;
use super::token::Tokens;
use crate::complaint::Complaint;
use crate::places::Place;
use crate::telemetry::trace::{Call, TraceId, Tracer};

/// Health is no secret, and those who ask for it, such as a kubelet, have no token.
const OPEN: &str = "/grpc.health.v1.Health/";

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) address: SocketAddr,
    /// Whose certificate was shown, where one must be.
    pub(super) subject: Option<Arc<str>>,
}

/// Who calls, and the trace of the call if there is one.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    caller: Option<Caller>,
    trace: Option<TraceId>,
}

impl Peer {
    pub(super) fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// The id of the trace, for the log.
    pub(super) fn trace_id(&self) -> Option<TraceId> {
        self.trace
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.caller {
            Some(Caller { address, subject: Some(subject) }) => write!(f, "{address} ({subject})"),
            Some(Caller { address, subject: None }) => address.fmt(f),
            None => f.write_str("unknown"),
        }
    }
}

/// Complaints of callers who have shown no certificate, and of those whose certificate does not count: the ones do not hide the others.
#[derive(Debug, Default)]
pub(super) struct Uncertified {
    pub(super) without: Complaint,
    pub(super) with_bad: Complaint,
}

/// Stands before the services.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) routes: Routes,
    pub(super) tokens: Option<Arc<Tokens>>,
    /// How long a request may take until it is answered; a stream, until it begins.
    pub(super) patience: Duration,
    pub(super) metrics: Arc<Metrics>,
    pub(super) tracer: Tracer,
    pub(super) complaint: Complaint,
    /// Of those whom the handshake does not let past.
    pub(super) uncertified: Uncertified,
}

impl Gate {
    /// Answers a request.
    pub(super) async fn answer(&self, mut request: Request<Incoming>, caller: Caller, place: &Place) -> Response<Body> {
        let peer = caller.address;
        let method = Method::of(request.uri().path());
        let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        let is_trusted = self.trusts(&request, place);
        // Strangers have no traces: they would use up what the collector takes.
        let call = if is_trusted { self.tracer.call(traceparent, method.is_of_api()) } else { None };
        let mut account =
            Account { metrics: &self.metrics, method, peer, began: Instant::now(), call, code: Code::Cancelled };
        let response = if is_trusted || request.uri().path().starts_with(OPEN) {
            let trace = account.call.as_ref().map(Call::trace_id);
            request.extensions_mut().insert(Peer { caller: Some(caller), trace });
            let mut routes = self.routes.clone();
            match tokio::time::timeout(self.patience, routes.call(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => refuse(Error::TimedOut(self.patience.as_secs())),
            }
        } else {
            if self.complaint.is_due() {
                tracing::warn!(%peer, path = request.uri().path(), "admin request without the right token; there may be more of them");
            }
            refuse(Error::Unauthenticated)
        };
        // An error is in the headers; what ends well says so only after its messages.
        account.code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        response
    }

    /// Whether the request has the token, where there is one.
    fn trusts(&self, request: &Request<Incoming>, place: &Place) -> bool {
        let presented = || request.headers().get(AUTHORIZATION);
        let is_trusted = self
            .tokens
            .as_ref()
            .is_none_or(|tokens| presented().is_some_and(|value| tokens.are_presented_by(value.as_bytes())));
        if is_trusted {
            place.prove();
        }
        is_trusted
    }
}

/// What is measured of a request when it goes, be it answered or given up by its caller: then nothing else would tell that it was slow.
struct Account<'a> {
    metrics: &'a Metrics,
    method: Method,
    peer: SocketAddr,
    began: Instant,
    call: Option<Call>,
    code: Code,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        self.metrics.answered(self.method, self.code, self.began.elapsed());
        if let Some(call) = self.call.take() {
            call.answered(self.method.name(), self.peer, self.code as i32, is_failure(self.code));
        }
    }
}

/// Whether the fault is the server's, as the conventions of OpenTelemetry for gRPC servers count it.
fn is_failure(code: Code) -> bool {
    use Code::{DataLoss, DeadlineExceeded, Internal, Unavailable, Unimplemented, Unknown};
    matches!(code, Unknown | DeadlineExceeded | Unimplemented | Internal | Unavailable | DataLoss)
}

fn refuse(error: Error) -> Response<Body> {
    Status::from(error).into_http()
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn a_request_that_its_caller_gives_up_is_measured() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let metrics = Metrics::new();
            let method = Method::of("/tertulia.admin.v1.AdminService/ListGroups");
            let peer = SocketAddr::from(([127, 0, 0, 1], 1));
            drop(Account { metrics: &metrics, method, peer, began: Instant::now(), call: None, code: Code::Cancelled });
        });
        let text = recorder.handle().render();
        let line = r#"tertulia_admin_requests_total{method="ListGroups",code="CANCELLED"} 1"#;
        assert!(text.lines().any(|other| other == line), "{line} is not in:\n{text}");
    }
}
