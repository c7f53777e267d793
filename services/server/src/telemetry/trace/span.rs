//! One trace, and spans made of it.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Event, SpanContext, SpanKind, Status, TraceState};
use opentelemetry::{KeyValue, SpanId, TraceFlags, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanLinks};

use super::Inner;

/// A trace that is under way. Its times come from one clock, so that they never run backwards.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) inner: Arc<Inner>,
    pub(super) id: TraceId,
    /// The caller's span.
    parent: Option<SpanId>,
    /// Our own outermost span.
    root: SpanId,
    began: Instant,
    began_at: SystemTime,
}

/// What a span tells beside its name and times.
#[derive(Debug, Default)]
pub(super) struct Details {
    pub(super) attributes: Vec<KeyValue>,
    pub(super) events: Vec<Event>,
    pub(super) status: Status,
}

impl From<Vec<KeyValue>> for Details {
    fn from(attributes: Vec<KeyValue>) -> Self {
        Self { attributes, ..Self::default() }
    }
}

impl Trace {
    pub(super) fn new(inner: Arc<Inner>, id: TraceId, parent: Option<SpanId>, began: Instant) -> Self {
        let root = RandomIdGenerator::default().new_span_id();
        let began_at = SystemTime::now().checked_sub(began.elapsed()).unwrap_or_else(SystemTime::now);
        Self { inner, id, parent, root, began, began_at }
    }

    /// What the clocks on the wall showed.
    pub(super) fn time(&self, at: Instant) -> SystemTime {
        self.began_at + at.saturating_duration_since(self.began)
    }

    /// Our own outermost span, as another node is told of it.
    pub(super) fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.id, self.root)
    }

    /// Finishes the outermost span, from the beginning of the trace until `end`.
    pub(super) fn root(&self, name: &'static str, end: Instant, details: Details) {
        let parent = self.parent.unwrap_or(SpanId::INVALID);
        let remote = self.parent.is_some();
        let data = self.data(self.root, (parent, remote), SpanKind::Server, name, (self.began, end), details);
        self.inner.finish(data);
    }

    /// Finishes a span within the outermost one.
    pub(super) fn part(&self, name: &'static str, from: Instant, to: Instant, details: impl Into<Details>) {
        let id = RandomIdGenerator::default().new_span_id();
        let data = self.data(id, (self.root, false), SpanKind::Internal, name, (from, to), details.into());
        self.inner.finish(data);
    }

    fn data(
        &self,
        id: SpanId,
        (parent_span_id, parent_span_is_remote): (SpanId, bool),
        span_kind: SpanKind,
        name: &'static str,
        (from, to): (Instant, Instant),
        details: Details,
    ) -> SpanData {
        let mut events = SpanEvents::default();
        events.events = details.events;
        SpanData {
            span_context: SpanContext::new(self.id, id, TraceFlags::SAMPLED, false, TraceState::NONE),
            parent_span_id,
            parent_span_is_remote,
            span_kind,
            name: name.into(),
            start_time: self.time(from),
            end_time: self.time(to.max(from)),
            attributes: details.attributes,
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: details.status,
            instrumentation_scope: self.inner.scope.clone(),
        }
    }
}
