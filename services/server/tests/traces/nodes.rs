//! The trace of a post whose group another node owns.

use crate::collector::{Arrived, Collector};
use crate::nats::Servers;
use crate::server::Server;

async fn node(nats: &Servers, collector: &Collector, name: &str) -> Server {
    let url = format!("nats.urls={}", nats.urls());
    let endpoint = format!("telemetry.traces.endpoint=http://{}", collector.address);
    let id = format!("cluster.node_id={name}");
    let resource = format!("service.instance.id={name}");
    let options = ["telemetry.traces.enabled=true", &endpoint, "telemetry.traces.ratio=0", &url, &id];
    Server::start_on("nats", &options, &[("OTEL_RESOURCE_ATTRIBUTES", &resource)]).await
}

fn trace_of(number: usize) -> String {
    format!("4bf92f3577b34da6a3ce929d0e0e{number:04x}")
}

#[tokio::test]
async fn one_trace_shows_what_both_nodes_did() {
    const SPAN: &str = "00f067aa0ba902b7";
    let (nats, collector) = (Servers::start(1, "").await, Collector::start().await);
    let (one, other) = (node(&nats, &collector, "one").await, node(&nats, &collector, "other").await);
    for node in [&one, &other] {
        node.until_metric("tertulia_cluster_nodes", 2.0).await;
        node.until_metric("tertulia_shards_owned", 300.0).await;
    }
    // Of some groups each node owns one at least.
    let groups: Vec<String> = (0..16).map(|number| format!("group-{number}")).collect();
    let mut listener = other.client("bob").await;
    let mut poster = one.client("ada").await;
    for (number, group) in groups.iter().enumerate() {
        for client in [&mut listener, &mut poster] {
            client.send(&serde_json::json!({"Join": {"group_name": group}})).await;
            client.expect("Joined").await;
        }
        let caller = format!("00-{}-{SPAN}-01", trace_of(number));
        poster.post(group, Some(&caller), "Posted").await;
        listener.expect("Message").await;
    }
    let of_trace = |arrived: &[Arrived], number: usize| -> Vec<Arrived> {
        arrived.iter().filter(|arrived| arrived.trace() == trace_of(number)).cloned().collect()
    };
    let is_whole = |spans: &[Arrived]| {
        ["post", "append", "fan-out"].iter().all(|name| spans.iter().any(|arrived| arrived.span.name == *name))
    };
    let arrived = collector.until(|arrived| (0..groups.len()).all(|number| is_whole(&of_trace(arrived, number)))).await;
    let mut forwarded = 0;
    for number in 0..groups.len() {
        let spans = of_trace(&arrived, number);
        let find = |name: &str| spans.iter().find(|arrived| arrived.span.name == name);
        let node_of = |arrived: &Arrived| arrived.resource["service.instance.id"].clone();
        let post = find("post").unwrap();
        assert_eq!((post.parent().as_str(), node_of(post).as_str()), (SPAN, "one"));
        assert_eq!(node_of(find("receive").unwrap()), "one");
        let (append, fan_out) = (find("append").unwrap(), find("fan-out").unwrap());
        let Some(serve) = find("serve") else {
            assert_eq!((append.parent(), node_of(append).as_str()), (post.id(), "one"));
            continue;
        };
        forwarded += 1;
        assert_eq!((serve.parent(), node_of(serve).as_str()), (post.id(), "other"));
        assert_eq!(post.attributes()["tertulia.forwarded"], "true");
        for part in [append, fan_out] {
            assert_eq!((part.parent(), node_of(part).as_str()), (serve.id(), "other"), "{}", part.span.name);
        }
        assert_eq!(serve.attributes()["tertulia.connection"], poster.id);
        assert_eq!(serve.attributes()["tertulia.seq"], post.attributes()["tertulia.seq"]);
    }
    assert!((1..groups.len()).contains(&forwarded), "{forwarded} of {} were forwarded", groups.len());
}
