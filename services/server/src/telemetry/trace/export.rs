//! The task that sends finished spans to a collector (OTLP over gRPC).
//!
//! Nothing waits for it but the end of the server, and that only for a short time: a collector that is away or slow costs the spans and
//! one line in the log.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanExporter};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::limit::Limit;
use super::metrics::Metrics;
use super::secure;
use super::standard::{self, Environment, Pace};
use super::{Inner, Tracer};
use crate::build;
use crate::telemetry::config::Traces;

/// The name of this service, where no variable gives another.
const SERVICE: &str = "tertulia";

/// Why traces cannot be exported as they should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such sampler here.
    #[error(
        "OTEL_TRACES_SAMPLER = {given}: must be always_on, always_off or traceidratio, or one of these behind parentbased_"
    )]
    Sampler {
        /// What was given.
        given: String,
    },
    /// The ratio is none.
    #[error("OTEL_TRACES_SAMPLER_ARG = {given}: must be a number from 0 to 1")]
    Ratio {
        /// What was given.
        given: String,
    },
    /// The protocol is not spoken here.
    #[error("{name} = {protocol}: must be grpc, the only protocol that is spoken here")]
    Protocol {
        /// The variable.
        name: &'static str,
        /// What was given.
        protocol: String,
    },
    /// A file for TLS cannot be read.
    #[error("{name}: cannot read {}: {cause}", path.display())]
    File {
        /// The variable.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// Half of what a client shows in TLS.
    #[error("{given} is set and {missing} is not: set both or none")]
    Half {
        /// What is there.
        given: &'static str,
        /// What is not.
        missing: &'static str,
    },
    /// The exporter does not accept its options.
    #[error("cannot export traces (telemetry.traces.endpoint, OTEL_EXPORTER_OTLP_*): {cause}")]
    Exporter {
        /// Why not.
        #[from]
        cause: ExporterBuildError,
    },
}

/// The export, from the start of the server to its end.
#[derive(Debug)]
pub struct Exporting {
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

/// Starts the export of traces, if the configuration asks for it and the environment allows it. Does not wait for the collector. Must be
/// called within the runtime.
///
/// # Errors
/// The options, or the standard variables in the environment, cannot be used.
pub fn start(config: &Traces, environment: Environment<'_>) -> Result<(Tracer, Exporting), Error> {
    let metrics = Metrics::new();
    let stop = CancellationToken::new();
    if config.enabled && !standard::allows_traces(environment) {
        tracing::info!(
            "OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER turns traces off, though telemetry.traces.enabled is set"
        );
    }
    if !config.enabled || !standard::allows_traces(environment) {
        return Ok((Tracer::default(), Exporting { stop, task: None }));
    }
    standard::check_protocol(environment)?;
    let sampler = standard::sampler(config, environment)?;
    let pace = standard::pace(environment);
    let mut builder = opentelemetry_otlp::SpanExporter::builder().with_tonic();
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(tls) = secure::tls(config, environment)? {
        builder = builder.with_tls_config(tls);
    }
    let mut exporter = builder.build()?;
    exporter.set_resource(&resource(environment));

    let (finished, spans) = mpsc::channel(pace.queue);
    let sending = Sending { exporter, spans, pace, metrics: metrics.clone(), fails: false };
    let task = tokio::spawn(sending.run(stop.clone()));
    let inner = Inner {
        sampler,
        limit: Limit::new(config.per_second),
        group_names: config.group_names,
        scope: InstrumentationScope::builder(SERVICE).with_version(build::VERSION).build(),
        finished,
        metrics,
    };
    tracing::info!(
        ratio = sampler.ratio,
        asks_callers = sampler.asks_parent,
        per_second = config.per_second,
        "traces are exported"
    );
    Ok((Tracer(Some(Arc::new(inner))), Exporting { stop, task: Some(task) }))
}

/// What the collector is told of this server: variables win over what it knows of itself.
fn resource(environment: Environment<'_>) -> Resource {
    let instance = RandomIdGenerator::default().new_trace_id().to_string();
    let ours = [
        KeyValue::new("service.name", SERVICE),
        KeyValue::new("service.version", build::VERSION),
        KeyValue::new("service.instance.id", instance),
    ];
    let detectors: [Box<dyn ResourceDetector>; 2] =
        [Box::new(TelemetryResourceDetector), Box::new(EnvResourceDetector::new())];
    let resource = Resource::builder_empty().with_attributes(ours).with_detectors(&detectors);
    match environment("OTEL_SERVICE_NAME").filter(|name| !name.is_empty()) {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

impl Exporting {
    /// Sends what waits, for no longer than `within`, and ends the export.
    pub async fn stop(self, within: Duration) {
        let Some(mut task) = self.task else { return };
        self.stop.cancel();
        if timeout(within, &mut task).await.is_err() {
            tracing::warn!("the collector of traces is slow: the last spans are lost");
            task.abort();
            drop(task.await);
        }
    }
}

/// Gathers spans and sends them.
struct Sending<E> {
    exporter: E,
    spans: mpsc::Receiver<SpanData>,
    pace: Pace,
    metrics: Metrics,
    /// Whether the last batch was lost: an outage is told once.
    fails: bool,
}

impl<E: SpanExporter> Sending<E> {
    /// Sends batch after batch until `stop`, then what is left.
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        while stop.run_until_cancelled(self.gather(&mut batch)).await.is_some() {
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
        self.spans.close();
        loop {
            let room = self.pace.batch.saturating_sub(batch.len());
            self.spans.recv_many(&mut batch, room).await;
            if batch.is_empty() {
                return;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    /// Fills a batch, or takes what has come some time after its first span. Empty: there will be no more. Cancel-safe: what was taken is
    /// in the batch.
    async fn gather(&mut self, batch: &mut Vec<SpanData>) {
        let max = self.pace.batch;
        if self.spans.recv_many(batch, max).await == 0 {
            return;
        }
        let more = async { while batch.len() < max && self.spans.recv_many(batch, max - batch.len()).await > 0 {} };
        // Whether it is full or not.
        drop(timeout(self.pace.delay, more).await);
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let lost = match timeout(self.pace.timeout, self.exporter.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {}", humantime::format_duration(self.pace.timeout))),
        };
        match &lost {
            None => {
                self.metrics.exported.increment(count);
                if self.fails {
                    tracing::info!("traces are exported again");
                }
            }
            Some(error) => {
                self.metrics.not_taken.increment(count);
                if !self.fails {
                    tracing::warn!(error, "traces are lost until the collector takes them");
                }
            }
        }
        self.fails = lost.is_some();
    }
}

#[cfg(test)]
mod tests;
