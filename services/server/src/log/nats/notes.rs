//! Notes in a key-value bucket, `<prefix>-notes`. A note goes by itself when its time is over.
//!
//! A note takes the place of the one that was read before, and of no other. So one that was given up and is stored all the same, because it
//! waited for a connection, undoes nothing that came after it.
//!
//! In a key letters, digits, `-` and `_` of a note's own key stand for themselves and every other byte is `=` and two hexadecimal digits.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_TTL};
use async_nats::jetstream::{self, kv, stream::LastRawMessageErrorKind};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::fence::Patience;
use super::link::{Link, Published, in_time};
use super::subject::escape;
use super::{Config, OpenError, bucket};
use crate::log::notes::{Following, Kept, Note, NoteError, Notes};
use crate::log::now_ms;

/// How long it is remembered that a note was taken away. Whoever has followed without a break for less has seen it.
const REMOVED: Duration = Duration::from_secs(24 * 3_600);
/// Beyond the time of a note, so that clocks that differ do no harm.
const LONGER: Duration = Duration::from_secs(60);
/// How long the notes that are there may take to arrive.
const ARRIVING: Duration = Duration::from_secs(10);

/// The notes of a deployment.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    link: Link,
    name: String,
}

impl Bucket {
    pub(super) async fn open(link: &Link, config: &Config) -> Result<Self, OpenError> {
        let name = format!("{}-notes", config.prefix);
        let made = bucket::ensure(&link.client, config, &name, "what moderators of tertulia hold", REMOVED).await;
        made.map_err(|cause| OpenError::Bucket { bucket: name.clone(), cause })?;
        Ok(Self { link: link.clone(), name })
    }

    async fn keep(self, note: Note) -> Result<u64, NoteError> {
        let deadline = Instant::now() + self.link.timeout;
        let mut patience = Patience::new();
        loop {
            let last = self.last(&note.key).await?;
            let reason = match self.put(&note, last).await? {
                Published::Stored(position) => return Ok(position),
                // Somebody else kept one of the same key, or does so now.
                Published::Fenced | Published::Busy | Published::Incomplete(_) => {
                    "others keep notes of the same key".to_owned()
                }
                Published::Refused(reason) | Published::Full(reason) | Published::Unknown(reason) => {
                    return Err(failed(reason));
                }
            };
            if Instant::now() > deadline {
                return Err(failed(reason));
            }
            patience.wait().await;
        }
    }

    fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{}", self.name, escape(key.as_bytes()))
    }

    /// Where the last note of a key is, or what marks its end, as the leader has it; 0 if there is none.
    pub(super) async fn last(&self, key: &str) -> Result<u64, NoteError> {
        let context = jetstream::ContextBuilder::new().timeout(self.link.timeout).build(self.link.client.clone());
        let stream = context.get_stream_no_info(format!("KV_{}", self.name)).await.map_err(failed)?;
        let subject = self.subject(key);
        match in_time(self.link.timeout, stream.get_last_raw_message_by_subject(&subject)).await.map_err(failed)? {
            Ok(last) => Ok(last.sequence),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(failed(error)),
        }
    }

    /// Keeps a note if `last` is the last of its key.
    pub(super) async fn put(&self, note: &Note, last: u64) -> Result<Published, NoteError> {
        let left = Duration::from_millis(note.until.saturating_sub(now_ms()));
        let life = if left.is_zero() { REMOVED } else { left + LONGER };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", life.as_secs()));
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
        let payload = serde_json::to_vec(note).map_err(failed)?;
        Ok(self.link.store_by_itself(&self.subject(&note.key), headers, payload.into()).await)
    }

    async fn follow(self) -> Result<Following, NoteError> {
        let context = jetstream::ContextBuilder::new().timeout(self.link.timeout).build(self.link.client.clone());
        let store = context.get_key_value(&self.name).await.map_err(failed)?;
        let is_empty = store.status().await.map_err(failed)?.values() == 0;
        let mut watch = store.watch_with_history(">").await.map_err(failed)?;
        let mut notes = Vec::new();
        if !is_empty {
            let arriving = async {
                while let Some(entry) = watch.next().await {
                    let entry = entry.map_err(failed)?;
                    let is_last = entry.delta == 0;
                    notes.extend(note(&entry));
                    if is_last {
                        return Ok(());
                    }
                }
                Err(failed("the watch ended"))
            };
            tokio::time::timeout(ARRIVING, arriving).await.map_err(failed)??;
        }
        // After an error something may have been missed, so that ends it.
        let following = watch.take_while(|entry| std::future::ready(entry.is_ok()));
        let following = following.filter_map(|entry| std::future::ready(entry.ok().as_ref().and_then(note)));
        Ok((notes, following.boxed()))
    }
}

/// What an entry says; nothing if it only marks that another one is gone, whose time is over.
fn note(entry: &kv::Entry) -> Option<Kept> {
    if entry.operation != kv::Operation::Put {
        return None;
    }
    let note = serde_json::from_slice(&entry.value);
    let note = note.inspect_err(|error| tracing::warn!(key = entry.key, %error, "a note that is none")).ok()?;
    Some(Kept { change: entry.revision, note })
}

fn failed(error: impl ToString) -> NoteError {
    NoteError { reason: error.to_string() }
}

impl Notes for Bucket {
    fn keep(&self, note: Note) -> BoxFuture<'static, Result<u64, NoteError>> {
        Box::pin(self.clone().keep(note))
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, NoteError>> {
        Box::pin(self.clone().follow())
    }
}
