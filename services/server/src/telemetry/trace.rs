//! Traces: what happened to one post, or one call of the admin API, and when.
//!
//! [`Tracer`] decides once, where a post or a call comes in, whether it is traced. One that is not carries `None` from there on, and
//! nothing more is asked or measured for it. One that is carries a [`Post`], in which its way leaves marks; when the log has answered
//! they become spans. [`FanOut`] goes with the delivery and becomes a span when the last connection has let go of it.
//! Finished spans wait in a bounded queue for the task in `export`, which sends them to a collector.
//!
//! The spans are made by hand rather than through `tracing`: no subscriber is asked about messages that nobody traces.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::InstrumentationScope;
pub use opentelemetry::TraceId;
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

mod call;
mod context;
mod export;
mod fan_out;
mod limit;
mod metrics;
mod post;
mod sampler;
mod secure;
mod span;
mod standard;

pub use call::Call;
pub use export::{Error, Exporting, start};
pub use fan_out::FanOut;
pub use post::{Appended, Post};
pub use standard::Environment;

use context::Parent;
use limit::Limit;
use metrics::Metrics;
use sampler::Sampler;
use span::Trace;

/// Decides what is traced. Cheap to clone; the default traces nothing.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    sampler: Sampler,
    limit: Limit,
    /// Whether spans tell the name of a group.
    group_names: bool,
    scope: InstrumentationScope,
    finished: mpsc::Sender<SpanData>,
    metrics: Metrics,
}

impl Tracer {
    /// Begins the trace of a post that was read at `received` from a connection, if it is to be traced.
    /// `traceparent` is what the client says of its own trace.
    #[must_use]
    pub fn post(&self, traceparent: Option<&str>, received: Instant, connection: u64) -> Option<Box<Post>> {
        let inner = self.0.as_ref()?;
        let trace = inner.begin(traceparent, true, received)?;
        Some(Box::new(Post::new(trace, received, connection)))
    }

    /// Goes on with the trace of a post that another node sends here, as was decided there. `parent` is its place in the trace.
    #[must_use]
    pub fn forwarded(&self, parent: &str, received: Instant, connection: u64) -> Option<Box<Post>> {
        let inner = self.0.as_ref()?;
        let parent = Parent::parse(parent).filter(|parent| parent.sampled)?;
        let trace = Trace::new(Arc::clone(inner), parent.trace, Some(parent.span), received);
        Some(Box::new(Post::forwarded(trace, received, connection)))
    }

    /// Begins the trace of a call, if it is to be traced. Without `by_chance` only its caller can have it traced, which is for calls
    /// that come all the time, such as those for health.
    #[must_use]
    pub fn call(&self, traceparent: Option<&str>, by_chance: bool) -> Option<Call> {
        let inner = self.0.as_ref()?;
        inner.begin(traceparent, by_chance, Instant::now()).map(Call::new)
    }

    /// Brings the gauges up to date, before they are read.
    pub fn observe(&self) {
        if let Some(inner) = &self.0 {
            inner.metrics.queued.set((inner.finished.max_capacity() - inner.finished.capacity()) as f64);
        }
    }
}

impl Inner {
    fn begin(self: &Arc<Self>, traceparent: Option<&str>, by_chance: bool, received: Instant) -> Option<Trace> {
        let parent = traceparent.and_then(Parent::parse);
        let id = self.sampler.decide(parent.as_ref(), by_chance)?;
        if !self.limit.admits(Instant::now()) {
            self.metrics.limited.increment(1);
            return None;
        }
        Some(Trace::new(Arc::clone(self), id, parent.map(|parent| parent.span), received))
    }

    /// Hands on a finished span, or loses it if there is no room: nobody waits for a collector.
    fn finish(&self, span: SpanData) {
        match self.finished.try_send(span) {
            // When the export has ended, so has the server.
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => self.metrics.no_room.increment(1),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
