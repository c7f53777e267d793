//! Several real servers that are one, over real NATS servers, with a proxy between each of the former and each of the latter.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::client::Connector;
use crate::deadline::poll_until;
use crate::metrics::Metrics;
use crate::nats::Nats;
use crate::proxy::{Carriage, Proxy, Rewrite};
use crate::server::{Server, ServerOptions};

/// How long a cluster may take to agree. Far above what it takes, also on a busy machine.
pub const AGREEING: Duration = Duration::from_secs(60);

/// The servers and what is between them.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes; one that was killed stays in its place.
    pub nodes: Vec<Server>,
    /// What they share.
    pub nats: Nats,
    proxies: Vec<Vec<Proxy>>,
    options: ServerOptions,
}

impl Cluster {
    /// `nodes` nodes on `servers` NATS servers, each with `options`.
    ///
    /// # Errors
    /// If one does not start, or they do not agree.
    pub async fn start(nodes: usize, servers: usize, options: ServerOptions) -> Result<Self> {
        Self::start_on(Nats::start(servers).await?, nodes, options).await
    }

    /// As [`Cluster::start`], on NATS servers that are there.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_on(nats: Nats, nodes: usize, options: ServerOptions) -> Result<Self> {
        let servers = nats.count();
        let replicas = if servers >= 3 { 3 } else { 1 };
        let options = options.argument("--engine").argument("nats").set("nats.replicas", replicas);
        let mut cluster = Self { nodes: Vec::new(), nats, proxies: Vec::new(), options };
        for _ in 0..nodes {
            cluster.add().await?;
        }
        cluster.agreed(nodes).await?;
        Ok(cluster)
    }

    /// Starts one more node; answers its place.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn add(&mut self) -> Result<usize> {
        self.add_with(|options| options, None).await
    }

    /// Starts one more node, with other options, and with its messages changed on their way to NATS; answers its place.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn add_with(
        &mut self,
        change: impl FnOnce(ServerOptions) -> ServerOptions,
        rewrite: Option<Rewrite>,
    ) -> Result<usize> {
        let place = self.nodes.len();
        let (proxies, options) = self.way(place, rewrite).await?;
        self.nodes.push(change(options).start().await.with_context(|| format!("start {}", name(place)))?);
        self.proxies.push(proxies);
        Ok(place)
    }

    /// Starts one more node, which is to refuse that; answers what it said.
    ///
    /// # Errors
    /// If it starts, or ends as if all were well.
    pub async fn add_refused(&self) -> Result<String> {
        let (_proxies, options) = self.way(self.nodes.len(), None).await?;
        let (status, said) = options.refused().await?;
        ensure!(status.code() == Some(1), "{status}: {said}");
        Ok(said)
    }

    /// The proxies of the node in a place, and how it is started.
    async fn way(&self, place: usize, rewrite: Option<Rewrite>) -> Result<(Vec<Proxy>, ServerOptions)> {
        let mut proxies = Vec::new();
        for server in 0..self.nats.count() {
            // Each node prefers another server.
            let address = self.nats.address((place + server) % self.nats.count());
            proxies.push(Proxy::start_rewriting(address, rewrite.clone()).await?);
        }
        let urls: Vec<String> = proxies.iter().map(|proxy| format!("nats://{}", proxy.address())).collect();
        let options = self.options.clone().set("nats.urls", urls.join(",")).set("cluster.node_id", name(place));
        Ok((proxies, options))
    }

    /// Makes clients of one node. All clients of a test share what they see alike, so they have one origin.
    #[must_use]
    pub fn connector(&self, place: usize) -> Connector {
        self.nodes[place].connector()
    }

    /// Where a node listens for clients.
    #[must_use]
    pub fn chat(&self, place: usize) -> SocketAddr {
        self.nodes[place].chat()
    }

    /// Cuts a node off from NATS, or ends that.
    pub fn set_carriage(&self, place: usize, carriage: Carriage) {
        self.proxies[place].iter().for_each(|proxy| proxy.set(carriage));
    }

    /// Waits until `nodes` nodes are there and each knows all of them, they go by the same map, and own all shards between them, each one
    /// node's alone, and two looks in a row have seen the same.
    ///
    /// # Errors
    /// If that takes too long.
    pub async fn agreed(&mut self, nodes: usize) -> Result<()> {
        let mut alive = Vec::new();
        for (place, node) in self.nodes.iter_mut().enumerate() {
            if !node.has_ended()? {
                alive.push(place);
            }
        }
        self.agreed_among(alive, nodes).await
    }

    /// As [`Cluster::agreed`], of the nodes in these places: others do not answer now.
    ///
    /// # Errors
    /// As [`Cluster::agreed`].
    pub async fn agreed_among(&self, places: impl IntoIterator<Item = usize>, nodes: usize) -> Result<()> {
        let alive: Vec<SocketAddr> = places.into_iter().map(|place| self.nodes[place].http()).collect();
        let alive = &alive;
        // Nodes are asked one after the other, and meanwhile shards may move: only what is so twice is so.
        let last = Mutex::new(None);
        let last = &last;
        poll_until(AGREEING, "the nodes to agree", || async move {
            let before = last.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut seen = Vec::new();
            for http in alive {
                let scrape = match Metrics::scrape(*http).await {
                    Ok(scrape) => scrape,
                    Err(error) => return Ok(Some(format!("{http}: {error}"))),
                };
                let value = |name: &str| scrape.sum(name, &[]).unwrap_or(-1.0);
                if value("tertulia_cluster_nodes") != nodes as f64 {
                    return Ok(Some(format!("{http} knows {} nodes", value("tertulia_cluster_nodes"))));
                }
                let (owned, held) = (value("tertulia_shards_owned"), value("tertulia_log_nats_shards_held"));
                seen.push((value("tertulia_shard_map_version"), owned, held));
            }
            let all: (f64, f64) = seen.iter().fold((0.0, 0.0), |sum, (_, owned, held)| (sum.0 + owned, sum.1 + held));
            let agreed = seen.windows(2).all(|pair| pair[0].0 == pair[1].0) && all == (1024.0, 1024.0);
            let is_so = agreed && before.as_ref() == Some(&seen);
            let instead = format!("map versions, shards owned and shards held are {seen:?}, before {before:?}");
            *last.lock().unwrap_or_else(PoisonError::into_inner) = agreed.then_some(seen);
            Ok((!is_so).then_some(instead))
        })
        .await
    }
}

/// The name of the node in a place.
#[must_use]
pub fn name(place: usize) -> String {
    format!("node-{place}")
}
