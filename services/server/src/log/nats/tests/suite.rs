//! The suite of all engines, on one server and on three.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::OnceCell;

use super::{Config, Servers, config, open_and_take};
use crate::log::Log;
use crate::log::conformance::{Engine, conformance};

struct OneServer(OnceCell<Servers>);

impl Engine for OneServer {
    const DURABLE: bool = true;

    fn new() -> Self {
        Self(OnceCell::new())
    }

    async fn open(&self) -> Arc<dyn Log> {
        let servers = self.0.get_or_init(|| Servers::start(1, "")).await;
        Arc::new(open_and_take(&config(&servers.urls())).await)
    }
}

conformance!(OneServer);

/// A deployment of its own on the cluster whose URLs the test has put here.
struct ThreeServers(Config);

static CLUSTER: Mutex<String> = Mutex::new(String::new());
static DEPLOYMENTS: AtomicU32 = AtomicU32::new(0);

impl Engine for ThreeServers {
    const DURABLE: bool = true;

    fn new() -> Self {
        let number = DEPLOYMENTS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("deployment-{number}");
        Self(Config { prefix, replicas: 3, ..config(&CLUSTER.lock().unwrap()) })
    }

    async fn open(&self) -> Arc<dyn Log> {
        Arc::new(open_and_take(&self.0).await)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_pass_the_suite() {
    let servers = Servers::start(3, "").await;
    CLUSTER.lock().unwrap().push_str(&servers.urls());
    conformance!(in one: ThreeServers);
}
