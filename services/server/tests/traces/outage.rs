//! A collector that is away or stuck costs the spans, and nothing else.

use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

use crate::collector::Collector;
use crate::server::{Server, fails_to_start, post};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// Far below the 20 seconds after which the server would cut off what is left.
const SOON: Duration = Duration::from_secs(10);

/// What was said of the collector, as a warning.
fn warnings(logged: &[Value]) -> Vec<&str> {
    let warnings = logged.iter().filter(|line| line["level"] == "WARN");
    let said = warnings.map(|line| line["message"].as_str().unwrap());
    said.filter(|text| text.contains("collector")).collect()
}

#[tokio::test]
async fn without_a_collector_the_server_serves_and_stops_in_time() {
    // A port at which nobody listens: it was free a moment ago.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::tracing(free, "0", &[]).await;
    let mut ada = server.member("ada", "Dogs").await;
    for _ in 0..20 {
        ada.post("Dogs", Some(CALLER), "Posted").await;
    }
    server.until_metric("tertulia_traces_dropped_total{reason=\"export\"}", 6.0).await;
    ada.post("Dogs", Some(CALLER), "Posted").await;
    let (status, logged) = server.stop(SOON).await;
    assert!(status.success());
    assert_eq!(warnings(&logged), ["traces are lost until the collector takes them"]);
}

#[tokio::test]
async fn a_collector_that_is_stuck_holds_nobody_up() {
    let collector = Collector::that_is_stuck().await;
    let variables = [("OTEL_BSP_MAX_QUEUE_SIZE", "20"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "10")];
    let server = Server::tracing(collector.address, "0", &variables).await;
    let mut ada = server.member("ada", "Dogs").await;
    let lines: String = (0..100).map(|_| format!("{}\n", post("Dogs", Some(CALLER)))).collect();
    ada.send_text(&lines).await;
    for _ in 0..100 {
        ada.expect("Posted").await;
    }
    server.until_metric("tertulia_traces_dropped_total{reason=\"queue\"}", 500.0).await;
    assert!(server.metric("tertulia_traces_queued").await <= 20.0);
    let (status, logged) = server.stop(SOON).await;
    assert!(status.success());
    assert_eq!(warnings(&logged), ["the collector of traces is slow: the last spans are lost"]);
}

/// Whatever stalls, a stop ends in time and in order.
#[tokio::test]
async fn a_stuck_collector_does_not_take_a_short_grace_beyond_its_end() {
    let collector = Collector::that_is_stuck().await;
    let endpoint = format!("telemetry.traces.endpoint=http://{}", collector.address);
    let options = ["telemetry.traces.enabled=true", &endpoint, "drain.grace=2s"];
    let server = Server::start(&options, &[]).await;
    let mut ada = server.member("ada", "Dogs").await;
    ada.post("Dogs", Some(CALLER), "Posted").await;
    // A caller that never answers a ping, in the middle of something.
    let mut mute = TcpStream::connect(server.admin).await.unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (status, logged) = server.stop(SOON).await;
    assert!(status.success(), "{logged:?}");
}

#[tokio::test]
async fn nobody_has_more_posts_traced_than_the_limit() {
    let collector = Collector::start().await;
    let endpoint = format!("telemetry.traces.endpoint=http://{}", collector.address);
    let options = ["telemetry.traces.enabled=true", &endpoint, "telemetry.traces.per_second=1"];
    let server = Server::start(&options, &[]).await;
    let mut ada = server.member("ada", "Dogs").await;
    let lines: String = (0..200).map(|_| format!("{}\n", post("Dogs", Some(CALLER)))).collect();
    ada.send_text(&lines).await;
    for _ in 0..200 {
        ada.expect("Posted").await;
    }
    let limited = server.metric("tertulia_traces_limited_total").await;
    let traced = collector.until(|arrived| arrived.len() as f64 >= 6.0 * (200.0 - limited)).await;
    assert_eq!(traced.len() as f64, 6.0 * (200.0 - limited));
    assert!(limited > 100.0, "{limited}");
    assert!(server.stop(SOON).await.0.success());
}

#[tokio::test]
async fn what_cannot_be_meant_is_said_at_the_start() {
    let on = ["telemetry.traces.enabled=true"];
    for (name, value) in [("OTEL_TRACES_SAMPLER", "sometimes"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")] {
        let said = fails_to_start(&on, &[(name, value)]).await;
        assert!(said.contains(name) && said.contains(value), "{said}");
    }
    let said = fails_to_start(&["telemetry.traces.ratio=2"], &[]).await;
    assert!(said.contains("telemetry.traces.ratio") && said.contains("from 0 to 1"), "{said}");
}
