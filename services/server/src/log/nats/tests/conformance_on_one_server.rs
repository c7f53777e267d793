//! The suite of all engines.

use std::sync::Arc;

use super::{Servers, config, open_and_take};
use crate::log::Log;
use crate::log::conformance::{Engine, conformance};

struct OneServer(tokio::sync::OnceCell<Servers>);

impl Engine for OneServer {
    const DURABLE: bool = true;

    fn new() -> Self {
        Self(tokio::sync::OnceCell::new())
    }

    async fn open(&self) -> Arc<dyn Log> {
        let servers = self.0.get_or_init(|| Servers::start(1, "")).await;
        Arc::new(open_and_take(&config(&servers.urls())).await)
    }
}

conformance!(OneServer);
