//! What the spans of a post say of what became of it.

use opentelemetry::trace::Status;
use opentelemetry_sdk::trace::SpanData;

use super::*;
use crate::telemetry::trace::tests::tracer;

/// Posts messages that are all traced, and answers what their spans say, post by post.
async fn spans(world: &World, session: &Arc<Session>, ids: &[&str]) -> Vec<Vec<SpanData>> {
    let (tracer, mut spans) = tracer(100, 1_000);
    let trace = |number: usize| format!("{:032x}", number + 1);
    let post = |(number, id): (usize, &&str)| NewPost {
        group: world.group.clone(),
        message: format!("message {id}").into(),
        id: Some(PostId::new(id).unwrap()),
        trace: tracer.post(Some(&format!("00-{}-00f067aa0ba902b7-01", trace(number))), Instant::now(), 1),
        weight: None,
    };
    let posts = ids.iter().enumerate().map(post).collect();
    let request =
        Request::Post(Posts { session: Arc::clone(session), posts, received: Instant::now(), in_doubt: false });
    assert!(world.shards.send(0, request).await);
    answers(session, ids.len()).await;
    let all: Vec<SpanData> = std::iter::from_fn(|| spans.try_recv().ok()).collect();
    let of = |number: usize| {
        let here = |span: &&SpanData| span.span_context.trace_id().to_string() == trace(number);
        all.iter().filter(here).cloned().collect()
    };
    (0..ids.len()).map(of).collect()
}

fn said<'a>(spans: &'a [SpanData], name: &str) -> Option<(&'a Status, bool)> {
    let span = spans.iter().find(|span| span.name == name)?;
    Some((&span.status, span.attributes.iter().any(|pair| pair.key.as_str() == "tertulia.repeated")))
}

#[tokio::test]
async fn what_was_stored_before_is_a_repeat_and_what_the_log_refused_an_error() {
    let world = World::new(Config::default(), BOUNDS);
    let ada = session(1, "ada");
    // Nobody listens to the group: a delivery is over at once.
    drop(world.join(&ada).await.unwrap());
    let (fine, refused) = (Status::Unset, Status::error("unavailable"));
    for (mood, ids, expected) in [
        (WELL, ["a", "b"], [((&fine, false), true), ((&fine, false), true)]),
        (WELL, ["a", "c"], [((&fine, true), false), ((&fine, false), true)]),
        (FAILING, ["b", "d"], [((&fine, true), false), ((&refused, false), false)]),
        (WELL, ["a", "b"], [((&fine, true), false), ((&fine, true), false)]),
    ] {
        world.mood(mood);
        for (number, spans) in spans(&world, &ada, &ids).await.iter().enumerate() {
            let (post, delivered) = expected[number];
            assert_eq!(said(spans, "post"), Some(post), "{} of {ids:?}", ids[number]);
            assert_eq!(said(spans, "fan-out").is_some(), delivered, "{} of {ids:?}", ids[number]);
            let appended = said(spans, "append");
            assert_eq!(appended.map(|(status, _)| status), (!post.1).then_some(post.0), "{} of {ids:?}", ids[number]);
        }
    }
}
