//! The list of nodes: a key-value bucket of JetStream. Every change is a compare-and-set on one key; the stream behind the bucket
//! puts all changes into one order, which is the same for all nodes.

use std::time::Duration;

use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::node::Node;
use super::silence::Answers;
use super::{Config, Error};
use crate::log::config::Nats as NatsConfig;
use crate::log::nats::ack::{Ack, ApiError};
use crate::log::nats::{answered_apart, bucket, in_time, is_connected, last_of};

/// How long an entry stays that nobody renews and nobody removes. Whoever is dead is removed by the others long before.
const KEPT: Duration = Duration::from_secs(60);

/// Without a connection nothing is asked: the client would keep it, and send all that was asked during an outage at its end.
const NOT_CONNECTED: &str = "there is no connection to NATS";

#[derive(Debug)]
pub(super) struct Bucket {
    client: Client,
    name: String,
    timeout: Duration,
    /// After this time what is not answered is asked again.
    again: Duration,
    answers: Answers,
}

/// A key of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Where in the stream its last message is.
    pub(super) revision: u64,
    /// `None`: the node was removed.
    pub(super) node: Option<Node>,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changed {
    /// It is stored there.
    Stored(u64),
    /// The key had another message.
    Conflict,
    /// It is not known to be stored, and why.
    Unknown(String),
}

impl Bucket {
    /// Makes the bucket if it is not there.
    pub(super) async fn open(client: Client, settings: &NatsConfig, config: &Config) -> Result<Self, Error> {
        let name = format!("{}-nodes", settings.prefix);
        let made = bucket::ensure(&client, settings, &name, "nodes of tertulia", KEPT).await;
        made.map_err(|cause| Error::Bucket { what: "make", bucket: name.clone(), cause })?;
        // Between two renewals and the end of the lease there is time for two that get lost.
        let again = config.lease.saturating_sub(config.renew) / 3;
        Ok(Self { client, name, timeout: settings.timeout, again, answers: Answers::new() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// When NATS answered last, and how far away it is.
    pub(super) fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Gives the connection up for another one, if it seems to be there.
    pub(super) async fn reconnect(&self) {
        if !is_connected(&self.client) {
            return;
        }
        match in_time(self.timeout, self.client.force_reconnect()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the connection to NATS is gone already"),
            Err(error) => tracing::debug!(%error, "the connection to NATS takes nothing"),
        }
    }

    /// How often there was another connection.
    pub(super) fn connections(&self) -> u64 {
        self.client.statistics().connects.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// All keys, as some replica has them.
    pub(super) async fn entries(&self) -> Result<Vec<Entry>, String> {
        let stream = format!("KV_{}", self.name);
        let prefix = format!("$KV.{}.", self.name);
        let filter = format!("{prefix}>");
        let ask = || async {
            let asked = Instant::now();
            let found = last_of(&self.client, self.timeout, &stream, &filter).await?;
            self.answers.heard_since(asked);
            Ok::<_, String>(found)
        };
        if !is_connected(&self.client) {
            return Err(NOT_CONNECTED.to_owned());
        }
        let found = until_answered(self.again, Result::is_ok, ask).await?;
        let entry = |(subject, revision, payload): (String, u64, Bytes)| {
            let key = subject.strip_prefix(&prefix)?.to_owned();
            let node = serde_json::from_slice(&payload).ok();
            Some(Entry { key, revision, node })
        };
        Ok(found.into_iter().filter_map(entry).collect())
    }

    /// Writes an entry if the last message of its key is `expected` (0: there is none).
    pub(super) async fn put(&self, key: &str, expected: u64, node: &Node) -> Changed {
        match serde_json::to_vec(node) {
            Ok(payload) => self.change(key, expected, HeaderMap::new(), payload.into()).await,
            Err(error) => Changed::Unknown(error.to_string()),
        }
    }

    /// Removes an entry if its last message is `expected`.
    pub(super) async fn remove(&self, key: &str, expected: u64) -> Changed {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        self.change(key, expected, headers, Bytes::new()).await
    }

    /// Whichever of the changes that are sent is stored first is the one that counts: the others find another revision than they expect. So if
    /// the first was stored, and its answer alone was lost, the second meets a conflict. While the first is being stored the second may be
    /// refused for that, which says nothing.
    async fn change(&self, key: &str, expected: u64, mut headers: HeaderMap, payload: Bytes) -> Changed {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", KEPT.as_secs()));
        if !is_connected(&self.client) {
            return Changed::Unknown(NOT_CONNECTED.to_owned());
        }
        let counts = |changed: &Changed| !matches!(changed, Changed::Unknown(_));
        until_answered(self.again, counts, || self.change_once(key, headers.clone(), payload.clone())).await
    }

    async fn change_once(&self, key: &str, headers: HeaderMap, payload: Bytes) -> Changed {
        let request = Request::new().headers(headers).payload(payload).timeout(None);
        let request = answered_apart(&self.client, request);
        let asked = Instant::now();
        let asking = self.client.send_request(format!("$KV.{}.{key}", self.name), request);
        let answer = match in_time(self.timeout, asking).await {
            Ok(answer) => answer,
            Err(silent) => return Changed::Unknown(silent.0),
        };
        if answer.as_ref().err().is_none_or(|error| error.kind() == RequestErrorKind::NoResponders) {
            self.answers.heard_since(asked);
        }
        match answer {
            Ok(answer) => match serde_json::from_slice::<Ack>(&answer.payload) {
                Ok(Ack { error: None, seq }) => Changed::Stored(seq),
                Ok(Ack { error: Some(ApiError { err_code: 10071, .. }), .. }) => Changed::Conflict,
                Ok(Ack { error: Some(error), .. }) => Changed::Unknown(error.to_string()),
                Err(error) => Changed::Unknown(error.to_string()),
            },
            Err(error) => Changed::Unknown(error.to_string()),
        }
    }
}

/// Asks, and once more after each such time, until the first question is answered, or one after it in a way that `counts`. One that is lost
/// would otherwise keep the next waiting for as long as an answer may take where NATS is far away. Each question is over in time, and so are
/// all together.
async fn until_answered<T, F: Future<Output = T>>(
    again: Duration,
    counts: impl Fn(&T) -> bool,
    mut ask: impl FnMut() -> F,
) -> T {
    // A question is large, and who asks waits for others besides.
    let mut first = Box::pin(ask());
    let mut more = FuturesUnordered::new();
    loop {
        tokio::select! {
            answer = &mut first => return answer,
            Some(answer) = more.next() => if counts(&answer) {
                return answer;
            },
            () = tokio::time::sleep(again) => more.push(ask()),
        }
    }
}
