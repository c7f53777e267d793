//! Notes in a key-value bucket, `<prefix>-notes`. A note goes by itself when its time is over.
//!
//! In a key letters, digits, `-` and `_` of a note's own key stand for themselves and every other byte is `=` and two hexadecimal digits.

use std::time::Duration;

use async_nats::header::NATS_MESSAGE_TTL;
use async_nats::jetstream::{self, kv};
use async_nats::{HeaderMap, Request};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use super::ack::Ack;
use super::link::Link;
use super::subject::escape;
use super::{Config, OpenError, bucket};
use crate::log::notes::{Following, Note, NoteError, Notes};
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

    async fn keep(self, note: Note) -> Result<(), NoteError> {
        let left = Duration::from_millis(note.until.saturating_sub(now_ms()));
        let life = if left.is_zero() { REMOVED } else { left + LONGER };
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_TTL, format!("{}s", life.as_secs()));
        let payload = serde_json::to_vec(&note).map_err(failed)?;
        let request = Request::new().headers(headers).payload(payload.into()).timeout(Some(self.link.timeout));
        let subject = format!("$KV.{}.{}", self.name, escape(note.key.as_bytes()));
        let answer = self.link.client.send_request(subject, request).await.map_err(failed)?;
        match serde_json::from_slice::<Ack>(&answer.payload).map_err(failed)?.error {
            None => Ok(()),
            Some(error) => Err(failed(error)),
        }
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
        let now = now_ms();
        notes.retain(|note| note.until > now);
        // After an error something may have been missed, so that ends it.
        let following = watch.take_while(|entry| std::future::ready(entry.is_ok()));
        let following = following.filter_map(|entry| std::future::ready(entry.ok().as_ref().and_then(note)));
        Ok((notes, following.boxed()))
    }
}

/// What an entry says; nothing if it only marks that another one is gone, whose time is over.
fn note(entry: &kv::Entry) -> Option<Note> {
    if entry.operation != kv::Operation::Put {
        return None;
    }
    let note = serde_json::from_slice(&entry.value);
    note.inspect_err(|error| tracing::warn!(key = entry.key, %error, "a note that is none")).ok()
}

fn failed(error: impl ToString) -> NoteError {
    NoteError { reason: error.to_string() }
}

impl Notes for Bucket {
    fn keep(&self, note: Note) -> BoxFuture<'static, Result<(), NoteError>> {
        Box::pin(self.clone().keep(note))
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, NoteError>> {
        Box::pin(self.clone().follow())
    }
}
