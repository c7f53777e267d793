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
use crate::shard::Listed;
use crate::shard::map::shard_of;
use crate::shard::peers::{AnswerTo, Asked, Peers, Silence};
use crate::shard::{ReadError, Untold};

/// Messages that wait to be sent.
const OUTGOING: usize = 8_192;
/// After this time it is said again that messages cannot be sent.
const SAID: Duration = Duration::from_secs(10);
/// Bytes of a group in a list at most: the longest name, each byte of it escaped, and what is told of it.
const LISTED: usize = 1_000;

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
        let answer = request(&self.client, format!("{}.call.{name}", self.prefix), frame.into(), self.timeout).await?;
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

/// A page of the groups of one node.
async fn groups_of(
    client: &Client,
    node: &str,
    subject: String,
    question: &Question,
    timeout: Duration,
) -> Result<Vec<Listed>, Untold> {
    let silent = |why: String| Untold::Silent { node: node.to_owned(), why };
    let payload = serde_json::to_vec(question).map_err(|error| silent(error.to_string()))?;
    let answer = request(client, subject, payload.into(), timeout).await;
    let answer = answer.map_err(|silence| silent(silence.to_string()))?;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Groups { groups, shards }) => {
            let listed = |listing| {
                let listed = Listed::told(listing, 0);
                let shard = shard_of(&listed.name, shards);
                Listed::told(listed.tell(), shard)
            };
            Ok(groups.into_iter().map(listed).collect())
        }
        Ok(Answer::Failed { why }) => Err(ReadError { reason: format!("node '{node}': {why}") }.into()),
        Ok(_) => Err(silent("an answer that is none".to_owned())),
        Err(error) => Err(silent(error.to_string())),
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

    fn groups(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> BoxFuture<'static, Result<Vec<Listed>, Untold>> {
        // An answer must fit into one message.
        let page = (self.client.max_payload() / LISTED).max(1);
        let asked = self.others().into_iter().map(|name| {
            let (client, timeout, subject) =
                (self.client.clone(), self.timeout, format!("{}.node.{name}", self.prefix));
            let (prefix, mut after) = (prefix.to_owned(), after.map(str::to_owned));
            async move {
                let mut all: Vec<Listed> = Vec::new();
                while all.len() < limit {
                    let limit = page.min(limit - all.len());
                    let question = Question::Groups { prefix: prefix.clone(), after, limit };
                    let groups = groups_of(&client, &name, subject.clone(), &question, timeout).await?;
                    let is_end = groups.len() < limit;
                    all.extend(groups);
                    after = all.last().map(|group| group.name.as_str().to_owned());
                    if is_end {
                        break;
                    }
                }
                Ok(all)
            }
        });
        let asked: Vec<_> = asked.collect();
        Box::pin(async move {
            let mut all = Vec::new();
            for groups in join_all(asked).await {
                let groups: Result<Vec<Listed>, Untold> = groups;
                all.extend(groups?);
            }
            Ok(all)
        })
    }
}
