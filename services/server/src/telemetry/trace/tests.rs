use std::collections::BTreeMap;
use std::time::Duration;

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry::{SpanId, Value};
use tertulia_protocol::GroupName;

use super::*;

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A tracer that follows its callers, and the spans that it finishes.
pub(crate) fn tracer(per_second: u32, queue: usize) -> (Tracer, mpsc::Receiver<SpanData>) {
    let (finished, spans) = mpsc::channel(queue);
    let inner = Inner {
        sampler: Sampler { asks_parent: true, ratio: 0.0 },
        limit: Limit::new(per_second),
        group_names: false,
        scope: InstrumentationScope::builder("test").build(),
        finished,
        metrics: Metrics::new(),
    };
    (Tracer(Some(Arc::new(inner))), spans)
}

fn taken(spans: &mut mpsc::Receiver<SpanData>) -> BTreeMap<String, SpanData> {
    std::iter::from_fn(|| spans.try_recv().ok()).map(|span| (span.name.to_string(), span)).collect()
}

fn attribute(span: &SpanData, name: &str) -> Option<Value> {
    span.attributes.iter().find(|pair| pair.key.as_str() == name).map(|pair| pair.value.clone())
}

fn group() -> GroupName {
    GroupName::new("Dogs").unwrap()
}

fn appended(group: &GroupName) -> Appended<'_> {
    let now = Instant::now();
    Appended { shard: 3, group, batch: 2, messages: 5, started: now, returned: now + Duration::from_millis(7) }
}

/// A post that is on its way to an append.
fn post(tracer: &Tracer) -> Box<Post> {
    let mut post = tracer.post(Some(CALLER), Instant::now(), 17).unwrap();
    post.routed();
    post.queued();
    post
}

#[test]
fn what_nobody_wants_traced_carries_nothing() {
    let (tracer, mut spans) = tracer(10, 10);
    let now = Instant::now();
    assert!(tracer.post(None, now, 1).is_none());
    assert!(tracer.post(Some("nonsense"), now, 1).is_none());
    assert!(tracer.post(Some(&CALLER.replace("-01", "-00")), now, 1).is_none());
    assert!(Tracer::default().post(Some(CALLER), now, 1).is_none());
    assert!(Tracer::default().call(Some(CALLER), true).is_none());
    assert!(taken(&mut spans).is_empty());
    assert_eq!((size_of::<Option<Box<Post>>>(), size_of::<Option<Arc<FanOut>>>()), (8, 8));
}

#[test]
fn a_stored_post_is_a_span_for_each_step_under_one_under_the_caller() {
    let (tracer, mut spans) = tracer(10, 10);
    let group = group();
    let fan_out = FanOut::new([(post(&tracer), 41)], &appended(&group));
    let steps = taken(&mut spans);
    assert_eq!(steps.keys().collect::<Vec<_>>(), ["append", "post", "queue", "receive", "route"]);
    let root = &steps["post"];
    assert_eq!(root.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((root.parent_span_id.to_string().as_str(), root.parent_span_is_remote), ("00f067aa0ba902b7", true));
    assert_eq!((&root.span_kind, &root.status), (&SpanKind::Server, &Status::Unset));
    for name in ["append", "queue", "receive", "route"] {
        let step = &steps[name];
        assert_eq!(step.parent_span_id, root.span_context.span_id());
        assert_eq!((&step.span_kind, step.parent_span_is_remote), (&SpanKind::Internal, false));
        assert_eq!(step.span_context.trace_id(), root.span_context.trace_id());
    }
    assert_eq!(steps["receive"].start_time, root.start_time);
    for (one, next) in [("receive", "route"), ("route", "queue"), ("queue", "append")] {
        assert_eq!(steps[one].end_time, steps[next].start_time, "{one} and {next}");
    }
    assert_eq!(steps["append"].end_time, root.end_time);
    assert_eq!(attribute(root, "tertulia.seq"), Some(Value::I64(41)));
    assert_eq!(attribute(root, "tertulia.connection"), Some("c-17".into()));
    assert_eq!(attribute(root, "tertulia.group"), None, "the name of a group is not told");
    assert!(attribute(root, "tertulia.group.hash").is_some());
    assert_eq!(attribute(&steps["append"], "tertulia.batch.messages"), Some(Value::I64(2)));
    assert_eq!(attribute(&steps["append"], "tertulia.append.messages"), Some(Value::I64(5)));
    drop(fan_out);
}

#[test]
fn a_delivery_is_a_span_when_the_last_has_let_go_of_it() {
    let (tracer, mut spans) = tracer(10, 20);
    let group = group();
    let fan_out = Arc::new(FanOut::new([(post(&tracer), 1), (post(&tracer), 2)], &appended(&group)));
    taken(&mut spans);
    fan_out.sent(3);
    let slow = Arc::clone(&fan_out);
    fan_out.written(17);
    drop(fan_out);
    assert!(taken(&mut spans).is_empty());
    slow.written(18);
    drop(slow);
    let both: Vec<SpanData> = std::iter::from_fn(|| spans.try_recv().ok()).collect();
    let seqs: Vec<Option<Value>> = both.iter().map(|span| attribute(span, "tertulia.seq")).collect();
    assert_eq!(seqs, [Some(Value::I64(1)), Some(Value::I64(2))]);
    for span in &both {
        assert_eq!((span.name.as_ref(), span.events.len()), ("fan-out", 2));
        assert_eq!(attribute(span, "tertulia.members"), Some(Value::I64(3)));
        assert_eq!(attribute(span, "tertulia.writes"), Some(Value::I64(2)));
        let [first, last] = &span.events[..] else { panic!("{:?}", span.events) };
        assert_eq!((first.name.as_ref(), last.name.as_ref()), ("first write", "last write"));
        assert!(first.timestamp <= last.timestamp && last.timestamp <= span.end_time);
        assert_eq!(last.attributes[0].value, "c-18".into());
    }
}

#[test]
fn what_is_refused_says_why_and_names_nobody() {
    let (tracer, mut spans) = tracer(10, 10);
    let group = group();
    tracer.post(Some(CALLER), Instant::now(), 1).unwrap().refused_at_once("rate_limited");
    let steps = taken(&mut spans);
    assert_eq!(steps.keys().collect::<Vec<_>>(), ["post", "receive"]);
    assert_eq!(steps["post"].status, Status::error("rate_limited"));

    post(&tracer).refused(3, &group, "no_such_group");
    let steps = taken(&mut spans);
    assert_eq!(steps.keys().collect::<Vec<_>>(), ["post", "queue", "receive", "route"]);
    assert_eq!(steps["post"].status, Status::error("no_such_group"));

    post(&tracer).failed(&appended(&group), "unavailable");
    let steps = taken(&mut spans);
    assert_eq!(steps.len(), 5);
    assert_eq!(
        (&steps["append"].status, &steps["post"].status),
        (&Status::error("unavailable"), &Status::error("unavailable"))
    );

    post(&tracer).repeated(3, &group, 9);
    let steps = taken(&mut spans);
    assert_eq!(steps.len(), 4);
    assert_eq!(attribute(&steps["post"], "tertulia.repeated"), Some(Value::Bool(true)));
}

#[test]
fn a_call_is_one_span() {
    let (tracer, mut spans) = tracer(10, 10);
    let peer = "10.0.0.7:5000".parse().unwrap();
    let call = tracer.call(Some(CALLER), false).unwrap();
    assert_eq!(call.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    call.answered("GetGroup", peer, 5, false);
    let span = spans.try_recv().unwrap();
    assert_eq!((span.name.as_ref(), &span.span_kind, &span.status), ("GetGroup", &SpanKind::Server, &Status::Unset));
    assert_ne!(span.parent_span_id, SpanId::INVALID);
    assert_eq!(attribute(&span, "rpc.grpc.status_code"), Some(Value::I64(5)));
    assert_eq!(attribute(&span, "client.address"), Some("10.0.0.7".into()));
    assert!(tracer.call(None, true).is_none());
}

#[test]
fn no_more_traces_begin_than_a_second_may_have() {
    let (tracer, _spans) = tracer(2, 10);
    let begun = (0..5).filter(|_| tracer.post(Some(CALLER), Instant::now(), 1).is_some()).count();
    // The second may have turned between two of them.
    assert!((2..=4).contains(&begun), "{begun}");
}

#[test]
fn a_full_queue_loses_spans_and_holds_nobody_up() {
    let (tracer, mut spans) = tracer(10, 2);
    post(&tracer).refused(3, &group(), "closed");
    assert_eq!(taken(&mut spans).len(), 2);
    drop(spans);
    post(&tracer).refused(3, &group(), "closed");
}
