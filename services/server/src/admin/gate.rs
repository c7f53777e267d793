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
use super::token::{Grant, Scope};
use super::tokens::Tokens;
use crate::complaint::Complaint;
use crate::places::Place;
use crate::telemetry::trace::{Call, TraceId, Tracer};

/// Health is no secret, and those who ask for it, such as a kubelet, have no token.
const OPEN: &str = "/grpc.health.v1.Health/";
/// What else there is besides this tells of itself: health and reflection.
const API: &str = "/tertulia.admin.v1.AdminService/";

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
    /// Whose token was presented.
    token: Option<Arc<str>>,
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
        let Some(Caller { address, subject }) = &self.caller else { return f.write_str("unknown") };
        match (subject, &self.token) {
            (Some(subject), Some(token)) => write!(f, "{address} ({subject}, token {token})"),
            (Some(subject), None) => write!(f, "{address} ({subject})"),
            (None, Some(token)) => write!(f, "{address} (token {token})"),
            (None, None) => address.fmt(f),
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
    /// Of those whose token may not do what they ask for.
    pub(super) denied: Complaint,
    /// Of those whom the handshake does not let past.
    pub(super) uncertified: Uncertified,
}

impl Gate {
    /// Answers a request.
    pub(super) async fn answer(&self, mut request: Request<Incoming>, caller: Caller, place: &Place) -> Response<Body> {
        let peer = caller.address;
        let method = Method::of(request.uri().path());
        let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        let grant = self.grant(&request, place);
        // Strangers have no traces: they would use up what the collector takes.
        let call = if grant.is_some() { self.tracer.call(traceparent, method.is_of_api()) } else { None };
        let mut account =
            Account { metrics: &self.metrics, method, peer, began: Instant::now(), call, code: Code::Cancelled };
        let path = request.uri().path();
        let response = match grant {
            None if !path.starts_with(OPEN) => {
                if self.complaint.is_due() {
                    tracing::warn!(%peer, path, "admin request without the right token; there may be more of them");
                }
                refuse(Error::Unauthenticated)
            }
            Some(Grant { name, scope: Scope::Read }) if changes(path) => {
                let name = name.unwrap_or_default();
                if self.denied.is_due() {
                    tracing::warn!(%peer, token = &*name, path, "admin request with a token that may only read; there may be more of them");
                }
                refuse(Error::MayOnlyRead { name })
            }
            grant => {
                let (token, trace) = (grant.and_then(|grant| grant.name), account.call.as_ref().map(Call::trace_id));
                request.extensions_mut().insert(Peer { caller: Some(caller), token, trace });
                let mut routes = self.routes.clone();
                match tokio::time::timeout(self.patience, routes.call(request)).await {
                    Ok(Ok(response)) => response,
                    Ok(Err(never)) => match never {},
                    Err(_) => refuse(Error::TimedOut(self.patience.as_secs())),
                }
            }
        };
        // An error is in the headers; what ends well says so only after its messages.
        account.code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
        response
    }

    /// What the request may do by its token; `None`: nothing. Where no token is asked for, everything.
    fn grant(&self, request: &Request<Incoming>, place: &Place) -> Option<Grant> {
        let presented = || request.headers().get(AUTHORIZATION);
        let grant = match &self.tokens {
            None => Some(Grant { name: None, scope: Scope::All }),
            Some(tokens) => presented().and_then(|value| tokens.grant(value.as_bytes())),
        };
        if grant.is_some() {
            place.prove();
        }
        grant
    }
}

/// Whether a call may change anything. What is not known to change nothing may.
fn changes(path: &str) -> bool {
    let Some(method) = path.strip_prefix(API) else { return false };
    !["List", "Get", "Watch"].iter().any(|reads| method.starts_with(reads))
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
    use crate::admin::metrics::METHODS;

    #[test]
    fn what_may_be_called_by_those_who_may_only_read_is_known_by_its_name() {
        let called = |name: &&str| changes(&format!("{API}{name}"));
        let (changing, reading): (Vec<&str>, Vec<&str>) = METHODS.iter().partition(|name| called(name));
        let reads = [
            "ListGroups",
            "GetGroup",
            "ListMembers",
            "ListMessages",
            "ListConnections",
            "ListHolds",
            "GetShardMap",
            "WatchEvents",
        ];
        assert_eq!(reading, reads);
        for change in ["KickMember", "CreateBackup", "SetLogLevels"] {
            assert!(changing.contains(&change), "{changing:?}");
        }
        for other in ["/grpc.health.v1.Health/Check", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
            assert!(!changes(other), "{other}");
        }
    }

    #[test]
    fn who_called_is_told_by_address_certificate_and_token() {
        let caller = |subject: Option<&str>| Caller {
            address: SocketAddr::from(([10, 0, 0, 7], 1)),
            subject: subject.map(Arc::from),
        };
        let told = |subject, token: Option<&str>| {
            Peer { caller: Some(caller(subject)), token: token.map(Arc::from), trace: None }.to_string()
        };
        assert_eq!(told(None, None), "10.0.0.7:1");
        assert_eq!(told(Some("CN=ada"), None), "10.0.0.7:1 (CN=ada)");
        assert_eq!(told(None, Some("bot")), "10.0.0.7:1 (token bot)");
        assert_eq!(told(Some("CN=ada"), Some("bot")), "10.0.0.7:1 (CN=ada, token bot)");
    }

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
