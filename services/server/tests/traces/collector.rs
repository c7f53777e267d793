//! A collector of traces: a real receiver of OTLP over gRPC.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// Long enough never to pass in a test that works.
pub(crate) const NEVER: Duration = Duration::from_secs(30);

/// A span as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Arrived {
    pub(crate) span: Span,
    /// What the server says of itself.
    pub(crate) resource: BTreeMap<String, String>,
    /// The header `x-tenant` of the request that brought it.
    pub(crate) tenant: Option<String>,
}

impl Arrived {
    pub(crate) fn trace(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(crate) fn id(&self) -> String {
        hex(&self.span.span_id)
    }

    pub(crate) fn parent(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        texts(&self.span.attributes)
    }

    pub(crate) fn times(&self) -> (u64, u64) {
        (self.span.start_time_unix_nano, self.span.end_time_unix_nano)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn texts(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(yes)) => yes.to_string(),
        other => format!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

#[derive(Debug)]
struct Receiver {
    arrived: watch::Sender<Vec<Arrived>>,
    answers: bool,
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        let tenant = request.metadata().get("x-tenant").map(|value| value.to_str().unwrap().to_owned());
        let mut new = Vec::new();
        for of_resource in request.into_inner().resource_spans {
            let resource = texts(&of_resource.resource.unwrap_or_default().attributes);
            let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
            new.extend(spans.map(|span| Arrived { span, resource: resource.clone(), tenant: tenant.clone() }));
        }
        self.arrived.send_modify(|arrived| arrived.extend(new));
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

/// A collector that listens until it is dropped.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    arrived: watch::Receiver<Vec<Arrived>>,
    task: JoinHandle<()>,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        Self::new(true, None).await
    }

    /// One that speaks TLS and shows this certificate.
    pub(crate) async fn secure(identity: Identity) -> Self {
        Self::new(true, Some(ServerTlsConfig::new().identity(identity))).await
    }

    /// One that takes requests and never answers.
    pub(crate) async fn that_is_stuck() -> Self {
        Self::new(false, None).await
    }

    async fn new(answers: bool, tls: Option<ServerTlsConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, arrived) = watch::channel(Vec::new());
        let service = TraceServiceServer::new(Receiver { arrived: sender, answers });
        let task = tokio::spawn(async move {
            let builder = tonic::transport::Server::builder();
            let mut builder = match tls {
                Some(tls) => builder.tls_config(tls).unwrap(),
                None => builder,
            };
            let serving = builder.add_service(service);
            serving.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
        });
        Self { address, arrived, task }
    }

    /// What has arrived, as soon as `enough` of it has.
    pub(crate) async fn until(&self, enough: impl Fn(&[Arrived]) -> bool) -> Vec<Arrived> {
        let mut arrived = self.arrived.clone();
        match timeout(NEVER, arrived.wait_for(|arrived| enough(arrived))).await {
            Ok(arrived) => arrived.unwrap().clone(),
            Err(_) => panic!("only this arrived: {:#?}", names(&self.arrived.borrow())),
        }
    }

    /// The spans of one trace by name, as soon as there are so many.
    pub(crate) async fn trace(&self, id: &str, count: usize) -> BTreeMap<String, Arrived> {
        let of_trace = |arrived: &[Arrived]| -> Vec<Arrived> {
            arrived.iter().filter(|arrived| arrived.trace() == id).cloned().collect()
        };
        let arrived = self.until(|arrived| of_trace(arrived).len() >= count).await;
        let spans = of_trace(&arrived);
        let by_name: BTreeMap<String, Arrived> =
            spans.into_iter().map(|arrived| (arrived.span.name.clone(), arrived)).collect();
        assert_eq!(by_name.len(), count, "{:?}", by_name.keys());
        by_name
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn names(arrived: &[Arrived]) -> Vec<(String, String)> {
    arrived.iter().map(|arrived| (arrived.trace(), arrived.span.name.clone())).collect()
}
