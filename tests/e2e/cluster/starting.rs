//! What ends while it starts.

use std::time::Duration;

use anyhow::{Result, ensure};
use harness::ServerOptions;
use harness::metrics::Metrics;
use harness::nats::Nats;
use harness::proxy::{Carriage, Proxy};

use crate::machine;

/// How far NATS is away, so that a node takes its shards one after the other.
const EACH_WAY: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_stopped_before_it_has_its_shards_waits_for_no_load_balancer() -> Result<()> {
    let _machine = machine().await;
    let nats = Nats::start(1).await?;
    let proxy = Proxy::start(nats.address(0)).await?;
    proxy.set(Carriage::Slow(EACH_WAY));
    let [admin, http] = [free_address().await?, free_address().await?];
    let options = ServerOptions::new().argument("--engine").argument("nats");
    let options = options.argument("--admin").argument(admin.to_string()).argument("--http").argument(http.to_string());
    let options = options.set("nats.urls", format!("nats://{}", proxy.address())).set("nats.replicas", 1);
    let options = options.set("drain.delay", "60s").set("drain.grace", "90s");
    let has_some = async {
        let owned = async || Metrics::scrape(http).await.ok()?.sum("tertulia_shards_owned", &[]);
        while owned().await.is_none_or(|owned| owned < 1.0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        ensure!(tokio::net::TcpStream::connect(admin).await.is_err(), "it has begun to listen");
        Ok(())
    };
    let status = options.terminated_starting(has_some, Duration::from_secs(30)).await?;
    ensure!(status.code() == Some(0), "{status}");
    Ok(())
}

/// An address at which nobody listens now.
async fn free_address() -> Result<std::net::SocketAddr> {
    Ok(tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?)
}
