//! How shards of different nodes reach each other: subjects of core NATS.
//!
//! ```text
//! ask   <prefix>.shard.<shard>   requests to the owner of a shard, which answers
//! tell  <prefix>.live.<shard>    what the owner tells those that follow the shard
//! desk  <prefix>.node.<name>     questions to one node, see `desk`
//! call  <prefix>.call.<name>     a call of the admin API: its name, a line feed, its request; the answer begins with 1, or it is 0
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::BoxStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::desk::{Answer, Question};
use super::membership::View;
use super::metrics::{self, Counter};
use crate::log::config::Nats as NatsConfig;
use crate::log::nats::{answered_apart, in_time};
use crate::shard::map::shard_of;
use crate::shard::peers::{AnswerTo, Asked, Peers, Silence};
use crate::shard::{Covered, Listed, Part, ReadError, Untold};

/// Messages that wait to be sent.
const OUTGOING: usize = 8_192;
/// After this time it is said again that messages cannot be sent.
const SAID: Duration = Duration::from_secs(10);
/// Bytes of a group in a list at most: the longest name, each byte of it escaped, and what is told of it.
const LISTED: usize = 1_000;
/// Bytes at most of what is told with a page of groups: a number of 64 bits for each 64 of as many shards as there may be.
const COVERS: usize = 1_024 * 21 + 200;

pub(super) struct Link {
    client: Client,
    prefix: String,
    timeout: Duration,
    view: watch::Receiver<Arc<View>>,
    name: String,
    /// To one task, which keeps their order.
    outgoing: mpsc::Sender<(String, Bytes)>,
    dropped: Counter,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn new(
        client: Client,
        settings: &NatsConfig,
        view: watch::Receiver<Arc<View>>,
        name: &str,
        tasks: &TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let (outgoing, queue) = mpsc::channel(OUTGOING);
        let dropped = metrics::dropped();
        tasks.spawn(send(client.clone(), queue, dropped.clone(), stop));
        let (prefix, timeout) = (settings.prefix.clone(), settings.timeout);
        Self { client, prefix, timeout, view, name: name.to_owned(), outgoing, dropped }
    }

    /// Bytes that a message may have.
    pub(super) fn frame_bytes(&self) -> usize {
        self.client.max_payload()
    }

    /// Where questions to this node come in.
    pub(super) async fn questions(&self) -> Result<Subscriber, async_nats::SubscribeError> {
        self.client.subscribe(format!("{}.node.{}", self.prefix, self.name)).await
    }

    /// Where calls to this node come in.
    pub(super) async fn calls(&self) -> Result<Subscriber, async_nats::SubscribeError> {
        self.client.subscribe(format!("{}.call.{}", self.prefix, self.name)).await
    }

    /// Makes a call on one node.
    pub(super) async fn call(&self, name: &str, call: &str, payload: &[u8]) -> Result<Bytes, Silence> {
        let frame = [call.as_bytes(), b"\n", payload].concat();
        let asking = request(&self.client, format!("{}.call.{name}", self.prefix), frame.into(), self.timeout);
        let answer = while_there(self.view.clone(), name, asking).await?;
        match answer.first() {
            Some(1) => Ok(answer.slice(1..)),
            _ => Err(Silence::NoAnswer("the node cannot answer the call".to_owned())),
        }
    }

    /// The names of all other nodes.
    pub(super) fn others(&self) -> Vec<String> {
        let view = self.view.borrow();
        view.nodes.iter().map(|node| node.name.clone()).filter(|name| *name != self.name).collect()
    }

    /// Whether a node is there and is not about to stop.
    pub(super) fn stays(&self, name: &str) -> bool {
        self.view.borrow().nodes.iter().any(|node| node.name == name && !node.leaving)
    }

    pub(super) fn send(&self, subject: String, payload: Bytes) {
        if self.outgoing.try_send((subject, payload)).is_err() {
            self.dropped.increment(1);
        }
    }

    /// Asks one node.
    pub(super) async fn ask_node(&self, name: &str, question: &Question, timeout: Duration) -> Result<Answer, Silence> {
        let failed = |error: serde_json::Error| Silence::NoAnswer(error.to_string());
        let payload = serde_json::to_vec(question).map_err(failed)?;
        let answer = request(&self.client, format!("{}.node.{name}", self.prefix), payload.into(), timeout).await?;
        serde_json::from_slice(&answer).map_err(failed)
    }
}

async fn request(client: &Client, subject: String, payload: Bytes, timeout: Duration) -> Result<Bytes, Silence> {
    let request = answered_apart(client, Request::new().payload(payload).timeout(None));
    match in_time(timeout, client.send_request(subject, request)).await {
        Ok(Ok(answer)) => Ok(answer.payload),
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => Err(Silence::Nobody),
        Ok(Err(error)) => Err(Silence::NoAnswer(error.to_string())),
        Err(silent) => Err(Silence::NoAnswer(silent.0)),
    }
}

/// The task of a shard waits for it: without a connection that would otherwise be for as long as there is none.
async fn subscribe(client: &Client, subject: String, timeout: Duration) -> Result<Subscriber, Silence> {
    match in_time(timeout, client.subscribe(subject)).await {
        Ok(Ok(subscriber)) => Ok(subscriber),
        Ok(Err(error)) => Err(Silence::NoAnswer(error.to_string())),
        Err(silent) => Err(Silence::NoAnswer(silent.0)),
    }
}

/// Waits for an answer of a node for as long as that is in the list.
async fn while_there<T>(
    mut view: watch::Receiver<Arc<View>>,
    node: &str,
    answer: impl Future<Output = Result<T, Silence>>,
) -> Result<T, Silence> {
    tokio::select! {
        biased;
        answer = answer => answer,
        // Whatever it would say, others have its shards.
        _ = view.wait_for(|view| !view.has(node)) => Err(Silence::Nobody),
    }
}

/// The question for a page of the groups of one node.
struct GroupsOf {
    client: Client,
    view: watch::Receiver<Arc<View>>,
    node: String,
    subject: String,
    timeout: Duration,
    prefix: String,
    /// Groups in an answer, which must fit into one message.
    page: usize,
}

impl GroupsOf {
    /// The first `limit` groups after `after`, in as many pages as it takes.
    async fn all(self, mut after: Option<String>, limit: usize) -> Result<Part, Untold> {
        let mut groups: Vec<Listed> = Vec::new();
        let mut covers: Option<Covered> = None;
        while groups.len() < limit {
            let limit = self.page.min(limit - groups.len());
            let page = self.page(after, limit).await?;
            let is_end = page.groups.len() < limit;
            groups.extend(page.groups);
            match &mut covers {
                Some(covers) => covers.intersect(&page.covers),
                None => covers = Some(page.covers),
            }
            after = groups.last().map(|group| group.name.as_str().to_owned());
            if is_end {
                break;
            }
        }
        Ok(Part { groups, covers: covers.unwrap_or_default() })
    }

    async fn page(&self, after: Option<String>, limit: usize) -> Result<Part, Untold> {
        let node = &self.node;
        let silent = |why: String| Untold::Silent { node: node.clone(), why };
        let question = Question::Groups { prefix: self.prefix.clone(), after, limit };
        let payload = serde_json::to_vec(&question).map_err(|error| silent(error.to_string()))?;
        let asking = request(&self.client, self.subject.clone(), payload.into(), self.timeout);
        let answer = while_there(self.view.clone(), node, asking).await;
        let answer = answer.map_err(|silence| silent(silence.to_string()))?;
        match serde_json::from_slice(&answer) {
            Ok(Answer::Groups { groups, shards, covers }) => {
                let listed = |listing| {
                    let listed = Listed::told(listing, 0);
                    let shard = shard_of(&listed.name, shards);
                    Listed::told(listed.tell(), shard)
                };
                // Of a build that does not tell, as many as it has by the list of nodes.
                let by_map = || self.view.borrow().map(shards).owned_by(node).collect();
                Ok(Part { groups: groups.into_iter().map(listed).collect(), covers: covers.unwrap_or_else(by_map) })
            }
            Ok(Answer::Failed { why }) => Err(ReadError { reason: format!("node '{node}': {why}") }.into()),
            Ok(_) => Err(silent("an answer that is none".to_owned())),
            Err(error) => Err(silent(error.to_string())),
        }
    }
}

async fn send(client: Client, mut queue: mpsc::Receiver<(String, Bytes)>, dropped: Counter, stop: CancellationToken) {
    let mut said: Option<Instant> = None;
    let sending = async {
        while let Some((subject, payload)) = queue.recv().await {
            let bytes = payload.len();
            let Err(error) = client.publish(subject, payload).await else { continue };
            dropped.increment(1);
            if said.is_none_or(|said| said.elapsed() > SAID) {
                said = Some(Instant::now());
                tracing::warn!(%error, bytes, "a frame for other nodes could not be sent");
            }
        }
    };
    stop.run_until_cancelled(sending).await;
}

impl Peers for Link {
    fn ask(&self, shard: u16, frame: Bytes) -> BoxFuture<'static, Result<Bytes, Silence>> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let subject = format!("{}.shard.{shard}", self.prefix);
        Box::pin(async move { request(&client, subject, frame, timeout).await })
    }

    fn asked(&self, shard: u16) -> BoxFuture<'static, Result<BoxStream<'static, Asked>, Silence>> {
        let (client, outgoing, dropped) = (self.client.clone(), self.outgoing.clone(), self.dropped.clone());
        let (subject, timeout) = (format!("{}.shard.{shard}", self.prefix), self.timeout);
        Box::pin(async move {
            let asked = subscribe(&client, subject, timeout).await?;
            let asked = asked.map(move |message| {
                let (outgoing, dropped) = (outgoing.clone(), dropped.clone());
                let answer: AnswerTo = Box::new(move |payload| {
                    let sent = message.reply.map(|reply| outgoing.try_send((reply.to_string(), payload)));
                    if sent.is_some_and(|sent| sent.is_err()) {
                        dropped.increment(1);
                    }
                });
                Asked { frame: message.payload, answer }
            });
            Ok(asked.boxed())
        })
    }

    fn tell(&self, shard: u16, frame: Bytes) {
        self.send(format!("{}.live.{shard}", self.prefix), frame);
    }

    fn are_there(&self) -> bool {
        self.view.borrow().nodes.iter().any(|node| node.name != self.name)
    }

    fn told(&self, shard: u16) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, Silence>> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let subject = format!("{}.live.{shard}", self.prefix);
        Box::pin(async move {
            let told = subscribe(&client, subject, timeout).await?;
            Ok(told.map(|message| message.payload).boxed())
        })
    }

    fn groups(&self, prefix: &str, after: Option<&str>, limit: usize) -> BoxFuture<'static, (Part, Option<Untold>)> {
        let page = (self.client.max_payload().saturating_sub(COVERS) / LISTED).max(1);
        let asked = self.others().into_iter().map(|node| {
            let (client, view, timeout, prefix) =
                (self.client.clone(), self.view.clone(), self.timeout, prefix.to_owned());
            let subject = format!("{}.node.{node}", self.prefix);
            GroupsOf { client, view, node, subject, timeout, prefix, page }.all(after.map(str::to_owned), limit)
        });
        let asked: Vec<_> = asked.collect();
        Box::pin(async move {
            let (mut all, mut untold) = (Part::default(), None);
            for part in join_all(asked).await {
                match part {
                    Ok(Part { groups, covers }) => {
                        all.groups.extend(groups);
                        all.covers.unite(&covers);
                    }
                    Err(error) => untold = Some(error),
                }
            }
            (all, untold)
        })
    }
}
