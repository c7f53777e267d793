//! What is said to JetStream: publishing under a fence, direct gets, purges.
//!
//! Every answer is waited for `nats.timeout`, and so is that the client takes the question. What an answer that does not come means is for
//! the caller to find out.

use std::fmt;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE,
};
use async_nats::jetstream::{self, stream::LastRawMessageErrorKind};
use async_nats::{Client, HeaderMap, Request, RequestErrorKind, StatusCode};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::ack::{Ack, ApiError};
use super::subject::Names;
use crate::causes::on_one_line;

/// The subject to which the expected sequence of a fence belongs.
const EXPECTED_SUBJECT: &str = "Nats-Expected-Last-Subject-Sequence-Subject";

/// Messages of one atomic batch at most: a limit of the server.
pub(crate) const BATCH: usize = 1_000;

/// One connection, and the names of one deployment.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) client: Client,
    pub(crate) names: Names,
    pub(crate) timeout: Duration,
    /// Servers that keep a copy of each stream.
    pub(crate) replicas: u16,
}

/// The end of a publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Published {
    /// All is stored; where the last message is in the stream.
    Stored(u64),
    /// Nothing is stored: the fence is another.
    Fenced,
    /// Nothing is stored: the stream cannot compare just now.
    Busy,
    /// Nothing is stored: the server did not take all messages of the batch. It had no room for one by itself, or for one more batch, or was
    /// not the leader when the first came.
    Incomplete(String),
    /// Nothing is stored, and why.
    Refused(String),
    /// The server that answers has no room for it. It may say so after the replicas have agreed on the message, and for itself alone: then
    /// others store it. Nor does it say how much of a batch it has stored by then.
    Full(String),
    /// It may be stored, now or later.
    Unknown(String),
}

/// A message of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) subject: String,
    /// Its sequence in the stream.
    pub(crate) position: u64,
    pub(crate) payload: Bytes,
}

/// Messages of a stream as one replica has them.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) messages: Vec<Stored>,
    /// The last sequence that the replica has taken in; 0 if it did not say.
    pub(crate) upto: u64,
    /// How many more there are, for which the answer had no room.
    pub(crate) pending: u64,
}

/// Why a question was not answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NoAnswer(pub(crate) String);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a client has a connection.
pub(crate) fn is_connected(client: &Client) -> bool {
    client.connection_state() == State::Connected
}

/// Waits for an answer of NATS no longer than `timeout`. What the client itself waits for begins only when it has taken the question: while
/// there is no connection it takes no more than its queue holds, and who asks waits for the end of the outage.
pub(crate) async fn in_time<T>(timeout: Duration, asking: impl Future<Output = T>) -> Result<T, NoAnswer> {
    tokio::time::timeout(timeout, asking).await.map_err(|_| NoAnswer(format!("NATS did not answer within {timeout:?}")))
}

/// Has a question answered on an inbox of its own. Of what is asked by way of the inbox of all the client keeps something until there is an
/// answer, for good if there is none: so that one is for posts alone, each of which is asked once, and not for what is asked again and again
/// where nobody answers.
pub(crate) fn answered_apart(client: &Client, request: Request) -> Request {
    request.inbox(client.new_inbox())
}

fn storing(headers: HeaderMap, payload: Bytes) -> Request {
    Request::new().headers(headers).payload(payload).timeout(None)
}

/// What a direct get asks for.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Get {
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) seq: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) next_by_subj: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) last_by_subj: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) multi_last: Vec<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) batch: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) max_bytes: u64,
}

/// A question that says nothing more.
#[derive(Serialize)]
struct Nothing {}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Debug, Deserialize)]
struct Info {
    state: InfoState,
    /// Subjects in all pages.
    #[serde(default)]
    total: usize,
    /// Of a server that is in no cluster it says the same as of a leader, or is not there.
    cluster: Option<InfoCluster>,
}

#[derive(Debug, Deserialize)]
struct InfoCluster {
    leader: Option<String>,
}

/// Whether it is a leader that says what it says of a stream. Where there is none a replica answers: it may lack what others have stored, and
/// nobody can store anything.
pub(super) fn is_led(leader: Option<&str>) -> bool {
    leader.is_some_and(|leader| !leader.is_empty())
}

#[derive(Debug, Deserialize)]
struct InfoState {
    last_seq: u64,
    #[serde(default)]
    bytes: u64,
    subjects: Option<std::collections::HashMap<String, u64>>,
}

impl From<Ack> for Published {
    fn from(ack: Ack) -> Self {
        match ack.error {
            None => Self::Stored(ack.seq),
            Some(ApiError { err_code: 10071, .. }) => Self::Fenced,
            // The fence's subject is in use, the leader is new, or there are too many batches at once.
            Some(ApiError { err_code: 10163 | 10164 | 10167 | 10210 | 10211, .. }) => Self::Busy,
            Some(error @ ApiError { err_code: 10176, .. }) => Self::Incomplete(error.to_string()),
            // The limits of the server, of the account, and of its memory or files.
            Some(error @ ApiError { err_code: 10002 | 10023 | 10028 | 10047, .. }) => Self::Full(error.to_string()),
            // The server could not store it, and does not say how far it came.
            Some(error @ ApiError { err_code: 10077, .. }) => Self::Unknown(error.to_string()),
            Some(error) => Self::Refused(error.to_string()),
        }
    }
}

impl Link {
    /// Publishes messages only if the last message on the shard's fence is `fence`: all are stored, or none, or nothing is said and it may be
    /// a part, where there was room for no more.
    pub(crate) async fn publish(&self, shard: u16, fence: u64, messages: &[(String, Bytes)]) -> Published {
        let Some(((last_subject, last), before)) = messages.split_last() else { return Published::Stored(0) };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, fence.to_string());
        headers.insert(EXPECTED_SUBJECT, self.names.fence(shard));
        if before.is_empty() {
            return self.commit(last_subject, storing(headers, last.clone())).await;
        }
        let id = self.client.new_inbox();
        // The part after the prefix is unique; the server takes at most 64 bytes.
        let id = id.rsplit('.').next().unwrap_or_default().to_owned();
        let member = |mut headers: HeaderMap, number: usize| {
            headers.insert(NATS_BATCH_ID, id.as_str());
            headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
            headers
        };
        let sending = async {
            for (index, (subject, payload)) in before.iter().enumerate() {
                let headers = member(std::mem::take(&mut headers), index + 1);
                self.client.publish_with_headers(subject.clone(), headers, payload.clone()).await?;
            }
            Ok::<(), async_nats::PublishError>(())
        };
        // Without its last message a batch is nothing.
        match in_time(self.timeout, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Published::Refused(on_one_line(&error)),
            Err(_) => return Published::Refused("NATS takes no more".to_owned()),
        }
        let mut headers = member(HeaderMap::new(), messages.len());
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
        self.commit(last_subject, storing(headers, last.clone())).await
    }

    /// Takes the fence: publishes on its subject if the last message there is `expected`.
    pub(crate) async fn publish_fence(&self, shard: u16, expected: u64, payload: Bytes) -> Published {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        self.store_by_itself(&self.names.fence(shard), headers, payload).await
    }

    /// Publishes one message that is none of a group.
    pub(super) async fn store_by_itself(&self, subject: &str, headers: HeaderMap, payload: Bytes) -> Published {
        self.commit(subject, answered_apart(&self.client, storing(headers, payload))).await
    }

    /// Publishes one message, and waits for its answer.
    async fn commit(&self, subject: &str, request: Request) -> Published {
        match in_time(self.timeout, self.client.send_request(subject.to_owned(), request)).await {
            Ok(Ok(answer)) => match serde_json::from_slice::<Ack>(&answer.payload) {
                Ok(ack) => ack.into(),
                Err(error) => Published::Unknown(format!("an answer that is none: {error}")),
            },
            Ok(Err(error)) => match error.kind() {
                // Nobody was there to take it.
                RequestErrorKind::NoResponders => Published::Refused("no server answers for the stream".to_owned()),
                RequestErrorKind::InvalidSubject | RequestErrorKind::MaxPayloadExceeded => {
                    Published::Refused(on_one_line(&error))
                }
                RequestErrorKind::TimedOut | RequestErrorKind::Other => Published::Unknown(on_one_line(&error)),
            },
            // Whether the client had taken it is not known either.
            Err(silent) => Published::Unknown(silent.0),
        }
    }

    /// One message of a stream; `None` if there is none like that. Any replica answers: it may be behind.
    pub(crate) async fn get(&self, stream: u16, get: &Get) -> Result<Option<Stored>, NoAnswer> {
        let (subject, payload) = self.direct_get(stream, get)?;
        let answer = self.ask(subject, Request::new().payload(payload)).await?;
        match answer.status {
            None => stored(&answer).map(Some),
            Some(StatusCode::NOT_FOUND) => Ok(None),
            Some(status) => Err(NoAnswer(refusal(status, &answer))),
        }
    }

    /// The last message of a subject as the leader of the stream has it, who lacks none that was acknowledged; `None` if there is none.
    pub(crate) async fn last(&self, stream: u16, subject: &str) -> Result<Option<Stored>, NoAnswer> {
        let mut context = jetstream::new(self.client.clone());
        context.set_timeout(self.timeout);
        let failed = |error: &(dyn std::error::Error + 'static)| NoAnswer(on_one_line(error));
        let stream = context.get_stream_no_info(self.names.stream(stream)).await.map_err(|error| failed(&error))?;
        match in_time(self.timeout, stream.get_last_raw_message_by_subject(subject)).await? {
            Ok(last) => {
                Ok(Some(Stored { subject: last.subject.to_string(), position: last.sequence, payload: last.payload }))
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Many messages of a stream, all from one replica. Any replica answers: it may be behind.
    pub(crate) async fn get_many(&self, stream: u16, get: &Get) -> Result<Found, NoAnswer> {
        let (subject, payload) = self.direct_get(stream, get)?;
        Self::get_from(&self.client, self.timeout, subject, payload).await
    }

    /// Asks for many messages, and takes the answers.
    pub(super) async fn get_from(
        client: &Client,
        timeout: Duration,
        subject: String,
        payload: Bytes,
    ) -> Result<Found, NoAnswer> {
        let inbox = client.new_inbox();
        let failed = |error: &(dyn std::error::Error + 'static)| NoAnswer(on_one_line(error));
        let asking = async {
            let answers = client.subscribe(inbox.clone()).await.map_err(|error| failed(&error))?;
            client.publish_with_reply(subject, inbox, payload).await.map_err(|error| failed(&error))?;
            Ok(answers)
        };
        let mut answers = in_time(timeout, asking).await??;
        let mut found = Found::default();
        loop {
            // For each message anew: a large answer may take its time, but it must not stop.
            let answer = in_time(timeout, answers.next()).await?;
            let answer = answer.ok_or_else(|| NoAnswer("the connection is closed".to_owned()))?;
            match answer.status {
                None => found.messages.push(stored(&answer)?),
                // The end of a batch.
                Some(status) if status.as_u16() == 204 => {
                    found.upto = number(&answer, "Nats-UpTo-Sequence").unwrap_or(0);
                    found.pending = number(&answer, "Nats-Num-Pending").unwrap_or(0);
                    return Ok(found);
                }
                Some(StatusCode::NOT_FOUND) => return Ok(found),
                Some(status) => return Err(NoAnswer(refusal(status, &answer))),
            }
        }
    }

    fn direct_get(&self, stream: u16, get: &Get) -> Result<(String, Bytes), NoAnswer> {
        let payload = serde_json::to_vec(get).map_err(|error| NoAnswer(error.to_string()))?;
        Ok((format!("$JS.API.DIRECT.GET.{}", self.names.stream(stream)), payload.into()))
    }

    /// Removes what is on a subject before a position of the stream.
    pub(crate) async fn purge(&self, stream: u16, filter: &str, before: u64) -> Result<(), NoAnswer> {
        #[derive(Serialize)]
        struct Purge<'a> {
            filter: &'a str,
            seq: u64,
        }
        self.api::<serde_json::Value>("STREAM.PURGE", stream, &Purge { filter, seq: before }).await.map(drop)
    }

    /// Removes one message; that it is gone already is no fault.
    pub(crate) async fn remove(&self, stream: u16, position: u64) -> Result<(), NoAnswer> {
        self.delete(stream, position, true).await
    }

    /// The same, and what it held is overwritten where the servers keep it.
    pub(crate) async fn erase(&self, stream: u16, position: u64) -> Result<(), NoAnswer> {
        self.delete(stream, position, false).await
    }

    async fn delete(&self, stream: u16, position: u64, no_erase: bool) -> Result<(), NoAnswer> {
        #[derive(Serialize)]
        struct Remove {
            seq: u64,
            no_erase: bool,
        }
        let question = Remove { seq: position, no_erase };
        let removed = self.api::<serde_json::Value>("STREAM.MSG.DELETE", stream, &question).await;
        match removed {
            Ok(_) => Ok(()),
            // Somebody may have been quicker, and there is more than one way to say so.
            Err(error) => match self.has(stream, &Get { seq: position, ..Get::default() }).await? {
                true => Err(error),
                false => Ok(()),
            },
        }
    }

    /// Whether the leader of a stream has such a message.
    pub(crate) async fn has(&self, stream: u16, get: &Get) -> Result<bool, NoAnswer> {
        const NOT_FOUND: u64 = 10037;
        match self.ask_api::<serde_json::Value>("STREAM.MSG.GET", stream, get).await? {
            Ok(_) => Ok(true),
            Err(error) if error.err_code == NOT_FOUND => Ok(false),
            Err(error) => Err(NoAnswer(error.to_string())),
        }
    }

    /// The last sequence of a stream, as its leader has it.
    pub(crate) async fn newest(&self, stream: u16) -> Result<u64, NoAnswer> {
        Ok(self.info(stream, &Nothing {}).await?.state.last_seq)
    }

    /// The subjects of a stream that a filter takes, how many messages each has, and the stream's last sequence before they were listed.
    pub(crate) async fn subjects(&self, stream: u16, filter: &str) -> Result<(u64, Vec<(String, u64)>), NoAnswer> {
        #[derive(Serialize)]
        struct Question<'a> {
            subjects_filter: &'a str,
            offset: usize,
        }
        let mut all = Vec::new();
        let mut last = None;
        loop {
            let question = Question { subjects_filter: filter, offset: all.len() };
            let info = self.info(stream, &question).await?;
            let last = *last.get_or_insert(info.state.last_seq);
            let page = info.state.subjects.unwrap_or_default();
            let is_end = page.is_empty() || all.len() + page.len() >= info.total;
            all.extend(page);
            if is_end {
                return Ok((last, all));
            }
        }
    }

    /// How many bytes a stream has.
    pub(crate) async fn bytes(&self, stream: u16) -> Result<u64, NoAnswer> {
        Ok(self.info(stream, &Nothing {}).await?.state.bytes)
    }

    /// What the leader of a stream says of it.
    async fn info(&self, stream: u16, question: &impl Serialize) -> Result<Info, NoAnswer> {
        let info: Info = self.api("STREAM.INFO", stream, question).await?;
        match &info.cluster {
            Some(cluster) if !is_led(cluster.leader.as_deref()) => Err(NoAnswer("the stream has no leader".to_owned())),
            _ => Ok(info),
        }
    }

    /// Whether there is a connection. Without one the client keeps what it is told, and says all of it once there is one.
    pub(crate) fn is_connected(&self) -> bool {
        is_connected(&self.client)
    }

    /// Asks the leader of a stream.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        verb: &str,
        stream: u16,
        question: &impl Serialize,
    ) -> Result<T, NoAnswer> {
        self.ask_api(verb, stream, question).await?.map_err(|error| NoAnswer(error.to_string()))
    }

    /// The same; what the leader refuses is an answer, too.
    async fn ask_api<T: DeserializeOwned>(
        &self,
        verb: &str,
        stream: u16,
        question: &impl Serialize,
    ) -> Result<Result<T, ApiError>, NoAnswer> {
        #[derive(Deserialize)]
        struct MaybeError {
            error: Option<ApiError>,
        }
        let payload = serde_json::to_vec(question).map_err(|error| NoAnswer(error.to_string()))?;
        let request = Request::new().payload(payload.into());
        let answer = self.ask(format!("$JS.API.{verb}.{}", self.names.stream(stream)), request).await?;
        let unfit = |error: serde_json::Error| NoAnswer(format!("an answer that is none: {error}"));
        if let Some(error) = serde_json::from_slice::<MaybeError>(&answer.payload).map_err(unfit)?.error {
            return Ok(Err(error));
        }
        serde_json::from_slice(&answer.payload).map(Ok).map_err(unfit)
    }

    async fn ask(&self, subject: String, request: Request) -> Result<async_nats::Message, NoAnswer> {
        let request = answered_apart(&self.client, request.timeout(None));
        let answer = in_time(self.timeout, self.client.send_request(subject, request)).await?;
        answer.map_err(|error| NoAnswer(on_one_line(&error)))
    }
}

fn header<'a>(answer: &'a async_nats::Message, name: &str) -> Option<&'a str> {
    answer.headers.as_ref()?.get(name).map(|value| value.as_str())
}

fn number(answer: &async_nats::Message, name: &str) -> Option<u64> {
    header(answer, name)?.parse().ok()
}

fn stored(answer: &async_nats::Message) -> Result<Stored, NoAnswer> {
    match (header(answer, "Nats-Subject"), number(answer, "Nats-Sequence")) {
        (Some(subject), Some(position)) => {
            Ok(Stored { subject: subject.to_owned(), position, payload: answer.payload.clone() })
        }
        _ => Err(NoAnswer("an answer that is none: no subject or no sequence".to_owned())),
    }
}

fn refusal(status: StatusCode, answer: &async_nats::Message) -> String {
    let description = answer.description.as_deref().unwrap_or_default();
    if status == StatusCode::NO_RESPONDERS {
        "no server answers for the stream".to_owned()
    } else {
        format!("{} {description}", status.as_u16())
    }
}
