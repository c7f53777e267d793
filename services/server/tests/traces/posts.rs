//! The trace of a post.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;

use crate::collector::{Arrived, Collector, NEVER, texts};
use crate::server::{Server, post};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";
const NO_PARENT: &str = "";

fn caller(trace: &str, flags: &str) -> String {
    format!("00-{trace}-{SPAN}-{flags}")
}

#[tokio::test]
async fn a_sampled_post_is_followed_from_its_line_to_the_last_socket() {
    let collector = Collector::start().await;
    let variables = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=dogs"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=pod-7,deployment.environment.name=test"),
    ];
    let server = Server::tracing(collector.address, "0", &variables).await;
    let mut ada = server.member("ada", "Dogs").await;
    let mut bob = server.member("bob", "Dogs").await;
    let mut classic = server.classic().await;
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    // Its own post comes back when it is a member.
    classic.send(&json!({"Post": {"group_name": "Dogs", "message": "here"}})).await;
    classic.expect("Message").await;

    let posted = ada.post("Dogs", Some(&caller(TRACE, "01")), "Posted").await;
    for member in [&mut bob, &mut classic] {
        while member.expect("Message").await["message"] != "woof" {}
    }
    let spans = collector.trace(TRACE, 6).await;

    let root = &spans["post"];
    assert_eq!(root.parent(), SPAN);
    assert_eq!(root.span.kind, 2, "it is a server's");
    let steps = ["receive", "route", "queue", "append", "fan-out"];
    for name in steps {
        assert_eq!(spans[name].parent(), root.id(), "{name}");
    }
    let ids: BTreeSet<String> = spans.values().map(Arrived::id).collect();
    assert_eq!(ids.len(), 6);

    // One step begins where the one before ends; the poster's part is over when the log has the post.
    assert_eq!(spans["receive"].times().0, root.times().0);
    for pair in steps.windows(2) {
        assert_eq!(spans[pair[0]].times().1, spans[pair[1]].times().0, "{pair:?}");
    }
    assert_eq!(spans["append"].times().1, root.times().1);
    assert!(spans.values().all(|arrived| arrived.times().0 <= arrived.times().1));

    let fan_out = &spans["fan-out"];
    let [first, last] = &fan_out.span.events[..] else { panic!("{:?}", fan_out.span.events) };
    assert_eq!((first.name.as_str(), last.name.as_str()), ("first write", "last write"));
    assert!(fan_out.times().0 <= first.time_unix_nano && first.time_unix_nano <= last.time_unix_nano);
    assert_eq!(last.time_unix_nano, fan_out.times().1);
    let members = [&ada.id, &bob.id];
    assert!(texts(&first.attributes)["tertulia.connection"].starts_with("c-"));
    assert_ne!(first.attributes, last.attributes);

    let told = fan_out.attributes();
    assert_eq!((&*told["tertulia.members"], &*told["tertulia.writes"]), ("3", "3"));
    let told = root.attributes();
    assert_eq!(told["tertulia.seq"], posted["seq"].to_string());
    assert_eq!(&&told["tertulia.connection"], &members[0]);
    assert!(told.contains_key("tertulia.shard") && told.contains_key("tertulia.group.hash"));
    assert!(!told.values().any(|value| value == "Dogs"), "the group is named: {told:?}");
    assert_eq!(spans["append"].attributes()["tertulia.batch.messages"], "1");

    for (key, value) in [
        ("service.name", "tertulia"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("service.instance.id", "pod-7"),
        ("deployment.environment.name", "test"),
    ] {
        assert_eq!(root.resource[key], value, "{key}");
    }
    assert_eq!(root.tenant.as_deref(), Some("dogs"));
    server.until_metric("tertulia_traces_exported_total", 6.0).await;
    assert!(server.stop(NEVER).await.0.success());
}

#[tokio::test]
async fn what_its_caller_does_not_sample_is_not_traced() {
    let collector = Collector::start().await;
    let server = Server::tracing(collector.address, "0", &[]).await;
    let mut ada = server.member("ada", "Dogs").await;
    for not_sampled in [Some(caller(TRACE, "00")), Some("00-what-ever-01".to_owned()), Some(String::new()), None] {
        ada.post("Dogs", not_sampled.as_deref(), "Posted").await;
    }
    let sampled = TRACE.replace('4', "5");
    ada.post("Dogs", Some(&caller(&sampled, "01")), "Posted").await;
    ada.expect("Message").await;
    // The stop sends what waits.
    assert!(server.stop(NEVER).await.0.success());
    let arrived = collector.until(|arrived| arrived.len() >= 6).await;
    assert!(arrived.iter().all(|arrived| arrived.trace() == sampled), "{arrived:#?}");
    assert_eq!(arrived.len(), 6);
}

#[tokio::test]
async fn a_ratio_of_the_rest_is_traced_without_a_caller() {
    let collector = Collector::start().await;
    let variables = [("OTEL_TRACES_SAMPLER", "always_off")];
    let server = Server::tracing(collector.address, "1", &variables).await;
    let mut classic = server.classic().await;
    classic.send(&json!({"Join": {"group_name": "Dogs"}})).await;
    for _ in 0..3 {
        classic.send(&json!({"Post": {"group_name": "Dogs", "message": "woof"}})).await;
        classic.expect("Message").await;
    }
    let mut ada = server.client("ada").await;
    ada.post("Dogs", Some(&caller(TRACE, "00")), "Posted").await;
    classic.expect("Message").await;
    assert!(server.stop(NEVER).await.0.success());
    let arrived = collector.until(|arrived| arrived.len() >= 18).await;
    let roots: Vec<&Arrived> = arrived.iter().filter(|arrived| arrived.span.name == "post").collect();
    assert!(roots.iter().all(|root| root.parent() == NO_PARENT && root.trace() != TRACE));
    let traces: BTreeSet<String> = roots.iter().map(|root| root.trace()).collect();
    assert_eq!((arrived.len(), roots.len(), traces.len()), (18, 3, 3));
}

#[tokio::test]
async fn the_standard_variables_alone_say_where_and_how_much() {
    let collector = Collector::start().await;
    let endpoint = format!("http://{}", collector.address);
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_TRACES_SAMPLER", "always_on"),
        ("OTEL_SERVICE_NAME", "chat-of-dogs"),
    ];
    let names = ["telemetry.traces.enabled=true", "telemetry.traces.group_names=true"];
    let server = Server::start(&names, &variables).await;
    let mut ada = server.member("ada", "Dogs").await;
    // This sampler does not ask the caller, but goes on with its trace.
    ada.post("Dogs", Some(&caller(TRACE, "00")), "Posted").await;
    let spans = collector.trace(TRACE, 6).await;
    assert_eq!(spans["post"].resource["service.name"], "chat-of-dogs");
    assert_eq!(spans["post"].attributes()["tertulia.group"], "Dogs");

    let off = [variables.as_slice(), &[("OTEL_SDK_DISABLED", "true")]].concat();
    let silent = Server::start(&names, &off).await;
    let mut bob = silent.member("bob", "Dogs").await;
    bob.post("Dogs", Some(&caller(TRACE, "01")), "Posted").await;
    assert!(silent.stop(NEVER).await.0.success());
    assert!(server.stop(NEVER).await.0.success());
    assert_eq!(collector.until(|_| true).await.len(), 6);
}

#[tokio::test]
async fn posts_of_one_append_have_each_their_own_trace() {
    const POSTS: usize = 30;
    let collector = Collector::start().await;
    let server = Server::tracing(collector.address, "0", &[]).await;
    let mut ada = server.member("ada", "Dogs").await;
    let trace = |number: usize| format!("{:032x}", number + 1);
    let lines: String =
        (0..POSTS).map(|number| format!("{}\n", post("Dogs", Some(&caller(&trace(number), "01"))))).collect();
    ada.send_text(&lines).await;
    for _ in 0..POSTS {
        ada.expect("Posted").await;
    }
    let arrived = collector.until(|arrived| arrived.len() >= 6 * POSTS).await;
    for number in 0..POSTS {
        let spans = collector.trace(&trace(number), 6).await;
        for name in ["post", "append", "fan-out"] {
            assert_eq!(spans[name].attributes()["tertulia.seq"], (number + 1).to_string(), "{name}");
        }
    }
    let appends = arrived.iter().filter(|arrived| arrived.span.name == "append");
    let together = appends.map(|append| append.attributes()["tertulia.batch.messages"].parse::<usize>().unwrap());
    assert!(together.max() > Some(1), "they were sent in one piece");
    assert!(server.stop(NEVER).await.0.success());
}

#[tokio::test]
async fn a_refused_post_says_why() {
    let collector = Collector::start().await;
    let server = Server::tracing(collector.address, "0", &[]).await;
    let mut ada = server.client("ada").await;
    ada.post("Cats", Some(&caller(TRACE, "01")), "Rejected").await;
    let spans = collector.trace(TRACE, 4).await;
    let status = spans["post"].span.status.clone().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "no_such_group"));

    let other = TRACE.replace('4', "5");
    ada.post(" bad", Some(&caller(&other, "01")), "Rejected").await;
    let spans = collector.trace(&other, 2).await;
    assert_eq!(spans["post"].span.status.clone().unwrap().message, "bad_group_name");
    assert!(server.stop(NEVER).await.0.success());
}

#[tokio::test]
async fn a_member_that_does_not_read_keeps_the_delivery_open_until_it_is_gone() {
    let collector = Collector::start().await;
    let server = Server::tracing(collector.address, "0", &[]).await;
    let mut ada = server.member("ada", "Dogs").await;
    let slow = server.member("slow", "Dogs").await;
    // Fill the socket of the one that does not read, and what the server holds for it.
    let long = json!({"Post": {"group_name": "Dogs", "message": "x".repeat(8_000)}});
    let mut filled = 0.0;
    let began = Instant::now();
    while filled < 100_000.0 {
        assert!(began.elapsed() < NEVER, "what one does not read goes somewhere: {filled} bytes wait");
        ada.send(&long).await;
        ada.expect("Posted").await;
        filled = server.metric("tertulia_outbound_bytes_max").await;
    }
    ada.post("Dogs", Some(&caller(TRACE, "01")), "Posted").await;
    let arrived = collector.until(|arrived| arrived.len() >= 5).await;
    assert!(arrived.iter().all(|arrived| arrived.span.name != "fan-out"), "it is not over");
    drop(slow);
    let spans = collector.trace(TRACE, 6).await;
    let told = spans["fan-out"].attributes();
    assert_eq!((&*told["tertulia.members"], &*told["tertulia.writes"]), ("2", "1"));
    assert!(server.stop(NEVER).await.0.success());
}
